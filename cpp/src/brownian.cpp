// CPU executor of the Brownian trees: plans queries, looks after cursors, cuts lanes into chunks.
#include <algorithm>
#include <mutex>
#include <vector>

#include "brownian_isa.hpp"
#include "mckean/executor.hpp"
#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t lane_grain = 256;                   // a multiple of every register's lanes; about 50 us of work
constexpr int64_t sweep_chunk = 4096;                 // times a thread sweeps before another may take over
constexpr int64_t cursor_bytes = int64_t{256} << 20;  // at most, per tree; the deepest levels are kept

template <class T>
const BrownianLoops<T>& loops(int components);
template <>
const BrownianLoops<float>& loops<float>(int components) {
  return brownian_table().f32[components - 1];
}
template <>
const BrownianLoops<double>& loops<double>(int components) {
  return brownian_table().f64[components - 1];
}

}  // namespace

// Cells on the way to the end of the last query. Only an accelerator: a cell is the same however it was reached.
struct Cursor {
  std::mutex in_use;
  std::vector<char> cells;
  std::vector<uint64_t> leaf;
  std::vector<int8_t> depth;
  int64_t lanes, stride;
  int first_level, per_cell, value_bytes;
  bool asked_before = false;
  bool shared_times = true;  // leaf[0], depth[0] then stand for all lanes
  bool worth_it = false;

  Cursor(const TreeArgs& tree, int bytes) : lanes(tree.paths * tree.dim), value_bytes(bytes) {
    per_cell = tree.components == 3 ? 3 : 2;
    stride = (lanes + 15) / 16 * 16;
    int64_t level_bytes = stride * per_cell * value_bytes;
    int64_t levels = std::min<int64_t>(tree.depth, cursor_bytes / level_bytes);
    first_level = static_cast<int>(tree.depth + 1 - levels);
    worth_it = levels > 0;
  }
  // Memory is taken at the second query: one look at a tree costs nothing extra.
  bool ready(const TreeArgs& tree) {
    if (!worth_it) return false;
    if (!asked_before) {
      asked_before = true;
      return false;
    }
    if (cells.empty()) {
      cells.resize(static_cast<size_t>(stride * per_cell * value_bytes * (tree.depth + 1 - first_level)));
      leaf.assign(static_cast<size_t>(lanes), 0);
      depth.assign(static_cast<size_t>(lanes), 0);
    }
    return true;
  }
  void forget() { std::fill(depth.begin(), depth.end(), static_cast<int8_t>(0)); }
  template <class T>
  CursorView<T> view() {
    return {reinterpret_cast<T*>(cells.data()), stride, first_level, leaf.data(), depth.data()};
  }
};

Cursor* make_cursor(const TreeArgs& tree, int value_bytes) { return new Cursor(tree, value_bytes); }
void free_cursor(Cursor* cursor) { delete cursor; }

