// Loops of the sliced distances, one instruction set.
#include "sliced_isa.hpp"

#include "mckean/math.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int width = Ops<Vec<T>>::N;
template <class T>
constexpr int lanes = 2 * width<T>;
#if defined(__AVX512F__)
constexpr int group = 12;
#else
constexpr int group = 6;  // times two registers of sums, two of points, one of a direction: all 16
#endif

// ---- products -------------------------------------------------------------------------------------------------------

template <class T>
void pack(const T* const* rows, int valid, int64_t dim, const T* centre, T* panel) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  int64_t whole = valid == L ? dim / N * N : 0;
  for (int64_t k = 0; k < whole; k += N) {
    V c = load<V>(centre + k);
    for (int half = 0; half < 2; ++half) {
      V square[N];
      for (int l = 0; l < N; ++l) square[l] = load<V>(rows[half * N + l] + k) - c;
      transpose<V>(square);
      for (int l = 0; l < N; ++l) store<V>(panel + (k + l) * L + half * N, square[l]);
    }
  }
  for (int l = 0; l < valid; ++l)
    for (int64_t k = whole; k < dim; ++k) panel[k * L + l] = rows[l][k] - centre[k];
  for (int l = valid; l < L; ++l)
    for (int64_t k = whole; k < dim; ++k) panel[k * L + l] = T(0);
}

template <class T>
void unpack(const T* panel, int valid, int64_t dim, T scale, T* rows) {
  using V = Vec<T>;
  constexpr int N = width<T>, L = lanes<T>;
  int64_t whole = valid == L ? dim / N * N : 0;
  for (int64_t k = 0; k < whole; k += N)
    for (int half = 0; half < 2; ++half) {
      V square[N];
      for (int l = 0; l < N; ++l) square[l] = load<V>(panel + (k + l) * L + half * N) * scale;
      transpose<V>(square);
      for (int l = 0; l < N; ++l) store<V>(rows + (half * N + l) * dim + k, square[l]);
    }
  for (int l = 0; l < valid; ++l)
    for (int64_t k = whole; k < dim; ++k) rows[l * dim + k] = scale * panel[k * L + l];
}

template <class T>
void gather(const T* from, int64_t stride, int64_t count, T* tile) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  for (int64_t p = 0; p < count; ++p) {
    store<V>(tile + p * 2 * N, load<V>(from + p * stride));
    store<V>(tile + p * 2 * N + N, load<V>(from + p * stride + N));
  }
}

// Bound by the multiply-add ports: 2 loads, R broadcasts and 2 R products for each k.
template <class T, int R>
MK_HD void product_rows(const T* from, int64_t from_stride, int64_t count, const T* factors, bool first, T* to,
                        int64_t to_stride) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  V sum[R][2];
  for (int r = 0; r < R; ++r) {
    sum[r][0] = first ? V{} : load<V>(to + r * to_stride);
    sum[r][1] = first ? V{} : load<V>(to + r * to_stride + N);
  }
  for (int64_t k = 0; k < count; ++k) {
    V p0 = load<V>(from + k * from_stride), p1 = load<V>(from + k * from_stride + N);
    for (int r = 0; r < R; ++r) {
      V c = Ops<V>::constant(factors[k * group + r]);
      sum[r][0] = sum[r][0] + c * p0;
      sum[r][1] = sum[r][1] + c * p1;
    }
  }
  for (int r = 0; r < R; ++r) {
    store<V>(to + r * to_stride, sum[r][0]);
    store<V>(to + r * to_stride + N, sum[r][1]);
  }
}

template <class T>
void product(const T* from, int64_t from_stride, int64_t count, const T* factors, int rows, bool first, T* to,
             int64_t to_stride) {
  switch (rows) {
#define MK_CASE(R) \
  case R: return product_rows<T, R>(from, from_stride, count, factors, first, to, to_stride);
    MK_CASE(1)
    MK_CASE(2)
    MK_CASE(3)
    MK_CASE(4)
    MK_CASE(5)
    MK_CASE(6)
#if defined(__AVX512F__)
    MK_CASE(7) MK_CASE(8) MK_CASE(9) MK_CASE(10) MK_CASE(11) MK_CASE(12)
#endif
#undef MK_CASE
  }
}

