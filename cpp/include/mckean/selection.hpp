// Choosing few points out of many: the inner loops of kernel thinning, of k-medoids and of ranking by pairwise results.
// They are sequential by nature (every step depends on the last), so the CPU alone has them; what is quadratic in the number
// of points, the kernel sums, runs on the device of the points.
#pragma once

#include <cstdint>

namespace mk {

// ---- kernel thinning ------------------------------------------------------------------------------------------------
// R. Dwivedi, L. Mackey, "Generalized kernel thinning", ICLR 2022: KT-SPLIT.

// One halving of a run of n points (n even), after others that were dealt before: point 2 p and 2 p + 1 go to different
// halves. gram (n, n), of which only what is on and above the diagonal counts; sums (n,): sum of the points dealt before, + where they went right, - left; both halves of a pair
// are dealt by one number of `uniforms` (n / 2,). right[p] = 1: point 2 p goes right, 2 p + 1 left. sums is written over.
template <class T>
struct HalveArgs {
  int64_t n;
  const T* gram;
  double* sums;
  const double* uniforms;
  double log_term;  // 2 log(2 / probability of failure of one pair)
  double variance;  // in and out: the squared sub-Gaussian parameter
  uint8_t* right;
  bool indefinite;  // out: a squared distance of two points was negative beyond rounding
};

// ---- k-medoids ------------------------------------------------------------------------------------------------------
// E. Schubert, P. Rousseeuw, "Fast and eager k-medoids clustering", Information Systems 101, 2021: FastPAM1, FasterPAM.

enum class Metric { sqeuclidean, euclidean, manhattan };

// out (rows, cols): distances of `points` (rows, dim) to `columns` (dim, cols), which lie transposed.
template <class T>
struct DistanceArgs {
  Metric metric;
  int64_t rows, cols, dim;
  const T *points, *columns;
  T* out;
};

// Of every point: the slot (0 .. k - 1) of its nearest and second nearest medoid, and how far they are.
template <class T>
struct PamState {
  int64_t n, k;
  int32_t *nearest, *second;
  T *near, *far;
};

struct PamTotals {
  double near, far;
};

// ---- ranking --------------------------------------------------------------------------------------------------------
// M. Newman, "Efficient computation of rankings from pairwise comparisons", JMLR 24, 2023.

// Opponents of player i: opponents[start[i] .. start[i + 1]), with i's wins over and losses to each.
struct Comparisons {
  int64_t n;
  const int64_t *start, *opponents;
  const double *wins, *losses;
};

namespace cpu {

template <class T>
void halve(HalveArgs<T>& args);
// `levels` halvings of n points, all of them recursively: order (n,) lists the 2^levels parts one after the other, each in
// the order of the points. uniforms (levels, stride), of which every row's first n / 2 count; log_terms (levels,).
template <class T>
bool halve_tree(int64_t n, const T* gram, int levels, const double* uniforms, int64_t stride, const double* log_terms,
                int64_t* order);
// The input point i < n that makes the coreset best in the place of the one with kernel row `old_row`:
//   argmin_i scale (core[i] - old_row[i]) + offset[i],   ties to the smaller i; where barred[i], i is not a candidate.
template <class T>
int64_t best_replacement(int64_t n, const double* core, const T* old_row, const double* offset, const uint8_t* barred,
                         double scale);

template <class T>
void distances(const DistanceArgs<T>& args);
// Offers medoid `slot`, whose distances are `row`, to every point; slots come in order, from 0. point: the medoid itself.
template <class T>
void pam_offer(const PamState<T>& state, const T* row, int32_t slot, int64_t point);
// Sums of near and far; removal[b]: what the loss gains if medoid b is taken away.
template <class T>
PamTotals pam_totals(const PamState<T>& state, double* removal);
// For candidates first .. first + count with the distances `rows` (count, n): the change of the loss by the best swap, and
// the slot that goes; +infinity for medoids.
template <class T>
void pam_changes(const PamState<T>& state, const double* removal, const uint8_t* is_medoid, int64_t first,
                 int64_t count, const T* rows, double* change, int32_t* slot);
// The first of these candidates whose change is below `bound`, or `count`.
template <class T>
int64_t pam_first(const PamState<T>& state, const double* removal, const uint8_t* is_medoid, int64_t first,
                  int64_t count, const T* rows, double bound, double* change, int32_t* slot);
// Puts `point`, with the distances `row`, in the place of medoid `slot`. Points whose second medoid must be searched for
// are written to `search` (n,); returns how many.
template <class T>
int64_t pam_swap(const PamState<T>& state, const T* row, int32_t slot, int64_t point, int64_t* search);
// Finds the second medoid of points `search` (count,) from their distances to all medoids (count, k).
template <class T>
void pam_search(const PamState<T>& state, const int64_t* search, int64_t count, const T* to_medoids);
// gain[i] = sum_o min(rows[i][o] - near[o], 0), the change of the loss if row i's point joins; near null: sum_o rows[i][o].
template <class T>
void pam_gains(int64_t n, int64_t count, const T* rows, const T* near, double* gain);

// Sweeps until no p / (p + 1) moves by `tol` or more, at most max_iter times; strengths (n,) in and out. Returns the number
// of sweeps, negative if the last one still moved. prior: virtual wins over, and losses to, a player of strength 1.
int64_t bradley_terry(const Comparisons& games, bool zermelo, double prior, double tol, int64_t max_iter,
                      double* strengths);
// The smallest player that player 0 has no chain of wins over (beats) or no chain of losses to; -1 if there is none.
int64_t unreached(const Comparisons& games, bool beats);

}  // namespace cpu
}  // namespace mk
