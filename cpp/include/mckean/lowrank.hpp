// Functions of U diag(s) U^T + t I with orthonormal columns U, and the corrections of a direction by a rank-one model: all in
// forms without cancellation.
#pragma once

#include "mckean/math.hpp"

namespace mk {

enum class Spectral : int {
  identity = 0,
  matvec = 1,       // A + t
  solve = 2,        // (A + t)^-1
  sqrt_solve = 3,   // (A + t)^-1/2, the symmetric root
  sqrt_matvec = 4,  // (A + t)^1/2
  precondition = 5  // (least + t) (A + t)^-1 on the span of U, the identity beside it
};

// f(U diag(s) U^T + t I) = alpha I + U diag(weight) U^T. t = 0 (the callers have seen that U is square or the function
// finite): inverses live on the span of U alone.
MK_HD double spectral_alpha(Spectral f, double t) {
  if (t == 0.0 && (f == Spectral::solve || f == Spectral::sqrt_solve)) return 0.0;
  switch (f) {
    case Spectral::matvec: return t;
    case Spectral::solve: return 1.0 / t;
    case Spectral::sqrt_solve: return 1.0 / Ops<double>::sqrt(t);
    case Spectral::sqrt_matvec: return Ops<double>::sqrt(t);
    default: return 1.0;
  }
}
MK_HD double spectral_weight(Spectral f, double s, double t, double least) {
  if (t == 0.0 && f == Spectral::solve) return 1.0 / s;
  if (t == 0.0 && f == Spectral::sqrt_solve) return 1.0 / Ops<double>::sqrt(s);
  double root = Ops<double>::sqrt(t), shifted = Ops<double>::sqrt(t + s);
  switch (f) {
    case Spectral::identity: return 0.0;
    case Spectral::matvec: return s;
    case Spectral::solve: return -s / (t * (t + s));
    case Spectral::sqrt_solve: return -s / (root * shifted * (root + shifted));
    case Spectral::sqrt_matvec: return s == 0.0 ? 0.0 : s / (root + shifted);
    default: return (least - s) / (s + t);
  }
}

// The Levenberg-Marquardt correction of a direction e by the rank-one model m m^T, m = kappa e_prev + (1 - kappa) e:
// e' = |e| / |e~| e~, e~ = e - m <e, m> / (damping + |m|^2) = A e + B e_prev up to a factor.
enum class DampingRule : int {
  absolute = 0,      // damping as it is
  relative = 1,      // damping times |e|^2
  extrapolation = 2  // damping = kappa |m|^2 / c: the correction is c times the new part of e, whatever its size
};
struct TwoTerms {
  double e, previous;
};
// ee = <e, e>, ep = <e, e_prev>, pp = <e_prev, e_prev>
MK_HD TwoTerms levenberg_marquardt(DampingRule rule, double value, double kappa, double ee, double ep, double pp) {
  double ed = ee - ep, dd = ee - 2.0 * ep + pp;  // of D = e - e_prev
  dd = dd > 0.0 ? dd : 0.0;
  double em = ee - kappa * ed, mm = ee - 2.0 * kappa * ed + kappa * kappa * dd;
  mm = mm > 0.0 ? mm : 0.0;
  double a, b;  // e~ = a e + b D up to a positive factor
  if (rule == DampingRule::extrapolation) {
    // e + c (e - e_prev) without its part along m, D_perp = D - m <D, m> / |m|^2 with m = e - kappa D
    if (mm <= 0.0) return {1.0, 0.0};
    double along = (ed - kappa * dd) / mm;
    a = 1.0 - value * along;
    b = value * (1.0 + kappa * along);
  } else {
    double damping = rule == DampingRule::relative ? value * ee : value;
    a = damping - kappa * ed + kappa * kappa * dd;
    b = kappa * em;
  }
  // |a e + b D|^2
  double size = a * a * ee + 2.0 * a * b * ed + b * b * dd;
  if (!(size > 0.0)) return {1.0, 0.0};
  double scale = Ops<double>::sqrt(ee / size);
  return {scale * (a + b), -scale * b};
}

}  // namespace mk
