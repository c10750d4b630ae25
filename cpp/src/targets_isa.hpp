// The table of target loops that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/executor.hpp"

namespace mk {

// All work on one block of `lanes` particles from number `first` on; past the end the last particle is repeated and not
// stored. scratch: dim * lanes * (4 for a mixture, 2 for the logistic model, else 1) values, 64-byte aligned.
template <class T>
struct TargetLoops {
  int lanes;
  void (*mixture)(const MixtureArgs<T>& args, int64_t first, T* scratch);
  void (*funnel)(const FunnelArgs<T>& args, int64_t first, T* scratch);
  void (*banana)(const BananaArgs<T>& args, int64_t first, T* scratch);
  // totals (dim + 1, lanes): gradient and log density of rows row .. row_end, and of the prior if row is 0.
  void (*logistic_rows)(const LogisticArgs<T>& args, int64_t first, int64_t row, int64_t row_end, T* scratch,
                        double* totals);
  void (*logistic_finish)(const LogisticArgs<T>& args, int64_t first, const double* totals);
};

struct TargetTable {
  TargetLoops<float> f32;
  TargetLoops<double> f64;
};
MK_FAMILY_TABLE(TargetTable, target_table)

}  // namespace mk
