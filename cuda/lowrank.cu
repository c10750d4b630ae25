// CUDA executor of the low-rank models. All sums are in double, over pieces of the long axis whose size follows from the
// shapes alone; the sums of the pieces are added in order by a second kernel. There are no atomics, so results depend neither
// on the device nor on how many rows or items a call has.
//
// Almost everything is bound by reading a tall matrix U (dim, k), and built from four blocks: project, U^T x for up to eight
// vectors x at once; expand, U c for the same rows; gram, A^T B by tiles of 4 to 64 columns; multiply, A M by tiles.
//
// The file is compiled without contraction, so that the normals drawn here have the bits of all others; its own sums say
// where products and sums are fused.
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

#include "launch.cuh"
#include "mckean/lowrank.hpp"
#include "mckean/random.hpp"
#include "mckean/small_matrix.hpp"

namespace mk {
namespace cuda {
namespace {

#ifndef MK_LOWRANK_BYTES  // the tests on the host set it low, so that calls are cut
#define MK_LOWRANK_BYTES (int64_t{256} << 20)
#endif
constexpr int64_t part_bytes = MK_LOWRANK_BYTES;
constexpr int threads = block_threads;

// tests/test_cuda_build.py compiles with MK_UNFUSED, to see that nothing else is fused
__device__ inline double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__) && !defined(MK_UNFUSED)
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}
__device__ inline bool is_finite(double x) { return x - x == 0.0; }
__device__ inline double not_a_number() { return static_cast<double>(__builtin_nanf("")); }
__device__ inline double logarithm(double x) {
  constexpr double least_normal = 2.2250738585072014e-308, two54 = 18014398509481984.0, ln_two54 = 37.429947750237048;
  if (x >= least_normal && is_finite(x)) return log_positive<double>(x);
  if (x > 0.0 && is_finite(x)) return log_positive<double>(x * two54) - ln_two54;
  return x == 0.0 ? -static_cast<double>(__builtin_inff()) : x > 0.0 ? x : not_a_number();
}
__device__ inline int me() { return static_cast<int>(threadIdx.x); }

inline dim3 blocks_for(int64_t n) { return dim3(static_cast<unsigned>(n < max_blocks ? n : max_blocks)); }

// The long axis in pieces of at least `least`, at most `most` of them.
struct Cut {
  int64_t dim, size, count;
  __device__ int64_t first(int64_t piece) const { return piece * size; }
  __device__ int64_t last(int64_t piece) const { return (piece + 1) * size < dim ? (piece + 1) * size : dim; }
};
inline Cut cut(int64_t dim, int64_t least, int64_t most) {
  int64_t size = dim > 0 ? (dim - 1) / most + 1 : 1;
  size = (size + threads - 1) / threads * threads;
  size = size > least ? size : least;
  return {dim, size, dim > 0 ? (dim - 1) / size + 1 : 1};
}

// x[n] summed over the threads of a block of 256, for all of them. The caller has synchronised if `room` was read before.
template <int N>
__device__ inline void block_sum(double (&x)[N], double (*room)[threads]) {
#pragma unroll
  for (int n = 0; n < N; ++n) room[n][me()] = x[n];
  __syncthreads();
  for (int half = threads / 2; half > 0; half /= 2) {
    if (me() < half) {
#pragma unroll
      for (int n = 0; n < N; ++n) room[n][me()] += room[n][me() + half];
    }
    __syncthreads();
  }
#pragma unroll
  for (int n = 0; n < N; ++n) x[n] = room[n][0];
}

// out (outer, width) = the sum over the pieces of parts (outer, pieces, width)
constexpr int sum_columns = 32, sum_rows = threads / sum_columns;
__global__ void sum_parts_kernel(const double* parts, int64_t outer, int64_t pieces, int64_t width, double* out) {
  __shared__ double room[sum_rows][sum_columns];
  const int64_t tiles = (width - 1) / sum_columns + 1;
  const int lane = me() % sum_columns, row = me() / sum_columns;
  for (int64_t b = blockIdx.x; b < outer * tiles; b += gridDim.x) {
    const int64_t o = b / tiles, column = b % tiles * sum_columns + lane;
    double sum = 0.0;
    if (column < width)
      for (int64_t p = row; p < pieces; p += sum_rows) sum += parts[(o * pieces + p) * width + column];
    __syncthreads();
    room[row][lane] = sum;
    __syncthreads();
    if (row != 0 || column >= width) continue;
    for (int r = 1; r < sum_rows; ++r) sum += room[r][lane];
    out[o * width + column] = sum;
  }
}
void sum_parts(const double* parts, int64_t outer, int64_t pieces, int64_t width, double* out, Queue queue) {
  if (outer == 0 || width == 0) return;
  launch_blocks("sum_parts", sum_parts_kernel, blocks_for(outer * ((width - 1) / sum_columns + 1)), dim3(threads),
                queue, parts, outer, pieces, width, out);
}

// ---- Lanczos --------------------------------------------------------------------------------------------------------

// What a step keeps on the device. The host reads everything up to the coefficients once, at the end.
struct LanczosState {
  enum : int { square, before, passes, beta, alpha, size };  // then coefficients (count,), then h (count,)
};
constexpr int dot_vectors = 8, subtract_each = 4;

// Whether pass `pass` of Gram-Schmidt is wanted; 0: what comes before them. Only the last kernel of a pass changes the answer.
struct Guard {
  const double* state;
  int pass, wanted;
  __device__ bool open() const {
    if (pass == 0) return true;
    const double now = state[LanczosState::square];
    if (!is_finite(now)) return false;
    return pass == 1 || wanted == 2 || now < 0.5 * state[LanczosState::before];
  }
};

__global__ void lanczos_start_kernel(double* state, int64_t count, bool recurrence, double beta) {
  double* coefficients = state + LanczosState::size;
  for (int64_t i = first_item(); i < LanczosState::size + count; i += item_stride()) state[i] = 0.0;
  __syncthreads();  // one block
  if (me() == 0) {
    state[LanczosState::beta] = beta;
    if (recurrence && count > 1) coefficients[count - 2] = beta;
  }
}

// parts (count, pieces): of <basis_j, w>. A block takes a piece for J vectors, so that w is read once for all of them.
template <class T, int J>
__global__ void __launch_bounds__(threads)
    dots_kernel(const T* basis, int64_t count, const T* w, Cut c, Guard guard, double* parts) {
  __shared__ double room[J][threads];
  if (!guard.open()) return;
  const int64_t groups = (count - 1) / J + 1;
  for (int64_t b = blockIdx.x; b < groups * c.count; b += gridDim.x) {
    const int64_t piece = b % c.count, j = b / c.count * J, last = c.last(piece);
    double sum[J] = {};
    const T* row = basis + j * c.dim;
    if (j + J <= count) {
#pragma unroll 2
      for (int64_t i = c.first(piece) + me(); i < last; i += threads) {
        const double x = static_cast<double>(w[i]);
#pragma unroll
        for (int n = 0; n < J; ++n) sum[n] = fused(static_cast<double>(row[n * c.dim + i]), x, sum[n]);
      }
    } else {
      for (int64_t i = c.first(piece) + me(); i < last; i += threads) {
        const double x = static_cast<double>(w[i]);
#pragma unroll
        for (int n = 0; n < J; ++n)
          if (j + n < count) sum[n] = fused(static_cast<double>(row[n * c.dim + i]), x, sum[n]);
      }
    }
    __syncthreads();
    block_sum(sum, room);
    if (me() < J && j + me() < count) parts[(j + me()) * c.count + piece] = room[me()][0];
  }
}

// w -= sum_j h_j basis_j; parts (pieces,): of |w|^2 afterwards.
template <class T>
__global__ void __launch_bounds__(threads)
    subtract_kernel(const T* basis, int64_t count, const double* h, T* w, Cut c, Guard guard, double* parts) {
  __shared__ double room[1][threads];
  if (!guard.open()) return;
  for (int64_t piece = blockIdx.x; piece < c.count; piece += gridDim.x) {
    const int64_t last = c.last(piece);
    double sum[1] = {0.0};
    for (int64_t at = c.first(piece) + me(); at < last; at += subtract_each * threads) {
      double x[subtract_each];
#pragma unroll
      for (int n = 0; n < subtract_each; ++n)
        x[n] = at + n * threads < last ? static_cast<double>(w[at + n * threads]) : 0.0;
      if (at + (subtract_each - 1) * threads < last) {
#pragma unroll 4
        for (int64_t j = 0; j < count; ++j) {
          const double minus = -h[j];
          const T* v = basis + j * c.dim + at;
#pragma unroll
          for (int n = 0; n < subtract_each; ++n) x[n] = fused(minus, static_cast<double>(v[n * threads]), x[n]);
        }
      } else {
        for (int64_t j = 0; j < count; ++j) {
          const double minus = -h[j];
          const T* v = basis + j * c.dim + at;
#pragma unroll
          for (int n = 0; n < subtract_each; ++n)
            if (at + n * threads < last) x[n] = fused(minus, static_cast<double>(v[n * threads]), x[n]);
        }
      }
#pragma unroll
      for (int n = 0; n < subtract_each; ++n) {
        if (at + n * threads >= last) continue;
        const T rounded = static_cast<T>(x[n]);
        w[at + n * threads] = rounded;
        sum[0] = fused(static_cast<double>(rounded), static_cast<double>(rounded), sum[0]);
      }
    }
    __syncthreads();
    block_sum(sum, room);
    if (me() == 0) parts[piece] = sum[0];
  }
}

enum class Goal { alpha, overlaps, square };

// Adds the pieces of one sum a block, and puts it where it belongs.
__global__ void __launch_bounds__(threads) lanczos_sum_kernel(const double* parts, int64_t sums, int64_t pieces,
                                                              int64_t count, Goal goal, Guard guard, double* state) {
  __shared__ double room[1][threads];
  const bool open = guard.open();
  if (!open) return;
  double* coefficients = state + LanczosState::size;
  double* h = coefficients + count;
  for (int64_t j = blockIdx.x; j < sums; j += gridDim.x) {
    double sum[1] = {0.0};
    for (int64_t p = me(); p < pieces; p += threads) sum[0] += parts[j * pieces + p];
    __syncthreads();
    block_sum(sum, room);
    if (me() != 0) continue;
    if (goal == Goal::alpha) {
      state[LanczosState::alpha] = sum[0];
      coefficients[count - 1] += sum[0];
    } else if (goal == Goal::overlaps) {
      h[j] = sum[0];
      coefficients[j] += sum[0];
    } else {
      state[LanczosState::before] = state[LanczosState::square];
      state[LanczosState::square] = sum[0];
      if (guard.pass > 0) state[LanczosState::passes] += 1.0;
    }
  }
}

template <class T>
__global__ void normalise_kernel(const T* w, int64_t dim, double least, const double* state, T* next) {
  const double norm = Ops<double>::sqrt(state[LanczosState::square]);
  if (!(norm > least) || !is_finite(norm)) return;
  for (int64_t i = first_item(); i < dim; i += item_stride())
    next[i] = static_cast<T>(static_cast<double>(w[i]) / norm);
}

template <class T>
LanczosStep run_lanczos(const LanczosArgs<T>& a, Queue queue) {
  OnDevice device(a.w);
  const Cut dots = cut(a.dim, 2048, 1024), rest = cut(a.dim, subtract_each * threads, 4096);
  Scratch<double> state(LanczosState::size + 2 * a.count, queue);
  Scratch<double> parts(dots.count * (a.count > 1 ? a.count : 1) + rest.count, queue);
  double *coefficients = state.data() + LanczosState::size, *h = coefficients + a.count;
  double* squares = parts.data() + dots.count * (a.count > 1 ? a.count : 1);
  const bool recurrence = a.recurrence && a.count > 0;
  launch_blocks("lanczos_start", lanczos_start_kernel, dim3(1), dim3(threads), queue, state.data(), a.count, recurrence,
                a.beta);

  auto overlaps = [&](const T* basis, int64_t count, Goal goal, Guard guard) {
    if (count == 1)
      launch_blocks("lanczos_dots", dots_kernel<T, 1>, blocks_for(dots.count), dim3(threads), queue, basis, count, a.w,
                    dots, guard, parts.data());
    else
      launch_blocks("lanczos_dots", dots_kernel<T, dot_vectors>,
                    blocks_for(((count - 1) / dot_vectors + 1) * dots.count), dim3(threads), queue, basis, count, a.w,
                    dots, guard, parts.data());
    launch_blocks("lanczos_sum", lanczos_sum_kernel, blocks_for(count), dim3(threads), queue, parts.data(), count,
                  dots.count, a.count, goal, guard, state.data());
  };
  auto subtract = [&](const T* basis, int64_t count, const double* factors, Guard guard) {
    launch_blocks("lanczos_subtract", subtract_kernel<T>, blocks_for(rest.count), dim3(threads), queue, basis, count,
                  factors, a.w, rest, guard, squares);
    launch_blocks("lanczos_sum", lanczos_sum_kernel, dim3(1), dim3(threads), queue, squares, int64_t{1}, rest.count,
                  a.count, Goal::square, guard, state.data());
  };

  const Guard always{state.data(), 0, a.passes};
  if (recurrence) {
    const T* v = a.basis + (a.count - 1) * a.dim;
    overlaps(v, 1, Goal::alpha, always);
    if (a.count > 1)  // beta and alpha lie side by side, like the vectors
      subtract(v - a.dim, 2, state.data() + LanczosState::beta, always);
    else
      subtract(v, 1, state.data() + LanczosState::alpha, always);
  } else {
    overlaps(a.w, 1, Goal::square, always);
  }
  for (int pass = 1; pass <= 2 && a.passes > 0 && a.count > 0; ++pass) {
    const Guard guard{state.data(), pass, a.passes};
    overlaps(a.basis, a.count, Goal::overlaps, guard);
    subtract(a.basis, a.count, h, guard);
  }
  launch("lanczos_normalise", normalise_kernel<T>, a.dim, queue, static_cast<const T*>(a.w), a.dim, a.least,
         static_cast<const double*>(state.data()), a.basis + a.count * a.dim);
  std::vector<double> host(static_cast<size_t>(LanczosState::size + a.count));
  copy_to_host(host.data(), state.data(), host.size() * sizeof(double), queue);
  for (int64_t j = 0; j < a.count; ++j) a.coefficients[j] = host[static_cast<size_t>(LanczosState::size + j)];
  return {std::sqrt(host[LanczosState::square]), static_cast<int>(host[LanczosState::passes])};
}

// ---- Gram matrices --------------------------------------------------------------------------------------------------

// A^T B of every item, and what Woodbury's identity needs besides: with a diagonal D, A^T D^-1 B; A^T b, A^T D^-1 b or
// A^T D^-1/2 b; the sum of log D. parts (batch, pieces, width): A^T B row-major, then A^T b, then the logarithms.
template <class T>
struct GramArgs {
  Tall<T> A, B;
  int64_t batch, a_item, b_item;  // from item to item
  const T *diagonal, *b;          // or null
  bool diagonal_per_batch, root, logarithms;
  Cut pieces;
  int64_t width;
  double* parts;
};

template <class T>
__device__ inline double entry(const Tall<T>& m, const T* data, int64_t dim, int64_t row, int64_t column) {
  return static_cast<double>(data[m.rows ? column * dim + row : row * m.columns + column]);
}

// Threads own 4 x 4 entries of a tile of side 4 S, so there are 256 / S^2 groups of threads that share the rows.
template <class T, int S>
__global__ void __launch_bounds__(threads) gram_kernel(const __grid_constant__ GramArgs<T> g) {
  constexpr int micro = 4, tile = micro * S, depth = 1024 / tile, step = tile + 1, groups = threads / (S * S);
  constexpr int outputs = tile * tile, sharers = outputs < threads ? threads / outputs : 1;
  __shared__ union {
    struct {
      double a[depth * step], b[depth * step];
    } panel;
    double room[micro * micro * threads];
    double sums[1][threads];
  } at;
  __shared__ double vector[depth];
  const int64_t dim = g.pieces.dim, rows_of_tiles = (g.A.columns - 1) / tile + 1,
                tiles_in_row = (g.B.columns - 1) / tile + 1;
  const int group = me() / (S * S), ty = me() / S % S, tx = me() % S;
  for (int64_t n = blockIdx.x; n < g.batch * g.pieces.count * rows_of_tiles * tiles_in_row; n += gridDim.x) {
    const int64_t q0 = n % tiles_in_row * tile, p0 = n / tiles_in_row % rows_of_tiles * tile;
    const int64_t piece = n / tiles_in_row / rows_of_tiles % g.pieces.count;
    const int64_t item = n / tiles_in_row / rows_of_tiles / g.pieces.count;
    const T *A = g.A.data + item * g.a_item, *B = g.B.data + item * g.b_item;
    const T* D = g.diagonal ? g.diagonal + (g.diagonal_per_batch ? item * dim : 0) : nullptr;
    const bool with_vector = g.b && q0 == 0, with_logs = g.logarithms && p0 == 0 && q0 == 0;
    const bool once = !D && A == B && p0 == q0 && g.A.rows == g.B.rows && g.A.columns == g.B.columns;
    double sum[micro][micro] = {}, along = 0.0, logs[1] = {0.0};
    for (int64_t first = g.pieces.first(piece); first < g.pieces.last(piece); first += depth) {
      const int64_t left = g.pieces.last(piece) - first;
      const int rows = static_cast<int>(left < depth ? left : depth);
      __syncthreads();
      for (int e = me(); e < depth * tile; e += threads) {
        const int r = g.A.rows ? e % depth : e / tile, c = g.A.rows ? e / depth : e % tile;
        at.panel.a[r * step + c] = r < rows && p0 + c < g.A.columns ? entry(g.A, A, dim, first + r, p0 + c) : 0.0;
      }
      for (int e = me(); e < depth * tile && !once; e += threads) {
        const int r = g.B.rows ? e % depth : e / tile, c = g.B.rows ? e / depth : e % tile;
        double x = r < rows && q0 + c < g.B.columns ? entry(g.B, B, dim, first + r, q0 + c) : 0.0;
        if (D && r < rows) x = x / static_cast<double>(D[first + r]);
        at.panel.b[r * step + c] = x;
      }
      if (me() < depth && (with_vector || with_logs)) {
        const bool there = me() < rows;
        const double d = there && D ? static_cast<double>(D[first + me()]) : 1.0;
        if (with_vector)
          vector[me()] =
              there ? static_cast<double>(g.b[item * dim + first + me()]) / (g.root ? Ops<double>::sqrt(d) : d) : 0.0;
        if (with_logs) logs[0] += logarithm(d);
      }
      __syncthreads();
      const double* other = once ? at.panel.a : at.panel.b;
#pragma unroll 2
      for (int r = group; r < depth; r += groups) {
        double x[micro], y[micro];
#pragma unroll
        for (int i = 0; i < micro; ++i) {
          x[i] = at.panel.a[r * step + ty + S * i];
          y[i] = other[r * step + tx + S * i];
        }
#pragma unroll
        for (int i = 0; i < micro; ++i)
#pragma unroll
          for (int j = 0; j < micro; ++j) sum[i][j] = fused(x[i], y[j], sum[i][j]);
      }
      if (with_vector)
        for (int r = me() / tile; r < depth; r += threads / tile)
          along = fused(at.panel.a[r * step + me() % tile], vector[r], along);
    }
    double* out = g.parts + (item * g.pieces.count + piece) * g.width;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < micro; ++i)
#pragma unroll
      for (int j = 0; j < micro; ++j)
        at.room[(group * micro * micro + i * micro + j) * S * S + ty * S + tx] = sum[i][j];
    __syncthreads();
    for (int o = me() % outputs; o < outputs; o += threads) {
      const int i = o / (S * S) / micro, j = o / (S * S) % micro;
      const int64_t p = p0 + o / S % S + S * i, q = q0 + o % S + S * j;
      double total = 0.0;
      for (int k = me() / outputs; k < groups; k += sharers) total += at.room[k * outputs + o];
      if (sharers > 1) {  // every thread comes here once
        __syncthreads();
        at.room[me()] = total;
        __syncthreads();
        if (me() < outputs)
          for (int k = 1; k < sharers; ++k) total += at.room[k * outputs + o];
      }
      if ((sharers == 1 || me() < outputs) && p < g.A.columns && q < g.B.columns) out[p * g.B.columns + q] = total;
    }
    if (with_vector) {
      __syncthreads();
      at.room[me()] = along;
      __syncthreads();
      if (me() < tile && p0 + me() < g.A.columns) {
        for (int k = 1; k < threads / tile; ++k) along += at.room[k * tile + me()];
        out[g.A.columns * g.B.columns + p0 + me()] = along;
      }
    }
    if (with_logs) {
      __syncthreads();
      block_sum(logs, at.sums);
      if (me() == 0) out[g.width - 1] = logs[0];
    }
  }
}