// ---- sorting --------------------------------------------------------------------------------------------------------

MK_HD float float_of(uint32_t bits) { return Ops<float>::from_bits(bits); }

// The value of a record: in it for float32, where it came from for float64.
MK_HD float value_of(const float*, uint64_t record) { return float_of(static_cast<uint32_t>(record >> 32)); }
MK_HD double value_of(const double* z, uint64_t record) { return z[static_cast<uint32_t>(record)]; }

// Unsigned integers in the order of the numbers; both zeros become one.
MK_HD uint32_t ordered(float x) {
  uint32_t u = Ops<float>::bits(x + 0.0f);
  return u ^ ((u >> 31) ? 0xffffffffu : 0x80000000u);
}
MK_HD uint64_t ordered(double x) {
  uint64_t u = Ops<double>::bits(x + 0.0);
  return u ^ ((u >> 63) ? ~uint64_t{0} : uint64_t{1} << 63);
}
MK_HD uint32_t bits_of_ordered(uint32_t key) { return key ^ ((key >> 31) ? 0x80000000u : 0xffffffffu); }

MK_HD void to_offsets(uint32_t* counts, int64_t size) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < size; ++i) {
    uint32_t c = counts[i];
    counts[i] = sum;
    sum += c;
  }
}

// One stable pass by `bits` bits of the record from `shift` on.
MK_HD void pass(const uint64_t* from, uint64_t* to, int64_t n, int shift, int bits, uint32_t* counts) {
  const uint32_t mask = (1u << bits) - 1;
  for (uint32_t i = 0; i <= mask; ++i) counts[i] = 0;
  for (int64_t i = 0; i < n; ++i) ++counts[static_cast<uint32_t>(from[i] >> shift) & mask];
  to_offsets(counts, mask + 1);
  for (int64_t i = 0; i < n; ++i) to[counts[static_cast<uint32_t>(from[i] >> shift) & mask]++] = from[i];
}

// By the 32 bits of the high half: three passes, the result is in b.
MK_HD void sort_high_half(uint64_t* a, uint64_t* b, int64_t n, uint32_t* counts, void (*poll)()) {
  pass(a, b, n, 32, 11, counts);
  poll();
  pass(b, a, n, 43, 11, counts);
  poll();
  pass(a, b, n, 54, 10, counts);
}

MK_HD const uint64_t* sort_keys(const float* z, int64_t n, uint32_t offset, uint64_t* a, uint64_t* b, uint32_t* counts,
                                void (*poll)()) {
  for (int64_t i = 0; i < n; ++i)
    a[i] = static_cast<uint64_t>(ordered(z[i])) << 32 | (offset + static_cast<uint32_t>(i));
  sort_high_half(a, b, n, counts, poll);
  for (int64_t i = 0; i < n; ++i)
    b[i] =
        static_cast<uint64_t>(bits_of_ordered(static_cast<uint32_t>(b[i] >> 32))) << 32 | static_cast<uint32_t>(b[i]);
  return b;
}

MK_HD const uint64_t* sort_keys(const double* z, int64_t n, uint32_t offset, uint64_t* a, uint64_t* b, uint32_t* counts,
                                void (*poll)()) {
  const double* from = z - offset;  // by index
  for (int64_t i = 0; i < n; ++i) a[i] = ordered(z[i]) << 32 | (offset + static_cast<uint32_t>(i));
  sort_high_half(a, b, n, counts, poll);
  for (int64_t i = 0; i < n; ++i) {
    uint32_t index = static_cast<uint32_t>(b[i]);
    a[i] = (ordered(from[index]) >> 32 << 32) | index;
  }
  sort_high_half(a, b, n, counts, poll);
  return b;
}

