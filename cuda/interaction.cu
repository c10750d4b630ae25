// CUDA executor of the interaction sums, on the tiles of pair_tile.cuh. A block takes 64 rows and one slab of the columns
// and leaves sums in double for each row; with few rows there are many slabs. The parts of all slabs, and of all groups of
// terms that share distances, are added in order by a second kernel. Slabs depend on the sizes alone and there are no
// atomics, so results do not depend on the device.
//
// Few columns of weights are summed in registers. More of them are a matrix product: the kernel values of a tile go to
// shared memory and are multiplied with blocks of 16 or 64 columns.
#include <memory>
#include <stdexcept>

#include "mckean/kernels.hpp"
#include "pair_tile.cuh"

namespace mk {
namespace cuda {
namespace {

constexpr int run_tiles = 16;  // tiles a thread sums in T (4 terms each) before they join the row's double
constexpr int max_narrow = 4;  // columns of weights summed in registers
constexpr int64_t enough_blocks = 1024, least_slab = 256;
constexpr int64_t part_bytes = int64_t{512} << 20;
constexpr double ln2 = 0.693147180559945309417, log2_e = 1.44269504088896340736;

template <class T>
__device__ constexpr T infinity() {
  return static_cast<T>(__builtin_inff());
}

// ---- kernels of a tile ----------------------------------------------------------------------------------------------

// Terms with the same distances, and where their sums go.
template <class T>
struct TermGroup {
  PairGrid<T> grid;
  const T *scores_x, *scores_y;  // of Stein kernels
  Form form;
  const double* metric;  // (dim,), or null
  T trace, theta;
  bool singular;
  int terms;
  KernelKind kinds[max_kernel_terms];
  KernelConstants<T> constants[max_kernel_terms];
  double* parts;  // (slabs, problems, n, width)
  int64_t width, part_size;
};

template <class T>
__device__ double* part_of(const TermGroup<T>& a, const PairBlock& b) {
  return a.parts + b.slab * a.part_size + (b.problem * a.grid.n + b.row) * a.width;
}

template <class T>
struct Derivatives {
  Quad<T> value, slope, curve;
};

// The Gaussian kernel is inlined wherever it is used. The others are functions of four pairs: what a call costs is little
// beside their roots and divisions, and compiling them once for each use takes minutes.
#define MK_CALLED_KINDS(visit)                                                                                         \
  visit(laplace) visit(matern32) visit(matern52) visit(inverse_sqrt) visit(square_root) visit(reciprocal) visit(power) \
      visit(logarithm) visit(polynomial) visit(dot)

template <class T>
__device__ __attribute__((noinline)) Quad<T> called_values(KernelKind kind, Quad<T> s, const KernelConstants<T>& c) {
  switch (kind) {
#define MK_CASE(name)                                                                                \
  case KernelKind::name:                                                                             \
    for (int i = 0; i < micro; ++i) s.v[i] = Kernel<KernelKind::name>::template value<T>(s.v[i], c); \
    break;
    MK_CALLED_KINDS(MK_CASE)
#undef MK_CASE
    default: break;
  }
  return s;
}

template <class T>
__device__ __attribute__((noinline)) Quad<T> called_logs(KernelKind kind, Quad<T> s, const KernelConstants<T>& c) {
  switch (kind) {
#define MK_CASE(name)                                                                               \
  case KernelKind::name:                                                                            \
    for (int i = 0; i < micro; ++i) s.v[i] = Kernel<KernelKind::name>::template log2<T>(s.v[i], c); \
    break;
    MK_CALLED_KINDS(MK_CASE)
#undef MK_CASE
    default: break;
  }
  return s;
}

template <class T>
__device__ __attribute__((noinline)) Derivatives<T> called_derivatives(KernelKind kind, Quad<T> s,
                                                                       const KernelConstants<T>& c) {
  Derivatives<T> d{};
  switch (kind) {
#define MK_CASE(name)                                                                                 \
  case KernelKind::name:                                                                              \
    for (int i = 0; i < micro; ++i)                                                                   \
      Kernel<KernelKind::name>::template all<T>(s.v[i], c, d.value.v[i], d.slope.v[i], d.curve.v[i]); \
    break;
    MK_CALLED_KINDS(MK_CASE)
#undef MK_CASE
    default: break;
  }
  return d;
}

template <class T>
__device__ Quad<T> values_of(KernelKind kind, Quad<T> s, const KernelConstants<T>& c) {
  if (kind == KernelKind::sinc) return s;
  if (kind != KernelKind::gaussian) return called_values<T>(kind, s, c);
#pragma unroll
  for (int i = 0; i < micro; ++i) s.v[i] = Kernel<KernelKind::gaussian>::template value<T>(s.v[i], c);
  return s;
}

template <class T>
__device__ Quad<T> logs_of(KernelKind kind, Quad<T> s, const KernelConstants<T>& c) {
  if (kind != KernelKind::gaussian) return called_logs<T>(kind, s, c);
#pragma unroll
  for (int i = 0; i < micro; ++i) s.v[i] = Kernel<KernelKind::gaussian>::template log2<T>(s.v[i], c);
  return s;
}

template <class T>
__device__ Derivatives<T> derivatives_of(KernelKind kind, Quad<T> s, const KernelConstants<T>& c) {
  if (kind != KernelKind::gaussian) return called_derivatives<T>(kind, s, c);
  Derivatives<T> d;
#pragma unroll
  for (int i = 0; i < micro; ++i)
    Kernel<KernelKind::gaussian>::template all<T>(s.v[i], c, d.value.v[i], d.slope.v[i], d.curve.v[i]);
  return d;
}

template <class T>
__device__ Quad<T> row_of(const Micro<T>& s, int r) {
  return {{s[r][0], s[r][1], s[r][2], s[r][3]}};
}

// Memory of a tile. Stein kernels read two panels more, of half the depth.
template <class T, bool stein>
constexpr int depth_of = stein ? panel_depth<T> / 2 : panel_depth<T>;
template <class T, bool stein>
struct TilePanels : Panels<T, depth_of<T, stein>> {};
template <class T>
struct TilePanels<T, true> : Panels<T, depth_of<T, true>> {
  Panel<T, depth_of<T, true>> scores_x, scores_y;
};

// Kernel values of a tile. The caller has synchronised.
template <class T>
__device__ void kernel_tile(const TermGroup<T>& a, const PairBlock& b, int64_t col, bool keep_x,
                            TilePanels<T, false>& panels, Micro<T>& k) {
  Micro<T> s;
  distances(a.grid, b, col, a.form, a.metric, a.theta, keep_x, panels, s);
  fill(k, T(0));
  for (int t = 0; t < a.terms; ++t) {
    const KernelConstants<T>& c = a.constants[t];
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      Quad<T> f = values_of<T>(a.kinds[t], row_of(s, r), c);
#pragma unroll
      for (int i = 0; i < micro; ++i) k[r][i] = k[r][i] + c.coefficient * f.v[i];
    }
  }
  mask(a.grid, b, col, k, T(0));
}

// Stein kernels of a tile; see kernels.hpp for the sums it takes.
template <class T>
__device__ void kernel_tile(const TermGroup<T>& a, const PairBlock& b, int64_t col, bool keep_x,
                            TilePanels<T, true>& panels, Micro<T>& k) {
  constexpr int depth = depth_of<T, true>;
  const PairGrid<T>& g = a.grid;
  const int64_t x = (b.problem * g.n + b.row) * g.dim, y = (b.problem * g.m + col) * g.dim;
  const bool radial = a.form != Form::dots;
  Micro<T> s, dots, cross, bend;
  T row_dots[micro] = {}, col_dots[micro] = {};
  fill(s, T(0));
  fill(dots, T(0));
  fill(cross, T(0));
  fill(bend, T(0));
  for (int64_t first = 0; first < g.dim; first += depth) {
    const int count = static_cast<int>(g.dim - first < depth ? g.dim - first : depth), cols = clipped(b.end - col);
    if (first > 0) __syncthreads();
    if (!keep_x || g.dim > depth) {
      load_panel(g.x + x, g.dim, first, count, b.rows, panels.x);
      load_panel(a.scores_x + x, g.dim, first, count, b.rows, panels.scores_x);
    }
    load_panel(g.y + y, g.dim, first, count, cols, panels.y);
    load_panel(a.scores_y + y, g.dim, first, count, cols, panels.scores_y);
    if (thread_number() < count)
      panels.metric[thread_number()] = a.metric ? static_cast<T>(a.metric[first + thread_number()]) : T(1);
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      const Quad<T> p = panels.x.at[i][threadIdx.y], u = panels.scores_x.at[i][threadIdx.y];
      const Quad<T> q = panels.y.at[i][threadIdx.x], v = panels.scores_y.at[i][threadIdx.x];
      const T metric = panels.metric[i];
      if (radial) {
#pragma unroll
        for (int r = 0; r < micro; ++r)
#pragma unroll
          for (int c = 0; c < micro; ++c) {
            T d = p.v[r] - q.v[c], gd = metric * d;
            s[r][c] = s[r][c] + gd * d;
            dots[r][c] = dots[r][c] + u.v[r] * v.v[c];
            cross[r][c] = cross[r][c] + (u.v[r] - v.v[c]) * gd;
            bend[r][c] = bend[r][c] + gd * gd;
          }
      } else {
#pragma unroll
        for (int r = 0; r < micro; ++r) {
          row_dots[r] = row_dots[r] + p.v[r] * u.v[r];
          col_dots[r] = col_dots[r] + q.v[r] * v.v[r];
#pragma unroll
          for (int c = 0; c < micro; ++c) {
            s[r][c] = s[r][c] + p.v[r] * q.v[c];
            dots[r][c] = dots[r][c] + u.v[r] * v.v[c];
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < micro; ++r)
#pragma unroll
    for (int c = 0; c < micro; ++c) {
      if (!radial) {
        cross[r][c] = row_dots[r] + col_dots[c];
        bend[r][c] = s[r][c];
      }
      k[r][c] = T(0);
    }
  for (int t = 0; t < a.terms; ++t) {
    const KernelConstants<T>& constants = a.constants[t];
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      Derivatives<T> f = derivatives_of<T>(a.kinds[t], row_of(s, r), constants);
#pragma unroll
      for (int c = 0; c < micro; ++c) {
        T value = stein_value<T>(radial, f.value.v[c], f.slope.v[c], f.curve.v[c], dots[r][c], cross[r][c], bend[r][c],
                                 a.trace);
        k[r][c] = k[r][c] + constants.coefficient * value;
      }
    }
  }
  mask(g, b, col, k, T(0));
}

template <class T>
__device__ const T* weights_of(const PairWeights<T>& w, const PairGrid<T>& g, const PairBlock& b, int64_t col) {
  return w.data ? w.data + ((w.per_batch ? b.problem * g.m : 0) + col) * w.columns : nullptr;
}

// Weights of a tile's columns, up to Q for each; zero past the end.
template <class T, int Q>
__device__ void load_weights(const PairWeights<T>& w, const PairGrid<T>& g, const PairBlock& b, int64_t col,
                             Quad<T> (*out)[side]) {
  const T* data = weights_of(w, g, b, col);
  constexpr int count = Q > 0 ? Q : 1;
  for (int e = thread_number(); e < tile_size * Q; e += pair_threads) {
    const int j = e / count, q = e % count;
    T value = T(0);
    if (col + j < b.end && q < w.columns) value = data ? data[j * w.columns + q] : T(1);
    out[q][j % side].v[j / side] = value;
  }
}

// ---- sums -----------------------------------------------------------------------------------------------------------

// Bound by arithmetic: for a Gaussian in float 2 dim + 14 operations a pair, then one for each column of weights.
template <class T, bool stein, int Q>
__global__ void __launch_bounds__(pair_threads)
    sum_kernel(const __grid_constant__ TermGroup<T> a, const __grid_constant__ PairWeights<T> w) {
  __shared__ TilePanels<T, stein> panels;
  __shared__ Quad<T> weights[Q][side];
  __shared__ double table[tile_size][side + 1];
  const PairBlock b = pair_block(a.grid);
  T run[Q][micro] = {};
  double total[Q] = {};  // of row t in thread t < 64
  int tiles = 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_weights<T, Q>(w, a.grid, b, col, weights);
    Micro<T> k;
    kernel_tile(a, b, col, col > b.first, panels, k);
#pragma unroll
    for (int q = 0; q < Q; ++q) {
      const Quad<T> v = weights[q][threadIdx.x];
#pragma unroll
      for (int r = 0; r < micro; ++r) {
        T part = T(0);
#pragma unroll
        for (int c = 0; c < micro; ++c) part = part + k[r][c] * v.v[c];
        run[q][r] = run[q][r] + part;
      }
    }
    if (++tiles % run_tiles != 0 && col + tile_size < b.end) continue;
#pragma unroll
    for (int q = 0; q < Q; ++q) {
      total[q] += sum_of_row(run[q], table);
#pragma unroll
      for (int r = 0; r < micro; ++r) run[q][r] = T(0);
    }
  }
  if (thread_number() >= b.rows) return;
  double* part = part_of(a, b) + thread_number() * a.width;
#pragma unroll
  for (int q = 0; q < Q; ++q)
    if (q < a.width) part[q] = total[q];
}

// ---- gradients ------------------------------------------------------------------------------------------------------

// A group's gradient is factor_a sum_j c_ij (use_x x_a - use_y y_a) with c the slopes times the weights. A row has dim of
// these, then the sum of the values and the number of coincident pairs where one of the terms is singular.
template <class T>
struct GradientArgs {
  PairWeights<T> weights;
  T use_x, use_y, sign;
  bool with_sum, watch;
};

// Slopes of a tile times the weights. The sums of the values of this thread's pairs are added to `values`.
template <class T>
__device__ void slope_tile(const TermGroup<T>& a, const GradientArgs<T>& e, const PairBlock& b, int64_t col,
                           bool keep_x, TilePanels<T, false>& panels, const Quad<T>* weights, Micro<T>& k,
                           T (&values)[micro], int (&coincident)[micro]) {
  Micro<T> s, f;
  distances(a.grid, b, col, a.form, a.metric, a.theta, keep_x, panels, s);
  fill(k, T(0));
  fill(f, T(0));
  for (int t = 0; t < a.terms; ++t) {
    const KernelConstants<T>& c = a.constants[t];
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      Derivatives<T> d = derivatives_of<T>(a.kinds[t], row_of(s, r), c);
#pragma unroll
      for (int i = 0; i < micro; ++i) k[r][i] = k[r][i] + c.coefficient * d.slope.v[i];
      if (!e.with_sum) continue;
#pragma unroll
      for (int i = 0; i < micro; ++i) f[r][i] = f[r][i] + c.coefficient * d.value.v[i];
    }
  }
  mask(a.grid, b, col, k, T(0));
  const Quad<T> w = weights[threadIdx.x];
#pragma unroll
  for (int r = 0; r < micro; ++r)
#pragma unroll
    for (int c = 0; c < micro; ++c) k[r][c] = k[r][c] * w.v[c];
  if (e.with_sum) {
    mask(a.grid, b, col, f, T(0));
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) values[r] = values[r] + f[r][c] * w.v[c];
  }
  if (e.watch) {
    mask(a.grid, b, col, s, T(1));
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) coincident[r] += s[r][c] < least_square<T>();
  }
}