template <class T>
void launch_gram(const GramArgs<T>& g, Queue queue) {
  const int64_t most = g.A.columns > g.B.columns ? g.A.columns : g.B.columns;
  auto run = [&](void (*kernel)(GramArgs<T>), int64_t tile) {
    const int64_t tiles = ((g.A.columns - 1) / tile + 1) * ((g.B.columns - 1) / tile + 1);
    launch_blocks("tall_gram", kernel, blocks_for(g.batch * g.pieces.count * tiles), dim3(threads), queue, g);
  };
  if (most <= 4)
    run(gram_kernel<T, 1>, 4);
  else if (most <= 8)
    run(gram_kernel<T, 2>, 8);
  else if (most <= 16)
    run(gram_kernel<T, 4>, 16);
  else if (most <= 32)
    run(gram_kernel<T, 8>, 32);
  else
    run(gram_kernel<T, 16>, 64);
}

// Pieces for a Gram matrix of so many columns: the parts of one item stay below 32 MiB.
inline Cut gram_cut(int64_t dim, int64_t a_columns, int64_t b_columns) {
  const int64_t tiles = ((a_columns - 1) / 64 + 1) * ((b_columns - 1) / 64 + 1);
  return cut(dim, 1024, tiles < 1024 ? 1024 / tiles : 1);
}

