// D^2 and its derivative along one direction for |t|^r with r != 1, in time linear in the number of sorted points.
#pragma once

#include "dispatch.hpp"
#include "mckean/power_sum.hpp"

namespace mk {

// A rule of as many terms as there is room for, of which a scan takes those that its smallest gap needs. Every fourth
// exponent is a power of two times as large: the scan then doubles instead of calling an exponential function. Relative
// errors of the kernel: 2e-6 for float; for double 1e-13, from r = 1.2 on growing to 5e-9 near 2. Room ends
// at gaps of 2e-12 of the range (double): below, the kernel is smooth.
constexpr int power_scan_unit = 4;
struct PowerScanRule {
  PowerRule rule;
  double r;
  int doublings;        // exponent[k + power_scan_unit] = 2^doublings exponent[k]
  double tied, linear;  // the parts of the nodes after number k, over coefficient[k] and coefficient[k] exponent[k]
};
template <class T>
static inline PowerScanRule power_scan_rule(double r) {
  constexpr int doublings = sizeof(T) == 4 ? 5 : 2;
  const double h = doublings * 0.69314718055994530942 / power_scan_unit;
  PowerScanRule out{power_rule(r, h, 1e-300), r, doublings, 1.0 / std::expm1(r * h), 0.0};
  if (r > 1.0) {
    out.tied = -out.tied;
    out.linear = 1.0 / std::expm1((r - 1.0) * h);
  }
  return out;
}

struct PowerScanArgs {
  const PowerScanRule* rule;
  int64_t n;
  const double* z;    // (n,), ascending, finite and so their range
  const double* s;    // (n,), of sum 0
  double* force;      // (n,): derivative of D^2 in z_i; null: not wanted
  double* workspace;  // (power_scan_workspace(n),)
  void (*poll)();     // called now and then
};
constexpr int64_t power_scan_workspace(int64_t n) { return n + 8; }

struct PowerScanTable {
  // D^2 = -sum_ij s_i s_j |z_i - z_j|^r. Equal z exert no force on one another.
  double (*scan)(const PowerScanArgs& args);
};
MK_FAMILY_TABLE(PowerScanTable, power_scan_table)

}  // namespace mk
