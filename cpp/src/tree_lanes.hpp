// The Brownian tree for one register of lanes: queries with times of each lane's own, and sweeps over times they share.
#pragma once

#include "mckean/brownian.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class T>
using VecOf = typename VectorOf<T>::type;

// Lane numbers of a register as counter words.
template <class V>
struct LaneWords {
  using W = typename Ops<V>::W;
  W lo, hi;
  LaneWords() = default;
  MK_HD explicit LaneWords(uint64_t lane) {
    for (int l = 0; l < Ops<V>::N; ++l) {
      lo[l] = static_cast<uint32_t>(lane + static_cast<uint64_t>(l));
      hi[l] = static_cast<uint32_t>((lane + static_cast<uint64_t>(l)) >> 32);
    }
  }
};

// ---- times of each lane's own ---------------------------------------------------------------------------------------

// The leaf numbers of a register, bit by bit.
template <class V>
struct LeafBits;
template <>
struct LeafBits<VecF> {
  VecU32 lo{}, hi{};
  MK_HD void set(int l, uint64_t leaf) {
    lo[l] = static_cast<uint32_t>(leaf);
    hi[l] = static_cast<uint32_t>(leaf >> 32);
  }
  MK_HD VecI32 right(int level, int depth) const {
    int bit = depth - 1 - level;
    VecU32 w = bit >= 32 ? hi >> (bit - 32) : lo >> bit;
    return (w & 1u) != 0u;
  }
  MK_HD void node(int level, int depth, VecU32& node_lo, VecU32& node_hi) const {
    int k = depth - level;
    if (k == 0) {
      node_lo = lo;
      node_hi = hi;
    } else if (k < 32) {
      node_lo = (lo >> k) | (hi << (32 - k));
      node_hi = hi >> k;
    } else {
      node_lo = k < 64 ? hi >> (k - 32) : VecU32{};
      node_hi = VecU32{};
    }
    if (level < 32)
      node_lo |= uint32_t{1} << level;
    else
      node_hi |= uint32_t{1} << (level - 32);
  }
};
template <>
struct LeafBits<VecD> {
  VecU64 leaf{};
  MK_HD void set(int l, uint64_t value) { leaf[l] = value; }
  MK_HD VecI64 right(int level, int depth) const { return ((leaf >> (depth - 1 - level)) & 1ull) != 0ull; }
  MK_HD void node(int level, int depth, VecU64& node_lo, VecU64& node_hi) const {
    node_lo = (leaf >> (depth - level)) | (uint64_t{1} << level);
    node_hi = node_lo >> 32;
  }
};

template <class T>
struct IntsOf;
template <>
struct IntsOf<float> {
  using type = VecI32;
  using lane = int32_t;
};
template <>
struct IntsOf<double> {
  using type = VecI64;
  using lane = int64_t;
};

template <class V, class I>
MK_HD Cell<V> select(I m, const Cell<V>& a, const Cell<V>& b) {
  return {m ? a.W : b.W, m ? a.H : b.H, m ? a.K : b.K};
}

// Gathers p before (or after) the sum in the lanes of m.
template <class V, int M, bool before, class I>
MK_HD void gather(Piece<V, V>& sum, const Piece<V, V>& p, I m) {
  if (!Ops<V>::any(m)) return;
  Piece<V, V> joined = before ? chen<V, V, M>(p, sum) : chen<V, V, M>(sum, p);
  I fresh = m & (sum.h == V{});
  I old = m & ~fresh;
  sum.h = fresh ? p.h : (old ? joined.h : sum.h);
  sum.W = fresh ? p.W : (old ? joined.W : sum.W);
  sum.H = fresh ? p.H : (old ? joined.H : sum.H);
  sum.K = fresh ? p.K : (old ? joined.K : sum.K);
}

// Gathered from two tracks that descend, towards s and towards t; until the first lane's paths part they are one. Lanes that
// are done or have nothing to do are masked.
template <class T>
struct LanePlans {
  using V = VecOf<T>;
  using O = Ops<V>;
  using I = typename IntsOf<T>::type;
  static constexpr int N = O::N;

