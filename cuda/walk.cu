// CUDA executor of self-repellent walks: a thread per walker, the bits of the CPU. Bound by the latency of its reads, which
// are as random as the walk is. Walkers that share a measure take three kernels a step: move, count, deposit.
#include "mckean/walk.hpp"

#include <vector>

#include "launch.cuh"

namespace mk {
namespace cuda {
namespace {

constexpr int64_t kept_bytes = int64_t{1} << 30;    // more would hardly be faster than computing
constexpr int64_t launch_steps = int64_t{1} << 14;  // so that no kernel runs for long

template <class T>
__global__ void take_kernel(const T* from, T* to, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_stride()) to[i] = from[i];
}

__global__ void mass_kernel(const double* from, double* to, int64_t n, double shrink, double floor) {
  for (int64_t i = first_item(); i < n; i += item_stride()) to[i] = walk_shrunk(from[i], shrink, floor);
}

__global__ void weights_kernel(const double* mass, const double* inverse, int64_t nodes, int64_t n, double scale,
                               double alpha, double* weights) {
  for (int64_t i = first_item(); i < n; i += item_stride())
    weights[i] = walk_weight(mass[i], inverse[i % nodes], scale, alpha);
}

__global__ void zero_kernel(unsigned* counts, int64_t n) {
  for (int64_t i = first_item(); i < n; i += item_stride()) counts[i] = 0;
}

// weights, gradients: of all walkers, or null. deposit, rate: on the device.
template <class T>
__global__ void own_kernel(const __grid_constant__ WalkArgs<T> a, int64_t first, int64_t last, double scale,
                           const double* deposit, const double* rate, double* weights, T* gradients) {
  const int64_t m = a.graph.nodes;
  for (int64_t i = first_item(); i < a.walkers; i += item_stride()) {
    double *mass = a.mass + i * m, *kept = weights ? weights + i * m : nullptr;
    T* gradient = gradients ? gradients + i * a.loss.dim : nullptr;
    for (int64_t t = first; t < last; ++t) {
      int64_t j = walk_step<T>(a, scale, mass, kept, i, t, a.loss.dim ? rate[t] : 0.0, gradient);
      mass[j] += deposit[t];
      if (kept) kept[j] = walk_weight(mass[j], a.graph.inverse[j], scale, a.alpha);
    }
  }
}

template <class T>
__global__ void move_kernel(const __grid_constant__ WalkArgs<T> a, int64_t t, double scale, const double* rate,
                            const double* weights, T* gradients) {
  for (int64_t i = first_item(); i < a.walkers; i += item_stride())
    walk_step<T>(a, scale, a.mass, weights, i, t, a.loss.dim ? rate[t] : 0.0,
                 gradients ? gradients + i * a.loss.dim : nullptr);
}

// Whole numbers: the order of adding does not matter. Run on the host, threads take turns.
template <class T>
__global__ void count_kernel(const T* x, int64_t walkers, unsigned* counts) {
  for (int64_t i = first_item(); i < walkers; i += item_stride()) {
#if defined(__CUDACC__)
    atomicAdd(counts + static_cast<int64_t>(x[i]), 1u);
#else
    ++counts[static_cast<int64_t>(x[i])];
#endif
  }
}

// Of the walkers at a node one finds the count, and deposits for all.
template <class T>
__global__ void deposit_kernel(const __grid_constant__ WalkArgs<T> a, int64_t t, double scale, const double* deposit,
                               double* weights, unsigned* counts) {
  for (int64_t i = first_item(); i < a.walkers; i += item_stride()) {
    const int64_t j = static_cast<int64_t>(a.x[i]);
#if defined(__CUDACC__)
    const unsigned count = atomicExch(counts + j, 0u);
#else
    const unsigned count = counts[j];
    counts[j] = 0;
#endif
    if (count == 0) continue;
    a.mass[j] += deposit[t] * static_cast<double>(count);
    if (weights) weights[j] = walk_weight(a.mass[j], a.graph.inverse[j], scale, a.alpha);
  }
}

template <class T>
void run(const WalkArgs<T>& a, Queue queue) {
  if (a.walkers == 0) return;
  OnDevice device(a.x);
  const int64_t m = a.graph.nodes, masses = (a.shared ? 1 : a.walkers) * m;
  if (a.x != a.x_in) launch("walk_take", take_kernel<T>, a.walkers, queue, a.x_in, a.x, a.walkers);
  if (a.loss.theta != a.loss.theta_in)
    launch("walk_take", take_kernel<T>, a.walkers * a.loss.dim, queue, a.loss.theta_in, a.loss.theta,
           a.walkers * a.loss.dim);
  launch("walk_mass", mass_kernel, masses, queue, a.mass_in, a.mass, masses, a.shrink, a.floor);
  if (a.steps == 0) return;
  std::vector<double> tables(a.deposit, a.deposit + a.steps);
  if (a.loss.dim) tables.insert(tables.end(), a.loss.rate, a.loss.rate + a.steps);
  Upload uploaded(tables, queue);
  const double *deposit = uploaded.data(), *rate = deposit + a.steps;
  // Keeping weights changes no bit, so what is worth keeping may be judged by what is known here.
  const bool keep = a.steps * (a.shared ? a.walkers : 1) >= m && masses <= kept_bytes / 8;
  Scratch<double> weights(keep ? masses : 1, queue);
  Scratch<T> gradients(a.loss.dim ? a.walkers * a.loss.dim : 1, queue);
  Scratch<unsigned> counts(a.shared ? m : 1, queue);
  double* kept = keep ? weights.data() : nullptr;
  T* gradient = a.loss.dim ? gradients.data() : nullptr;
  if (a.shared) launch("walk_zero", zero_kernel, m, queue, counts.data(), m);
  for (int64_t first = 0; first < a.steps;) {
    const int64_t last = walk_segment(a, first);
    const double scale = a.scale[first];
    if (keep)
      launch("walk_weights", weights_kernel, masses, queue, static_cast<const double*>(a.mass), a.graph.inverse, m,
             masses, scale, a.alpha, kept);
    if (a.shared) {
      for (int64_t t = first; t < last; ++t) {
        launch("walk_move", move_kernel<T>, a.walkers, queue, a, t, scale, rate, static_cast<const double*>(kept),
               gradient);
        launch("walk_count", count_kernel<T>, a.walkers, queue, static_cast<const T*>(a.x), a.walkers, counts.data());
        launch("walk_deposit", deposit_kernel<T>, a.walkers, queue, a, t, scale, deposit, kept, counts.data());
      }
    } else {
      for (int64_t t = first; t < last; t += launch_steps)
        launch("walk", own_kernel<T>, a.walkers, queue, a, t, t + launch_steps < last ? t + launch_steps : last, scale,
               deposit, rate, kept, gradient);
    }
    first = last;
  }
}

}  // namespace

template <>
void walk<float>(const WalkArgs<float>& args, Queue queue) {
  run(args, queue);
}
template <>
void walk<double>(const WalkArgs<double>& args, Queue queue) {
  run(args, queue);
}

}  // namespace cuda
}  // namespace mk
