// CUDA executor of stochastic differential equations: the same sums in the same order as the CPU executor, hence its bits.
// Whole paths have a thread each, which asks its tree from the root for every step. For small systems the tree is most of
// the work; larger ones are bound by the memory of the stages, most of which stays in cache.
#include "mckean/sde.hpp"

#include <stdexcept>

#include "launch.cuh"

namespace mk {
namespace cuda {
namespace {

#ifndef MK_SDE_BYTES  // the tests on the host set it low, so that threads take several paths
#define MK_SDE_BYTES (int64_t{256} << 20)
#endif
constexpr int64_t workspace_bytes = MK_SDE_BYTES;
// Blocks are small, for paths are long and there may be few of them; this many on a multiprocessor leave a thread 168
// registers.
constexpr int path_threads = 64, path_blocks = 6;

// ---- pieces of the batch driver: bound by memory --------------------------------------------------------------------

template <class T>
__global__ void update_kernel(const __grid_constant__ SdeUpdateArgs<T> a, bool by_row) {
  const int64_t n = a.rows * a.dim;
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    const int64_t row = by_row ? row_of(i, a.dim) : 0;
    a.out[i] = sde_update_element(a, row, i - row * a.dim);
  }
}

template <class T>
void update(const SdeUpdateArgs<T>& a, Queue queue) {
  static_assert(sizeof(SdeUpdateArgs<T>) + sizeof(bool) <= max_argument_bytes, "does not fit into kernel arguments");
  if (a.rows == 0 || a.dim == 0) return;
  OnDevice device(a.out);
  const bool by_row = a.steps || a.layout != NoiseLayout::diagonal;
  launch("sde_update", update_kernel<T>, a.rows * a.dim, queue, a, by_row);
}

// A thread per row: the sum of a row has an order.
template <class T>
__global__ void error_norm_kernel(int64_t rows, int64_t dim, const T* error, const T* y0, const T* y1, double rtol,
                                  double atol, double* out) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    double sum = 0.0;
    for (int64_t at = row * dim; at < (row + 1) * dim; ++at)
      sum += scaled_square(error[at], y0[at], y1[at], rtol, atol);
    out[row] = Ops<double>::sqrt(sum / static_cast<double>(dim));
  }
}

template <class T>
void error_norm(int64_t rows, int64_t dim, const T* error, const T* y0, const T* y1, double rtol, double atol,
                double* out, Queue queue) {
  if (rows == 0) return;
  OnDevice device(out);
  launch("sde_error_norm", error_norm_kernel<T>, rows, queue, rows, dim, error, y0, y1, rtol, atol, out);
}

template <class T>
__global__ void select_kernel(int64_t rows, int64_t dim, const uint8_t* mask, const T* a, const T* b, T* out) {
  for (int64_t i = first_item(); i < rows * dim; i += item_stride()) out[i] = mask[row_of(i, dim)] ? a[i] : b[i];
}

template <class T>
void select(int64_t rows, int64_t dim, const uint8_t* mask, const T* a, const T* b, T* out, Queue queue) {
  if (rows == 0 || dim == 0) return;
  OnDevice device(out);
  launch("sde_select", select_kernel<T>, rows * dim, queue, rows, dim, mask, a, b, out);
}

// ---- whole paths ----------------------------------------------------------------------------------------------------

// A vector of one path; those of neighbouring threads lie side by side, so that a warp touches whole sectors.
template <class T>
struct Strided {
  T* at;
  int64_t step;
  MK_HD T& operator[](int64_t i) const { return at[i * step]; }
  MK_HD Strided operator+(int64_t i) const { return {at + i * step, step}; }
};

// What a thread works in, from `at` on.
template <class T>
struct PathMemory {
  using A = Strided<T>;
  int64_t values;
  A y, y1, coarse, error, scratch;
  SdeSpace<A> space;
  SdeNoise<A> noise[3];  // the step or its first half, its second half, the whole

  MK_HD PathMemory(const SdeArgs<T>& a, A at) : values(0) {
    const int64_t state = sde_state_size(a, a.dim), stages = sde_stage_count(a);
    y = take(at, state);
    y1 = take(at, state);
    coarse = take(at, a.doubling ? state : 0);
    error = take(at, a.control.kind == SdeControl::constant ? 0 : a.dim);
    scratch = take(at, a.dim);
    space.F = take(at, sde_space_size(a.dim, a.dim, static_cast<int>(stages)));
    space.G = space.F + stages * a.dim;
    space.z = space.G + stages * a.dim;
    const int64_t H = a.tree.components >= 2 ? a.noises : 0, K = a.tree.components == 3 ? a.noises : 0;
    for (int part = 0; part < (a.doubling ? 3 : 1); ++part) {
      noise[part].W = take(at, a.noises);
      noise[part].H = take(at, H);
      noise[part].K = take(at, K);
    }
  }

