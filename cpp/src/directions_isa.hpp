// The table of loops for slicing directions that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/directions.hpp"

namespace mk {

constexpr int reflections = 16;  // in a block

// One frame: row j is H_0 ... H_j e_j up to its sign, with reflections H_k = 1 - u_k u_k' * 2 / |u_k|^2 along random u_k
// that are zero before coordinate k. A block of them is 1 - U T U' with T upper triangular.
// G. Stewart, "The efficient generation of random orthogonal matrices with an application to condition estimators", SIAM
// J. Numer. Anal. 17, 1980; R. Schreiber, C. Van Loan, "A storage-efficient WY representation", SIAM J. Sci. Comput. 10, 1989.
struct Frame {
  int64_t dim, rows;      // rows <= dim are wanted
  uint64_t key, counter;  // of the normals
  double* u;              // block b: (dim - b * reflections, reflections), from coordinate b * reflections on
  double* t;              // (blocks, reflections, reflections)
  double* sign;           // (blocks, reflections)

  MK_HD int64_t blocks() const { return (rows + reflections - 1) / reflections; }
  // Doubles before block b.
  static MK_HD int64_t offset(int64_t dim, int64_t b) {
    return reflections * (b * dim - reflections * (b * (b - 1) / 2));
  }
};

struct SobolTables {
  int64_t dim;
  const uint32_t* numbers;    // (bits, dim): direction numbers, bits reversed
  const uint32_t* scrambles;  // (4, dim)
};

template <class T>
struct DirectionLoops {
  // The rows of block b, out (rows of the block, dim).
  void (*frame_rows)(const Frame& frame, int64_t b, const double* panels, T* out);
  // Rows first .. last, out (last - first, dim); work: dim doubles.
  void (*random_rows)(uint64_t key, int64_t first, int64_t last, int64_t dim, double* work, T* out);
  // state: (dim,), the point before the first row; on return that of the last.
  void (*sobol_rows)(const SobolTables& tables, int64_t first, int64_t last, uint32_t* state, double* work, T* out);
};

struct DirectionTable {
  // Writes block b of u, t and sign; work: dim * reflections doubles.
  void (*frame_block)(const Frame& frame, int64_t b, double* work);
  // Applies block `at` of the reflections to the rows of block b: at = b, which starts them, down to 0. panels: dim *
  // reflections doubles that hold the rows.
  void (*frame_reflect)(const Frame& frame, int64_t b, int64_t at, double* panels);
  DirectionLoops<float> f32;
  DirectionLoops<double> f64;
};
MK_FAMILY_TABLE(DirectionTable, direction_table)

}  // namespace mk
