// The exact median of all pairwise distances without keeping them: the bits of a positive number sort like the number, so
// counting squared distances by their leading 16 bits finds the bits of the two middle ones, 16 at a time (a radix selection).
// 2 passes over the pairs for float, 4 for double.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "interaction_isa.hpp"
#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

template <class T>
const TileLoops<T>& tile_loops();
template <>
const TileLoops<float>& tile_loops<float>() {
  return interaction_table().f32;
}
template <>
const TileLoops<double>& tile_loops<double>() {
  return interaction_table().f64;
}

template <class T>
uint64_t key_of(T square) {
  if constexpr (sizeof(T) == 4) {
    uint32_t u;
    std::memcpy(&u, &square, sizeof u);
    return u;
  } else {
    uint64_t u;
    std::memcpy(&u, &square, sizeof u);
    return u;
  }
}
template <class T>
T value_of(uint64_t key) {
  T x;
  if constexpr (sizeof(T) == 4) {
    uint32_t u = static_cast<uint32_t>(key);
    std::memcpy(&x, &u, sizeof x);
  } else {
    std::memcpy(&x, &key, sizeof x);
  }
  return x;
}

constexpr int digit_bits = 16;
constexpr int64_t n_digits = int64_t{1} << digit_bits, row_chunk = 64, depth_block = 32;

// Squared distances of rows first..last to every later point, each pair once: visit(keys of a row, how many).
template <class T, class Visit>
void visit_pairs(const T* x, int64_t n, int64_t dim, int64_t first, int64_t last, std::vector<T>& tile,
                 std::vector<T>& panel, Visit visit) {
  const TileLoops<T>& loops = tile_loops<T>();
  constexpr int C = tile_cols<T>;
  int rows = static_cast<int>(last - first);
  for (int64_t col = first / C * C; col < n; col += C) {
    int valid = static_cast<int>(std::min<int64_t>(C, n - col));
    int cols = (valid + loops.col_step - 1) / loops.col_step * loops.col_step;
    if (dim <= max_small_dim) {
      loops.pack_panel(x + col * dim, dim, dim, valid, cols, panel.data());
      loops.squares[dim](x + first * dim, dim, rows, dim, panel.data(), cols, nullptr, true, tile.data());
    } else {
      for (int64_t d = 0; d < dim; d += depth_block) {
        int64_t depth = std::min(depth_block, dim - d);
        loops.pack_panel(x + col * dim + d, dim, depth, valid, cols, panel.data());
        loops.squares[0](x + first * dim + d, dim, rows, depth, panel.data(), cols, nullptr, d == 0, tile.data());
      }
    }
    for (int r = 0; r < rows; ++r) {
      int64_t from = std::max<int64_t>(0, first + r + 1 - col);
      if (from < valid) visit(tile.data() + r * C + from, static_cast<int>(valid - from));
    }
    poll_inside_chunk();
  }
}

template <class T>
void median(const T* x, int64_t n, int64_t dim, double* lower, double* upper) {
  constexpr int total_bits = static_cast<int>(8 * sizeof(T));
  const uint64_t pairs = static_cast<uint64_t>(n) * static_cast<uint64_t>(n - 1) / 2;
  uint64_t rank[2] = {(pairs - 1) / 2, pairs / 2}, prefix[2] = {0, 0};
  for (int shift = total_bits - digit_bits; shift >= 0; shift -= digit_bits) {
    // The two middle ranks have a histogram each once they fall into different buckets.
    bool apart = prefix[0] != prefix[1];
    std::vector<uint64_t> counts(static_cast<size_t>(n_digits * (apart ? 2 : 1)));
    std::mutex guard;
    parallel_for((n + row_chunk - 1) / row_chunk, std::max<int64_t>(1, n / row_chunk / 16), [&](int64_t a, int64_t b) {
      std::vector<uint64_t> own(counts.size());
      std::vector<T> tile(static_cast<size_t>(row_chunk * tile_cols<T>));
      std::vector<T> panel(static_cast<size_t>(std::max<int64_t>(depth_block, max_small_dim) * tile_cols<T>));
      for (int64_t chunk = a; chunk < b; ++chunk) {
        int64_t first = chunk * row_chunk, last = std::min(n, first + row_chunk);
        visit_pairs<T>(x, n, dim, first, last, tile, panel, [&](const T* squares, int count) {
          for (int j = 0; j < count; ++j) {
            uint64_t key = key_of(squares[j]), digit = (key >> shift) & (n_digits - 1);
            uint64_t top = shift + digit_bits == total_bits ? 0 : key >> (shift + digit_bits);
            if (top == prefix[0]) ++own[digit];
            if (apart && top == prefix[1]) ++own[n_digits + digit];
          }
        });
      }
      std::lock_guard<std::mutex> lock(guard);  // whole numbers: the order of adding does not matter
      for (size_t i = 0; i < counts.size(); ++i) counts[i] += own[i];
    });
    for (int m = 0; m < 2; ++m) {
      const uint64_t* c = counts.data() + (apart && m == 1 ? n_digits : 0);
      int64_t digit = 0;
      while (rank[m] >= c[digit]) rank[m] -= c[digit++];
      prefix[m] = prefix[m] << digit_bits | static_cast<uint64_t>(digit);
    }
  }
  *lower = std::sqrt(static_cast<double>(value_of<T>(prefix[0])));
  *upper = std::sqrt(static_cast<double>(value_of<T>(prefix[1])));
}

}  // namespace

template <>
void pair_median<float>(const float* x, int64_t n, int64_t dim, double* lower, double* upper, Queue) {
  median(x, n, dim, lower, upper);
}
template <>
void pair_median<double>(const double* x, int64_t n, int64_t dim, double* lower, double* upper, Queue) {
  median(x, n, dim, lower, upper);
}

}  // namespace cpu
}  // namespace mk
