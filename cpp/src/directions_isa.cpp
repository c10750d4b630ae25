// Loops for slicing directions, one instruction set. Lanes are independent directions or coordinates and sums have an order
// of their own, so the bits do not depend on the register width.
#include "directions_isa.hpp"

#include "stream_simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

using V = VecD;
constexpr int N = Ops<V>::N;
constexpr int B = reflections;
constexpr int lanes = 2 * N;                        // directions in a panel
constexpr int tile = register_bytes == 64 ? 8 : 4;  // reflections, or coordinates, against a panel: sums in registers
static_assert(B % lanes == 0 && B % tile == 0, "a block is whole panels and whole tiles");

double sum_of_squares(const double* __restrict x, int64_t n) {
  constexpr int parts = 16;
  double sum[parts] = {};
  int64_t i = 0;
  for (; i + parts <= n; i += parts)
    for (int l = 0; l < parts; ++l) sum[l] += x[i + l] * x[i + l];
  for (int l = 0; i < n; ++i, ++l) sum[l] += x[i] * x[i];
  for (int step = parts / 2; step >= 1; step /= 2)
    for (int l = 0; l < step; ++l) sum[l] += sum[l + step];
  return sum[0];
}

template <class T>
void write_scaled(const double* __restrict x, double scale, int64_t n, T* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] * scale);
}

// ---- frames ---------------------------------------------------------------------------------------------------------

// y (B, stride) = U' X for X (n, stride): coordinates are added one after the other.
void products(const double* __restrict u, const double* __restrict x, int64_t n, int stride, double* __restrict y) {
  for (int k = 0; k < B; k += tile) {
    V sum[tile][2];
    for (int r = 0; r < tile; ++r) sum[r][0] = sum[r][1] = V{};
    for (int64_t t = 0; t < n; ++t) {
      V x0 = load<V>(x + t * stride), x1 = load<V>(x + t * stride + N);
      for (int r = 0; r < tile; ++r) {
        V w = Ops<V>::constant(u[t * B + k + r]);
        sum[r][0] = sum[r][0] + w * x0;
        sum[r][1] = sum[r][1] + w * x1;
      }
    }
    for (int r = 0; r < tile; ++r) {
      store<V>(y + (k + r) * stride, sum[r][0]);
      store<V>(y + (k + r) * stride + N, sum[r][1]);
    }
  }
}

template <int R>
MK_HD void subtract_rows(const double* __restrict u, const double* __restrict z, double* __restrict x) {
  V sum[R][2];
  for (int r = 0; r < R; ++r) {
    sum[r][0] = load<V>(x + r * lanes);
    sum[r][1] = load<V>(x + r * lanes + N);
  }
  for (int k = 0; k < B; ++k) {
    V z0 = load<V>(z + k * lanes), z1 = load<V>(z + k * lanes + N);
    for (int r = 0; r < R; ++r) {
      V w = Ops<V>::constant(u[r * B + k]);
      sum[r][0] = sum[r][0] - w * z0;
      sum[r][1] = sum[r][1] - w * z1;
    }
  }
  for (int r = 0; r < R; ++r) {
    store<V>(x + r * lanes, sum[r][0]);
    store<V>(x + r * lanes + N, sum[r][1]);
  }
}

// X -= U z
void subtract(const double* u, const double* z, int64_t n, double* x) {
  int64_t t = 0;
  for (; t + tile <= n; t += tile) subtract_rows<tile>(u + t * B, z, x + t * lanes);
  for (; t < n; ++t) subtract_rows<1>(u + t * B, z, x + t * lanes);
}

void frame_block(const Frame& f, int64_t b, double* work) {
  const int64_t first = b * B, n = f.dim - first;
  const int count = static_cast<int>(f.rows - first < B ? f.rows - first : B);
  double* __restrict u = f.u + Frame::offset(f.dim, b);
  double* sign = f.sign + b * B;
  // Reflection k needs dim - k normals: they follow one another in the stream.
  const int64_t start = first * f.dim - first * (first - 1) / 2;
  const int64_t total = count * n - count * (count - 1) / 2;
  stream_range_into<double, Tag::normal>(work, static_cast<uint64_t>(start), total, f.key, f.counter);
  const double* from = work;
  for (int k = 0; k < B; ++k) {
    if (k >= count) {
      for (int64_t t = 0; t < n; ++t) u[t * B + k] = 0;
      sign[k] = 1;
      continue;
    }
    const int64_t length = n - k;
    const double norm = __builtin_sqrt(sum_of_squares(from, length));
    const double ahead = from[0] < 0 ? -1.0 : 1.0;
    // u = (x + ahead |x| e) / scale has length sqrt(2), and the reflection takes e to -ahead x / |x|.
    const double scale = __builtin_sqrt(norm * (norm + ahead * from[0]));
    for (int t = 0; t < k; ++t) u[t * B + k] = 0;
    u[k * B + k] = (from[0] + ahead * norm) / scale;
    for (int64_t t = 1; t < length; ++t) u[(k + t) * B + k] = from[t] / scale;
    sign[k] = -ahead;
    from += length;
  }
  double gram[B * B];
  for (int c = 0; c < B; c += lanes) products(u, u + c, n, B, gram + c);
  double* __restrict triangle = f.t + b * B * B;
  for (int i = 0; i < B * B; ++i) triangle[i] = 0;
  for (int k = 0; k < count; ++k) {
    const double tau = 2 / gram[k * B + k];
    triangle[k * B + k] = tau;
    for (int i = 0; i < k; ++i) {
      double sum = 0;
      for (int l = i; l < k; ++l) sum += triangle[i * B + l] * gram[l * B + k];
      triangle[i * B + k] = -tau * sum;
    }
  }
}