template <class T>
MK_HD bool less(const T* z, uint64_t p, uint64_t q);
template <>
MK_HD bool less<float>(const float*, uint64_t p, uint64_t q) {
  return float_of(static_cast<uint32_t>(p >> 32)) < float_of(static_cast<uint32_t>(q >> 32));
}
template <>
MK_HD bool less<double>(const double* z, uint64_t p, uint64_t q) {
  uint32_t a = static_cast<uint32_t>(p >> 32), b = static_cast<uint32_t>(q >> 32);
  return a < b || (a == b && z[static_cast<uint32_t>(p)] < z[static_cast<uint32_t>(q)]);
}

// Sorts records that are nearly in order, unless that takes too many moves; stable. z: by index.
template <class T>
MK_HD bool insertion(const T* z, uint64_t* a, int64_t n, int64_t allowed) {
  uint64_t before = a[0];
  for (int64_t i = 1; i < n; ++i) {
    uint64_t record = a[i];
    if (!less(z, record, before)) {
      before = record;
      continue;
    }
    int64_t at = i;
    do {
      a[at] = a[at - 1];
      --at;
    } while (at > 0 && less(z, record, a[at - 1]));
    a[at] = record;
    allowed -= i - at;
    if (allowed < 0) return false;
  }
  return true;
}

template <class T>
MK_HD void range_of(const T* z, int64_t n, T& low, T& high) {
  using V = Vec<T>;
  constexpr int N = width<T>;
  low = high = z[0];
  int64_t i = 0;
  if (n >= 2 * N) {
    V l0 = load<V>(z), h0 = l0, l1 = load<V>(z + N), h1 = l1;
    for (i = 2 * N; i + 2 * N <= n; i += 2 * N) {
      V p = load<V>(z + i), q = load<V>(z + i + N);
      l0 = Ops<V>::min(l0, p);
      h0 = Ops<V>::max(h0, p);
      l1 = Ops<V>::min(l1, q);
      h1 = Ops<V>::max(h1, q);
    }
    l0 = Ops<V>::min(l0, l1);
    h0 = Ops<V>::max(h0, h1);
    for (int l = 0; l < N; ++l) {
      low = l0[l] < low ? l0[l] : low;
      high = h0[l] > high ? h0[l] : high;
    }
  }
  for (; i < n; ++i) {
    low = z[i] < low ? z[i] : low;
    high = z[i] > high ? z[i] : high;
  }
}

// Where in the range a value lies, as a whole number of `bits` bits that grows with the value.
template <class T>
struct Places;
template <>
struct Places<float> {
  static constexpr int bits = 22;  // what the digits of a float hold, with two to spare
  float low, scale;
  Places(float low, float high) : low(low), scale(static_cast<float>((1u << bits) - 1) / (high - low)) {}
  MK_HD bool useful() const { return scale > 0.0f && scale < 3e38f; }
  MK_HD uint32_t of(float z) const { return static_cast<uint32_t>(static_cast<int32_t>((z - low) * scale)); }
  MK_HD uint32_t of_record(uint64_t record) const { return of(float_of(static_cast<uint32_t>(record >> 32))); }
  MK_HD uint64_t record(float z, uint32_t, uint32_t index) const {
    return static_cast<uint64_t>(Ops<float>::bits(z)) << 32 | index;
  }
};
template <>
struct Places<double> {
  static constexpr int bits = 32;
  double low, scale;
  Places(double low, double high) : low(low), scale(4294967295.0 / (high - low)) {}
  MK_HD bool useful() const { return scale > 0.0 && scale < 1e308; }
  MK_HD uint32_t of(double z) const { return static_cast<uint32_t>(static_cast<int64_t>((z - low) * scale)); }
  MK_HD uint32_t of_record(uint64_t record) const { return static_cast<uint32_t>(record >> 32); }
  MK_HD uint64_t record(double, uint32_t place, uint32_t index) const {
    return static_cast<uint64_t>(place) << 32 | index;
  }
};

constexpr int64_t moves_per_point = 8;  // more insertions than that, and sorting by all bits is faster
MK_HD int bits_of(int64_t n) { return bit_width(static_cast<uint64_t>(n)); }

constexpr int64_t many = 1 << 19;
enum class Sorted { yes, no, crowded };

