// Element-wise formulas of the fused stepper and of the Metropolis accept step.
#pragma once

#include "mckean/executor.hpp"
#include "mckean/random.hpp"

namespace mk {

// One element of one output: products are added in the order of the arrays, noise last.
template <class T>
MK_HD T combine_element(const CombineArgs<T>& a, int j, int64_t element, int64_t row, T normal) {
  T sum = T(0);
  for (int k = 0; k < a.n_arrays; ++k) {
    int jk = j * max_combine_arrays + k;
    T c = a.row_coefficients[jk] ? a.row_coefficients[jk][row] : a.coefficients[jk];
    T term = c * a.arrays[k][element];
    sum = k == 0 ? term : sum + term;
  }
  if (a.draws) {
    T scale = a.row_noise[j] ? a.row_noise[j][row] : a.noise[j];
    sum = sum + scale * normal;
  }
  return sum;
}

// Does particle `row` move? log alpha = log p(x') - log p(x) - (|x - x' - h g'|^2 - |x' - x - h g|^2) / (4 h).
// The squares expand so that |x' - x|^2, which would cancel, never appears. Roberts, Tweedie (1996), doi:10.2307/3318418.
template <class T>
MK_HD bool metropolis_accepts(const MetropolisArgs<T>& a, int64_t row) {
  const T* x = a.x + row * a.cols;
  const T* y = a.x_proposed + row * a.cols;
  const T* g = a.gradient + row * a.cols;
  const T* f = a.gradient_proposed + row * a.cols;
  double cross = 0, square = 0;  // (y - x).(g' + g) and |g'|^2 - |g|^2
  for (int64_t i = 0; i < a.cols; ++i) {
    double gi = g[i], fi = f[i];
    cross += (static_cast<double>(y[i]) - static_cast<double>(x[i])) * (fi + gi);
    square += (fi - gi) * (fi + gi);
  }
  double log_alpha = static_cast<double>(a.log_density_proposed[row]) - static_cast<double>(a.log_density[row]) -
                     0.5 * cross - 0.25 * static_cast<double>(a.step) * square;
  double u = stream_number<double>(static_cast<uint64_t>(row), a.key, a.counter, Tag::uniform);
  // False for NaN and where the proposed density is infinite: a broken proposal is never taken.
  return log_positive<double>(1.0 - u) < log_alpha && log_alpha < 1.7976931348623157e308;
}

template <class T>
MK_HD void metropolis_row(const MetropolisArgs<T>& a, int64_t row) {
  bool yes = metropolis_accepts<T>(a, row);
  const T* x = yes ? a.x_proposed : a.x;
  const T* g = yes ? a.gradient_proposed : a.gradient;
  for (int64_t i = row * a.cols; i < (row + 1) * a.cols; ++i) {
    a.x_new[i] = x[i];
    a.gradient_new[i] = g[i];
  }
  a.log_density_new[row] = yes ? a.log_density_proposed[row] : a.log_density[row];
  a.accepted[row] = yes ? 1 : 0;
}

}  // namespace mk
