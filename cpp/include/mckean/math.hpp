// Elementary functions from + - * / sqrt and integer operations only, so that every instruction set and every GPU gives
// the same bits. V is a value: float or double (CUDA threads, scalar code) or a register of several (cpp/src/simd.hpp
// specialises Ops for those). No fused multiply-add is used, on purpose: machines without it then run at full speed.
//
// Series are Taylor's, cut where the next term is below a tenth of an ulp of the result on the reduced range.
#pragma once

#include <cstring>

#if !defined(__CUDACC__)
#include <cmath>
#endif

#include "mckean/config.hpp"

namespace mk {

// What the maths headers need to know of a value type:
//   T  the scalar;  N  how many;  U  unsigned integers of the same width;  W  a random word (32 bits, in the low half of
//   U where U is wider);  constant, sqrt, bits, from_bits;  from_small: u below 2^31 -> V;  from_centred: u - 2^29 -> V,
//   rounded once;  from_word: 32 bits -> V (double only);  widen: W -> U;  any: is some lane of a comparison true;
//   lane, set_lane: one element;  min, max: of two numbers, b where a is NaN;  rsqrt: 1 / sqrt(x) for normal positive x,
//   error below 4 ulp and not the same bits everywhere.
template <class V>
struct Ops;

template <>
struct Ops<float> {
  using T = float;
  using U = uint32_t;
  using W = uint32_t;
  static constexpr int N = 1;
  static MK_HD float constant(float x) { return x; }
  static MK_HD float lane(float x, int) { return x; }
  static MK_HD void set_lane(float& x, int, float value) { x = value; }
  static MK_HD float sqrt(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#else
    return __builtin_sqrtf(x);
#endif
  }
  static MK_HD float min(float a, float b) { return a < b ? a : b; }
  static MK_HD float max(float a, float b) { return a > b ? a : b; }
  static MK_HD float rsqrt(float x) { return 1.0f / sqrt(x); }
  static MK_HD U bits(float x) {
    U u;
    memcpy(&u, &x, sizeof u);
    return u;
  }
  static MK_HD float from_bits(U u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
  }
  static MK_HD float from_small(U u) { return static_cast<float>(static_cast<int32_t>(u)); }
  static MK_HD float from_centred(U u) { return static_cast<float>(static_cast<int32_t>(u) - 0x20000000); }
  static MK_HD U widen(W w) { return w; }
  static MK_HD bool any(bool b) { return b; }
};

template <>
struct Ops<double> {
  using T = double;
  using U = uint64_t;
  using W = uint32_t;
  static constexpr int N = 1;
  static MK_HD double constant(double x) { return x; }
  static MK_HD double lane(double x, int) { return x; }
  static MK_HD void set_lane(double& x, int, double value) { x = value; }
  static MK_HD double sqrt(double x) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(x);
#else
    return __builtin_sqrt(x);
#endif
  }
  static MK_HD double min(double a, double b) { return a < b ? a : b; }
  static MK_HD double max(double a, double b) { return a > b ? a : b; }
  static MK_HD double rsqrt(double x) { return 1.0 / sqrt(x); }
  static MK_HD U bits(double x) {
    U u;
    memcpy(&u, &x, sizeof u);
    return u;
  }
  static MK_HD double from_bits(U u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
  }
  static MK_HD double from_small(U u) { return static_cast<double>(static_cast<int32_t>(u)); }
  static MK_HD double from_centred(U u) { return static_cast<double>(static_cast<int32_t>(u) - 0x20000000); }
  static MK_HD double from_word(W w) { return static_cast<double>(w); }
  static MK_HD U widen(W w) { return w; }
  static MK_HD bool any(bool b) { return b; }
};

MK_HD void multiply_words(uint32_t a, uint32_t m, uint32_t& hi, uint32_t& lo) {
  uint64_t p = static_cast<uint64_t>(a) * m;
  hi = static_cast<uint32_t>(p >> 32);
  lo = static_cast<uint32_t>(p);
}
template <class W>
struct WordOps {
  static MK_HD void multiply(W a, uint32_t m, W& hi, W& lo) { multiply_words(a, m, hi, lo); }
  static MK_HD W constant(uint32_t x) { return x; }
};

// Bit layout of the two IEEE formats.
template <class T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa = 23, bias = 127;
  static constexpr uint32_t mantissa_mask = 0x007fffffu, sqrt_half = 0x3f3504f3u, one = 0x3f800000u;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float exp_min = -87.0f, exp_max = 88.0f;
};
template <>
struct Format<double> {
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr uint64_t mantissa_mask = 0x000fffffffffffffull, sqrt_half = 0x3fe6a09e667f3bcdull,
                            one = 0x3ff0000000000000ull;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_hi = 0.693147180369123816490, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double exp_min = -708.0, exp_max = 709.0;
};

// Horner's rule on coefficients known at compile time, highest first.
template <class V, class T>
MK_HD V horner(V, T c) {
  return Ops<V>::constant(c);
}
template <class V, class T, class... Rest>
MK_HD V horner(V x, T c0, Rest... rest) {
  return Ops<V>::constant(c0) + x * horner<V>(x, rest...);
}

