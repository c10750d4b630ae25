// Steps of stochastic differential equations.
#pragma once

#include "mckean/executor.hpp"
#include "mckean/math.hpp"

namespace mk {

// One element of sde_update.
template <class T>
MK_HD T sde_update_element(const SdeUpdateArgs<T>& a, int64_t row, int64_t column) {
  int64_t at = row * a.dim + column;
  T sum = a.base ? a.base[at] : T(0);
  double step = a.steps ? a.steps[row] : a.step;
  for (int k = 0; k < a.n_drifts; ++k) sum = sum + static_cast<T>(a.a[k] * step) * a.drifts[k][at];
  for (int k = 0; k < a.n_diffusions; ++k) {
    T p = static_cast<T>(a.p[k]), q = static_cast<T>(a.q[k]);
    if (a.layout == NoiseLayout::matrix) {
      const T* g = a.diffusions[k] + at * a.noises;
      const T* W = a.W + row * a.noises;
      const T* H = a.H ? a.H + row * a.noises : nullptr;
      T part = T(0);
      for (int64_t l = 0; l < a.noises; ++l) part = part + g[l] * (H ? p * W[l] + q * H[l] : p * W[l]);
      sum = sum + part;
    } else {
      int64_t l = a.layout == NoiseLayout::diagonal ? at : row;
      sum = sum + a.diffusions[k][at] * (a.H ? p * a.W[l] + q * a.H[l] : p * a.W[l]);
    }
  }
  return sum;
}

// The scaled error of one element, squared.
template <class T>
MK_HD double scaled_square(T error, T y0, T y1, double rtol, double atol) {
  double a = static_cast<double>(y0 < T(0) ? -y0 : y0), b = static_cast<double>(y1 < T(0) ? -y1 : y1);
  double e = static_cast<double>(error) / (atol + rtol * (a > b ? a : b));
  return e * e;
}

}  // namespace mk