template <class T>
void run_gram(int64_t dim, const Tall<T>& A, const Tall<T>& B, double* out, Queue queue) {
  const int64_t size = A.columns * B.columns;
  for (int64_t i = 0; i < size; ++i) out[i] = 0.0;
  if (dim == 0 || size == 0) return;
  OnDevice device(A.data);
  GramArgs<T> g{};
  g.A = A;
  g.B = B;
  g.batch = 1;
  g.pieces = gram_cut(dim, A.columns, B.columns);
  g.width = size;
  Scratch<double> parts((g.pieces.count + 1) * size, queue);
  g.parts = parts.data() + size;
  launch_gram(g, queue);
  sum_parts(g.parts, 1, g.pieces.count, size, parts.data(), queue);
  copy_to_host(out, parts.data(), static_cast<size_t>(size) * sizeof(double), queue);
}

// ---- products -------------------------------------------------------------------------------------------------------

// Rows first .. last of A M of every item. out (dim, columns), or with out_rows (columns, out_dim), whose first column is
// row `first`.
template <class T>
struct MultiplyArgs {
  Tall<T> A;
  const double* M;  // (batch, A.columns, columns)
  int64_t batch, dim, first, last, columns, a_item, out_item, out_dim;
  bool add, out_rows;
  T* out;
};