// Up to 4 dimensions. Bound by arithmetic: 2 dim + 18 operations a pair for a Gaussian in float, then 2 D.
template <class T, int D>
__global__ void __launch_bounds__(pair_threads)
    gradient_kernel(const __grid_constant__ TermGroup<T> a, const __grid_constant__ GradientArgs<T> e) {
  __shared__ TilePanels<T, false> panels;
  __shared__ Quad<T> weights[1][side];
  __shared__ double table[tile_size][side + 1];
  const PairBlock b = pair_block(a.grid);
  const int dim = static_cast<int>(a.grid.dim);
  T run[D][micro] = {}, run_values[micro] = {};
  double total[D] = {}, values = 0.0;  // of row t in thread t < 64
  int coincident[micro] = {};
  int tiles = 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_weights<T, 1>(e.weights, a.grid, b, col, weights);
    Micro<T> k;
    slope_tile(a, e, b, col, col > b.first, panels, weights[0], k, run_values, coincident);
#pragma unroll
    for (int d = 0; d < D; ++d) {
      if (d >= dim) break;
      const Quad<T> x = panels.x.at[d][threadIdx.y], y = panels.y.at[d][threadIdx.x];
#pragma unroll
      for (int r = 0; r < micro; ++r) {
        const T from = e.use_x * x.v[r];
        T part = T(0);
#pragma unroll
        for (int c = 0; c < micro; ++c) part = part + k[r][c] * (from - e.use_y * y.v[c]);
        run[d][r] = run[d][r] + part;
      }
    }
    if (++tiles % run_tiles != 0 && col + tile_size < b.end) continue;
    if (e.with_sum) values += sum_of_row(run_values, table);
#pragma unroll
    for (int d = 0; d < D; ++d)
      if (d < dim) total[d] += sum_of_row(run[d], table);
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      run_values[r] = T(0);
#pragma unroll
      for (int d = 0; d < D; ++d) run[d][r] = T(0);
    }
  }
  const double count = e.watch ? sum_of_row(coincident, table) : 0.0;
  if (thread_number() >= b.rows) return;
  double* part = part_of(a, b) + thread_number() * a.width;
