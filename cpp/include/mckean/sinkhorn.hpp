// The cost |x - y|^p of two points from their squared distance, once for CPU and CUDA. V: see math.hpp.
#pragma once

#include "mckean/kernels.hpp"

namespace mk {

enum class CostKind : int { square, root, cube, fourth, power };  // p = 2, 1, 3, 4, any other

struct CostRule {
  CostKind kind;
  double power;
};

inline CostRule cost_rule(double power) {
  CostKind kind = power == 2.0   ? CostKind::square
                  : power == 1.0 ? CostKind::root
                  : power == 3.0 ? CostKind::cube
                  : power == 4.0 ? CostKind::fourth
                                 : CostKind::power;
  return {kind, power};
}

// s^(exponent) for s >= 0: 0 at 0 for a positive exponent.
template <class V>
MK_HD V square_to_power(V s, double exponent) {
  using T = typename Ops<V>::T;
  V least = splat<V>(least_square<T>());
  V f = exp_any<V>(log_positive<V>(Ops<V>::max(s, least)) * splat<V>(static_cast<T>(exponent)));
  return zero_where<V>(s < least, f);
}

template <class V>
MK_HD V cost_of_square(V s, const CostRule& rule) {
  switch (rule.kind) {
    case CostKind::square: return s;
    case CostKind::root: return Ops<V>::sqrt(s);
    case CostKind::cube: return s * Ops<V>::sqrt(s);
    case CostKind::fourth: return s * s;
    default: return square_to_power<V>(s, 0.5 * rule.power);
  }
}

// p |x - y|^(p - 2): times x - y, the derivative of the cost in x. 0 for equal points.
template <class V>
MK_HD V cost_slope(V s, const CostRule& rule) {
  using T = typename Ops<V>::T;
  V least = splat<V>(least_square<T>());
  switch (rule.kind) {
    case CostKind::square: return splat<V>(T(2));
    case CostKind::root: return zero_where<V>(s < least, splat<V>(T(1)) / Ops<V>::sqrt(Ops<V>::max(s, least)));
    case CostKind::cube: return splat<V>(T(3)) * Ops<V>::sqrt(s);
    case CostKind::fourth: return splat<V>(T(4)) * s;
    default: return splat<V>(static_cast<T>(rule.power)) * square_to_power<V>(s, 0.5 * rule.power - 1.0);
  }
}

}  // namespace mk
