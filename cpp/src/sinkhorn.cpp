// CPU executor of entropic transport: plain loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mckean/executor.hpp"
#include "pool.hpp"

namespace mk {

template <class T>
struct Transport {
  TransportArgs<T> args;

  double cost(int64_t b, int64_t i, int64_t j) const {
    const TransportArgs<T>& a = args;
    if (a.cost) return static_cast<double>(a.cost[((a.cost_per_batch ? b : 0) * a.n + i) * a.m + j]);
    const T *x = a.x + (b * a.n + i) * a.dim, *y = a.y + (b * a.m + j) * a.dim;
    double s = 0.0;
    for (int64_t k = 0; k < a.dim; ++k) s += (static_cast<double>(x[k]) - y[k]) * (static_cast<double>(x[k]) - y[k]);
    return a.power == 2.0 ? s : std::pow(s, 0.5 * a.power);
  }
  double entry(const Scalings& at, int64_t b, int64_t i, int64_t j) const {
    return std::exp(at.rows[b * args.n + i] + at.cols[b * args.m + j] - cost(b, i, j) / at.eps[b]);
  }
  // -log sum exp
  double row(const Scalings& at, int64_t b, int64_t i) const {
    double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (int64_t j = 0; j < args.m; ++j) top = std::max(top, at.cols[b * args.m + j] - cost(b, i, j) / at.eps[b]);
    for (int64_t j = 0; j < args.m; ++j) sum += std::exp(at.cols[b * args.m + j] - cost(b, i, j) / at.eps[b] - top);
    return -top - std::log(sum);
  }
  double col(const Scalings& at, int64_t b, int64_t j) const {
    double top = -std::numeric_limits<double>::infinity(), sum = 0.0;
    for (int64_t i = 0; i < args.n; ++i) top = std::max(top, at.rows[b * args.n + i] - cost(b, i, j) / at.eps[b]);
    for (int64_t i = 0; i < args.n; ++i) sum += std::exp(at.rows[b * args.n + i] - cost(b, i, j) / at.eps[b] - top);
    return -top - std::log(sum);
  }
};

namespace cpu {

template <class T>
Transport<T>* make_transport(const TransportArgs<T>& args, Queue) {
  return new Transport<T>{args};
}
template <class T>
void free_transport(Transport<T>* transport) {
  delete transport;
}

template <class T>
void transport_iterate(Transport<T>& t, const Scalings& at, const ScalingRule& rule, double* errors,
                       int64_t* iterations, Queue) {
  const int64_t n = t.args.n, m = t.args.m;
  parallel_for(at.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const int64_t b = at.problems[p];
      double *F = at.rows + b * n, *G = at.cols + b * m;
      double tr = rule.row_power[b], tc = rule.col_power[b], omega = rule.symmetric ? 0.5 : rule.relaxation;
      bool balanced = tr == 1.0 && tc == 1.0 && !rule.symmetric;
      int64_t done = 0;
      double error = std::numeric_limits<double>::infinity();
      std::vector<double> next(static_cast<size_t>(std::max(n, m)));
      for (; done < rule.max_iter; ++done) {
        if (!balanced && error <= rule.tol) break;
        double change = 0.0, missing = 0.0;
        for (int64_t i = 0; i < n; ++i) {
          double a = rule.a[b * n + i], l = t.row(at, b, i);
          missing += std::fabs(std::exp(F[i] - l) - a);
          double balanced_F = std::log(a) + tr * l;
          next[i] = a > 0 ? F[i] + omega * (balanced_F - F[i]) : F[i];
          if (a > 0) change = std::max(change, std::fabs(next[i] - F[i]));
          poll_inside_chunk();
        }
        if (balanced) {
          error = missing;
          if (error <= rule.tol) break;
        }
        std::copy_n(next.data(), n, F);
        if (rule.symmetric) {
          std::copy_n(F, n, G);
        } else {
          for (int64_t j = 0; j < m; ++j) {
            double w = rule.b[b * m + j], l = t.col(at, b, j);
            next[j] = w > 0 ? G[j] + omega * (std::log(w) + tc * l - G[j]) : G[j];
            if (w > 0) change = std::max(change, std::fabs(next[j] - G[j]));
            poll_inside_chunk();
          }
          std::copy_n(next.data(), m, G);
        }
        if (!balanced) error = change;
      }
      errors[b] = error;
      iterations[b] = done;
    }
  });
}

template <class T>
void transport_transform(Transport<T>& t, const Scalings& at, bool columns, double* out, Queue) {
  const int64_t size = columns ? t.args.m : t.args.n;
  for (int64_t p = 0; p < at.count; ++p) {
    const int64_t b = at.problems[p];
    parallel_for(size, 8, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out[b * size + i] = columns ? t.col(at, b, i) : t.row(at, b, i);
    });
  }
}

template <class T>
void transport_marginals(Transport<T>& t, const Scalings& at, double* rows, double* cols, double* cost, Queue) {
  const int64_t n = t.args.n, m = t.args.m;
  for (int64_t p = 0; p < at.count; ++p) {
    const int64_t b = at.problems[p];
    if (rows) std::fill_n(rows + b * n, n, 0.0);
    if (cols) std::fill_n(cols + b * m, m, 0.0);
    double total = 0.0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        double e = t.entry(at, b, i, j);
        if (rows) rows[b * n + i] += e;
        if (cols) cols[b * m + j] += e;
        if (cost && e > 0) total += e * t.cost(b, i, j);
      }
    if (cost) cost[b] = total;
  }
}