void frame_reflect(const Frame& f, int64_t b, int64_t at, double* panels) {
  const int64_t dim = f.dim, begin = at * B, n = dim - begin;
  const int64_t count = f.rows - b * B < B ? f.rows - b * B : B;
  const double* u = f.u + Frame::offset(dim, at);
  const double* __restrict triangle = f.t + at * B * B;
  const double* sign = f.sign + b * B;
  double y[B * lanes], z[B * lanes];
  for (int p = 0; p * lanes < count; ++p) {
    double* panel = panels + p * dim * lanes;
    double* x = panel + begin * lanes;
    if (at == b) {  // rows of the identity, up to their signs
      for (int64_t i = 0; i < dim * lanes; ++i) panel[i] = 0;
      for (int l = 0; l < lanes; ++l) {
        const int64_t row = p * lanes + l;
        if (row < n) x[row * lanes + l] = sign[row];
        for (int k = 0; k < B; ++k) y[k * lanes + l] = row < n ? sign[row] * u[row * B + k] : 0;
      }
    } else {
      products(u, x, n, lanes, y);
    }
    for (int i = 0; i < B; ++i) {
      V z0{}, z1{};
      for (int k = i; k < B; ++k) {
        V w = Ops<V>::constant(triangle[i * B + k]);
        z0 = z0 + w * load<V>(y + k * lanes);
        z1 = z1 + w * load<V>(y + k * lanes + N);
      }
      store<V>(z + i * lanes, z0);
      store<V>(z + i * lanes + N, z1);
    }
    subtract(u, z, n, x);
  }
}

template <class T>
void frame_rows(const Frame& f, int64_t b, const double* panels, T* out) {
  const int64_t count = f.rows - b * B < B ? f.rows - b * B : B;
  for (int64_t l = 0; l < count; ++l) {
    const double* __restrict x = panels + (l / lanes) * f.dim * lanes + l % lanes;
    T* __restrict row = out + l * f.dim;
    for (int64_t t = 0; t < f.dim; ++t) row[t] = static_cast<T>(x[t * lanes]);
  }
}

// ---- independent directions -----------------------------------------------------------------------------------------

template <class T>
void random_rows(uint64_t key, int64_t first, int64_t last, int64_t dim, double* work, T* out) {
  for (int64_t p = first; p < last; ++p) {
    stream_range_into<double, Tag::normal>(work, static_cast<uint64_t>(p) * static_cast<uint64_t>(dim), dim, key, 0);
    write_scaled(work, 1 / __builtin_sqrt(sum_of_squares(work, dim)), dim, out + (p - first) * dim);
  }
}

template <class T>
void sobol_rows(const SobolTables& s, int64_t first, int64_t last, uint32_t* state, double* work, T* out) {
  constexpr int run = 32;
  for (int64_t p = first; p < last; ++p) {
    if (p > first) {  // neighbours in the order of the Gray code differ by one direction number
      const uint32_t* __restrict number = s.numbers + trailing_zeros(static_cast<uint64_t>(p)) * s.dim;
      for (int64_t t = 0; t < s.dim; ++t) state[t] ^= number[t];
    }
    for (int64_t t = 0; t < s.dim; t += run) {
      const int count = static_cast<int>(s.dim - t < run ? s.dim - t : run);
      const uint32_t *x = state + t, *seed = s.scrambles + t;
      double u[run];
      for (int l = 0; l < count; ++l) {
        uint32_t w = scramble_reversed(x[l], seed[l], seed[s.dim + l], seed[2 * s.dim + l], seed[3 * s.dim + l]);
        u[l] = (static_cast<double>(reverse_bits(w)) + 0.5) * 2.3283064365386963e-10;  // 2^-32
      }
      for (int l = count; l < run; ++l) u[l] = 0.5;
      for (int l = 0; l < count; l += N)
        store_first<V>(work + t + l, normal_quantile<V>(load<V>(u + l)), count - l < N ? count - l : N);
    }
    write_scaled(work, 1 / __builtin_sqrt(sum_of_squares(work, s.dim)), s.dim, out + (p - first) * s.dim);
  }
}

template <class T>
constexpr DirectionLoops<T> loops = {frame_rows<T>, random_rows<T>, sobol_rows<T>};

}  // namespace

extern const DirectionTable direction_table;
const DirectionTable direction_table = {frame_block, frame_reflect, loops<float>, loops<double>};

}  // namespace MK_ISA
}  // namespace mk
