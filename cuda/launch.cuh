// How kernels are launched here: one thread per item in a grid-stride loop with 64-bit indices, on the caller's stream,
// checked, without synchronisation. A launcher looks like
//
//   void scale(float* x, float c, int64_t n, Queue queue) {
//     if (n == 0) return;                                      // the pointer may be null
//     OnDevice device(x);                                      // the device of the first output
//     launch("scale", scale_kernel, n, queue, x, c, n);
//   }
//   __global__ void scale_kernel(float* x, float c, int64_t n) {
//     for (int64_t i = first_item(); i < n; i += item_stride()) x[i] = c * x[i];
//   }
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "device.hpp"

namespace mk {
namespace cuda {

#ifndef MK_MAX_BLOCKS  // the tests on the host set it to 3, so that grid-stride loops have something to do
#define MK_MAX_BLOCKS 65536
#endif
constexpr int block_threads = 256;
constexpr int64_t max_blocks = MK_MAX_BLOCKS;  // 2^24 threads; beyond, each thread handles several items

// CUDA 13 supports no device below compute capability 7.5, and those all take 32764 bytes of arguments; 4096 also suits
// compilers before 12.1.
constexpr size_t max_argument_bytes = 4096;

inline unsigned grid_size(int64_t items) {
  int64_t blocks = (items - 1) / block_threads + 1;
  return static_cast<unsigned>(blocks < max_blocks ? blocks : max_blocks);
}

__device__ inline int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + static_cast<int64_t>(threadIdx.x);
}
__device__ inline int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// The row of an element; 64-bit division costs several times a 32-bit one.
__device__ inline int64_t row_of(int64_t element, int64_t cols) {
  if (((element | cols) >> 32) == 0) return static_cast<uint32_t>(element) / static_cast<uint32_t>(cols);
  return element / cols;
}

// `error` is what the launch returned; after a <<<...>>> launch, which returns nothing, leave it out.
inline void check_launch(const char* kernel, cudaError_t error = cudaGetLastError()) { check(error, kernel); }

// Runs `kernel` on a grid of its own making, for kernels whose threads share memory. Errors of the launch itself are thrown
// here; what goes wrong while it runs shows at the next call that waits for the stream.
template <class... Parameters, class... Arguments>
void launch_blocks(const char* name, void (*kernel)(Parameters...), dim3 blocks, dim3 threads, Queue queue,
                   Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = as_stream(queue);
  check_launch(name, cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

// Runs a kernel with a grid-stride loop over the items, unless there are none.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t items, Queue queue, Arguments&&... arguments) {
  if (items <= 0) return;
  launch_blocks(name, kernel, dim3(grid_size(items)), dim3(block_threads), queue,
                std::forward<Arguments>(arguments)...);
}

// Memory of the stream for the duration of one call.
template <class T>
class Scratch {
 public:
  Scratch(int64_t n, Queue queue) : memory_(allocate(static_cast<size_t>(n) * sizeof(T), queue)), queue_(queue) {}
  ~Scratch() { release(memory_, queue_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return static_cast<T*>(memory_); }

 private:
  void* memory_;
  Queue queue_;
};

}  // namespace cuda
}  // namespace mk
