// Fractional Brownian motion as a weighted sum of Ornstein-Uhlenbeck processes driven by one Brownian tree.
// R. Daems, M. Opper, G. Crevecoeur, T. Birdal, "Variational inference for SDEs driven by fractional noise" (2024),
// arXiv:2310.12975, after P. Carmona, L. Coutin, G. Montseny (2000). Each process is advanced leaf by leaf with the best
// linear estimate of its noise from the leaf's W, H, K.
#pragma once

#include "mckean/brownian.hpp"

namespace mk {

constexpr int max_fractional_terms = 16;
constexpr int max_fractional_depth = 26;

// Walks the leaves of one register of lanes from left to right; about one split a leaf.
template <class V>
struct LeafWalk {
  using W = typename Ops<V>::W;
  uint64_t seed;
  int depth;
  W lane_lo, lane_hi;
  Cell<V> pending[max_fractional_depth + 1];  // pending[l]: the next unvisited cell of level l

  MK_HD void start(uint64_t seed_, int depth_, W lo, W hi) {
    seed = seed_;
    depth = depth_;
    lane_lo = lo;
    lane_hi = hi;
    pending[0] = root_cell<V, 3>(seed, lane_lo, lane_hi);
  }
  MK_HD Cell<V> leaf(uint64_t i) {  // call with i = 0, 1, 2, ...
    int level = i == 0 ? 0 : depth - trailing_zeros(i);
    Cell<V> cell = pending[level], left;
    for (; level < depth; ++level) {
      split_at<V, 3>(seed, node_at(i, level, depth), level, lane_lo, lane_hi, cell, left, pending[level + 1]);
      cell = left;
    }
    return cell;
  }
};

// The processes of one register of lanes. Weights are shared by the lanes; rows of four: decay, W, H, K.
template <class V>
struct FractionalState {
  using T = typename Ops<V>::T;
  int terms;
  V y[max_fractional_terms], start[max_fractional_terms];

  MK_HD void init(const FractionalArgs& a, typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi) {
    terms = a.terms;
    V z[max_fractional_terms + 1];
    V zero = Ops<V>::constant(T(0));
    for (int k = 0; k < terms; k += 2) {
      z[k] = z[k + 1] = zero;
      if (a.past) {
        Normals3<V> n =
            tree_normals_at<V, false>(a.tree.seed, static_cast<uint64_t>(k / 2), lane_lo, lane_hi, Tag::tree_past);
        z[k] = n.z1;
        z[k + 1] = n.z2;
      }
    }
    for (int k = 0; k < terms; ++k) {
      start[k] = zero;
      if (a.past)
        for (int j = 0; j <= k; ++j) start[k] = start[k] + z[j] * static_cast<T>(a.past[k * terms + j]);
      y[k] = start[k];
    }
  }
  MK_HD void advance(const double* w, const Cell<V>& c) {
    for (int k = 0; k < terms; ++k, w += 4)
      y[k] = y[k] * static_cast<T>(w[0]) +
             (c.W * static_cast<T>(w[1]) + c.H * static_cast<T>(w[2]) + c.K * static_cast<T>(w[3]));
  }
  MK_HD V value(const double* weight) const {
    V sum = Ops<V>::constant(T(0));
    for (int k = 0; k < terms; ++k) sum = sum + (y[k] - start[k]) * static_cast<T>(weight[k]);
    return sum;
  }
  // The value after only a part of the next leaf, whose own W, H, K are given.
  MK_HD V value_within(const double* weight, const double* w, const Piece<V, T>& p) const {
    V sum = Ops<V>::constant(T(0));
    for (int k = 0; k < terms; ++k, w += 4) {
      V yk = y[k] * static_cast<T>(w[0]) +
             (p.W * static_cast<T>(w[1]) + p.H * static_cast<T>(w[2]) + p.K * static_cast<T>(w[3]));
      sum = sum + (yk - start[k]) * static_cast<T>(weight[k]);
    }
    return sum;
  }
};

constexpr uint64_t leaves_between_ticks = 1 << 14;

// All times of one register of lanes, in order; emit(i, value) receives the i-th. Times are non-decreasing. tick() is called
// now and then: a walk may take long.
template <class V, class Emit, class Tick>
MK_HD void fractional_walk(const FractionalArgs& a, typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi,
                           const double* ts, int64_t n_times, const double* partial, Emit&& emit, Tick&& tick) {
  using T = typename Ops<V>::T;
  const TreeArgs& tree = a.tree;
  LeafWalk<V> walk;
  FractionalState<V> state;
  walk.start(tree.seed, tree.depth, lane_lo, lane_hi);
  state.init(a, lane_lo, lane_hi);
  uint64_t done = 0;  // leaves the state has passed
  bool have_cell = false;
  Cell<V> cell;
  for (int64_t i = 0; i < n_times; ++i) {
    double units = leaf_units(ts[i], tree.t0, tree.t1, tree.depth);
    uint64_t whole = static_cast<uint64_t>(units);
    double x = units - static_cast<double>(whole);
    while (done < whole) {
      if (!have_cell) cell = walk.leaf(done);
      state.advance(a.leaf, cell);
      have_cell = false;
      if (++done % leaves_between_ticks == 0) tick();
    }
    if (x == 0.0) {
      emit(i, state.value(a.weight));
      continue;
    }
    if (!have_cell) cell = walk.leaf(done);
    have_cell = true;
    Piece<V, T> left, right;
    cut_leaf_at<V, 3>(tree.seed, done, x, tree.depth, lane_lo, lane_hi, cell, left, right);
    emit(i, state.value_within(a.weight, partial + i * a.terms * 4, left));
  }
}

}  // namespace mk