#pragma unroll
  for (int d = 0; d < D; ++d)
    if (d < dim) part[d] = total[d] * e.sign * (a.metric ? a.metric[d] : 1.0);
  part[dim] = values;
  part[dim + 1] = count;
}

// A thread has one row and 8 coordinates. The derivative in one coordinate needs the product of the other factors, taken
// from the left and from the right so that a factor of zero is no division by zero. Bound by the sines and cosines:
// dim + 8 of them for 8 derivatives.
constexpr int sinc_chunk = 8;

template <class T>
__global__ void sinc_gradient_kernel(const __grid_constant__ TermGroup<T> a, const __grid_constant__ GradientArgs<T> e,
                                     int64_t rows) {
  const PairGrid<T>& g = a.grid;
  const int64_t dim = g.dim, chunks = (dim - 1) / sinc_chunk + 1;
  for (int64_t item = first_item(); item < rows * chunks * g.slabs; item += item_stride()) {
    const int64_t row = item % rows, chunk = item / rows % chunks, slab = item / rows / chunks;
    const int64_t problem = row / g.n, i = row % g.n, low = chunk * sinc_chunk;
    const int count = static_cast<int>(dim - low < sinc_chunk ? dim - low : sinc_chunk);
    const int64_t end = (slab + 1) * g.slab < g.m ? (slab + 1) * g.slab : g.m;
    const T* x = g.x + row * dim;
    const T* weights = e.weights.data ? e.weights.data + (e.weights.per_batch ? problem * g.m : 0) : nullptr;
    double total[sinc_chunk] = {}, values = 0.0;
    for (int64_t j = slab * g.slab; j < end; ++j) {
      if (g.exclude_self && i == j) continue;
      const T* y = g.y + (problem * g.m + j) * dim;
      T product = (weights ? weights[j] : T(1)) * a.constants[0].coefficient;
      for (int64_t d = 0; d < dim; ++d)
        if (d < low || d >= low + count) product = product * sinc_value<T>((x[d] - y[d]) * a.theta);
      T left[sinc_chunk], factor[sinc_chunk];
#pragma unroll
      for (int d = 0; d < sinc_chunk; ++d) {
        T value = T(1), slope = T(0);
        if (d < count) sinc_pair<T>((x[low + d] - y[low + d]) * a.theta, value, slope);
        left[d] = product * slope;
        factor[d] = value;
        product = product * value;
      }
      values += static_cast<double>(product);
      T right = a.theta;
#pragma unroll
      for (int d = sinc_chunk - 1; d >= 0; --d) {
        total[d] += static_cast<double>(left[d] * right);
        right = right * factor[d];
      }
    }
    double* part = a.parts + slab * a.part_size + row * a.width;
    for (int d = 0; d < sinc_chunk; ++d)
      if (d < count) part[low + d] = total[d] * e.sign;
    if (chunk > 0) continue;
    part[dim] = values;
    part[dim + 1] = 0.0;
  }
}