// Two passes by two digits of the place, the lower one first, then insertion. The result is in b.
template <class T>
MK_HD Sorted sort_by_digits(const T* z, int64_t n, uint32_t offset, const Places<T>& places, uint64_t* a, uint64_t* b,
                            uint32_t* counts, void (*poll)()) {
  const int bits = n <= 1024 ? 7 : n <= 4096 ? 8 : n <= 16384 ? 9 : n <= 65536 ? 10 : 11;
  const uint32_t mask = (1u << bits) - 1;
  const int high_shift = Places<T>::bits - bits, low_shift = high_shift - bits;
  uint32_t *low_counts = counts, *high_counts = counts + mask + 1;
  for (uint32_t i = 0; i < 2 * (mask + 1); ++i) counts[i] = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t place = places.of(z[i]);
    ++low_counts[place >> low_shift & mask];
    ++high_counts[place >> high_shift];
  }
  to_offsets(low_counts, mask + 1);
  to_offsets(high_counts, mask + 1);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t place = places.of(z[i]);
    a[low_counts[place >> low_shift & mask]++] = places.record(z[i], place, offset + static_cast<uint32_t>(i));
  }
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t record = a[i];
    b[high_counts[places.of_record(record) >> high_shift]++] = record;
  }
  if (n >= many) poll();
  return insertion<T>(z - offset, b, n, moves_per_point * n) ? Sorted::yes : Sorted::crowded;
}

// For slices beyond the second-level cache: one pass into buckets that fit into the first one, each then sorted by the next
// digit and insertion. The result is in a; of b one bucket is used. No: one bucket is too large.
template <class T>
MK_HD Sorted sort_by_buckets(const T* z, int64_t n, uint32_t offset, const Places<T>& places, uint64_t* a, uint64_t* b,
                             uint32_t* counts, void (*poll)()) {
  constexpr int64_t most = 1 << 15;  // in one bucket
  const int wanted = bits_of(n) - 10, bits = wanted < 11 ? wanted : 11, shift = Places<T>::bits - bits;
  const uint32_t buckets = 1u << bits;
  for (uint32_t i = 0; i < buckets; ++i) counts[i] = 0;
  for (int64_t i = 0; i < n; ++i) ++counts[places.of(z[i]) >> shift];
  for (uint32_t i = 0; i < buckets; ++i)
    if (counts[i] > most) return Sorted::no;
  to_offsets(counts, buckets);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t place = places.of(z[i]);
    a[counts[place >> shift]++] = places.record(z[i], place, offset + static_cast<uint32_t>(i));
  }
  const T* by_index = z - offset;
  uint32_t* digits = counts + buckets;
  int64_t first = 0, allowed = moves_per_point * n;
  for (uint32_t bucket = 0; bucket < buckets; ++bucket) {
    const int64_t last = counts[bucket], size = last - first;
    if (size > 1) {
      const int next = bits_of(size) < 11 ? bits_of(size) : 11, digit_shift = shift - next;
      const uint32_t mask = (1u << next) - 1;
      for (uint32_t i = 0; i <= mask; ++i) digits[i] = 0;
      for (int64_t i = first; i < last; ++i) ++digits[places.of_record(a[i]) >> digit_shift & mask];
      to_offsets(digits, mask + 1);
      for (int64_t i = first; i < last; ++i) b[digits[places.of_record(a[i]) >> digit_shift & mask]++] = a[i];
      for (int64_t i = 0; i < size; ++i) {
        const uint64_t record = b[i];
        int64_t at = first + i;
        for (; at > first && less(by_index, record, a[at - 1]); --at) a[at] = a[at - 1];
        a[at] = record;
        allowed -= first + i - at;
        if (allowed < 0) return Sorted::crowded;
      }
    }
    first = last;
    if (bucket % 64 == 63) poll();
  }
  return Sorted::yes;
}

