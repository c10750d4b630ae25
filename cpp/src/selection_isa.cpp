// Loops of the selection family, one instruction set. Sums are in an order that does not depend on the register width.
#include "selection_isa.hpp"

#include "mckean/math.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int width = Ops<Vec<T>>::N;

// Reads two rows of the Gram matrix for each pair: bound by the cache that holds it.
template <class T>
void halve(HalveArgs<T>& a) {
  const int64_t n = a.n;
  double* __restrict sums = a.sums;
  for (int64_t pair = 0; pair < n / 2; ++pair) {
    const int64_t i = 2 * pair, j = i + 1;
    const T* __restrict row_i = a.gram + i * n;
    const T* __restrict row_j = a.gram + j * n;
    const double ii = row_i[i], jj = row_j[j], ij = row_i[j];
    double square = ii + jj - 2 * ij;  // of the distance of the pair
    if (!(square >= 0)) {
      const double size = (ii < 0 ? -ii : ii) + (jj < 0 ? -jj : jj) + (ij < 0 ? -ij : ij);
      if (!(square >= -1e-3 * size)) a.indefinite = true;
      square = 0;
    }
    double threshold = __builtin_sqrt(a.variance * square * a.log_term);
    threshold = threshold < square ? square : threshold;
    double chance = 0.5;
    if (threshold > 0) {
      if (a.variance == 0) {
        a.variance = square;
      } else {
        double growth = 0.5 + (square / (2 * threshold) - 1) * a.variance / threshold;
        if (growth > 0) a.variance += 2 * square * growth;
      }
      chance = 0.5 * (1 - (sums[i] - sums[j]) / threshold);
    }
    const bool right = a.uniforms[pair] < chance;
    a.right[pair] = right;
    const double sign = right ? 1 : -1;
    for (int64_t l = j + 1; l < n; ++l)
      sums[l] += sign * (static_cast<double>(row_i[l]) - static_cast<double>(row_j[l]));
  }
}

template <class V>
MK_HD V magnitude(V x) {
  using U = typename Ops<V>::U;
  return Ops<V>::from_bits((U)((Ops<V>::bits(x) << 1) >> 1));
}

// R points against C registers of columns: C loads, R broadcasts and 3 R C operations for each coordinate (2 of them on the
// multiply and add ports' critical path); the columns stay in the first-level cache from one group of points to the next.
template <class T, Metric metric, int R, int C>
MK_HD void tile(const DistanceArgs<T>& a, int64_t row, int64_t col, int lanes) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  V sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = V{};
  for (int64_t d = 0; d < a.dim; ++d) {
    const T* from = a.columns + d * a.cols + col;
    V y[C];
    for (int c = 0; c < C; ++c) y[c] = C == 1 ? load_first<V>(from, lanes) : load<V>(from + c * N);
    for (int r = 0; r < R; ++r) {
      V x = Ops<V>::constant(a.points[(row + r) * a.dim + d]);
      for (int c = 0; c < C; ++c) {
        V delta = x - y[c];
        sum[r][c] = sum[r][c] + (metric == Metric::manhattan ? magnitude(delta) : delta * delta);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    T* to = a.out + (row + r) * a.cols + col;
    for (int c = 0; c < C; ++c) {
      V value = metric == Metric::euclidean ? Ops<V>::sqrt(sum[r][c]) : sum[r][c];
      if (C == 1)
        store_first<V>(to, value, lanes);
      else
        store<V>(to + c * N, value);
    }
  }
}

template <class T, Metric metric, int C>
void column(const DistanceArgs<T>& a, int64_t col, int lanes) {
  int64_t row = 0;
  for (; row + 4 <= a.rows; row += 4) tile<T, metric, 4, C>(a, row, col, lanes);
  for (; row < a.rows; ++row) tile<T, metric, 1, C>(a, row, col, lanes);
}

template <class T, Metric metric>
void columns(const DistanceArgs<T>& a, int64_t first, int64_t last) {
  constexpr int N = width<T>;
  int64_t col = first;
  for (; col + 2 * N <= last; col += 2 * N) column<T, metric, 2>(a, col, N);
  for (; col < last; col += N) column<T, metric, 1>(a, col, last - col < N ? static_cast<int>(last - col) : N);
}

template <class T>
void distances(const DistanceArgs<T>& a, int64_t first, int64_t last) {
  switch (a.metric) {
    case Metric::sqeuclidean: return columns<T, Metric::sqeuclidean>(a, first, last);
    case Metric::euclidean: return columns<T, Metric::euclidean>(a, first, last);
    case Metric::manhattan: return columns<T, Metric::manhattan>(a, first, last);
  }
}

// A candidate matters to a point only if it is nearer than the second nearest medoid. With many medoids most registers are
// passed over by one comparison; the points of the others are listed first and then dealt with, because a branch for each
// would be mispredicted more often than not: 4 times as long with 10 medoids.
template <class T>
double changes(const PamState<T>& s, const T* __restrict row, double* __restrict loss) {
  using V = Vec<T>;
  constexpr int N = width<T>, run = 512;
  int32_t list[run];
  double common = 0;
  for (int64_t first = 0; first < s.n; first += run) {
    const int count = static_cast<int>(s.n - first < run ? s.n - first : run);
    const T* __restrict d = row + first;
    const T* __restrict near = s.near + first;
    const T* __restrict far = s.far + first;
    const int32_t* __restrict nearest = s.nearest + first;
    int listed = 0, o = 0;
    for (; o + N <= count; o += N) {
      if (!Ops<V>::any(load<V>(d + o) < load<V>(far + o))) continue;
      for (int l = 0; l < N; ++l) {
        list[listed] = o + l;
        listed += d[o + l] < far[o + l];
      }
    }
    for (; o < count; ++o) {
      list[listed] = o;
      listed += d[o] < far[o];
    }
    for (int i = 0; i < listed; ++i) {
      const int at = list[i];
      const double here = d[at], best = near[at];
      common += (here < best ? here : best) - best;
      loss[nearest[at]] += (here < best ? best : here) - static_cast<double>(far[at]);
    }
  }
  return common;
}

template <class T>
double gain(int64_t n, const T* __restrict row, const T* __restrict near) {
  constexpr int parts = 8;
  double sum[parts] = {};
  int64_t o = 0;
  for (; o + parts <= n; o += parts)
    for (int l = 0; l < parts; ++l) {
      double d = row[o + l];
      if (near) {
        d -= static_cast<double>(near[o + l]);
        d = d < 0 ? d : 0;
      }
      sum[l] += d;
    }
  for (; o < n; ++o) {
    double d = row[o];
    if (near) {
      d -= static_cast<double>(near[o]);
      d = d < 0 ? d : 0;
    }
    sum[0] += d;
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

template <class T>
constexpr SelectionLoops<T> loops = {2 * width<T>, halve<T>, distances<T>, changes<T>, gain<T>};

}  // namespace

extern const SelectionTable selection_table;
const SelectionTable selection_table = {loops<float>, loops<double>};

}  // namespace MK_ISA
}  // namespace mk
