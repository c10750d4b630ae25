// Sums of |z_i - z_j|^r over sorted points in linear time: t^r on (0, 1] as a sum of exponentials, and the running sums
// that each of them needs. Once for CPU and CUDA. V: see math.hpp.
//
// The trapezoidal rule in u = ln L, step h, for
//   t^r = C int L^(-r-1) (1 - e^(-L t)) dL,        C = r / Gamma(1 - r),  0 < r < 1
//   t^r = C int L^(-r-1) (e^(-L t) - 1 + L t) dL,  C = 1 / Gamma(-r),     1 < r < 2
// Nodes below the first one give t and t^2 (t^2 alone for r > 1), nodes above the last one a constant (and t), as
// geometric series. With psi(u) = 1 - e^-u and phi(u) = u - psi(u):
//
//   t^r = sum_k coefficient_k f(exponent_k t) + linear t + quadratic t^2 + tied,  t > 0,  f = psi (r < 1), phi (r > 1)
//
// For weights s with sum 0 at sorted points z: the value D = -sum_ij s_i s_j |z_i - z_j|^r and g_i = dD / dz_i. A_i is
// the weight up to and including the points at z_i, w_i the weight of these. For one exponent L,
//   r < 1: P_i = sum of s_j e^(-L (z_i - z_j)) over z_j < z_i, Q_i over z_j > z_i (carry_decay, both ways);
//          D = sum over gaps of (P_i + w_i)^2 (1 - e^(-2 L gap)) + (P_last + w_last)^2,  g_i = -2 s_i L (P_i - Q_i)
//   r > 1: P_i = sum of s_j psi(L (z_i - z_j)) over z_j < z_i, Q_i over z_j > z_i (carry_rise, both ways);
//          D = 2 L int E(z)^2 dz, E(z) the sum up to z: that is sum over gaps of gap_rise + P_last^2,  g_i likewise.
// All values are sums of squares, so small ones lose no digits. Of the other parts,
//   linear: D = 2 sum gap A_i^2, g_i = -2 s_i (2 A_i - w_i);  tied: D = sum of w^2 over the different z, g_i = 0;
//   quadratic: D = 2 m^2, g_i = 4 s_i m, m = sum s_i z_i = -sum gap A_i.
#pragma once

#include <cmath>
#include <cstdint>

#include "mckean/math.hpp"

namespace mk {

constexpr int max_power_terms = 128;

struct PowerRule {
  int terms;
  double exponent[max_power_terms], coefficient[max_power_terms];
  double linear, quadratic, tied;
  bool below;  // r < 1
};

// Largest relative error on [t_min, 1]: of t^r 1.2e-5, 1.2e-7, 3e-10 for h = 1, 0.7, 0.5 (5e-9 near r = 2); of its
// derivative 6e-4, 1.1e-5, 4.5e-8 for r near 0, 1.5e-4, 2.1e-6, 7.6e-9 for r = 0.5, and less for larger r. Host only;
// static, because files compiled for several instruction sets include this one.
template <class T>
constexpr double power_step = sizeof(T) == 4 ? 1.0 : 0.5;
// Of n + m points, the closest of which are about (n + m)^-2 apart, or what rounding leaves: pairs closer than
// this make the error of the gradient.
template <class T>
static inline double power_t_min(int64_t points) {
  const double near = 0.25 / static_cast<double>(points), t = near * near, least = sizeof(T) == 4 ? 1e-8 : 1e-16;
  return t < least ? least : t < 1e-4 ? t : 1e-4;
}

// 0 < r < 2, r != 1.
static inline PowerRule power_rule(double r, double h, double t_min) {
  PowerRule rule{};
  const double first = std::log(1e-6), last = std::log(30.0 / t_min);
  const double terms = std::ceil((last - first) / h) + 1;  // 110 for h = 0.5, t_min = 1e-16
  rule.terms = terms < max_power_terms ? static_cast<int>(terms) : max_power_terms;
  rule.below = r < 1.0;
  const double scale = (rule.below ? r / std::tgamma(1.0 - r) : 1.0 / std::tgamma(-r)) * h;
  for (int k = 0; k < rule.terms; ++k) {
    const double u = first + h * k;
    rule.exponent[k] = std::exp(u);
    rule.coefficient[k] = scale * std::exp(-r * u);
  }
  const double low = first, high = first + h * (rule.terms - 1);
  // e^((q) edge) / (e^(|q| h) - 1): all nodes beyond the edge where the integrand is e^(q u).
  auto beyond = [&](double q, double edge) { return scale * std::exp(q * edge) / std::expm1(std::fabs(q) * h); };
  rule.tied = beyond(-r, high) * (rule.below ? 1.0 : -1.0);
  rule.linear = beyond(1.0 - r, rule.below ? low : high);
  rule.quadratic = beyond(2.0 - r, low) * (rule.below ? -0.5 : 0.5);
  return rule;
}

// e^-u and 1 - e^-u for u >= 0, neither losing digits.
template <class V>
struct Decay {
  V keep, lose;
};
template <class V>
MK_HD Decay<V> decay(V u) {
  using O = Ops<V>;
  using T = typename O::T;
  V one = O::constant(T(1));
  V e = exp_clamped<V>(-u);
  V small = u - u * u * Series<V, T>::exp_tail(-u);  // the series holds up to ln 2 / 2
  return {e, u < O::constant(T(0.34)) ? small : one - e};
}

// From one point to the next one at a distance > 0: `weight` is that of all points at the first one.
template <class V>
MK_HD V carry_decay(V sum, V weight, Decay<V> d) {
  return d.keep * (sum + weight);
}
// ... `total` is the weight of the first one and of all points before it. At distance 0 nothing changes.
template <class V>
MK_HD V carry_rise(V sum, V total, Decay<V> d) {
  return d.keep * sum + d.lose * total;
}
// What a gap adds to D: `sum` is that of the point before it (r < 1: with its own weight), u = L gap.
template <class V>
MK_HD V gap_decay(V sum, Decay<V> d) {
  return sum * sum * (d.lose * (Ops<V>::constant(typename Ops<V>::T(1)) + d.keep));
}
// 2 int_0^u (sum + (total - sum) psi)^2
template <class V>
MK_HD V gap_rise(V sum, V total, V u, Decay<V> d) {
  using O = Ops<V>;
  using T = typename O::T;
  V left = total - sum;
  V small = u * u * Series<V, T>::exp_tail(-u);
  V phi = u < O::constant(T(0.34)) ? small : u - d.lose;
  V chi = phi - O::constant(T(0.5)) * d.lose * d.lose;  // int psi^2
  V two = O::constant(T(2));
  return two * (sum * sum * u + two * sum * left * phi + left * left * chi);
}

}  // namespace mk
