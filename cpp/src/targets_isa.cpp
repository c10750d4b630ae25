// Built-in targets, one instruction set. Particles lie in lanes: a block of them is transposed into (dim, lanes), so every
// number of the model is loaded once per block and a particle's sums are in the same order at every register width.
#include "targets_isa.hpp"

#include "mckean/targets.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

constexpr int registers = 2;       // of particles in a block
constexpr int row_tile = 4;        // rows whose products share one load of the particles
constexpr int64_t run_rows = 128;  // terms summed in T before they join a double

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int width = Ops<Vec<T>>::N;
template <class T>
constexpr int lanes = registers * width<T>;

template <class T>
int valid_lanes(const TargetPoints<T>& at, int64_t first) {
  return static_cast<int>(at.n - first < lanes<T> ? at.n - first : lanes<T>);
}

template <class T>
void load_points(const TargetPoints<T>& at, int64_t first, T* __restrict out) {
  constexpr int L = lanes<T>;
  int valid = valid_lanes(at, first);
  for (int l = 0; l < L; ++l) {
    const T* row = at.x + (first + (l < valid ? l : valid - 1)) * at.dim;
    for (int64_t j = 0; j < at.dim; ++j) out[j * L + l] = row[j];
  }
}

template <class T, class S>
void store_gradient(const TargetPoints<T>& at, int64_t first, const S* __restrict g) {
  constexpr int L = lanes<T>;
  if (!at.gradient) return;
  int valid = valid_lanes(at, first);
  for (int l = 0; l < valid; ++l) {
    T* row = at.gradient + (first + l) * at.dim;
    for (int64_t j = 0; j < at.dim; ++j) row[j] = static_cast<T>(g[j * L + l]);
  }
}

template <class T, class S>
void store_density(const TargetPoints<T>& at, int64_t first, const S* density) {
  if (!at.density) return;
  int valid = valid_lanes(at, first);
  for (int l = 0; l < valid; ++l) at.density[first + l] = static_cast<T>(density[l]);
}

template <class T>
void clear(T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = T(0);
}

template <class T>
void add_to(double* __restrict totals, const T* __restrict part, int64_t n) {
  for (int64_t i = 0; i < n; ++i) totals[i] = totals[i] + static_cast<double>(part[i]);
}

// R rows against one block: density += their terms, g += their gradient.
//
// Per column 2 loads of particles (and in the second loop 2 stores), R broadcasts, 2 R products and 2 R sums. Bound by the
// multiply and add ports: with two of each and R = 4 that is 16 operations in 4 cycles, and exp and the divisions of the
// link come on top. Measured on one Zen 3 core with AVX2, value and gradient of 2000 logistic rows, counting 4 operations
// per particle, row and column: float 50 GFLOP/s at 100 columns, 62 at 1000, 4 at 3 (the link, 2.5 ns per particle and
// row, is all there is); double 22, 26 and 2.
template <class T, class Link, int R, bool value, bool gradient>
MK_HD void add_row_tile(const T* __restrict x, const T* __restrict rows, int64_t stride, int64_t cols,
                        T* __restrict density, T* __restrict g) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  V t[registers][R];
  for (int c = 0; c < registers; ++c)
    for (int r = 0; r < R; ++r) t[c][r] = V{};
  for (int64_t j = 0; j < cols; ++j) {
    V p[registers];
    for (int c = 0; c < registers; ++c) p[c] = load<V>(x + j * L + c * N);
    for (int r = 0; r < R; ++r) {
      V w = Ops<V>::constant(rows[r * stride + j]);
      for (int c = 0; c < registers; ++c) t[c][r] = t[c][r] + w * p[c];
    }
  }
  for (int c = 0; c < registers; ++c) {
    auto run = Link::template start<V>();
    for (int r = 0; r < R; ++r) Link::template term<V>(run, t[c][r]);
    if (value) store<V>(density + c * N, load<V>(density + c * N) + Link::template finish<V>(run));
  }
  if (!gradient) return;
  for (int64_t j = 0; j < cols; ++j) {
    V s[registers];
    for (int c = 0; c < registers; ++c) s[c] = load<V>(g + j * L + c * N);
    for (int r = 0; r < R; ++r) {
      V w = Ops<V>::constant(rows[r * stride + j]);
      for (int c = 0; c < registers; ++c) s[c] = s[c] + w * t[c][r];
    }
    for (int c = 0; c < registers; ++c) store<V>(g + j * L + c * N, s[c]);
  }
}

