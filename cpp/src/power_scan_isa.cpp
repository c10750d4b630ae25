// The scan for |t|^r, one instruction set: exponents in lanes, a few gaps at a time. See mckean/power_sum.hpp for what is
// summed. What takes the time is psi = 1 - e^-u of every exponent and gap; from psi(2u) = psi(u) (2 - psi(u)), which keeps
// all digits, registers of exponents follow from the first one by doubling: 6 operations instead of about 70.
#include "power_scan_isa.hpp"

#include "simd.hpp"
#include "tile_simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

using V = VecD;
constexpr int N = Ops<V>::N;
constexpr int unit = N < power_scan_unit ? power_scan_unit : N;  // exponents from one doubling to the next
constexpr int regs = unit / N;
constexpr int64_t poll_points = 1 << 16;  // a multiple of gaps
constexpr int gaps = 4;                   // side by side: doublings wait for one another
static_assert(unit % N == 0 && max_power_terms % unit == 0, "units are whole");

struct Terms {
  int units;
  double weight[max_power_terms];  // coefficient * exponent
  double first[unit];              // exponents
};

// psi, phi = u - psi and u of one register of exponents for a few gaps.
template <bool below>
struct Steps {
  V psi[gaps], phi[gaps], u[gaps];

  // u < 1e-4
  MK_HD void start(V exponent, const double* gap) {
    for (int g = 0; g < gaps; ++g) {
      u[g] = exponent * gap[g];
      V tail = horner(u[g], 1.0 / 2, -1.0 / 6, 1.0 / 24);
      phi[g] = u[g] * u[g] * tail;
      psi[g] = u[g] - phi[g];
    }
  }
  MK_HD void doubled() {
    for (int g = 0; g < gaps; ++g) {
      V square = psi[g] * psi[g];
      psi[g] = psi[g] + psi[g] - square;
      if (below) continue;
      phi[g] = phi[g] + phi[g] + square;
      u[g] = u[g] + u[g];
    }
  }
};

// Carries `sum`, over the points on one side, across a few gaps; weight: of the point before each gap, total: of all points
// up to it. side[g]: what the derivative wants of the sums before gap g. value: sum of squares over the gaps.
template <bool below, bool force, bool value>
MK_HD void carry(const Terms& terms, int doublings, const double* gap, const double* weight, const double* total,
                 double* __restrict sums, double* __restrict squares, double* side) {
  Steps<below> steps[regs];
  V strength[gaps];
  for (int g = 0; g < gaps; ++g) strength[g] = V{};
  for (int b = 0; b < terms.units; ++b) {
    for (int x = 0; x < regs; ++x) {
      const int k = b * unit + x * N;
      if (b == 0)
        steps[x].start(load<V>(terms.first + k), gap);
      else
        for (int d = 0; d < doublings * unit / power_scan_unit; ++d) steps[x].doubled();
      V sum = load<V>(sums + k), w = load<V>(terms.weight + k);
      V square = value ? load<V>(squares + k) : V{};
      for (int g = 0; g < gaps; ++g) {
        const V psi = steps[x].psi[g], phi = steps[x].phi[g], u = steps[x].u[g];
        if (force) strength[g] = strength[g] + w * sum;
        if (below) {
          sum = sum + weight[g];
          if (value) square = square + (sum * sum) * (psi * (2.0 - psi));
          sum = sum - psi * sum;
        } else {
          V left = total[g] - sum;
          if (value) {  // int_0^u (sum + left psi)^2, and int psi^2 = phi - psi^2 / 2
            V chi = phi - (psi * 0.5) * psi;
            square = square + (sum * (sum * u + (left + left) * phi) + (left * left) * chi);
          }
          sum = sum + psi * left;
        }
      }
      store<V>(sums + k, sum);
      if (value) store<V>(squares + k, square);
    }
  }
  if (force)
    for (int g = 0; g < gaps; ++g) side[g] = fold<V>(strength[g]);
}

