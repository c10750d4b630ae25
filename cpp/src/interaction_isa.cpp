// Distances, inner products and sums over tiles, one instruction set. See interaction_isa.hpp for what a tile is.
#include "interaction_isa.hpp"

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
constexpr int pair = 2;                                    // registers of columns in a block
constexpr int block_rows = register_bytes == 64 ? 12 : 6;  // of inner products: 12 or 24 sums in registers

// ---- small dimensions: differences, coordinates compiled in ---------------------------------------------------------

template <class T>
void pack_panel(const T* y, int64_t stride, int64_t dim, int valid, int cols, T* __restrict panel) {
  for (int64_t k = 0; k < dim; ++k) {
    T* __restrict out = panel + k * tile_cols<T>;
    for (int j = 0; j < valid; ++j) out[j] = y[j * stride + k];
    for (int j = valid; j < cols; ++j) out[j] = T(0);
  }
}

enum class Form { squares, metric_squares, dots };

template <class V, Form form>
MK_HD V distance_term(V sum, V x, V y, V g) {
  if (form == Form::dots) return sum + x * y;
  V d = x - y;
  if (form == Form::squares) return sum + d * d;
  return sum + (d * g) * d;
}

// R rows against all columns. D = 0: any dimension, added to what is there unless `first`.
template <class T, int D, int R, Form form>
MK_HD void distance_rows(const T* __restrict x, int64_t stride, int64_t dim, const T* __restrict panel, int cols,
                         const T* __restrict metric, bool first, T* __restrict s) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int j = 0; j < cols; j += pair * N) {
    V sum[R][pair];
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < pair; ++i) sum[r][i] = D > 0 || first ? V{} : load<V>(s + r * C + j + i * N);
    const int64_t n = D > 0 ? D : dim;
    for (int64_t k = 0; k < n; ++k) {
      V y[pair];
      for (int i = 0; i < pair; ++i) y[i] = load<V>(panel + k * C + j + i * N);
      V g = form == Form::metric_squares ? splat<V>(metric[k]) : V{};
      for (int r = 0; r < R; ++r) {
        V v = splat<V>(x[r * stride + k]);
        for (int i = 0; i < pair; ++i) sum[r][i] = distance_term<V, form>(sum[r][i], v, y[i], g);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < pair; ++i) store<V>(s + r * C + j + i * N, sum[r][i]);
  }
}

template <class T, int D, Form form>
void distances(const T* x, int64_t stride, int rows, int64_t dim, const T* panel, int cols, const T* metric, bool first,
               T* s) {
  // Up to 4 dimensions two rows keep their coordinates in registers; beyond, four rows share the loads of a column.
  constexpr int R = D >= 1 && D <= 4 ? 2 : 4;
  int i = 0;
  for (; i + R <= rows; i += R)
    distance_rows<T, D, R, form>(x + i * stride, stride, dim, panel, cols, metric, first, s + i * tile_cols<T>);
  for (; i < rows; ++i)
    distance_rows<T, D, 1, form>(x + i * stride, stride, dim, panel, cols, metric, first, s + i * tile_cols<T>);
}

