// Stands in for CUB's header of this name (see cuda_runtime.h): stable sorts by the host, with results in the other buffer
// and nonsense where they were. Tests only.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"

namespace cub {

template <class T>
struct DoubleBuffer {
  T* d_buffers[2];
  int selector = 0;
  DoubleBuffer(T* current, T* alternate) : d_buffers{current, alternate} {}
  T* Current() { return d_buffers[selector]; }
  T* Alternate() { return d_buffers[1 - selector]; }
};

namespace pretended {

constexpr size_t memory = 40;

template <class Key, class Value>
void sort(DoubleBuffer<Key>& keys, DoubleBuffer<Value>* values, int64_t begin, int64_t end) {
  const size_t n = static_cast<size_t>(end - begin);
  Key* key = keys.Current() + begin;
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return key[i] < key[j]; });
  for (size_t i = 0; i < n; ++i) keys.Alternate()[begin + static_cast<int64_t>(i)] = key[order[i]];
  std::memset(static_cast<void*>(key), 0xff, n * sizeof(Key));
  if (!values) return;
  Value* value = values->Current() + begin;
  for (size_t i = 0; i < n; ++i) values->Alternate()[begin + static_cast<int64_t>(i)] = value[order[i]];
  std::memset(static_cast<void*>(value), 0xff, n * sizeof(Value));
}

template <class Key, class Value>
cudaError_t sort_segments(void* given, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>* values,
                          int64_t segments, const int* begin, const int* end) {
  if (!given) return bytes = memory, cudaSuccess;
  if (bytes < memory) return cudaErrorInvalidValue;
  for (int64_t s = 0; s < segments; ++s) sort(keys, values, begin[s], end[s]);
  keys.selector = 1 - keys.selector;
  if (values) values->selector = 1 - values->selector;
  return cudaSuccess;
}

}  // namespace pretended

struct DeviceRadixSort {
  template <class Key, class Value>
  static cudaError_t SortPairs(void* memory, size_t& bytes, DoubleBuffer<Key>& keys, DoubleBuffer<Value>& values,
                               int items, int, int, cudaStream_t) {
    const int begin = 0;
    return pretended::sort_segments(memory, bytes, keys, &values, 1, &begin, &items);
  }
  template <class Key>
  static cudaError_t SortKeys(void* memory, size_t& bytes, DoubleBuffer<Key>& keys, int items, int, int, cudaStream_t) {
    const int begin = 0;
    return pretended::sort_segments<Key, int>(memory, bytes, keys, nullptr, 1, &begin, &items);
  }
};

}  // namespace cub
