// The table of stepping loops that every instruction set exports.
#pragma once

#include "dispatch.hpp"
#include "mckean/executor.hpp"

namespace mk {

struct SteppingTable {
  // Elements first .. last of every output; stream_stores: bypass the cache (outputs far larger than it).
  void (*combine_f32)(const CombineArgs<float>& args, int64_t first, int64_t last, bool stream_stores);
  void (*combine_f64)(const CombineArgs<double>& args, int64_t first, int64_t last, bool stream_stores);
};
MK_FAMILY_TABLE(SteppingTable, stepping_table)

}  // namespace mk
