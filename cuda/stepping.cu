// CUDA executor of the fused stepper. Without noise it is bound by memory: every input is read once, every output written
// once. With noise, Philox and Box-Muller come on top.
#include "mckean/stepping.hpp"

#include "launch.cuh"

namespace mk {
namespace cuda {
namespace {

// A thread handles `per` elements that lie `lanes` apart, so that the threads of a warp touch whole memory sectors whatever
// the alignment of the arrays. With noise they are the elements of one Philox block (random.hpp), which runs once for all.
// J: at least the number of outputs. All outputs are computed before any is stored: an output may be one of the inputs.
template <class T, int J, bool draws, bool by_row>
__global__ void combine_kernel(const __grid_constant__ CombineArgs<T> a, int64_t units) {
  constexpr int lanes = draws ? stream_lanes : 32, per = per_block<T>;
  int64_t n = a.rows * a.cols;
  for (int64_t t = first_item(); t < units; t += item_stride()) {
    int64_t at = t / lanes * (lanes * per) + t % lanes;
    int64_t row[per];
    T sum[J][per];
#pragma unroll
    for (int i = 0; i < per; ++i) {
      row[i] = by_row && at + i * lanes < n ? row_of(at + i * lanes, a.cols) : 0;
#pragma unroll
      for (int j = 0; j < J; ++j) sum[j][i] = T(0);
    }
    for (int k = 0; k < a.n_arrays; ++k) {
      T x[per];
#pragma unroll
      for (int i = 0; i < per; ++i) x[i] = at + i * lanes < n ? a.arrays[k][at + i * lanes] : T(0);
#pragma unroll
      for (int j = 0; j < J; ++j) {
        if (j >= a.n_outputs) continue;
        int jk = j * max_combine_arrays + k;
        const T* per_row = by_row ? a.row_coefficients[jk] : nullptr;
        T c = a.coefficients[jk];
#pragma unroll
        for (int i = 0; i < per; ++i) {
          T term = (per_row ? per_row[row[i]] : c) * x[i];
          sum[j][i] = k == 0 ? term : sum[j][i] + term;
        }
      }
    }
    if (draws) {
      Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(t), static_cast<uint32_t>(t >> 32), a.key,
                                                 a.counter, Tag::normal);
      BlockOf<T> z = StreamNumbers<T, T>::normals(r);
#pragma unroll
      for (int j = 0; j < J; ++j) {
        if (j >= a.n_outputs) continue;
        const T* per_row = by_row ? a.row_noise[j] : nullptr;
        T c = a.noise[j];
#pragma unroll
        for (int i = 0; i < per; ++i) sum[j][i] = sum[j][i] + (per_row ? per_row[row[i]] : c) * z.x[i];
      }
    }
#pragma unroll
    for (int j = 0; j < J; ++j) {
      if (j >= a.n_outputs) continue;
#pragma unroll
      for (int i = 0; i < per; ++i)
        if (at + i * lanes < n) a.outs[j][at + i * lanes] = sum[j][i];
    }
  }
}

template <class T, int J, bool draws>
void run_combine(const CombineArgs<T>& a, bool by_row, Queue queue) {
  constexpr int64_t lanes = draws ? stream_lanes : 32, per = per_block<T>;
  int64_t units = ((a.rows * a.cols - 1) / (lanes * per) + 1) * lanes;
  launch("combine", by_row ? combine_kernel<T, J, draws, true> : combine_kernel<T, J, draws, false>, units, queue, a,
         units);
}

template <class T, int J>
void run_combine(const CombineArgs<T>& a, bool by_row, Queue queue) {
  if (a.draws)
    run_combine<T, J, true>(a, by_row, queue);
  else
    run_combine<T, J, false>(a, by_row, queue);
}

template <class T>
void run_combine(const CombineArgs<T>& a, Queue queue) {
  static_assert(sizeof(CombineArgs<T>) + sizeof(int64_t) <= max_argument_bytes, "does not fit into kernel arguments");
  if (a.rows == 0 || a.cols == 0) return;
  OnDevice device(a.outs[0]);
  bool by_row = false;
  for (int j = 0; j < a.n_outputs; ++j) {
    by_row = by_row || a.row_noise[j];
    for (int k = 0; k < a.n_arrays; ++k) by_row = by_row || a.row_coefficients[j * max_combine_arrays + k];
  }
  if (a.n_outputs == 1)
    run_combine<T, 1>(a, by_row, queue);
  else if (a.n_outputs == 2)
    run_combine<T, 2>(a, by_row, queue);
  else if (a.n_outputs <= 4)
    run_combine<T, 4>(a, by_row, queue);
  else
    run_combine<T, max_combine_outputs>(a, by_row, queue);
}

template <class T>
__global__ void metropolis_kernel(const __grid_constant__ MetropolisArgs<T> a) {
  for (int64_t row = first_item(); row < a.rows; row += item_stride()) metropolis_row(a, row);
}

template <class T>
void run_metropolis(const MetropolisArgs<T>& a, Queue queue) {
  if (a.rows == 0) return;
  OnDevice device(a.accepted);
  launch("metropolis", metropolis_kernel<T>, a.rows, queue, a);
}

}  // namespace

template <>
void combine<float>(const CombineArgs<float>& args, Queue queue) {
  run_combine(args, queue);
}
template <>
void combine<double>(const CombineArgs<double>& args, Queue queue) {
  run_combine(args, queue);
}
template <>
void metropolis<float>(const MetropolisArgs<float>& args, Queue queue) {
  run_metropolis(args, queue);
}
template <>
void metropolis<double>(const MetropolisArgs<double>& args, Queue queue) {
  run_metropolis(args, queue);
}

}  // namespace cuda
}  // namespace mk
