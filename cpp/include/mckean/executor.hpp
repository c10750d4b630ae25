// What an executor offers: the same functions in mk::cpu (cpp/src) and mk::cuda (cuda/), so the Python bindings are written
// once. MK_EXECUTOR names the namespace and is set by the build. Pointers are to memory of that executor's device unless a
// comment says host; sizes and indices are checked by the callers above. `queue` is the CUDA stream to work on (no
// synchronisation happens); the CPU executor ignores it and returns when the work is done.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mckean/kernels.hpp"

#ifndef MK_EXECUTOR
#error "MK_EXECUTOR must be cpu or cuda"
#endif

namespace mk {

using Queue = void*;

// ---- fused stepping -------------------------------------------------------------------------------------------------
constexpr int max_combine_arrays = 16, max_combine_outputs = 8;

// outs[j] (rows, cols) = sum_k c[j][k] arrays[k] + noise[j] N(0, 1), row-major; one normal per element, shared by all j.
template <class T>
struct CombineArgs {
  int n_outputs, n_arrays;
  int64_t rows, cols;
  T* outs[max_combine_outputs];
  const T* arrays[max_combine_arrays];
  T coefficients[max_combine_outputs * max_combine_arrays];
  const T* row_coefficients[max_combine_outputs * max_combine_arrays];  // (rows,) each; null: the scalar counts
  T noise[max_combine_outputs];
  const T* row_noise[max_combine_outputs];
  bool draws;  // false: no noise anywhere
  uint64_t key, counter;
};

// The accept step of a Metropolis-adjusted Langevin chain; x, proposal, gradients and outputs: (rows, cols), rest (rows,).
template <class T>
struct MetropolisArgs {
  int64_t rows, cols;
  const T *x, *x_proposed, *gradient, *gradient_proposed, *log_density, *log_density_proposed;
  T step;
  uint64_t key, counter;
  T *x_new, *gradient_new, *log_density_new;
  uint8_t* accepted;
};

// ---- Brownian trees -------------------------------------------------------------------------------------------------
// components: 1 = W, 2 = W and H, 3 = W, H and K. lanes = paths * dim of the (sub-)tree; the first one is number first_lane.
struct TreeArgs {
  uint64_t seed;
  int components, depth;
  double t0, t1;
  int64_t first_lane, paths, dim;
};

struct FractionalArgs {
  TreeArgs tree;         // components = 3
  int terms;             // Ornstein-Uhlenbeck processes
  const double* leaf;    // host, (terms, 4): decay, W, H, K weights of one whole leaf
  const double* weight;  // host, (terms,)
  const double* past;    // host, (terms, terms) lower Cholesky factor of the stationary covariance, or null
};

// ---- targets --------------------------------------------------------------------------------------------------------
// Where a target is evaluated: x (n, dim) row-major; density (n,) and gradient (n, dim) of log p, null where not wanted.
template <class T>
struct TargetPoints {
  int64_t n, dim;
  const T* x;
  T* density;
  T* gradient;
};

// log p(x) = log sum_k exp(constants[k] - |A_k (x - means[k])|^2 / 2), A_k^T A_k the precision of component k.
template <class T>
struct MixtureArgs {
  TargetPoints<T> at;
  int64_t components;
  bool full;
  const T* means;           // (components, dim)
  const T* whitening;       // A: full (components, dim, dim), lower triangular; else the diagonals (components, dim)
  const double* constants;  // (components,): log weight and log normaliser
};

// log p(x) = constant - (precision x0^2 + (dim - 1) x0 + e^{-x0} sum_{i > 0} xi^2) / 2
template <class T>
struct FunnelArgs {
  TargetPoints<T> at;
  T precision, constant;
};

// log p(x) = constant - (precision x0^2 + (x1 + curvature x0^2 - offset)^2 + sum_{i > 1} xi^2) / 2
template <class T>
struct BananaArgs {
  TargetPoints<T> at;
  T precision, curvature, offset, constant;
};

// log p(x) = constant - sum_i softplus(-rows_i . x) - sum_j precision_j x_j^2 / 2; rows hold (2 y_i - 1) X_i.
template <class T>
struct LogisticArgs {
  TargetPoints<T> at;
  int64_t rows;
  const T* signed_rows;  // (rows, dim)
  const T* precision;    // (dim,)
  double constant;
};

// ---- interaction sums -----------------------------------------------------------------------------------------------
constexpr int max_kernel_terms = 8;

// Independent problems of n points x against m points y, row-major, and a kernel that is a sum of terms.
template <class T>
struct PairArgs {
  int64_t batch, n, m, dim;
  const T *x, *y;  // (batch, n, dim), (batch, m, dim)
  int n_terms;
  KernelTerm terms[max_kernel_terms];
  const double* metrics;  // host, (metrics, dim): 1 / bandwidth^2 of each dimension; null where no term names one
  bool exclude_self;      // leave out the pairs i = j
};

// (m, columns) weights or values, one block for each problem or the same for all.
template <class T>
struct PairWeights {
  const T* data;  // null: one column of ones
  int64_t columns;
  bool per_batch;
};

// ---- sliced distances -----------------------------------------------------------------------------------------------
enum class SlicedKind : int { mmd = 0, wasserstein = 1 };
enum SlicedStage { stage_project, stage_sort, stage_scan, stage_back, sliced_stages };

// The points y sorted along every direction, made once for many calls.
struct SlicedTarget;

// Independent problems of n points x against m points y, row-major, projected on `slices` directions.
template <class T>
struct SlicedArgs {
  SlicedKind kind;
  double exponent;  // mmd: r, 0 < r < 2; wasserstein: p >= 1
  int64_t batch, n, m, dim, slices;
  const T *x, *y;       // (batch, n, dim); (batch, m, dim), or (m, dim) for all problems unless y_per_batch
  bool y_per_batch;     // of y and of y_weights
  const T* directions;  // (slices, dim)
  const double *x_weights, *y_weights;  // (batch, n), (batch or 1, m), sums 1; null: equal ones
  const SlicedTarget* target;  // instead of y, y_weights and directions (then null); of the same type and device
  double scale;                // of the gradient
  bool root;       // wasserstein: the gradient of the p-th root of the mean of the values, 0 where that is 0
  double* values;  // (batch, slices): D^2 or W_p^p along every direction, without a factor
  T* gradient;  // (batch, n, dim): scale * sum_slices derivative in the projected point * direction; null: not wanted
  double* stages;  // host, (sliced_stages,): seconds of every stage are added, all threads together; null: not wanted
};

namespace MK_EXECUTOR {

void fill_words(uint32_t* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue);
template <class T>
void fill_uniform(T* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue);
template <class T>
void fill_normal(T* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue);

template <class T>
void combine(const CombineArgs<T>& args, Queue queue);
// outs[c] = scales[c] * z_c for c < count <= 3: the W, H, K of one step of every lane, without a tree.
template <class T>
void step_noise(T* const* outs, const T* scales, int count, int64_t n, uint64_t seed, uint64_t counter, Queue queue);
template <class T>
void metropolis(const MetropolisArgs<T>& args, Queue queue);

// W, H, K over [s, t]: outputs (paths, dim) each, null where not wanted. s, t: host, one value each when !per_path, else
// device arrays (paths,). cursor: an accelerator owned by the caller, or null; it never changes a bit.
struct Cursor;
Cursor* make_cursor(const TreeArgs& tree, int value_bytes);
void free_cursor(Cursor* cursor);
template <class T>
void tree_increment(const TreeArgs& tree, const double* s, const double* t, bool per_path, T* W, T* H, T* K,
                    Cursor* cursor, Queue queue);
// Consecutive increments over a non-decreasing host grid ts[0..n_times): outputs (n_times - 1, paths, dim).
template <class T>
void tree_increments(const TreeArgs& tree, const double* ts, int64_t n_times, T* W, T* H, T* K, Queue queue);
// sum_k weight_k (Y_k(t) - Y_k(0)) at each of n_times non-decreasing host times: out (n_times, paths, dim). partial: host,
// (n_times, terms, 4), the decay and the W, H, K weights of the last, cut leaf of each time.
template <class T>
void fractional_values(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial, T* out,
                       Queue queue);

// out (batch, n, columns) = sum_j k(x_i, y_j) w_j
template <class T>
void kernel_sum(const PairArgs<T>& args, const PairWeights<T>& weights, T* out, Queue queue);
// gradient (batch, n, dim) = sum_j w_j times the derivative of k in x_i, or in y_j if `in_y`; sum (batch, n) unless null.
// Returns how many pairs of coincident points a kernel that is singular there was asked for (host; the CUDA executor
// then waits for the device).
template <class T>
int64_t kernel_gradient(const PairArgs<T>& args, const PairWeights<T>& weights, bool in_y, T* sum, T* gradient,
                        Queue queue);
// logsumexp (batch, n) = log sum_j exp(lw_j) k(x_i, y_j), mean (batch, n, columns) = the values' mean under these weights;
// null where not wanted. Returns how many means had nothing to average (the CUDA executor then waits for the device).
template <class T>
int64_t kernel_softmax(const PairArgs<T>& args, const PairWeights<T>& log_weights, const PairWeights<T>& values,
                       T* logsumexp, T* mean, Queue queue);
// out (batch, n, columns) = sum_j k0(x_i, y_j) w_j, k0 the Stein kernel of scores_x (batch, n, dim), scores_y (batch, m, dim)
template <class T>
void stein_sum(const PairArgs<T>& args, const T* scores_x, const T* scores_y, const PairWeights<T>& weights, T* out,
               Queue queue);
// out (batch, n, m): for small problems. scores null: the kernel itself.
template <class T>
void kernel_matrix(const PairArgs<T>& args, const T* scores_x, const T* scores_y, T* out, Queue queue);
// The `count` nearest y of every x: index (batch, n, count) and distance, nearest first, ties to the smaller index;
// -1 and infinity where there are no more. metrics: null or one row.
template <class T>
void nearest(const PairArgs<T>& args, int count, int64_t* index, T* distance, Queue queue);
// The two middle elements (the same one twice if the number is odd) of all distances |x_i - x_j|, i < j; n >= 2. Waits.
template <class T>
void pair_median(const T* x, int64_t n, int64_t dim, double* lower, double* upper, Queue queue);

// All values are finite, n, m, slices, dim >= 1. D^2 = sum_ij s_i s_j (-|z_i - z_j|^r) over the union of both projections
// with signed weights s = (-x_weights, y_weights); ties share the mid value of their gradients.
template <class T>
void sliced(const SlicedArgs<T>& args, Queue queue);
// Reads y (m, dim), y_weights, directions, m, dim, slices, kind and exponent of args.
template <class T>
SlicedTarget* make_sliced_target(const SlicedArgs<T>& args, Queue queue);
void free_sliced_target(SlicedTarget* target);

template <class T>
void gaussian_mixture(const MixtureArgs<T>& args, Queue queue);
template <class T>
void funnel(const FunnelArgs<T>& args, Queue queue);
template <class T>
void banana(const BananaArgs<T>& args, Queue queue);
template <class T>
void logistic_regression(const LogisticArgs<T>& args, Queue queue);

}  // namespace MK_EXECUTOR
}  // namespace mk
