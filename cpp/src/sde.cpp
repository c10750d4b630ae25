// CPU executor of stochastic differential equations: whole paths, and the fused pieces that Python's batch driver is made of,
// which are bound by memory.
#include "mckean/sde.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pool.hpp"
#include "sde_isa.hpp"

namespace mk {
namespace cpu {
namespace {

int64_t rows_per_chunk(int64_t dim) { return 1 + (int64_t{1} << 13) / (1 + dim); }

// The usual case, one coefficient for a run of elements, in loops that vectorise; the same sums as sde_update_element.
template <class T>
void update_rows(const SdeUpdateArgs<T>& a, int64_t first, int64_t last) {
  if (a.layout != NoiseLayout::diagonal || a.dim == 0) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t c = 0; c < a.dim; ++c) a.out[row * a.dim + c] = sde_update_element(a, row, c);
    return;
  }
  // Columns are few as a rule, so rows that share a step are one run.
  for (int64_t row = first; row < last;) {
    int64_t end = a.steps ? row + 1 : last;
    double step = a.steps ? a.steps[row] : a.step;
    int64_t from = row * a.dim, n = (end - row) * a.dim;
    constexpr int64_t block = 512;
    T sum[block];
    for (int64_t at = from; at < from + n; at += block) {
      int64_t m = from + n - at < block ? from + n - at : block;
      if (a.base)
        for (int64_t i = 0; i < m; ++i) sum[i] = a.base[at + i];
      else
        for (int64_t i = 0; i < m; ++i) sum[i] = T(0);
      for (int k = 0; k < a.n_drifts; ++k) {
        T c = static_cast<T>(a.a[k] * step);
        const T* f = a.drifts[k] + at;
        for (int64_t i = 0; i < m; ++i) sum[i] = sum[i] + c * f[i];
      }
      for (int k = 0; k < a.n_diffusions; ++k) {
        T p = static_cast<T>(a.p[k]), q = static_cast<T>(a.q[k]);
        const T *g = a.diffusions[k] + at, *W = a.W + at, *H = a.H ? a.H + at : nullptr;
        if (H)
          for (int64_t i = 0; i < m; ++i) sum[i] = sum[i] + g[i] * (p * W[i] + q * H[i]);
        else
          for (int64_t i = 0; i < m; ++i) sum[i] = sum[i] + g[i] * (p * W[i]);
      }
      for (int64_t i = 0; i < m; ++i) a.out[at + i] = sum[i];
    }
    row = end;
  }
}

template <class T>
void update(const SdeUpdateArgs<T>& a) {
  parallel_for(a.rows, rows_per_chunk(a.dim), [&](int64_t first, int64_t last) { update_rows(a, first, last); });
}

template <class T>
void error_norm(int64_t rows, int64_t dim, const T* error, const T* y0, const T* y1, double rtol, double atol,
                double* out) {
  parallel_for(rows, rows_per_chunk(dim), [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      double sum = 0.0;
      for (int64_t at = row * dim; at < (row + 1) * dim; ++at)
        sum += scaled_square(error[at], y0[at], y1[at], rtol, atol);
      out[row] = Ops<double>::sqrt(sum / static_cast<double>(dim));
    }
  });
}

template <class T>
void select(int64_t rows, int64_t dim, const uint8_t* mask, const T* a, const T* b, T* out) {
  parallel_for(rows, rows_per_chunk(dim), [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = mask[row] ? a : b;
      for (int64_t at = row * dim; at < (row + 1) * dim; ++at) out[at] = from[at];
    }
  });
}

template <class T>
const SdeLoops<T>& loops();
template <>
const SdeLoops<float>& loops<float>() {
  return sde_table().f32;
}
template <>
const SdeLoops<double>& loops<double>() {
  return sde_table().f64;
}

// With clocks of their own, lanes take new paths as they finish: the longer a chunk, the fewer lanes wait for the last path.
// How paths are grouped changes no result.
template <class T>
void integrate(const SdeArgs<T>& a) {
  const SdeLoops<T>& l = loops<T>();
  const int threads = num_threads();
  int64_t grain = l.lanes;
  if (a.control.kind != SdeControl::constant) {
    const int64_t chunks = threads > 1 ? 4 * threads : 1;
    grain = std::max<int64_t>(1, a.paths / chunks / l.lanes) * l.lanes;
    if (threads == 1) grain = std::max<int64_t>(grain, a.paths);
  }
  const size_t bytes = static_cast<size_t>(l.scratch(a)) + 64;
  parallel_for(a.paths, grain, [&](int64_t first, int64_t last) {
    std::vector<char> memory(bytes);
    char* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    l.run(a, first, last, aligned, poll_inside_chunk);
  });
}

}  // namespace

template <>
void sde_integrate<float>(const SdeArgs<float>& args, Queue) {
  integrate(args);
}
template <>
void sde_integrate<double>(const SdeArgs<double>& args, Queue) {
  integrate(args);
}
template <>
void sde_update<float>(const SdeUpdateArgs<float>& args, Queue) {
  update(args);
}
template <>
void sde_update<double>(const SdeUpdateArgs<double>& args, Queue) {
  update(args);
}
template <>
void sde_error_norm<float>(int64_t rows, int64_t dim, const float* error, const float* y0, const float* y1, double rtol,
                           double atol, double* out, Queue) {
  error_norm(rows, dim, error, y0, y1, rtol, atol, out);
}
template <>
void sde_error_norm<double>(int64_t rows, int64_t dim, const double* error, const double* y0, const double* y1,
                            double rtol, double atol, double* out, Queue) {
  error_norm(rows, dim, error, y0, y1, rtol, atol, out);
}
template <>
void sde_select<float>(int64_t rows, int64_t dim, const uint8_t* mask, const float* a, const float* b, float* out,
                       Queue) {
  select(rows, dim, mask, a, b, out);
}
template <>
void sde_select<double>(int64_t rows, int64_t dim, const uint8_t* mask, const double* a, const double* b, double* out,
                        Queue) {
  select(rows, dim, mask, a, b, out);
}

}  // namespace cpu
}  // namespace mk
