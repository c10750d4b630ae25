// Unit vectors to project on: independent Haar-orthogonal frames, normalised normals, scrambled Sobol points. All of them
// are pure functions of (seed, kind, dim, index), computed in double precision whatever the type of the result.
#pragma once

#include "mckean/math.hpp"

namespace mk {

enum class DirectionKind { orthogonal, random, sobol };

// Streams of a seed, one for each kind; the next one is that of the half circle. "direct", as bytes.
constexpr uint64_t direction_stream = 0x64697265637400;
constexpr uint64_t circle_stream = direction_stream + 3;

// The quantile of the standard normal law; u and 1 - u above 2e-11. Relative error near 1e-15.
// M. Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37, 1988.
template <class V>
MK_HD V normal_quantile(V u) {
  using O = Ops<V>;
  const V zero = O::constant(0.0), half = O::constant(0.5), one = O::constant(1.0);
  V q = u - half;
  V r = O::constant(0.180625) - q * q;  // the middle: |q| <= 0.425
  V middle = q *
             horner(r, 3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
                    45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727) /
             horner(r, 1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077, 21213.794301586595867,
                    39307.895800092710610, 28729.085735721942674, 5226.4952788528545610);
  V near = u < one - u ? u : one - u;  // to 0 or 1
  V s = O::sqrt(-log_positive<V>(near)) - O::constant(1.6);
  V tail =
      horner(s, 1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
             1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4) /
      horner(s, 1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550, 0.148103976427480074590,
             0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9);
  return r < zero ? (q < zero ? -tail : tail) : middle;
}

struct PlaneVector {
  double x, y;
};

// (cos, sin) of pi f, 0 <= f <= 1.
MK_HD PlaneVector half_circle(double f) {
  const int quadrant = f < 0.25 ? 0 : f < 0.75 ? 1 : 2;
  const double phi = (f - 0.5 * quadrant) * 3.14159265358979323846;  // in [-pi/4, pi/4]
  const double q = phi * phi;
  const double s = phi + phi * (q * Series<double, double>::sin_tail(q));
  const double c = 1.0 + q * Series<double, double>::cos_tail(q);
  return quadrant == 0 ? PlaneVector{c, s} : quadrant == 1 ? PlaneVector{-s, c} : PlaneVector{-c, -s};
}

// Random permutations of the dyadic intervals, nested as A. Owen's are, on numbers whose bits are reversed: every step
// is a bijection that lets a bit depend on lower bits alone. s: four random words for each coordinate; adding the first
// makes every single point uniform. The constants (even) are those of S. Laine, T. Karras, "Stratified sampling for
// stochastic transparency", EGSR 2011.
MK_HD uint32_t scramble_reversed(uint32_t x, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3) {
  x += s0;
  x ^= x * 0x6c50b47cu;
  x *= s1 | 1u;
  x ^= x * 0xb82f1e52u;
  x += s2;
  x ^= x * 0xc7afe638u;
  x *= s3 | 1u;
  return x ^ (x * 0x8d22f6e6u);
}

MK_HD uint32_t reverse_bits(uint32_t x) {
  x = ((x >> 1) & 0x55555555u) | ((x & 0x55555555u) << 1);
  x = ((x >> 2) & 0x33333333u) | ((x & 0x33333333u) << 2);
  x = ((x >> 4) & 0x0f0f0f0fu) | ((x & 0x0f0f0f0fu) << 4);
  x = ((x >> 8) & 0x00ff00ffu) | ((x & 0x00ff00ffu) << 8);
  return (x >> 16) | (x << 16);
}

namespace cpu {

// out (count, dim). dim >= 2; at most 2^32 Sobol directions, dim <= sobol_max_dim.
template <class T>
void directions(DirectionKind kind, uint64_t seed, int64_t count, int64_t dim, T* out);

constexpr int64_t sobol_max_dim = 21201;  // what polynomials of degree 18 and less give
// The first `count` points without scrambling, as 32-bit fractions, out (count, dim): for tests.
void sobol_points(int64_t count, int64_t dim, uint32_t* out);

}  // namespace cpu
}  // namespace mk