template <class T, int D, int R, bool weighted>
MK_HD void stein_rows(const T* __restrict x, const T* __restrict sx, int64_t stride, int64_t dim,
                      const T* __restrict panel, const T* __restrict score_panel, int cols, const T* __restrict metric,
                      bool first, const SteinTiles<T>& out, int row) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  const bool fresh = D > 0 || first;
  for (int j = 0; j < cols; j += N) {
    V s[R], dots[R], cross[R], bend[R];
    for (int r = 0; r < R; ++r) {
      int at = (row + r) * C + j;
      s[r] = fresh ? V{} : load<V>(out.s + at);
      dots[r] = fresh ? V{} : load<V>(out.dots + at);
      cross[r] = fresh ? V{} : load<V>(out.cross + at);
      bend[r] = !weighted || fresh ? V{} : load<V>(out.bend + at);
    }
    const int64_t n = D > 0 ? D : dim;
    for (int64_t k = 0; k < n; ++k) {
      V y = load<V>(panel + k * C + j), sy = load<V>(score_panel + k * C + j);
      V g = weighted ? splat<V>(metric[k]) : V{};
      for (int r = 0; r < R; ++r) {
        V u = splat<V>(sx[r * stride + k]);
        V d = splat<V>(x[r * stride + k]) - y;
        V e = u - sy;
        V gd = weighted ? g * d : d;
        s[r] = s[r] + gd * d;
        dots[r] = dots[r] + u * sy;
        cross[r] = cross[r] + e * gd;
        if (weighted) bend[r] = bend[r] + gd * gd;
      }
    }
    for (int r = 0; r < R; ++r) {
      int at = (row + r) * C + j;
      store<V>(out.s + at, s[r]);
      store<V>(out.dots + at, dots[r]);
      store<V>(out.cross + at, cross[r]);
      if (weighted) store<V>(out.bend + at, bend[r]);
    }
  }
}

template <class T, int D, bool weighted>
void stein(const T* x, const T* sx, int64_t stride, int rows, int64_t dim, const T* panel, const T* score_panel,
           int cols, const T* metric, bool first, const SteinTiles<T>& out) {
  int i = 0;
  for (; i + 2 <= rows; i += 2)
    stein_rows<T, D, 2, weighted>(x + i * stride, sx + i * stride, stride, dim, panel, score_panel, cols, metric, first,
                                  out, i);
  for (; i < rows; ++i)
    stein_rows<T, D, 1, weighted>(x + i * stride, sx + i * stride, stride, dim, panel, score_panel, cols, metric, first,
                                  out, i);
}

// ---- large dimensions: a matrix product -----------------------------------------------------------------------------

// A square of numbers, rows and columns exchanged: log2(N) rounds of interleaving register i with i + N / 2.
template <class V>
MK_HD void transpose(V* v) {
  constexpr int N = Ops<V>::N;
  using I = decltype(V{} < V{});
  I low, high;
  for (int l = 0; l < N; ++l) {
    low[l] = l / 2 + l % 2 * N;
    high[l] = N / 2 + l / 2 + l % 2 * N;
  }
  for (int round = 1; round < N; round *= 2) {
    V next[N];
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = __builtin_shuffle(v[i], v[i + N / 2], low);
      next[2 * i + 1] = __builtin_shuffle(v[i], v[i + N / 2], high);
    }
    for (int i = 0; i < N; ++i) v[i] = next[i];
  }
}

template <class T>
void pack_rows(const T* points, int64_t stride, int64_t dim, int rows, const T* __restrict centre,
               const T* __restrict scale, T* __restrict out) {
  for (int r = 0; r < rows; ++r) {
    const T* __restrict p = points + r * stride;
    for (int64_t k = 0; k < dim; ++k) out[r * dim + k] = (p[k] - centre[k]) * scale[k];
  }
}

template <class T>
void pack_columns(const T* points, int64_t stride, int64_t dim, int valid, const T* __restrict centre,
                  const T* __restrict scale, T* __restrict out) {
  using V = Vec<T>;
  constexpr int N = width<T>, group = pair * N;
  for (int first = 0; first < valid; first += group, out += dim * group)
    for (int part = 0; part < group; part += N) {
      const T* row[N];
      for (int l = 0; l < N; ++l) {
        int j = first + part + l;
        row[l] = points + (j < valid ? j : valid - 1) * stride;  // what is past the end is never read again
      }
      int64_t k = 0;
      for (; k + N <= dim; k += N) {
        V c = load<V>(centre + k), g = load<V>(scale + k), v[N];
        for (int l = 0; l < N; ++l) v[l] = (load<V>(row[l] + k) - c) * g;
        transpose<V>(v);
        for (int l = 0; l < N; ++l) store<V>(out + (k + l) * group + part, v[l]);
      }
      for (; k < dim; ++k)
        for (int l = 0; l < N; ++l) out[k * group + part + l] = (row[l][k] - centre[k]) * scale[k];
    }
}

