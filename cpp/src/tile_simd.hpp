// What the loops over tiles share.
#pragma once

#include "simd.hpp"

namespace mk {

// The sum of a register's lanes, pairwise.
template <class V>
MK_HD double fold(V v) {
  using T = typename Ops<V>::T;
  constexpr int N = Ops<V>::N;
  T lane[N];
  store<V>(lane, v);
  for (int step = N / 2; step >= 1; step /= 2)
    for (int l = 0; l < step; ++l) lane[l] = lane[l] + lane[l + step];
  return static_cast<double>(lane[0]);
}

}  // namespace mk
