// Registers as values: the Ops of math.hpp for the vector types of the instruction set this file is compiled for. The only
// file that names instructions.
#pragma once

#include "mckean/philox.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mk {

#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

typedef float VecF __attribute__((vector_size(register_bytes)));
typedef double VecD __attribute__((vector_size(register_bytes)));
typedef uint32_t VecU32 __attribute__((vector_size(register_bytes)));
typedef uint64_t VecU64 __attribute__((vector_size(register_bytes)));
typedef int32_t VecI32 __attribute__((vector_size(register_bytes)));
typedef int64_t VecI64 __attribute__((vector_size(register_bytes)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = VecF;
};
template <>
struct VectorOf<double> {
  using type = VecD;
};

template <>
struct Ops<VecF> {
  using T = float;
  using U = VecU32;
  using W = VecU32;
  static constexpr int N = register_bytes / 4;
  static MK_HD VecF constant(float x) { return x - VecF{}; }
  static MK_HD float lane(VecF x, int l) { return x[l]; }
  static MK_HD void set_lane(VecF& x, int l, float value) { x[l] = value; }
  static MK_HD VecF sqrt(VecF x) {
#if defined(__AVX512F__)
    return (VecF)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (VecF)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (VecF)_mm_sqrt_ps((__m128)x);
#else
    for (int l = 0; l < N; ++l) x[l] = __builtin_sqrtf(x[l]);
    return x;
#endif
  }
  static MK_HD VecF min(VecF a, VecF b) {
#if defined(__AVX512F__)
    return (VecF)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (VecF)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (VecF)_mm_min_ps((__m128)a, (__m128)b);
#else
    return a < b ? a : b;
#endif
  }
  static MK_HD VecF max(VecF a, VecF b) {
#if defined(__AVX512F__)
    return (VecF)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (VecF)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (VecF)_mm_max_ps((__m128)a, (__m128)b);
#else
    return a > b ? a : b;
#endif
  }
  // The estimate of the instruction and one Newton step: a third of the time of square root and division.
  static MK_HD VecF rsqrt(VecF x) {
#if defined(__AVX512F__)
    VecF r = (VecF)_mm512_rsqrt14_ps((__m512)x);
#elif defined(__AVX2__)
    VecF r = (VecF)_mm256_rsqrt_ps((__m256)x);
#elif defined(__SSE2__)
    VecF r = (VecF)_mm_rsqrt_ps((__m128)x);
#else
    VecF r;
    for (int l = 0; l < N; ++l) r[l] = 1.0f / __builtin_sqrtf(x[l]);
#endif
    VecF half = x * constant(-0.5f);
    return r * (constant(1.5f) + half * r * r);
  }
  static MK_HD U bits(VecF x) { return (U)x; }
  static MK_HD VecF from_bits(U u) { return (VecF)u; }
  static MK_HD VecF from_small(U u) { return __builtin_convertvector((VecI32)u, VecF); }
  static MK_HD VecF from_centred(U u) { return __builtin_convertvector((VecI32)u - 0x20000000, VecF); }
  static MK_HD U widen(W w) { return w; }
  static MK_HD bool any(VecI32 m) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)m) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)m) != 0;
#else
    int32_t r = 0;
    for (int l = 0; l < N; ++l) r |= m[l];
    return r != 0;
#endif
  }
};

template <>
struct Ops<VecD> {
  using T = double;
  using U = VecU64;
  using W = VecU64;  // a 32-bit word in the low half of each lane; the high half may hold anything
  static constexpr int N = register_bytes / 8;
  static MK_HD VecD constant(double x) { return x - VecD{}; }
  static MK_HD double lane(VecD x, int l) { return x[l]; }
  static MK_HD void set_lane(VecD& x, int l, double value) { x[l] = value; }
  static MK_HD VecD sqrt(VecD x) {
#if defined(__AVX512F__)
    return (VecD)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
    return (VecD)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (VecD)_mm_sqrt_pd((__m128d)x);
#else
    for (int l = 0; l < N; ++l) x[l] = __builtin_sqrt(x[l]);
    return x;
#endif
  }
  static MK_HD VecD min(VecD a, VecD b) {
#if defined(__AVX512F__)
    return (VecD)_mm512_min_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
    return (VecD)_mm256_min_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
    return (VecD)_mm_min_pd((__m128d)a, (__m128d)b);
#else
    return a < b ? a : b;
#endif
  }
  static MK_HD VecD max(VecD a, VecD b) {
#if defined(__AVX512F__)
    return (VecD)_mm512_max_pd((__m512d)a, (__m512d)b);
#elif defined(__AVX2__)
    return (VecD)_mm256_max_pd((__m256d)a, (__m256d)b);
#elif defined(__SSE2__)
    return (VecD)_mm_max_pd((__m128d)a, (__m128d)b);
#else
    return a > b ? a : b;
#endif
  }
  // An estimate from the bits (error 3.5e-2), two Newton steps and one of third order: half the time of square root and
  // division.
  static MK_HD VecD rsqrt(VecD x) {
    VecD half = x * constant(-0.5);
    VecD r = from_bits(0x5fe6eb50c7b537a9ull - (bits(x) >> 1));
    r = r * (constant(1.5) + half * r * r);
    r = r * (constant(1.5) + half * r * r);
    VecD h = constant(1.0) - x * r * r;
    return r + r * h * (constant(0.5) + h * constant(0.375));
  }
  static MK_HD U bits(VecD x) { return (U)x; }
  static MK_HD VecD from_bits(U u) { return (VecD)u; }
  // 2^52 + u has u in its mantissa: exact, and no 64-bit conversion instruction is needed.
  static MK_HD VecD from_small(U u) { return (VecD)(u | 0x4330000000000000ull) - 4503599627370496.0; }
  static MK_HD VecD from_centred(U u) { return (VecD)(u | 0x4330000000000000ull) - (4503599627370496.0 + 536870912.0); }
  static MK_HD VecD from_word(W w) { return from_small(w & 0xffffffffull); }
  static MK_HD U widen(W w) { return w; }
  static MK_HD bool any(VecI64 m) { return Ops<VecF>::any((VecI32)m); }
};