// A few rows against one group of columns. With 6 rows and AVX2: 12 sums, 2 columns and a broadcast fill the 16
// registers; 12 products take 6 cycles and 8 loads 4.
template <class T>
MK_HD void product_tile(const T* __restrict a, const T* __restrict b, int rows, int64_t dim, bool first,
                        T* __restrict s) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>, R = block_rows;
  V sum[R][pair];
  const T* row[R];
  for (int r = 0; r < R; ++r) {
    row[r] = a + (r < rows ? r : 0) * dim;
    for (int i = 0; i < pair; ++i) sum[r][i] = V{};
  }
  for (int64_t k = 0; k < dim; ++k) {
    V y[pair];
    for (int i = 0; i < pair; ++i) y[i] = load<V>(b + k * (pair * N) + i * N);
    for (int r = 0; r < R; ++r) {
      V v = splat<V>(row[r][k]);
      for (int i = 0; i < pair; ++i) sum[r][i] = sum[r][i] + v * y[i];
    }
  }
  for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    for (int i = 0; i < pair; ++i) {
      T* at = s + r * C + i * N;
      store<V>(at, first ? sum[r][i] : load<V>(at) + sum[r][i]);
    }
  }
}

template <class T>
void product_block(const T* a, const T* b, int rows, int cols, int64_t dim, bool first, T* s) {
  constexpr int step = pair * width<T>;
  for (int j = 0; j < cols; j += step)
    for (int i = 0; i < rows; i += block_rows)
      product_tile<T>(a + i * dim, b + j * dim, rows - i < block_rows ? rows - i : block_rows, dim, first,
                      s + i * tile_cols<T> + j);
}

template <class T>
int finish_squares(T* __restrict s, int rows, int cols, const T* __restrict nx, const T* __restrict ny, T near,
                   int32_t* list) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  int found = 0;
  for (int r = 0; r < rows; ++r) {
    V row = splat<V>(nx[r]);
    for (int j = 0; j < cols; j += N) {
      V all = row + load<V>(ny + j);
      V dot = load<V>(s + r * C + j);
      V square = Ops<V>::max(all - (dot + dot), V{});
      store<V>(s + r * C + j, square);
      if (Ops<V>::any(square < all * splat<V>(near))) list[found++] = r * C + j;
    }
  }
  return found;
}

template <class T>
T norm(const T* __restrict p, const T* __restrict centre, const T* __restrict scale, int64_t dim) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  double total = 0.0;
  int64_t k = 0;
  while (k + 2 * N <= dim) {  // runs of 256, then in double, as the products are summed
    int64_t end = k + 256 < dim ? k + 256 : dim;
    V a = V{}, b = V{};
    for (; k + 2 * N <= end; k += 2 * N) {
      V u = (load<V>(p + k) - load<V>(centre + k)) * load<V>(scale + k);
      V v = (load<V>(p + k + N) - load<V>(centre + k + N)) * load<V>(scale + k + N);
      a = a + u * u;
      b = b + v * v;
    }
    total += fold<V>(a + b);
  }
  for (; k < dim; ++k) {
    T u = (p[k] - centre[k]) * scale[k];
    total += static_cast<double>(u) * static_cast<double>(u);
  }
  return static_cast<T>(total);
}

template <class T>
T pair_square(const T* __restrict x, const T* __restrict y, int64_t dim, const T* __restrict metric) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  V a = V{}, b = V{};
  int64_t k = 0;
  for (; k + 2 * N <= dim; k += 2 * N) {
    V d = load<V>(x + k) - load<V>(y + k), e = load<V>(x + k + N) - load<V>(y + k + N);
    a = a + (metric ? d * load<V>(metric + k) : d) * d;
    b = b + (metric ? e * load<V>(metric + k + N) : e) * e;
  }
  T rest = T(0);
  for (; k < dim; ++k) rest = rest + (x[k] - y[k]) * (x[k] - y[k]) * (metric ? metric[k] : T(1));
  return static_cast<T>(fold<V>(a + b) + static_cast<double>(rest));
}

