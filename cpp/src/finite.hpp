// Input checks that read every element.
#pragma once

#include <cstdint>

namespace mk {
namespace cpu {

// Whether no element is NaN or infinite.
template <class T>
bool all_finite(const T* data, int64_t n);

// The largest absolute value; n >= 1.
template <class T>
double largest(const T* data, int64_t n);

}  // namespace cpu
}  // namespace mk
