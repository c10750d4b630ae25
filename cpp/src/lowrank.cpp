// CPU executor of the low-rank models: cuts long vectors into blocks whose sums are added in a fixed order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "mckean/executor.hpp"
#include "mckean/small_matrix.hpp"
#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t block = 2048;
int64_t blocks_of(int64_t dim) { return (dim + block - 1) / block; }

// Sums over blocks of body(first, last, sums (count,)), added in the order of the blocks.
template <class Body>
void sum_blocks(int64_t dim, int64_t count, double* out, Body body) {
  int64_t n = blocks_of(dim);
  std::vector<double> parts(static_cast<size_t>(n * count), 0.0);
  parallel_for(n, 1, [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) body(i * block, std::min(dim, (i + 1) * block), parts.data() + i * count);
  });
  std::fill(out, out + count, 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < count; ++c) out[c] += parts[static_cast<size_t>(i * count + c)];
}

template <class T>
double squared_norm(const T* x, int64_t dim) {
  double sum;
  sum_blocks(dim, 1, &sum, [=](int64_t a, int64_t b, double* s) {
    for (int64_t i = a; i < b; ++i) *s += double(x[i]) * double(x[i]);
  });
  return sum;
}

// One pass of Gram-Schmidt; returns the squared norm of what is left.
template <class T>
double project_out(const LanczosArgs<T>& a, double* h) {
  sum_blocks(a.dim, a.count, h, [&](int64_t first, int64_t last, double* s) {
    for (int64_t j = 0; j < a.count; ++j)
      for (int64_t i = first; i < last; ++i) s[j] += double(a.basis[j * a.dim + i]) * double(a.w[i]);
  });
  double sum;
  sum_blocks(a.dim, 1, &sum, [&](int64_t first, int64_t last, double* s) {
    for (int64_t i = first; i < last; ++i) {
      double x = a.w[i];
      for (int64_t j = 0; j < a.count; ++j) x -= h[j] * double(a.basis[j * a.dim + i]);
      a.w[i] = T(x);
      *s += double(a.w[i]) * double(a.w[i]);
    }
  });
  return sum;
}

template <class T>
struct Reader {
  Tall<T> m;
  int64_t dim;
  double operator()(int64_t i, int64_t c) const {
    return double(m.rows ? m.data[c * dim + i] : m.data[i * m.columns + c]);
  }
};

}  // namespace

template <class T>
LanczosStep lanczos_step(const LanczosArgs<T>& a, Queue) {
  std::vector<double> h(static_cast<size_t>(a.count));
  std::fill(a.coefficients, a.coefficients + a.count, 0.0);
  double square = 0.0;
  if (a.recurrence && a.count > 0) {
    const T* v = a.basis + (a.count - 1) * a.dim;
    const T* u = a.count > 1 ? v - a.dim : nullptr;
    double alpha;
    sum_blocks(a.dim, 1, &alpha, [&](int64_t first, int64_t last, double* s) {
      for (int64_t i = first; i < last; ++i) *s += double(v[i]) * double(a.w[i]);
    });
    sum_blocks(a.dim, 1, &square, [&](int64_t first, int64_t last, double* s) {
      for (int64_t i = first; i < last; ++i) {
        a.w[i] = T(double(a.w[i]) - alpha * double(v[i]) - (u ? a.beta * double(u[i]) : 0.0));
        *s += double(a.w[i]) * double(a.w[i]);
      }
    });
    a.coefficients[a.count - 1] += alpha;
    if (u) a.coefficients[a.count - 2] += a.beta;
  } else {
    square = squared_norm(a.w, a.dim);
  }
  int done = 0;
  while (a.count > 0 && done < 2 && a.passes > 0 && std::isfinite(square)) {
    double before = square;
    square = project_out(a, h.data());
    for (int64_t j = 0; j < a.count; ++j) a.coefficients[j] += h[static_cast<size_t>(j)];
    ++done;
    if (done >= a.passes && !(square < 0.5 * before)) break;
  }
  double norm = std::sqrt(square);
  if (norm > a.least && std::isfinite(norm)) {
    T* next = a.basis + a.count * a.dim;
    parallel_for(a.dim, block, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) next[i] = T(double(a.w[i]) / norm);
    });
  }
  return {norm, done};
}