template <class T>
void subtract_difference(double c, const T* __restrict x, const T* __restrict y, int64_t dim, double* __restrict out) {
  for (int64_t k = 0; k < dim; ++k) out[k] -= c * static_cast<double>(x[k] - y[k]);
}

// ---- sums over columns ----------------------------------------------------------------------------------------------

template <class T, int R, int Q>
MK_HD void narrow_rows(const T* __restrict k, int cols, const T* __restrict v, double* out, int64_t stride) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  V sum[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) sum[r][q] = V{};
  for (int j = 0; j < cols; j += N) {
    V f[R];
    for (int r = 0; r < R; ++r) f[r] = load<V>(k + r * C + j);
    for (int q = 0; q < Q; ++q) {
      V w = load<V>(v + q * C + j);
      for (int r = 0; r < R; ++r) sum[r][q] = sum[r][q] + f[r] * w;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) out[r * stride + q] += fold<V>(sum[r][q]);
}

template <class T, int R>
MK_HD void narrow(const T* k, int cols, const T* v, int n_values, double* out, int64_t stride) {
  constexpr int C = tile_cols<T>;
  int q = 0;
  for (; q + 4 <= n_values; q += 4) narrow_rows<T, R, 4>(k, cols, v + q * C, out + q, stride);
  if (n_values - q == 3) narrow_rows<T, R, 3>(k, cols, v + q * C, out + q, stride);
  if (n_values - q == 2) narrow_rows<T, R, 2>(k, cols, v + q * C, out + q, stride);
  if (n_values - q == 1) narrow_rows<T, R, 1>(k, cols, v + q * C, out + q, stride);
}

template <class T>
void reduce_narrow(const T* k, int rows, int cols, const T* v, int n_values, double* out, int64_t stride) {
  int r = 0;
  for (; r + 2 <= rows; r += 2) narrow<T, 2>(k + r * tile_cols<T>, cols, v, n_values, out + r * stride, stride);
  if (r < rows) narrow<T, 1>(k + r * tile_cols<T>, cols, v, n_values, out + r * stride, stride);
}

// Coordinates first .. first + D of R rows. Differences, not sums of c and c y apart: those cancel for close points.
template <class T, int D, int R>
MK_HD void gradient_rows(const T* __restrict c, int cols, const T* __restrict x, int64_t dim, const T* __restrict panel,
                         double* out) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  constexpr int U = D <= 2 ? 2 : 1;  // columns at a time: sums enough to hide the latency of a multiply-add
  V sum[U][R][D], point[R][D];
  for (int r = 0; r < R; ++r)
    for (int a = 0; a < D; ++a) {
      point[r][a] = splat<V>(x[r * dim + a]);
      for (int u = 0; u < U; ++u) sum[u][r][a] = V{};
    }
  for (int j = 0; j < cols; j += U * N)
    for (int u = 0; u < U; ++u) {
      V f[R];
      for (int r = 0; r < R; ++r) f[r] = load<V>(c + r * C + j + u * N);
      for (int a = 0; a < D; ++a) {
        V y = load<V>(panel + a * C + j + u * N);
        for (int r = 0; r < R; ++r) sum[u][r][a] = sum[u][r][a] + f[r] * (point[r][a] - y);
      }
    }
  for (int r = 0; r < R; ++r)
    for (int a = 0; a < D; ++a) out[r * dim + a] += fold<V>(U == 2 ? sum[0][r][a] + sum[U - 1][r][a] : sum[0][r][a]);
}

// Coordinates three at a time for two rows: six sums and six coordinates of x stay in registers. Bound by the
// latency of the sums, 4 cycles for 6 of them, and then by the multiply ports.
template <class T, int D, int first>
MK_HD void gradient_parts(const T* c, int rows, int cols, const T* x, const T* panel, double* out) {
  constexpr int C = tile_cols<T>, A = D - first == 4 ? 2 : D - first < 3 ? D - first : 3;
  int r = 0;
  for (; r + 2 <= rows; r += 2)
    gradient_rows<T, A, 2>(c + r * C, cols, x + r * D + first, D, panel + first * C, out + r * D + first);
  for (; r < rows; ++r)
    gradient_rows<T, A, 1>(c + r * C, cols, x + r * D + first, D, panel + first * C, out + r * D + first);
  if constexpr (first + A < D) gradient_parts<T, D, first + A>(c, rows, cols, x, panel, out);
}