 private:
  MK_HD A take(A at, int64_t n) {
    A taken = at + values;
    values += n;
    return taken;
  }
};

// A kernel has its own copy of all it calls, so there is one that knows all systems and kinds of steps; what it needs
// several times is out of line.
template <class T, int M>
__device__ __attribute__((noinline)) void query_of(const SdeArgs<T>& a, double s, double t, int64_t path,
                                                   SdeNoise<Strided<T>> out, T scale) {
  const int depth = a.tree.depth;
  const QueryPlan plan =
      plan_query(leaf_units(s, a.tree.t0, a.tree.t1, depth), leaf_units(t, a.tree.t0, a.tree.t1, depth), depth);
  for (int64_t e = 0; e < a.noises; ++e) {
    const uint64_t lane = static_cast<uint64_t>(a.tree.first_lane + path * a.noises + e);
    NoCursor none;
    Piece<T, T> p = tree_query<T, M>(a.tree.seed, depth, static_cast<uint32_t>(lane), static_cast<uint32_t>(lane >> 32),
                                     plan, none);
    out.W[e] = p.W * scale;
    if (M >= 2) out.H[e] = p.H * scale;
    if (M == 3) out.K[e] = p.K * scale;
  }
}
template <class T>
__device__ void query(const SdeArgs<T>& a, double s, double t, int64_t path, const SdeNoise<Strided<T>>& out, T scale) {
  if (a.tree.components == 1)
    query_of<T, 1>(a, s, t, path, out, scale);
  else if (a.tree.components == 2)
    query_of<T, 2>(a, s, t, path, out, scale);
  else
    query_of<T, 3>(a, s, t, path, out, scale);
}

template <class T, int M>
__device__ void whole_of_halves_of(int64_t noises, T h1, T h2, const SdeNoise<Strided<T>>* noise) {
  for (int64_t e = 0; e < noises; ++e) {
    Piece<T, T> p{h1, noise[0].W[e], M >= 2 ? noise[0].H[e] : T(0), M == 3 ? noise[0].K[e] : T(0)};
    Piece<T, T> q{h2, noise[1].W[e], M >= 2 ? noise[1].H[e] : T(0), M == 3 ? noise[1].K[e] : T(0)};
    Piece<T, T> sum = chen<T, T, M>(p, q);
    noise[2].W[e] = sum.W;
    if (M >= 2) noise[2].H[e] = sum.H;
    if (M == 3) noise[2].K[e] = sum.K;
  }
}
template <class T>
__device__ void whole_of_halves(const SdeArgs<T>& a, T h1, T h2, const SdeNoise<Strided<T>>* noise) {
  if (a.tree.components == 1)
    whole_of_halves_of<T, 1>(a.noises, h1, h2, noise);
  else if (a.tree.components == 2)
    whole_of_halves_of<T, 2>(a.noises, h1, h2, noise);
  else
    whole_of_halves_of<T, 3>(a.noises, h1, h2, noise);
}

template <class T>
__device__ __attribute__((noinline)) void find_coefficients(const SdeArgs<T>& a, double h, KineticLanes<T>& c) {
  if (a.system == SdeSystem::kinetic) kinetic_coefficients<T>(a.method, a.friction, a.u, &h, c);
}

template <class T, SdeSystem system>
__device__ SdeStepper<T, Strided<T>, BuiltInSystem<T, Strided<T>, system>> stepper_of(const SdeArgs<T>& a,
                                                                                      const PathMemory<T>& m) {
  return {a, {a, m.scratch}, m.space};
}
template <class T, SdeSystem system>
__device__ __attribute__((noinline)) int start_of(const SdeArgs<T>& a, const PathMemory<T>& m, T t, Strided<T> y) {
  return stepper_of<T, system>(a, m).start(t, y);
}
template <class T>
__device__ int start(const SdeArgs<T>& a, const PathMemory<T>& m, T t, Strided<T> y) {
  switch (a.system) {
    case SdeSystem::ornstein_uhlenbeck: return start_of<T, SdeSystem::ornstein_uhlenbeck>(a, m, t, y);
    case SdeSystem::geometric: return start_of<T, SdeSystem::geometric>(a, m, t, y);
    case SdeSystem::cox_ingersoll_ross: return start_of<T, SdeSystem::cox_ingersoll_ross>(a, m, t, y);
    case SdeSystem::lorenz: return start_of<T, SdeSystem::lorenz>(a, m, t, y);
    case SdeSystem::langevin: return start_of<T, SdeSystem::langevin>(a, m, t, y);
    default: return start_of<T, SdeSystem::kinetic>(a, m, t, y);
  }
}