template <class T>
void tall_gram(int64_t dim, const Tall<T>& A, const Tall<T>& B, double* out, Queue) {
  Reader<T> x{A, dim}, y{B, dim};
  sum_blocks(dim, A.columns * B.columns, out, [&](int64_t first, int64_t last, double* s) {
    for (int64_t i = first; i < last; ++i)
      for (int64_t p = 0; p < A.columns; ++p)
        for (int64_t q = 0; q < B.columns; ++q) s[p * B.columns + q] += x(i, p) * y(i, q);
  });
}

template <class T>
void tall_multiply(int64_t dim, const Tall<T>& A, const double* M, int64_t columns, bool add, bool out_rows, T* out,
                   Queue) {
  Reader<T> x{A, dim};
  parallel_for(dim, block, [&](int64_t first, int64_t last) {
    std::vector<double> row(static_cast<size_t>(columns));
    for (int64_t i = first; i < last; ++i) {
      std::fill(row.begin(), row.end(), 0.0);
      for (int64_t p = 0; p < A.columns; ++p)
        for (int64_t q = 0; q < columns; ++q) row[static_cast<size_t>(q)] += x(i, p) * M[p * columns + q];
      for (int64_t q = 0; q < columns; ++q) {
        T& o = out[out_rows ? q * dim + i : i * columns + q];
        o = T((add ? double(o) : 0.0) + row[static_cast<size_t>(q)]);
      }
    }
  });
}

template <class T>
void lowrank_apply(const LowRankArgs<T>& a, Queue queue) {
  int64_t size = a.batch * a.rows * a.dim;
  std::vector<T> z;
  const T* b[max_spectral_terms];
  for (int n = 0; n < a.n_terms; ++n) {
    b[n] = a.terms[n].b;
    if (!b[n]) {
      z.resize(static_cast<size_t>(size));
      fill_normal<T>(z.data(), size, 0, a.key, a.counter, queue);
      b[n] = z.data();
    }
  }
  parallel_for(a.batch * a.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> sum(static_cast<size_t>(a.dim)), c(static_cast<size_t>(a.rank));
    for (int64_t r = begin; r < end; ++r) {
      int64_t item = r / a.rows;
      const T* U = a.U + item * a.dim * a.rank;
      double t = a.t[a.t_per_batch ? item : 0], least = a.least ? a.least[a.t_per_batch ? item : 0] : 0.0;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int n = 0; n < a.n_terms; ++n) {
        Spectral f = a.terms[n].function;
        double scale = a.terms[n].scale, alpha = spectral_alpha(f, t);
        const T* x = b[n] + r * a.dim;
        std::fill(c.begin(), c.end(), 0.0);
        if (f != Spectral::identity)
          for (int64_t i = 0; i < a.dim; ++i)
            for (int64_t k = 0; k < a.rank; ++k) c[size_t(k)] += double(U[i * a.rank + k]) * double(x[i]);
        for (int64_t k = 0; k < a.rank; ++k)
          c[size_t(k)] *= spectral_weight(f, double(a.s[item * a.rank + k]), t, least);
        for (int64_t i = 0; i < a.dim; ++i) {
          double y = alpha * double(x[i]);
          if (f != Spectral::identity)
            for (int64_t k = 0; k < a.rank; ++k) y += double(U[i * a.rank + k]) * c[size_t(k)];
          sum[size_t(i)] += scale * y;
        }
      }
      for (int64_t i = 0; i < a.dim; ++i) a.out[r * a.dim + i] = T(sum[size_t(i)]);
    }
  });
}

