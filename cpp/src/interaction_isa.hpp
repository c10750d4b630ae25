// The tables of interaction loops that every instruction set exports.
//
// All work is done on tiles: a few rows (points x) by tile_cols columns (points y), whose squared distances, kernel values
// and weights stay in cache. A tile has the fixed row stride tile_cols; `cols` of them are in use, a multiple of
// col_step, those past the end of the data padded so that they count for nothing. A panel holds the coordinates of a
// tile's columns, (dim, tile_cols). The order of every sum is fixed by the sizes alone.
#pragma once

#include "dispatch.hpp"
#include "mckean/executor.hpp"

namespace mk {

template <class T>
constexpr int tile_cols = 1024 / static_cast<int>(sizeof(T));
constexpr int max_small_dim = 16;  // dimensions that are compiled in
constexpr int wide_cols = 64;      // columns of values in one block of reduce_wide

// What the Stein kernel of a tile is made of, tiles each: s, sx.sy, (sx - sy).(g delta), sum (g delta)^2.
template <class T>
struct SteinTiles {
  T *s, *dots, *cross, *bend;
};

template <class T>
struct TileLoops {
  int lanes, col_step, block_rows;
  // panel[k][j] = y[j * stride + k] for k < dim, j < valid; 0 for j from valid to cols.
  void (*pack_panel)(const T* y, int64_t stride, int64_t dim, int valid, int cols, T* panel);
  // Squared distances sum_k g_k (x_ik - y_jk)^2, index: dim, 0 for any; dim 0 adds to what is there unless `first`.
  using Distance = void (*)(const T* x, int64_t stride, int rows, int64_t dim, const T* panel, int cols,
                            const T* metric, bool first, T* s);
  Distance squares[max_small_dim + 1], metric_squares[max_small_dim + 1], dots[max_small_dim + 1];
  using Stein = void (*)(const T* x, const T* sx, int64_t stride, int rows, int64_t dim, const T* panel,
                         const T* score_panel, int cols, const T* metric, bool first, const SteinTiles<T>& out);
  Stein stein[max_small_dim + 1], metric_stein[max_small_dim + 1];

  // Inner products of many coordinates of (point - centre) * scale: rows [row][k], columns in groups of col_step,
  // [group][k][member].
  using Pack = void (*)(const T* points, int64_t stride, int64_t dim, int valid, const T* centre, const T* scale,
                        T* out);
  Pack pack_rows, pack_columns;
  void (*product_block)(const T* a, const T* b, int rows, int cols, int64_t dim, bool first, T* s);
  // s = nx + ny - 2 s, at least 0. Registers where some s < near (nx + ny): row * tile_cols + column goes to `list`.
  int (*finish_squares)(T* s, int rows, int cols, const T* nx, const T* ny, T near, int32_t* list);
  // sum_k ((p_k - centre_k) scale_k)^2, rounded like the packed coordinates: |x|^2 + |y|^2 - 2 x.y vanishes for equal points.
  T (*norm)(const T* p, const T* centre, const T* scale, int64_t dim);
  T (*pair_square)(const T* x, const T* y, int64_t dim, const T* metric);
  void (*subtract_difference)(double c, const T* x, const T* y, int64_t dim, double* out);  // out -= c (x - y)

  // out[r * stride + q] += sum_j k[r][j] v[q][j]
  void (*reduce_narrow)(const T* k, int rows, int cols, const T* v, int n_values, double* out, int64_t stride);
  // out[r * dim + a] += sum_j c[r][j] (x_ra - y_ja); index: dim
  using Gradient = void (*)(const T* c, int rows, int cols, const T* x, const T* panel, double* out);
  Gradient reduce_grad[max_small_dim + 1];
  // values [j][wide_cols] from rows first, minus centre where given; zero past `width` and past `valid`.
  void (*pack_values)(const T* values, int64_t stride, int valid, int cols, int width, const T* centre, T* out);
  void (*reduce_wide)(const T* k, int rows, int cols, const T* packed, int width, double* out, int64_t stride);
  void (*row_sums)(const T* k, int rows, int cols, double* out, int64_t stride);
  // k = 2^(k - top[r]); out[r * stride] += sum
  void (*exponentials)(T* k, int rows, int cols, const T* top, double* out, int64_t stride);
  int64_t (*count_zeros)(const T* s, int rows, int cols);

  // prod_a sinc(theta (x_a - y_a)); the gradient adds w_j grad to out (rows, dim). scratch: 3 dim registers.
  void (*sinc)(const T* x, int rows, int64_t dim, const T* panel, int cols, T theta, T* k);
  void (*sinc_grad)(const T* x, int rows, int64_t dim, const T* panel, int cols, T theta, const T* w, double* out,
                    T* scratch);
};

template <class T>
struct MapLoops {
  using C = KernelConstants<T>;
  // out[r * stride] += coefficient sum_j w_j F(s_rj)
  void (*value_sum[n_map_kinds])(const T* s, int rows, int cols, const C& c, const T* w, double* out, int64_t stride);
  // k = coefficient F(s), or added to it
  void (*value[n_map_kinds])(const T* s, int rows, int cols, const C& c, bool first, T* k);
  // k = factors_j raw slope(s), or added to it; factors: w coefficient c.slope. `sum`, unless null, gets the values like
  // value_sum.
  void (*slope[n_map_kinds])(const T* s, int rows, int cols, const C& c, const T* w, const T* factors, bool first, T* k,
                             double* sum, int64_t stride);
  // k = log2 of (coefficient F(s)) + w, and its largest of each row
  void (*log2[n_map_kinds])(const T* s, int rows, int cols, const C& c, const T* w, T* k, T* top);
  // k = the Stein kernel, or added to it; trace: sum of the metric
  void (*stein[n_map_kinds])(const SteinTiles<T>& t, int rows, int cols, const C& c, T trace, bool first, T* k);
};

struct InteractionTable {
  TileLoops<float> f32;
  TileLoops<double> f64;
};
struct MapTable {
  MapLoops<float> f32;
  MapLoops<double> f64;
};
MK_FAMILY_TABLE(InteractionTable, interaction_table)
MK_FAMILY_TABLE(MapTable, map_table)

}  // namespace mk
