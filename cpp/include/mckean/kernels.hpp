// Kernels of two points: values, derivatives and logarithms, once for CPU and CUDA. V: see math.hpp.
//
// A radial kernel is F(s) of s = sum_a g_a delta_a^2, where g is the metric (1 / bandwidth^2 per dimension) or 1:
//   gradient in x:  slope * (g delta),  slope = 2 F'(s)
//   Stein kernel:   F sx.sy - slope (sx - sy).(g delta) - slope sum(g) - curve sum(g^2 delta^2),  curve = 4 F''(s)
// A product kernel is F(t) of t = x.y:
//   gradient in x:  slope * y,  slope = F'(t)
//   Stein kernel:   F sx.sy + slope (sx.x + sy.y + d) + curve x.y,  curve = F''(t)
// (Liu, Lee, Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests".)
#pragma once

#include "mckean/math.hpp"

namespace mk {

enum class KernelKind : int {
  gaussian,      // exp(-u / 2)              u = offset + scale s in all radial kinds
  laplace,       // exp(-sqrt u)
  matern32,      // (1 + a) exp(-a), a = sqrt(3 u)
  matern52,      // (1 + a + a^2 / 3) exp(-a), a = sqrt(5 u)
  inverse_sqrt,  // u^(-1/2)
  square_root,   // u^(1/2)
  reciprocal,    // 1 / u
  power,         // u^exponent
  logarithm,     // -log(u) / 2
  polynomial,    // u^exponent, u = offset + scale x.y, a whole exponent >= 1
  dot,           // exp(offset + scale x.y)
  sinc,          // prod_a sin(z_a) / z_a, z = scale delta
};
constexpr int n_map_kinds = 11;  // all but sinc, which is no function of one number

struct KernelTerm {
  KernelKind kind;
  double coefficient, scale, offset, exponent;
  int metric;  // row of the metrics, or -1: the plain distance
};

MK_HD bool is_radial(KernelKind kind) { return kind <= KernelKind::logarithm; }
// Infinite, or not differentiable, where two points coincide: then an error of the distance is not harmless there.
MK_HD bool is_rough(const KernelTerm& t) {
  return t.kind == KernelKind::laplace || t.kind == KernelKind::matern32 ||
         (t.offset == 0.0 && t.kind >= KernelKind::inverse_sqrt && t.kind <= KernelKind::logarithm);
}
MK_HD bool is_singular(const KernelTerm& t) {
  return t.offset == 0.0 && (t.kind == KernelKind::logarithm || t.kind == KernelKind::inverse_sqrt ||
                             t.kind == KernelKind::reciprocal || (t.kind == KernelKind::power && t.exponent < 0.0));
}

// What the loops read of a term, in the type they work in.
template <class T>
struct KernelConstants {
  T coefficient, scale, offset, exponent;
  T rate;  // Gaussian: the exponent's factor of s, base 2; Laplace: that of sqrt(s), base 2; Matern: base e, without sign
  T slope, curve;
  T log_coefficient;  // base 2
  int degree;
};

template <class T>
inline KernelConstants<T> kernel_constants(const KernelTerm& t) {
  constexpr double log2_e = 1.44269504088896340736;
  double rate = 0.0, slope = 0.0, curve = 0.0;
  switch (t.kind) {
    case KernelKind::gaussian:
      rate = -0.5 * log2_e * t.scale;
      slope = -t.scale;
      curve = t.scale * t.scale;
      break;
    case KernelKind::laplace:
      rate = -log2_e * std::sqrt(t.scale);
      slope = -std::sqrt(t.scale);
      break;
    case KernelKind::matern32:
      rate = std::sqrt(3.0 * t.scale);
      slope = -3.0 * t.scale;
      curve = rate * rate * rate;
      break;
    case KernelKind::matern52:
      rate = std::sqrt(5.0 * t.scale);
      slope = -5.0 / 3.0 * t.scale;
      curve = rate * rate * rate * rate / 3.0;
      break;
    case KernelKind::logarithm:
      slope = -t.scale;
      curve = 2.0 * t.scale * t.scale;
      break;
    case KernelKind::polynomial:
      slope = t.exponent * t.scale;
      curve = t.exponent * (t.exponent - 1.0) * t.scale * t.scale;
      break;
    case KernelKind::dot:
      slope = t.scale;
      curve = t.scale * t.scale;
      break;
    default:  // powers
      slope = 2.0 * t.exponent * t.scale;
      curve = 4.0 * t.exponent * (t.exponent - 1.0) * t.scale * t.scale;
  }
  double amount = t.coefficient < 0.0 ? -t.coefficient : t.coefficient;
  return {static_cast<T>(t.coefficient), static_cast<T>(t.scale),
          static_cast<T>(t.offset),      static_cast<T>(t.exponent),
          static_cast<T>(rate),          static_cast<T>(slope),
          static_cast<T>(curve),         static_cast<T>(amount > 0.0 ? std::log2(amount) : 0.0),
          static_cast<int>(t.exponent)};
}

// ---- exponentials ---------------------------------------------------------------------------------------------------

// 2^r for |r| <= 1/2, minimax in relative error: 8e-8 and 1.5e-16. Exact at 0.
template <class V>
MK_HD V exp2_polynomial(V r, float) {
  return horner(r, 1.0f, 0.6931471824645996f, 0.24022646248340607f, 0.05550328642129898f, 0.009618489071726799f,
                0.0013399930903688073f, 0.0001534581242594868f);
}
template <class V>
MK_HD V exp2_polynomial(V r, double) {
  return horner(r, 1.0, 0.6931471805599453, 0.24022650695910158, 0.05550410866481989, 0.009618129107587862,
                0.0013333558146794344, 0.00015403530463042986, 1.5252733488082786e-05, 1.321543285099565e-06,
                1.017819809063954e-07, 7.074143136685289e-09, 4.4353565729015135e-10);
}

// 2^x for x <= bias of the format; 0 where the result would be below the normal numbers.
template <class V>
MK_HD V exp2_small(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  using F = Format<T>;
  // Adding `magic` leaves round(x) + bias in the low bits, ready to become an exponent; at -bias that makes a zero.
  const T magic = F::round_magic + T(F::bias);
  x = O::max(x, O::constant(T(-F::bias)));
  V t = x + O::constant(magic);
  V n = t - O::constant(magic);
  V p = exp2_polynomial(x - n, T(0));
  return p * O::from_bits(O::bits(t) << F::mantissa);
}

// e^x for any x, infinite above the range.
template <class V>
MK_HD V exp_any(V x) {
  using O = Ops<V>;
  using T = typename O::T;
  V y = exp_clamped<V>(x);
  V huge = O::constant(static_cast<T>(__builtin_inff()));
  return x > O::constant(Format<T>::exp_max) ? huge : y;
}

template <class V>
MK_HD V exp_negative(V x) {  // e^-x for x >= 0
  return exp2_small<V>(x * Ops<V>::constant(static_cast<typename Ops<V>::T>(-1.44269504088896340736)));
}

// Squared distances below this count as 0: a few times the least normal number, so that no step on the way is denormal.
template <class T>
MK_HD constexpr T least_square() {
  return sizeof(T) == 4 ? static_cast<T>(9.4e-38) : static_cast<T>(1.8e-307);
}

template <class V>
MK_HD V whole_power(V u, int degree) {
  using O = Ops<V>;
  V result = O::constant(typename O::T(1));
  for (; degree > 0; degree >>= 1) {
    if (degree & 1) result = result * u;
    u = u * u;
  }
  return result;
}

// ---- kinds ----------------------------------------------------------------------------------------------------------
// value(s): F without its coefficient. raw(s, value, slope, curve): with slope and curve but for the factors c.slope and
// c.curve, and 0 where they would be infinite or have no limit; all(): with these factors. log2(s): log F in base 2, of
// positive kinds.

template <class V>
using Constants = KernelConstants<typename Ops<V>::T>;
template <class V>
MK_HD V splat(typename Ops<V>::T x) {
  return Ops<V>::constant(x);
}
template <class V>
MK_HD V zero_where(decltype(V{} < V{}) where, V x) {
  return where ? splat<V>(0) : x;
}

// 1 / sqrt(x) next to an exponential, whose products keep the multipliers busy: in double the divider is then the faster.
template <class V>
MK_HD V inverse_root(V x) {
  return sizeof(typename Ops<V>::T) == 4 ? Ops<V>::rsqrt(x) : splat<V>(1) / Ops<V>::sqrt(x);
}

template <class K>
struct WithFactors {
  template <class V>
  static MK_HD void all(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    K::template raw<V>(s, c, f, slope, curve);
    slope = slope * splat<V>(c.slope);
    curve = curve * splat<V>(c.curve);
  }
};

template <KernelKind kind>
struct Kernel;

template <>
struct Kernel<KernelKind::gaussian> : WithFactors<Kernel<KernelKind::gaussian>> {
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    return exp2_small<V>(s * splat<V>(c.rate));
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    f = value<V>(s, c);
    slope = curve = f;
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>& c) {
    return s * splat<V>(c.rate);
  }
};

