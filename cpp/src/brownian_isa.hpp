// The table of Brownian-tree loops that every instruction set exports, indexed by components - 1.
#pragma once

#include "dispatch.hpp"
#include "mckean/brownian.hpp"

namespace mk {

// Where the cells of a cursor lie: cells[((level - first_level) * per_cell + component) * stride + lane].
template <class T>
struct CursorView {
  T* cells;  // null: no cursor
  int64_t stride;
  int first_level;
  uint64_t* leaf;  // (lanes,) the path whose cells are stored, and how deep they are
  int8_t* depth;
};

template <class T>
struct BrownianLoops {
  // Lanes first .. last of the (sub-)tree, all with the plan q; start: level of the cursor's cell to begin at, or -1.
  void (*shared)(const TreeArgs& tree, const QueryPlan& q, int start, int64_t first, int64_t last, T* const* out,
                 const CursorView<T>& cursor);
  // Lanes first .. last with times of their own, s and t per path.
  void (*per_path)(const TreeArgs& tree, const double* s, const double* t, int64_t first, int64_t last, T* const* out,
                   const CursorView<T>& cursor);
  // Consecutive increments over ts[0 .. n_times), out (n_times - 1, lanes of the whole tree).
  void (*sweep)(const TreeArgs& tree, const double* ts, int64_t n_times, int64_t first, int64_t last, T* const* out);
};

struct BrownianTable {
  BrownianLoops<float> f32[3];
  BrownianLoops<double> f64[3];
  void (*fractional_f32)(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                         int64_t first, int64_t last, float* out, void (*tick)());
  void (*fractional_f64)(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                         int64_t first, int64_t last, double* out, void (*tick)());
};
MK_FAMILY_TABLE(BrownianTable, brownian_table)

}  // namespace mk