  LeafBits<V> leaf_s, leaf_t;
  I split, level_s, level_t, end_s, end_t;
  V x_s, y_s, x_t, y_t;
  int first_split, end;       // the first level at which some lane's tracks part; where the last track ends
  uint64_t stops_s, stops_t;  // levels at which some lane's track ends on a whole cell
  bool any_inside, cut_s, cut_t;

  // plan: one for each of the N lanes, the first n of which count.
  MK_HD void digest(const QueryPlan* plan, int n, int depth) {
    const uint64_t last_leaf = (uint64_t{1} << depth) - 1;
    x_s = y_s = x_t = y_t = O::constant(T(0.5));
    first_split = depth;
    end = 0;
    stops_s = stops_t = 0;
    any_inside = cut_s = cut_t = false;
    for (int l = 0; l < N; ++l) {
      const QueryPlan& q = plan[l];
      uint64_t ls = q.leaf_s, lt = q.leaf_t;
      int s_level = -1, t_level = -1, sp = depth;
      if (q.kind == QueryPlan::across) {
        sp = q.split;
        s_level = q.level_s == never ? never : q.level_s > sp ? q.level_s : sp + 1;
        t_level = q.level_t == never ? never : q.level_t > sp ? q.level_t : sp + 1;
      } else if (q.kind == QueryPlan::whole) {
        s_level = q.split;  // the s-track alone delivers the cell
        sp = q.split - 1;
        if (q.split < first_split) first_split = q.split;  // below the cell the two paths differ
      } else {
        any_inside |= q.kind == QueryPlan::inside && l < n;
        if (q.kind == QueryPlan::empty) ls = lt = 0;
      }
      if (lt > last_leaf) lt = last_leaf;
      leaf_s.set(l, ls);
      leaf_t.set(l, lt);
      split[l] = sp;
      level_s[l] = s_level;
      level_t[l] = t_level;
      int es = s_level == never ? depth : s_level, et = t_level == never ? depth : t_level;
      end_s[l] = es;
      end_t[l] = et;
      if (s_level >= 0 && s_level < never) stops_s |= uint64_t{1} << s_level;
      if (t_level >= 0 && t_level < never) stops_t |= uint64_t{1} << t_level;
      if (q.kind == QueryPlan::across) {
        if (sp < first_split) first_split = sp;
        if (s_level == never) {
          cut_s = true;
          x_s[l] = static_cast<T>(q.x_s);
          y_s[l] = static_cast<T>(1.0 - q.x_s);
        }
        if (t_level == never) {
          cut_t = true;
          x_t[l] = static_cast<T>(q.x_t);
          y_t[l] = static_cast<T>(1.0 - q.x_t);
        }
      }
      if (es > end) end = es;
      if (et > end) end = et;
    }
  }

  // How far down the cells on the way to leaf `known`, kept to `kept` levels, serve lane l.
  MK_HD int shared_levels(const QueryPlan& q, int l, int depth, uint64_t known, int kept) const {
    uint64_t lt = q.kind == QueryPlan::empty ? 0 : q.leaf_t, last_leaf = (uint64_t{1} << depth) - 1;
    if (lt > last_leaf) lt = last_leaf;
    int common = q.kind == QueryPlan::across || q.kind == QueryPlan::whole ? q.split : depth;
    int shared = depth - bit_width(known ^ lt);
    if (shared > kept) shared = kept;
    (void)l;
    return shared < common ? shared : common;
  }
};