// Rows row .. row_end of a matrix with `cols` columns; triangular: row r is zero after column r.
template <class T, class Link, bool value, bool gradient>
void add_rows(const T* x, const T* matrix, int64_t cols, bool triangular, int64_t row, int64_t row_end, T* density,
              T* g) {
  for (; row + row_tile <= row_end; row += row_tile)
    add_row_tile<T, Link, row_tile, value, gradient>(x, matrix + row * cols, cols, triangular ? row + row_tile : cols,
                                                     density, g);
  for (; row < row_end; ++row)
    add_row_tile<T, Link, 1, value, gradient>(x, matrix + row * cols, cols, triangular ? row + 1 : cols, density, g);
}

// ---- Gaussian mixtures ----------------------------------------------------------------------------------------------

template <class T>
void full_component(const MixtureArgs<T>& a, int64_t k, const T* x, T* centred, double* density, T* g) {
  constexpr int L = lanes<T>;
  const int64_t d = a.at.dim;
  const T* mean = a.means + k * d;
  const T* matrix = a.whitening + k * d * d;
  for (int64_t j = 0; j < d; ++j)
    for (int l = 0; l < L; ++l) centred[j * L + l] = x[j * L + l] - mean[j];
  if (a.at.gradient) clear(g, d * L);
  for (int64_t row = 0; row < d; row += run_rows) {
    int64_t end = row + run_rows < d ? row + run_rows : d;
    T part[L] = {};
    if (a.at.gradient)
      add_rows<T, GaussianLink, true, true>(centred, matrix, d, true, row, end, part, g);
    else
      add_rows<T, GaussianLink, true, false>(centred, matrix, d, true, row, end, part, g);
    add_to(density, part, L);
  }
}

template <class T>
void diagonal_component(const MixtureArgs<T>& a, int64_t k, const T* x, double* density, T* g) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  const int64_t d = a.at.dim;
  const T* mean = a.means + k * d;
  const T* factor = a.whitening + k * d;
  for (int64_t first = 0; first < d; first += run_rows) {
    int64_t end = first + run_rows < d ? first + run_rows : d;
    T part[L];
    for (int c = 0; c < registers; ++c) {
      auto run = GaussianLink::start<V>();
      for (int64_t j = first; j < end; ++j) {
        V w = Ops<V>::constant(factor[j]);
        V t = (load<V>(x + j * L + c * N) - Ops<V>::constant(mean[j])) * w;
        GaussianLink::term<V>(run, t);
        store<V>(g + j * L + c * N, t * w);
      }
      store<V>(part + c * N, GaussianLink::finish<V>(run));
    }
    add_to(density, part, L);
  }
}

// Bound by the products of full matrices (see add_row_tile), else by the transposition.
template <class T>
void mixture(const MixtureArgs<T>& a, int64_t first, T* scratch) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  const int64_t d = a.at.dim;
  T *x = scratch, *centred = x + d * L, *g = centred + d * L, *sum_g = g + d * L;
  load_points(a.at, first, x);
  double top[L];
  T sum[L], delta[L], log_sum[L];
  for (int64_t k = 0; k < a.components; ++k) {
    double density[L];
    for (int l = 0; l < L; ++l) density[l] = 0.0;
    T* out = k == 0 ? sum_g : g;
    if (a.full)
      full_component(a, k, x, centred, density, out);
    else
      diagonal_component(a, k, x, density, out);
    for (int l = 0; l < L; ++l) density[l] = density[l] + a.constants[k];
    if (k == 0) {
      for (int l = 0; l < L; ++l) top[l] = density[l];
      for (int l = 0; l < L; ++l) sum[l] = T(1);
      continue;
    }
    for (int l = 0; l < L; ++l) delta[l] = static_cast<T>(mixture_delta(top[l], density[l]));
    for (int c = 0; c < registers; ++c) {
      MixtureScales<V> s = mixture_scales<V>(load<V>(delta + c * N));
      store<V>(sum + c * N, load<V>(sum + c * N) * s.old + s.joining);
      if (!a.at.gradient) continue;
      for (int64_t j = 0; j < d; ++j) {
        T* at = sum_g + j * L + c * N;
        store<V>(at, load<V>(at) * s.old + load<V>(g + j * L + c * N) * s.joining);
      }
    }
  }
  if (a.components > 1) {
    for (int c = 0; c < registers; ++c) {
      V s = load<V>(sum + c * N);
      store<V>(log_sum + c * N, log_positive<V>(s));
      for (int64_t j = 0; j < (a.at.gradient ? d : 0); ++j) {
        T* at = sum_g + j * L + c * N;
        store<V>(at, load<V>(at) / s);
      }
    }
    for (int l = 0; l < L; ++l) top[l] = top[l] + static_cast<double>(log_sum[l]);
  }
  store_density(a.at, first, top);
  store_gradient(a.at, first, sum_g);
}

// ---- funnel and banana: bound by memory and the transposition -------------------------------------------------------

