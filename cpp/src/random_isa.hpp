// The table of random-number loops that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/philox.hpp"

namespace mk {

struct RandomTable {
  // Numbers first .. first + n of a stream, into out.
  void (*words)(uint32_t* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter);
  void (*uniform_f32)(float* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter);
  void (*uniform_f64)(double* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter);
  void (*normal_f32)(float* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter);
  void (*normal_f64)(double* out, uint64_t first, int64_t n, uint64_t key, uint64_t counter);
  void (*step_noise_f32)(float* const* outs, const float* scales, int count, int64_t first, int64_t last, uint64_t seed,
                         uint64_t counter);
  void (*step_noise_f64)(double* const* outs, const double* scales, int count, int64_t first, int64_t last,
                         uint64_t seed, uint64_t counter);
};
MK_FAMILY_TABLE(RandomTable, random_table)

}  // namespace mk
