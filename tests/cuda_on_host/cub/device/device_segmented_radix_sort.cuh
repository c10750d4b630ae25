// Stands in for CUB's header of this name, see device_radix_sort.cuh. Tests only.
#pragma once

#include "cub/device/device_radix_sort.cuh"

namespace cub {

struct DeviceSegmentedRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* memory, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values, int,
                               int segments, const int* begin, const int* end, int, int, cudaStream_t) {
    return pretended::sort_segments(memory, bytes, keys, &values, segments, begin, end);
  }
  template <class Key>
  static cudaError_t SortKeys(void* memory, size_t& bytes, DoubleBuffer<Key>& keys, int, int segments, const int* begin,
                              const int* end, int, int, cudaStream_t) {
    return pretended::sort_segments<Key, int>(memory, bytes, keys, nullptr, segments, begin, end);
  }
};

}  // namespace cub
