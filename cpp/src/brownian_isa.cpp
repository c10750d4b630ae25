// Brownian trees, one instruction set. A node costs one Philox block and one or two Box-Muller pairs (one pair: space-time);
// that is what bounds every loop here. Measured with AVX2 in float, for a register of 8 lanes: 22 ns a block, 28 ns two pairs.
#include "brownian_isa.hpp"

#include "mckean/fractional.hpp"
#include "simd.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <class T>
using VecOf = typename VectorOf<T>::type;

template <int M>
constexpr int per_cell = M == 3 ? 3 : 2;  // M = 1 keeps the cell's own normal beside W

// Lane numbers of a register as counter words.
template <class V>
struct LaneWords {
  using W = typename Ops<V>::W;
  W lo, hi;
  MK_HD explicit LaneWords(uint64_t lane) {
    for (int l = 0; l < Ops<V>::N; ++l) {
      lo[l] = static_cast<uint32_t>(lane + static_cast<uint64_t>(l));
      hi[l] = static_cast<uint32_t>((lane + static_cast<uint64_t>(l)) >> 32);
    }
  }
};

template <class T, int M>
MK_HD void load_cell(const CursorView<T>& v, int level, int64_t lane, int n, Cell<VecOf<T>>& c) {
  using V = VecOf<T>;
  const T* p = v.cells + (level - v.first_level) * per_cell<M> * v.stride + lane;
  c.W = load_first<V>(p, n);
  c.H = load_first<V>(p + v.stride, n);
  c.K = M == 3 ? load_first<V>(p + 2 * v.stride, n) : c.W;
}
template <class T, int M>
MK_HD void store_cell(const CursorView<T>& v, int level, int64_t lane, int n, const Cell<VecOf<T>>& c) {
  using V = VecOf<T>;
  if (!v.cells || level < v.first_level) return;
  T* p = v.cells + (level - v.first_level) * per_cell<M> * v.stride + lane;
  store_first<V>(p, c.W, n);
  store_first<V>(p + v.stride, c.H, n);
  if (M == 3) store_first<V>(p + 2 * v.stride, c.K, n);
}

template <class T, int M>
struct RegisterCursor {
  const CursorView<T>& view;
  int start;
  int64_t lane;
  int n;
  MK_HD bool load(int& level, Cell<VecOf<T>>& c) {
    if (start < 0) return false;
    level = start;
    load_cell<T, M>(view, level, lane, n, c);
    return true;
  }
  MK_HD void store(int level, const Cell<VecOf<T>>& c) { store_cell<T, M>(view, level, lane, n, c); }
};

template <class T, int M>
MK_HD void write(T* const* out, int64_t at, int n, VecOf<T> W, VecOf<T> H, VecOf<T> K, T scale) {
  using V = VecOf<T>;
  if (out[0]) store_first<V>(out[0] + at, W * scale, n);
  if (M >= 2 && out[1]) store_first<V>(out[1] + at, H * scale, n);
  if (M == 3 && out[2]) store_first<V>(out[2] + at, K * scale, n);
}

template <class T>
MK_HD T time_scale(const TreeArgs& tree) {
  return static_cast<T>(Ops<double>::sqrt(tree.t1 - tree.t0));
}

template <class T, int M>
void shared(const TreeArgs& tree, const QueryPlan& q, int start, int64_t first, int64_t last, T* const* out,
            const CursorView<T>& view) {
  using V = VecOf<T>;
  constexpr int N = Ops<V>::N;
  T scale = time_scale<T>(tree);
  for (int64_t i = first; i < last; i += N) {
    int n = static_cast<int>(last - i < N ? last - i : N);
    LaneWords<V> lanes(static_cast<uint64_t>(tree.first_lane + i));
    RegisterCursor<T, M> cursor{view, start, i, n};
    Piece<V, T> p = tree_query<V, M>(tree.seed, tree.depth, lanes.lo, lanes.hi, q, cursor);
    write<T, M>(out, i, n, p.W, p.H, p.K, scale);
  }
}

// ---- times per path -------------------------------------------------------------------------------------------------

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

