// Brownian trees, one instruction set. A node costs one Philox block and one or two Box-Muller pairs (one pair: space-time);
// that is what bounds every loop here. Measured with AVX2 in float, for a register of 8 lanes: 22 ns a block, 28 ns two pairs.
#include "brownian_isa.hpp"

#include "mckean/fractional.hpp"
#include "tree_lanes.hpp"

namespace mk {
namespace MK_ISA {
namespace {

template <int M>
constexpr int per_cell = M == 3 ? 3 : 2;  // M = 1 keeps the cell's own normal beside W

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

// One register of lanes, each with its own plan.
template <class T, int M>
void query_lanes(const TreeArgs& tree, const QueryPlan* plan, int64_t at, int n, T* const* out,
                 const CursorView<T>& view) {
  const int depth = tree.depth;
  LanePlans<T> lanes_plan;
  lanes_plan.digest(plan, n, depth);
  int start = view.cells ? depth : -1;
  for (int l = 0; l < n && view.cells; ++l) {
    int shared = lanes_plan.shared_levels(plan[l], l, depth, view.leaf[at + l], view.depth[at + l]);
    if (shared < start) start = shared;
  }
  if (start < view.first_level) start = -1;
  LaneWords<VecOf<T>> lanes(static_cast<uint64_t>(tree.first_lane + at));
  RegisterCursor<T, M> cursor{view, start, at, n};
  auto sum = query_plans<T, M>(tree.seed, depth, lanes, lanes_plan, cursor);
  T scale = time_scale<T>(tree);
  write<T, M>(out, at, n, sum.W, sum.H, sum.K, scale);

  if (view.cells) {
    for (int l = 0; l < n; ++l) {
      view.leaf[at + l] = plan[l].kind == QueryPlan::empty ? 0 : plan[l].leaf_t;
      view.depth[at + l] = static_cast<int8_t>(lanes_plan.end);
    }
  }
  if (!lanes_plan.any_inside) return;
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
