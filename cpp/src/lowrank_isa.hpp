// Loops of the low-rank models, one table for each instruction set. Vectors come in pieces of at most `lowrank_block`
// numbers: sums are in the type of the data within a piece, in float64 from piece to piece.
#pragma once

#include <cstdint>

#include "dispatch.hpp"

namespace mk {

constexpr int64_t lowrank_block = 2048;

// Columns of a packed matrix: a multiple of every register.
constexpr int64_t padded_columns(int64_t k) { return (k + 15) / 16 * 16; }

template <class T>
struct LowRankLoops {
  // sums[j] += v_j . w, j < count; v_j at v + j * stride; n <= lowrank_block
  void (*dots)(const T* v, int64_t stride, int64_t count, const T* w, int64_t n, double* sums);
  // w -= sum_j h[j] v_j; returns |w|^2
  double (*subtract)(const T* v, int64_t stride, int64_t count, const T* h, T* w, int64_t n);
  double (*square)(const T* w, int64_t n);
  void (*scale)(const T* w, T factor, T* out, int64_t n);
  // sums[0..3) += a . a, a . b, b . b
  void (*dots_of_two)(const T* a, const T* b, int64_t n, double* sums);
  // out = a x + b y, in float64
  void (*combine_two)(double a, const T* x, double b, const T* y, T* out, int64_t n);
  // out = (add ? out : 0) + a[0] x[0] + ...; count <= 4; out may be one of the x
  void (*combine)(int count, const T* a, const T* const* x, bool add, T* out, int64_t n);

  // out (cols, n) = in (n, cols) transposed
  void (*transpose)(const T* in, int64_t in_stride, int64_t n, int64_t cols, T* out, int64_t out_stride);
  // sums (k, l) += a^T b for a (n, k) and packed b (n, l rounded up to registers), rows lda and ldb apart. `upper`: a = b, and
  // the sums of p > q may be anything. n <= lowrank_block.
  void (*gram)(const T* a, int64_t lda, int64_t k, const T* b, int64_t ldb, int64_t l, int64_t n, bool upper,
               double* sums);
  // out (n, columns) (+)= a (n, k) m, m packed (k, columns rounded up to registers)
  void (*multiply)(const T* a, int64_t lda, int64_t n, int64_t k, const T* m, int64_t ldm, int64_t columns, bool add,
                   T* out, int64_t ldo);

  // sums[k] += sum_i U_ik b_i for U (n, k), rows without gaps; U may be read up to `readable` numbers from its beginning
  void (*project)(const T* U, int64_t k, int64_t readable, const T* b, int64_t n, double* sums);
  // out_i = base_i alpha + sum_k U_ik c_k; c padded by zeros to padded_columns(k)
  void (*expand)(const T* U, int64_t k, int64_t readable, const T* c, const T* base, T alpha, T* out, int64_t n);

  int lanes;
};

struct LowRankTable {
  LowRankLoops<float> f32;
  LowRankLoops<double> f64;
  // Small matrices, one a lane: element (p, q) of matrix l at [(p * k + q) * lanes + l]; lanes of float64.
  int lanes;
  void (*cholesky)(double* g, int k, double* least);          // least (lanes,): the smallest pivot
  void (*cholesky_solve)(const double* g, int k, double* x);  // x (k, lanes)
  void (*eigen)(double* g, double* q, int k);
  void (*widen)(const float* from, int64_t n, double* to);
  void (*narrow)(const double* from, int64_t n, float* to);
};
MK_FAMILY_TABLE(LowRankTable, lowrank_table)

template <class T>
const LowRankLoops<T>& lowrank_loops();
template <>
inline const LowRankLoops<float>& lowrank_loops<float>() {
  return lowrank_table().f32;
}
template <>
inline const LowRankLoops<double>& lowrank_loops<double>() {
  return lowrank_table().f64;
}

}  // namespace mk