template <>
struct Kernel<KernelKind::laplace> : WithFactors<Kernel<KernelKind::laplace>> {
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    return exp2_small<V>(Ops<V>::sqrt(s) * splat<V>(c.rate));
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    V least = splat<V>(least_square<typename Ops<V>::T>());
    V r = zero_where<V>(s < least, inverse_root<V>(Ops<V>::max(s, least)));  // 1 / |delta|
    f = exp2_small<V>(s * r * splat<V>(c.rate));
    slope = f * r;
    curve = splat<V>(0);
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>& c) {
    return Ops<V>::sqrt(s) * splat<V>(c.rate);
  }
};

template <>
struct Kernel<KernelKind::matern32> : WithFactors<Kernel<KernelKind::matern32>> {
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    V a = Ops<V>::sqrt(s) * splat<V>(c.rate);
    return (splat<V>(1) + a) * exp_negative<V>(a);
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    using T = typename Ops<V>::T;
    V least = splat<V>(least_square<T>());
    V r = inverse_root<V>(Ops<V>::max(s, least));
    V a = s * r * splat<V>(c.rate);
    V e = exp_negative<V>(a);
    f = (splat<V>(1) + a) * e;
    slope = e;
    curve = zero_where<V>(s < least, e * r);  // times s it goes to 0
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>& c) {
    V a = Ops<V>::sqrt(s) * splat<V>(c.rate);
    return (log1p_nonnegative<V>(a) - a) * splat<V>(static_cast<typename Ops<V>::T>(1.44269504088896340736));
  }
};

