#include "finite.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t chunk = int64_t{1} << 18;

// x * 0 is 0 for finite x and NaN for all others, and NaN survives every sum: no branch, so that the loop vectorises.
template <class T>
bool finite_range(const T* data, int64_t n) {
  constexpr int lanes = 16;
  T sum[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l) sum[l] = sum[l] + data[i + l] * T(0);
  for (; i < n; ++i) sum[0] = sum[0] + data[i] * T(0);
  T total = T(0);
  for (int l = 0; l < lanes; ++l) total = total + sum[l];
  return total == T(0);
}

template <class T>
bool check(const T* data, int64_t n) {
  if (n <= chunk) return finite_range(data, n);
  std::atomic<bool> good{true};
  parallel_for(n, chunk, [&](int64_t first, int64_t last) {
    if (good.load(std::memory_order_relaxed) && !finite_range(data + first, last - first)) good.store(false);
  });
  return good.load();
}

template <class T>
double squares_range(const T* data, int64_t n) {
  constexpr int lanes = 16;
  T sum[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l) sum[l] = sum[l] + data[i + l] * data[i + l];
  for (; i < n; ++i) sum[0] = sum[0] + data[i] * data[i];
  double total = 0.0;
  for (int l = 0; l < lanes; ++l) total += static_cast<double>(sum[l]);
  return total;
}

template <class T>
double squares(const T* data, int64_t n) {
  if (n <= chunk) return squares_range(data, n);
  std::vector<double> parts(static_cast<size_t>((n + chunk - 1) / chunk));
  parallel_for(n, chunk, [&](int64_t first, int64_t last) {
    parts[static_cast<size_t>(first / chunk)] = squares_range(data + first, last - first);
  });
  double total = 0.0;
  for (double part : parts) total += part;
  return total;
}

}  // namespace

template <>
double sum_of_squares<float>(const float* data, int64_t n) {
  return squares(data, n);
}
template <>
double sum_of_squares<double>(const double* data, int64_t n) {
  return squares(data, n);
}
template <>
bool all_finite<float>(const float* data, int64_t n) {
  return check(data, n);
}
template <>
bool all_finite<double>(const double* data, int64_t n) {
  return check(data, n);
}

}  // namespace cpu
}  // namespace mk