// Ascending order by the place in the range. Heavy tails crowd most points into few places: then by all bits.
template <class T>
const uint64_t* sort(const T* z, int64_t n, uint32_t offset, uint64_t* a, uint64_t* b, uint32_t* counts,
                     void (*poll)()) {
  constexpr int64_t few = 48;
  T low, high;
  range_of(z, n, low, high);
  const Places<T> places(low, high);
  if (n <= few || !places.useful()) {  // few, all equal, or a range beyond the type
    for (int64_t i = 0; i < n; ++i) a[i] = places.record(z[i], 0, offset + static_cast<uint32_t>(i));
    if (insertion<T>(z - offset, a, n, n <= few ? few * few : moves_per_point * n)) return a;
  } else {
    Sorted done = Sorted::no;
    if (n >= many) done = sort_by_buckets(z, n, offset, places, a, b, counts, poll);
    if (done == Sorted::yes) return a;
    if (done == Sorted::no) done = sort_by_digits(z, n, offset, places, a, b, counts, poll);
    if (done == Sorted::yes) return b;
  }
  return sort_keys(z, n, offset, a, b, counts, poll);
}

// The record of point `index`, whose value is in its place.
MK_HD uint64_t record_of(const float* z, uint32_t index) {
  return static_cast<uint64_t>(Ops<float>::bits(z[index])) << 32 | index;
}
MK_HD uint64_t record_of(const double*, uint32_t index) { return index; }

template <class T>
void index(const T* z, int64_t first, int64_t last, uint64_t* out) {
  for (int64_t i = first; i < last; ++i) out[i - first] = record_of(z, static_cast<uint32_t>(i));
}

// From both ends at once, each with a chain of its own.
template <class T>
void merge(const T* z, const uint64_t* x, int64_t n, int64_t m, uint64_t* out) {
  const int64_t half = (n + m) / 2;
  const T* y = z + n;
  int64_t i = 0, j = 0, p = n - 1, q = m - 1, to = n + m - 1;
  for (int64_t k = 0; k < half; ++k) {
    const bool first = j >= m || (i < n && !(y[j] < value_of(z, x[i])));
    out[k] = first ? x[i] : record_of(z, static_cast<uint32_t>(n + j));
    i += first;
    j += !first;
    const bool last = q < 0 || (p >= 0 && y[q] < value_of(z, x[p]));
    out[to--] = last ? x[p] : record_of(z, static_cast<uint32_t>(n + q));
    p -= last;
    q -= !last;
  }
  if ((n + m) % 2) out[half] = i <= p ? x[i] : record_of(z, static_cast<uint32_t>(n + j));
}

// ---- scans ----------------------------------------------------------------------------------------------------------

MK_HD double weight_of(const SliceWeights& w, uint32_t index) {
  const bool is_x = index < w.n;
  const double* from = is_x ? w.x : w.y;
  if (!from) return is_x ? -w.x_each : w.y_each;
  return is_x ? -from[index] : from[index - w.n];
}

// The difference S of the two distribution functions, in units; whole numbers are exact. A point's derivative is
// 2 a (S before + S after); what this says of points of y is of no interest.
struct Counted {
  int64_t n, y_step, both, at = 0;
  double unit, factor;
  bool small;  // sums of two counts stay below 2^51
  explicit MK_HD Counted(const SliceWeights& w)
      : n(w.n),
        y_step(w.y_step),
        both(w.x_step + w.y_step),
        unit(1.0 / (static_cast<double>(w.n) * static_cast<double>(w.x_step))),
        factor(2.0 * w.x_each * unit),
        small(1.0 / unit < 1e15) {}
  // Branch-free, as the sides come in random order.
  MK_HD void pass(uint32_t index) { at += y_step - (-static_cast<int64_t>(index < n) & both); }
  MK_HD double square() const {
    const double s = static_cast<double>(at);
    return s * s;
  }
  MK_HD double derivative(uint32_t, int64_t before) const { return factor * static_cast<double>(before + at); }
  MK_HD double finish(double sum) const { return 2.0 * unit * unit * sum; }
};
struct Weighted {
  static constexpr bool small = false;
  const SliceWeights& w;
  double at = 0.0;
  explicit MK_HD Weighted(const SliceWeights& weights) : w(weights) {}
  MK_HD void pass(uint32_t index) { at += weight_of(w, index); }
  MK_HD double square() const { return at * at; }
  MK_HD double derivative(uint32_t index, double before) const { return -2.0 * weight_of(w, index) * (before + at); }
  MK_HD double finish(double sum) const { return 2.0 * sum; }
};