// A step of length h from y at t.
template <class T>
struct Attempt {
  T t, h;
  Strided<T> y, y1;
  bool wants_error;
};
template <class T, SdeSystem system>
__device__ __attribute__((noinline)) void step_of(const SdeArgs<T>& a, const PathMemory<T>& m, const Attempt<T>& s,
                                                  const SdeNoise<Strided<T>>& n, const KineticLanes<T>& c) {
  stepper_of<T, system>(a, m).step(s.t, s.h, c, s.y, n, s.y1, m.error, s.wants_error);
}
template <class T>
__device__ void take_step(const SdeArgs<T>& a, const PathMemory<T>& m, const Attempt<T>& s,
                          const SdeNoise<Strided<T>>& n, const KineticLanes<T>& c) {
  switch (a.system) {
    case SdeSystem::ornstein_uhlenbeck: return step_of<T, SdeSystem::ornstein_uhlenbeck>(a, m, s, n, c);
    case SdeSystem::geometric: return step_of<T, SdeSystem::geometric>(a, m, s, n, c);
    case SdeSystem::cox_ingersoll_ross: return step_of<T, SdeSystem::cox_ingersoll_ross>(a, m, s, n, c);
    case SdeSystem::lorenz: return step_of<T, SdeSystem::lorenz>(a, m, s, n, c);
    case SdeSystem::langevin: return step_of<T, SdeSystem::langevin>(a, m, s, n, c);
    default: return step_of<T, SdeSystem::kinetic>(a, m, s, n, c);
  }
}

// The quiet NaN the CPU has; conversions on the device give another one.
template <class T>
__device__ T missing() {
  using F = Format<T>;
  using U = typename Ops<T>::U;
  return Ops<T>::from_bits((static_cast<U>(2 * F::bias + 1) << F::mantissa) | (U(1) << (F::mantissa - 1)));
}

template <class T>
__device__ void write_state(const SdeArgs<T>& a, int64_t save, int64_t path, Strided<T> y) {
  if (save < 0) return;
  T* out = a.ys + (save * a.paths + path) * a.dim;
  for (int64_t j = 0; j < a.dim; ++j) out[j] = y[j];
}
template <class T>
__device__ void write_missing(const SdeArgs<T>& a, int64_t from, int64_t path) {
  for (int64_t k = from; k < a.n_times; ++k) {
    if (a.save_at[k] < 0) continue;
    T* out = a.ys + (a.save_at[k] * a.paths + path) * a.dim;
    for (int64_t j = 0; j < a.dim; ++j) out[j] = missing<T>();
  }
}

// Zero, or NaN where a coordinate is not finite.
template <class T>
__device__ T finite_measure(int64_t n, Strided<T> y) {
  T sum = T(0);
  for (int64_t j = 0; j < n; ++j) sum = sum + (y[j] - y[j]);
  return sum;
}

// Of the attempt from m.y to m.y1.
template <class T>
__device__ SdeVerdict judge(const SdeArgs<T>& a, const PathMemory<T>& m, SdeClock& clock, bool finite) {
  T squares = T(0), least0 = m.y[0], least1 = m.y1[0];
  if (a.control.kind == SdeControl::pid) {
    const T rtol = static_cast<T>(a.control.rtol), atol = static_cast<T>(a.control.atol);
    for (int64_t j = 0; j < a.dim; ++j) {
      T p = m.y[j], q = m.y1[j];
      p = p < T(0) ? -p : p;
      q = q < T(0) ? -q : q;
      T r = m.error[j] / (atol + rtol * larger<T>(p, q));
      if (m.error[j] == T(0)) r = T(0);  // also where the tolerance is 0
      squares = squares + r * r;
    }
  } else {
    for (int64_t j = 1; j < a.dim; ++j) {
      least0 = m.y[j] < least0 ? m.y[j] : least0;
      least1 = m.y1[j] < least1 ? m.y1[j] : least1;
    }
  }
  double scaled = Ops<double>::sqrt(static_cast<double>(squares) / static_cast<double>(a.dim));
  return sde_judge(a.control, clock, scaled, finite, static_cast<double>(least0), static_cast<double>(least1));
}

