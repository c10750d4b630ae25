// Random words -> uniforms and normals, and where in the counter space the i-th number of a stream lives.
// Normals by G. Box, M. Muller, "A note on the generation of random normal deviates" (1958), with the elementary functions
// of math.hpp.
#pragma once

#include "mckean/philox.hpp"

namespace mk {

// Two independent standard normals from a radius uniform u in (0, 1] and an angle word, whose top two bits give the
// quadrant and the rest the angle in [-pi/4, pi/4).
template <class V>
struct NormalPair {
  V z0, z1;
};

template <class V>
MK_HD V flip_sign_if_bit1(V x, typename Ops<V>::W w) {
  using O = Ops<V>;
  constexpr int shift = 8 * sizeof(typename O::T) - 2;
  typename O::U sign = (O::widen(w) & 2u) << shift;
  return O::from_bits(O::bits(x) ^ sign);
}

// quadrant: only the two low bits count; phi in [-pi/4, pi/4]
template <class V>
MK_HD NormalPair<V> box_muller(V u, typename Ops<V>::W quadrant, V phi) {
  using O = Ops<V>;
  using T = typename O::T;
  V rho = O::sqrt(O::constant(T(-2)) * log_positive<V>(u));
  V q = phi * phi;
  V sn = phi + phi * (q * Series<V, T>::sin_tail(q));
  V cs = O::constant(T(1)) + q * Series<V, T>::cos_tail(q);
  auto odd = (quadrant & 1u) != 0u;
  V c = odd ? sn : cs;
  V s = odd ? cs : sn;
  return {rho * flip_sign_if_bit1<V>(c, quadrant + 1u), rho * flip_sign_if_bit1<V>(s, quadrant)};
}

// One radius word a and one angle word b; |z| <= 6.76. float and double see the same uniforms, so a float path is the
// double path rounded.
template <class V>
MK_HD NormalPair<V> normal_pair(typename Ops<V>::W a, typename Ops<V>::W b) {
  using O = Ops<V>;
  using T = typename O::T;
  V u = (O::from_small(O::widen((a >> 16) & 0xffffu)) * O::constant(T(65536)) +
         (O::from_small(O::widen(a & 0xffffu)) + O::constant(T(0.5)))) *
        O::constant(T(2.3283064365386963e-10));  // 2^-32
  typename O::W shifted = b + 0x20000000u;
  V r = O::from_centred(O::widen(shifted & 0x3fffffffu));
  V phi = r * O::constant(T(1.4629180792671596e-09));  // (pi/2) 2^-30
  return box_muller<V>(u, (shifted >> 30) & 3u, phi);
}

// Two words each for radius and angle; |z| <= 9.49 and the tail is right far beyond 8 sigma. Double only.
template <class V>
MK_HD NormalPair<V> normal_pair_wide(typename Ops<V>::W a_hi, typename Ops<V>::W a_lo, typename Ops<V>::W b_hi,
                                     typename Ops<V>::W b_lo) {
  using O = Ops<V>;
  using T = typename O::T;
  V two32 = O::constant(T(4294967296.0));
  V u = (O::from_word(a_hi) * two32 + (O::from_word(a_lo) + O::constant(T(0.5)))) *
        O::constant(T(5.421010862427522e-20));  // 2^-64
  typename O::W shifted = b_hi + 0x20000000u;
  V r = O::from_centred(O::widen(shifted & 0x3fffffffu)) +
        (O::from_word(b_lo) + O::constant(T(0.5))) * O::constant(T(2.3283064365386963e-10));
  V phi = r * O::constant(T(1.4629180792671596e-09));
  return box_muller<V>(u, (shifted >> 30) & 3u, phi);
}

// The i-th number of a stream. A block of four words serves 4 floats or 2 doubles; the numbers of 16 neighbouring
// blocks are interleaved so that registers of any width up to 16 lanes store consecutive numbers.
constexpr int stream_lanes = 16;
template <class T>
constexpr int per_block = sizeof(T) == 4 ? 4 : 2;
template <class T>
constexpr int stream_group = stream_lanes * per_block<T>;

// out[j] is number (group, j, lane) = group * stream_group + j * 16 + lane.
template <class V>
struct BlockOf {
  V x[4];
};

template <class W>
MK_HD Words<W> stream_words(W block_lo, W block_hi, uint64_t key, uint64_t counter, Tag tag) {
  using O = WordOps<W>;
  return philox<W>(block_lo, block_hi, O::constant(static_cast<uint32_t>(counter)),
                   O::constant(tagged(counter >> 32, tag)), static_cast<uint32_t>(key),
                   static_cast<uint32_t>(key >> 32));
}

template <class V, class T>
struct StreamNumbers;
template <class V>
struct StreamNumbers<V, float> {
  using W = typename Ops<V>::W;
  static MK_HD BlockOf<V> normals(Words<W> r) {
    NormalPair<V> p = normal_pair<V>(r.w[0], r.w[1]), q = normal_pair<V>(r.w[2], r.w[3]);
    return {{p.z0, p.z1, q.z0, q.z1}};
  }
  static MK_HD BlockOf<V> uniforms(Words<W> r) {  // [0, 1), 24 bits
    BlockOf<V> out;
    for (int j = 0; j < 4; ++j)
      out.x[j] = Ops<V>::from_small(Ops<V>::widen(r.w[j] >> 8)) * Ops<V>::constant(5.9604644775390625e-08f);
    return out;
  }
};
template <class V>
struct StreamNumbers<V, double> {
  using W = typename Ops<V>::W;
  static MK_HD BlockOf<V> normals(Words<W> r) {
    NormalPair<V> p = normal_pair_wide<V>(r.w[0], r.w[1], r.w[2], r.w[3]);
    return {{p.z0, p.z1, p.z0, p.z1}};
  }
  static MK_HD BlockOf<V> uniforms(Words<W> r) {  // [0, 1), 53 bits
    BlockOf<V> out;
    for (int j = 0; j < 2; ++j)
      out.x[j] = (Ops<V>::from_word(r.w[2 * j]) * Ops<V>::constant(2097152.0) +
                  Ops<V>::from_small(Ops<V>::widen((r.w[2 * j + 1] >> 11) & 0x1fffffu))) *
                 Ops<V>::constant(1.1102230246251565e-16);  // 2^-53
    out.x[2] = out.x[0];
    out.x[3] = out.x[1];
    return out;
  }
};

// The same, one number at a time: what a CUDA thread or a ragged edge asks for.
template <class T>
MK_HD T stream_number(uint64_t index, uint64_t key, uint64_t counter, Tag tag) {
  uint64_t group = index / stream_group<T>, within = index % stream_group<T>;
  uint64_t block = group * stream_lanes + within % stream_lanes;
  Words<uint32_t> r =
      stream_words<uint32_t>(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key, counter, tag);
  BlockOf<T> b = tag == Tag::normal ? StreamNumbers<T, T>::normals(r) : StreamNumbers<T, T>::uniforms(r);
  int j = static_cast<int>(within / stream_lanes);
  return j == 0 ? b.x[0] : j == 1 ? b.x[1] : j == 2 ? b.x[2] : b.x[3];
}

}  // namespace mk
