// What both executors of the sliced distances agree on.
#pragma once

#include <cstdint>

#include "mckean/config.hpp"

namespace mk {

// Points are projected relative to a point in their middle, so that data far from the origin keep their digits: the median,
// coordinate by coordinate, of a few points of y that count. An average would follow a single outlier.
constexpr int centre_points = 33;

// The number of the point that stands for part `part` of `parts`: the first one in it with a positive weight, -1 if there is
// none. weights: (m,) or null.
MK_HD int64_t centre_point(int part, int parts, int64_t m, const double* weights) {
  const int64_t first = m / parts * part + (m % parts) * part / parts;
  const int64_t last = m / parts * (part + 1) + (m % parts) * (part + 1) / parts;
  for (int64_t j = first; j < last; ++j)
    if (!weights || weights[j] > 0.0) return j;
  return -1;
}

// The lower median of values[0 .. count), which are sorted in place.
template <class T>
MK_HD T lower_median(T* values, int count) {
  for (int i = 1; i < count; ++i) {
    T value = values[i];
    int at = i;
    for (; at > 0 && value < values[at - 1]; --at) values[at] = values[at - 1];
    values[at] = value;
  }
  return values[(count - 1) / 2];
}

}  // namespace mk