// One register of lanes, each with its own plan. Two tracks descend, towards s and towards t; until the first lane's paths
// part they are one. Lanes that are done or have nothing to do are masked.
template <class T, int M>
void query_lanes(const TreeArgs& tree, const QueryPlan* plan, int64_t at, int n, T* const* out,
                 const CursorView<T>& view) {
  using V = VecOf<T>;
  using O = Ops<V>;
  using W = typename O::W;
  using I = typename IntsOf<T>::type;
  using Lane = typename IntsOf<T>::lane;
  constexpr int N = O::N;
  const int depth = tree.depth;
  const uint64_t last_leaf = (uint64_t{1} << depth) - 1;

  LeafBits<V> leaf_s, leaf_t;
  I split{}, level_s{}, level_t{}, end_s{}, end_t{};
  V x_s = O::constant(T(0.5)), y_s = x_s, x_t = x_s, y_t = x_s;
  int first_split = depth, end = 0, start = depth;
  uint64_t stops_s = 0, stops_t = 0;  // levels at which some lane's track ends on a whole cell
  bool any_inside = false, cut_s = false, cut_t = false;
  for (int l = 0; l < N; ++l) {
    const QueryPlan& q = plan[l];
    uint64_t ls = q.leaf_s, lt = q.leaf_t;
    int s_level = -1, t_level = -1, sp = depth, common = depth;
    if (q.kind == QueryPlan::across) {
      sp = q.split;
      s_level = q.level_s == never ? never : q.level_s > sp ? q.level_s : sp + 1;
      t_level = q.level_t == never ? never : q.level_t > sp ? q.level_t : sp + 1;
      common = sp;
    } else if (q.kind == QueryPlan::whole) {
      s_level = q.split;  // the s-track alone delivers the cell
      sp = q.split - 1;
      common = q.split;
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
    if (view.cells && l < n) {
      int shared_levels = depth - bit_width(view.leaf[at + l] ^ lt);
      if (shared_levels > view.depth[at + l]) shared_levels = view.depth[at + l];
      if (shared_levels > common) shared_levels = common;
      if (shared_levels < start) start = shared_levels;
    }
  }

  LaneWords<V> lanes(static_cast<uint64_t>(tree.first_lane + at));
  Cell<V> cs, ct, left, right;
  int level = 0;
  if (view.cells && start >= view.first_level) {
    level = start;
    load_cell<T, M>(view, level, at, n, cs);
  } else {
    cs = root_cell<V, M>(tree.seed, lanes.lo, lanes.hi);
  }
  ct = cs;
  Piece<V, V> suffix{}, prefix{};
  for (;; ++level) {
    V h = O::constant(pow2_minus<T>(level));
    if ((stops_s >> level) & 1) gather<V, M, true>(suffix, Piece<V, V>{h, cs.W, cs.H, cs.K}, level_s == level);
    if ((stops_t >> level) & 1) gather<V, M, false>(prefix, Piece<V, V>{h, ct.W, ct.H, ct.K}, level_t == level);
    if (level >= end) break;
    T root_h = sqrt_pow2_minus<T>(level);
    bool odd = level % 2 != 0;
    V half = O::constant(pow2_minus<T>(level + 1));
    I below = split < static_cast<Lane>(level);
    W lo, hi;
    Normals3<V> z{cs.W, cs.W, cs.W};
    leaf_s.node(level, depth, lo, hi);
    if (M != 1 || !odd) z = tree_normals<V, M != 2>(tree.seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_node);
    split_with<V, M>(cs, root_h, odd, z, left, right);
    I go = leaf_s.right(level, depth);
    if (level > first_split || Ops<V>::any(below))
      gather<V, M, true>(suffix, Piece<V, V>{half, right.W, right.H, right.K}, below & ~go & (end_s > level));
    cs = select<V>(go, right, left);
    I go_t = leaf_t.right(level, depth);
    if (level > first_split) {
      leaf_t.node(level, depth, lo, hi);
      if (M != 1 || !odd) z = tree_normals<V, M != 2>(tree.seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_node);
      split_with<V, M>(ct, root_h, odd, z, left, right);
      gather<V, M, false>(prefix, Piece<V, V>{half, left.W, left.H, left.K}, below & go_t & (end_t > level));
    }
    ct = select<V>(go_t, right, left);
    store_cell<T, M>(view, level + 1, at, n, ct);
  }
  if (cut_s || cut_t) {
    Piece<V, V> a, b;
    W lo, hi;
    if (cut_s) {
      leaf_s.node(depth, depth, lo, hi);
      Normals3<V> z = tree_normals<V, M == 3>(tree.seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_leaf);
      cut_leaf<V, V, M>(cs, pow2_minus<T>(depth), x_s, y_s, z, a, b);
      gather<V, M, true>(suffix, b, level_s == never);
    }
    if (cut_t) {
      leaf_t.node(depth, depth, lo, hi);
      Normals3<V> z = tree_normals<V, M == 3>(tree.seed, lo, hi, lanes.lo, lanes.hi, Tag::tree_leaf);
      cut_leaf<V, V, M>(ct, pow2_minus<T>(depth), x_t, y_t, z, a, b);
      gather<V, M, false>(prefix, a, level_t == never);
    }
  }
  gather<V, M, false>(suffix, prefix, prefix.h != V{});
  T scale = time_scale<T>(tree);
  write<T, M>(out, at, n, suffix.W, suffix.H, suffix.K, scale);

  if (view.cells) {
    for (int l = 0; l < n; ++l) {
      uint64_t lt = plan[l].kind == QueryPlan::empty ? 0 : plan[l].leaf_t;
      view.leaf[at + l] = lt;
      view.depth[at + l] = static_cast<int8_t>(level);
    }
  }
  if (!any_inside) return;
  for (int l = 0; l < n; ++l) {
    if (plan[l].kind != QueryPlan::inside) continue;
    uint64_t lane = static_cast<uint64_t>(tree.first_lane + at + l);
    NoCursor none;
    Piece<T, T> p = tree_query<T, M>(tree.seed, depth, static_cast<uint32_t>(lane), static_cast<uint32_t>(lane >> 32),
                                     plan[l], none);
    if (out[0]) out[0][at + l] = p.W * scale;
    if (M >= 2 && out[1]) out[1][at + l] = p.H * scale;
    if (M == 3 && out[2]) out[2][at + l] = p.K * scale;
  }
}

template <class T, int M>
void per_path(const TreeArgs& tree, const double* s, const double* t, int64_t first, int64_t last, T* const* out,
              const CursorView<T>& view) {
  constexpr int N = Ops<VecOf<T>>::N;
  QueryPlan plan[N];
  int64_t path = -1;
  QueryPlan current{};
  for (int64_t i = first; i < last; i += N) {
    int n = static_cast<int>(last - i < N ? last - i : N);
    for (int l = 0; l < N; ++l) {
      int64_t p = (l < n ? i + l : i + n - 1) / tree.dim;
      if (p != path) {
        current = plan_query(leaf_units(s[p], tree.t0, tree.t1, tree.depth),
                             leaf_units(t[p], tree.t0, tree.t1, tree.depth), tree.depth);
        path = p;
      }
      plan[l] = current;
    }
    query_lanes<T, M>(tree, plan, i, n, out, view);
  }
}

// ---- a sweep over a grid --------------------------------------------------------------------------------------------

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

template <class T, int M>
void sweep(const TreeArgs& tree, const double* ts, int64_t n_times, int64_t first, int64_t last, T* const* out) {
  using V = VecOf<T>;
  constexpr int N = Ops<V>::N;
  T scale = time_scale<T>(tree);
  int64_t row = tree.paths * tree.dim;
  for (int64_t i = first; i < last; i += N) {
    int n = static_cast<int>(last - i < N ? last - i : N);
    LaneWords<V> lanes(static_cast<uint64_t>(tree.first_lane + i));
    Sweep<V, M> walk;
    walk.seed = tree.seed;
    walk.depth = tree.depth;
    walk.lane_lo = lanes.lo;
    walk.lane_hi = lanes.hi;
    walk.seek(leaf_units(ts[0], tree.t0, tree.t1, tree.depth));
    for (int64_t k = 1; k < n_times; ++k) {
      Piece<V, T> p = walk.advance(leaf_units(ts[k], tree.t0, tree.t1, tree.depth));
      write<T, M>(out, (k - 1) * row + i, n, p.W, p.H, p.K, scale);
    }
  }
}

// ---- fractional -----------------------------------------------------------------------------------------------------

template <class T>
void fractional(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial, int64_t first,
                int64_t last, T* out, void (*tick)()) {
  constexpr int N = Ops<VecD>::N;
  int64_t row = args.tree.paths * args.tree.dim;
  for (int64_t i = first; i < last; i += N) {
    int n = static_cast<int>(last - i < N ? last - i : N);
    LaneWords<VecD> lanes(static_cast<uint64_t>(args.tree.first_lane + i));
    auto store = [=](int64_t k, VecD value) {
      for (int l = 0; l < n; ++l) out[k * row + i + l] = static_cast<T>(value[l]);
    };
    fractional_walk<VecD>(args, lanes.lo, lanes.hi, ts, n_times, partial, store, tick);
  }
}

}  // namespace

extern const BrownianTable brownian_table;
const BrownianTable brownian_table = {{{shared<float, 1>, per_path<float, 1>, sweep<float, 1>},
                                       {shared<float, 2>, per_path<float, 2>, sweep<float, 2>},
                                       {shared<float, 3>, per_path<float, 3>, sweep<float, 3>}},
                                      {{shared<double, 1>, per_path<double, 1>, sweep<double, 1>},
                                       {shared<double, 2>, per_path<double, 2>, sweep<double, 2>},
                                       {shared<double, 3>, per_path<double, 3>, sweep<double, 3>}},
                                      fractional<float>,
                                      fractional<double>};

}  // namespace MK_ISA
}  // namespace mk
