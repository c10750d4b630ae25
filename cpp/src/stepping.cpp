// CPU executor of the fused stepper. Bound by memory: every input is read once, every output written once.
#include "mckean/stepping.hpp"

#include "pool.hpp"
#include "stepping_isa.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t grain = 1 << 15;
// Above this many bytes of traffic the outputs will not be in cache when they are read next: write around it.
constexpr int64_t stream_bytes = int64_t{32} << 20;

template <class T, class Loop>
void run(const CombineArgs<T>& args, Loop loop) {
  int64_t n = args.rows * args.cols;
  bool stream = n * static_cast<int64_t>(sizeof(T)) * (args.n_outputs + args.n_arrays) > stream_bytes;
  for (int j = 0; j < args.n_outputs; ++j)
    for (int k = 0; k < args.n_arrays; ++k) stream = stream && args.outs[j] != args.arrays[k];
  parallel_for(n, grain, [&](int64_t a, int64_t b) { loop(args, a, b, stream); });
}

template <class T>
void run_metropolis(const MetropolisArgs<T>& args) {
  int64_t rows_per_chunk = 1 + (1 << 14) / (1 + args.cols);
  parallel_for(args.rows, rows_per_chunk, [&](int64_t a, int64_t b) {
    for (int64_t row = a; row < b; ++row) metropolis_row(args, row);
  });
}

}  // namespace

template <>
void combine<float>(const CombineArgs<float>& args, Queue) {
  run(args, stepping_table().combine_f32);
}
template <>
void combine<double>(const CombineArgs<double>& args, Queue) {
  run(args, stepping_table().combine_f64);
}
template <>
void metropolis<float>(const MetropolisArgs<float>& args, Queue) {
  run_metropolis(args);
}
template <>
void metropolis<double>(const MetropolisArgs<double>& args, Queue) {
  run_metropolis(args);
}

}  // namespace cpu
}  // namespace mk
