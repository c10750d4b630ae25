// The loops of the low-rank models, one instruction set.
#include "lowrank_isa.hpp"

#include "mckean/small_matrix.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class V>
MK_HD double sum_lanes(V v) {
  double sum = 0.0;
  for (int l = 0; l < Ops<V>::N; ++l) sum += static_cast<double>(v[l]);
  return sum;
}

// ---- long vectors ---------------------------------------------------------------------------------------------------

// R rows of the basis at a time: w is loaded once for all of them.
template <class T, int R>
MK_HD void dots_of_rows(const T* v, int64_t stride, const T* w, int64_t n, double* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  constexpr int chains = R >= 4 ? 2 : 8 / R;  // sums of their own, so that additions need not wait for each other
  V sum[R][chains] = {};
  int64_t i = 0;
  for (; i + chains * N <= n; i += chains * N) {
#pragma GCC unroll 8
    for (int c = 0; c < chains; ++c) {
      V x = load<V>(w + i + c * N);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r][c] += load<V>(v + r * stride + i + c * N) * x;
    }
  }
  for (; i + N <= n; i += N) {
    V x = load<V>(w + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][0] += load<V>(v + r * stride + i) * x;
  }
  if (i < n) {
    int rest = static_cast<int>(n - i);
    V x = load_first<V>(w + i, rest);
    for (int r = 0; r < R; ++r) sum[r][0] += load_first<V>(v + r * stride + i, rest) * x;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    V all = sum[r][0];
#pragma GCC unroll 8
    for (int c = 1; c < chains; ++c) all += sum[r][c];
    sums[r] += sum_lanes(all);
  }
}

template <class T>
void dots(const T* v, int64_t stride, int64_t count, const T* w, int64_t n, double* sums) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) dots_of_rows<T, 4>(v + j * stride, stride, w, n, sums + j);
  if (j + 2 <= count) {
    dots_of_rows<T, 2>(v + j * stride, stride, w, n, sums + j);
    j += 2;
  }
  if (j < count) dots_of_rows<T, 1>(v + j * stride, stride, w, n, sums + j);
}

template <class T, int R>
MK_HD void subtract_rows(const T* v, int64_t stride, const T* h, T* w, int64_t n) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V factor[R];
  for (int r = 0; r < R; ++r) factor[r] = Ops<V>::constant(h[r]);
  int64_t i = 0;
  for (; i + N <= n; i += N) {
    V x = load<V>(w + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) x -= factor[r] * load<V>(v + r * stride + i);
    store<V>(w + i, x);
  }
  if (i < n) {
    int rest = static_cast<int>(n - i);
    V x = load_first<V>(w + i, rest);
    for (int r = 0; r < R; ++r) x -= factor[r] * load_first<V>(v + r * stride + i, rest);
    store_first<V>(w + i, x, rest);
  }
}

template <class T>
double square(const T* w, int64_t n) {
  double sum = 0.0;
  dots_of_rows<T, 1>(w, 0, w, n, &sum);
  return sum;
}

template <class T>
double subtract(const T* v, int64_t stride, int64_t count, const T* h, T* w, int64_t n) {
  int64_t j = 0;
  for (; j + 8 <= count; j += 8) subtract_rows<T, 8>(v + j * stride, stride, h + j, w, n);
  if (j + 4 <= count) {
    subtract_rows<T, 4>(v + j * stride, stride, h + j, w, n);
    j += 4;
  }
  if (j + 2 <= count) {
    subtract_rows<T, 2>(v + j * stride, stride, h + j, w, n);
    j += 2;
  }
  if (j < count) subtract_rows<T, 1>(v + j * stride, stride, h + j, w, n);
  return square(w, n);
}

template <class T>
void scale(const T* w, T factor, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = w[i] * factor;
}

// A register of float64 from consecutive numbers.
MK_HD VecD load_wide(const double* p) { return load<VecD>(p); }
MK_HD VecD load_wide(const float* p) {
  typedef float HalfF __attribute__((vector_size(register_bytes / 2)));
  HalfF v;
  __builtin_memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, VecD);
}