// ---- log-sum-exp and softmax means ----------------------------------------------------------------------------------

// A row has the largest exponent so far (base 2), the sum of the exponentials under it, and the weighted sums of values.
template <class T>
struct SoftmaxArgs {
  PairWeights<T> log_weights, values;
  const double* shifts;  // of the log weights, one for each block of them
};

// Logarithms of one term's kernel on a tile with distances s, and the log weights.
template <class T>
__device__ void log_tile(const TermGroup<T>& a, const PairBlock& b, int64_t col, int term, const Quad<T>& w,
                         const Micro<T>& s, Micro<T>& l) {
  const KernelConstants<T>& constants = a.constants[term];
#pragma unroll
  for (int r = 0; r < micro; ++r) {
    Quad<T> f = logs_of<T>(a.kinds[term], row_of(s, r), constants);
#pragma unroll
    for (int c = 0; c < micro; ++c) l[r][c] = f.v[c] + constants.log_coefficient + w.v[c];
  }
  mask(a.grid, b, col, l, -infinity<T>());
}

template <class T>
__device__ void load_log_weights(const SoftmaxArgs<T>& e, const PairGrid<T>& g, const PairBlock& b, int64_t col,
                                 Quad<T>* out) {
  const int j = thread_number();
  if (j >= tile_size) return;
  const T* data = weights_of(e.log_weights, g, b, col);
  T value = T(0);
  if (data && col + j < b.end)
    value = static_cast<T>((static_cast<double>(data[j]) - e.shifts[e.log_weights.per_batch ? b.problem : 0]) * log2_e);
  out[j % side].v[j / side] = value;
}

// Any finite number will do as long as all terms are 0.
template <class T>
__device__ T finite_top(T top) {
  return top == -infinity<T>() ? T(0) : top;
}
template <class T>
__device__ double rescaling(T old_top, T new_top) {
  return exp2_small<double>(static_cast<double>(old_top) - static_cast<double>(finite_top(new_top)));
}

// Every thread has its own largest exponents: nobody waits for the others, and they are merged at the end. Q: columns of
// values, 0 for the log-sum-exp alone. Bound by arithmetic as the sums are.
template <class T, int Q>
__global__ void __launch_bounds__(pair_threads)
    softmax_kernel(const __grid_constant__ TermGroup<T> a, const __grid_constant__ SoftmaxArgs<T> e) {
  __shared__ TilePanels<T, false> panels;
  __shared__ Quad<T> log_weights[side], values[Q > 0 ? Q : 1][side];
  __shared__ double table[tile_size][side + 1];
  __shared__ T tops[tile_size];
  const PairBlock b = pair_block(a.grid);
  T run[1 + Q][micro] = {}, top[micro];
  double total[1 + Q][micro] = {};
  for (int r = 0; r < micro; ++r) top[r] = -infinity<T>();
  int summed = 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_log_weights(e, a.grid, b, col, log_weights);
    if (Q > 0) load_weights<T, Q>(e.values, a.grid, b, col, values);
    Micro<T> s, l;
    distances(a.grid, b, col, a.form, a.metric, a.theta, col > b.first, panels, s);
    for (int t = 0; t < a.terms; ++t) {
      log_tile(a, b, col, t, log_weights[threadIdx.x], s, l);
#pragma unroll
      for (int r = 0; r < micro; ++r) {
        T best = top[r];
#pragma unroll
        for (int c = 0; c < micro; ++c) best = l[r][c] > best ? l[r][c] : best;
        if (best > top[r]) {
          double factor = rescaling(top[r], best);
          top[r] = best;
#pragma unroll
          for (int q = 0; q <= Q; ++q) {
            total[q][r] *= factor;
            run[q][r] = static_cast<T>(run[q][r] * factor);
          }
        }
        const T under = finite_top(top[r]);
#pragma unroll
        for (int c = 0; c < micro; ++c) l[r][c] = exp2_small<T>(l[r][c] - under);
        run[0][r] = run[0][r] + ((l[r][0] + l[r][1]) + (l[r][2] + l[r][3]));
#pragma unroll
        for (int q = 0; q < Q; ++q) {
          const Quad<T> v = values[q][threadIdx.x];
          T part = T(0);
#pragma unroll
          for (int c = 0; c < micro; ++c) part = part + l[r][c] * v.v[c];
          run[1 + q][r] = run[1 + q][r] + part;
        }
      }
      if (++summed % run_tiles != 0 && !(t + 1 == a.terms && col + tile_size >= b.end)) continue;
#pragma unroll
      for (int r = 0; r < micro; ++r)
#pragma unroll
        for (int q = 0; q <= Q; ++q) {
          total[q][r] += static_cast<double>(run[q][r]);
          run[q][r] = T(0);
        }
    }
  }
  // One largest exponent for the 16 threads of a row.
  __syncthreads();
  for (int r = 0; r < micro; ++r) table[threadIdx.y + side * r][threadIdx.x] = static_cast<double>(top[r]);
  __syncthreads();
  double* part = part_of(a, b) + thread_number() * a.width;
  if (thread_number() < tile_size) {
    double best = table[thread_number()][0];
    for (int t = 1; t < side; ++t) best = table[thread_number()][t] > best ? table[thread_number()][t] : best;
    tops[thread_number()] = static_cast<T>(best);
    if (thread_number() < b.rows) part[0] = best;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < micro; ++r) {
    double factor = rescaling(top[r], tops[threadIdx.y + side * r]);
#pragma unroll
    for (int q = 0; q <= Q; ++q) total[q][r] *= factor;
  }
#pragma unroll
  for (int q = 0; q <= Q; ++q) {
    double sum = sum_of_row(total[q], table);
    if (thread_number() < b.rows && 1 + q < a.width) part[1 + q] = sum;
  }
}

