// Loops of the sliced distances, one table for each instruction set.
//
// A slice is a row of projected points: first the n of x, then the m of y. Sorting makes records of it: the value in the high
// half (float32: its bits; float64: what sorting left there) and the index of the point in the low half.
#pragma once

#include <cstdint>

#include "dispatch.hpp"

namespace mk {

// Room for the counts of two digits.
constexpr int sort_counts = 2 * 2048;

// How much every point of x and y counts. Equal weights: whole numbers with n x_step = m y_step, in units of
// 1 / (n x_step).
struct SliceWeights {
  int64_t n, m;
  bool counted;  // equal weights in whole numbers; else the doubles below
  int64_t x_step, y_step;
  const double *x, *y;  // null: x_each, y_each
  double x_each, y_each;
};

// `poll` is called now and then by what may take long.
template <class T>
struct SlicedLoops {
  int lanes;  // points of a panel
  int group;  // directions, or coordinates, that are worked on at a time
  // panel[k][lanes] = rows[l][k] - centre[k]; lanes past `valid` are 0
  void (*pack)(const T* const* rows, int valid, int64_t dim, const T* centre, T* panel);
  // rows[l * dim + k] = scale panel[k][l], l < valid
  void (*unpack)(const T* panel, int valid, int64_t dim, T scale, T* rows);
  // tile[k][lanes] = from[k * stride + lane]
  void (*gather)(const T* from, int64_t stride, int64_t count, T* tile);
  // to[r * to_stride + lane] = sum_k factors[k][r] from[k * from_stride + lane], r < rows, added to what is there unless
  // `first`; factors: [count][group]. Projects (k: coordinates, r: directions) and brings back (the other way round).
  void (*product)(const T* from, int64_t from_stride, int64_t count, const T* factors, int rows, bool first, T* to,
                  int64_t to_stride);
  // Records of z[0 .. n) in ascending order, equal values by index, in a or b (n each). Indices start at `offset`.
  const uint64_t* (*sort)(const T* z, int64_t n, uint32_t offset, uint64_t* a, uint64_t* b, uint32_t* counts,
                          void (*poll)());
  // Records of the values first .. last of a slice, as they stand.
  void (*index)(const T* z, int64_t first, int64_t last, uint64_t* out);
  // The sorted records of x and the values of y, which stand sorted in the slice, become one; x before y where equal.
  void (*merge)(const T* z, const uint64_t* x, int64_t n, int64_t m, uint64_t* out);
  // D^2 for r = 1 from the records of a whole slice; g (over z, which it may destroy): derivatives, null: not wanted.
  double (*scan)(const uint64_t* records, const SliceWeights& w, T* z, bool gradient);
  // W_p^p from the records of x and of y; g likewise, times shrink.
  double (*transport)(const uint64_t* x, const uint64_t* y, const SliceWeights& w, double p, double shrink, T* z,
                      bool gradient, void (*poll)());
  // values (sorted, float64) and signed weights of a whole slice, and derivatives put back in their places
  void (*to_doubles)(const uint64_t* records, const SliceWeights& w, const T* z, double* values, double* weights);
  void (*scatter)(const uint64_t* records, int64_t count, const double* force, T* g);
};

struct SlicedTable {
  SlicedLoops<float> f32;
  SlicedLoops<double> f64;
};
MK_FAMILY_TABLE(SlicedTable, sliced_table)

}  // namespace mk