#if defined(__AVX512F__)
#define MK_MUL_EPU32(a, b) ((VecU64)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
#define MK_MUL_EPU32(a, b) ((VecU64)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#elif defined(__SSE2__)
#define MK_MUL_EPU32(a, b) ((VecU64)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
#else
#define MK_MUL_EPU32(a, b) (((a) & 0xffffffffull) * ((b) & 0xffffffffull))
#endif

template <>
struct WordOps<VecU64> {
  static MK_HD void multiply(VecU64 a, uint32_t m, VecU64& hi, VecU64& lo) {
    VecU64 p = MK_MUL_EPU32(a, constant(m));
    hi = p >> 32;
    lo = p;
  }
  static MK_HD VecU64 constant(uint32_t x) { return static_cast<uint64_t>(x) - VecU64{}; }
};

template <>
struct WordOps<VecU32> {
  // Even and odd lanes apart, then merged.
  static MK_HD void multiply(VecU32 a, uint32_t m, VecU32& hi, VecU32& lo) {
    VecU64 factor = static_cast<uint64_t>(m) - VecU64{};
    VecU64 even = MK_MUL_EPU32((VecU64)a, factor);
    VecU64 odd = MK_MUL_EPU32((VecU64)a >> 32, factor);
#if defined(__AVX512F__)
    hi = (VecU32)_mm512_mask_blend_epi32(0xaaaa, (__m512i)(even >> 32), (__m512i)odd);
    lo = (VecU32)_mm512_mask_blend_epi32(0xaaaa, (__m512i)even, (__m512i)(odd << 32));
#elif defined(__AVX2__)
    hi = (VecU32)_mm256_blend_epi32((__m256i)(even >> 32), (__m256i)odd, 0xaa);
    lo = (VecU32)_mm256_blend_epi32((__m256i)even, (__m256i)(odd << 32), 0xaa);
#else
    const VecU64 low = 0xffffffffull - VecU64{};
    hi = (VecU32)((even >> 32) | (odd & ~low));
    lo = (VecU32)((even & low) | (odd << 32));
#endif
  }
  static MK_HD VecU32 constant(uint32_t x) { return x - VecU32{}; }
};

// Philox on a register of words keeps even and odd lanes apart through all rounds, as multiply wants them, and merges once
// at the end: 16 operations a round instead of 18, and shorter chains.
struct SplitU32 {
  VecU64 even, odd;  // high halves: anything
};
MK_HD SplitU32 operator^(SplitU32 a, SplitU32 b) { return {a.even ^ b.even, a.odd ^ b.odd}; }

template <>
struct WordOps<SplitU32> {
  static MK_HD void multiply(SplitU32 a, uint32_t m, SplitU32& hi, SplitU32& lo) {
    WordOps<VecU64>::multiply(a.even, m, hi.even, lo.even);
    WordOps<VecU64>::multiply(a.odd, m, hi.odd, lo.odd);
  }
  static MK_HD SplitU32 constant(uint32_t x) {
    VecU64 c = WordOps<VecU64>::constant(x);
    return {c, c};
  }
  static MK_HD SplitU32 split(VecU32 a) { return {(VecU64)a, (VecU64)a >> 32}; }
  static MK_HD VecU32 join(SplitU32 a) {
#if defined(__AVX512F__)
    return (VecU32)_mm512_mask_blend_epi32(0xaaaa, (__m512i)a.even, (__m512i)(a.odd << 32));
#elif defined(__AVX2__)
    return (VecU32)_mm256_blend_epi32((__m256i)a.even, (__m256i)(a.odd << 32), 0xaa);
#else
    return (VecU32)((a.even & (0xffffffffull - VecU64{})) | (a.odd << 32));
#endif
  }
};