template <>
struct Kernel<KernelKind::matern52> : WithFactors<Kernel<KernelKind::matern52>> {
  template <class V>
  static MK_HD V growth(V a) {
    return a + a * a * splat<V>(static_cast<typename Ops<V>::T>(1.0 / 3.0));
  }
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    V a = Ops<V>::sqrt(s) * splat<V>(c.rate);
    return (splat<V>(1) + growth<V>(a)) * exp_negative<V>(a);
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    V a = Ops<V>::sqrt(s) * splat<V>(c.rate);
    V e = exp_negative<V>(a);
    f = (splat<V>(1) + growth<V>(a)) * e;
    slope = (splat<V>(1) + a) * e;
    curve = e;
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>& c) {
    V a = Ops<V>::sqrt(s) * splat<V>(c.rate);
    return (log1p_nonnegative<V>(growth<V>(a)) - a) * splat<V>(static_cast<typename Ops<V>::T>(1.44269504088896340736));
  }
};

// u^exponent with u^(exponent - 1) and u^(exponent - 2) by division. At u = 0, which only offset = 0 allows: F is its
// limit, the derivatives are taken as 0.
template <KernelKind kind>
struct PowerKernel : WithFactors<PowerKernel<kind>> {
  template <class V>
  static MK_HD V argument(V s, const Constants<V>& c) {
    return splat<V>(c.offset) + s * splat<V>(c.scale);
  }
  // log u, which for offset 1 and a large exponent needs all the digits of u - 1.
  template <class V>
  static MK_HD V log_argument(V s, V u, const Constants<V>& c) {
    return c.offset == 1 ? log1p_nonnegative<V>(s * splat<V>(c.scale)) : log_positive<V>(u);
  }
  template <class V>
  static MK_HD V raised(V s, V u, const Constants<V>& c) {  // u at least least_square
    using O = Ops<V>;
    if (kind == KernelKind::inverse_sqrt) return O::rsqrt(u);
    if (kind == KernelKind::square_root) return sizeof(typename O::T) == 4 ? u * O::rsqrt(u) : O::sqrt(u);
    if (kind == KernelKind::reciprocal) return splat<V>(1) / u;
    return exp_any<V>(log_argument<V>(s, u, c) * splat<V>(c.exponent));
  }
  template <class V>
  static MK_HD V at_zero(const Constants<V>& c) {
    return splat<V>(c.exponent > 0 ? typename Ops<V>::T(0) : static_cast<typename Ops<V>::T>(__builtin_inff()));
  }
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    V least = splat<V>(least_square<typename Ops<V>::T>());
    V u = argument<V>(s, c);
    V f = raised<V>(s, Ops<V>::max(u, least), c);
    return u < least ? at_zero<V>(c) : f;
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    V least = splat<V>(least_square<typename Ops<V>::T>());
    V u = argument<V>(s, c);
    auto at_0 = u < least;
    u = Ops<V>::max(u, least);
    V first, inverse;  // u^(exponent - 1), 1 / u
    if (kind == KernelKind::inverse_sqrt || kind == KernelKind::square_root) {
      V r = Ops<V>::rsqrt(u);
      inverse = r * r;
      f = kind == KernelKind::square_root ? u * r : r;
      first = kind == KernelKind::square_root ? r : r * inverse;
    } else {
      inverse = splat<V>(1) / u;
      f = kind == KernelKind::reciprocal ? inverse : raised<V>(s, u, c);
      first = f * inverse;
    }
    f = at_0 ? at_zero<V>(c) : f;
    slope = zero_where<V>(at_0, first);
    curve = zero_where<V>(at_0, first * inverse);
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>& c) {
    V least = splat<V>(least_square<typename Ops<V>::T>());
    V u = Ops<V>::max(argument<V>(s, c), least);
    return log_argument<V>(s, u, c) * splat<V>(c.exponent * static_cast<typename Ops<V>::T>(1.44269504088896340736));
  }
};
template <>
struct Kernel<KernelKind::inverse_sqrt> : PowerKernel<KernelKind::inverse_sqrt> {};
template <>
struct Kernel<KernelKind::square_root> : PowerKernel<KernelKind::square_root> {};
template <>
struct Kernel<KernelKind::reciprocal> : PowerKernel<KernelKind::reciprocal> {};
template <>
struct Kernel<KernelKind::power> : PowerKernel<KernelKind::power> {};