MK_HD VecD values_of(const float*, const uint64_t* records) {
  VecU64 v;
  __builtin_memcpy(&v, records, sizeof v);
  return floats_of_high_halves(v);
}
MK_HD VecD values_of(const double* z, const uint64_t* records) {
  VecD v;
  for (int l = 0; l < width<double>; ++l) v[l] = z[static_cast<uint32_t>(records[l])];
  return v;
}

// A register of points, no two of which share a place with each other or the next: true, and the sums move on.
template <class T, bool gradient>
MK_HD bool scan_register(const uint64_t* records, const Counted& s, T* z, VecI64& so_far, VecD& last, VecD& sums) {
  constexpr int N = width<double>;
  const VecD next = values_of(z, records + 1), here = slide<1>(last, next);
  if (Ops<VecD>::any(next == here)) return false;
  VecU64 index;
  __builtin_memcpy(&index, records, sizeof index);
  const VecI64 of_x = (VecI64)(index & 0xffffffffull) < s.n;
  const VecI64 step = s.y_step - (of_x & s.both), at = so_far + prefix_sums(step);
  const VecD after = small_to_double(at);
  if (gradient) {
    const VecD slope = s.factor * small_to_double(at + at - step);
    for (int l = 0; l < N; ++l) z[static_cast<uint32_t>(records[l])] = static_cast<T>(slope[l]);
  }
  sums += (next - here) * (after * after);
  so_far = spread_last(at);
  last = next;
  return true;
}
template <class T, bool gradient>
MK_HD bool scan_register(const uint64_t*, const Weighted&, T*, VecI64&, VecD&, VecD&) {
  return false;
}

// Points in order. Those that share a place share the mid value of their derivatives: S before them plus S after them. For
// float64 the derivatives overwrite values that have been read.
template <class T, class Difference, bool gradient>
MK_HD double scan_points(const uint64_t* records, const SliceWeights& w, T* z) {
  const int64_t total = w.n + w.m;
  constexpr int N = width<double>;
  constexpr int64_t ahead = 32;
  const bool far = total > 1 << 15 && (gradient || sizeof(T) == 8);  // a slice beyond the second-level cache
  Difference s(w);
  VecD sums{}, last{};
  double here = static_cast<double>(value_of(z, records[0])), sum = 0.0;
  for (int64_t k = 0; k < total;) {
    if (s.small) {
      last[N - 1] = here;
      VecI64 so_far = static_cast<int64_t>(s.at) - VecI64{};
      while (k + N < total) {
        if (far && k + N + ahead < total)
          for (int l = 0; l < N; ++l) __builtin_prefetch(z + static_cast<uint32_t>(records[k + ahead + l]), gradient);
        if (!scan_register<T, gradient>(records + k, s, z, so_far, last, sums)) break;
        k += N;
      }
      here = last[N - 1];
      s.at = so_far[0];
    }
    const auto before = s.at;
    int64_t end = k;
    double next = here;
    while (end < total) {
      next = static_cast<double>(value_of(z, records[end]));
      if (!(next == here)) break;
      s.pass(static_cast<uint32_t>(records[end++]));
    }
    if (end < total) sum += (next - here) * s.square();
    here = next;
    for (; k < end; ++k) {
      const uint32_t index = static_cast<uint32_t>(records[k]);
      if (gradient) z[index] = static_cast<T>(s.derivative(index, before));
    }
  }
  for (int l = 0; l < N; ++l) sum += sums[l];
  return s.finish(sum);
}

template <class T>
double scan(const uint64_t* records, const SliceWeights& w, T* z, bool gradient) {
  if (w.counted)
    return gradient ? scan_points<T, Counted, true>(records, w, z) : scan_points<T, Counted, false>(records, w, z);
  return gradient ? scan_points<T, Weighted, true>(records, w, z) : scan_points<T, Weighted, false>(records, w, z);
}

constexpr int64_t poll_points = 1 << 16;

