// Self-repellent random walks: one move of one walker, and the descent that rides on it.
// V. Doshi, J. Hu, D. Y. Eun, "Self-repellent random walks on general graphs - achieving minimal sampling variance via
// nonlinear Markov chains", ICML 2023, arXiv:2305.05097.
#pragma once

#include "mckean/executor.hpp"
#include "mckean/random.hpp"

namespace mk {

// Where the sum of the weights of a node's neighbours lies outside, logarithms are compared with the largest one first.
constexpr double walk_least = 1e-280, walk_most = 1e280;

// log of (mass_j / target_j)^-alpha, 0 where the mass is in proportion.
MK_HD double walk_log_weight(double mass, double inverse, double scale, double alpha) {
  return -(alpha * log_positive<double>((mass * inverse) * scale));
}
MK_HD double walk_weight(double mass, double inverse, double scale, double alpha) {
  return exp_clamped<double>(walk_log_weight(mass, inverse, scale, alpha));
}

// The three ways to the weight of a node: kept, computed, and computed relative to the largest.
struct KeptWeight {
  const double* weights;
  MK_HD double operator()(int64_t j) const { return weights[j]; }
};
struct FreshWeight {
  const double *mass, *inverse;
  double scale, alpha;
  MK_HD double operator()(int64_t j) const { return walk_weight(mass[j], inverse[j], scale, alpha); }
};
struct RelativeWeight {
  const double *mass, *inverse;
  double scale, alpha, top;
  MK_HD double operator()(int64_t j) const {
    return exp_clamped<double>(walk_log_weight(mass[j], inverse[j], scale, alpha) - top);
  }
};

template <class Weight>
MK_HD double walk_sum(const WalkGraph& g, int64_t first, int64_t last, Weight weight) {
  double sum = 0.0;
  for (int64_t e = first; e < last; ++e) sum += g.chance[e] * weight(g.neighbour[e]);
  return sum;
}

// The neighbour in whose part of [0, sum) the number u sum falls; the last one of positive weight should rounding pass it.
template <class Weight>
MK_HD int64_t walk_choose(const WalkGraph& g, int64_t first, int64_t last, double u, double sum, Weight weight) {
  double aim = u * sum, below = 0.0;
  int64_t chosen = first;
  for (int64_t e = first; e < last; ++e) {
    double w = g.chance[e] * weight(g.neighbour[e]);
    if (w > 0.0) chosen = e;
    below += w;
    if (aim < below) break;
  }
  return g.neighbour[chosen];
}

// The node after `at`. weights: kept ones of all nodes, or null; the bits are the same.
MK_HD int64_t walk_move(const WalkGraph& g, double alpha, double scale, const double* mass, const double* weights,
                        int64_t at, double u) {
  const int64_t first = g.start[at], last = g.start[at + 1];
  const FreshWeight fresh{mass, g.inverse, scale, alpha};
  double sum = weights ? walk_sum(g, first, last, KeptWeight{weights}) : walk_sum(g, first, last, fresh);
  if (sum > walk_least && sum < walk_most)
    return weights ? walk_choose(g, first, last, u, sum, KeptWeight{weights})
                   : walk_choose(g, first, last, u, sum, fresh);
  double top = 0.0;
  for (int64_t e = first; e < last; ++e) {
    int64_t j = g.neighbour[e];
    double w = walk_log_weight(mass[j], g.inverse[j], scale, alpha);
    if (e == first || w > top) top = w;
  }
  const RelativeWeight relative{mass, g.inverse, scale, alpha, top};
  return walk_choose(g, first, last, u, walk_sum(g, first, last, relative), relative);
}

// theta -= rate * gradient of the node's loss; gradient: (dim,), written over.
template <class T>
MK_HD void walk_descend(const WalkLoss<T>& a, int64_t node, T rate, T* theta, T* gradient) {
  for (int64_t k = 0; k < a.dim; ++k) gradient[k] = a.l2 * theta[k];
  const int64_t first = a.start[node], last = a.start[node + 1];
  const T share = T(1) / static_cast<T>(last > first ? last - first : 1);
  for (int64_t r = first; r < last; ++r) {
    const T* row = a.rows + r * a.dim;
    T t = T(0);
    for (int64_t k = 0; k < a.dim; ++k) t = t + row[k] * theta[k];
    T slope = share * ((a.kind == NodeLoss::logistic ? sigmoid<T>(t) : t) - a.labels[r]);
    for (int64_t k = 0; k < a.dim; ++k) gradient[k] = gradient[k] + slope * row[k];
  }
  for (int64_t k = 0; k < a.dim; ++k) theta[k] = theta[k] - rate * gradient[k];
}

// Move number `step` of walker i, and its descent.
template <class T>
MK_HD int64_t walk_step(const WalkArgs<T>& a, double scale, const double* mass, const double* weights, int64_t i,
                        int64_t step, double rate, T* gradient) {
  double u =
      stream_number<double>(static_cast<uint64_t>(i), a.key, a.counter + static_cast<uint64_t>(step), Tag::uniform);
  int64_t node = walk_move(a.graph, a.alpha, scale, mass, weights, static_cast<int64_t>(a.x[i]), u);
  a.x[i] = static_cast<T>(node);
  if (a.path) a.path[step * a.walkers + i] = node;
  if (a.loss.dim) walk_descend<T>(a.loss, node, static_cast<T>(rate), a.loss.theta + i * a.loss.dim, gradient);
  return node;
}

MK_HD double walk_shrunk(double mass, double shrink, double floor) {
  double m = shrink * mass;
  return m < floor ? floor : m;
}

// Steps from `first` on that share a scale.
template <class T>
int64_t walk_segment(const WalkArgs<T>& a, int64_t first) {
  int64_t last = first + 1;
  while (last < a.steps && a.scale[last] == a.scale[first]) ++last;
  return last;
}

// Whether weights of all nodes are worth keeping for `moves` moves of one mass.
inline bool walk_keeps(const WalkGraph& g, int64_t edges, int64_t moves) {
  return static_cast<double>(moves) * static_cast<double>(edges) >=
         static_cast<double>(g.nodes) * static_cast<double>(g.nodes);
}

}  // namespace mk