// In float64: what is made of these sums are small differences.
template <class T>
void dots_of_two(const T* a, const T* b, int64_t n, double* sums) {
  constexpr int N = Ops<VecD>::N;
  VecD aa[2] = {}, ab[2] = {}, bb[2] = {};
  int64_t i = 0;
  for (; i + 2 * N <= n; i += 2 * N) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      VecD x = load_wide(a + i + c * N), y = load_wide(b + i + c * N);
      aa[c] += x * x;
      ab[c] += x * y;
      bb[c] += y * y;
    }
  }
  double rest[3] = {};
  for (; i < n; ++i) {
    double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    rest[0] += x * x;
    rest[1] += x * y;
    rest[2] += y * y;
  }
  sums[0] += sum_lanes(aa[0] + aa[1]) + rest[0];
  sums[1] += sum_lanes(ab[0] + ab[1]) + rest[1];
  sums[2] += sum_lanes(bb[0] + bb[1]) + rest[2];
}

template <class T>
void combine_two(double a, const T* x, double b, const T* y, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<T>(a * static_cast<double>(x[i]) + b * static_cast<double>(y[i]));
}

template <class T, int C>
MK_HD void combine_count(const T* a, const T* const* x, bool add, T* out, int64_t n) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  for (int64_t i = 0; i < n; i += N) {
    int rest = static_cast<int>(n - i < N ? n - i : N);
    V sum = add ? load_first<V>(out + i, rest) : V{};
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) sum += Ops<V>::constant(a[c]) * load_first<V>(x[c] + i, rest);
    store_first<V>(out + i, sum, rest);
  }
}
template <class T>
void combine(int count, const T* a, const T* const* x, bool add, T* out, int64_t n) {
  switch (count) {
    case 1: return combine_count<T, 1>(a, x, add, out, n);
    case 2: return combine_count<T, 2>(a, x, add, out, n);
    case 3: return combine_count<T, 3>(a, x, add, out, n);
    default: return combine_count<T, 4>(a, x, add, out, n);
  }
}

// ---- tall matrices --------------------------------------------------------------------------------------------------

template <class T>
void transpose_matrix(const T* in, int64_t in_stride, int64_t n, int64_t cols, T* out, int64_t out_stride) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  int64_t i = 0;
  for (; i + N <= n; i += N) {
    int64_t c = 0;
    for (; c + N <= cols; c += N) {
      V rows[N];
#pragma GCC unroll 16
      for (int r = 0; r < N; ++r) rows[r] = load<V>(in + (i + r) * in_stride + c);
      transpose(rows);
#pragma GCC unroll 16
      for (int r = 0; r < N; ++r) store<V>(out + (c + r) * out_stride + i, rows[r]);
    }
    for (; c < cols; ++c)
      for (int r = 0; r < N; ++r) out[c * out_stride + i + r] = in[(i + r) * in_stride + c];
  }
  for (; i < n; ++i)
    for (int64_t c = 0; c < cols; ++c) out[c * out_stride + i] = in[i * in_stride + c];
}

// R columns of a against Q registers of columns of b.
template <class T, int R, int Q>
MK_HD void gram_tile(const T* a, int64_t lda, const T* b, int64_t ldb, int64_t n, int columns, int64_t l,
                     double* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V sum[R][Q] = {};
  for (int64_t i = 0; i < n; ++i) {
    V x[Q];
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q) x[q] = load<V>(b + i * ldb + q * N);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      V y = Ops<V>::constant(a[i * lda + r]);
#pragma GCC unroll 2
      for (int q = 0; q < Q; ++q) sum[r][q] += y * x[q];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < columns; ++c) sums[r * l + c] += static_cast<double>(sum[r][c / N][c % N]);
}

template <class T, int Q>
MK_HD void gram_columns(const T* a, int64_t lda, int64_t k, const T* b, int64_t ldb, int64_t n, int columns, int64_t l,
                        double* sums) {
  constexpr int R = Q == 1 ? 8 : 6;
  int64_t p = 0;
  for (; p + R <= k; p += R) gram_tile<T, R, Q>(a + p, lda, b, ldb, n, columns, l, sums + p * l);
  if (p + 4 <= k) {
    gram_tile<T, 4, Q>(a + p, lda, b, ldb, n, columns, l, sums + p * l);
    p += 4;
  }
  if (p + 2 <= k) {
    gram_tile<T, 2, Q>(a + p, lda, b, ldb, n, columns, l, sums + p * l);
    p += 2;
  }
  if (p < k) gram_tile<T, 1, Q>(a + p, lda, b, ldb, n, columns, l, sums + p * l);
}