// W, H, K of every lane on the unit interval; lanes with plans inside one leaf are left to tree_query.
template <class T, int M, class Cursor>
MK_HD Piece<VecOf<T>, VecOf<T>> query_plans(uint64_t seed, int depth, const LaneWords<VecOf<T>>& lanes,
                                            const LanePlans<T>& p, Cursor& cursor) {
  using V = VecOf<T>;
  using O = Ops<V>;
  using W = typename O::W;
  using I = typename IntsOf<T>::type;
  using Lane = typename IntsOf<T>::lane;
  Cell<V> cs, ct, left, right;
  int level = 0;
  if (!cursor.load(level, cs)) cs = root_cell<V, M>(seed, lanes.lo, lanes.hi);
  ct = cs;
  Piece<V, V> suffix{}, prefix{};
  for (;; ++level) {
    V h = O::constant(pow2_minus<T>(level));
    if ((p.stops_s >> level) & 1) gather<V, M, true>(suffix, Piece<V, V>{h, cs.W, cs.H, cs.K}, p.level_s == level);
    if ((p.stops_t >> level) & 1) gather<V, M, false>(prefix, Piece<V, V>{h, ct.W, ct.H, ct.K}, p.level_t == level);
    if (level >= p.end) break;
    T root_h = sqrt_pow2_minus<T>(level);
    bool odd = level % 2 != 0;
    V half = O::constant(pow2_minus<T>(level + 1));
    I below = p.split < static_cast<Lane>(level);
    W lo, hi;
    Normals3<V> z{cs.W, cs.W, cs.W};
    p.leaf_s.node(level, depth, lo, hi);
    if (M != 1 || !odd) z = tree_normals<V, M != 2>(seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_node);
    split_with<V, M>(cs, root_h, odd, z, left, right);
    I go = p.leaf_s.right(level, depth);
    if (level > p.first_split || Ops<V>::any(below))
      gather<V, M, true>(suffix, Piece<V, V>{half, right.W, right.H, right.K}, below & ~go & (p.end_s > level));
    cs = select<V>(go, right, left);
    I go_t = p.leaf_t.right(level, depth);
    if (level > p.first_split) {
      p.leaf_t.node(level, depth, lo, hi);
      if (M != 1 || !odd) z = tree_normals<V, M != 2>(seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_node);
      split_with<V, M>(ct, root_h, odd, z, left, right);
      gather<V, M, false>(prefix, Piece<V, V>{half, left.W, left.H, left.K}, below & go_t & (p.end_t > level));
    }
    ct = select<V>(go_t, right, left);
    cursor.store(level + 1, ct);
  }
  if (p.cut_s || p.cut_t) {
    Piece<V, V> a, b;
    W lo, hi;
    if (p.cut_s) {
      p.leaf_s.node(depth, depth, lo, hi);
      Normals3<V> z = tree_normals<V, M == 3>(seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_leaf);
      cut_leaf<V, V, M>(cs, pow2_minus<T>(depth), p.x_s, p.y_s, z, a, b);
      gather<V, M, true>(suffix, b, p.level_s == never);
    }
    if (p.cut_t) {
      p.leaf_t.node(depth, depth, lo, hi);
      Normals3<V> z = tree_normals<V, M == 3>(seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_leaf);
      cut_leaf<V, V, M>(ct, pow2_minus<T>(depth), p.x_t, p.y_t, z, a, b);
      gather<V, M, false>(prefix, a, p.level_t == never);
    }
  }
  gather<V, M, false>(suffix, prefix, prefix.h != V{});
  return suffix;
}

// ---- a sweep over times all lanes share -----------------------------------------------------------------------------

// Walks forward through the path of one register of lanes, keeping the right siblings still to come; about one split per
// leaf crossed and one cut per time that is not on a leaf's boundary. Gathers pieces in tree_query's order.
template <class V, int M>
struct Sweep {
  using T = typename Ops<V>::T;
  using W = typename Ops<V>::W;
  using P = Piece<V, T>;
  uint64_t seed;
  int depth;
  W lane_lo, lane_hi;
  double units;  // where we are
  Cell<V>
      pending[54];  // pending[l]: the right sibling of level l, if the path to here goes left there; or the next cell
  Cell<V> leaf;     // if units is inside a leaf: that leaf, its normals, and what is left of it
  Normals3<V> z;
  P rest;

