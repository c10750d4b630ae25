// The table of SDE loops that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/sde.hpp"

namespace mk {

template <class T>
struct SdeLoops {
  int lanes;
  // Bytes of scratch, 64-byte aligned, that `run` needs.
  int64_t (*scratch)(const SdeArgs<T>& args);
  // Paths first .. last.
  void (*run)(const SdeArgs<T>& args, int64_t first, int64_t last, char* scratch, void (*tick)());
};

struct SdeTable {
  SdeLoops<float> f32;
  SdeLoops<double> f64;
};
MK_FAMILY_TABLE(SdeTable, sde_table)

}  // namespace mk
