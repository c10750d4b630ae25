// The fused stepper, one instruction set.
#include "stepping_isa.hpp"

#include "stream_simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

// Elements handled at a time. All outputs of a block are computed before any is stored, so an output may be an input.
constexpr int block = 512;

template <class T>
void store_block(T* out, const T* values, int n, bool stream_stores) {
  using V = typename VectorOf<T>::type;
  constexpr int lanes = Ops<V>::N;
  int i = 0;
#if defined(__SSE2__)
  if (stream_stores) {
    while (i < n && (reinterpret_cast<uintptr_t>(out + i) % sizeof(V)) != 0) {
      out[i] = values[i];
      ++i;
    }
    for (; i + lanes <= n; i += lanes) {
      V v = load<V>(values + i);
#if defined(__AVX512F__)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), (__m512i)v);
#elif defined(__AVX2__)
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i), (__m256i)v);
#else
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), (__m128i)v);
#endif
    }
  }
#else
  (void)stream_stores;
#endif
  for (; i < n; ++i) out[i] = values[i];
}

// sums[i] (+)= c * a[i] for K arrays in one go: one load of each input, one store of the sum.
template <class T, int K>
MK_HD void add_products(T* sums, const T* const* arrays, const T* c, int64_t first, int n, bool start) {
  using V = typename VectorOf<T>::type;
  constexpr int lanes = Ops<V>::N;
  int i = 0;
  for (; i + lanes <= n; i += lanes) {
    V sum = start ? Ops<V>::constant(c[0]) * load<V>(arrays[0] + first + i)
                  : load<V>(sums + i) + Ops<V>::constant(c[0]) * load<V>(arrays[0] + first + i);
#pragma GCC unroll 4
    for (int k = 1; k < K; ++k) sum = sum + Ops<V>::constant(c[k]) * load<V>(arrays[k] + first + i);
    store<V>(sums + i, sum);
  }
  for (; i < n; ++i) {
    T sum = start ? c[0] * arrays[0][first + i] : sums[i] + c[0] * arrays[0][first + i];
    for (int k = 1; k < K; ++k) sum = sum + c[k] * arrays[k][first + i];
    sums[i] = sum;
  }
}

template <class T>
void combine_scalar_coefficients(const CombineArgs<T>& a, int j, T* sums, int64_t first, int n) {
  const T* c = a.coefficients + j * max_combine_arrays;
  int k = 0;
  for (; k + 4 <= a.n_arrays; k += 4) add_products<T, 4>(sums, a.arrays + k, c + k, first, n, k == 0);
  switch (a.n_arrays - k) {
    case 3: add_products<T, 3>(sums, a.arrays + k, c + k, first, n, k == 0); break;
    case 2: add_products<T, 2>(sums, a.arrays + k, c + k, first, n, k == 0); break;
    case 1: add_products<T, 1>(sums, a.arrays + k, c + k, first, n, k == 0); break;
    default: break;
  }
}

// factors[i] = the row's value for each element of the block; writes up to a register beyond n.
template <class T>
void spread_rows(T* factors, const T* per_row, int64_t cols, int64_t first, int n) {
  using V = typename VectorOf<T>::type;
  constexpr int lanes = Ops<V>::N;
  if (cols == 1) {
    __builtin_memcpy(factors, per_row + first, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  int64_t row = first / cols, left = cols - first % cols;
  for (int i = 0; i < n; ++row, left = cols) {
    int m = static_cast<int>(left < n - i ? left : n - i);
    V value = Ops<V>::constant(per_row[row]);
    for (int k = 0; k < m; k += lanes) store<V>(factors + i + k, value);
    i += m;
  }
}

template <class T>
void combine(const CombineArgs<T>& a, int64_t first, int64_t last, bool stream_stores) {
  alignas(64) T sums[max_combine_outputs][block];
  alignas(64) T normals[block];
  alignas(64) T factors[block + Ops<typename VectorOf<T>::type>::N];
  for (int64_t at = first; at < last; at += block) {
    int n = static_cast<int>(last - at < block ? last - at : block);
    if (a.draws) stream_range_into<T, Tag::normal>(normals, static_cast<uint64_t>(at), n, a.key, a.counter);
    for (int j = 0; j < a.n_outputs; ++j) {
      bool by_row = false;
      for (int k = 0; k < a.n_arrays; ++k) by_row |= a.row_coefficients[j * max_combine_arrays + k] != nullptr;
      if (!by_row) {
        combine_scalar_coefficients(a, j, sums[j], at, n);
      } else {
        for (int k = 0; k < a.n_arrays; ++k) {
          int jk = j * max_combine_arrays + k;
          if (a.row_coefficients[jk]) {
            spread_rows(factors, a.row_coefficients[jk], a.cols, at, n);
          } else {
            for (int i = 0; i < n; ++i) factors[i] = a.coefficients[jk];
          }
          const T* x = a.arrays[k] + at;
          if (k == 0)
            for (int i = 0; i < n; ++i) sums[j][i] = factors[i] * x[i];
          else
            for (int i = 0; i < n; ++i) sums[j][i] = sums[j][i] + factors[i] * x[i];
        }
      }
      if (a.n_arrays == 0)
        for (int i = 0; i < n; ++i) sums[j][i] = T(0);
      if (a.draws) {
        if (a.row_noise[j]) {
          spread_rows(factors, a.row_noise[j], a.cols, at, n);
          for (int i = 0; i < n; ++i) sums[j][i] = sums[j][i] + factors[i] * normals[i];
        } else {
          T scale = a.noise[j];
          for (int i = 0; i < n; ++i) sums[j][i] = sums[j][i] + scale * normals[i];
        }
      }
    }
    for (int j = 0; j < a.n_outputs; ++j) store_block(a.outs[j] + at, sums[j], n, stream_stores);
  }
#if defined(__SSE2__)
  if (stream_stores) _mm_sfence();
#endif
}

}  // namespace

extern const SteppingTable stepping_table;
const SteppingTable stepping_table = {combine<float>, combine<double>};

}  // namespace MK_ISA
}  // namespace mk