// Sum of squares of coordinates from .. dim, in runs, of one register of particles.
template <class T>
MK_HD Vec<T> squares_from(const T* x, int64_t from, int64_t dim) {
  using V = Vec<T>;
  constexpr int L = lanes<T>;
  V total{};
  for (int64_t first = from; first < dim; first += run_rows) {
    int64_t end = first + run_rows < dim ? first + run_rows : dim;
    V part{};
    for (int64_t j = first; j < end; ++j) {
      V v = load<V>(x + j * L);
      part = part + v * v;
    }
    total = total + part;
  }
  return total;
}

template <class T>
void funnel(const FunnelArgs<T>& a, int64_t first, T* x) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  const int64_t d = a.at.dim;
  T density[L];
  load_points(a.at, first, x);
  for (int c = 0; c < registers; ++c) {
    T* lane = x + c * N;
    FunnelPoint<V> p =
        funnel_point<V>(load<V>(lane), squares_from(lane, 1, d), static_cast<T>(d - 1), a.precision, a.constant);
    store<V>(density + c * N, p.density);
    store<V>(lane, p.gradient0);
    for (int64_t j = 1; j < d; ++j) store<V>(lane + j * L, -(p.shrink * load<V>(lane + j * L)));
  }
  store_density(a.at, first, density);
  store_gradient(a.at, first, x);
}

template <class T>
void banana(const BananaArgs<T>& a, int64_t first, T* x) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  const int64_t d = a.at.dim;
  T density[L];
  load_points(a.at, first, x);
  for (int c = 0; c < registers; ++c) {
    T* lane = x + c * N;
    BananaPoint<V> p = banana_point<V, T>(load<V>(lane), load<V>(lane + L), squares_from(lane, 2, d), a);
    store<V>(density + c * N, p.density);
    store<V>(lane, p.gradient0);
    store<V>(lane + L, p.gradient1);
    for (int64_t j = 2; j < d; ++j) store<V>(lane + j * L, -load<V>(lane + j * L));
  }
  store_density(a.at, first, density);
  store_gradient(a.at, first, x);
}

// ---- logistic regression --------------------------------------------------------------------------------------------

// log density and gradient of the prior, without its constant.
template <class T>
void logistic_prior(const LogisticArgs<T>& a, const T* x, double* totals) {
  constexpr int L = lanes<T>;
  const int64_t d = a.at.dim;
  double density[L];
  for (int l = 0; l < L; ++l) density[l] = 0.0;
  for (int64_t j = 0; j < d; ++j) {
    double w = static_cast<double>(a.precision[j]);
    for (int l = 0; l < L; ++l) {
      double v = static_cast<double>(x[j * L + l]), g = -(w * v);
      totals[j * L + l] = g;
      density[l] = density[l] + g * v;
    }
  }
  for (int l = 0; l < L; ++l) totals[d * L + l] = 0.5 * density[l];
}

template <class T>
void logistic_rows(const LogisticArgs<T>& a, int64_t first, int64_t row, int64_t row_end, T* scratch, double* totals) {
  constexpr int L = lanes<T>;
  const int64_t d = a.at.dim;
  T *x = scratch, *g = x + d * L;
  load_points(a.at, first, x);
  if (row == 0)
    logistic_prior(a, x, totals);
  else
    clear(totals, (d + 1) * L);
  for (; row < row_end; row += run_rows) {
    int64_t end = row + run_rows < row_end ? row + run_rows : row_end;
    T density[L] = {};
    if (!a.at.gradient) {
      add_rows<T, LogisticLink, true, false>(x, a.signed_rows, d, false, row, end, density, g);
    } else {
      clear(g, d * L);
      if (a.at.density)
        add_rows<T, LogisticLink, true, true>(x, a.signed_rows, d, false, row, end, density, g);
      else
        add_rows<T, LogisticLink, false, true>(x, a.signed_rows, d, false, row, end, density, g);
      add_to(totals, g, d * L);
    }
    add_to(totals + d * L, density, L);
  }
}

template <class T>
void logistic_finish(const LogisticArgs<T>& a, int64_t first, const double* totals) {
  constexpr int L = lanes<T>;
  double density[L];
  for (int l = 0; l < L; ++l) density[l] = a.constant + totals[a.at.dim * L + l];
  store_density(a.at, first, density);
  store_gradient(a.at, first, totals);
}

}  // namespace

extern const TargetTable target_table;
const TargetTable target_table = {
    {lanes<float>, mixture<float>, funnel<float>, banana<float>, logistic_rows<float>, logistic_finish<float>},
    {lanes<double>, mixture<double>, funnel<double>, banana<double>, logistic_rows<double>, logistic_finish<double>}};

}  // namespace MK_ISA
}  // namespace mk