// One attempt a turn, whatever path it belongs to: the threads of a warp stay together when one of them begins another.
template <class T>
__global__ void __launch_bounds__(path_threads, path_blocks)
    integrate_kernel(const __grid_constant__ SdeArgs<T> a, T* memory, double* ends, int64_t threads) {
  const int64_t thread = first_item();
  if (thread >= threads) return;
  const PathMemory<T> m(a, {memory + thread, threads});
  const T scale = static_cast<T>(Ops<double>::sqrt(a.tree.t1 - a.tree.t0));
  const bool constant = a.control.kind == SdeControl::constant;
  const bool embedded = a.control.kind == SdeControl::pid && !a.doubling;
  const int per_step = sde_evaluations(a) * (a.doubling ? 3 : 1);
  const int64_t state = sde_state_size(a, a.dim);
  KineticLanes<T> coefficients, coefficients_half;
  kinetic_forget(coefficients);
  kinetic_forget(coefficients_half);
  SdeClock clock;
  int64_t accepted = 0, rejected = 0, evaluations = 0, clamped = 0;
  bool fresh = true;
  for (int64_t path = thread; path < a.paths;) {
    if (fresh) {
      fresh = false;
      clock = SdeClock{};
      clock.t = a.times[0];
      clock.stop = 1;
      if (!constant) {
        const double* from = a.clocks + path * 3;
        clock.h = from[0];
        clock.e1 = sde_history(from[1]);
        clock.e2 = sde_history(from[2]);
        clock.ends = ends ? ends + thread * sde_most_ends : nullptr;
      }
      for (int64_t j = 0; j < a.dim; ++j) m.y[j] = a.y0[path * a.dim + j];
      accepted = rejected = clamped = 0;
      a.failed[path] = missing<double>();
      write_state(a, a.save_at[0], path, m.y);
      evaluations = start(a, m, static_cast<T>(a.times[0]), m.y);
    }
    if (constant)
      clock.end = a.times[clock.stop];
    else
      sde_propose(a.control, a.times, clock);
    const double s = clock.t, e = clock.end;
    const T t = static_cast<T>(s), h = static_cast<T>(e - s);
    find_coefficients(a, e - s, coefficients);
    if (a.doubling) {
      const double mid = s + 0.5 * (e - s);
      const T h1 = static_cast<T>(mid - s), h2 = static_cast<T>(e - mid);
      find_coefficients(a, 0.5 * (e - s), coefficients_half);
      query(a, s, mid, path, m.noise[0], scale);
      query(a, mid, e, path, m.noise[1], scale);
      whole_of_halves(a, h1 > T(0) ? h1 : T(1), h2 > T(0) ? h2 : T(1), m.noise);
      take_step(a, m, {t, h, m.y, m.coarse, false}, m.noise[2], coefficients);
      copy_values<T>(a.dim, m.coarse, m.error);
      take_step(a, m, {t, h1, m.y, m.coarse, false}, m.noise[0], coefficients_half);
      take_step(a, m, {static_cast<T>(mid), h2, m.coarse, m.y1, false}, m.noise[1], coefficients_half);
      for (int64_t j = 0; j < a.dim; ++j) m.error[j] = m.y1[j] - m.error[j];
    } else {
      query(a, s, e, path, m.noise[0], scale);
      take_step(a, m, {t, h, m.y, m.y1, embedded}, m.noise[0], coefficients);
    }
    evaluations += per_step;
    const bool finite = finite_measure(a.dim, m.y1) == T(0);
    SdeVerdict verdict;
    if (constant) {
      verdict = finite ? SdeVerdict::accepted : SdeVerdict::not_finite;
      clock.t = e;
    } else {
      verdict = judge(a, m, clock, finite);
    }
    bool done = false;
    if (verdict == SdeVerdict::rejected) {
      ++rejected;
    } else if (verdict == SdeVerdict::not_finite || verdict == SdeVerdict::too_large) {
      if (verdict == SdeVerdict::too_large) clamped = -1;
      a.failed[path] = clock.t;
      write_missing(a, clock.stop, path);
      done = true;
    } else {
      ++accepted;
      if (verdict == SdeVerdict::clamped) ++clamped;
      copy_values<T>(state, m.y1, m.y);  // not exchanged: the warp would lie in two places
      if (clock.t == a.times[clock.stop]) {
        write_state(a, a.save_at[clock.stop], path, m.y);
        done = ++clock.stop == a.n_times;
      }
    }
    if (!done) continue;
    if (!constant) {
      double* to = a.clocks + path * 3;
      to[0] = clock.h;
      to[1] = clock.e1;
      to[2] = clock.e2;
    }
    int64_t* count = a.counts + path * 4;
    count[0] = accepted;
    count[1] = rejected;
    count[2] = evaluations;
    count[3] = clamped;
    path += threads;
    fresh = true;
  }
}

