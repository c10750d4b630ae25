// Random numbers, one instruction set. See mckean/random.hpp for the layout.
#include "random_isa.hpp"

#include "stream_simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

void words(uint32_t* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter) {
  for (int64_t i = 0; i < n; ++i) {
    uint64_t index = first + static_cast<uint64_t>(i), block = index / 4;
    Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key,
                                               counter, Tag::uniform);
    out[i] = r.w[index % 4];
  }
}

template <class T, Tag tag>
void fill(T* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter) {
  stream_range_into<T, tag>(out, first, n, key, counter);
}

template <class T>
void step_noise(T* const* outs, const T* scales, int count, int64_t first, int64_t last, uint64_t seed,
                uint64_t counter) {
  using V = typename VectorOf<T>::type;
  using W = typename Ops<V>::W;
  constexpr int n = Ops<V>::N;
  for (int64_t i = first; i < last; i += n) {
    W lo = iota_words<W>(static_cast<uint32_t>(i)), hi = WordOps<W>::constant(static_cast<uint32_t>(i >> 32));
    Words<W> r = stream_words<W>(lo, hi, seed, counter, Tag::step_noise);
    NormalPair<V> p = normal_pair<V>(r.w[0], r.w[1]);
    V z[3] = {p.z0, p.z1, p.z1};
    if (count == 3) z[2] = normal_pair<V>(r.w[2], r.w[3]).z0;
    int m = static_cast<int>(last - i < n ? last - i : n);
    for (int c = 0; c < count; ++c) store_first<V>(outs[c] + i, z[c] * Ops<V>::constant(scales[c]), m);
  }
}

}  // namespace

extern const RandomTable random_table;
const RandomTable random_table = {words,
                                  fill<float, Tag::uniform>,
                                  fill<double, Tag::uniform>,
                                  fill<float, Tag::normal>,
                                  fill<double, Tag::normal>,
                                  step_noise<float>,
                                  step_noise<double>};

}  // namespace MK_ISA
}  // namespace mk
