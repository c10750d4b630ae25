// What the kernels over pairs of points share. A block of 16 x 16 threads works on tiles of 64 points x by 64 points y; a
// thread owns the pairs of the rows ty, ty + 16, ty + 32, ty + 48 and the columns tx, tx + 16, ..., and keeps their squared
// distances and kernel values in registers. Coordinates pass through shared memory a few at a time, so any number of them
// takes the same code: per coordinate a thread reads 4 + 4 numbers for 16 pairs.
#pragma once

#include <vector>

#include "launch.cuh"

namespace mk {
namespace cuda {

constexpr int side = 16, micro = 4, tile_size = side * micro, pair_threads = side * side;

// Slot r of quad i is point i + 16 r of a tile.
template <class T>
struct alignas(16) Quad {
  T v[micro];
};
template <class T>
using Micro = T[micro][micro];  // [row][column]

// A few coordinates of 64 points. The 17th quad keeps writes of neighbouring coordinates out of one bank.
template <class T, int depth>
struct Panel {
  Quad<T> at[depth][side + 1];
};

// How the pairs of a call are cut: blocks are numbered by tile of rows, then slab of columns, then problem.
template <class T>
struct PairGrid {
  const T *x, *y;
  int64_t n, m, dim, row_tiles, slabs, slab;  // slab: columns, a multiple of tile_size
  bool exclude_self;
};

// What one block does.
struct PairBlock {
  int64_t problem, slab, row, first, end;  // row: first of the tile; columns first .. end
  int rows;                                // that exist
};

template <class T>
__device__ inline PairBlock pair_block(const PairGrid<T>& g) {
  PairBlock b;
  int64_t number = blockIdx.x;
  b.row = number % g.row_tiles * tile_size;
  b.slab = number / g.row_tiles % g.slabs;
  b.problem = number / g.row_tiles / g.slabs;
  b.first = b.slab * g.slab;
  b.end = b.first + g.slab < g.m ? b.first + g.slab : g.m;
  b.rows = static_cast<int>(g.n - b.row < tile_size ? g.n - b.row : tile_size);
  return b;
}

__device__ inline int thread_number() { return static_cast<int>(threadIdx.y * side + threadIdx.x); }
__device__ inline int clipped(int64_t left) { return static_cast<int>(left < tile_size ? left : tile_size); }

// Coordinates first .. first + count of `valid` points, zeros for the others. Threads next to each other read coordinates
// next to each other.
template <class T, int depth>
__device__ inline void load_panel(const T* points, int64_t dim, int64_t first, int count, int valid,
                                  Panel<T, depth>& panel) {
  int shift = 0;
  while ((1 << shift) < count) ++shift;
  const int k = thread_number() & ((1 << shift) - 1);
  if (k >= count) return;
  for (int i = thread_number() >> shift; i < tile_size; i += pair_threads >> shift)
    panel.at[k][i % side].v[i / side] = i < valid ? points[i * dim + first + k] : T(0);
}

template <class T>
__device__ inline void fill(Micro<T>& k, T value) {
#pragma unroll
  for (int r = 0; r < micro; ++r)
#pragma unroll
    for (int c = 0; c < micro; ++c) k[r][c] = value;
}

// `value` for the columns past the end of the data and, where asked for, for the diagonal.
template <class T>
__device__ inline void mask(const PairGrid<T>& g, const PairBlock& b, int64_t col, Micro<T>& k, T value) {
  const bool diagonal = g.exclude_self && col < b.row + tile_size && b.row < col + tile_size;
  if (col + tile_size <= b.end && !diagonal) return;
#pragma unroll
  for (int r = 0; r < micro; ++r)
#pragma unroll
    for (int c = 0; c < micro; ++c) {
      int64_t i = b.row + threadIdx.y + side * r, j = col + threadIdx.x + side * c;
      if (j >= b.end || (diagonal && i == j)) k[r][c] = value;
    }
}

// Adds up, over the 16 threads of a row and in their order, one number a thread and row; thread t < 64 gets that of row t.
template <class T>
__device__ inline double sum_of_row(const T (&own)[micro], double (*table)[side + 1]) {
  __syncthreads();
#pragma unroll
  for (int r = 0; r < micro; ++r) table[threadIdx.y + side * r][threadIdx.x] = static_cast<double>(own[r]);
  __syncthreads();
  double total = 0.0;
  if (thread_number() < tile_size)
    for (int t = 0; t < side; ++t) total += table[thread_number()][t];
  return total;
}

enum class Form : int { squares, metric_squares, dots, sinc };

template <class T>
__device__ __attribute__((noinline)) T sinc_value(T z) {
  T value, slope;
  sinc_pair<T>(z, value, slope);
  return value;
}

// Differences, never |x|^2 + |y|^2 - 2 x.y, so close points lose no digits. Bound by arithmetic: 32 operations for 8 loads.
template <class T, int depth>
__device__ inline void add_coordinates(Form form, int count, const Panel<T, depth>& xs, const Panel<T, depth>& ys,
                                       const T* metric, T theta, Micro<T>& s) {
  auto each = [&](auto term) {
    for (int k = 0; k < count; ++k) {
      const Quad<T> x = xs.at[k][threadIdx.y], y = ys.at[k][threadIdx.x];
      const T g = form == Form::metric_squares ? metric[k] : T(1);
#pragma unroll
      for (int r = 0; r < micro; ++r)
#pragma unroll
        for (int c = 0; c < micro; ++c) s[r][c] = term(s[r][c], x.v[r], y.v[c], g);
    }
  };
  switch (form) {
    case Form::squares: each([](T sum, T x, T y, T) { return sum + (x - y) * (x - y); }); break;
    case Form::metric_squares:
      each([](T sum, T x, T y, T metric_k) { return sum + (x - y) * metric_k * (x - y); });
      break;
    case Form::dots: each([](T sum, T x, T y, T) { return sum + x * y; }); break;
    case Form::sinc: each([theta](T product, T x, T y, T) { return product * sinc_value<T>((x - y) * theta); });
  }
}

template <class T, int depth>
struct Panels {
  Panel<T, depth> x, y;
  T metric[depth];
};

template <class T>
constexpr int panel_depth = 64 / static_cast<int>(sizeof(T));  // coordinates at a time

// Squared distances, inner products or products of sinc of one tile. The caller has synchronised; `keep_x`: the panel of x
// is that of the tile before, if it holds all coordinates.
template <class T, int depth>
__device__ inline void distances(const PairGrid<T>& g, const PairBlock& b, int64_t col, Form form, const double* metric,
                                 T theta, bool keep_x, Panels<T, depth>& panels, Micro<T>& s) {
  const T* x = g.x + (b.problem * g.n + b.row) * g.dim;
  const T* y = g.y + (b.problem * g.m + col) * g.dim;
  fill(s, form == Form::sinc ? T(1) : T(0));
  for (int64_t first = 0; first < g.dim; first += depth) {
    const int count = static_cast<int>(g.dim - first < depth ? g.dim - first : depth);
    if (first > 0) __syncthreads();
    if (!keep_x || g.dim > depth) load_panel(x, g.dim, first, count, b.rows, panels.x);
    load_panel(y, g.dim, first, count, clipped(b.end - col), panels.y);
    if (form == Form::metric_squares && thread_number() < count)
      panels.metric[thread_number()] = static_cast<T>(metric[first + thread_number()]);
    __syncthreads();
    add_coordinates(form, count, panels.x, panels.y, panels.metric, theta, s);
  }
}

}  // namespace cuda
}  // namespace mk