template <class T>
void transport_product(Transport<T>& t, const Scalings& at, const double* u, const double* v, double* rows,
                       double* cols, Queue) {
  const int64_t n = t.args.n, m = t.args.m;
  for (int64_t p = 0; p < at.count; ++p) {
    const int64_t b = at.problems[p];
    std::fill_n(rows + b * n, n, 0.0);
    std::fill_n(cols + b * m, m, 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        double e = t.entry(at, b, i, j);
        rows[b * n + i] += e * v[b * m + j];
        cols[b * m + j] += e * u[b * n + i];
      }
  }
}

template <class T>
void transport_apply(Transport<T>& t, const Scalings& at, bool transposed, const T* values, int64_t columns, T* out,
                     Queue) {
  const int64_t n = transposed ? t.args.m : t.args.n, m = transposed ? t.args.n : t.args.m;
  for (int64_t p = 0; p < at.count; ++p) {
    const int64_t b = at.problems[p];
    std::vector<double> sum(static_cast<size_t>(columns));
    for (int64_t i = 0; i < n; ++i) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t j = 0; j < m; ++j) {
        double e = transposed ? t.entry(at, b, j, i) : t.entry(at, b, i, j);
        for (int64_t q = 0; q < columns; ++q) sum[q] += e * static_cast<double>(values[(b * m + j) * columns + q]);
      }
      for (int64_t q = 0; q < columns; ++q) out[(b * n + i) * columns + q] = static_cast<T>(sum[q]);
    }
  }
}

template <class T>
void transport_gradient(Transport<T>& t, const Scalings& at, bool in_y, T* out, Queue) {
  const int64_t n = t.args.n, m = t.args.m, dim = t.args.dim, size = in_y ? m : n;
  for (int64_t p = 0; p < at.count; ++p) {
    const int64_t b = at.problems[p];
    std::vector<double> sum(static_cast<size_t>(size * dim));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        const T *x = t.args.x + (b * n + i) * dim, *y = t.args.y + (b * m + j) * dim;
        double c = t.cost(b, i, j);
        if (!(c > 0)) continue;
        double s = t.entry(at, b, i, j) * t.args.power * std::pow(c, 1.0 - 2.0 / t.args.power);
        for (int64_t k = 0; k < dim; ++k)
          sum[(in_y ? j : i) * dim + k] += (in_y ? -s : s) * (static_cast<double>(x[k]) - y[k]);
      }
    for (int64_t k = 0; k < size * dim; ++k) out[b * size * dim + k] = static_cast<T>(sum[k]);
  }
}

template <class T>
void transport_plan(Transport<T>& t, const Scalings& at, int64_t problem, int64_t first, int64_t last, T* out, Queue) {
  for (int64_t i = first; i < last; ++i)
    for (int64_t j = 0; j < t.args.m; ++j) out[(i - first) * t.args.m + j] = static_cast<T>(t.entry(at, problem, i, j));
}

template <class T>
KeptEntries transport_kept(Transport<T>& t, const Scalings& at, int64_t problem, const double* row_level,
                           const double* col_level, int64_t most, Queue) {
  KeptEntries kept{{0}, {}, {}, true};
  for (int64_t i = 0; i < t.args.n; ++i) {
    for (int64_t j = 0; j < t.args.m; ++j) {
      double e = t.entry(at, problem, i, j);
      if (!(e > row_level[i] * col_level[j])) continue;
      kept.column.push_back(static_cast<int32_t>(j));
      kept.value.push_back(e);
    }
    kept.start.push_back(static_cast<int64_t>(kept.value.size()));
    if (kept.start.back() > most) return {{}, {}, {}, false};
  }
  return kept;
}

#define MK_TRANSPORT(T)                                                                                             \
  template Transport<T>* make_transport<T>(const TransportArgs<T>&, Queue);                                         \
  template void free_transport<T>(Transport<T>*);                                                                   \
  template void transport_iterate<T>(Transport<T>&, const Scalings&, const ScalingRule&, double*, int64_t*, Queue); \
  template void transport_transform<T>(Transport<T>&, const Scalings&, bool, double*, Queue);                       \
  template void transport_marginals<T>(Transport<T>&, const Scalings&, double*, double*, double*, Queue);           \
  template void transport_product<T>(Transport<T>&, const Scalings&, const double*, const double*, double*,         \
                                     double*, Queue);                                                               \
  template void transport_apply<T>(Transport<T>&, const Scalings&, bool, const T*, int64_t, T*, Queue);             \
  template void transport_gradient<T>(Transport<T>&, const Scalings&, bool, T*, Queue);                             \
  template void transport_plan<T>(Transport<T>&, const Scalings&, int64_t, int64_t, int64_t, T*, Queue);            \
  template KeptEntries transport_kept<T>(Transport<T>&, const Scalings&, int64_t, const double*, const double*,     \
                                         int64_t, Queue);
MK_TRANSPORT(float)
MK_TRANSPORT(double)
#undef MK_TRANSPORT

}  // namespace cpu
}  // namespace mk
