// Costs of entropic transport between points, once for CPU and CUDA. V: see math.hpp.
//
// C = |x - y|^power as a function of s = |x - y|^2; its gradient in x is slope (x - y) with slope = power |x - y|^(power - 2),
// taken as 0 where x = y.
#pragma once

#include "mckean/kernels.hpp"

namespace mk {

enum class CostKind : int { square, root, power };  // power 2, 1, and any other

template <class T>
struct CostRule {
  CostKind kind;
  T power, half_power, slope_power;  // C = s^half_power, slope = power s^slope_power
};

template <class T>
inline CostRule<T> cost_rule(double power) {
  CostKind kind = power == 2.0 ? CostKind::square : power == 1.0 ? CostKind::root : CostKind::power;
  return {kind, static_cast<T>(power), static_cast<T>(0.5 * power), static_cast<T>(0.5 * power - 1.0)};
}

// s^exponent for s at least least_square, infinite where it overflows.
template <class V>
MK_HD V raised_square(V s, typename Ops<V>::T exponent) {
  return exp_any<V>(log_positive<V>(s) * splat<V>(exponent));
}

template <CostKind kind, class V>
MK_HD V cost_of_square(V s, const CostRule<typename Ops<V>::T>& rule) {
  if (kind == CostKind::square) return s;
  if (kind == CostKind::root) return Ops<V>::sqrt(s);
  V least = splat<V>(least_square<typename Ops<V>::T>());
  return zero_where<V>(s < least, raised_square<V>(Ops<V>::max(s, least), rule.half_power));
}

template <CostKind kind, class V>
MK_HD V cost_slope(V s, const CostRule<typename Ops<V>::T>& rule) {
  if (kind == CostKind::square) return splat<V>(2);
  V least = splat<V>(least_square<typename Ops<V>::T>());
  V safe = Ops<V>::max(s, least);
  if (kind == CostKind::root) return zero_where<V>(s < least, inverse_root<V>(safe));
  return zero_where<V>(s < least, raised_square<V>(safe, rule.slope_power) * splat<V>(rule.power));
}

}  // namespace mk