// Rows of which the sums stay in the type of the data.
constexpr int64_t gram_rows = 256;

template <class T>
void gram(const T* a, int64_t lda, int64_t k, const T* b, int64_t ldb, int64_t l, int64_t n, bool upper, double* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  for (int64_t first = 0; first < n; first += gram_rows) {
    int64_t rows = n - first < gram_rows ? n - first : gram_rows;
    const T *x = a + first * lda, *y = b + first * ldb;
    int64_t q = 0;
    for (; q + N < l; q += 2 * N) {
      int columns = static_cast<int>(l - q < 2 * N ? l - q : 2 * N);
      int64_t used = upper && q + columns < k ? q + columns : k;
      gram_columns<T, 2>(x, lda, used, y + q, ldb, rows, columns, l, sums + q);
    }
    if (q < l)
      gram_columns<T, 1>(x, lda, upper && l < k ? l : k, y + q, ldb, rows, static_cast<int>(l - q), l, sums + q);
  }
}

template <class T, int R, int Q>
MK_HD void multiply_tile(const T* a, int64_t lda, int64_t k, const T* m, int64_t ldm, int columns, bool add, T* out,
                         int64_t ldo) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V sum[R][Q] = {};
  for (int64_t p = 0; p < k; ++p) {
    V x[Q];
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q) x[q] = load<V>(m + p * ldm + q * N);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      V y = Ops<V>::constant(a[r * lda + p]);
#pragma GCC unroll 2
      for (int q = 0; q < Q; ++q) sum[r][q] += y * x[q];
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q) {
      int have = columns - q * N < N ? columns - q * N : N;
      if (have <= 0) continue;
      T* o = out + r * ldo + q * N;
      V value = add ? load_first<V>(o, have) + sum[r][q] : sum[r][q];
      store_first<V>(o, value, have);
    }
}

template <class T, int Q>
MK_HD void multiply_rows(const T* a, int64_t lda, int64_t n, int64_t k, const T* m, int64_t ldm, int columns, bool add,
                         T* out, int64_t ldo) {
  int64_t i = 0;
  for (; i + 6 <= n; i += 6) multiply_tile<T, 6, Q>(a + i * lda, lda, k, m, ldm, columns, add, out + i * ldo, ldo);
  for (; i + 2 <= n; i += 2) multiply_tile<T, 2, Q>(a + i * lda, lda, k, m, ldm, columns, add, out + i * ldo, ldo);
  if (i < n) multiply_tile<T, 1, Q>(a + i * lda, lda, k, m, ldm, columns, add, out + i * ldo, ldo);
}

template <class T>
void multiply(const T* a, int64_t lda, int64_t n, int64_t k, const T* m, int64_t ldm, int64_t columns, bool add, T* out,
              int64_t ldo) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  int64_t q = 0;
  for (; q + N < columns; q += 2 * N) {
    int used = static_cast<int>(columns - q < 2 * N ? columns - q : 2 * N);
    multiply_rows<T, 2>(a, lda, n, k, m + q, ldm, used, add, out + q, ldo);
  }
  if (q < columns) multiply_rows<T, 1>(a, lda, n, k, m + q, ldm, static_cast<int>(columns - q), add, out + q, ldo);
}

// ---- one vector -----------------------------------------------------------------------------------------------------