// atanh(s)/s = 1 + z/3 + z^2/5 + ... with z = s^2 <= 0.0295; tail_ is everything after the 1.
template <class V, class T>
struct Series;
template <class V>
struct Series<V, float> {
  static MK_HD V atanh_tail(V z) { return z * horner(z, 1.f / 3, 1.f / 5, 1.f / 7, 1.f / 9, 1.f / 11); }
  static MK_HD V sin_tail(V q) { return horner(q, -1.f / 6, 1.f / 120, -1.f / 5040, 1.f / 362880); }
  static MK_HD V cos_tail(V q) { return horner(q, -0.5f, 1.f / 24, -1.f / 720, 1.f / 40320, -1.f / 3628800); }
  static MK_HD V exp_tail(V r) { return horner(r, 0.5f, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040); }
};
template <class V>
struct Series<V, double> {
  static MK_HD V atanh_tail(V z) {
    return z * horner(z, 1. / 3, 1. / 5, 1. / 7, 1. / 9, 1. / 11, 1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21);
  }
  static MK_HD V sin_tail(V q) {
    return horner(q, -1. / 6, 1. / 120, -1. / 5040, 1. / 362880, -1. / 39916800, 1. / 6227020800, -1. / 1307674368000,
                  1. / 355687428096000);
  }
  static MK_HD V cos_tail(V q) {
    return horner(q, -0.5, 1. / 24, -1. / 720, 1. / 40320, -1. / 3628800, 1. / 479001600, -1. / 87178291200,
                  1. / 20922789888000, -1. / 6402373705728000);
  }
  static MK_HD V exp_tail(V r) {
    return horner(r, 0.5, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800,
                  1. / 39916800, 1. / 479001600, 1. / 6227020800);
  }
};

// Natural logarithm of a positive, normal, finite x. Error below 1 ulp.
template <class V>
MK_HD V log_positive(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  using F = Format<T>;
  using Uscalar = decltype(F::one);
  const Uscalar offset = F::one - F::sqrt_half;
  typename O::U u = O::bits(x) + offset;
  V e = O::from_small(u >> F::mantissa) - O::constant(T(F::bias));
  V m = O::from_bits((u & F::mantissa_mask) + F::sqrt_half);  // in [sqrt(1/2), sqrt(2))
  V f = m - O::constant(T(1));
  V s = f / (m + O::constant(T(1)));
  V t = Series<V, T>::atanh_tail(s * s);
  // f = 2s + s f exactly, so 2s(1 + t) = f - s (f - 2 t): the large part, f, is exact.
  V small = s * (f - (t + t)) - e * O::constant(F::ln2_lo);
  return e * O::constant(F::ln2_hi) + (f - small);
}

// exp(x) for any x; below exp_min the result is 0 and above exp_max it is the largest that exp_max gives. NaN stays NaN.
// Error below 2 ulp.
template <class V>
MK_HD V exp_clamped(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  using F = Format<T>;
  V lo = O::constant(F::exp_min), hi = O::constant(F::exp_max);
  V c = x < lo ? lo : x;
  c = c > hi ? hi : c;
  V t = c * O::constant(T(1.44269504088896340736)) + O::constant(F::round_magic);
  V n = t - O::constant(F::round_magic);
  V r = (c - n * O::constant(F::ln2_hi)) - n * O::constant(F::ln2_lo);
  V p = O::constant(T(1)) + (r + r * r * Series<V, T>::exp_tail(r));
  typename O::U scale = (O::bits(t) << F::mantissa) + F::one;
  V y = p * O::from_bits(scale);
  return x < lo ? O::constant(T(0)) : y;
}

// 1 / (1 + exp(-x)), without overflow for any finite x.
template <class V>
MK_HD V sigmoid(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  V zero = O::constant(T(0)), one = O::constant(T(1));
  V e = exp_clamped<V>(x < zero ? x : -x);  // exp(-|x|)
  V num = x < zero ? e : one;
  return num / (one + e);
}

// log(1 + x) for x >= 0, without losing the small values.
template <class V>
MK_HD V log1p_nonnegative(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  V zero = O::constant(T(0)), one = O::constant(T(1));
  // log(1 + x) = log(w) * x / (w - 1) with w = fl(1 + x) repairs the rounding of w (Kahan's identity).
  V w = one + x;
  V d = w - one;
  V l = log_positive<V>(w);
  V safe = d == zero ? one : d;
  return d == zero ? x : l * (x / safe);
}

// log(1 + exp(x)), without overflow and without losing the small values.
template <class V>
MK_HD V softplus(V x) {
  using O = Ops<V>;
  V zero = O::constant(typename O::T(0));
  V e = exp_clamped<V>(x < zero ? x : -x);
  return (x > zero ? x : zero) + log1p_nonnegative<V>(e);
}

}  // namespace mk
