// Splitting schemes of underdamped (kinetic) Langevin dynamics dx = v dt, dv = -c v dt + u grad log p dt + sqrt(2 c u) dB as
// tables of linear combinations. Each of the first `stages` rows is a position where a gradient is evaluated; the rows after
// them are the new position (where it is not the last stage) and velocity.
//   quicsort, align: A. Jelincic, J. Foster, P. Kidger (2024), arXiv:2405.06464;  should: J. Foster, T. Lyons, H. Oberhauser
//   (2021), arXiv:2101.03446;  ubu: J. M. Sanz-Serna, K. Zygalakis (2021);  baoab: B. Leimkuhler, C. Matthews (2013).
#pragma once

#include "mckean/executor.hpp"
#include "mckean/math.hpp"

namespace mk {

// Integrals of the Ornstein-Uhlenbeck kernel over a step, divided by their leading powers of the step. Closed forms cancel
// for small arguments; 20 terms of the series are exact to rounding below 1.
// (1 - e^-x) / x
MK_HD double kinetic_mean_decay(double x) {
  if (x >= 1.0) return (1.0 - exp_clamped<double>(-x)) / x;
  double term = 1.0, sum = 1.0;
  for (int k = 1; k < 20; ++k) {
    term = -(term * x) / static_cast<double>(k + 1);
    sum = sum + term;
  }
  return sum;
}
// (e^-x + x - 1) / x^2
MK_HD double kinetic_phi2(double x) {
  if (x >= 1.0) return (exp_clamped<double>(-x) + x - 1.0) / (x * x);
  double term = 0.5, sum = 0.5;
  for (int k = 1; k < 20; ++k) {
    term = -(term * x) / static_cast<double>(k + 2);
    sum = sum + term;
  }
  return sum;
}
// The weight of the area H in the position: 6 (e^-x (x + 2) + x - 2) / x^3
MK_HD double kinetic_area(double x) {
  if (x >= 1.0) return 6.0 * (exp_clamped<double>(-x) * (x + 2.0) + x - 2.0) / (x * x * x);
  double power = 1.0, sum = 1.0;  // 6 (k + 1) (-x)^k / (k + 3)!
  for (int k = 1; k < 20; ++k) {
    power = -(power * x) / static_cast<double>(k + 3);
    sum = sum + power * static_cast<double>(k + 1);
  }
  return sum;
}
// Of K: 60 (e^-x (x^2 + 6 x + 12) - x^2 + 6 x - 12) / x^4
MK_HD double kinetic_area2(double x) {
  if (x >= 1.0)
    return 60.0 * (exp_clamped<double>(-x) * (x * (x + 6.0) + 12.0) - x * (x - 6.0) - 12.0) / (x * x * x * x);
  double power = 2.5, sum = 0.0;  // 60 k (k + 1) (-x)^k / (k + 4)!
  for (int k = 1; k < 21; ++k) {
    power = -(power * x) / static_cast<double>(k + 4);
    sum = sum + power * static_cast<double>(k * (k + 1));
  }
  return sum;
}
// Of H in the position at half the step: 6 (e^{-x/2} (x + 2) + x^2 / 4 - 2) / x^3
MK_HD double kinetic_half_area(double x) {
  if (x >= 1.0) return 6.0 * (exp_clamped<double>(-0.5 * x) * (x + 2.0) + 0.25 * x * x - 2.0) / (x * x * x);
  double power = 0.25, sum = 0.5;  // 6 (k + 2) 2^-(k + 2) (-x)^k / (k + 3)!
  for (int k = 1; k < 20; ++k) {
    power = -(power * x * 0.5) / static_cast<double>(k + 3);
    sum = sum + power * static_cast<double>(k + 2);
  }
  return sum;
}

constexpr int kinetic_columns = 8;  // x, v, g0 (the gradient of log p at x, kept from before), W, H, K, g1, g2
struct KineticRows {
  int stages, rows;
  bool keeps_gradient;  // the last stage is the new position, its gradient the next g0
  bool has_error;       // of the velocity: error (g1 - g0)
  double error;
  double row[4][kinetic_columns];
};

MK_HD bool keeps_gradient(SdeMethod m) {
  return m == SdeMethod::should || m == SdeMethod::align || m == SdeMethod::baoab || m == SdeMethod::exponential;
}

MK_HD void kinetic_set(double* row, double x, double v, double g0, double W, double H, double K, double g1 = 0.0,
                       double g2 = 0.0) {
  row[0] = x;
  row[1] = v;
  row[2] = g0;
  row[3] = W;
  row[4] = H;
  row[5] = K;
  row[6] = g1;
  row[7] = g2;
}

MK_HD KineticRows kinetic_rows(SdeMethod scheme, double h, double c, double u) {
  KineticRows t{};
  double al = c * h, rho = Ops<double>::sqrt(2.0 * c * u), uh = u * h;
  double e = exp_clamped<double>(-al), A = h * kinetic_mean_decay(al), B = h * kinetic_phi2(al);
  double CH = h * kinetic_area(al), CK = scheme == SdeMethod::should ? h * kinetic_area2(al) : 0.0;
  t.keeps_gradient = keeps_gradient(scheme);
  if (scheme == SdeMethod::quicsort) {
    const double r3 = 1.7320508075688772935;
    const double left = (3.0 - r3) / 6.0, right = (3.0 + r3) / 6.0;
    double Al = h * left * kinetic_mean_decay(left * al), Ar = h * right * kinetic_mean_decay(right * al);
    double Bl = h * left * left * kinetic_phi2(left * al), Br = h * right * right * kinetic_phi2(right * al);
    double A3 = h / 3.0 * kinetic_mean_decay(al / 3.0);
    double el = exp_clamped<double>(-(left * al)), er = exp_clamped<double>(-(right * al));
    double a = A / h;
    t.stages = 2;
    t.rows = 4;
    kinetic_set(t.row[0], 1.0, Al, 0.0, rho * Bl, rho * Al, rho * (6.0 * Al - 12.0 * Bl));
    kinetic_set(t.row[1], 1.0, Ar, 0.0, rho * Br, rho * Ar, rho * (6.0 * Ar - 12.0 * Br), A3 * uh);
    kinetic_set(t.row[2], 1.0, A, 0.0, rho * B, rho * A, rho * (6.0 * A - 12.0 * B), 0.5 * Ar * uh, 0.5 * Al * uh);
    kinetic_set(t.row[3], 0.0, e, 0.0, rho * a, rho * -(al * kinetic_mean_decay(al)), rho * (6.0 * e - 12.0 * a + 6.0),
                0.5 * er * uh, 0.5 * el * uh);
  } else if (scheme == SdeMethod::should) {
    double Ah = 0.5 * h * kinetic_mean_decay(0.5 * al), Bh = 0.25 * h * kinetic_phi2(0.5 * al);
    double eh = exp_clamped<double>(-0.5 * al);
    t.stages = 2;
    t.rows = 3;
    kinetic_set(t.row[0], 1.0, Ah, Bh * uh, rho * Bh, rho * Ah, rho * (6.0 * Ah - 12.0 * Bh));
    kinetic_set(t.row[1], 1.0, A, uh * B / 3.0, rho * B, rho * CH, rho * CK, uh * B * (2.0 / 3.0));
    kinetic_set(t.row[2], 0.0, e, uh * e / 6.0, rho * A / h, -(rho * c * CH), -(rho * c * CK), uh * eh * (2.0 / 3.0),
                uh / 6.0);
  } else if (scheme == SdeMethod::ubu) {
    double Ah = 0.5 * h * kinetic_mean_decay(0.5 * al), Bh = 0.25 * h * kinetic_phi2(0.5 * al);
    double eh = exp_clamped<double>(-0.5 * al);
    t.stages = 1;
    t.rows = 3;
    kinetic_set(t.row[0], 1.0, Ah, 0.0, rho * Bh, rho * h * kinetic_half_area(al), 0.0);
    kinetic_set(t.row[1], 1.0, A, 0.0, rho * B, rho * CH, 0.0, Ah * uh);
    kinetic_set(t.row[2], 0.0, e, 0.0, rho * A / h, -(rho * c * CH), 0.0, eh * uh);
  } else if (scheme == SdeMethod::align) {
    t.stages = 1;
    t.rows = 2;
    t.has_error = true;
    t.error = u * B;
    kinetic_set(t.row[0], 1.0, A, B * uh, rho * B, rho * CH, 0.0);
    kinetic_set(t.row[1], 0.0, e, u * (A - B), rho * A / h, -(rho * c * CH), 0.0, u * B);
  } else if (scheme == SdeMethod::baoab) {
    double kick = 0.5 * uh, noise = Ops<double>::sqrt(u * 2.0 * c * kinetic_mean_decay(2.0 * al));
    t.stages = 1;
    t.rows = 2;
    kinetic_set(t.row[0], 1.0, 0.5 * h * (1.0 + e), 0.5 * h * (1.0 + e) * kick, 0.5 * h * noise, 0.0, 0.0);
    kinetic_set(t.row[1], 0.0, e, e * kick, noise, 0.0, 0.0, kick);
  } else {
    t.stages = 1;
    t.rows = 2;
    kinetic_set(t.row[0], 1.0, A, h * B * u, rho * B, rho * CH, 0.0);
    kinetic_set(t.row[1], 0.0, e, A * u, rho * A / h, -(rho * c * CH), 0.0);
  }
  return t;
}

}  // namespace mk