template <class T>
void integrate(const SdeArgs<T>& args, Queue queue) {
  static_assert(sizeof(SdeArgs<T>) + 3 * sizeof(int64_t) <= max_argument_bytes, "does not fit into kernel arguments");
  if (args.system == SdeSystem::callbacks)
    throw std::invalid_argument("system: compiled functions run on the CPU, expected arrays there");
  if (args.n_times < 2) throw std::invalid_argument("times: expected at least two");
  if (args.paths == 0) return;
  OnDevice device(args.ys);
  Scratch<double> times(args.n_times, queue);
  Scratch<int64_t> save_at(args.n_times, queue);
  copy_to_device(times.data(), args.times, static_cast<size_t>(args.n_times) * sizeof(double), queue);
  copy_to_device(save_at.data(), args.save_at, static_cast<size_t>(args.n_times) * sizeof(int64_t), queue);
  SdeArgs<T> a = args;
  a.times = times.data();
  a.save_at = save_at.data();

  const int64_t values = PathMemory<T>(a, {nullptr, 0}).values, n_ends = a.control.revisit ? sde_most_ends : 0;
  const int64_t each = values * static_cast<int64_t>(sizeof(T)) + n_ends * static_cast<int64_t>(sizeof(double));
  int64_t threads =
      workspace_bytes / each < max_blocks * path_threads ? workspace_bytes / each : max_blocks * path_threads;
  threads = threads < 32 ? (threads > 0 ? threads : 1) : threads / 32 * 32;
  const int64_t wanted = (a.paths + 31) / 32 * 32;
  threads = threads < wanted ? threads : wanted;
  Scratch<T> memory(threads * values, queue);
  Scratch<double> ends(threads * n_ends, queue);

  const dim3 blocks(static_cast<unsigned>((threads - 1) / path_threads + 1)), block(path_threads);
  launch_blocks("sde_integrate", integrate_kernel<T>, blocks, block, queue, a, memory.data(), ends.data(), threads);
}

}  // namespace

template <>
void sde_integrate<float>(const SdeArgs<float>& args, Queue queue) {
  integrate(args, queue);
}
template <>
void sde_integrate<double>(const SdeArgs<double>& args, Queue queue) {
  integrate(args, queue);
}
template <>
void sde_update<float>(const SdeUpdateArgs<float>& args, Queue queue) {
  update(args, queue);
}
template <>
void sde_update<double>(const SdeUpdateArgs<double>& args, Queue queue) {
  update(args, queue);
}
template <>
void sde_error_norm<float>(int64_t rows, int64_t dim, const float* error, const float* y0, const float* y1, double rtol,
                           double atol, double* out, Queue queue) {
  error_norm(rows, dim, error, y0, y1, rtol, atol, out, queue);
}
template <>
void sde_error_norm<double>(int64_t rows, int64_t dim, const double* error, const double* y0, const double* y1,
                            double rtol, double atol, double* out, Queue queue) {
  error_norm(rows, dim, error, y0, y1, rtol, atol, out, queue);
}
template <>
void sde_select<float>(int64_t rows, int64_t dim, const uint8_t* mask, const float* a, const float* b, float* out,
                       Queue queue) {
  select(rows, dim, mask, a, b, out, queue);
}
template <>
void sde_select<double>(int64_t rows, int64_t dim, const uint8_t* mask, const double* a, const double* b, double* out,
                        Queue queue) {
  select(rows, dim, mask, a, b, out, queue);
}

}  // namespace cuda
}  // namespace mk
