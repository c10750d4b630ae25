// Formulas of the built-in targets, per particle (V a scalar) or for a register of particles.
//
// A row r of a linear model meets a particle x in t = r . x. Its term of log p and the derivative in t come from a Link:
//   GaussianLink  -t^2 / 2                rows of A in |A (x - mean)|^2 / 2
//   LogisticLink  -log(1 + exp(-t))       rows (2 y - 1) X, so that no term cancels
#pragma once

#include "mckean/executor.hpp"
#include "mckean/math.hpp"

namespace mk {

// term(t) replaces t by d(term)/dt. `first` of a run of terms starts it, and finish(run) is the sum of its terms.
struct GaussianLink {
  template <class V>
  struct Run {
    V squares;
  };
  template <class V>
  static MK_HD Run<V> start() {
    return {Ops<V>::constant(typename Ops<V>::T(0))};
  }
  template <class V>
  static MK_HD void term(Run<V>& run, V& t) {
    run.squares = run.squares + t * t;
    t = -t;
  }
  template <class V>
  static MK_HD V finish(const Run<V>& run) {
    return run.squares * Ops<V>::constant(typename Ops<V>::T(-0.5));
  }
};

struct LogisticLink {
  // sum log(1 + e_i) = log1p(q) with 1 + q = prod (1 + e_i): one logarithm a run. q is a sum of positive terms, so small
  // e_i keep their digits; e_i <= 1, so a run of 4 has q <= 15.
  template <class V>
  struct Run {
    V hinge, q;
  };
  template <class V>
  static MK_HD Run<V> start() {
    V zero = Ops<V>::constant(typename Ops<V>::T(0));
    return {zero, zero};
  }
  template <class V>
  static MK_HD void term(Run<V>& run, V& t) {
    using T = typename Ops<V>::T;
    V zero = Ops<V>::constant(T(0)), one = Ops<V>::constant(T(1));
    V e = exp_clamped<V>(t < zero ? t : -t);  // exp(-|t|)
    run.hinge = run.hinge + (t < zero ? t : zero);
    run.q = run.q + (e + e * run.q);
    t = (t > zero ? e : one) / (one + e);
  }
  template <class V>
  static MK_HD V finish(const Run<V>& run) {
    return run.hinge - log1p_nonnegative<V>(run.q);
  }
};

// A component of log density top + delta or top joins the running sum (relative to the larger of the two): sum and
// gradient are scaled by `old`, the component by `joining`.
template <class V>
struct MixtureScales {
  V old, joining;
};
template <class V>
MK_HD MixtureScales<V> mixture_scales(V delta) {
  using T = typename Ops<V>::T;
  V zero = Ops<V>::constant(T(0)), one = Ops<V>::constant(T(1));
  V e = exp_clamped<V>(delta < zero ? delta : -delta);
  return {delta > zero ? e : one, delta > zero ? one : e};
}
// log density minus the largest so far, which it updates. Equal infinities differ by 0, not NaN.
MK_HD double mixture_delta(double& top, double density) {
  double delta = density == top ? 0.0 : density - top;
  top = density > top ? density : top;
  return delta;
}

// The funnel given x0 and the sum of the other squares; rest = dim - 1. Other coordinates: -shrink xi.
template <class V>
struct FunnelPoint {
  V density, gradient0, shrink;
};
template <class V>
MK_HD FunnelPoint<V> funnel_point(V x0, V squares, typename Ops<V>::T rest, typename Ops<V>::T precision,
                                  typename Ops<V>::T constant) {
  using O = Ops<V>;
  using T = typename O::T;
  V half = O::constant(T(0.5)), n = O::constant(rest), w = O::constant(precision);
  V shrink = exp_clamped<V>(-x0);
  V energy = shrink * squares;
  return {O::constant(constant) - half * (w * x0 * x0 + n * x0 + energy), half * (energy - n) - w * x0, shrink};
}

// The twisted pair of the banana; other coordinates: -xi.
template <class V>
struct BananaPoint {
  V density, gradient0, gradient1;
};
template <class V, class T>
MK_HD BananaPoint<V> banana_point(V x0, V x1, V squares, const BananaArgs<T>& a) {
  using O = Ops<V>;
  V half = O::constant(T(0.5)), w = O::constant(a.precision), b = O::constant(a.curvature);
  V bx = b * x0;
  V u = x1 + (bx * x0 - O::constant(a.offset));
  return {O::constant(a.constant) - half * (w * x0 * x0 + u * u + squares), -(w * x0 + (bx + bx) * u), -u};
}

}  // namespace mk