template <>
MK_HD Words<VecU32> philox<VecU32>(VecU32 c0, VecU32 c1, VecU32 c2, VecU32 c3, uint32_t k0, uint32_t k1) {
  using O = WordOps<SplitU32>;
  Words<SplitU32> r = philox<SplitU32>(O::split(c0), O::split(c1), O::split(c2), O::split(c3), k0, k1);
  return {{O::join(r.w[0]), O::join(r.w[1]), O::join(r.w[2]), O::join(r.w[3])}};
}

#undef MK_MUL_EPU32

// Unaligned loads and stores, whole or the first n lanes.
template <class V>
MK_HD V load(const typename Ops<V>::T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
MK_HD void store(typename Ops<V>::T* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class V>
MK_HD V load_first(const typename Ops<V>::T* p, int n) {
  if (n == Ops<V>::N) return load<V>(p);
  V v{};
  for (int l = 0; l < n; ++l) v[l] = p[l];
  return v;
}
template <class V>
MK_HD void store_first(typename Ops<V>::T* p, V v, int n) {
  if (n == Ops<V>::N) return store<V>(p, v);
  for (int l = 0; l < n; ++l) p[l] = v[l];
}

// The square of N registers of N lanes, transposed.
template <class V>
MK_HD void transpose(V* rows) {
  constexpr int N = Ops<V>::N;
#if defined(__GNUC__) && !defined(__clang__)
  using Mask = decltype(typename Ops<V>::U{} > typename Ops<V>::U{});  // signed integers of the lanes' width
  // Blocks of B x B change places, for B = N/2, ..., 1.
#pragma GCC unroll 8
  for (int B = N / 2; B >= 1; B /= 2) {
    Mask even{}, odd{};
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) {
      even[l] = l / B % 2 == 0 ? l : N + l - B;
      odd[l] = l / B % 2 == 0 ? l + B : N + l;
    }
#pragma GCC unroll 16
    for (int pair = 0; pair < N / 2; ++pair) {
      const int i = pair / B * 2 * B + pair % B;
      V a = rows[i], b = rows[i + B];
      rows[i] = __builtin_shuffle(a, b, even);
      rows[i + B] = __builtin_shuffle(a, b, odd);
    }
  }
#else
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < i; ++j) {
      typename Ops<V>::T t = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = t;
    }
#endif
}

// {before's last lane, after's lanes but the last}; `By` lanes of that.
template <int By, class V>
MK_HD V slide(V before, V after) {
  constexpr int N = sizeof(V) / sizeof(before[0]);
#if defined(__GNUC__) && !defined(__clang__)
  decltype(V{} > V{}) lanes{};
  for (int l = 0; l < N; ++l) lanes[l] = N - By + l;
  return __builtin_shuffle(before, after, lanes);
#else
  V out{};
  for (int l = 0; l < N; ++l) out[l] = l < By ? before[N - By + l] : after[l - By];
  return out;
#endif
}

// The last lane in all of them.
template <class V>
MK_HD V spread_last(V v) {
  constexpr int N = sizeof(V) / sizeof(v[0]);
#if defined(__GNUC__) && !defined(__clang__)
  decltype(V{} > V{}) lanes{};
  for (int l = 0; l < N; ++l) lanes[l] = N - 1;
  return __builtin_shuffle(v, lanes);
#else
  V out{};
  for (int l = 0; l < N; ++l) out[l] = v[N - 1];
  return out;
#endif
}

// Sums of the lanes up to each one.
MK_HD VecI64 prefix_sums(VecI64 v) {
  const VecI64 zero{};
  v += slide<1>(zero, v);
#if defined(__AVX2__)
  v += slide<2>(zero, v);
#endif
#if defined(__AVX512F__)
  v += slide<4>(zero, v);
#endif
  return v;
}

// Whole numbers below 2^51 in magnitude, exactly.
MK_HD VecD small_to_double(VecI64 v) { return (VecD)(v + 0x4338000000000000) - 6755399441055744.0; }

// The high halves of the lanes as float32 numbers.
MK_HD VecD floats_of_high_halves(VecU64 v) {
  typedef uint32_t Half __attribute__((vector_size(register_bytes / 2)));
  typedef float HalfF __attribute__((vector_size(register_bytes / 2)));
  return __builtin_convertvector((HalfF) __builtin_convertvector(v >> 32, Half), VecD);
}

// Words {first, first + 1, ...} as low and high halves. Lane counts and group sizes keep runs inside one 2^32 page.
template <class W>
MK_HD W iota_words(uint32_t first) {
  W w;
  constexpr int n = sizeof(W) / sizeof(w[0]);
  for (int l = 0; l < n; ++l) w[l] = first + static_cast<uint32_t>(l);
  return w;
}

}  // namespace mk
