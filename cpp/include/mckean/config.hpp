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

namespace mk {

// x > 0
MK_HD int trailing_zeros(uint64_t x) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(x)) - 1;
#else
  return __builtin_ctzll(x);
#endif
}
MK_HD int bit_width(uint64_t x) {
#if defined(__CUDA_ARCH__)
  return 64 - __clzll(static_cast<long long>(x));
#else
  return x == 0 ? 0 : 64 - __builtin_clzll(x);
#endif
}

}  // namespace mk