// The largest finite log weight of each problem, or 0: it costs digits of a float unless it is taken out first.
template <class T>
__global__ void __launch_bounds__(block_threads) shift_kernel(const T* log_weights, int64_t m, double* shifts) {
  __shared__ T tops[block_threads];
  const T* own = log_weights + blockIdx.x * m;
  T top = -infinity<T>();
  for (int64_t j = threadIdx.x; j < m; j += block_threads) top = own[j] > top ? own[j] : top;
  tops[threadIdx.x] = top;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int t = 1; t < block_threads; ++t) top = tops[t] > top ? tops[t] : top;
  shifts[blockIdx.x] = top > -infinity<T>() && top < infinity<T>() ? static_cast<double>(top) : 0.0;
}

// ---- many columns ---------------------------------------------------------------------------------------------------

enum class Wide { sum, stein, gradient, softmax };

template <class T>
constexpr int wide_tiles =
    sizeof(T) == 4 ? 2 : 1;  // tiles of columns whose kernel values are in shared memory at a time

template <class T>
union WideArgs {  // of one of the kinds above
  PairWeights<T> weights;
  GradientArgs<T> gradient;
  SoftmaxArgs<T> softmax;
};

// The kernel values of 64 rows and 128 (double: 64) columns times C blocks of 16 columns of values at a time: a thread has
// 4 rows and C columns. The sums so far are in memory, in double; a block adds to its own part only, always the same
// element from the same thread. Bound by arithmetic in many dimensions, else by these sums: 16 bytes for every 128 pairs
// of a row, which mostly stay in the second-level cache.
template <class T, Wide kind, int C>
__global__ void __launch_bounds__(pair_threads)
    wide_kernel(const __grid_constant__ TermGroup<T> a, const __grid_constant__ WideArgs<T> args,
                const __grid_constant__ PairWeights<T> columns) {
  constexpr bool stein = kind == Wide::stein, gradient = kind == Wide::gradient, softmax = kind == Wide::softmax;
  constexpr int wide_cols = wide_tiles<T> * tile_size;
  __shared__ union {
    TilePanels<T, stein> panels;
    Quad<T> values[side][side];  // 16 columns of the tile
    T tops[tile_size][side + 1];
  } mixed;
  __shared__ Quad<T> kernel[wide_cols][side + 1];  // of rows ty + 16 r
  __shared__ Quad<T> weights[1][side];
  __shared__ T top[tile_size];
  __shared__ double factor[tile_size];
  const PairGrid<T>& g = a.grid;
  const PairBlock b = pair_block(g);
  const int tx = threadIdx.x, ty = threadIdx.y;
  T values_run[micro];
  double values_total[micro] = {};
  int coincident[micro] = {};
  if (thread_number() < tile_size) top[thread_number()] = -infinity<T>();
  double* const part = part_of(a, b);
  const int passes = softmax ? a.terms : 1;
  for (int64_t wide_col = b.first; wide_col < b.end; wide_col += wide_cols) {
    const int64_t wide_end = wide_col + wide_cols < b.end ? wide_col + wide_cols : b.end;
    for (int pass = 0; pass < passes; ++pass) {
      for (int r = 0; r < micro; ++r) values_run[r] = T(0);
      // Kernel values, or their logarithms.
      for (int tile = 0; tile < wide_tiles<T>; ++tile) {
        const int64_t col = wide_col + tile * tile_size;
        if (col >= b.end) break;
        __syncthreads();
        Micro<T> k;
        if constexpr (gradient) {
          load_weights<T, 1>(args.gradient.weights, g, b, col, weights);
          slope_tile(a, args.gradient, b, col, false, mixed.panels, weights[0], k, values_run, coincident);
        } else if constexpr (softmax) {
          load_log_weights(args.softmax, g, b, col, weights[0]);
          Micro<T> s;
          distances(g, b, col, a.form, a.metric, a.theta, false, mixed.panels, s);
          log_tile(a, b, col, pass, weights[0][tx], s, k);
        } else {
          kernel_tile(a, b, col, false, mixed.panels, k);
        }
#pragma unroll
        for (int c = 0; c < micro; ++c)
          kernel[tile * tile_size + tx + side * c][ty] = {{k[0][c], k[1][c], k[2][c], k[3][c]}};
      }
      if constexpr (softmax) {
        // Logarithms become exponentials under the largest one so far.
        const int own = wide_end - wide_col > tile_size ? wide_tiles<T> * micro : micro;
        T best[micro];
        for (int r = 0; r < micro; ++r) best[r] = -infinity<T>();
        for (int c = 0; c < own; ++c) {
          const Quad<T> l = kernel[tx + side * c][ty];
#pragma unroll
          for (int r = 0; r < micro; ++r) best[r] = l.v[r] > best[r] ? l.v[r] : best[r];
        }
        __syncthreads();
        for (int r = 0; r < micro; ++r) mixed.tops[ty + side * r][tx] = best[r];
        __syncthreads();
        if (thread_number() < tile_size) {
          T now = top[thread_number()];
          for (int t = 0; t < side; ++t)
            now = mixed.tops[thread_number()][t] > now ? mixed.tops[thread_number()][t] : now;
          factor[thread_number()] = rescaling(top[thread_number()], now);
          top[thread_number()] = now;
        }
        __syncthreads();
        for (int c = 0; c < own; ++c) {
          Quad<T> f = kernel[tx + side * c][ty];
#pragma unroll
          for (int r = 0; r < micro; ++r) {
            f.v[r] = exp2_small<T>(f.v[r] - finite_top(top[ty + side * r]));
            values_run[r] = values_run[r] + f.v[r];
          }
          kernel[tx + side * c][ty] = f;
        }
        for (int r = 0; r < micro; ++r) values_total[r] *= factor[ty + side * r];
      }
      for (int r = 0; r < micro; ++r) values_total[r] += static_cast<double>(values_run[r]);
      // Their product with the values.
      const T* data = weights_of(columns, g, b, wide_col);
      const int64_t offset = softmax ? 2 : 0;
      for (int64_t q0 = 0; q0 < columns.columns; q0 += side * C) {
        T sum[micro][C] = {}, from[micro][C] = {};
        if constexpr (gradient) {
          for (int r = 0; r < micro; ++r)
            for (int c = 0; c < C; ++c) {
              const int64_t q = q0 + tx + side * c;
              if (ty + side * r < b.rows && q < columns.columns)
                from[r][c] = args.gradient.use_x * g.x[(b.problem * g.n + b.row + ty + side * r) * g.dim + q];
            }
        }
        for (int64_t col = wide_col; col < wide_end; col += side) {
          __syncthreads();
#pragma unroll
          for (int c = 0; c < C; ++c) {
            const int64_t q = q0 + tx + side * c;
            T value = T(0);
            if (col + ty < wide_end && q < columns.columns)
              value = data ? data[(col - wide_col + ty) * columns.columns + q] : T(1);
            if constexpr (gradient) value = args.gradient.use_y * value;
            mixed.values[ty][tx].v[c] = value;
          }
          __syncthreads();
#pragma unroll 4
          for (int j = 0; j < side; ++j) {
            const Quad<T> k = kernel[col - wide_col + j][ty];
#pragma unroll
            for (int c = 0; c < C; ++c) {
              const T v = mixed.values[j][tx].v[c];
#pragma unroll
              for (int r = 0; r < micro; ++r) sum[r][c] = sum[r][c] + k.v[r] * (gradient ? from[r][c] - v : v);
            }
          }
        }
#pragma unroll
        for (int r = 0; r < micro; ++r)
#pragma unroll
          for (int c = 0; c < C; ++c) {
            const int64_t q = q0 + tx + side * c;
            if (ty + side * r >= b.rows || q >= columns.columns) continue;
            double* total = part + (ty + side * r) * a.width + offset + q;
            double before = wide_col == b.first && pass == 0 ? 0.0 : *total;
            if (softmax) before *= factor[ty + side * r];
            *total = before + static_cast<double>(sum[r][c]);
          }
      }
    }
  }
  if constexpr (softmax || gradient) {
    __syncthreads();  // the kernel's memory is free now
    auto table = reinterpret_cast<double (*)[side + 1]>(&kernel[0][0]);
    if constexpr (gradient) {
      // Each thread has the same rows and columns as above.
      for (int r = 0; r < micro; ++r)
        for (int64_t q = tx; q < g.dim && ty + side * r < b.rows; q += side)
          part[(ty + side * r) * a.width + q] *= args.gradient.sign * (a.metric ? a.metric[q] : 1.0);
      const double sum = sum_of_row(values_total, table);
      const double count = args.gradient.watch ? sum_of_row(coincident, table) : 0.0;
      if (thread_number() >= b.rows) return;
      part[thread_number() * a.width + g.dim] = sum;
      part[thread_number() * a.width + g.dim + 1] = count;
    } else {
      double sum = sum_of_row(values_total, table);
      if (thread_number() >= b.rows) return;
      part[thread_number() * a.width] = static_cast<double>(top[thread_number()]);
      part[thread_number() * a.width + 1] = sum;
    }
  }
}

