// What an executor offers: the same functions in mk::cpu (cpp/src) and mk::cuda (cuda/), so the Python bindings are written
// once. MK_EXECUTOR names the namespace and is set by the build. Pointers are to memory of that executor's device unless a
// comment says host; sizes and indices are checked by the callers above. `queue` is the CUDA stream to work on (no
// synchronisation happens); the CPU executor ignores it and returns when the work is done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mckean/kernels.hpp"
#include "mckean/lowrank.hpp"

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

// ---- stochastic differential equations ------------------------------------------------------------------------------
constexpr int max_sde_stages = 8;

// How noise enters: diagonal g (rows, dim); scalar g (rows, dim) with one noise for all coordinates; matrix g (rows, dim, noises).
enum class NoiseLayout : int { diagonal, scalar, matrix };

// out = base + sum_k a_k step F_k + sum_k G_k (p_k W + q_k H), row by row; base null is zero. out may be base.
template <class T>
struct SdeUpdateArgs {
  int64_t rows, dim, noises;
  NoiseLayout layout;
  const T* base;
  int n_drifts, n_diffusions;
  const T* drifts[max_sde_stages];  // (rows, dim)
  double a[max_sde_stages];
  const double* steps;  // (rows,), or null: `step` for all
  double step;
  const T* diffusions[max_sde_stages];
  double p[max_sde_stages], q[max_sde_stages];
  const T *W, *H;  // (rows, noises); H may be null where every q is 0
  T* out;
};

enum class SdeSystem : int { ornstein_uhlenbeck, geometric, cox_ingersoll_ross, lorenz, langevin, kinetic, callbacks };
enum class SdeMethod : int {
  runge_kutta,  // a tableau
  additive,     // a tableau for noise that does not depend on y
  milstein_ito,
  milstein_stratonovich,
  reversible_heun,
  cir_splitting,
  cir_implicit,
  quicsort,  // from here on: kinetic.hpp
  should,
  ubu,
  align,
  baoab,
  exponential
};

// Stages y + sum_k (a step F_k + G_k (w W + h H)), results and errors likewise with b, bw, bh and e, ew, eh; see
// python/mckean/sde/_solvers.py, where the tables are.
struct SdeTableau {
  int stages;
  bool has_error;
  bool uses_drift[max_sde_stages], uses_diffusion[max_sde_stages];
  double c[max_sde_stages], a[max_sde_stages][max_sde_stages], w[max_sde_stages][max_sde_stages],
      h[max_sde_stages][max_sde_stages], b[max_sde_stages], bw[max_sde_stages], bh[max_sde_stages], e[max_sde_stages],
      ew[max_sde_stages], eh[max_sde_stages];
};

enum class TargetKind : int { none, diagonal, full, funnel, banana, logistic };

// The gradient of log p: of a Gaussian with whitening `matrix` (dim,) or (dim, dim) and mean `vector`; of a funnel with
// numbers {precision}; of a banana {precision, curvature, offset}; of a logistic model with `rows` signed rows and the
// prior's precision.
template <class T>
struct SdeTarget {
  TargetKind kind;
  int64_t rows;
  const T *matrix, *vector;
  double numbers[3];
};

// A user's compiled functions of one path, called from several threads at once; CPU only.
struct SdeCallbacks {
  using Function = void (*)(double t, const double* y, double* out, void* data);
  Function drift, diffusion;
  void *drift_data, *diffusion_data;
};

struct SdeControl {
  enum Kind : int { constant, pid, state };
  Kind kind;
  double rtol, atol;
  double power[3];  // of 1 / error of this step and the two accepted before
  double safety, factor_min, factor_max;
  double dtmin, dtmax;
  double ctol;         // state: the step is (ctol min y)^(2/3)
  bool revisit;        // ends of rejected steps are visited later
  bool fail_at_dtmin;  // else a step of dtmin is accepted whatever its error
};