// Q registers of columns from column `at` on, rows i mod chains apart. Rows that end within a register are read into the next
// row, whose numbers fall into columns nobody looks at; `whole` rows may be read so.
template <class T, int Q, int chains>
MK_HD void project_columns(const T* U, int64_t k, int64_t at, int64_t whole, const T* b, int64_t n, double* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V sum[chains][Q] = {};
  const T* row = U + at;
  int columns = static_cast<int>(k - at < Q * N ? k - at : Q * N);
  int64_t i = 0;
  for (; i + chains <= whole; i += chains) {
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) {
      V x = Ops<V>::constant(b[i + c]);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sum[c][q] += load<V>(row + (i + c) * k + q * N) * x;
    }
  }
  for (int c = 0; i < n; ++i, c = c + 1 < chains ? c + 1 : 0) {
    V x = Ops<V>::constant(b[i]);
    for (int q = 0; q < Q; ++q) {
      int have = columns - q * N < N ? columns - q * N : N;
      V u = load_first<V>(row + i * k + q * N, have);
      sum[0][q] += c == 0 ? u * x : V{};
      if (chains > 1) sum[1 % chains][q] += c == 1 ? u * x : V{};
      if (chains > 2) {
        sum[2 % chains][q] += c == 2 ? u * x : V{};
        sum[3 % chains][q] += c == 3 ? u * x : V{};
      }
    }
  }
  for (int q = 0; q < Q; ++q) {
    V all = chains == 4 ? (sum[0][q] + sum[1 % chains][q]) + (sum[2 % chains][q] + sum[3 % chains][q])
                        : (chains == 2 ? sum[0][q] + sum[1 % chains][q] : sum[0][q]);
    for (int l = 0; l < N && q * N + l < columns; ++l) sums[at + q * N + l] += static_cast<double>(all[l]);
  }
}

template <class T>
int64_t whole_rows(int64_t k, int64_t readable, int64_t n, int64_t span) {
  // row i may be read from its column `at` over whole registers if i k + span <= readable
  int64_t rows = readable < span ? 0 : (readable - span) / k + 1;
  return rows < n ? rows : n;
}

template <class T>
void project(const T* U, int64_t k, int64_t readable, const T* b, int64_t n, double* sums) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  int64_t at = 0;
  for (; at + 2 * N < k; at += 4 * N)
    project_columns<T, 4, 1>(U, k, at, whole_rows<T>(k, readable, n, at + 4 * N), b, n, sums);
  if (at + N < k) {
    project_columns<T, 2, 2>(U, k, at, whole_rows<T>(k, readable, n, at + 2 * N), b, n, sums);
    at += 2 * N;
  }
  if (at < k) project_columns<T, 1, 4>(U, k, at, whole_rows<T>(k, readable, n, at + N), b, n, sums);
}

// The sums of the lanes of N registers, in one: rows[0..N) change.
template <class V>
MK_HD V sum_of_each(V* rows) {
  constexpr int N = Ops<V>::N;
#if defined(__GNUC__) && !defined(__clang__)
  using Mask = decltype(typename Ops<V>::U{} > typename Ops<V>::U{});
#pragma GCC unroll 8
  for (int B = N / 2; B >= 1; B /= 2) {
    Mask even{}, odd{};
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) {
      even[l] = l / B % 2 == 0 ? l : N + l - B;
      odd[l] = l / B % 2 == 0 ? l + B : N + l;
    }
#pragma GCC unroll 16
    for (int i = 0; i < B; ++i)
      rows[i] = __builtin_shuffle(rows[i], rows[i + B], even) + __builtin_shuffle(rows[i], rows[i + B], odd);
  }
  return rows[0];
#else
  V out{};
  for (int B = N / 2; B >= 1; B /= 2)
    for (int r = 0; r < N; ++r)
      for (int l = 0; l < B; ++l) rows[r][l] += rows[r][l + B];
  for (int r = 0; r < N; ++r) out[r] = rows[r][0];
  return out;
#endif
}

template <class T, int Q>
MK_HD int64_t expand_rows(const T* U, int64_t k, int64_t whole, const T* c, const T* base, T alpha, T* out, int64_t i) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V factor[Q];
#pragma GCC unroll 4
  for (int q = 0; q < Q; ++q) factor[q] = load<V>(c + q * N);
  V a = Ops<V>::constant(alpha);
  for (; i + N <= whole; i += N) {
    V rows[N];
#pragma GCC unroll 16
    for (int r = 0; r < N; ++r) {
      V sum = load<V>(U + (i + r) * k) * factor[0];
#pragma GCC unroll 4
      for (int q = 1; q < Q; ++q) sum += load<V>(U + (i + r) * k + q * N) * factor[q];
      rows[r] = sum;
    }
    store<V>(out + i, load<V>(base + i) * a + sum_of_each(rows));
  }
  return i;
}

