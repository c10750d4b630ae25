// The only header that knows compilers. Everything marked MK_HD is compiled by g++/clang++ for the CPU executors and by
// nvcc for the CUDA executors. It is always inlined: an out-of-line copy in an object built for AVX-512 could be the one
// the linker keeps for everybody, and older machines would die by SIGILL.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MK_HD __host__ __device__ __forceinline__
#else
#define MK_HD inline __attribute__((always_inline))
#endif