// ---- from parts to results ------------------------------------------------------------------------------------------

template <class T>
struct Parts {
  const double* data;  // (count, rows, width)
  int64_t count, rows, width;
};

// out (rows, columns): the sums of columns first .. first + columns.
template <class T>
__global__ void add_parts_kernel(Parts<T> p, int64_t first, int64_t columns, T* out) {
  for (int64_t e = first_item(); e < p.rows * columns; e += item_stride()) {
    double total = 0.0;
    for (int64_t i = 0; i < p.count; ++i) total += p.data[(i * p.rows + e / columns) * p.width + first + e % columns];
    out[e] = static_cast<T>(total);
  }
}

// out[0]: the sum of one column, a count, over everything. One block.
__global__ void __launch_bounds__(block_threads) count_kernel(Parts<double> p, int64_t column, double* out) {
  __shared__ double counts[block_threads];
  double total = 0.0;
  for (int64_t e = threadIdx.x; e < p.count * p.rows; e += block_threads) total += p.data[e * p.width + column];
  counts[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int t = 1; t < block_threads; ++t) total += counts[t];
  out[0] = total;
}

// out[0]: how many rows of softmax parts have nothing but zero weights. One block.
template <class T>
__global__ void __launch_bounds__(block_threads) empty_rows_kernel(Parts<T> p, double* out) {
  __shared__ double counts[block_threads];
  double total = 0.0;
  for (int64_t row = threadIdx.x; row < p.rows; row += block_threads) {
    bool empty = true;
    for (int64_t i = 0; i < p.count; ++i)
      empty = empty && !(p.data[(i * p.rows + row) * p.width] > -infinity<double>());
    total += empty ? 1.0 : 0.0;
  }
  counts[threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int t = 1; t < block_threads; ++t) total += counts[t];
  out[0] = total;
}

// Column 1 + q of a row of softmax parts, under their largest exponent.
template <class T>
__device__ double softmax_column(const Parts<T>& p, int64_t row, double top, int64_t column) {
  double total = 0.0;
  for (int64_t i = 0; i < p.count; ++i) {
    const double* part = p.data + (i * p.rows + row) * p.width;
    if (part[0] > -infinity<double>()) total += part[column] * exp2_small<double>(part[0] - top);
  }
  return total;
}

// logsumexp (rows,) and mean (rows, columns), null where not wanted.
template <class T>
__global__ void softmax_parts_kernel(Parts<T> p, const double* shifts, int64_t rows_per_shift, int64_t columns,
                                     T* logsumexp, T* mean) {
  for (int64_t e = first_item(); e < p.rows * columns; e += item_stride()) {
    const int64_t row = e / columns, q = e % columns;
    double top = -infinity<double>();
    for (int64_t i = 0; i < p.count; ++i) {
      double own = p.data[(i * p.rows + row) * p.width];
      top = own > top ? own : top;
    }
    const double sum = softmax_column(p, row, top, 1);
    if (mean) mean[e] = static_cast<T>(softmax_column(p, row, top, 2 + q) / sum);
    if (!logsumexp || q > 0) continue;
    double result = -infinity<double>();
    if (sum > 0.0) result = top * ln2 + log_positive<double>(sum) + (shifts ? shifts[row / rows_per_shift] : 0.0);
    logsumexp[row] = static_cast<T>(result);
  }
}

// ---- whole matrices -------------------------------------------------------------------------------------------------

// out (problems, n, m), added to what is there unless `fresh`. For small problems; bound by the writes.
template <class T, bool stein>
__global__ void __launch_bounds__(pair_threads)
    matrix_kernel(const __grid_constant__ TermGroup<T> a, bool fresh, T* out) {
  __shared__ TilePanels<T, stein> panels;
  const PairBlock b = pair_block(a.grid);
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    Micro<T> k;
    kernel_tile(a, b, col, col > b.first, panels, k);
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) {
        const int64_t row = threadIdx.y + side * r, j = col + threadIdx.x + side * c;
        if (row >= b.rows || j >= b.end) continue;
        T& element = out[(b.problem * a.grid.n + b.row + row) * a.grid.m + j];
        element = fresh ? k[r][c] : element + k[r][c];
      }
  }
}

