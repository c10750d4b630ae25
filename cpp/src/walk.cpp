// CPU executor of self-repellent walks: walkers in parallel where each has its own measure; where they share one, they move
// in parallel and deposit in turn.
#include "mckean/walk.hpp"

#include <algorithm>
#include <vector>

#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t chunk_work = int64_t{1} << 18;  // neighbours looked at, and numbers of the data read
constexpr int64_t poll_work = int64_t{1} << 20;

template <class T>
void fill_weights(const WalkArgs<T>& a, double scale, const double* mass, double* weights) {
  for (int64_t j = 0; j < a.graph.nodes; ++j) weights[j] = walk_weight(mass[j], a.graph.inverse[j], scale, a.alpha);
}

template <class T>
void take(const WalkArgs<T>& a, int64_t i) {  // position and parameters of a walker
  a.x[i] = a.x_in[i];
  if (a.loss.theta != a.loss.theta_in)
    std::copy_n(a.loss.theta_in + i * a.loss.dim, a.loss.dim, a.loss.theta + i * a.loss.dim);
}

template <class T>
double rate_of(const WalkArgs<T>& a, int64_t t) {
  return a.loss.dim ? a.loss.rate[t] : 0.0;
}

// What moves to `nodes` nodes cost that have `edges` edges and `rows` rows of data in all, in the unit of chunk_work.
template <class T>
int64_t work_of(const WalkArgs<T>& a, int64_t nodes, int64_t edges, int64_t rows) {
  return nodes + edges + (nodes + rows) * a.loss.dim;
}

template <class T>
int64_t mean_work(const WalkArgs<T>& a, int64_t edges) {
  const int64_t m = a.graph.nodes;
  return 1 + work_of(a, m, edges, a.loss.dim ? a.loss.start[m] : 0) / m;
}

template <class T>
int64_t work_at(const WalkArgs<T>& a, int64_t j) {
  return work_of(a, 1, a.graph.start[j + 1] - a.graph.start[j], a.loss.dim ? a.loss.start[j + 1] - a.loss.start[j] : 0);
}

template <class T>
void run_own(const WalkArgs<T>& a, int64_t edges) {
  const int64_t m = a.graph.nodes;
  const bool keep = walk_keeps(a.graph, edges, a.steps);
  const int64_t work = std::max<int64_t>(1, a.steps) * mean_work(a, edges) + m;
  parallel_for(a.walkers, std::max<int64_t>(1, chunk_work / work), [&](int64_t begin, int64_t end) {
    std::vector<double> weights(static_cast<size_t>(keep ? m : 0));
    std::vector<T> gradient(static_cast<size_t>(a.loss.dim));
    int64_t done = 0;  // work since the last poll
    for (int64_t i = begin; i < end; ++i) {
      double* mass = a.mass + i * m;
      for (int64_t j = 0; j < m; ++j) mass[j] = walk_shrunk(a.mass_in[i * m + j], a.shrink, a.floor);
      take(a, i);
      double scale = 0.0;  // no power of two
      for (int64_t t = 0; t < a.steps; ++t) {
        if (done >= poll_work) {
          poll_inside_chunk();
          done = 0;
        }
        if (keep && a.scale[t] != scale) fill_weights(a, a.scale[t], mass, weights.data());
        scale = a.scale[t];
        int64_t j = walk_step(a, scale, mass, keep ? weights.data() : nullptr, i, t, rate_of(a, t), gradient.data());
        done += work_at(a, j);
        mass[j] += a.deposit[t];
        if (keep) weights[static_cast<size_t>(j)] = walk_weight(mass[j], a.graph.inverse[j], scale, a.alpha);
      }
    }
  });
}

template <class T>
void run_shared(const WalkArgs<T>& a, int64_t edges) {
  const int64_t m = a.graph.nodes;
  const bool keep = walk_keeps(a.graph, edges, a.steps * a.walkers);
  std::vector<double> weights(static_cast<size_t>(keep ? m : 0));
  std::vector<int64_t> visits(static_cast<size_t>(m));
  for (int64_t j = 0; j < m; ++j) a.mass[j] = walk_shrunk(a.mass_in[j], a.shrink, a.floor);
  for (int64_t i = 0; i < a.walkers; ++i) take(a, i);
  const int64_t grain = std::max<int64_t>(1, (chunk_work >> 4) / mean_work(a, edges));
  double scale = 0.0;
  for (int64_t t = 0; t < a.steps; ++t) {
    if (keep && a.scale[t] != scale) fill_weights(a, a.scale[t], a.mass, weights.data());
    scale = a.scale[t];
    parallel_for(a.walkers, grain, [&](int64_t begin, int64_t end) {
      std::vector<T> gradient(static_cast<size_t>(a.loss.dim));
      for (int64_t i = begin; i < end; ++i)
        walk_step(a, scale, a.mass, keep ? weights.data() : nullptr, i, t, rate_of(a, t), gradient.data());
    });
    for (int64_t i = 0; i < a.walkers; ++i) ++visits[static_cast<size_t>(a.x[i])];
    for (int64_t i = 0; i < a.walkers; ++i) {
      size_t j = static_cast<size_t>(a.x[i]);
      if (visits[j] == 0) continue;  // another walker there was first
      a.mass[j] += a.deposit[t] * static_cast<double>(visits[j]);
      visits[j] = 0;
      if (keep) weights[j] = walk_weight(a.mass[j], a.graph.inverse[j], scale, a.alpha);
    }
  }
}

template <class T>
void run(const WalkArgs<T>& a) {
  const int64_t edges = a.graph.start[a.graph.nodes];
  if (a.shared)
    run_shared(a, edges);
  else
    run_own(a, edges);
}

}  // namespace

template <>
void walk<float>(const WalkArgs<float>& args, Queue) {
  run(args);
}
template <>
void walk<double>(const WalkArgs<double>& args, Queue) {
  run(args);
}

}  // namespace cpu
}  // namespace mk
