// Stands in for CUDA's header of this name (see cuda_runtime_api.h): a kernel runs as a loop over its threads. Enough for
// kernels whose threads do not talk to each other. At most three blocks run, in no natural order: a grid-stride loop must
// give the same for any grid.
#pragma once

#include <utility>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__

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

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->blockDim.x == 0 || config->blockDim.x > 1024) return cudaErrorInvalidValue;
  gridDim = dim3(config->gridDim.x < 3 ? config->gridDim.x : 3);
  blockDim = config->blockDim;
  for (unsigned b = gridDim.x; b-- > 0;)
    for (unsigned t = 0; t < blockDim.x; ++t) {
      blockIdx.x = b;
      threadIdx.x = t;
      threadIdx.y = threadIdx.z = blockIdx.y = blockIdx.z = 0;
      kernel(arguments...);
    }
  return cudaSuccess;
}