template <class T, int D>
void reduce_grad(const T* c, int rows, int cols, const T* x, const T* panel, double* out) {
  gradient_parts<T, D, 0>(c, rows, cols, x, panel, out);
}

template <class T>
void pack_values(const T* values, int64_t stride, int valid, int cols, int n, const T* __restrict centre,
                 T* __restrict out) {
  for (int j = 0; j < cols; ++j, out += wide_cols) {
    if (j >= valid) {
      for (int q = 0; q < wide_cols; ++q) out[q] = T(0);
      continue;
    }
    const T* __restrict row = values + j * stride;
    if (centre)
      for (int q = 0; q < n; ++q) out[q] = static_cast<T>(row[q] - centre[q]);
    else
      for (int q = 0; q < n; ++q) out[q] = row[q];
    for (int q = n; q < wide_cols; ++q) out[q] = T(0);
  }
}

template <class T>
MK_HD void wide_tile(const T* __restrict k, int rows, int cols, const T* __restrict v, int valid, double* out,
                     int64_t stride) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>, R = block_rows;
  V sum[R][pair];
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < pair; ++i) sum[r][i] = V{};
  const T* row[R];
  for (int r = 0; r < R; ++r) row[r] = k + (r < rows ? r : 0) * C;
  for (int j = 0; j < cols; ++j) {
    V y[pair];
    for (int i = 0; i < pair; ++i) y[i] = load<V>(v + j * wide_cols + i * N);
    for (int r = 0; r < R; ++r) {
      V f = splat<V>(row[r][j]);
      for (int i = 0; i < pair; ++i) sum[r][i] = sum[r][i] + f * y[i];
    }
  }
  for (int r = 0; r < R; ++r) {
    if (r >= rows) break;
    T part[pair * N];
    for (int i = 0; i < pair; ++i) store<V>(part + i * N, sum[r][i]);
    for (int q = 0; q < valid; ++q) out[r * stride + q] += static_cast<double>(part[q]);
  }
}

template <class T>
void reduce_wide(const T* k, int rows, int cols, const T* packed, int n, double* out, int64_t stride) {
  constexpr int step = pair * width<T>;
  for (int q = 0; q < n; q += step)
    for (int r = 0; r < rows; r += block_rows)
      wide_tile<T>(k + r * tile_cols<T>, rows - r < block_rows ? rows - r : block_rows, cols, packed + q,
                   n - q < step ? n - q : step, out + r * stride + q, stride);
}

template <class T>
void row_sums(const T* k, int rows, int cols, double* out, int64_t stride) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int r = 0; r < rows; ++r) {
    V a = V{}, b = V{};
    for (int j = 0; j < cols; j += 2 * N) {
      a = a + load<V>(k + r * tile_cols<T> + j);
      b = b + load<V>(k + r * tile_cols<T> + j + N);
    }
    out[r * stride] += fold<V>(a + b);
  }
}

template <class T>
void exponentials(T* k, int rows, int cols, const T* top, double* out, int64_t stride) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int r = 0; r < rows; ++r) {
    T* __restrict row = k + r * tile_cols<T>;
    V a[2] = {}, shift = splat<V>(top[r]);
    for (int j = 0; j < cols; j += 2 * N)
      for (int i = 0; i < 2; ++i) {
        V f = exp2_small<V>(load<V>(row + j + i * N) - shift);
        store<V>(row + j + i * N, f);
        a[i] = a[i] + f;
      }
    out[r * stride] += fold<V>(a[0] + a[1]);
  }
}

