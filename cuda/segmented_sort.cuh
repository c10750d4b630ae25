// Stable sorts of rows of finite numbers, each with the index it had in its row or without. Short rows are sorted by one
// block in shared memory, others by CUB: all rows at once, a block each, or one after the other by the whole device. The
// order is the same in all three cases.
#pragma once

#define CCCL_DISABLE_NVTX
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

#include "launch.cuh"

namespace mk {
namespace cuda {

#ifndef MK_BLOCK_SORT  // the tests on the host set both low, so that small rows take every way
#define MK_BLOCK_SORT 2048
#define MK_DEVICE_SORT 65536
#endif
constexpr int block_sort_points = MK_BLOCK_SORT;  // a power of two
constexpr int64_t device_sort_points = MK_DEVICE_SORT;

// Two rooms for `rows` rows of `points` numbers and, unless null, of their indices. What is in the first one moves to the
// one called `now`; the other one is free then.
template <class T>
struct SortRooms {
  T* keys[2];
  int* index[2];  // null: not wanted
  int now = 0;
  T* sorted() const { return keys[now]; }
  T* spare() const { return keys[1 - now]; }
  int* sorted_index() const { return index[now]; }
};

// Sorts by (key, index), which makes the order of a bitonic network the stable one. In place.
template <class T>
__global__ void __launch_bounds__(block_threads) block_sort_kernel(T* keys, int* index, int points, int room) {
  __shared__ T key[block_sort_points];
  __shared__ int from[block_sort_points];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * points;
  const int threads = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < room; i += threads) {
    key[i] = i < points ? keys[row + i] : static_cast<T>(__builtin_inff());
    from[i] = i;
  }
  for (int size = 2; size <= room; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int t = static_cast<int>(threadIdx.x); t < room / 2; t += threads) {
        const int i = 2 * stride * (t / stride) + t % stride, j = i + stride;
        const bool up = (i & size) == 0, after = key[i] > key[j] || (key[i] == key[j] && from[i] > from[j]);
        if (up != after) continue;
        const T k = key[i];
        key[i] = key[j];
        key[j] = k;
        const int f = from[i];
        from[i] = from[j];
        from[j] = f;
      }
    }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < points; i += threads) {
    keys[row + i] = key[i];
    if (index) index[row + i] = from[i];
  }
}

// CUB asks first how much memory it wants.
template <class Sort>
void with_memory_for_cub(Queue queue, Sort sort) {
  size_t bytes = 0;
  check(sort(nullptr, bytes), "sort");
  Scratch<char> memory(static_cast<int64_t>(bytes > 0 ? bytes : 1), queue);
  check(sort(memory.data(), bytes), "sort");
}

static __global__ void row_starts_kernel(int* starts, int64_t rows, int points) {
  for (int64_t i = first_item(); i <= rows; i += item_stride()) starts[i] = static_cast<int>(i * points);
}

// index[0] is to hold 0, 1, ... in every row. rows * points < 2^31.
template <class T>
void sort_rows(SortRooms<T>& rooms, int64_t rows, int64_t points, Queue queue) {
  rooms.now = 0;
  if (points <= block_sort_points) {
    int room = 1;
    while (room < points) room *= 2;
    const int threads = room < 64 ? 32 : room < 2 * block_threads ? room / 2 : block_threads;
    launch_blocks("block_sort", block_sort_kernel<T>, dim3(static_cast<unsigned>(rows)),
                  dim3(static_cast<unsigned>(threads)), queue, rooms.keys[0], rooms.index[0], static_cast<int>(points),
                  room);
    return;
  }
  constexpr int bits = 8 * static_cast<int>(sizeof(T));
  const int length = static_cast<int>(points);
  const cudaStream_t stream = as_stream(queue);
  // A block takes as long for a row as the device does for all of them: few or long rows go one by one.
  if (points > device_sort_points || rows * 2048 < points) {
    auto of_row = [&](int64_t row) {
      return cub::DoubleBuffer<T>(rooms.keys[0] + row * points, rooms.keys[1] + row * points);
    };
    auto each = [&](void* memory, size_t& bytes) {
      const bool asks = memory == nullptr;
      for (int64_t row = 0; row < (asks ? 1 : rows); ++row) {
        cub::DoubleBuffer<T> keys = of_row(row);
        cudaError_t error;
        if (rooms.index[0]) {
          cub::DoubleBuffer<int> index(rooms.index[0] + row * points, rooms.index[1] + row * points);
          error = cub::DeviceRadixSort::SortPairs(memory, bytes, keys, index, length, 0, bits, stream);
        } else {
          error = cub::DeviceRadixSort::SortKeys(memory, bytes, keys, length, 0, bits, stream);
        }
        if (error != cudaSuccess) return error;
        if (!asks) rooms.now = keys.selector;  // the same for all rows, as for their indices
      }
      return cudaSuccess;
    };
    return with_memory_for_cub(queue, each);
  }
  Scratch<int> starts(rows + 1, queue);
  launch("sort", row_starts_kernel, rows + 1, queue, starts.data(), rows, length);
  const int *begin = starts.data(), *end = begin + 1;
  const int all = static_cast<int>(rows * points), segments = static_cast<int>(rows);
  with_memory_for_cub(queue, [&](void* memory, size_t& bytes) {
    cub::DoubleBuffer<T> keys(rooms.keys[0], rooms.keys[1]);
    cudaError_t error;
    if (rooms.index[0]) {
      cub::DoubleBuffer<int> index(rooms.index[0], rooms.index[1]);
      error = cub::DeviceSegmentedRadixSort::SortPairs(memory, bytes, keys, index, all, segments, begin, end, 0, bits,
                                                       stream);
    } else {
      error = cub::DeviceSegmentedRadixSort::SortKeys(memory, bytes, keys, all, segments, begin, end, 0, bits, stream);
    }
    if (memory) rooms.now = keys.selector;
    return error;
  });
}

}  // namespace cuda
}  // namespace mk
