// Loops of entropic transport, one table for each instruction set.
//
// Rows are points x or rows of a stored cost, columns points y. Exponents are in base 2: c is the cost over eps ln 2, f and
// g are whole numbers, so that f + g is exact and the rounding of an entry depends on its cost alone; what is missing to the
// scalings stands in the factors u and v. Columns past the end of the data have g = -far and v = 0.
#pragma once

#include "interaction_isa.hpp"
#include "mckean/sinkhorn.hpp"

namespace mk {

constexpr int max_fused_dim = 8;
constexpr int row_step = 4;  // rows that share the loads of a column

template <class T>
struct SinkhornLoops {
  int lanes, col_step;
  // panel[k][j] = (y_jk - centre_k) scale, rows of tile_cols; 0 from valid to cols
  void (*pack_panel)(const T* y, int64_t dim, int valid, int cols, const T* centre, T scale, T* panel);
  void (*pack_rows)(const T* x, int64_t dim, int64_t rows, const T* centre, T scale, T* out);

  // e_rj = 2^(f_r + g_j - c_rj), sums[r] += sum_j e_rj v_j. Rows of e are `stride` apart.
  using Fused = void (*)(const T* x, int rows, const T* panel, int cols, const T* f, const T* g, const T* v, T* e,
                         int64_t stride, double* sums);
  Fused fused_squares[max_fused_dim + 1], fused_roots[max_fused_dim + 1];  // index: dim; c = |x - y|^2, |x - y|
  void (*fused_dense)(const T* cost, int64_t cost_stride, int rows, int valid, int cols, T rate, const T* f, const T* g,
                      const T* v, T* e, int64_t stride, double* sums);
  void (*fused_tile)(const T* c, int rows, int cols, const T* f, const T* g, const T* v, T* e, int64_t stride,
                     double* sums);
  void (*dots)(const T* e, int64_t stride, int rows, int64_t cols, const T* v, double* sums);
  void (*spread)(const T* e, int64_t stride, int rows, int64_t cols, const T* u, T* col);  // col += sum_r u_r e_r
  void (*flush)(T* part, int64_t cols, double* sums);                                      // sums += part; part = 0

  // Tiles of c: of stored costs, and of squared distances in place.
  void (*tile_of_cost)(const T* cost, int64_t stride, int rows, int valid, int cols, T rate, T* c);
  void (*tile_of_transposed)(const T* cost, int64_t stride, int rows, int valid, int cols, T rate, T* c);
  void (*raise)(T* s, int rows, int cols, const CostRule& rule);
  void (*cost_sums)(const T* c, const T* e, int rows, int cols, const T* v, double* sums);  // sums[r] += sum_j e v c
  void (*slopes)(const T* s, T* e, int rows, int cols, const T* v, const CostRule& rule);   // e <- e v slope(s)
  void (*weigh)(T* e, int rows, int cols, const T* v);                                      // e <- e v, tiles

  // c <- g_j - c_rj and its largest of each row; sums[r] += sum_j 2^(z - top_r) v_j
  void (*exponents)(T* c, int rows, int cols, const T* g, T* top);
  void (*exponentials)(const T* z, int rows, int cols, const T* top, const T* v, double* sums);

  // The columns where e_j v_j > level * col_level_j.
  int64_t (*find)(const T* e, int64_t cols, const T* v, T level, const T* col_level, int32_t* found);
};

struct SinkhornTable {
  SinkhornLoops<float> f32;
  SinkhornLoops<double> f64;
};
MK_FAMILY_TABLE(SinkhornTable, sinkhorn_table)

}  // namespace mk