// |t|^p and, by `slope`, p |t|^(p - 1) sign(t)
struct Power {
  double p;
  int whole;  // p if it is 1, 2, 3 or 4, else 0
  MK_HD double operator()(double t, double& slope) const {
    const double size = t < 0 ? -t : t;
    double below;  // |t|^(p - 1)
    switch (whole) {
      case 1: below = 1.0; break;
      case 2: below = size; break;
      case 3: below = size * size; break;
      case 4: below = size * size * size; break;
      default: below = __builtin_pow(size, p - 1.0);
    }
    slope = t == 0 ? 0.0 : (t < 0 ? -p : p) * below;
    return t == 0 ? 0.0 : below * size;
  }
};

template <class T>
double transport(const uint64_t* x, const uint64_t* y, const SliceWeights& w, double p, double shrink, T* z,
                 bool gradient, void (*poll)()) {
  const int64_t n = w.n, m = w.m;
  const int small = p == 1.0 ? 1 : p == 2.0 ? 2 : p == 3.0 ? 3 : p == 4.0 ? 4 : 0;
  const Power power{p, small};
  double value = 0.0, slope;
  if (w.counted && n == m) {
    const double each = 1.0 / static_cast<double>(n);
    double sums[4] = {};
    for (int64_t k = 0; k < n; ++k) {
      double t = static_cast<double>(value_of(z, x[k])) - static_cast<double>(value_of(z, y[k]));
      sums[k & 3] += power(t, slope);
      if (gradient) z[static_cast<uint32_t>(x[k])] = static_cast<T>(slope * (each * shrink));
      if (k % poll_points == poll_points - 1) poll();
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) * each;
  }
  // Counted weights are whole numbers, exact as doubles.
  auto x_mass = [&](int64_t i) {
    return w.counted ? static_cast<double>(w.x_step) : -weight_of(w, static_cast<uint32_t>(x[i]));
  };
  auto y_mass = [&](int64_t j) {
    return w.counted ? static_cast<double>(w.y_step) : weight_of(w, static_cast<uint32_t>(y[j]));
  };
  const double unit = w.counted ? 1.0 / (static_cast<double>(n) * static_cast<double>(w.x_step)) : 1.0;
  int64_t i = 0, j = 0;
  double left = x_mass(0), right = y_mass(0), pull = 0.0, from = static_cast<double>(value_of(z, x[0]));
  for (;;) {
    // The walk ends on the indices: remainders of floating-point weights need not come to 0 together.
    if ((i + j) % poll_points == poll_points - 1) poll();
    const bool x_first = j == m - 1 || (i < n - 1 && left <= right);
    const double move = x_first ? left : right;
    value += move * power(from - static_cast<double>(value_of(z, y[j])), slope);
    pull += move * slope;
    if (x_first) {
      if (gradient) z[static_cast<uint32_t>(x[i])] = static_cast<T>(pull * (unit * shrink));
      right = right > move ? right - move : 0.0;
      if (i == n - 1) break;
      ++i;
      left = x_mass(i);
      from = static_cast<double>(value_of(z, x[i]));
      pull = 0.0;
    } else {
      left = left > move ? left - move : 0.0;
      ++j;
      right = y_mass(j);
    }
  }
  return value * unit;
}

template <class T>
void to_doubles(const uint64_t* records, const SliceWeights& w, const T* z, double* values, double* weights) {
  for (int64_t k = 0; k < w.n + w.m; ++k) {
    values[k] = static_cast<double>(value_of(z, records[k]));
    weights[k] = weight_of(w, static_cast<uint32_t>(records[k]));
  }
}

template <class T>
void scatter(const uint64_t* records, int64_t count, const double* force, T* g) {
  for (int64_t k = 0; k < count; ++k) g[static_cast<uint32_t>(records[k])] = static_cast<T>(force[k]);
}

#define MK_SLICED_LOOPS(T)                                                        \
  {lanes<T>, group,    pack<T>, unpack<T>,    gather<T>,     product<T>, sort<T>, \
   index<T>, merge<T>, scan<T>, transport<T>, to_doubles<T>, scatter<T>}

}  // namespace

extern const SlicedTable sliced_table = {MK_SLICED_LOOPS(float), MK_SLICED_LOOPS(double)};

}  // namespace MK_ISA
}  // namespace mk
