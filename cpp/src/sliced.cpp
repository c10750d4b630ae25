// CPU executor of the sliced distances.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "mckean/executor.hpp"
#include "pool.hpp"

namespace mk {

struct SlicedTarget {
  std::vector<double> y, directions, weights;
  std::vector<float> y32, directions32;
  int64_t m, slices;
};

namespace cpu {

// FIRST WORKING VERSION: correct, slow, serial.
template <class T>
void sliced(const SlicedArgs<T>& a0, Queue) {
  SlicedArgs<T> a = a0;
  if (a.target) {
    if constexpr (sizeof(T) == 4) {
      a.y = a.target->y32.data();
      a.directions = a.target->directions32.data();
    } else {
      a.y = a.target->y.data();
      a.directions = a.target->directions.data();
    }
    a.y_weights = a.target->weights.empty() ? nullptr : a.target->weights.data();
    a.y_per_batch = false;
  }
  const int64_t n = a.n, m = a.m, d = a.dim, N = n + m;
  std::vector<double> z(N), s(N), g(N);
  std::vector<int64_t> order(N);
  for (int64_t b = 0; b < a.batch; ++b) {
    const T* x = a.x + b * n * d;
    const T* y = a.y + (a.y_per_batch ? b * m * d : 0);
    const double* wx = a.x_weights ? a.x_weights + b * n : nullptr;
    const double* wy = a.y_weights ? a.y_weights + (a.y_per_batch ? b * m : 0) : nullptr;
    std::vector<double> centre(d), gradient(a.gradient ? n * d : 0);
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < d; ++k) centre[k] += static_cast<double>(y[j * d + k]) / static_cast<double>(m);
    for (int64_t p = 0; p < a.slices; ++p) {
      const T* xi = a.directions + p * d;
      for (int64_t i = 0; i < N; ++i) {
        const T* at = i < n ? x + i * d : y + (i - n) * d;
        double sum = 0;
        for (int64_t k = 0; k < d; ++k) sum += (static_cast<double>(at[k]) - centre[k]) * static_cast<double>(xi[k]);
        z[i] = static_cast<double>(static_cast<T>(sum));
        s[i] = i < n ? (wx ? -wx[i] : -1.0 / static_cast<double>(n)) : (wy ? wy[i - n] : 1.0 / static_cast<double>(m));
        order[i] = i;
        g[i] = 0;
      }
      std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return z[i] < z[j]; });
      double value = 0;
      if (a.kind == SlicedKind::mmd && a.exponent == 1.0) {
        double below = 0;
        for (int64_t k = 0; k < N;) {
          int64_t e = k;
          double here = 0;
          while (e < N && z[order[e]] == z[order[k]]) here += s[order[e++]];
          for (int64_t q = k; q < e; ++q) g[order[q]] = -2.0 * s[order[q]] * (2 * below + here);
          below += here;
          if (e < N) value += 2.0 * (z[order[e]] - z[order[k]]) * below * below;
          k = e;
        }
      } else if (a.kind == SlicedKind::mmd) {
        for (int64_t i = 0; i < N; ++i)
          for (int64_t j = 0; j < N; ++j) {
            double t = z[i] - z[j];
            if (t == 0) continue;
            double power = std::pow(std::fabs(t), a.exponent);
            value -= s[i] * s[j] * power;
            g[i] -= 2.0 * s[i] * s[j] * a.exponent * power / t;
          }
      } else {
        std::vector<int64_t> ox, oy;
        for (int64_t i : order) (i < n ? ox : oy).push_back(i);
        int64_t i = 0, j = 0;
        double left = -s[ox[0]], right = s[oy[0]];
        while (true) {
          bool last_i = i == n - 1, last_j = j == m - 1;
          bool take_x = last_j || (!last_i && left <= right);
          double move = take_x ? left : right;
          double t = z[ox[i]] - z[oy[j]];
          if (t != 0 && move > 0) {
            double power = std::pow(std::fabs(t), a.exponent);
            value += move * power;
            g[ox[i]] += move * a.exponent * power / t;
          }
          if (take_x) {
            right -= move;
            if (last_i) break;
            left = -s[ox[++i]];
          } else {
            left -= move;
            if (last_j) break;
            right = s[oy[++j]];
          }
        }
      }
      a.values[b * a.slices + p] = value;
      if (a.gradient)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t k = 0; k < d; ++k) gradient[i * d + k] += a.scale * g[i] * static_cast<double>(xi[k]);
    }
    if (a.gradient) {
      double factor = 1;
      if (a.root) {
        double mean = 0;
        for (int64_t p = 0; p < a.slices; ++p) mean += a.values[b * a.slices + p] / static_cast<double>(a.slices);
        factor = mean > 0 ? std::pow(mean, 1.0 / a.exponent - 1.0) / a.exponent : 0.0;
      }
      for (int64_t i = 0; i < n * d; ++i) a.gradient[b * n * d + i] = static_cast<T>(factor * gradient[i]);
    }
  }
}

template <class T>
SlicedTarget* make_sliced_target(const SlicedArgs<T>& a, Queue) {
  auto* t = new SlicedTarget{};
  t->m = a.m;
  t->slices = a.slices;
  if constexpr (sizeof(T) == 4) {
    t->y32.assign(a.y, a.y + a.m * a.dim);
    t->directions32.assign(a.directions, a.directions + a.slices * a.dim);
  } else {
    t->y.assign(a.y, a.y + a.m * a.dim);
    t->directions.assign(a.directions, a.directions + a.slices * a.dim);
  }
  if (a.y_weights) t->weights.assign(a.y_weights, a.y_weights + a.m);
  return t;
}
void free_sliced_target(SlicedTarget* target) { delete target; }

template void sliced<float>(const SlicedArgs<float>&, Queue);
template void sliced<double>(const SlicedArgs<double>&, Queue);
template SlicedTarget* make_sliced_target<float>(const SlicedArgs<float>&, Queue);
template SlicedTarget* make_sliced_target<double>(const SlicedArgs<double>&, Queue);

}  // namespace cpu
}  // namespace mk
