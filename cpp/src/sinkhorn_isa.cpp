// Loops of entropic transport, one instruction set. See sinkhorn_isa.hpp.
//
// Bound by the multiply ports: in two dimensions 11 products for a register of pairs, with their share of the columns.
// Measured on one Zen 3 core with AVX2, two dimensions, ns a pair: 0.39 and 0.05 for the columns in float, 1.09 and 0.07 in
// double; a stored cost 0.38 and 0.98, kept entries 0.09 and 0.14.
#include "sinkhorn_isa.hpp"

#include "mckean/kernels.hpp"
#include "simd.hpp"
#include "tile_simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int width = Ops<Vec<T>>::N;
constexpr int pair = 2;

// 2^z, at most 2^126: states far from a plan give large numbers, not garbage.
template <class V>
MK_HD V entry(V z) {
  using T = typename Ops<V>::T;
  return exp2_small<V>(Ops<V>::min(z, splat<V>(T(Format<T>::bias - 1))));
}

template <class T>
void pack_panel(const T* y, int64_t dim, int valid, int cols, const T* __restrict centre, T scale,
                T* __restrict panel) {
  for (int64_t k = 0; k < dim; ++k) {
    T* __restrict out = panel + k * tile_cols<T>;
    for (int j = 0; j < valid; ++j) out[j] = (y[j * dim + k] - centre[k]) * scale;
    for (int j = valid; j < cols; ++j) out[j] = T(0);
  }
}

template <class T>
void pack_rows(const T* __restrict x, int64_t dim, int64_t rows, const T* __restrict centre, T scale,
               T* __restrict out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < dim; ++k) out[r * dim + k] = (x[r * dim + k] - centre[k]) * scale;
}

template <class T, int D, bool root, int R>
MK_HD void fused_rows(const T* __restrict x, const T* __restrict panel, int cols, const T* __restrict f,
                      const T* __restrict g, const T* __restrict v, T* __restrict e, int64_t stride, double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  V sum[R];
  for (int r = 0; r < R; ++r) sum[r] = V{};
  for (int j = 0; j < cols; j += pair * N) {
    V s[R][pair];
    for (int k = 0; k < D; ++k)
      for (int i = 0; i < pair; ++i) {
        V y = load<V>(panel + k * C + j + i * N);
        for (int r = 0; r < R; ++r) {
          V d = splat<V>(x[r * D + k]) - y;
          s[r][i] = k == 0 ? d * d : s[r][i] + d * d;
        }
      }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < pair; ++i) {
        const int at = j + i * N;
        V c = root ? Ops<V>::sqrt(s[r][i]) : s[r][i];
        V p = entry<V>((splat<V>(f[r]) + load<V>(g + at)) - c);
        store<V>(e + r * stride + at, p);
        sum[r] = sum[r] + p * load<V>(v + at);
      }
  }
  for (int r = 0; r < R; ++r) sums[r] += fold<V>(sum[r]);
}

template <class T, int D, bool root>
void fused(const T* x, int rows, const T* panel, int cols, const T* f, const T* g, const T* v, T* e, int64_t stride,
           double* sums) {
  constexpr int R = sizeof(T) == 4 ? 2 : 1;  // in double the polynomial alone keeps the ports busy
  int r = 0;
  for (; r + R <= rows; r += R)
    fused_rows<T, D, root, R>(x + r * D, panel, cols, f + r, g, v, e + r * stride, stride, sums + r);
  for (; r < rows; ++r)
    fused_rows<T, D, root, 1>(x + r * D, panel, cols, f + r, g, v, e + r * stride, stride, sums + r);
}

// Costs of infinity stay finite, so that 0 times a cost is 0.
template <class V>
MK_HD V bounded_cost(V c, typename Ops<V>::T rate) {
  using T = typename Ops<V>::T;
  return Ops<V>::min(c * splat<V>(rate), splat<V>(static_cast<T>(sizeof(T) == 4 ? 1e30 : 1e300)));
}

template <class T>
void fused_dense(const T* __restrict cost, int64_t cost_stride, int rows, int valid, int cols, T rate,
                 const T* __restrict f, const T* __restrict g, const T* __restrict v, T* __restrict e, int64_t stride,
                 double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int r = 0; r < rows; ++r) {
    const T* row = cost + r * cost_stride;
    T* out = e + r * stride;
    V sum[2] = {}, top = splat<V>(f[r]);
    auto one = [&](V c, int j, int i) {
      V p = entry<V>((top + load<V>(g + j)) - bounded_cost<V>(c, rate));
      store<V>(out + j, p);
      sum[i] = sum[i] + p * load<V>(v + j);
    };
    int j = 0;
    for (; j + 2 * N <= valid; j += 2 * N) {
      one(load<V>(row + j), j, 0);
      one(load<V>(row + j + N), j + N, 1);
    }
    for (; j < cols; j += N) one(load_first<V>(row + j, valid - j < 0 ? 0 : valid - j < N ? valid - j : N), j, 0);
    sums[r] += fold<V>(sum[0] + sum[1]);
  }
}