  MK_HD void split(uint64_t leaf_number, int level, const Cell<V>& c, Cell<V>& left, Cell<V>& right) {
    split_at<V, M>(seed, node_at(leaf_number, level, depth), level, lane_lo, lane_hi, c, left, right);
  }
  MK_HD void enter_leaf(uint64_t number, const Cell<V>& c) {
    leaf = c;
    z = tree_normals_at<V, M == 3>(seed, node_at(number, depth, depth), lane_lo, lane_hi, Tag::tree_leaf);
  }
  MK_HD P cut(double x) {
    P left;
    cut_leaf<V, T, M>(leaf, pow2_minus<T>(depth), static_cast<T>(x), static_cast<T>(1.0 - x), z, left, rest);
    return left;
  }
  MK_HD void seek(double to) {
    units = to;
    uint64_t number = static_cast<uint64_t>(to);
    double x = to - static_cast<double>(number);
    Cell<V> cell = root_cell<V, M>(seed, lane_lo, lane_hi), left, right;
    if (number >> depth) return;  // at the very end: nothing follows
    int end = x != 0.0 ? depth : number == 0 ? 0 : depth - trailing_zeros(number);
    for (int level = 0; level < end; ++level) {
      split(number, level, cell, left, right);
      if (goes_right(number, level, depth)) {
        cell = right;
      } else {
        pending[level + 1] = right;
        cell = left;
      }
    }
    if (x != 0.0) {
      enter_leaf(number, cell);
      cut(x);
    } else {
      pending[end] = cell;
    }
  }
  // From a cell of `level` that starts where we are, left-most descendants down to level `to`.
  MK_HD Cell<V> descend_left(uint64_t number, int level, int to) {
    Cell<V> cell = pending[level], left;
    for (; level < to; ++level) {
      split(number, level, cell, left, pending[level + 1]);
      cell = left;
    }
    return cell;
  }
  MK_HD P advance(double to) {
    QueryPlan q = plan_query(units, to, depth);
    if (q.kind == QueryPlan::empty) {
      V zero = Ops<V>::constant(T(0));
      return {T(0), zero, zero, zero};
    }
    units = to;
    bool aligned = q.level_s != never;
    if (q.kind == QueryPlan::whole) return as_piece<V>(descend_left(q.leaf_s, q.level_s, q.split), q.split);
    if (q.kind == QueryPlan::inside) {
      if (aligned) enter_leaf(q.leaf_s, descend_left(q.leaf_s, q.level_s, depth));
      P p = inside_leaf_lanes<V, M>(leaf, pow2_minus<T>(depth), q, z);
      if (q.level_t == never) cut(q.x_t);
      return p;
    }
    P suffix{}, prefix{};
    Cell<V> cell, left, right;
    bool empty = true;
    if (aligned && q.level_s <= q.split) {
      cell = descend_left(q.leaf_s, q.level_s, q.split);
      split(q.leaf_s, q.split, cell, left, right);
      prepend<V, T, M>(suffix, empty, as_piece<V>(left, q.split + 1));
      cell = right;
    } else {
      int end = aligned ? q.level_s - 1 : depth;
      for (int level = q.split + 2; level <= end; ++level)
        if (!goes_right(q.leaf_s, level - 1, depth))
          prepend<V, T, M>(suffix, empty, as_piece<V>(pending[level], level));
      if (aligned)
        prepend<V, T, M>(suffix, empty, as_piece<V>(pending[q.level_s], q.level_s));
      else
        prepend<V, T, M>(suffix, empty, rest);
      cell = pending[q.split + 1];
    }
    empty = true;
    int level = q.split + 1;
    int end = q.level_t < depth ? q.level_t : depth;
    for (; level < end; ++level) {
      split(q.leaf_t, level, cell, left, right);
      if (goes_right(q.leaf_t, level, depth)) {
        append<V, T, M>(prefix, empty, as_piece<V>(left, level + 1));
        cell = right;
      } else {
        pending[level + 1] = right;
        cell = left;
      }
    }
    if (q.level_t == never) {
      enter_leaf(q.leaf_t, cell);
      append<V, T, M>(prefix, empty, cut(q.x_t));
    } else {
      append<V, T, M>(prefix, empty, as_piece<V>(cell, level));
    }
    return chen<V, T, M>(suffix, prefix);
  }
};

}  // namespace
}  // namespace MK_ISA
}  // namespace mk