namespace {

template <class T>
void increment(const TreeArgs& tree, const double* s, const double* t, bool per_path, T* W, T* H, T* K,
               Cursor* cursor) {
  T* out[3] = {W, H, K};
  CursorView<T> view{nullptr, 0, 0, nullptr, nullptr};
  std::unique_lock<std::mutex> lock;
  bool use = false;
  if (cursor) {
    lock = std::unique_lock<std::mutex>(cursor->in_use, std::try_to_lock);  // a second thread goes without
    use = lock.owns_lock() && cursor->ready(tree);
  }
  if (use) {
    if (cursor->shared_times == per_path) {
      cursor->forget();
      cursor->shared_times = !per_path;
    }
    view = cursor->view<T>();
  }
  int64_t lanes = tree.paths * tree.dim;
  try {
    if (per_path) {
      int64_t grain = lane_grain;
      parallel_for(lanes, grain,
                   [&](int64_t a, int64_t b) { loops<T>(tree.components).per_path(tree, s, t, a, b, out, view); });
      return;
    }
    QueryPlan q = plan_query(leaf_units(*s, tree.t0, tree.t1, tree.depth), leaf_units(*t, tree.t0, tree.t1, tree.depth),
                             tree.depth);
    int start = -1;
    if (use && q.kind != QueryPlan::empty) {
      int common = tree.depth - bit_width(cursor->leaf[0] ^ q.leaf_t);
      common = std::min<int>(common, cursor->depth[0]);
      common = std::min(common, q.kind == QueryPlan::inside ? tree.depth : q.split);
      if (common >= cursor->first_level) start = common;
    }
    parallel_for(lanes, lane_grain,
                 [&](int64_t a, int64_t b) { loops<T>(tree.components).shared(tree, q, start, a, b, out, view); });
    if (use && q.kind != QueryPlan::empty) {
      cursor->leaf[0] = q.leaf_t;
      cursor->depth[0] = static_cast<int8_t>(q.kind == QueryPlan::whole    ? q.split
                                             : q.kind == QueryPlan::inside ? tree.depth
                                             : q.level_t == never          ? tree.depth
                                                                           : std::max(q.level_t, q.split + 1));
    }
  } catch (...) {
    if (use) cursor->forget();  // interrupted half-way: some lanes' cells are of the old path
    throw;
  }
}

template <class T>
void increments(const TreeArgs& tree, const double* ts, int64_t n_times, T* W, T* H, T* K) {
  int64_t lanes = tree.paths * tree.dim, queries = n_times - 1;
  int64_t lane_chunks = (lanes + 63) / 64, time_chunks = (queries + sweep_chunk - 1) / sweep_chunk;
  parallel_for(lane_chunks * time_chunks, 1, [&](int64_t a, int64_t b) {
    for (int64_t c = a; c < b; ++c) {
      int64_t first = c % lane_chunks * 64, from = c / lane_chunks * sweep_chunk;
      int64_t count = std::min(sweep_chunk, queries - from) + 1;
      T* out[3] = {W ? W + from * lanes : nullptr, H ? H + from * lanes : nullptr, K ? K + from * lanes : nullptr};
      loops<T>(tree.components).sweep(tree, ts + from, count, first, std::min(lanes, first + 64), out);
    }
  });
}

}  // namespace

template <>
void tree_increment<float>(const TreeArgs& tree, const double* s, const double* t, bool per_path, float* W, float* H,
                           float* K, Cursor* cursor, Queue) {
  increment(tree, s, t, per_path, W, H, K, cursor);
}
template <>
void tree_increment<double>(const TreeArgs& tree, const double* s, const double* t, bool per_path, double* W, double* H,
                            double* K, Cursor* cursor, Queue) {
  increment(tree, s, t, per_path, W, H, K, cursor);
}
template <>
void tree_increments<float>(const TreeArgs& tree, const double* ts, int64_t n_times, float* W, float* H, float* K,
                            Queue) {
  increments(tree, ts, n_times, W, H, K);
}
template <>
void tree_increments<double>(const TreeArgs& tree, const double* ts, int64_t n_times, double* W, double* H, double* K,
                             Queue) {
  increments(tree, ts, n_times, W, H, K);
}
template <>
void fractional_values<float>(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                              float* out, Queue) {
  parallel_for(args.tree.paths * args.tree.dim, 64, [&](int64_t a, int64_t b) {
    brownian_table().fractional_f32(args, ts, n_times, partial, a, b, out, poll_inside_chunk);
  });
}
template <>
void fractional_values<double>(const FractionalArgs& args, const double* ts, int64_t n_times, const double* partial,
                               double* out, Queue) {
  parallel_for(args.tree.paths * args.tree.dim, 64, [&](int64_t a, int64_t b) {
    brownian_table().fractional_f64(args, ts, n_times, partial, a, b, out, poll_inside_chunk);
  });
}

}  // namespace cpu
}  // namespace mk