template <>
struct Kernel<KernelKind::logarithm> : WithFactors<Kernel<KernelKind::logarithm>> {
  template <class V>
  static MK_HD V value(V s, const Constants<V>& c) {
    using T = typename Ops<V>::T;
    V least = splat<V>(least_square<T>());
    V u = splat<V>(c.offset) + s * splat<V>(c.scale);
    V f = log_positive<V>(Ops<V>::max(u, least)) * splat<V>(T(-0.5));
    return u < least ? splat<V>(static_cast<T>(__builtin_inff())) : f;
  }
  template <class V>
  static MK_HD void raw(V s, const Constants<V>& c, V& f, V& slope, V& curve) {
    using T = typename Ops<V>::T;
    V least = splat<V>(least_square<T>());
    V u = splat<V>(c.offset) + s * splat<V>(c.scale);
    auto at_0 = u < least;
    u = Ops<V>::max(u, least);
    V inverse = splat<V>(1) / u;
    f = at_0 ? splat<V>(static_cast<T>(__builtin_inff())) : log_positive<V>(u) * splat<V>(T(-0.5));
    slope = zero_where<V>(at_0, inverse);
    curve = zero_where<V>(at_0, inverse * inverse);
  }
  template <class V>
  static MK_HD V log2(V s, const Constants<V>&) {  // not positive: never asked for
    return s;
  }
};

template <>
struct Kernel<KernelKind::polynomial> : WithFactors<Kernel<KernelKind::polynomial>> {
  template <class V>
  static MK_HD V value(V t, const Constants<V>& c) {
    return whole_power<V>(splat<V>(c.offset) + t * splat<V>(c.scale), c.degree);
  }
  template <class V>
  static MK_HD void raw(V t, const Constants<V>& c, V& f, V& slope, V& curve) {
    V u = splat<V>(c.offset) + t * splat<V>(c.scale);
    V last = c.degree >= 2 ? whole_power<V>(u, c.degree - 2) : splat<V>(0);
    V first = c.degree >= 2 ? last * u : splat<V>(1);
    f = first * u;
    slope = first;
    curve = last;
  }
  template <class V>
  static MK_HD V log2(V t, const Constants<V>&) {  // not positive: never asked for
    return t;
  }
};

template <>
struct Kernel<KernelKind::dot> : WithFactors<Kernel<KernelKind::dot>> {
  template <class V>
  static MK_HD V value(V t, const Constants<V>& c) {
    return exp_any<V>(splat<V>(c.offset) + t * splat<V>(c.scale));
  }
  template <class V>
  static MK_HD void raw(V t, const Constants<V>& c, V& f, V& slope, V& curve) {
    f = value<V>(t, c);
    slope = curve = f;
  }
  template <class V>
  static MK_HD V log2(V t, const Constants<V>& c) {
    return (splat<V>(c.offset) + t * splat<V>(c.scale)) *
           splat<V>(static_cast<typename Ops<V>::T>(1.44269504088896340736));
  }
};

