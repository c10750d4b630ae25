#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace mk {
namespace {

const char* const names[] = {"baseline", "avx2", "avx512"};

SimdLevel highest() {
#if MK_HAVE_X86_LEVELS
  __builtin_cpu_init();
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd");
  return v4 ? SimdLevel::avx512 : v3 ? SimdLevel::avx2 : SimdLevel::baseline;
#else
  return SimdLevel::baseline;
#endif
}

SimdLevel initial() {
  SimdLevel best = highest();
  if (const char* asked = std::getenv("MCKEAN_SIMD")) {
    for (int i = 0; i <= static_cast<int>(best); ++i)
      if (std::string(asked) == names[i]) return static_cast<SimdLevel>(i);
  }
  return best;
}

std::atomic<int>& current() {
  static std::atomic<int> level{static_cast<int>(initial())};
  return level;
}

}  // namespace

SimdLevel simd_level() { return static_cast<SimdLevel>(current().load(std::memory_order_relaxed)); }
const char* simd_level_name() { return names[static_cast<int>(simd_level())]; }

std::vector<std::string> simd_levels() {
  return std::vector<std::string>(names, names + static_cast<int>(highest()) + 1);
}

void set_simd_level(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(highest()); ++i) {
    if (name == names[i]) {
      current().store(i, std::memory_order_relaxed);
      return;
    }
  }
  throw std::invalid_argument("name: '" + name + "' is not a SIMD level this CPU can run");
}

}  // namespace mk