template <class T>
void lowrank_quadratic(const LowRankArgs<T>& a, double* out, Queue queue) {
  std::vector<T> y(static_cast<size_t>(a.batch * a.rows * a.dim));
  LowRankArgs<T> applied = a;
  applied.out = y.data();
  lowrank_apply(applied, queue);
  parallel_for(a.batch * a.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double sum = 0.0;
      for (int64_t i = r * a.dim; i < (r + 1) * a.dim; ++i) sum += double(a.terms[0].b[i]) * double(y[size_t(i)]);
      out[r] = sum;
    }
  });
}

namespace {
bool jacobi_done(double off, double diagonal) { return !(off > 1e-32 * diagonal); }
}  // namespace

template <class T>
int64_t woodbury(const WoodburyArgs<T>& a, Queue) {
  std::vector<int64_t> failed(static_cast<size_t>(a.batch), 0);
  parallel_for(a.batch, 1, [&](int64_t begin, int64_t end) {
    int64_t k = a.rank, d = a.dim;
    std::vector<double> G(static_cast<size_t>(k * k)), Q = G, c(static_cast<size_t>(k)), y = c,
                                                       root(static_cast<size_t>(d), 1.0);
    for (int64_t item = begin; item < end; ++item) {
      const T* W = a.W + item * d * k;
      double t = a.diagonal ? 1.0 : a.t[a.t_per_batch ? item : 0], logdet = double(d - k) * std::log(t);
      if (a.diagonal)
        for (int64_t i = 0; i < d; ++i) {
          double D = double(a.diagonal[(a.diagonal_per_batch ? item * d : 0) + i]);
          root[size_t(i)] = 1.0 / std::sqrt(D);
          logdet += std::log(D);
        }
      std::fill(G.begin(), G.end(), 0.0);
      std::fill(c.begin(), c.end(), 0.0);
      bool solve = a.function == Spectral::solve;
      for (int64_t i = 0; i < d; ++i) {
        double r = root[size_t(i)], b = a.b ? double(a.b[item * d + i]) * (solve ? r : 1.0) : 0.0;
        for (int64_t p = 0; p < k; ++p) {
          double x = double(W[i * k + p]) * r;
          c[size_t(p)] += x * b;
          for (int64_t q = 0; q < k; ++q) G[size_t(p * k + q)] += x * double(W[i * k + q]) * r;
        }
      }
      double alpha;
      if (solve) {
        for (int64_t p = 0; p < k; ++p) G[size_t(p * k + p)] += t;
        double least = k ? cholesky(G.data(), int(k)) : 1.0;
        bool bad = !(least > 0.0);
        failed[size_t(item)] = bad;
        cholesky_solve(G.data(), int(k), c.data());
        for (int64_t p = 0; p < k; ++p) {
          logdet += 2.0 * std::log(G[size_t(p * k + p)]);
          y[size_t(p)] = bad ? std::numeric_limits<double>::quiet_NaN() : -c[size_t(p)] / t;
        }
        alpha = 1.0 / t;
      } else {
        jacobi_eigen(G.data(), Q.data(), int(k), jacobi_done);
        std::fill(y.begin(), y.end(), 0.0);
        for (int64_t e = 0; e < k; ++e) {
          double g = std::max(0.0, G[size_t(e * k + e)]), dot = 0.0;
          logdet += std::log(g + t);
          for (int64_t p = 0; p < k; ++p) dot += Q[size_t(p * k + e)] * c[size_t(p)];
          double rt = std::sqrt(t), rg = std::sqrt(g + t);
          dot *= -1.0 / (rt * rg * (rt + rg));
          for (int64_t p = 0; p < k; ++p) y[size_t(p)] += Q[size_t(p * k + e)] * dot;
        }
        alpha = 1.0 / std::sqrt(t);
      }
      if (a.logdet) a.logdet[item] = logdet;
      if (!a.out) continue;
      for (int64_t i = 0; i < d; ++i) {
        double r = root[size_t(i)], x = 0.0;
        for (int64_t p = 0; p < k; ++p) x += double(W[i * k + p]) * y[size_t(p)];
        a.out[item * d + i] = T(r * (alpha * double(a.b[item * d + i]) * (solve ? r : 1.0) + r * x));
      }
    }
  });
  int64_t total = 0;
  for (int64_t f : failed) total += f;
  return total;
}