template <class T>
void fused_tile(const T* __restrict c, int rows, int cols, const T* __restrict f, const T* __restrict g,
                const T* __restrict v, T* __restrict e, int64_t stride, double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r) {
    V sum[pair] = {}, top = splat<V>(f[r]);
    for (int j = 0; j < cols; j += pair * N)
      for (int i = 0; i < pair; ++i) {
        int at = j + i * N;
        V p = entry<V>((top + load<V>(g + at)) - load<V>(c + r * C + at));
        store<V>(e + r * stride + at, p);
        sum[i] = sum[i] + p * load<V>(v + at);
      }
    sums[r] += fold<V>(sum[0] + sum[1]);
  }
}

template <class T, int R>
MK_HD void dot_rows(const T* __restrict e, int64_t stride, int64_t cols, const T* __restrict v, double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int64_t first = 0; first < cols; first += 1024) {
    int64_t last = first + 1024 < cols ? first + 1024 : cols;
    V sum[R][pair];
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < pair; ++i) sum[r][i] = V{};
    for (int64_t j = first; j < last; j += pair * N)
      for (int i = 0; i < pair; ++i) {
        V w = load<V>(v + j + i * N);
        for (int r = 0; r < R; ++r) sum[r][i] = sum[r][i] + load<V>(e + r * stride + j + i * N) * w;
      }
    for (int r = 0; r < R; ++r) sums[r] += fold<V>(sum[r][0] + sum[r][1]);
  }
}
template <class T>
void dots(const T* e, int64_t stride, int rows, int64_t cols, const T* v, double* sums) {
  int r = 0;
  for (; r + row_step <= rows; r += row_step) dot_rows<T, row_step>(e + r * stride, stride, cols, v, sums + r);
  for (; r < rows; ++r) dot_rows<T, 1>(e + r * stride, stride, cols, v, sums + r);
}

template <class T, int R>
MK_HD void spread_rows(const T* __restrict e, int64_t stride, int64_t cols, const T* __restrict u, T* __restrict col) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  V w[R];
  for (int r = 0; r < R; ++r) w[r] = splat<V>(u[r]);
  for (int64_t j = 0; j < cols; j += pair * N)
    for (int i = 0; i < pair; ++i) {
      const T* at = e + j + i * N;
      V sum = load<V>(at) * w[0];
      for (int r = 1; r < R; ++r) sum = sum + load<V>(at + r * stride) * w[r];
      store<V>(col + j + i * N, load<V>(col + j + i * N) + sum);
    }
}
template <class T>
void spread(const T* e, int64_t stride, int rows, int64_t cols, const T* u, T* col) {
  int r = 0;
  for (; r + row_step <= rows; r += row_step) spread_rows<T, row_step>(e + r * stride, stride, cols, u + r, col);
  for (; r < rows; ++r) spread_rows<T, 1>(e + r * stride, stride, cols, u + r, col);
}

template <class T>
void flush(T* __restrict part, int64_t cols, double* __restrict sums) {
  for (int64_t j = 0; j < cols; ++j) {
    sums[j] += static_cast<double>(part[j]);
    part[j] = T(0);
  }
}

// ---- tiles of costs -------------------------------------------------------------------------------------------------

template <class T>
void tile_of_cost(const T* __restrict cost, int64_t stride, int rows, int valid, int cols, T rate, T* __restrict c) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) {
      int n = valid - j < 0 ? 0 : valid - j < N ? valid - j : N;
      store<V>(c + r * tile_cols<T> + j, bounded_cost<V>(load_first<V>(cost + r * stride + j, n), rate));
    }
}

// Columns of the stored matrix are the rows of the tile.
template <class T>
void tile_of_transposed(const T* __restrict cost, int64_t stride, int rows, int valid, int cols, T rate,
                        T* __restrict c) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  int r = 0;
  for (; r + N <= rows; r += N)
    for (int j = 0; j < cols; j += N) {
      V v[N];
      for (int l = 0; l < N; ++l) v[l] = j + l < valid ? load<V>(cost + (j + l) * stride + r) : V{};
      transpose<V>(v);
      for (int l = 0; l < N; ++l) store<V>(c + (r + l) * C + j, bounded_cost<V>(v[l], rate));
    }
  for (; r < rows; ++r)
    for (int j = 0; j < cols; ++j) {
      T value = j < valid ? cost[j * stride + r] * rate : T(0);
      const T most = static_cast<T>(sizeof(T) == 4 ? 1e30 : 1e300);
      c[r * C + j] = value < most ? value : most;
    }
}

