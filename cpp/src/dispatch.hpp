// Which instruction set the hot loops use. Decided once per process; MCKEAN_SIMD may lower it.
#pragma once

#include <string>
#include <vector>

#ifndef MK_HAVE_X86_LEVELS
#define MK_HAVE_X86_LEVELS 0
#endif

namespace mk {

enum class SimdLevel { baseline = 0, avx2 = 1, avx512 = 2 };

SimdLevel simd_level();
const char* simd_level_name();
std::vector<std::string> simd_levels();        // those this CPU and this build can run
void set_simd_level(const std::string& name);  // for tests; throws std::invalid_argument

// Declares the tables that the objects of each instruction set export, and family_table(), which picks one.
#if MK_HAVE_X86_LEVELS
#define MK_FAMILY_TABLE(Table, family)               \
  namespace baseline { extern const Table family; }  \
  namespace avx2 { extern const Table family; }      \
  namespace avx512 { extern const Table family; }    \
  static inline const Table& family() {              \
    switch (simd_level()) {                          \
      case SimdLevel::avx512: return avx512::family; \
      case SimdLevel::avx2: return avx2::family;     \
      default: return baseline::family;              \
    }                                                \
  }
#else
#define MK_FAMILY_TABLE(Table, family)              \
  namespace baseline { extern const Table family; } \
  static inline const Table& family() { return baseline::family; }
#endif

}  // namespace mk