// Threads own R x C entries of a tile of (256 / S) R rows and S C columns.
template <class T, int S, int R, int C>
__global__ void __launch_bounds__(threads) multiply_kernel(const __grid_constant__ MultiplyArgs<T> g) {
  constexpr int lanes = threads / S, tile_rows = lanes * R, tile_columns = S * C, depth = 16, step = depth + 1;
  __shared__ double a[tile_rows * step], m[depth * tile_columns];
  const int64_t tiles_in_row = (g.columns - 1) / tile_columns + 1, tiles = (g.last - g.first - 1) / tile_rows + 1;
  // Threads next to each other write numbers next to each other.
  const int ty = g.out_rows ? me() % lanes : me() / S, tx = g.out_rows ? me() / lanes : me() % S;
  for (int64_t n = blockIdx.x; n < g.batch * tiles * tiles_in_row; n += gridDim.x) {
    const int64_t q0 = n % tiles_in_row * tile_columns, r0 = g.first + n / tiles_in_row % tiles * tile_rows;
    const int64_t item = n / tiles_in_row / tiles;
    const T* A = g.A.data + item * g.a_item;
    const double* M = g.M + item * g.A.columns * g.columns;
    double sum[R][C] = {};
    for (int64_t p0 = 0; p0 < g.A.columns; p0 += depth) {
      __syncthreads();
      for (int e = me(); e < tile_rows * depth; e += threads) {
        const int r = g.A.rows ? e % tile_rows : e / depth, p = g.A.rows ? e / tile_rows : e % depth;
        a[r * step + p] = r0 + r < g.last && p0 + p < g.A.columns ? entry(g.A, A, g.dim, r0 + r, p0 + p) : 0.0;
      }
      for (int e = me(); e < depth * tile_columns; e += threads) {
        const int p = e / tile_columns, q = e % tile_columns;
        m[e] = p0 + p < g.A.columns && q0 + q < g.columns ? M[(p0 + p) * g.columns + q0 + q] : 0.0;
      }
      __syncthreads();
#pragma unroll 4
      for (int p = 0; p < depth; ++p) {
        double x[R], y[C];
#pragma unroll
        for (int i = 0; i < R; ++i) x[i] = a[(ty + lanes * i) * step + p];
#pragma unroll
        for (int j = 0; j < C; ++j) y[j] = m[p * tile_columns + tx + S * j];
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
          for (int j = 0; j < C; ++j) sum[i][j] = fused(x[i], y[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < C; ++j) {
        const int64_t row = r0 + ty + lanes * i, q = q0 + tx + S * j;
        if (row >= g.last || q >= g.columns) continue;
        T& o = g.out[item * g.out_item + (g.out_rows ? q * g.out_dim + row - g.first : row * g.columns + q)];
        o = static_cast<T>((g.add ? static_cast<double>(o) : 0.0) + sum[i][j]);
      }
  }
}

constexpr int64_t widest_product = 64;  // columns that one block makes

template <class T>
void launch_multiply(const MultiplyArgs<T>& g, Queue queue) {
  auto run = [&](void (*kernel)(MultiplyArgs<T>), int64_t tile_rows, int64_t tile_columns) {
    const int64_t tiles = ((g.last - g.first - 1) / tile_rows + 1) * ((g.columns - 1) / tile_columns + 1);
    launch_blocks("tall_multiply", kernel, blocks_for(g.batch * tiles), dim3(threads), queue, g);
  };
  if (g.columns <= 4)
    run(multiply_kernel<T, 4, 2, 1>, 128, 4);
  else if (g.columns <= 16)
    run(multiply_kernel<T, 4, 2, 4>, 128, 16);
  else
    run(multiply_kernel<T, 16, 4, 4>, 64, widest_product);
}

template <class T>
__global__ void put_rows_kernel(const T* from, int64_t columns, int64_t first, int64_t length, int64_t dim, bool add,
                                T* out) {
  for (int64_t i = first_item(); i < columns * length; i += item_stride()) {
    T& o = out[i / length * dim + first + i % length];
    o = add ? o + from[i] : from[i];
  }
}

template <class T>
void run_multiply(int64_t dim, const Tall<T>& A, const double* M, int64_t columns, bool add, bool out_rows, T* out,
                  Queue queue) {
  if (dim == 0 || columns == 0) return;
  OnDevice device(out);
  Upload middle(std::vector<double>(M, M + A.columns * columns), queue);
  MultiplyArgs<T> g{A, middle.data(), 1, dim, 0, dim, columns, 0, 0, dim, add, out_rows, out};
  if (out != A.data || columns <= widest_product) {  // a block reads its rows before it writes them
    launch_multiply(g, queue);
    return;
  }
  int64_t slice = part_bytes / (columns * static_cast<int64_t>(sizeof(T)));
  slice = slice < 64 ? 64 : slice < dim ? slice : dim;
  Scratch<T> room(columns * slice, queue);
  for (g.first = 0; g.first < dim; g.first += slice) {
    g.last = g.first + slice < dim ? g.first + slice : dim;
    g.out_dim = g.last - g.first;
    g.out = room.data();
    g.add = false;
    launch_multiply(g, queue);
    launch("put_rows", put_rows_kernel<T>, columns * g.out_dim, queue, static_cast<const T*>(room.data()), columns,
           g.first, g.out_dim, dim, add, out);
  }
}

// ---- functions of a model -------------------------------------------------------------------------------------------

constexpr int max_rows = 8;        // that a block takes, to read U once for all of them
constexpr int expand_rows = 128;   // elements of an output row at a time
constexpr int max_held_rank = 64;  // coefficients in shared memory
constexpr int64_t model_piece = 1024;
template <class T>
constexpr int expand_columns = sizeof(T) == 4 ? 32 : 16;

template <class T>
struct Model {
  int64_t batch, rows, dim, rank;
  const T *U, *s;
  const double *t, *least;  // (batch,), or null: t0 and least0 for all
  double t0, least0;
  int n_terms;
  SpectralTerm<T> terms[max_spectral_terms];
  uint64_t key, counter;
  T* out;
  bool raw;  // U^T b and |b|^2 are wanted, without weights
  Cut pieces;
  int64_t width;          // of the coefficients of a row: rank, and one for |b|^2
  int64_t groups, first;  // of rows in an item; the first one of this launch
  __device__ double shift(int64_t item) const { return t ? t[item] : t0; }
  __device__ double lowest(int64_t item) const { return least ? least[item] : least0; }
};

// A group of rows of one item.
struct RowGroup {
  int64_t item, row;  // row: of all, item * rows + the first of the group
  int count;
};
template <class T, int R>
__device__ inline RowGroup row_group(const Model<T>& m, int64_t number) {
  RowGroup g;
  g.item = number / m.groups;
  const int64_t row = number % m.groups * R;
  g.row = g.item * m.rows + row;
  g.count = static_cast<int>(m.rows - row < R ? m.rows - row : R);
  return g;
}

// to[i] = normal number first + i: whole blocks of the stream, of which each thread keeps what is wanted.
template <class T, class Out>
__device__ inline void draw(Out* to, int64_t first, int count, uint64_t key, uint64_t counter) {
  const uint64_t group = static_cast<uint64_t>(first) / stream_group<T>;
  const int skip = static_cast<int>(static_cast<uint64_t>(first) % stream_group<T>);
  const int blocks = ((skip + count - 1) / stream_group<T> + 1) * stream_lanes;
  for (int b = me(); b < blocks; b += threads) {
    const uint64_t block = group * stream_lanes + static_cast<uint64_t>(b);
    const Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                                                     key, counter, Tag::normal);
    const BlockOf<T> z = StreamNumbers<T, T>::normals(r);
#pragma unroll
    for (int j = 0; j < per_block<T>; ++j) {
      const int at = b / stream_lanes * stream_group<T> + j * stream_lanes + b % stream_lanes - skip;
      if (at >= 0 && at < count) to[at] = static_cast<Out>(z.x[j]);
    }
  }
}

template <int V>
struct ProjectRoom {
  double x[V][threads];
};
template <int R>
struct SumRoom {
  double at[R][threads];
};

// out[r * step + c] = sum_f scale_f weight_f(c) <U_c, b_f> over the elements first .. last of R rows, F terms. Threads next to
// each other read numbers of U next to each other: a thread has one column, and every so many-th element.
template <class T, int R, int F>
__device__ void project(const Model<T>& m, const RowGroup& g, int64_t first, int64_t last, ProjectRoom<R * F>& staged,
                        SumRoom<R>& room, double* out, int64_t step) {
  const T* U = m.U + g.item * m.dim * m.rank;
  const double t = m.shift(g.item), least = m.lowest(g.item);
  double squares[R] = {};
  for (int64_t c0 = 0; c0 < m.rank || (c0 == 0 && m.raw); c0 += threads) {
    const int columns = static_cast<int>(m.rank - c0 < threads ? m.rank - c0 : threads);
    const int sharers = columns > 0 ? threads / columns : 1, c = columns > 0 ? me() % columns : 0;
    const int share = columns > 0 ? me() / columns : sharers;
    double sum[R * F] = {};
    for (int64_t at = first; at < last; at += threads) {
      const int count = static_cast<int>(last - at < threads ? last - at : threads);
      __syncthreads();
#pragma unroll
      for (int f = 0; f < F; ++f) {
        if (f >= m.n_terms) continue;
        for (int r = 0; r < g.count; ++r) {
          const int64_t from = (g.row + r) * m.dim + at;
          if (!m.terms[f].b)
            draw<T>(staged.x[f * R + r], from, count, m.key, m.counter);
          else if (me() < count)
            staged.x[f * R + r][me()] = static_cast<double>(m.terms[f].b[from + me()]);
        }
      }
      __syncthreads();
      if (m.raw && c0 == 0 && me() < count)
#pragma unroll
        for (int r = 0; r < R; ++r)
          if (r < g.count) squares[r] = fused(staged.x[r][me()], staged.x[r][me()], squares[r]);
      if (share >= sharers) continue;
      const T* u = U + at * m.rank + c0 + c;
#pragma unroll 4
      for (int i = share; i < count; i += sharers) {
        const double x = static_cast<double>(u[static_cast<int64_t>(i) * m.rank]);
#pragma unroll
        for (int v = 0; v < R * F; ++v) sum[v] = fused(x, staged.x[v][i], sum[v]);
      }
    }
    double total[R] = {};
#pragma unroll
    for (int f = 0; f < F; ++f) {
      if (f >= m.n_terms || share >= sharers) continue;
      const Spectral function = m.terms[f].function;
      if (!m.raw && function == Spectral::identity) continue;
      const double weight =
          m.raw ? 1.0
                : m.terms[f].scale *
                      spectral_weight(function, static_cast<double>(m.s[g.item * m.rank + c0 + c]), t, least);
#pragma unroll
      for (int r = 0; r < R; ++r) total[r] = fused(weight, sum[f * R + r], total[r]);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) room.at[r][me()] = total[r];
    __syncthreads();
    int half = 1;
    while (half < sharers) half *= 2;
    for (half /= 2; half > 0; half /= 2) {
      if (share < half && share + half < sharers)
#pragma unroll
        for (int r = 0; r < R; ++r) room.at[r][me()] += room.at[r][me() + half * columns];
      __syncthreads();
    }
    if (me() < columns)
#pragma unroll
      for (int r = 0; r < R; ++r)
        if (r < g.count) out[r * step + c0 + me()] = room.at[r][me()];
  }
  if (!m.raw) return;
  __syncthreads();
  block_sum(squares, room.at);
#pragma unroll
  for (int r = 0; r < R; ++r)
    if (r < g.count && me() == 0) out[r * step + m.rank] = squares[r];
}

template <class T, int R>
struct ExpandRoom {
  T panel[expand_rows * (expand_columns<T> + 1)];
  double coefficients[R][expand_columns<T>];
  double halves[R][expand_rows];
};

// finish(r, i, sum_c U_ic coefficients[r * step + c]) for the elements first .. last of a group of rows. finish.prepare is
// called by all threads before.
template <class T, int R, class Finish>
__device__ void expand(const T* U, int64_t rank, const double* coefficients, int64_t step, int rows, int64_t first,
                       int64_t last, ExpandRoom<T, R>& room, Finish& finish) {
  constexpr int width = expand_columns<T>, line = width + 1;
  const int i = me() % expand_rows, half = me() / expand_rows;
  for (int64_t at = first; at < last; at += expand_rows) {
    const int count = static_cast<int>(last - at < expand_rows ? last - at : expand_rows);
    double sum[R] = {};
    for (int64_t c0 = 0; c0 < rank; c0 += width) {
      const int columns = static_cast<int>(rank - c0 < width ? rank - c0 : width);
      __syncthreads();
      for (int e = me(); e < count * columns; e += threads) {
        const int row = e / columns, c = e % columns;
        room.panel[row * line + c] = U[(at + row) * rank + c0 + c];
      }
      for (int e = me(); e < R * columns; e += threads) {
        const int r = e / columns, c = e % columns;
        room.coefficients[r][c] = r < rows ? coefficients[r * step + c0 + c] : 0.0;
      }
      __syncthreads();
      if (i >= count) continue;
#pragma unroll 4
      for (int c = half; c < columns; c += 2) {
        const double u = static_cast<double>(room.panel[i * line + c]);
#pragma unroll
        for (int r = 0; r < R; ++r) sum[r] = fused(u, room.coefficients[r][c], sum[r]);
      }
    }
    __syncthreads();
    if (half == 1)
#pragma unroll
      for (int r = 0; r < R; ++r) room.halves[r][i] = sum[r];
    finish.prepare(at, count);
    __syncthreads();
    if (half == 0 && i < count)
#pragma unroll
      for (int r = 0; r < R; ++r)
        if (r < rows) finish(r, at + i, sum[r] + room.halves[r][i]);
  }
}

// out = sum_f scale_f alpha_f b_f + the product
template <class T, int R>
struct ApplyFinish {
  const Model<T>& m;
  const RowGroup& g;
  T (*normals)[expand_rows];
  double factor[max_spectral_terms];
  int64_t start;
  bool draws;
  __device__ ApplyFinish(const Model<T>& m, const RowGroup& g, T (*normals)[expand_rows])
      : m(m), g(g), normals(normals), start(0), draws(false) {
    const double t = m.shift(g.item);
#pragma unroll
    for (int f = 0; f < max_spectral_terms; ++f) {
      factor[f] = f < m.n_terms ? m.terms[f].scale * spectral_alpha(m.terms[f].function, t) : 0.0;
      draws = draws || (f < m.n_terms && !m.terms[f].b);
    }
  }
  __device__ void prepare(int64_t at, int count) {
    start = at;
    if (draws)
      for (int r = 0; r < g.count; ++r) draw<T>(normals[r], (g.row + r) * m.dim + at, count, m.key, m.counter);
  }
  __device__ void operator()(int r, int64_t i, double product) const {
    const int64_t at = (g.row + r) * m.dim + i;
    double sum = product;
#pragma unroll
    for (int f = 0; f < max_spectral_terms; ++f)
      if (f < m.n_terms)
        sum = fused(factor[f], static_cast<double>(m.terms[f].b ? m.terms[f].b[at] : normals[r][i - start]), sum);
    m.out[at] = static_cast<T>(sum);
  }
};

// One piece, and coefficients that shared memory holds: all in one kernel.
template <class T, int R, int F>
__global__ void __launch_bounds__(threads) apply_kernel(const __grid_constant__ Model<T> m) {
  __shared__ union {
    struct {
      ProjectRoom<R * F> staged;
      SumRoom<R> sums;
    } project;
    struct {
      ExpandRoom<T, R> room;
      T normals[R][expand_rows];
    } expand;
  } at;
  __shared__ double coefficients[R * max_held_rank];
  for (int64_t n = blockIdx.x; n < m.batch * m.groups; n += gridDim.x) {
    const RowGroup g = row_group<T, R>(m, n);
    project<T, R, F>(m, g, 0, m.dim, at.project.staged, at.project.sums, coefficients, max_held_rank);
    __syncthreads();
    ApplyFinish<T, R> finish(m, g, at.expand.normals);
    expand(m.U + g.item * m.dim * m.rank, m.rank, coefficients, int64_t{max_held_rank}, g.count, int64_t{0}, m.dim,
           at.expand.room, finish);
  }
}

// parts (rows of these groups, pieces, width)
template <class T, int R, int F>
__global__ void __launch_bounds__(threads)
    project_kernel(const __grid_constant__ Model<T> m, int64_t groups, double* parts) {
  __shared__ ProjectRoom<R * F> staged;
  __shared__ SumRoom<R> sums;
  for (int64_t n = blockIdx.x; n < groups * m.pieces.count; n += gridDim.x) {
    const int64_t number = n / m.pieces.count, piece = n % m.pieces.count;
    const RowGroup g = row_group<T, R>(m, m.first + number);
    double* out = parts + (number * R * m.pieces.count + piece) * m.width;
    project<T, R, F>(m, g, m.pieces.first(piece), m.pieces.last(piece), staged, sums, out, m.pieces.count * m.width);
  }
}

template <class T, int R>
__global__ void __launch_bounds__(threads)
    expand_kernel(const __grid_constant__ Model<T> m, int64_t groups, const double* coefficients) {
  __shared__ ExpandRoom<T, R> room;
  __shared__ T normals[R][expand_rows];
  for (int64_t n = blockIdx.x; n < groups * m.pieces.count; n += gridDim.x) {
    const int64_t number = n / m.pieces.count, piece = n % m.pieces.count;
    const RowGroup g = row_group<T, R>(m, m.first + number);
    ApplyFinish<T, R> finish(m, g, normals);
    expand(m.U + g.item * m.dim * m.rank, m.rank, coefficients + number * R * m.width, m.width, g.count,
           m.pieces.first(piece), m.pieces.last(piece), room, finish);
  }
}

// out (rows,) = alpha |b|^2 + sum_c weight_c <U_c, b>^2 of the rows of these groups
template <class T, int R>
__global__ void __launch_bounds__(threads)
    quadratic_kernel(const __grid_constant__ Model<T> m, int64_t groups, const double* sums, double* out) {
  __shared__ double room[1][threads];
  for (int64_t n = blockIdx.x; n < groups * R; n += gridDim.x) {
    const RowGroup g = row_group<T, R>(m, m.first + n / R);
    if (n % R >= g.count) continue;  // the same for all threads
    const double *row = sums + n * m.width, t = m.shift(g.item);
    const Spectral function = m.terms[0].function;
    double sum[1] = {0.0};
    for (int64_t c = me(); c < m.rank && function != Spectral::identity; c += threads) {
      const double weight = spectral_weight(function, static_cast<double>(m.s[g.item * m.rank + c]), t, 0.0);
      sum[0] = fused(weight * row[c], row[c], sum[0]);
    }
    __syncthreads();
    block_sum(sum, room);
    if (me() == 0) out[g.row + n % R] = m.terms[0].scale * fused(spectral_alpha(function, t), row[m.rank], sum[0]);
  }
}

// Runs body(m, groups, coefficients) for slices of the groups of rows, after their coefficients are there.
template <class T, int R, int F, class Body>
void in_slices(Model<T>& m, Queue queue, Body body) {
  const int64_t all = m.batch * m.groups, pieces = m.pieces.count, each = R * m.width;
  int64_t slice = part_bytes / ((pieces + 1) * each * static_cast<int64_t>(sizeof(double)) + 1);
  slice = slice < 1 ? 1 : slice < all ? slice : all;
  Scratch<double> parts(slice * each * (pieces + 1), queue);
  double* sums = parts.data() + slice * each * (pieces > 1 ? pieces : 0);
  for (m.first = 0; m.first < all; m.first += slice) {
    const int64_t groups = all - m.first < slice ? all - m.first : slice;
    if (m.width > 0) {
      double* to = pieces > 1 ? parts.data() : sums;
      launch_blocks("lowrank_project", project_kernel<T, R, F>, blocks_for(groups * pieces), dim3(threads), queue, m,
                    groups, to);
      // rows that a last group lacks are summed too, and read by nobody
      if (pieces > 1) sum_parts(to, groups * R, pieces, m.width, sums, queue);
    }
    body(groups, static_cast<const double*>(sums));
  }
}

template <class T, int R, int F>
void run_apply(Model<T>& m, Queue queue) {
  m.groups = (m.rows - 1) / R + 1;
  if (m.pieces.count == 1 && m.rank <= max_held_rank) {
    launch_blocks("lowrank_apply", apply_kernel<T, R, F>, blocks_for(m.batch * m.groups), dim3(threads), queue, m);
    return;
  }
  in_slices<T, R, F>(m, queue, [&](int64_t groups, const double* coefficients) {
    launch_blocks("lowrank_expand", expand_kernel<T, R>, blocks_for(groups * m.pieces.count), dim3(threads), queue, m,
                  groups, coefficients);
  });
}

// A model on the device; t and least are there while this lives.
template <class T>
struct HeldModel {
  Model<T> m{};
  std::unique_ptr<Upload> t, least;
  HeldModel(const LowRankArgs<T>& a, Queue queue) {
    m.batch = a.batch;
    m.rows = a.rows;
    m.dim = a.dim;
    m.rank = a.rank;
    m.U = a.U;
    m.s = a.s;
    if (a.t_per_batch) {
      t.reset(new Upload(std::vector<double>(a.t, a.t + a.batch), queue));
      m.t = t->data();
      if (a.least) least.reset(new Upload(std::vector<double>(a.least, a.least + a.batch), queue));
      m.least = least ? least->data() : nullptr;
    } else {
      m.t0 = a.t[0];
      m.least0 = a.least ? a.least[0] : 0.0;
    }
    m.n_terms = a.n_terms;
    for (int f = 0; f < a.n_terms; ++f) m.terms[f] = a.terms[f];
    m.key = a.key;
    m.counter = a.counter;
    m.out = a.out;
    m.pieces = cut(a.dim, model_piece, 1024);
    m.width = a.rank;
  }
};

template <class T>
void run_lowrank(const LowRankArgs<T>& a, Queue queue) {
  static_assert(sizeof(Model<T>) + 64 <= max_argument_bytes, "does not fit into kernel arguments");
  if (a.batch == 0 || a.rows == 0 || a.dim == 0) return;
  OnDevice device(a.out);
  HeldModel<T> held(a, queue);
  const bool one = a.rows == 1;
  if (a.n_terms == 1)
    one ? run_apply<T, 1, 1>(held.m, queue) : run_apply<T, max_rows, 1>(held.m, queue);
  else if (a.n_terms == 2)
    one ? run_apply<T, 1, 2>(held.m, queue) : run_apply<T, max_rows / 2, 2>(held.m, queue);
  else
    one ? run_apply<T, 1, 4>(held.m, queue) : run_apply<T, max_rows / 4, 4>(held.m, queue);
}

template <class T, int R>
void run_quadratic(Model<T>& m, double* out, Queue queue) {
  m.groups = (m.rows - 1) / R + 1;
  in_slices<T, R, 1>(m, queue, [&](int64_t groups, const double* sums) {
    launch_blocks("lowrank_quadratic", quadratic_kernel<T, R>, blocks_for(groups * R), dim3(threads), queue, m, groups,
                  sums, out);
  });
}

template <class T>
void run_quadratic(const LowRankArgs<T>& a, double* out, Queue queue) {
  if (a.batch == 0 || a.rows == 0) return;
  OnDevice device(out);
  HeldModel<T> held(a, queue);
  held.m.raw = true;
  held.m.width = a.rank + 1;
  a.rows == 1 ? run_quadratic<T, 1>(held.m, out, queue) : run_quadratic<T, max_rows>(held.m, out, queue);
}

// ---- small matrices -------------------------------------------------------------------------------------------------

// A block works on one matrix; all its threads call these, with the same arguments. Results can be read after the call.

// The lower factor of g (k, k) in place of its lower triangle; whether all pivots were positive.
__device__ inline bool block_cholesky(double* g, int k) {
  bool good = true;
  for (int j = 0; j < k; ++j) {
    __syncthreads();
    const double pivot = g[j * k + j];
    good = good && pivot > 0.0;
    const double root = Ops<double>::sqrt(pivot);
    __syncthreads();
    for (int i = j + me(); i < k; i += static_cast<int>(blockDim.x)) g[i * k + j] = i == j ? root : g[i * k + j] / root;
    __syncthreads();
    const int left = k - j - 1;
    for (int e = me(); e < left * left; e += static_cast<int>(blockDim.x)) {
      const int i = j + 1 + e / left, l = j + 1 + e % left;
      if (l <= i) g[i * k + l] = fused(-g[i * k + j], g[l * k + j], g[i * k + l]);
    }
  }
  __syncthreads();
  return good;
}

// x <- (L L^T)^-1 x
__device__ inline void block_cholesky_solve(const double* g, int k, double* x) {
  for (int j = 0; j < k; ++j) {
    __syncthreads();
    const double value = x[j] / g[j * k + j];
    __syncthreads();
    for (int i = j + me(); i < k; i += static_cast<int>(blockDim.x))
      x[i] = i == j ? value : fused(-g[i * k + j], value, x[i]);
  }
  for (int j = k - 1; j >= 0; --j) {
    __syncthreads();
    const double value = x[j] / g[j * k + j];
    __syncthreads();
    for (int i = me(); i <= j; i += static_cast<int>(blockDim.x))
      x[i] = i == j ? value : fused(-g[j * k + i], value, x[i]);
  }
  __syncthreads();
}

// Sum over the threads of the block of a short sum, by thread 0, for all.
__device__ inline double small_sum(double x, double* room) {
  __syncthreads();
  room[me()] = x;
  __syncthreads();
  double sum = 0.0;
  for (int i = 0; i < static_cast<int>(blockDim.x); ++i) sum += room[i];
  return sum;
}

// Jacobi's rotations in rounds of k / 2 disjoint pairs: on return the diagonal of g holds the eigenvalues, unsorted, and the
// columns of q the eigenvectors. turns: (k + 1,); room: one number a thread.
__device__ inline void block_jacobi(double* g, double* q, int k, double* turns, double* room) {
  const int step = static_cast<int>(blockDim.x), players = k + k % 2, pairs = players / 2;
  __syncthreads();
  for (int e = me(); e < k * k; e += step) q[e] = e / k == e % k ? 1.0 : 0.0;
  for (int sweep = 0; sweep < jacobi_sweeps && k > 1; ++sweep) {
    double off = 0.0, diagonal = 0.0;
    for (int e = me(); e < k * k; e += step) {
      if (e / k == e % k)
        diagonal = fused(g[e], g[e], diagonal);
      else if (e % k < e / k)
        off = fused(g[e], g[e], off);
    }
    off = small_sum(off, room);
    diagonal = small_sum(diagonal, room);
    if (!(off > 1e-32 * diagonal)) break;
    for (int round = 0; round < players - 1; ++round) {
      // Of a tournament: the last player stays, the others move around.
      auto first = [=](int pair) { return pair == 0 ? players - 1 : (round + pair) % (players - 1); };
      auto second = [=](int pair) { return pair == 0 ? round : (round - pair + players - 1) % (players - 1); };
      __syncthreads();
      for (int pair = me(); pair < pairs; pair += step) {
        const int p = first(pair), r = second(pair);
        double c = 1.0, s = 0.0;
        if (p < k && r < k) {
          const double a = g[p * k + r], h = (g[r * k + r] - g[p * k + p]) * 0.5;
          const double root = Ops<double>::sqrt(h * h + a * a), bottom = h < 0.0 ? h - root : h + root;
          const double t = a == 0.0 ? 0.0 : a / bottom;
          c = 1.0 / Ops<double>::sqrt(1.0 + t * t);
          s = t * c;
        }
        turns[2 * pair] = c;
        turns[2 * pair + 1] = s;
      }
      __syncthreads();
      for (int e = me(); e < pairs * k; e += step) {
        const int pair = e % pairs, i = e / pairs, p = first(pair), r = second(pair);
        if (p >= k || r >= k) continue;
        const double c = turns[2 * pair], s = turns[2 * pair + 1];
        double x = g[i * k + p], y = g[i * k + r];
        g[i * k + p] = c * x - s * y;
        g[i * k + r] = s * x + c * y;
        x = q[i * k + p];
        y = q[i * k + r];
        q[i * k + p] = c * x - s * y;
        q[i * k + r] = s * x + c * y;
      }
      __syncthreads();
      for (int e = me(); e < pairs * k; e += step) {
        const int pair = e / k, i = e % k, p = first(pair), r = second(pair);
        if (p >= k || r >= k) continue;
        const double c = turns[2 * pair], s = turns[2 * pair + 1], x = g[p * k + i], y = g[r * k + i];
        g[p * k + i] = i == r ? 0.0 : c * x - s * y;
        g[r * k + i] = i == p ? 0.0 : s * x + c * y;
      }
    }
    __syncthreads();
  }
  __syncthreads();
}

// Memory of one matrix: g (k, k), q (k, k), turns and two vectors (k,). Up to rank 32 in shared memory.
constexpr int max_shared_rank = 32;
constexpr int64_t work_size(int64_t k) { return 2 * k * k + (k + 1) + 2 * k; }
struct SmallWork {
  double *g, *q, *turns, *x, *y;
};
__device__ inline SmallWork small_work(double* memory, int64_t k) {
  return {memory, memory + k * k, memory + 2 * k * k, memory + 2 * k * k + k + 1, memory + 2 * k * k + 2 * k + 1};
}
inline dim3 small_threads(int64_t k) { return dim3(k <= 8 ? 32u : k <= 16 ? 64u : k <= 32 ? 128u : 256u); }

// Blocks for a batch of matrices, and memory for them where they are large.
struct SmallPlan {
  dim3 blocks, threads;
  Scratch<double> memory;
  SmallPlan(int64_t batch, int64_t k, Queue queue)
      : blocks(blocks_of(batch, k)),
        threads(small_threads(k)),
        memory(k <= max_shared_rank ? 0 : static_cast<int64_t>(blocks.x) * work_size(k), queue) {}
  static dim3 blocks_of(int64_t batch, int64_t k) {
    if (k <= max_shared_rank) return blocks_for(batch);
    const int64_t fit = part_bytes / (work_size(k) * static_cast<int64_t>(sizeof(double)));
    return blocks_for(fit < 1 ? 1 : batch < fit ? batch : fit);
  }
};

// The symmetric matrix whose lower triangle `from` holds, with t added to its diagonal.
__device__ inline void load_symmetric(const double* from, int64_t k, double t, double* g) {
  for (int64_t e = me(); e < k * k; e += blockDim.x) {
    const int64_t i = e / k, j = e % k;
    g[e] = from[i > j ? e : j * k + i] + (i == j ? t : 0.0);
  }
}

struct WoodburyCore {
  int64_t batch, dim, rank, width;
  const double *t, *sums;  // t: (batch,), or null; sums (batch, width): see GramArgs
  double t0;
  bool solve, with_b, logarithms;
  double *y, *logdet, *memory;  // y (batch, rank): out = alpha b + W y, but for the diagonal
  double* failed;               // (batch,), or null
};

__global__ void woodbury_kernel(const __grid_constant__ WoodburyCore a) {
  __shared__ double held[work_size(max_shared_rank)], room[threads];
  const int k = static_cast<int>(a.rank), step = static_cast<int>(blockDim.x);
  const SmallWork w = small_work(a.memory ? a.memory + blockIdx.x * work_size(k) : held, k);
  for (int64_t item = blockIdx.x; item < a.batch; item += gridDim.x) {
    const double t = a.t ? a.t[item] : a.t0;
    const double* sums = a.sums + item * a.width;
    __syncthreads();
    load_symmetric(sums, k, a.solve ? t : 0.0, w.g);
    for (int i = me(); i < k; i += step) w.x[i] = a.with_b ? sums[static_cast<int64_t>(k) * k + i] : 0.0;
    double logdet = 0.0;
    if (a.solve) {
      const bool good = block_cholesky(w.g, k);
      block_cholesky_solve(w.g, k, w.x);
      for (int i = me(); i < k; i += step) {
        a.y[item * k + i] = good ? -w.x[i] / t : not_a_number();
        logdet += 2.0 * logarithm(w.g[i * k + i]);
      }
      if (!good) logdet = not_a_number();
      if (me() == 0) a.failed[item] = good ? 0.0 : 1.0;
    } else {
      block_jacobi(w.g, w.q, k, w.turns, room);
      const double root = Ops<double>::sqrt(t);
      for (int e = me(); e < k; e += step) {
        const double found = w.g[e * k + e], value = found < 0.0 ? 0.0 : found, shifted = Ops<double>::sqrt(value + t);
        logdet += logarithm(value + t);
        double dot = 0.0;
        for (int i = 0; i < k; ++i) dot = fused(w.q[i * k + e], w.x[i], dot);
        w.y[e] = -dot / (root * shifted * (root + shifted));
      }
      __syncthreads();
      for (int i = me(); i < k; i += step) {
        double sum = 0.0;
        for (int e = 0; e < k; ++e) sum = fused(w.q[i * k + e], w.y[e], sum);
        a.y[item * k + i] = sum;
      }
    }
    if (!a.logdet) continue;
    logdet = small_sum(logdet, room);
    if (me() == 0)
      a.logdet[item] =
          logdet + static_cast<double>(a.dim - k) * logarithm(t) + (a.logarithms ? sums[a.width - 1] : 0.0);
  }
}

template <class T>
struct WoodburyFinish {
  const T *b, *diagonal;
  T* out;
  double alpha;
  bool solve;
  __device__ void prepare(int64_t, int) const {}
  __device__ void operator()(int, int64_t i, double product) const {
    const double r = diagonal ? 1.0 / Ops<double>::sqrt(static_cast<double>(diagonal[i])) : 1.0;
    const double x = alpha * static_cast<double>(b[i]) * (solve ? r : 1.0);
    out[i] = static_cast<T>(r * fused(r, product, x));
  }
};

template <class T>
__global__ void __launch_bounds__(threads) woodbury_out_kernel(const __grid_constant__ WoodburyArgs<T> a, Cut pieces,
                                                               const double* t, double t0, const double* y) {
  __shared__ ExpandRoom<T, 1> room;
  for (int64_t n = blockIdx.x; n < a.batch * pieces.count; n += gridDim.x) {
    const int64_t item = n / pieces.count, piece = n % pieces.count;
    const double shift = t ? t[item] : t0;
    const bool solve = a.function == Spectral::solve;
    WoodburyFinish<T> finish{a.b + item * a.dim,
                             a.diagonal ? a.diagonal + (a.diagonal_per_batch ? item * a.dim : 0) : nullptr,
                             a.out + item * a.dim, 1.0 / (solve ? shift : Ops<double>::sqrt(shift)), solve};
    expand(a.W + item * a.dim * a.rank, a.rank, y + item * a.rank, a.rank, 1, pieces.first(piece), pieces.last(piece),
           room, finish);
  }
}

// One block: room for the total of `values` in their place 0.
__global__ void __launch_bounds__(threads) total_kernel(double* values, int64_t n) {
  __shared__ double room[1][threads];
  double sum[1] = {0.0};
  for (int64_t i = me(); i < n; i += threads) sum[0] += values[i];
  block_sum(sum, room);
  if (me() == 0) values[0] = sum[0];
}

// Runs body(first, count, sums) for slices of a batch, whose Gram matrices are then in sums (count, g.width).
template <class T, class Body>
void gram_slices(GramArgs<T> g, int64_t dim, Queue queue, Body body) {
  const int64_t batch = g.batch;
  g.pieces = gram_cut(dim, g.A.columns > 0 ? g.A.columns : 1, g.B.columns > 0 ? g.B.columns : 1);
  const int64_t pieces = g.pieces.count;
  int64_t slice = part_bytes / ((pieces + 1) * g.width * static_cast<int64_t>(sizeof(double)) + 1);
  slice = slice < 1 ? 1 : slice < batch ? slice : batch;
  Scratch<double> parts(slice * g.width * (pieces + 1), queue);
  double* sums = parts.data() + slice * g.width * (pieces > 1 ? pieces : 0);
  const Tall<T> A = g.A, B = g.B;
  const T *b = g.b, *diagonal = g.diagonal;
  for (int64_t first = 0; first < batch; first += slice) {
    g.batch = batch - first < slice ? batch - first : slice;
    g.A.data = A.data + first * g.a_item;
    g.B.data = B.data + first * g.b_item;
    g.b = b ? b + first * dim : nullptr;
    g.diagonal = diagonal && g.diagonal_per_batch ? diagonal + first * dim : diagonal;
    g.parts = pieces > 1 ? parts.data() : sums;
    if (g.width > 0) launch_gram(g, queue);
    if (pieces > 1) sum_parts(g.parts, g.batch, pieces, g.width, sums, queue);
    body(first, g.batch, static_cast<const double*>(sums));
  }
}

template <class T>
int64_t run_woodbury(const WoodburyArgs<T>& a, Queue queue) {
  if (a.batch == 0 || (!a.logdet && (!a.out || a.dim == 0))) return 0;
  OnDevice device(a.logdet ? static_cast<const void*>(a.logdet) : static_cast<const void*>(a.out));
  const bool solve = a.function == Spectral::solve, per_item = a.t_per_batch && !a.diagonal;
  const double t0 = a.diagonal ? 1.0 : a.t[0];
  std::unique_ptr<Upload> t;
  if (per_item) t.reset(new Upload(std::vector<double>(a.t, a.t + a.batch), queue));
  Scratch<double> failed(solve ? a.batch : 0, queue);
  GramArgs<T> g{};
  g.A = g.B = {a.W, a.rank, false};
  g.batch = a.batch;
  g.a_item = g.b_item = a.dim * a.rank;
  g.diagonal = a.diagonal;
  g.diagonal_per_batch = a.diagonal_per_batch;
  g.b = a.b;
  g.root = !solve;
  g.logarithms = a.diagonal && a.logdet;
  g.width = a.rank * a.rank + (a.b ? a.rank : 0) + (g.logarithms ? 1 : 0);
  const Cut pieces = cut(a.dim, model_piece, 1024);
  gram_slices(g, a.dim, queue, [&](int64_t first, int64_t count, const double* sums) {
    SmallPlan plan(count, a.rank, queue);
    Scratch<double> y(count * a.rank, queue);
    const double* shifts = t ? t->data() + first : nullptr;
    WoodburyCore core{count,
                      a.dim,
                      a.rank,
                      g.width,
                      shifts,
                      sums,
                      t0,
                      solve,
                      a.b != nullptr,
                      g.logarithms,
                      y.data(),
                      a.logdet ? a.logdet + first : nullptr,
                      plan.memory.data(),
                      solve ? failed.data() + first : nullptr};
    launch_blocks("woodbury", woodbury_kernel, plan.blocks, plan.threads, queue, core);
    if (!a.out || a.dim == 0) return;
    WoodburyArgs<T> part = a;
    part.batch = count;
    part.W = a.W + first * a.dim * a.rank;
    part.b = a.b + first * a.dim;
    part.out = a.out + first * a.dim;
    if (a.diagonal && a.diagonal_per_batch) part.diagonal = a.diagonal + first * a.dim;
    launch_blocks("woodbury_out", woodbury_out_kernel<T>, blocks_for(count * pieces.count), dim3(threads), queue, part,
                  pieces, shifts, t0, static_cast<const double*>(y.data()));
  });
  if (!solve) return 0;
  launch_blocks("woodbury_failed", total_kernel, dim3(1), dim3(threads), queue, failed.data(), a.batch);
  double total = 0.0;
  copy_to_host(&total, failed.data(), sizeof total, queue);
  return static_cast<int64_t>(total);
}

// s falling, and middle (batch, k, k) with U = W middle.
template <class T>
__global__ void gram_factor_kernel(int64_t batch, int64_t rank, const double* grams, double* memory, double* middle,
                                   T* s) {
  __shared__ double held[work_size(max_shared_rank)], room[threads];
  const int k = static_cast<int>(rank), step = static_cast<int>(blockDim.x);
  const SmallWork w = small_work(memory ? memory + blockIdx.x * work_size(k) : held, k);
  for (int64_t item = blockIdx.x; item < batch; item += gridDim.x) {
    __syncthreads();
    load_symmetric(grams + item * k * k, k, 0.0, w.g);
    block_jacobi(w.g, w.q, k, w.turns, room);
    // w.x: from column to place; w.y: values by place
    auto value_of = [&](int e) { return w.g[e * k + e] >= 0.0 ? w.g[e * k + e] : 0.0; };
    for (int e = me(); e < k; e += step) {
      const double value = value_of(e);
      int place = 0;
      for (int o = 0; o < k; ++o) {
        const double other = value_of(o);
        place += other > value || (other == value && o < e) ? 1 : 0;
      }
      w.x[e] = static_cast<double>(place);
      if (place == 0) room[0] = value;
    }
    __syncthreads();
    // float32 columns carry their own rounding: what it leaves of dependent ones is not a direction
    const double floor =
        static_cast<double>(k) * (sizeof(T) == 4 ? 1.4210854715202004e-14 : 2.220446049250313e-16) * room[0];
    for (int e = me(); e < k; e += step) {
      const double value = value_of(e);
      const int place = static_cast<int>(w.x[e]);
      const bool kept = value > floor;
      s[item * k + place] = kept ? static_cast<T>(value) : T(0);
      w.y[e] = kept ? 1.0 / Ops<double>::sqrt(value) : 0.0;
    }
    __syncthreads();
    for (int e = me(); e < k * k; e += step)
      middle[item * k * k + e / k * k + static_cast<int>(w.x[e % k])] = w.q[e] * w.y[e % k];
  }
}

template <class T>
void run_gram_factor(int64_t batch, int64_t dim, int64_t rank, const T* W, T* U, T* s, Queue queue) {
  if (batch == 0 || rank == 0) return;
  OnDevice device(s);
  GramArgs<T> g{};
  g.A = g.B = {W, rank, false};
  g.batch = batch;
  g.a_item = g.b_item = dim * rank;
  g.width = rank * rank;
  gram_slices(g, dim, queue, [&](int64_t first, int64_t count, const double* grams) {
    SmallPlan plan(count, rank, queue);
    Scratch<double> middle(count * rank * rank, queue);
    launch_blocks("gram_factor", gram_factor_kernel<T>, plan.blocks, plan.threads, queue, count, rank, grams,
                  plan.memory.data(), middle.data(), s + first * rank);
    if (dim == 0) return;
    MultiplyArgs<T> product{{W + first * dim * rank, rank, false},
                            middle.data(),
                            count,
                            dim,
                            0,
                            dim,
                            rank,
                            dim * rank,
                            dim * rank,
                            dim,
                            false,
                            false,
                            U + first * dim * rank};
    launch_multiply(product, queue);
  });
}

// ---- directions -----------------------------------------------------------------------------------------------------

// L threads a row, so that short rows fill a block together; parts (rows, pieces, 3): <e, e>, <e, p>, <p, p>.
template <class T, int L>
__global__ void __launch_bounds__(threads)
    direction_kernel(const __grid_constant__ DirectionArgs<T> a, Cut pieces, double* parts) {
  constexpr int together = threads / L;
  __shared__ double room[3][threads];
  const int lane = me() % L;
  for (int64_t n = blockIdx.x; n < ((a.rows - 1) / together + 1) * pieces.count; n += gridDim.x) {
    const int64_t row = n / pieces.count * together + me() / L, piece = n % pieces.count;
    const bool there = row < a.rows;
    double sum[3] = {};
    for (int64_t i = pieces.first(piece) + lane; i < pieces.last(piece) && there; i += L) {
      const double e = static_cast<double>(a.e[row * a.dim + i]), p = static_cast<double>(a.previous[row * a.dim + i]);
      sum[0] = fused(e, e, sum[0]);
      sum[1] = fused(e, p, sum[1]);
      sum[2] = fused(p, p, sum[2]);
    }
    __syncthreads();
    for (int q = 0; q < 3; ++q) room[q][me()] = sum[q];
    __syncthreads();
    for (int half = L / 2; half > 0; half /= 2) {
      if (lane < half)
        for (int q = 0; q < 3; ++q) room[q][me()] += room[q][me() + half];
      __syncthreads();
    }
    if (!there) continue;
    const int own = me() - lane;
    if (parts) {
      if (lane < 3) parts[(row * pieces.count + piece) * 3 + lane] = room[lane][own];
      continue;
    }
    const TwoTerms c = levenberg_marquardt(a.rule, a.value, a.kappa, room[0][own], room[1][own], room[2][own]);
    for (int64_t i = lane; i < a.dim; i += L) {
      const int64_t at = row * a.dim + i;
      a.out[at] =
          static_cast<T>(fused(c.e, static_cast<double>(a.e[at]), c.previous * static_cast<double>(a.previous[at])));
    }
  }
}

template <class T>
__global__ void direction_out_kernel(const __grid_constant__ DirectionArgs<T> a, Cut pieces, const double* sums) {
  for (int64_t n = blockIdx.x; n < a.rows * pieces.count; n += gridDim.x) {
    const int64_t row = n / pieces.count, piece = n % pieces.count;
    const TwoTerms c =
        levenberg_marquardt(a.rule, a.value, a.kappa, sums[3 * row], sums[3 * row + 1], sums[3 * row + 2]);
    for (int64_t i = pieces.first(piece) + me(); i < pieces.last(piece); i += threads) {
      const int64_t at = row * a.dim + i;
      a.out[at] =
          static_cast<T>(fused(c.e, static_cast<double>(a.e[at]), c.previous * static_cast<double>(a.previous[at])));
    }
  }
}

template <class T>
void run_directions(const DirectionArgs<T>& a, Queue queue) {
  if (a.rows == 0 || a.dim == 0) return;
  OnDevice device(a.out);
  const Cut pieces = cut(a.dim, 4096, 1024);
  double* nowhere = nullptr;
  if (a.dim <= 512) {
    launch_blocks("levenberg_marquardt", direction_kernel<T, 32>, blocks_for((a.rows - 1) / (threads / 32) + 1),
                  dim3(threads), queue, a, pieces, nowhere);
    return;
  }
  if (pieces.count == 1) {
    launch_blocks("levenberg_marquardt", direction_kernel<T, threads>, blocks_for(a.rows), dim3(threads), queue, a,
                  pieces, nowhere);
    return;
  }
  int64_t slice = part_bytes / (3 * (pieces.count + 1) * static_cast<int64_t>(sizeof(double)));
  slice = slice < 1 ? 1 : slice < a.rows ? slice : a.rows;
  Scratch<double> parts(slice * 3 * (pieces.count + 1), queue);
  double* sums = parts.data() + slice * 3 * pieces.count;
  DirectionArgs<T> part = a;
  for (int64_t first = 0; first < a.rows; first += slice) {
    part.rows = a.rows - first < slice ? a.rows - first : slice;
    part.e = a.e + first * a.dim;
    part.previous = a.previous + first * a.dim;
    part.out = a.out + first * a.dim;
    launch_blocks("levenberg_marquardt_sums", direction_kernel<T, threads>, blocks_for(part.rows * pieces.count),
                  dim3(threads), queue, part, pieces, parts.data());
    sum_parts(parts.data(), part.rows, pieces.count, 3, sums, queue);
    launch_blocks("levenberg_marquardt", direction_out_kernel<T>, blocks_for(part.rows * pieces.count), dim3(threads),
                  queue, part, pieces, static_cast<const double*>(sums));
  }
}

// ---- signs of columns -----------------------------------------------------------------------------------------------

// parts (pieces, 2, columns): the largest and the smallest entry of every column of a piece, 0 among them.
template <class T>
__global__ void __launch_bounds__(threads) extremes_kernel(const T* U, int64_t columns, Cut pieces, T* parts) {
  __shared__ T room[2][sum_rows][sum_columns];
  const int64_t tiles = (columns - 1) / sum_columns + 1;
  const int lane = me() % sum_columns, row = me() / sum_columns;
  for (int64_t n = blockIdx.x; n < pieces.count * tiles; n += gridDim.x) {
    const int64_t piece = n / tiles, column = n % tiles * sum_columns + lane;
    T high = 0, low = 0;
    if (column < columns)
      for (int64_t i = pieces.first(piece) + row; i < pieces.last(piece); i += sum_rows) {
        const T x = U[i * columns + column];
        high = x > high ? x : high;
        low = x < low ? x : low;
      }
    __syncthreads();
    room[0][row][lane] = high;
    room[1][row][lane] = low;
    __syncthreads();
    if (row != 0 || column >= columns) continue;
    for (int r = 1; r < sum_rows; ++r) {
      high = room[0][r][lane] > high ? room[0][r][lane] : high;
      low = room[1][r][lane] < low ? room[1][r][lane] : low;
    }
    parts[piece * 2 * columns + column] = high;
    parts[(piece * 2 + 1) * columns + column] = low;
  }
}
template <class T>
__global__ void signs_kernel(const T* parts, int64_t pieces, int64_t columns, T* signs) {
  for (int64_t c = first_item(); c < columns; c += item_stride()) {
    T high = 0, low = 0;
    for (int64_t p = 0; p < pieces; ++p) {
      const T most = parts[p * 2 * columns + c], least = parts[(p * 2 + 1) * columns + c];
      high = most > high ? most : high;
      low = least < low ? least : low;
    }
    signs[c] = high < -low ? T(-1) : T(1);
  }
}
template <class T>
__global__ void turn_kernel(T* U, int64_t size, int64_t columns, const T* signs) {
  for (int64_t i = first_item(); i < size; i += item_stride()) U[i] *= signs[i % columns];
}

template <class T>
void run_orient(int64_t dim, int64_t columns, T* U, Queue queue) {
  if (dim == 0 || columns == 0) return;
  OnDevice device(U);
  const Cut pieces = cut(dim, 1024, 256);
  Scratch<T> room((2 * pieces.count + 1) * columns, queue);
  T* signs = room.data() + 2 * pieces.count * columns;
  launch_blocks("extremes", extremes_kernel<T>, blocks_for(pieces.count * ((columns - 1) / sum_columns + 1)),
                dim3(threads), queue, static_cast<const T*>(U), columns, pieces, room.data());
  launch_blocks("signs", signs_kernel<T>, blocks_for((columns - 1) / threads + 1), dim3(threads), queue,
                static_cast<const T*>(room.data()), pieces.count, columns, signs);
  launch_blocks("turn", turn_kernel<T>, blocks_for((dim * columns - 1) / threads + 1), dim3(threads), queue, U,
                dim * columns, columns, static_cast<const T*>(signs));
}

}  // namespace

#define MK_LOWRANK(T)                                                                                             \
  template <>                                                                                                     \
  void orient_columns<T>(int64_t dim, int64_t columns, T* U, Queue queue) {                                       \
    run_orient(dim, columns, U, queue);                                                                           \
  }                                                                                                               \
  template <>                                                                                                     \
  LanczosStep lanczos_step<T>(const LanczosArgs<T>& args, Queue queue) {                                          \
    return run_lanczos(args, queue);                                                                              \
  }                                                                                                               \
  template <>                                                                                                     \
  void tall_gram<T>(int64_t dim, const Tall<T>& A, const Tall<T>& B, double* out, Queue queue) {                  \
    run_gram(dim, A, B, out, queue);                                                                              \
  }                                                                                                               \
  template <>                                                                                                     \
  void tall_multiply<T>(int64_t dim, const Tall<T>& A, const double* M, int64_t columns, bool add, bool out_rows, \
                        T* out, Queue queue) {                                                                    \
    run_multiply(dim, A, M, columns, add, out_rows, out, queue);                                                  \
  }                                                                                                               \
  template <>                                                                                                     \
  void lowrank_apply<T>(const LowRankArgs<T>& args, Queue queue) {                                                \
    run_lowrank(args, queue);                                                                                     \
  }                                                                                                               \
  template <>                                                                                                     \
  void lowrank_quadratic<T>(const LowRankArgs<T>& args, double* out, Queue queue) {                               \
    run_quadratic(args, out, queue);                                                                              \
  }                                                                                                               \
  template <>                                                                                                     \
  int64_t woodbury<T>(const WoodburyArgs<T>& args, Queue queue) {                                                 \
    return run_woodbury(args, queue);                                                                             \
  }                                                                                                               \
  template <>                                                                                                     \
  void gram_factor<T>(int64_t batch, int64_t dim, int64_t rank, const T* W, T* U, T* s, Queue queue) {            \
    run_gram_factor(batch, dim, rank, W, U, s, queue);                                                            \
  }                                                                                                               \
  template <>                                                                                                     \
  void levenberg_marquardt_rows<T>(const DirectionArgs<T>& args, Queue queue) {                                   \
    run_directions(args, queue);                                                                                  \
  }
MK_LOWRANK(float)
MK_LOWRANK(double)
#undef MK_LOWRANK

}  // namespace cuda
}  // namespace mk