// Ranks above four registers.
template <class T>
MK_HD int64_t expand_wide(const T* U, int64_t k, int64_t whole, const T* c, const T* base, T alpha, T* out) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  V a = Ops<V>::constant(alpha);
  int64_t i = 0;
  for (; i + N <= whole; i += N) {
    V rows[N] = {};
    for (int64_t p = 0; p < k; p += N) {
      V factor = load<V>(c + p);
#pragma GCC unroll 16
      for (int r = 0; r < N; ++r) rows[r] += load<V>(U + (i + r) * k + p) * factor;
    }
    store<V>(out + i, load<V>(base + i) * a + sum_of_each(rows));
  }
  return i;
}

template <class T>
void expand(const T* U, int64_t k, int64_t readable, const T* c, const T* base, T alpha, T* out, int64_t n) {
  using V = typename VectorOf<T>::type;
  constexpr int N = Ops<V>::N;
  int64_t registers = (k + N - 1) / N, whole = whole_rows<T>(k > 0 ? k : 1, readable, n, registers * N), i = 0;
  switch (registers) {
    case 0: break;
    case 1: i = expand_rows<T, 1>(U, k, whole, c, base, alpha, out, i); break;
    case 2: i = expand_rows<T, 2>(U, k, whole, c, base, alpha, out, i); break;
    case 3: i = expand_rows<T, 3>(U, k, whole, c, base, alpha, out, i); break;
    case 4: i = expand_rows<T, 4>(U, k, whole, c, base, alpha, out, i); break;
    default: i = expand_wide<T>(U, k, whole, c, base, alpha, out);
  }
  // The last rows in the same order of additions, so that a row's value does not depend on where it stands.
  for (; i < n; i += N) {
    V rows[N] = {};
    for (int r = 0; r < N && i + r < n; ++r)
      for (int64_t p = 0; p < k; p += N) {
        int have = static_cast<int>(k - p < N ? k - p : N);
        V term = load_first<V>(U + (i + r) * k + p, have) * load<V>(c + p);
        rows[r] = p == 0 ? term : rows[r] + term;
      }
    int rest = static_cast<int>(n - i < N ? n - i : N);
    V sum = load_first<V>(base + i, rest) * Ops<V>::constant(alpha) + sum_of_each(rows);
    store_first<V>(out + i, sum, rest);
  }
}

// ---- small matrices, one a lane -------------------------------------------------------------------------------------

constexpr int small_lanes = Ops<VecD>::N;

void cholesky_lanes(double* g, int k, double* least) {
  VecD worst = cholesky(reinterpret_cast<VecD*>(g), k);
  store<VecD>(least, worst);
}
void solve_lanes(const double* g, int k, double* x) {
  cholesky_solve(reinterpret_cast<const VecD*>(g), k, reinterpret_cast<VecD*>(x));
}
void eigen_lanes(double* g, double* q, int k) {
  gram_eigen(reinterpret_cast<VecD*>(g), reinterpret_cast<VecD*>(q), k,
             [](VecD x) { return Ops<VecD>::any(x != VecD{}); });
}

void widen(const float* from, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<double>(from[i]);
}
void narrow(const double* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

template <class T>
constexpr LowRankLoops<T> loops() {
  return {dots<T>,
          subtract<T>,
          square<T>,
          scale<T>,
          dots_of_two<T>,
          combine_two<T>,
          combine<T>,
          transpose_matrix<T>,
          gram<T>,
          multiply<T>,
          project<T>,
          expand<T>,
          Ops<typename VectorOf<T>::type>::N};
}

}  // namespace

extern const LowRankTable lowrank_table;
const LowRankTable lowrank_table = {loops<float>(), loops<double>(), small_lanes, cholesky_lanes,
                                    solve_lanes,    eigen_lanes,     widen,       narrow};

}  // namespace MK_ISA
}  // namespace mk