// ---- launching ------------------------------------------------------------------------------------------------------

// A call cut into groups of terms and slabs of columns, with memory for the parts.
template <class T>
class Plan {
 public:
  std::vector<TermGroup<T>> groups;

  // width: doubles of a row; 0: no parts are kept.
  Plan(const PairArgs<T>& a, int64_t width, Queue queue)
      : args_(a), queue_(queue), metrics_(metrics(a), queue), width_(width) {
    for (int t = 0; t < a.n_terms; ++t) add(a.terms[t]);
    const int64_t row_tiles = (a.n - 1) / tile_size + 1, tiles = row_tiles * a.batch;
    int64_t most = (a.m - 1) / least_slab + 1, n_groups = static_cast<int64_t>(groups.size());
    if (width > 0) {
      int64_t fits = part_bytes / (rows() * width * n_groups * static_cast<int64_t>(sizeof(double)));
      most = fits < most ? fits : most;
    }
    int64_t slabs = (enough_blocks - 1) / tiles + 1;
    slabs = slabs < most ? slabs : most;
    slabs = slabs > 1 ? slabs : 1;
    constexpr int64_t step = 2 * tile_size;
    int64_t slab = ((a.m - 1) / slabs / step + 1) * step;
    slabs = a.m > 0 ? (a.m - 1) / slab + 1 : 0;
    parts_ = slabs * n_groups;
    memory_.reset(new Scratch<double>(parts_ * rows() * width, queue));
    for (size_t i = 0; i < groups.size(); ++i) {
      groups[i].grid = {a.x, a.y, a.n, a.m, a.dim, row_tiles, slabs, slab, a.exclude_self};
      groups[i].width = width;
      groups[i].part_size = rows() * width;
      groups[i].parts = memory_->data() + static_cast<int64_t>(i) * slabs * rows() * width;
    }
    blocks_ = tiles * slabs;
    if (blocks_ >> 31 != 0) throw std::invalid_argument("x: too many points");
  }

  int64_t rows() const { return args_.batch * args_.n; }
  template <class R>
  Parts<R> parts() const {
    return {memory_->data(), parts_, rows(), width_};
  }
  template <class... Parameters, class... Arguments>
  void launch_pairs(const char* name, void (*kernel)(Parameters...), Arguments&&... arguments) const {
    if (blocks_ == 0) return;
    launch_blocks(name, kernel, dim3(static_cast<unsigned>(blocks_)), dim3(side, side), queue_,
                  std::forward<Arguments>(arguments)...);
  }
  void add_parts(int64_t first, int64_t columns, T* out) const {
    launch("add_parts", add_parts_kernel<T>, rows() * columns, queue_, parts<T>(), first, columns, out);
  }

 private:
  static std::vector<double> metrics(const PairArgs<T>& a) {
    int count = 0;
    for (int t = 0; t < a.n_terms; ++t) count = a.terms[t].metric >= count ? a.terms[t].metric + 1 : count;
    return std::vector<double>(a.metrics, a.metrics + count * a.dim);
  }

  void add(const KernelTerm& term) {
    TermGroup<T> own{};
    own.form = term.kind == KernelKind::sinc ? Form::sinc
               : !is_radial(term.kind)       ? Form::dots
               : term.metric >= 0            ? Form::metric_squares
                                             : Form::squares;
    own.metric = own.form == Form::metric_squares ? metrics_.data() + term.metric * args_.dim : nullptr;
    size_t at = 0;
    // The argument of sinc holds its frequency, so such terms share nothing.
    while (at < groups.size() &&
           (own.form == Form::sinc || groups[at].form != own.form || groups[at].metric != own.metric))
      ++at;
    if (at == groups.size()) {
      double trace = static_cast<double>(args_.dim);
      if (own.metric) {
        trace = 0.0;
        for (int64_t d = 0; d < args_.dim; ++d) trace += args_.metrics[term.metric * args_.dim + d];
      }
      own.trace = static_cast<T>(trace);
      own.theta = static_cast<T>(term.scale);
      groups.push_back(own);
    }
    TermGroup<T>& group = groups[at];
    group.singular = group.singular || is_singular(term);
    group.kinds[group.terms] = term.kind;
    group.constants[group.terms++] = kernel_constants<T>(term);
  }

  const PairArgs<T>& args_;
  Queue queue_;
  Upload metrics_;
  int64_t width_, parts_ = 0, blocks_ = 0;
  std::unique_ptr<Scratch<double>> memory_;
};

template <class T>
void run_sum(const PairArgs<T>& args, const PairWeights<T>& weights, T* out, Queue queue) {
  if (args.batch == 0 || args.n == 0) return;
  OnDevice device(out);
  Plan<T> plan(args, weights.columns, queue);
  WideArgs<T> wide{weights};
  for (const TermGroup<T>& group : plan.groups) {
    if (weights.columns == 1)
      plan.launch_pairs("kernel_sum", sum_kernel<T, false, 1>, group, weights);
    else if (weights.columns <= max_narrow)
      plan.launch_pairs("kernel_sum", sum_kernel<T, false, max_narrow>, group, weights);
    else if (weights.columns <= side)
      plan.launch_pairs("kernel_sum", wide_kernel<T, Wide::sum, 1>, group, wide, weights);
    else
      plan.launch_pairs("kernel_sum", wide_kernel<T, Wide::sum, micro>, group, wide, weights);
  }
  plan.add_parts(0, weights.columns, out);
}

template <class T>
void run_stein(const PairArgs<T>& args, const T* scores_x, const T* scores_y, const PairWeights<T>& weights, T* out,
               Queue queue) {
  if (args.batch == 0 || args.n == 0) return;
  OnDevice device(out);
  Plan<T> plan(args, weights.columns, queue);
  WideArgs<T> wide{weights};
  for (TermGroup<T>& group : plan.groups) {
    group.scores_x = scores_x;
    group.scores_y = scores_y;
    if (weights.columns == 1)
      plan.launch_pairs("stein_sum", sum_kernel<T, true, 1>, group, weights);
    else if (weights.columns <= max_narrow)
      plan.launch_pairs("stein_sum", sum_kernel<T, true, max_narrow>, group, weights);
    else
      plan.launch_pairs("stein_sum", wide_kernel<T, Wide::stein, micro>, group, wide, weights);
  }
  plan.add_parts(0, weights.columns, out);
}

