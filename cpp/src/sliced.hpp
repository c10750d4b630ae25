// What the CPU executor of the sliced distances shows beside the executor's functions.
#pragma once

#include <cstdint>

namespace mk {
namespace cpu {

// The indices of z in ascending order, equal values in their order: the sort of a slice, for tests and benches.
template <class T>
void slice_order(const T* z, int64_t n, int64_t* order);

}  // namespace cpu
}  // namespace mk
