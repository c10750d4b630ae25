// The table of selection loops that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/selection.hpp"

namespace mk {

template <class T>
struct SelectionLoops {
  int64_t column_tile;  // columns first .. last of `distances` start at a multiple of it
  void (*halve)(HalveArgs<T>& args);
  void (*distances)(const DistanceArgs<T>& args, int64_t first, int64_t last);
  // loss[b], in: the removal loss of medoid b; out: the change of the loss by the swap. Its summand common to all b is
  // returned.
  double (*changes)(const PamState<T>& state, const T* row, double* loss);
  double (*gain)(int64_t n, const T* row, const T* near);
};

struct SelectionTable {
  SelectionLoops<float> f32;
  SelectionLoops<double> f64;
};
MK_FAMILY_TABLE(SelectionTable, selection_table)

}  // namespace mk