template <class T>
int64_t run_gradient(const PairArgs<T>& args, const PairWeights<T>& weights, bool in_y, T* sum, T* gradient,
                     Queue queue) {
  if (args.batch == 0 || args.n == 0) return 0;
  OnDevice device(gradient);
  Plan<T> plan(args, args.dim + 2, queue);
  const PairWeights<T> points{args.y, args.dim, true};
  bool watched = false;
  for (const TermGroup<T>& group : plan.groups) {
    const bool product = group.form == Form::dots;
    // x - y, and -y or x for products
    GradientArgs<T> e{weights,
                      T(product && !in_y ? 0 : 1),
                      T(product && in_y ? 0 : 1),
                      T(product != in_y ? -1 : 1),
                      sum != nullptr,
                      group.singular};
    watched = watched || e.watch;
    WideArgs<T> wide{};
    wide.gradient = e;
    if (group.form == Form::sinc)
      launch("kernel_gradient", sinc_gradient_kernel<T>,
             plan.rows() * ((args.dim - 1) / sinc_chunk + 1) * group.grid.slabs, queue, group, e, plan.rows());
    else if (args.dim <= 2)
      plan.launch_pairs("kernel_gradient", gradient_kernel<T, 2>, group, e);
    else if (args.dim <= max_narrow)
      plan.launch_pairs("kernel_gradient", gradient_kernel<T, max_narrow>, group, e);
    else if (args.dim <= side)
      plan.launch_pairs("kernel_gradient", wide_kernel<T, Wide::gradient, 1>, group, wide, points);
    else
      plan.launch_pairs("kernel_gradient", wide_kernel<T, Wide::gradient, micro>, group, wide, points);
  }
  plan.add_parts(0, args.dim, gradient);
  if (sum) plan.add_parts(args.dim, 1, sum);
  if (!watched || args.m == 0) return 0;
  Scratch<double> count(1, queue);
  launch_blocks("coincident", count_kernel, dim3(1), dim3(block_threads), queue, plan.template parts<double>(),
                args.dim + 1, count.data());
  double found = 0.0;
  copy_to_host(&found, count.data(), sizeof found, queue);
  return static_cast<int64_t>(found);
}

template <class T>
int64_t run_softmax(const PairArgs<T>& args, const PairWeights<T>& log_weights, const PairWeights<T>& values,
                    T* logsumexp, T* mean, Queue queue) {
  if (args.batch == 0 || args.n == 0 || (!logsumexp && !mean)) return 0;
  OnDevice device(mean ? mean : logsumexp);
  const int64_t columns = mean ? values.columns : 0;
  Plan<T> plan(args, 2 + columns, queue);
  const int64_t problems = log_weights.per_batch ? args.batch : 1;
  Scratch<double> shifts(log_weights.data ? problems : 0, queue);
  if (log_weights.data)
    launch_blocks("log_weights", shift_kernel<T>, dim3(static_cast<unsigned>(problems)), dim3(block_threads), queue,
                  log_weights.data, args.m, shifts.data());
  SoftmaxArgs<T> e{log_weights, values, shifts.data()};
  WideArgs<T> wide{};
  wide.softmax = e;
  for (const TermGroup<T>& group : plan.groups) {
    if (columns == 0)
      plan.launch_pairs("kernel_logsumexp", softmax_kernel<T, 0>, group, e);
    else if (columns <= max_narrow)
      plan.launch_pairs("kernel_mean", softmax_kernel<T, max_narrow>, group, e);
    else if (columns <= side)
      plan.launch_pairs("kernel_mean", wide_kernel<T, Wide::softmax, 1>, group, wide, values);
    else
      plan.launch_pairs("kernel_mean", wide_kernel<T, Wide::softmax, micro>, group, wide, values);
  }
  const int64_t per_shift = log_weights.per_batch ? args.n : plan.rows(), each = mean ? columns : 1;
  launch("softmax_parts", softmax_parts_kernel<T>, plan.rows() * each, queue, plan.template parts<T>(), shifts.data(),
         per_shift, each, logsumexp, mean);
  if (!mean || (!args.exclude_self && !log_weights.data)) return 0;
  Scratch<double> count(1, queue);
  launch_blocks("empty_rows", empty_rows_kernel<T>, dim3(1), dim3(block_threads), queue, plan.template parts<T>(),
                count.data());
  double found = 0.0;
  copy_to_host(&found, count.data(), sizeof found, queue);
  return static_cast<int64_t>(found);
}

template <class T>
void run_matrix(const PairArgs<T>& args, const T* scores_x, const T* scores_y, T* out, Queue queue) {
  if (args.batch == 0 || args.n == 0 || args.m == 0) return;
  OnDevice device(out);
  Plan<T> plan(args, 0, queue);
  bool fresh = true;
  for (TermGroup<T>& group : plan.groups) {
    group.scores_x = scores_x;
    group.scores_y = scores_y;
    plan.launch_pairs("kernel_matrix", scores_x ? matrix_kernel<T, true> : matrix_kernel<T, false>, group, fresh, out);
    fresh = false;
  }
}

}  // namespace

#define MK_INTERACTION(T)                                                                                             \
  template <>                                                                                                         \
  void kernel_sum<T>(const PairArgs<T>& args, const PairWeights<T>& weights, T* out, Queue queue) {                   \
    run_sum(args, weights, out, queue);                                                                               \
  }                                                                                                                   \
  template <>                                                                                                         \
  int64_t kernel_gradient<T>(const PairArgs<T>& args, const PairWeights<T>& weights, bool in_y, T* sum, T* gradient,  \
                             Queue queue) {                                                                           \
    return run_gradient(args, weights, in_y, sum, gradient, queue);                                                   \
  }                                                                                                                   \
  template <>                                                                                                         \
  int64_t kernel_softmax<T>(const PairArgs<T>& args, const PairWeights<T>& log_weights, const PairWeights<T>& values, \
                            T* logsumexp, T* mean, Queue queue) {                                                     \
    return run_softmax(args, log_weights, values, logsumexp, mean, queue);                                            \
  }                                                                                                                   \
  template <>                                                                                                         \
  void stein_sum<T>(const PairArgs<T>& args, const T* scores_x, const T* scores_y, const PairWeights<T>& weights,     \
                    T* out, Queue queue) {                                                                            \
    run_stein(args, scores_x, scores_y, weights, out, queue);                                                         \
  }                                                                                                                   \
  template <>                                                                                                         \
  void kernel_matrix<T>(const PairArgs<T>& args, const T* scores_x, const T* scores_y, T* out, Queue queue) {         \
    run_matrix(args, scores_x, scores_y, out, queue);                                                                 \
  }
MK_INTERACTION(float)
MK_INTERACTION(double)
#undef MK_INTERACTION

}  // namespace cuda
}  // namespace mk
