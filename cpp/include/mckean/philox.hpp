// Philox4x32-10: a counter-based generator. Four 32-bit words per (counter, key), a pure function.
// J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11, doi:10.1145/2063384.2063405
#pragma once

#include "mckean/math.hpp"

namespace mk {

template <class W>
struct Words {
  W w[4];
};

template <class W>
MK_HD Words<W> philox(W c0, W c1, W c2, W c3, uint32_t k0, uint32_t k1) {
  using O = WordOps<W>;
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    W hi0, lo0, hi1, lo1;
    O::multiply(c0, 0xD2511F53u, hi0, lo0);
    O::multiply(c2, 0xCD9E8D57u, hi1, lo1);
    c0 = hi1 ^ c1 ^ O::constant(k0);
    c1 = lo1;
    c2 = hi0 ^ c3 ^ O::constant(k1);
    c3 = lo0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The top four bits of the last counter word say what a draw is for, so that users of one seed never meet.
enum class Tag : uint32_t {
  tree_root = 0,
  tree_node = 1,
  tree_leaf = 2,
  tree_past = 3,  // stationary start of fractional Brownian motion
  uniform = 4,
  normal = 5,
  stream = 6,
  step_noise = 7,  // W, H, K of one step without a tree
};

MK_HD uint32_t tagged(uint64_t high_word, Tag tag) {
  return static_cast<uint32_t>(high_word) | (static_cast<uint32_t>(tag) << 28);
}

// The key of stream s of a seed is itself a draw, so streams are as unrelated as seeds are.
MK_HD uint64_t stream_key(uint64_t seed, uint64_t stream) {
  Words<uint32_t> r =
      philox<uint32_t>(static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32), 0u, tagged(0, Tag::stream),
                       static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return static_cast<uint64_t>(r.w[0]) | (static_cast<uint64_t>(r.w[1]) << 32);
}

}  // namespace mk
