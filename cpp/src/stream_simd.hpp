// One group of consecutive numbers of a stream, in registers: shared by the random fills and by the fused stepper.
#pragma once

#include "mckean/random.hpp"
#include "simd.hpp"

namespace mk {

// Bound by Philox: about 18 vector operations a round for 8 blocks of float, 16 for 4 blocks of double (AVX2).
template <class T, Tag tag>
MK_HD void stream_group_into(T* out, uint64_t group, uint64_t key, uint64_t counter) {
  using V = typename VectorOf<T>::type;
  using W = typename Ops<V>::W;
  constexpr int n = Ops<V>::N;
  uint64_t block = group * stream_lanes;
  for (int l = 0; l < stream_lanes; l += n) {
    W lo = iota_words<W>(static_cast<uint32_t>(block) + static_cast<uint32_t>(l));
    W hi = WordOps<W>::constant(static_cast<uint32_t>(block >> 32));
    Words<W> r = stream_words<W>(lo, hi, key, counter, tag);
    BlockOf<V> b = tag == Tag::normal ? StreamNumbers<V, T>::normals(r) : StreamNumbers<V, T>::uniforms(r);
    for (int j = 0; j < per_block<T>; ++j) store<V>(out + j * stream_lanes + l, b.x[j]);
  }
}

template <class T, Tag tag>
MK_HD void stream_range_into(T* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter) {
  constexpr int size = stream_group<T>;
  T part[size];
  for (int64_t done = 0; done < n;) {
    uint64_t index = first + static_cast<uint64_t>(done), group = index / size;
    int skip = static_cast<int>(index % size);
    int take = static_cast<int>(n - done < size - skip ? n - done : size - skip);
    if (take == size) {
      stream_group_into<T, tag>(out + done, group, key, counter);
    } else {
      stream_group_into<T, tag>(part, group, key, counter);
      for (int i = 0; i < take; ++i) out[done + i] = part[skip + i];
    }
    done += take;
  }
}

}  // namespace mk