// The Stein kernel from F, slope and curve of its argument: for radial kernels cross = (sx - sy).(g delta), bend =
// sum (g delta)^2, trace = sum g; for products cross = sx.x + sy.y, bend = x.y, trace = d.
template <class V>
MK_HD V stein_value(bool radial, V f, V slope, V curve, V dots, V cross, V bend, typename Ops<V>::T trace) {
  V first = slope * (cross + splat<V>(trace)), second = curve * bend;
  return radial ? f * dots - first - second : f * dots + first + second;
}

// ---- sinc -----------------------------------------------------------------------------------------------------------

// (sin(z) / z - 1) / z^2 and (cos(z) - sin(z) / z) / z^2 in z^2 <= 1: terms (-1)^k z^(2k - 2) / (2k + 1)! and
// (-1)^k 2k z^(2k - 2) / (2k + 1)!.
template <class V>
MK_HD V sinc_series(V q, float) {
  return horner(q, -1.f / 6, 1.f / 120, -1.f / 5040, 1.f / 362880);
}
template <class V>
MK_HD V sinc_series(V q, double) {
  return horner(q, -1. / 6, 1. / 120, -1. / 5040, 1. / 362880, -1. / 39916800, 1. / 6227020800, -1. / 1307674368000,
                1. / 355687428096000);
}
template <class V>
MK_HD V sinc_slope_series(V q, float) {
  return horner(q, -2.f / 6, 4.f / 120, -6.f / 5040, 8.f / 362880);
}
template <class V>
MK_HD V sinc_slope_series(V q, double) {
  return horner(q, -2. / 6, 4. / 120, -6. / 5040, 8. / 362880, -10. / 39916800, 12. / 6227020800, -14. / 1307674368000,
                16. / 355687428096000);
}

// sin(z) / z and its derivative (cos(z) - sin(z) / z) / z: by Taylor series up to |z| = 1, where the quotients cancel; as 0
// beyond the range of the reduction, where 1 / |z| is below the precision of the type.
template <class V>
MK_HD void sinc_pair(V z, V& value, V& slope) {
  using O = Ops<V>;
  using T = typename O::T;
  using F = Format<T>;
  const T largest = sizeof(T) == 4 ? static_cast<T>(4e6) : static_cast<T>(2e15);
  auto far = z * z > splat<V>(largest * largest);
  z = far ? splat<V>(1) : z;
  V t = z * splat<V>(static_cast<T>(0.636619772367581343076)) + splat<V>(F::round_magic);
  V n = t - splat<V>(F::round_magic);  // the nearest multiple of pi / 2, which is taken away in three parts
  V r;
  if (sizeof(T) == 4)
    r = ((z - n * splat<V>(T(1.5703125f))) - n * splat<V>(T(4.837512969970703125e-4f))) -
        n * splat<V>(T(7.54978995489188216e-8f));
  else
    r = ((z - n * splat<V>(static_cast<T>(1.57079632673412561417e+00))) -
         n * splat<V>(static_cast<T>(6.07710050630396597660e-11))) -
        n * splat<V>(static_cast<T>(2.02226624879595063154e-21));
  V q = r * r;
  V sine = r + r * q * Series<V, T>::sin_tail(q);
  V cosine = splat<V>(1) + q * Series<V, T>::cos_tail(q);
  using U = typename O::U;
  U quadrant = O::bits(t);
  // Odd quadrants swap sine and cosine; bit 1 of the quadrant, and of the next one, gives the signs.
  V odd = O::from_small(quadrant & 1u), second = O::from_small((quadrant >> 1) & 1u),
    next = O::from_small(((quadrant + 1u) >> 1) & 1u);
  auto swapped = odd > splat<V>(0);
  V s = (swapped ? cosine : sine) * (splat<V>(1) - second - second);
  V c = (swapped ? sine : cosine) * (splat<V>(1) - next - next);
  V square = z * z;
  auto near = square < splat<V>(T(1));
  V safe = near ? splat<V>(1) : z;
  V ratio = s / safe;
  V near_value = splat<V>(1) + square * sinc_series(square, T(0));
  V near_slope = z * sinc_slope_series(square, T(0));
  value = far ? splat<V>(0) : (near ? near_value : ratio);
  slope = far ? splat<V>(0) : (near ? near_slope : (c - ratio) / safe);
}

}  // namespace mk