template <class T>
int64_t count_zeros(const T* s, int rows, int cols) {
  int64_t found = 0;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; ++j) found += s[r * tile_cols<T> + j] < least_square<T>();
  return found;
}

// ---- sinc -----------------------------------------------------------------------------------------------------------

template <class T>
void sinc(const T* x, int rows, int64_t dim, const T* panel, int cols, T theta, T* k) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) {
      V product = splat<V>(1), f, slope;
      for (int64_t a = 0; a < dim; ++a) {
        sinc_pair<V>((splat<V>(x[r * dim + a]) - load<V>(panel + a * C + j)) * splat<V>(theta), f, slope);
        product = product * f;
      }
      store<V>(k + r * C + j, product);
    }
}

// The derivative in one coordinate needs the product of the other factors: products from the left and from the right, so
// that a factor of zero is no division by zero.
template <class T>
void sinc_grad(const T* x, int rows, int64_t dim, const T* panel, int cols, T theta, const T* w, double* out,
               T* scratch) {
  using V = Vec<T>;
  constexpr int N = width<T>, C = tile_cols<T>;
  T *factors = scratch, *slopes = scratch + dim * N, *left = scratch + 2 * dim * N;
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < cols; j += N) {
      V product = load<V>(w + j) * splat<V>(theta);
      for (int64_t a = 0; a < dim; ++a) {
        V f, slope;
        sinc_pair<V>((splat<V>(x[r * dim + a]) - load<V>(panel + a * C + j)) * splat<V>(theta), f, slope);
        store<V>(factors + a * N, f);
        store<V>(slopes + a * N, slope);
        store<V>(left + a * N, product);
        product = product * f;
      }
      V right = splat<V>(1);
      for (int64_t a = dim; a-- > 0;) {
        out[r * dim + a] += fold<V>(load<V>(left + a * N) * load<V>(slopes + a * N) * right);
        right = right * load<V>(factors + a * N);
      }
    }
}

template <class T, int D>
constexpr auto squares_of = distances<T, D, Form::squares>;
template <class T, int D>
constexpr auto metric_squares_of = distances<T, D, Form::metric_squares>;
template <class T, int D>
constexpr auto dots_of = distances<T, D, Form::dots>;
template <class T, int D>
constexpr auto stein_of = stein<T, D, false>;
template <class T, int D>
constexpr auto metric_stein_of = stein<T, D, true>;
#define MK_FROM_1(f, T)                                                                                          \
  f<T, 1>, f<T, 2>, f<T, 3>, f<T, 4>, f<T, 5>, f<T, 6>, f<T, 7>, f<T, 8>, f<T, 9>, f<T, 10>, f<T, 11>, f<T, 12>, \
      f<T, 13>, f<T, 14>, f<T, 15>, f<T, 16>
#define MK_DIMS(f, T) {f<T, 0>, MK_FROM_1(f, T)}
#define MK_TILE_LOOPS(T)                 \
  {width<T>,                             \
   pair * width<T>,                      \
   block_rows,                           \
   pack_panel<T>,                        \
   MK_DIMS(squares_of, T),               \
   MK_DIMS(metric_squares_of, T),        \
   MK_DIMS(dots_of, T),                  \
   MK_DIMS(stein_of, T),                 \
   MK_DIMS(metric_stein_of, T),          \
   pack_rows<T>,                         \
   pack_columns<T>,                      \
   product_block<T>,                     \
   finish_squares<T>,                    \
   norm<T>,                              \
   pair_square<T>,                       \
   subtract_difference<T>,               \
   reduce_narrow<T>,                     \
   {nullptr, MK_FROM_1(reduce_grad, T)}, \
   pack_values<T>,                       \
   reduce_wide<T>,                       \
   row_sums<T>,                          \
   exponentials<T>,                      \
   count_zeros<T>,                       \
   sinc<T>,                              \
   sinc_grad<T>}

}  // namespace

extern const InteractionTable interaction_table = {MK_TILE_LOOPS(float), MK_TILE_LOOPS(double)};

}  // namespace MK_ISA
}  // namespace mk
