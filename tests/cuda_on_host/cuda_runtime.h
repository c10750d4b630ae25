// Stands in for CUDA's header of this name (see cuda_runtime_api.h): the threads of a block run in turns as fibers, from one
// __syncthreads to the next, blocks one after the other and last one first. No warp functions, no atomics, no <<<...>>>.
#pragma once

#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace pretended {

constexpr unsigned max_threads = 1024;
constexpr size_t stack_bytes = 1 << 16;

struct Fibers {
  std::unique_ptr<char[]> stacks{new char[max_threads * stack_bytes]};
  std::vector<ucontext_t> contexts{max_threads};
  std::vector<char> done = std::vector<char>(max_threads);
  ucontext_t scheduler;
  unsigned current = 0;
  std::function<void()> kernel;
};
inline thread_local std::unique_ptr<Fibers> fibers;
inline std::mutex one_launch;  // __shared__ memory is static here

inline void run_thread() {
  fibers->kernel();
  fibers->done[fibers->current] = 1;
}
inline void yield() { swapcontext(&fibers->contexts[fibers->current], &fibers->scheduler); }

inline void run_block(unsigned threads) {
  Fibers& f = *fibers;
  for (unsigned t = 0; t < threads; ++t) {
    f.done[t] = 0;
    getcontext(&f.contexts[t]);
    f.contexts[t].uc_stack.ss_sp = f.stacks.get() + t * stack_bytes;
    f.contexts[t].uc_stack.ss_size = stack_bytes;
    f.contexts[t].uc_link = &f.scheduler;
    makecontext(&f.contexts[t], run_thread, 0);
  }
  for (bool busy = true; busy;) {
    busy = false;
    for (unsigned t = 0; t < threads; ++t) {
      if (f.done[t]) continue;
      f.current = t;
      threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
      swapcontext(&f.scheduler, &f.contexts[t]);
      busy = busy || !f.done[t];
    }
  }
}

}  // namespace pretended

inline void __syncthreads() { pretended::yield(); }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  unsigned blocks = gridDim.x * gridDim.y * gridDim.z, threads = blockDim.x * blockDim.y * blockDim.z;
  if (blocks == 0 || threads == 0 || threads > pretended::max_threads) return cudaErrorInvalidValue;
  std::lock_guard<std::mutex> lock(pretended::one_launch);
  if (!pretended::fibers) pretended::fibers.reset(new pretended::Fibers);  // kept for the thread's next launch
  pretended::fibers->kernel = [&] { kernel(arguments...); };
  for (unsigned b = blocks; b-- > 0;) {
    blockIdx = dim3(b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y);
    pretended::run_block(threads);
  }
  return cudaSuccess;
}
