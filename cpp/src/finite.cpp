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
T largest_range(const T* data, int64_t n) {
  constexpr int lanes = 16;
  T top[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l) {
      T a = data[i + l] < T(0) ? -data[i + l] : data[i + l];
      top[l] = top[l] < a ? a : top[l];
    }
  for (; i < n; ++i) top[0] = std::max(top[0], data[i] < T(0) ? -data[i] : data[i]);
  return *std::max_element(top, top + lanes);
}

template <class T>
double find_largest(const T* data, int64_t n) {
  if (n <= chunk) return static_cast<double>(largest_range(data, n));
  std::vector<T> tops(static_cast<size_t>((n + chunk - 1) / chunk));
  parallel_for(n, chunk, [&](int64_t first, int64_t last) {
    tops[static_cast<size_t>(first / chunk)] = largest_range(data + first, last - first);
  });
  return static_cast<double>(*std::max_element(tops.begin(), tops.end()));
}

}  // namespace

template <>
double largest<float>(const float* data, int64_t n) {
  return find_largest(data, n);
}
template <>
double largest<double>(const double* data, int64_t n) {
  return find_largest(data, n);
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