template <bool below, bool force>
double scan(const PowerScanArgs& a) {
  const PowerRule& rule = a.rule->rule;
  const int64_t n = a.n;
  const double* __restrict z = a.z;
  const double* __restrict s = a.s;
  double* __restrict t = a.workspace;  // the gaps, in units of the range; then sums over the points on the right
  const double range = z[n - 1] - z[0];
  if (!(range > 0)) {
    if (force)
      for (int64_t i = 0; i < n; ++i) a.force[i] = 0;
    return 0;
  }
  // The parts that are no exponentials.
  double linear = 0, moment = 0, tied = 0, together = 0, total = 0, nearest = 1;
  for (int64_t i = 0; i < n; ++i) {
    const double step = i + 1 < n ? z[i + 1] - z[i] : 0;
    t[i] = step / range;
    total += s[i];
    together += s[i];
    linear += t[i] * total * total;
    moment -= t[i] * total;
    if (step > 0 || i + 1 == n) {
      tied += together * together;
      together = 0;
    }
    if (t[i] > 0 && t[i] < nearest) nearest = t[i];
  }

  Terms terms;
  for (int k = 0; k < unit; ++k) terms.first[k] = rule.exponent[k];
  for (int k = 0; k < max_power_terms; ++k) terms.weight[k] = rule.coefficient[k] * rule.exponent[k];
  int top = unit - 1;
  while (top + unit < max_power_terms && rule.exponent[top] * nearest < 30.0) top += unit;
  terms.units = (top + 1) / unit;
  const double of_tied = a.rule->tied * rule.coefficient[top];
  const double of_linear = below ? rule.linear : a.rule->linear * terms.weight[top];

  double sums[max_power_terms] = {}, squares[max_power_terms] = {};
  double gap[gaps], weight[gaps], sofar[gaps], side[gaps];
  total = 0;
  for (int64_t first = 0; first < n; first += gaps) {
    const int count = static_cast<int>(n - first < gaps ? n - first : gaps);
    for (int g = 0; g < gaps; ++g) {
      gap[g] = g < count ? t[first + g] : 0;
      weight[g] = g < count ? s[first + g] : 0;
      sofar[g] = total += weight[g];
    }
    if (first % poll_points == 0) a.poll();
    carry<below, force, true>(terms, a.rule->doublings, gap, weight, sofar, sums, squares, side);
    if (force)
      for (int g = 0; g < count; ++g) a.force[first + g] = side[g];
  }
  double value = 0;
  for (int k = 0; k <= top; ++k) {
    double square = below ? squares[k] + sums[k] * sums[k] : 2 * squares[k] + sums[k] * sums[k];
    value += rule.coefficient[k] * square;
  }
  value += 2 * of_linear * linear + 2 * rule.quadratic * moment * moment + of_tied * tied;
  const double scale = __builtin_pow(range, a.rule->r);
  if (!force) return scale * value;

  for (int k = 0; k < max_power_terms; ++k) sums[k] = 0;
  total = 0;
  for (int64_t last = n; last > 0; last -= gaps) {  // points last - 1, last - 2, ... and the gaps before them
    for (int g = 0; g < gaps; ++g) {
      const int64_t i = last - 1 - g;
      gap[g] = i > 0 ? t[i - 1] : 0;
      weight[g] = i >= 0 ? s[i] : 0;
      sofar[g] = total += weight[g];
    }
    if ((n - last) % poll_points == 0) a.poll();
    carry<below, true, false>(terms, a.rule->doublings, gap, weight, sofar, sums, squares, side);
    for (int g = 0; g < gaps && last - 1 - g >= 0; ++g) t[last - 1 - g] = side[g];
  }
  const double factor = -2 * (scale / range);
  total = 0;
  for (int64_t i = 0, end; i < n; i = end) {
    double here = 0;
    for (end = i; end < n && z[end] == z[i]; ++end) here += s[end];
    const double pull = (a.force[i] - t[end - 1]) + of_linear * (2 * total + here) - 2 * rule.quadratic * moment;
    for (int64_t q = i; q < end; ++q) a.force[q] = factor * s[q] * pull;
    total += here;
  }
  return scale * value;
}

double power_scan(const PowerScanArgs& a) {
  if (a.rule->rule.below) return a.force ? scan<true, true>(a) : scan<true, false>(a);
  return a.force ? scan<false, true>(a) : scan<false, false>(a);
}

}  // namespace

extern const PowerScanTable power_scan_table;
const PowerScanTable power_scan_table = {power_scan};

}  // namespace MK_ISA
}  // namespace mk