// Paths from times[0] on. Constant steps: all times of the grid. Otherwise: the times that must be hit.
template <class T>
struct SdeArgs {
  TreeArgs tree;
  SdeSystem system;
  NoiseLayout layout;
  const T* parameters;  // (p, dim): see sde.hpp
  SdeTarget<T> target;
  SdeCallbacks callbacks;
  SdeMethod method;
  SdeTableau tableau;
  bool doubling;  // the error is the difference between one step and two halves, whose result is kept
  double friction, u;
  SdeControl control;
  int64_t paths, dim, noises, n_times, n_saves;
  const double* times;     // host
  const int64_t* save_at;  // host, (n_times,): where in ys, or -1
  const T* y0;             // (paths, dim)
  T* ys;                   // (n_saves, paths, dim)
  double* clocks;          // (paths, 3), not for constant steps: next step, 1 / error of the last two; read and written
  int64_t*
      counts;      // (paths, 4): accepted, rejected, evaluations of the drift; accepted at dtmin in spite of the error,
                   // or -1 for a path that failed for that
  double* failed;  // (paths,): NaN, or the time at which the state was not finite
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

// ---- entropic transport ---------------------------------------------------------------------------------------------
// Independent problems of n rows against m columns. The plan is P_ij = exp(F_i + G_j - C_ij / eps); F = f / eps + log a and
// G = g / eps + log b, its log scalings, are -inf for a point without weight.
template <class T>
struct TransportArgs {
  int64_t batch, n, m, dim;
  const T *x, *y;  // (batch, n, dim), (batch, m, dim): C_ij = |x_i - y_j|^power, the Euclidean norm; else null
  double power;    // > 0
  const T* cost;   // (batch, n, m), or (n, m) for all problems unless cost_per_batch; may hold +inf
  bool cost_per_batch;
};

// The problems a call works on, and where they stand; host memory. Arrays hold a block for every problem of the batch; only
// those of problems[0 .. count) are read and written.
struct Scalings {
  const int64_t* problems;
  int64_t count;
  const double* eps;    // (batch,)
  double *rows, *cols;  // F (batch, n), G (batch, m)
};

enum class ScalingForm : int {
  log_domain,  // two log-sum-exps with a running maximum; never over- or underflows
  recomputed,  // one exponential for each pair and iteration
  stored  // of a stored cost: the exponentials are kept, n x m numbers, and made anew where scalings have moved far
};

// One iteration makes the rows right, then the columns:
//   F <- F + relaxation (row_power (log a - L) + (1 - row_power) log a - F),  L_i = log sum_j exp(G_j - C_ij / eps),
// and likewise G. symmetric: n = m, C symmetric, F alone is updated, with relaxation 1/2, and G follows.
struct ScalingRule {
  ScalingForm form;
  bool symmetric;
  double relaxation;                    // in (0, 2)
  const double *a, *b;                  // host (batch, n), (batch, m)
  const double *row_power, *col_power;  // host (batch,): rho / (rho + eps) of relaxed marginals; 1: met exactly
  int64_t max_iter;
  double tol;
};

// The entries of a plan worth keeping, by rows; host memory.
struct KeptEntries {
  std::vector<int64_t> start;  // (n + 1,)
  std::vector<int32_t> column;
  std::vector<double> value;
  bool complete;  // false: there were more than allowed, and none are here
};

// A batch of problems, and what is kept of them between calls.
template <class T>
struct Transport;

// ---- low-rank models ------------------------------------------------------------------------------------------------
// One step of Lanczos' method: w = A v_{count-1} is made orthogonal to the basis, and w / |w| appended to it.
template <class T>
struct LanczosArgs {
  int64_t dim, count;  // vectors in the basis; 0: w itself is normalised
  T* basis;            // (count + 1 at least, dim): vectors are rows
  T* w;                // (dim,); overwritten
  bool recurrence;     // first subtract the parts along the last two vectors, the last but one with the factor beta
  double beta;
  int passes;    // of Gram-Schmidt against the whole basis: 0, 1 (and a second where the norm fell below 0.7071), 2
  double least;  // a norm of at most this is a breakdown: the row count of the basis is not written
  double* coefficients;  // host (count,): all that was subtracted of every vector
};
struct LanczosStep {
  double norm;  // of w after all; NaN or infinite where w was not finite
  int passes;   // done
};

// A tall matrix (dim, columns), or with `rows` its transpose (columns, dim), row-major.
template <class T>
struct Tall {
  const T* data;
  int64_t columns;
  bool rows;
};

// sum_a scale_a f_a(U diag(s) U^T + t I) b_a for every row, of a batch of models.
constexpr int max_spectral_terms = 4;
template <class T>
struct SpectralTerm {
  Spectral function;
  double scale;
  const T* b;  // (batch, rows, dim); null: normals, element i of the output drawing number i
};
template <class T>
struct LowRankArgs {
  int64_t batch, rows, dim, rank;
  bool vectors;     // rows = 1, and the call was for vectors: bits may differ from those of a row among rows
  const T* U;       // (batch, dim, rank)
  const T* s;       // (batch, rank)
  const double* t;  // host: (batch,), or (1,) for all
  bool t_per_batch;
  const double* least;  // host, like t; read by Spectral::precondition only
  int n_terms;
  SpectralTerm<T> terms[max_spectral_terms];
  uint64_t key, counter;
  T* out;  // (batch, rows, dim); may be one of the b
};

// (W W^T + t I)^-1 b or its root, W any columns; with a diagonal, (D + W W^T)^-1 b (t = 1), or a root R of it, R R^T = that.
template <class T>
struct WoodburyArgs {
  int64_t batch, dim, rank;
  const T* W;         // (batch, dim, rank)
  const T* diagonal;  // (batch, dim), or (dim,) for all unless diagonal_per_batch; > 0; null: none
  bool diagonal_per_batch;
  const double* t;  // host: (batch,) or (1,)
  bool t_per_batch;
  Spectral function;  // solve or sqrt_solve
  const T* b;         // (batch, dim); null with out
  T* out;             // (batch, dim)
  double* logdet;     // (batch,), of the matrix itself; null: not wanted
};

// e' of levenberg_marquardt() for every row of (rows, dim) arrays.
template <class T>
struct DirectionArgs {
  int64_t rows, dim;
  const T *e, *previous;
  DampingRule rule;
  double value, kappa;
  T* out;
};

// ---- self-repellent walks -------------------------------------------------------------------------------------------
// A graph and a reversible chain on it, by rows; all arrays on the device.
struct WalkGraph {
  int64_t nodes;
  const int64_t *start, *neighbour;  // (nodes + 1,), (edges,)
  const double* chance;              // (edges,): of the base chain, > 0
  const double* inverse;             // (nodes,): 1 / (nodes * target)
};

// What descends along the walk: a token at node j steps down the mean loss of that node's rows.
enum class NodeLoss : int { none = -1, squares = 0, logistic = 1 };
template <class T>
struct WalkLoss {
  NodeLoss kind;
  int64_t dim;
  const int64_t* start;    // (nodes + 1,): rows of a node
  const T *rows, *labels;  // (rows, dim), (rows,)
  T l2;                    // plus l2 |theta|^2 / 2
  const double* rate;      // host (steps,)
  const T* theta_in;       // (walkers, dim)
  T* theta;                // the same, or other memory
};

// `steps` moves of every walker from node i to j with probability proportional to chance_ij (mass_j / target_j)^-alpha, and
// after each mass_j += deposit. The walkers of one shared mass move at once, then deposit.
template <class T>
struct WalkArgs {
  WalkGraph graph;
  WalkLoss<T> loss;
  double alpha;
  int64_t walkers, steps;
  bool shared;
  uint64_t key, counter;          // uniform number `walker` of counters counter, counter + 1, ... chooses the move
  const double *deposit, *scale;  // host (steps,); scale: a power of two near nodes / (sum of the mass)
  const T* x_in;                  // (walkers,): node numbers
  T* x;                           // the same, or other memory
  const double* mass_in;          // (walkers, nodes), or (nodes,) for all
  double* mass;                   // the same, or other memory
  double shrink, floor;           // first mass = max(shrink * mass_in, floor)
  int64_t* path;                  // (steps, walkers): the nodes; null: not wanted
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

// Keeps the pointers of args. n, m >= 1. Everything below waits for the device.
template <class T>
Transport<T>* make_transport(const TransportArgs<T>& args, Queue queue);
template <class T>
void free_transport(Transport<T>* transport);
// Frees what iterations keep for the next ones; it is made anew where it is wanted.
template <class T>
void transport_forget(Transport<T>& transport);
// At most rule.max_iter iterations of every problem; stops before an iteration once the error is at most rule.tol.
// errors (batch,): where all powers are 1, sum_i |row sum_i - a_i| of the state before the last iteration, or of the
// returned one if it was small enough; else, and for the symmetric form, the largest change of F and G in the last iteration.
// iterations (batch,): how many were done. Host arrays.
template <class T>
void transport_iterate(Transport<T>& transport, const Scalings& at, const ScalingRule& rule, double* errors,
                       int64_t* iterations, Queue queue);
// out (batch, n) = -log sum_j exp(G_j - C_ij / eps), or with `columns` (batch, m) = -log sum_i exp(F_i - C_ij / eps); host
template <class T>
void transport_transform(Transport<T>& transport, const Scalings& at, bool columns, double* out, Queue queue);
// Row sums (batch, n), column sums (batch, m) and sum_ij P_ij C_ij (batch,) of the plans; host, null where not wanted.
template <class T>
void transport_marginals(Transport<T>& transport, const Scalings& at, double* rows, double* cols, double* cost,
                         Queue queue);
// rows (batch, n) = P v, cols (batch, m) = P^T u; all host.
template <class T>
void transport_product(Transport<T>& transport, const Scalings& at, const double* u, const double* v, double* rows,
                       double* cols, Queue queue);
// out (batch, n, columns) = P values (batch, m, columns); transposed: n and m exchanged.
template <class T>
void transport_apply(Transport<T>& transport, const Scalings& at, bool transposed, const T* values, int64_t columns,
                     T* out, Queue queue);
// out (batch, n, dim) = sum_j P_ij times the derivative of C_ij in x_i, or (batch, m, dim) in y_j; 0 for equal points.
template <class T>
void transport_gradient(Transport<T>& transport, const Scalings& at, bool in_y, T* out, Queue queue);
// out (last - first, m): rows of the plan of one problem.
template <class T>
void transport_plan(Transport<T>& transport, const Scalings& at, int64_t problem, int64_t first, int64_t last, T* out,
                    Queue queue);
// The entries P_ij > row_level_i col_level_j (host (n,), (m,)) of one problem, unless they are more than `most`.
template <class T>
KeptEntries transport_kept(Transport<T>& transport, const Scalings& at, int64_t problem, const double* row_level,
                           const double* col_level, int64_t most, Queue queue);

// ---- low-rank models; functions that return host memory wait for the device
template <class T>
LanczosStep lanczos_step(const LanczosArgs<T>& args, Queue queue);
// out host (A.columns, B.columns) = A^T B, in float64 throughout
template <class T>
void tall_gram(int64_t dim, const Tall<T>& A, const Tall<T>& B, double* out, Queue queue);
// out = A M, or out += A M: M host (A.columns, columns); out (dim, columns), or with out_rows (columns, dim). With both as
// rows, out may be A.
template <class T>
void tall_multiply(int64_t dim, const Tall<T>& A, const double* M, int64_t columns, bool add, bool out_rows, T* out,
                   Queue queue);
// Turns columns of U (dim, columns) round where the entry of largest size is negative.
template <class T>
void orient_columns(int64_t dim, int64_t columns, T* U, Queue queue);
template <class T>
void lowrank_apply(const LowRankArgs<T>& args, Queue queue);
// out (batch, rows) = b^T f(U diag(s) U^T + t I) b of the one term.
template <class T>
void lowrank_quadratic(const LowRankArgs<T>& args, double* out, Queue queue);
// Returns how many items were not positive definite to rounding; their out is NaN.
template <class T>
int64_t woodbury(const WoodburyArgs<T>& args, Queue queue);
// W W^T = U diag(s) U^T: U (batch, dim, rank), s (batch, rank) falling; directions below rounding have s = 0 and U = 0.
template <class T>
void gram_factor(int64_t batch, int64_t dim, int64_t rank, const T* W, T* U, T* s, Queue queue);
template <class T>
void levenberg_marquardt_rows(const DirectionArgs<T>& args, Queue queue);

// ---- stochastic differential equations
template <class T>
void sde_update(const SdeUpdateArgs<T>& args, Queue queue);
// out (rows,) = root mean square over a row of error / (atol + rtol max(|y0|, |y1|)).
template <class T>
void sde_error_norm(int64_t rows, int64_t dim, const T* error, const T* y0, const T* y1, double rtol, double atol,
                    double* out, Queue queue);
// Rows of a where mask, else of b.
template <class T>
void sde_select(int64_t rows, int64_t dim, const uint8_t* mask, const T* a, const T* b, T* out, Queue queue);
// Later rows of a path that failed are NaN in ys.
template <class T>
void sde_integrate(const SdeArgs<T>& args, Queue queue);

template <class T>
void gaussian_mixture(const MixtureArgs<T>& args, Queue queue);
template <class T>
void funnel(const FunnelArgs<T>& args, Queue queue);
template <class T>
void banana(const BananaArgs<T>& args, Queue queue);
template <class T>
void logistic_regression(const LogisticArgs<T>& args, Queue queue);

// ---- self-repellent walks
template <class T>
void walk(const WalkArgs<T>& args, Queue queue);

}  // namespace MK_EXECUTOR
}  // namespace mk