template <class T>
void gram_factor(int64_t batch, int64_t dim, int64_t rank, const T* W, T* U, T* s, Queue) {
  parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
    int64_t k = rank;
    std::vector<double> G(static_cast<size_t>(k * k)), Q = G;
    std::vector<int64_t> order(static_cast<size_t>(k));
    for (int64_t item = begin; item < end; ++item) {
      const T* w = W + item * dim * k;
      std::fill(G.begin(), G.end(), 0.0);
      for (int64_t i = 0; i < dim; ++i)
        for (int64_t p = 0; p < k; ++p)
          for (int64_t q = 0; q < k; ++q) G[size_t(p * k + q)] += double(w[i * k + p]) * double(w[i * k + q]);
      jacobi_eigen(G.data(), Q.data(), int(k), jacobi_done);
      for (int64_t e = 0; e < k; ++e) order[size_t(e)] = e;
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t p, int64_t q) { return G[size_t(p * k + p)] > G[size_t(q * k + q)]; });
      double most = k ? G[size_t(order[0] * k + order[0])] : 0.0;
      double floor = double(k) * std::numeric_limits<double>::epsilon() * most;
      for (int64_t e = 0; e < k; ++e) {
        int64_t o = order[size_t(e)];
        double g = G[size_t(o * k + o)];
        bool kept = g > floor;
        s[item * k + e] = kept ? T(g) : T(0);
        double scale = kept ? 1.0 / std::sqrt(g) : 0.0;
        for (int64_t i = 0; i < dim; ++i) {
          double x = 0.0;
          for (int64_t p = 0; p < k; ++p) x += double(w[i * k + p]) * Q[size_t(p * k + o)];
          U[(item * dim + i) * k + e] = T(x * scale);
        }
      }
    }
  });
}

template <class T>
void levenberg_marquardt_rows(const DirectionArgs<T>& a, Queue) {
  parallel_for(a.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *e = a.e + r * a.dim, *p = a.previous + r * a.dim;
      double ee = 0.0, ep = 0.0, pp = 0.0;
      for (int64_t i = 0; i < a.dim; ++i) {
        ee += double(e[i]) * double(e[i]);
        ep += double(e[i]) * double(p[i]);
        pp += double(p[i]) * double(p[i]);
      }
      TwoTerms c = levenberg_marquardt(a.rule, a.value, a.kappa, ee, ep, pp);
      for (int64_t i = 0; i < a.dim; ++i) a.out[r * a.dim + i] = T(c.e * double(e[i]) + c.previous * double(p[i]));
    }
  });
}

#define MK_INSTANTIATE(T)                                                                                 \
  template LanczosStep lanczos_step<T>(const LanczosArgs<T>&, Queue);                                     \
  template void tall_gram<T>(int64_t, const Tall<T>&, const Tall<T>&, double*, Queue);                    \
  template void tall_multiply<T>(int64_t, const Tall<T>&, const double*, int64_t, bool, bool, T*, Queue); \
  template void lowrank_apply<T>(const LowRankArgs<T>&, Queue);                                           \
  template void lowrank_quadratic<T>(const LowRankArgs<T>&, double*, Queue);                              \
  template int64_t woodbury<T>(const WoodburyArgs<T>&, Queue);                                            \
  template void gram_factor<T>(int64_t, int64_t, int64_t, const T*, T*, T*, Queue);                       \
  template void levenberg_marquardt_rows<T>(const DirectionArgs<T>&, Queue);
MK_INSTANTIATE(float)
MK_INSTANTIATE(double)
#undef MK_INSTANTIATE

}  // namespace cpu
}  // namespace mk