template <class T, CostKind kind>
MK_HD void raise_as(T* __restrict s, int rows, int cols, double power) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) {
      T* at = s + r * tile_cols<T> + j;
      store<V>(at, cost_of_square<V>(load<V>(at), CostRule{kind, power}));
    }
}
template <class T>
void raise(T* s, int rows, int cols, const CostRule& rule) {
  switch (rule.kind) {
    case CostKind::square: return;
    case CostKind::root: return raise_as<T, CostKind::root>(s, rows, cols, 1.0);
    case CostKind::cube: return raise_as<T, CostKind::cube>(s, rows, cols, 3.0);
    case CostKind::fourth: return raise_as<T, CostKind::fourth>(s, rows, cols, 4.0);
    default: return raise_as<T, CostKind::power>(s, rows, cols, rule.power);
  }
}

template <class T>
void cost_sums(const T* __restrict c, const T* __restrict e, int rows, int cols, const T* __restrict v, double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r) {
    V sum[pair] = {};
    for (int j = 0; j < cols; j += pair * N)
      for (int i = 0; i < pair; ++i) {
        int at = r * C + j + i * N;
        V cost = Ops<V>::min(load<V>(c + at), splat<V>(static_cast<T>(sizeof(T) == 4 ? 1e30 : 1e300)));
        sum[i] = sum[i] + (load<V>(e + at) * load<V>(v + j + i * N)) * cost;
      }
    sums[r] += fold<V>(sum[0] + sum[1]);
  }
}

template <class T>
void slopes(const T* __restrict s, T* __restrict e, int rows, int cols, const T* __restrict v, const CostRule& rule) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) {
      int at = r * C + j;
      store<V>(e + at, load<V>(e + at) * load<V>(v + j) * cost_slope<V>(load<V>(s + at), rule));
    }
}

template <class T>
void weigh(T* __restrict e, int rows, int cols, const T* __restrict v) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) store<V>(e + r * C + j, load<V>(e + r * C + j) * load<V>(v + j));
}

// ---- log-sum-exp ----------------------------------------------------------------------------------------------------

template <class T>
void exponents(T* __restrict c, int rows, int cols, const T* __restrict g, T* top) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r) {
    V best[pair];
    for (int i = 0; i < pair; ++i) best[i] = splat<V>(static_cast<T>(-__builtin_inff()));
    for (int j = 0; j < cols; j += pair * N)
      for (int i = 0; i < pair; ++i) {
        int at = r * C + j + i * N;
        V z = load<V>(g + j + i * N) - load<V>(c + at);
        store<V>(c + at, z);
        best[i] = Ops<V>::max(best[i], z);
      }
    V b = Ops<V>::max(best[0], best[1]);
    T most = Ops<V>::lane(b, 0);
    for (int l = 1; l < N; ++l) most = Ops<V>::lane(b, l) > most ? Ops<V>::lane(b, l) : most;
    top[r] = most;
  }
}

template <class T>
void exponentials(const T* __restrict z, int rows, int cols, const T* top, const T* __restrict v, double* sums) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r) {
    V sum[pair] = {}, shift = splat<V>(top[r]);
    for (int j = 0; j < cols; j += pair * N)
      for (int i = 0; i < pair; ++i)
        sum[i] = sum[i] + exp2_small<V>(load<V>(z + r * C + j + i * N) - shift) * load<V>(v + j + i * N);
    sums[r] += fold<V>(sum[0] + sum[1]);
  }
}

template <class T>
int64_t find(const T* __restrict e, int64_t cols, const T* __restrict v, T level, const T* __restrict col_level,
             int32_t* found) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  int64_t count = 0;
  V least = splat<V>(level);
  for (int64_t j = 0; j < cols; j += N) {
    V p = load<V>(e + j) * load<V>(v + j), q = least * load<V>(col_level + j);
    if (!Ops<V>::any(p > q)) continue;
    for (int l = 0; l < N; ++l) {
      found[count] = static_cast<int32_t>(j + l);
      count += Ops<V>::lane(p, l) > Ops<V>::lane(q, l);
    }
  }
  return count;
}

#define MK_FUSED(T, root)                                                                         \
  {nullptr,           fused<T, 1, root>, fused<T, 2, root>, fused<T, 3, root>, fused<T, 4, root>, \
   fused<T, 5, root>, fused<T, 6, root>, fused<T, 7, root>, fused<T, 8, root>}
#define MK_SINKHORN_LOOPS(T)                                                                       \
  {width<T>,          pair * width<T>, pack_panel<T>,         pack_rows<T>,    MK_FUSED(T, false), \
   MK_FUSED(T, true), fused_dense<T>,  fused_tile<T>,         dots<T>,         spread<T>,          \
   flush<T>,          tile_of_cost<T>, tile_of_transposed<T>, raise<T>,        cost_sums<T>,       \
   slopes<T>,         weigh<T>,        exponents<T>,          exponentials<T>, find<T>}

}  // namespace

extern const SinkhornTable sinkhorn_table = {MK_SINKHORN_LOOPS(float), MK_SINKHORN_LOOPS(double)};

}  // namespace MK_ISA
}  // namespace mk
