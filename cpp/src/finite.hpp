// Input checks that read every element.
#pragma once

#include <cstdint>

namespace mk {
namespace cpu {

// Whether no element is NaN or infinite.
template <class T>
bool all_finite(const T* data, int64_t n);

// In the type of the data, and infinite where that overflows.
template <class T>
double sum_of_squares(const T* data, int64_t n);

}  // namespace cpu
}  // namespace mk
