// A Brownian path with its Levy areas, grown from one seed as a binary tree.
//
// On an interval of length h:  W increment;  H space-time area, variance h/12;  K space-time-time area, variance h/720.
// The three are the inner products of dB with the first Legendre polynomials, hence independent.
//   A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive and high order
//   SDE solvers" (2024), arXiv:2405.06464;  J. Foster, "Numerical approximations for stochastic differential equations" (2020).
//
// Everything here lives on the unit interval; callers scale by sqrt(t1 - t0). V is a value of one or several lanes, S is T
// when all lanes share their times and V when they do not, M counts the components kept (1: W, 2: W H, 3: W H K).
//
// Which numbers make the path: node n (heap numbering, root 1) of lane l draws from the Philox block
// (n, l | tag). With M = 1 the block of a node at an even level also serves its two children.
#pragma once

#include "mckean/executor.hpp"
#include "mckean/random.hpp"

namespace mk {

template <class V>
struct Cell {
  V W, H, K;  // M = 1: H holds the cell's own normal if its level is odd
};

template <class V, class S>
struct Piece {
  S h;
  V W, H, K;
};

template <class V>
struct Normals3 {
  V z1, z2, z3;
};

template <class V, bool third>
MK_HD Normals3<V> tree_normals(uint64_t seed, typename Ops<V>::W node_lo, typename Ops<V>::W node_hi,
                               typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi, Tag tag) {
  using W = typename Ops<V>::W;
  Words<W> r = philox<W>(node_lo, node_hi, lane_lo, lane_hi | WordOps<W>::constant(tagged(0, tag)),
                         static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  NormalPair<V> p = normal_pair<V>(r.w[0], r.w[1]);
  if (third) return {p.z0, p.z1, normal_pair<V>(r.w[2], r.w[3]).z0};
  return {p.z0, p.z1, p.z1};
}

// The same for one node shared by all lanes.
template <class V, bool third>
MK_HD Normals3<V> tree_normals_at(uint64_t seed, uint64_t node, typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi,
                                  Tag tag) {
  using W = typename Ops<V>::W;
  return tree_normals<V, third>(seed, WordOps<W>::constant(static_cast<uint32_t>(node)),
                                WordOps<W>::constant(static_cast<uint32_t>(node >> 32)), lane_lo, lane_hi, tag);
}

// 2^-level and its square root, the latter rounded once.
template <class T>
MK_HD T pow2_minus(int level) {
  using F = Format<T>;
  using U = typename Ops<T>::U;
  return Ops<T>::from_bits(static_cast<U>(F::bias - level) << F::mantissa);
}
template <class T>
MK_HD T sqrt_pow2_minus(int level) {
  T half = pow2_minus<T>((level + 1) / 2);
  return level % 2 ? half * T(1.41421356237309504880) : half;
}

template <class V, int M>
MK_HD Cell<V> root_cell(uint64_t seed, typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi) {
  using T = typename Ops<V>::T;
  Normals3<V> z = tree_normals_at<V, M == 3>(seed, 0, lane_lo, lane_hi, Tag::tree_root);
  return {z.z1, z.z2 * T(0.28867513459481288225), z.z3 * T(0.037267799624996494940)};
}

// Parent of length h, root_h = sqrt(h), into its halves.
template <class V, int M>
MK_HD void split_with(const Cell<V>& c, typename Ops<V>::T root_h, bool odd_level, Normals3<V> z, Cell<V>& left,
                      Cell<V>& right) {
  using T = typename Ops<V>::T;
  if (M == 1) {
    V half = c.W * T(0.5);
    V e = (odd_level ? c.H : z.z1) * (root_h * T(0.5));
    left.W = half + e;
    right.W = half - e;
    left.H = odd_level ? c.H : z.z2;
    right.H = odd_level ? c.H : z.z3;
    left.K = right.K = c.K;
    return;
  }
  V half = c.W * T(0.5);
  V d = c.H * T(1.5) + z.z1 * (root_h * T(0.25));
  left.W = half + d;
  right.W = half - d;
  V m = c.H * T(0.25) - z.z1 * (root_h * T(0.125));
  if (M == 2) {
    V e = z.z2 * (root_h * T(0.14433756729740643));
    left.H = m + e;
    right.H = m - e;
    left.K = right.K = c.K;
  } else {
    V s = z.z2 * (root_h * T(0.036084391824351615));
    V e = c.K * T(3.75) + s;
    left.H = m + e;
    right.H = m - e;
    V k = c.K * T(0.125) - s * T(0.5);
    V g = z.z3 * (root_h * T(0.018633899812498248));
    left.K = k + g;
    right.K = k - g;
  }
}

template <class V, int M>
MK_HD void split_at(uint64_t seed, uint64_t node, int level, typename Ops<V>::W lane_lo, typename Ops<V>::W lane_hi,
                    const Cell<V>& c, Cell<V>& left, Cell<V>& right) {
  using T = typename Ops<V>::T;
  bool odd = level % 2 != 0;
  Normals3<V> z{c.W, c.W, c.W};
  if (M != 1 || !odd) z = tree_normals_at<V, M != 2>(seed, node, lane_lo, lane_hi, Tag::tree_node);
  split_with<V, M>(c, sqrt_pow2_minus<T>(level), odd, z, left, right);
}

// Chen's relation: the piece over [a, c] from those over [a, b] and [b, c].
template <class V, class S, int M>
MK_HD Piece<V, S> chen(const Piece<V, S>& a, const Piece<V, S>& b) {
  using T = typename Ops<V>::T;
  Piece<V, S> out;
  out.h = a.h + b.h;
  out.W = a.W + b.W;
  out.H = a.H;
  out.K = a.K;
  if (M >= 2) {
    S r = T(1) / out.h;
    V d = a.W * b.h - b.W * a.h;
    V ha = a.H * a.h, hb = b.H * b.h;
    out.H = (ha + hb + d * T(0.5)) * r;
    if (M == 3)
      out.K = (a.K * (a.h * a.h) + b.K * (b.h * b.h) + (ha * b.h - hb * a.h) * T(0.5) +
               d * ((b.h - a.h) * T(0.083333333333333333333))) *
              (r * r);
  }
  return out;
}

// The inverse: what is left of `whole` (length 1 here) after a first piece of fraction a; b = 1 - a. Divides by b^2, so
// use it with b >= 1/2.
template <class V, class S, int M>
MK_HD Piece<V, S> rest_after(const Cell<V>& whole, const Piece<V, S>& first, S a, S b) {
  using T = typename Ops<V>::T;
  Piece<V, S> out;
  out.h = b;
  out.W = whole.W - first.W;
  out.H = whole.H;
  out.K = whole.K;
  if (M >= 2) {
    S r = T(1) / b;
    V d = first.W * b - out.W * a;
    V ha = first.H * a;
    V hb = whole.H - ha - d * T(0.5);
    out.H = hb * r;
    if (M == 3)
      out.K = (whole.K - first.K * (a * a) - (ha * b - hb * a) * T(0.5) - d * ((b - a) * T(0.083333333333333333333))) *
              (r * r);
  }
  return out;
}

// A leaf of length h cut at fraction x (y = 1 - x, both given since one of them may be tiny). The shorter side is sampled
// from its law given the leaf, by the Cholesky factor in closed form; the longer follows by rest_after. The mirrored case
// uses (-z1, z2, -z3), which makes the two agree at x = 1/2: the path is continuous inside a leaf.
template <class V, class S, int M>
MK_HD void cut_leaf(const Cell<V>& c, typename Ops<V>::T h, S x, S y, Normals3<V> z, Piece<V, S>& left,
                    Piece<V, S>& right) {
  using T = typename Ops<V>::T;
  left.h = x * h;
  right.h = y * h;
  T root_h = Ops<T>::sqrt(h);
  if (M == 1) {
    V n = z.z1 * (Ops<S>::sqrt(x * y) * root_h);
    left.W = c.W * x + n;
    right.W = c.W * y - n;
    left.H = right.H = left.K = right.K = c.H;
    return;
  }
  auto flip = x > y;
  S a = flip ? y : x, b = flip ? x : y;
  V H = flip ? -c.H : c.H;
  V z1 = flip ? -z.z1 : z.z1;
  V z3 = flip ? -z.z3 : z.z3;
  Cell<V> whole{c.W, H, c.K};
  Piece<V, S> small;
  small.h = a;
  S p = a * b, a2 = a * a, b2 = b * b;
  if (M == 2) {
    S root_p = Ops<S>::sqrt(p) * root_h;
    S D = Ops<S>::sqrt(a2 * a + b2 * b);
    small.W = c.W * a + H * (p * T(6)) + z1 * (D * root_p);
    small.H = H * a2 + (z.z2 * (b * T(0.28867513459481288225)) - z1 * (a2 * T(0.5))) * (root_p / D);
    small.K = c.K;
  } else {
    S e = (a - b) * (a - b);
    S w = e * e + p * p * T(4);
    S u = a2 * a2 * a + b2 * b2 * b;
    S scale = Ops<S>::sqrt(a) * root_h;
    S l11 = Ops<S>::sqrt(b * w);
    S l21 = a2 * b * (a2 - p * T(3) + b2 * T(6)) * T(-0.5) / l11;
    S l31 = a2 * a * b * (a - b) * T(0.083333333333333333333) / l11;
    S l22 = Ops<S>::sqrt(b2 * b * u / (w * T(12)));
    S l32 = a2 * a2 * b2 * b * T(-0.041666666666666666667) / (w * l22);
    S l33 = Ops<S>::sqrt(b2 * b2 * b / (u * T(720)));
    small.W = c.W * a + H * (p * T(6)) + c.K * (p * (b - a) * T(60)) + z1 * (l11 * scale);
    small.H = H * a2 + c.K * (a2 * b * T(30)) + (z1 * l21 + z.z2 * l22) * scale;
    small.K = c.K * (a2 * a) + (z1 * l31 + z.z2 * l32 + z3 * l33) * scale;
  }
  Piece<V, S> rest = rest_after<V, S, M>(whole, small, a, b);
  left.W = flip ? rest.W : small.W;
  left.H = flip ? -rest.H : small.H;
  left.K = flip ? rest.K : small.K;
  right.W = flip ? small.W : rest.W;
  right.H = flip ? -small.H : rest.H;
  right.K = flip ? small.K : rest.K;
}

// ---- times ----------------------------------------------------------------------------------------------------------

// A time in units of leaves. Times become integers and fractions once, in double, the same on every device.
MK_HD double leaf_units(double t, double t0, double t1, int depth) {
  double xi = (t - t0) / (t1 - t0);
  xi = xi < 0.0 ? 0.0 : xi;
  xi = xi > 1.0 ? 1.0 : xi;
  return xi * static_cast<double>(uint64_t{1} << depth);
}

constexpr int never = 64;

// What a query [s, t] does, level by level; no floating-point time is compared after this.
struct QueryPlan {
  enum Kind { empty, whole, inside, across };
  Kind kind;
  uint64_t leaf_s, leaf_t;  // the leaves the two ends lie in; an end on a boundary counts to the inside of [s, t]
  double x_s, x_t;          // fractions: [0, 1) and (0, 1]
  int level_s, level_t;     // the first cell that starts at s / ends at t, or `never`
  int split;                // level of the last cell that holds both ends; whole: the level of the cell [s, t] is
};

MK_HD QueryPlan plan_query(double s_units, double t_units, int depth) {
  QueryPlan q{};
  if (!(s_units < t_units)) {
    q.kind = QueryPlan::empty;
    return q;
  }
  uint64_t fs = static_cast<uint64_t>(s_units), ft = static_cast<uint64_t>(t_units);
  q.leaf_s = fs;
  q.x_s = s_units - static_cast<double>(fs);
  q.level_s = q.x_s != 0.0 ? never : fs == 0 ? 0 : depth - trailing_zeros(fs);
  bool on_boundary = static_cast<double>(ft) == t_units;
  q.leaf_t = on_boundary ? ft - 1 : ft;
  q.x_t = on_boundary ? 1.0 : t_units - static_cast<double>(ft);
  q.level_t = on_boundary ? depth - trailing_zeros(ft) : never;
  q.split = depth - bit_width(q.leaf_s ^ q.leaf_t);
  int latest = q.level_s > q.level_t ? q.level_s : q.level_t;
  if (latest <= q.split) {
    q.kind = QueryPlan::whole;
    q.split = latest;
  } else {
    q.kind = q.leaf_s == q.leaf_t ? QueryPlan::inside : QueryPlan::across;
  }
  return q;
}

MK_HD uint64_t node_at(uint64_t leaf, int level, int depth) {
  return (uint64_t{1} << level) + (leaf >> (depth - level));
}
MK_HD bool goes_right(uint64_t leaf, int level, int depth) { return ((leaf >> (depth - 1 - level)) & 1) != 0; }

// Both ends in one leaf. The two cuts share the leaf's normals, so W stays additive and shrinks with the gap, and H and K
// follow Chen's relation unless they are cut off; the law is exact only for gaps of at least a leaf. In double, by lane.
template <int M>
MK_HD Piece<double, double> inside_leaf(const Cell<double>& c, double h, const QueryPlan& q, Normals3<double> z) {
  Piece<double, double> left, right;
  if (q.x_s == 0.0 || q.x_t == 1.0) {
    double x = q.x_s == 0.0 ? q.x_t : q.x_s;
    cut_leaf<double, double, M>(c, h, x, 1.0 - x, z, left, right);
    return q.x_s == 0.0 ? left : right;
  }
  Piece<double, double> to_s, to_t;
  cut_leaf<double, double, M>(c, h, q.x_s, 1.0 - q.x_s, z, to_s, right);
  cut_leaf<double, double, M>(c, h, q.x_t, 1.0 - q.x_t, z, to_t, right);
  Cell<double> whole{to_t.W, to_t.H, to_t.K};
  double a = q.x_s / q.x_t, b = (q.x_t - q.x_s) / q.x_t;
  Piece<double, double> out = rest_after<double, double, M>(whole, to_s, a, b);
  out.h = (q.x_t - q.x_s) * h;
  // One set of normals does not make a path with consistent areas at two points: for short gaps the inverse relation gives
  // areas (K above all) larger than any path has. Cut off at 64 standard deviations, K is at most of the size of W.
  double most_H = 64.0 * Ops<double>::sqrt(out.h * (1.0 / 12.0)),
         most_K = 64.0 * Ops<double>::sqrt(out.h * (1.0 / 720.0));
  out.H = out.H > most_H ? most_H : out.H < -most_H ? -most_H : out.H;
  out.K = out.K > most_K ? most_K : out.K < -most_K ? -most_K : out.K;
  return out;
}

template <class V, int M>
MK_HD Piece<V, typename Ops<V>::T> inside_leaf_lanes(const Cell<V>& c, typename Ops<V>::T h, const QueryPlan& q,
                                                     Normals3<V> z) {
  using O = Ops<V>;
  using T = typename O::T;
  Piece<V, T> out{T(0), c.W, c.H, c.K};
  for (int l = 0; l < O::N; ++l) {
    Cell<double> cell{O::lane(c.W, l), O::lane(c.H, l), O::lane(c.K, l)};
    Normals3<double> n{O::lane(z.z1, l), O::lane(z.z2, l), O::lane(z.z3, l)};
    Piece<double, double> p = inside_leaf<M>(cell, h, q, n);
    out.h = static_cast<T>(p.h);
    O::set_lane(out.W, l, static_cast<T>(p.W));
    O::set_lane(out.H, l, static_cast<T>(p.H));
    O::set_lane(out.K, l, static_cast<T>(p.K));
  }
  return out;
}

// ---- the query ------------------------------------------------------------------------------------------------------

// Remembers cells on the way to the end of the last query; the CUDA executor and one-off queries have none.
struct NoCursor {
  template <class V>
  MK_HD bool load(int&, Cell<V>&) {
    return false;
  }
  template <class V>
  MK_HD void store(int, const Cell<V>&) {}
};

template <class V, class S, int M>
MK_HD void prepend(Piece<V, S>& sum, bool& is_empty, const Piece<V, S>& p) {
  if (is_empty)
    sum = p;
  else
    sum = chen<V, S, M>(p, sum);
  is_empty = false;
}
template <class V, class S, int M>
MK_HD void append(Piece<V, S>& sum, bool& is_empty, const Piece<V, S>& p) {
  if (is_empty)
    sum = p;
  else
    sum = chen<V, S, M>(sum, p);
  is_empty = false;
}

template <class V>
MK_HD Piece<V, typename Ops<V>::T> as_piece(const Cell<V>& c, int level) {
  using T = typename Ops<V>::T;
  return {pow2_minus<T>(level), c.W, c.H, c.K};
}

template <class V, int M>
MK_HD void cut_leaf_at(uint64_t seed, uint64_t leaf, double x, int depth, typename Ops<V>::W lane_lo,
                       typename Ops<V>::W lane_hi, const Cell<V>& c, Piece<V, typename Ops<V>::T>& left,
                       Piece<V, typename Ops<V>::T>& right) {
  using T = typename Ops<V>::T;
  Normals3<V> z = tree_normals_at<V, M == 3>(seed, node_at(leaf, depth, depth), lane_lo, lane_hi, Tag::tree_leaf);
  cut_leaf<V, T, M>(c, pow2_minus<T>(depth), static_cast<T>(x), static_cast<T>(1.0 - x), z, left, right);
}

// [s, t] for lanes that share their times. The result is chen(suffix, prefix): the suffix gathers the pieces from s to the
// middle of the last common cell outside in, the prefix those from there to t left to right. Every executor gathers in
// this order, so all agree to the last bit. Cost: split + 2 (depth - split) node blocks at most.
template <class V, int M, class Cursor>
MK_HD Piece<V, typename Ops<V>::T> tree_query(uint64_t seed, int depth, typename Ops<V>::W lane_lo,
                                              typename Ops<V>::W lane_hi, const QueryPlan& q, Cursor& cursor) {
  using T = typename Ops<V>::T;
  using P = Piece<V, T>;
  if (q.kind == QueryPlan::empty) {
    V zero = Ops<V>::constant(T(0));
    return {T(0), zero, zero, zero};
  }
  Cell<V> cell, left, right;
  int level = 0;
  if (!cursor.load(level, cell)) cell = root_cell<V, M>(seed, lane_lo, lane_hi);
  int last = q.kind == QueryPlan::inside ? depth : q.split;
  for (; level < last; ++level) {
    split_at<V, M>(seed, node_at(q.leaf_t, level, depth), level, lane_lo, lane_hi, cell, left, right);
    cell = goes_right(q.leaf_t, level, depth) ? right : left;
    cursor.store(level + 1, cell);
  }
  if (q.kind == QueryPlan::whole) return as_piece<V>(cell, level);
  if (q.kind == QueryPlan::inside) {
    Normals3<V> z = tree_normals_at<V, M == 3>(seed, node_at(q.leaf_t, depth, depth), lane_lo, lane_hi, Tag::tree_leaf);
    return inside_leaf_lanes<V, M>(cell, pow2_minus<T>(depth), q, z);
  }
  split_at<V, M>(seed, node_at(q.leaf_t, level, depth), level, lane_lo, lane_hi, cell, left, right);
  Cell<V> middle = right;
  P suffix{}, prefix{}, cut_left, cut_right;
  bool empty = true;
  cell = left;
  int end = q.level_s < depth ? q.level_s : depth;
  for (level = q.split + 1; level < end; ++level) {
    split_at<V, M>(seed, node_at(q.leaf_s, level, depth), level, lane_lo, lane_hi, cell, left, right);
    if (goes_right(q.leaf_s, level, depth)) {
      cell = right;
    } else {
      prepend<V, T, M>(suffix, empty, as_piece<V>(right, level + 1));
      cell = left;
    }
  }
  if (q.level_s == never) {
    cut_leaf_at<V, M>(seed, q.leaf_s, q.x_s, depth, lane_lo, lane_hi, cell, cut_left, cut_right);
    prepend<V, T, M>(suffix, empty, cut_right);
  } else {
    prepend<V, T, M>(suffix, empty, as_piece<V>(cell, level));
  }
  empty = true;
  cell = middle;
  cursor.store(q.split + 1, cell);
  end = q.level_t < depth ? q.level_t : depth;
  for (level = q.split + 1; level < end; ++level) {
    split_at<V, M>(seed, node_at(q.leaf_t, level, depth), level, lane_lo, lane_hi, cell, left, right);
    if (goes_right(q.leaf_t, level, depth)) {
      append<V, T, M>(prefix, empty, as_piece<V>(left, level + 1));
      cell = right;
    } else {
      cell = left;
    }
    cursor.store(level + 1, cell);
  }
  if (q.level_t == never) {
    cut_leaf_at<V, M>(seed, q.leaf_t, q.x_t, depth, lane_lo, lane_hi, cell, cut_left, cut_right);
    append<V, T, M>(prefix, empty, cut_left);
  } else {
    append<V, T, M>(prefix, empty, as_piece<V>(cell, level));
  }
  return chen<V, T, M>(suffix, prefix);
}

}  // namespace mk
