// CPU executor of the interaction sums. Work is cut into units: a chunk of rows against a slab of columns of one problem.
// A unit walks over its columns panel by panel; for each panel, tiles of distances are filled, mapped to kernel values and
// reduced into accumulators in double. Chunks, slabs and panels depend on the sizes alone, so results do not depend on the
// number of threads.
//
// Up to 16 dimensions distances are sums of squared differences. Beyond, s = |x|^2 + |y|^2 - 2 x.y by a matrix product,
// after the centre of the cloud was taken away; pairs so close that this loses digits are computed again by differences.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "interaction_isa.hpp"
#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t small_tile_rows = 8, stein_tile_rows = 4;
constexpr int64_t product_depth = 256;    // coordinates of one block of a matrix product
constexpr int64_t difference_depth = 32;  // coordinates of one block of differences
constexpr int64_t inline_pairs = 200000;  // below, other threads are not worth waking
constexpr int64_t accumulator_values = int64_t{1} << 17;
constexpr int max_narrow = 32;  // columns of weights that are summed register by register
constexpr int64_t max_kept_blocks = 16;
constexpr int64_t few_rows = 4;  // too few to pay for packing the columns

template <class T>
const TileLoops<T>& tile_loops();
template <>
const TileLoops<float>& tile_loops<float>() {
  return interaction_table().f32;
}
template <>
const TileLoops<double>& tile_loops<double>() {
  return interaction_table().f64;
}
template <class T>
const MapLoops<T>& map_loops();
template <>
const MapLoops<float>& map_loops<float>() {
  return map_table().f32;
}
template <>
const MapLoops<double>& map_loops<double>() {
  return map_table().f64;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Memory aligned to a cache line, not initialised, handed out in pieces.
class Arena {
 public:
  template <class T>
  T* take(int64_t n) {
    size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    blocks_.emplace_back(static_cast<unsigned char*>(::operator new(bytes + 64, std::align_val_t{64})));
    return reinterpret_cast<T*>(blocks_.back().get());
  }

 private:
  struct Free {
    void operator()(unsigned char* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::vector<std::unique_ptr<unsigned char, Free>> blocks_;
};

// Terms with the same distances.
struct Group {
  enum Kind { radial, product, sinc } kind;
  int metric;  // -1: none
  std::vector<int> terms;
  bool rough = false;
};

// What all units of a call share.
template <class T>
struct Plan {
  const PairArgs<T>& args;
  const TileLoops<T>& loops = tile_loops<T>();
  const MapLoops<T>& maps = map_loops<T>();
  std::vector<KernelConstants<T>> constants;
  std::vector<Group> groups;
  std::vector<std::vector<T>> metrics;           // of each group, in T; empty: none
  std::vector<T> trace;                          // of each group
  bool large;                                    // more dimensions than are compiled in
  bool differences = false;                      // distances by differences in large dimensions, too
  bool direct = false;                           // and pair by pair
  std::vector<T> centre;                         // (batch, dim)
  std::vector<std::vector<T>> roots;             // of each group's metric
  std::vector<std::vector<T>> x_norms, y_norms;  // of each group, (batch, n) and (batch, m)
  std::vector<std::vector<T>> near;              // of each group, (batch,), see finish_squares
  int64_t tile_rows, chunk, chunks, slab, slabs;

  explicit Plan(const PairArgs<T>& a) : args(a), large(a.dim > max_small_dim) {
    for (int t = 0; t < a.n_terms; ++t) {
      const KernelTerm& term = a.terms[t];
      constants.push_back(kernel_constants<T>(term));
      Group::Kind kind = is_radial(term.kind)            ? Group::radial
                         : term.kind == KernelKind::sinc ? Group::sinc
                                                         : Group::product;
      auto same = [&](const Group& g) { return g.kind == kind && g.metric == term.metric; };
      auto group = std::find_if(groups.begin(), groups.end(), same);
      if (group == groups.end()) group = groups.insert(groups.end(), Group{kind, term.metric, {}});
      group->terms.push_back(t);
      group->rough = group->rough || is_rough(term);
    }
    for (const Group& g : groups) {
      const double* metric = g.metric < 0 ? nullptr : a.metrics + g.metric * a.dim;
      metrics.emplace_back();
      double sum = static_cast<double>(a.dim);
      if (metric) {
        metrics.back().assign(metric, metric + a.dim);
        sum = 0.0;
        for (int64_t k = 0; k < a.dim; ++k) sum += metric[k];
      }
      trace.push_back(static_cast<T>(sum));
    }
  }

  const T* metric(size_t group) const { return metrics[group].empty() ? nullptr : metrics[group].data(); }

  // How rows and columns are cut. width: accumulators of a row.
  void cut(int64_t width, int64_t small_rows, int64_t large_rows = 192) {
    const PairArgs<T>& a = args;
    int64_t step = large ? loops.block_rows : small_rows, least = large ? 48 : 64, most = large ? large_rows : 512;
    most = std::max(least, std::min(most, accumulator_values / std::max<int64_t>(1, width)));
    chunk = std::min(most, std::max(least, ceil_div(a.n, 8)));
    chunk = round_up(std::min(chunk, std::max<int64_t>(1, a.n)), step);
    chunks = ceil_div(a.n, chunk);
    tile_rows = large ? chunk : small_rows;
    int64_t units = std::max<int64_t>(1, chunks * a.batch), wanted = units < 8 ? ceil_div(16, units) : 1;
    slabs = std::max<int64_t>(1, std::min(wanted, ceil_div(a.m, 4096)));
    slab = round_up(std::max<int64_t>(1, ceil_div(a.m, slabs)), tile_cols<T>);
    slabs = std::max<int64_t>(1, ceil_div(a.m, slab));
  }

  // Centres and norms for the matrix products.
  void prepare_products(bool gradient = false) {
    const PairArgs<T>& a = args;
    if (!large || differences || direct) return;
    centre.assign(static_cast<size_t>(a.batch * a.dim), T(0));
    // Any point near the middle of the cloud will do: the mean of some of y.
    int64_t samples = std::min<int64_t>(a.m, 256);
    std::vector<double> sum(static_cast<size_t>(a.dim));
    for (int64_t b = 0; b < a.batch && samples > 0; ++b) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t i = 0; i < samples; ++i) {
        const T* y = a.y + (b * a.m + i * a.m / samples) * a.dim;
        for (int64_t k = 0; k < a.dim; ++k) sum[k] += static_cast<double>(y[k]);
      }
      for (int64_t k = 0; k < a.dim; ++k) centre[b * a.dim + k] = static_cast<T>(sum[k] / static_cast<double>(samples));
    }
    x_norms.resize(groups.size());
    y_norms.resize(groups.size());
    near.resize(groups.size());
    roots.resize(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      if (groups[g].kind != Group::radial) continue;
      roots[g].assign(static_cast<size_t>(a.dim), T(1));
      if (groups[g].metric >= 0)
        for (int64_t k = 0; k < a.dim; ++k)
          roots[g][k] = static_cast<T>(std::sqrt(a.metrics[groups[g].metric * a.dim + k]));
      norms(a.x, a.n, roots[g], x_norms[g]);
      norms(a.y, a.m, roots[g], y_norms[g]);
      // The products err by a few eps (|x|^2 + |y|^2). Where that matters (gradients also take differences of sums), pairs that lie 20 (float) times closer than
      // their distance from the centre are computed again: their distances are then right to 1e-5, in double 1e-12.
      constexpr double eps = std::numeric_limits<T>::epsilon();
      double scale = 0.0;
      for (int t : groups[g].terms) {
        const KernelTerm& term = a.terms[t];
        if (is_rough(term)) continue;
        scale = std::max(scale, term.kind <= KernelKind::matern52 ? term.scale : term.scale / term.offset);
      }
      T threshold = sizeof(T) == 4 ? T(0.05) : T(1e-3);
      for (int64_t b = 0; b < a.batch; ++b) {  // of each problem by itself: its neighbours must not change its bits
        double top = largest(x_norms[g], b, a.n) + largest(y_norms[g], b, a.m);
        bool matters = gradient || groups[g].rough || scale * top * 4 * eps > (sizeof(T) == 4 ? 1e-6 : 1e-13);
        near[g].push_back(matters ? threshold : T(0));
      }
    }
  }

  static double largest(const std::vector<T>& norms, int64_t batch, int64_t count) {
    auto first = norms.begin() + batch * count;
    return count > 0 ? static_cast<double>(*std::max_element(first, first + count)) : 0.0;
  }

  void norms(const T* points, int64_t count, const std::vector<T>& root, std::vector<T>& out) const {
    const PairArgs<T>& a = args;
    out.resize(static_cast<size_t>(a.batch * count));
    parallel_for(a.batch * count, std::max<int64_t>(1, 65536 / a.dim), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        out[i] = loops.norm(points + i * a.dim, centre.data() + i / count * a.dim, root.data(), a.dim);
    });
  }
};

// One unit's tile and the memory it works in.
template <class T>
struct Worker {
  const Plan<T>& plan;
  const PairArgs<T>& args;
  Arena arena;
  int64_t batch = 0, row = 0, col = 0;  // of the first point of the tile
  int rows = 0, valid = 0, cols = 0;
  T *s, *k, *panel;
  T *a_block = nullptr, *b_block = nullptr;
  int32_t* close_list = nullptr;
  int n_close = 0;
  std::vector<int32_t> close;  // pairs of the tile that were computed again

  explicit Worker(const Plan<T>& p, bool whole_panel) : plan(p), args(p.args) {
    s = arena.take<T>(p.tile_rows * tile_cols<T>);
    k = arena.take<T>(p.tile_rows * tile_cols<T>);
    int64_t depth = p.large && !whole_panel ? difference_depth : args.dim;
    panel = arena.take<T>(depth * tile_cols<T>);
    if (p.large) {
      int64_t deep = std::min(args.dim, product_depth);
      a_block = arena.take<T>(round_up(p.tile_rows, p.loops.block_rows) * deep);
      b_block = arena.take<T>(tile_cols<T> * deep);
      close_list = arena.take<int32_t>(p.tile_rows * tile_cols<T>);
    }
  }

  const T* x() const { return args.x + (batch * args.n + row) * args.dim; }
  const T* y() const { return args.y + (batch * args.m + col) * args.dim; }

  void start_panel(bool pack) {
    if (pack) plan.loops.pack_panel(y(), args.dim, args.dim, valid, cols, panel);
  }

  // Columns past the end of the data get a harmless argument: some kernels are infinite at 0.
  void pad(T* tile) const {
    for (int r = 0; r < rows; ++r)
      for (int j = valid; j < cols; ++j) tile[r * tile_cols<T> + j] = T(1);
  }

  // The arguments of a group's kernels, to s.
  void fill(size_t g) {
    const auto& loops = plan.loops;
    bool radial = plan.groups[g].kind == Group::radial;
    const T* metric = plan.metric(g);
    close.clear();
    if (!plan.large) {
      auto& table = !radial ? loops.dots : metric ? loops.metric_squares : loops.squares;
      table[args.dim](x(), args.dim, rows, args.dim, panel, cols, metric, true, s);
    } else if (plan.direct && radial) {
      for (int r = 0; r < rows; ++r)
        for (int j = 0; j < valid; ++j)
          s[r * tile_cols<T> + j] = loops.pair_square(x() + r * args.dim, y() + j * args.dim, args.dim, metric);
    } else if (plan.differences) {
      fill_by_differences(radial, metric);
    } else {
      fill_by_products(g, radial);
      if (radial) finish_squares(g, metric);
    }
    if (valid < cols) pad(s);
  }

  void fill_by_differences(bool radial, const T* metric) {
    const auto& loops = plan.loops;
    auto loop = !radial ? loops.dots[0] : metric ? loops.metric_squares[0] : loops.squares[0];
    for (int64_t d = 0; d < args.dim; d += difference_depth) {
      int64_t depth = std::min(difference_depth, args.dim - d);
      loops.pack_panel(y() + d, args.dim, depth, valid, cols, panel);
      loop(x() + d, args.dim, rows, depth, panel, cols, metric ? metric + d : nullptr, d == 0, s);
      poll_inside_chunk();
    }
  }

  void fill_by_products(size_t g, bool radial) {
    const auto& loops = plan.loops;
    static const std::vector<T> zeros(product_depth, T(0)), ones(product_depth, T(1));
    for (int64_t d = 0; d < args.dim; d += product_depth) {
      int64_t depth = std::min(product_depth, args.dim - d);
      const T* centre = radial ? plan.centre.data() + batch * args.dim + d : zeros.data();
      const T* root = radial ? plan.roots[g].data() + d : ones.data();
      loops.pack_rows(x() + d, args.dim, depth, rows, centre, root, a_block);
      loops.pack_columns(y() + d, args.dim, depth, valid, centre, root, b_block);
      loops.product_block(a_block, b_block, rows, static_cast<int>(round_up(valid, loops.col_step)), depth, d == 0, s);
      poll_inside_chunk();
    }
  }

  void finish_squares(size_t g, const T* metric) {
    const auto& loops = plan.loops;
    T ny[tile_cols<T>];
    const T* nx = plan.x_norms[g].data() + batch * args.n + row;
    std::copy_n(plan.y_norms[g].data() + batch * args.m + col, valid, ny);
    std::fill(ny + valid, ny + cols, T(0));
    T near = plan.near[g][batch];
    int found = loops.finish_squares(s, rows, cols, nx, ny, near, close_list);
    for (int i = 0; i < found; ++i) {
      int r = close_list[i] / tile_cols<T>, first = close_list[i] % tile_cols<T>;
      for (int j = first; j < std::min(first + loops.lanes, valid); ++j) {
        int at = r * tile_cols<T> + j;
        if (!(s[at] < near * (nx[r] + ny[j]))) continue;
        s[at] = loops.pair_square(x() + r * args.dim, y() + j * args.dim, args.dim, metric);
        close.push_back(at);
      }
    }
  }

  bool has_diagonal() const { return args.exclude_self && col < row + rows && row < col + valid; }
  void set_diagonal(T* tile, T value) const {
    if (!has_diagonal()) return;
    for (int64_t i = std::max(row, col); i < std::min(row + rows, col + valid); ++i)
      tile[(i - row) * tile_cols<T> + (i - col)] = value;
  }

  // The kernel of all groups, to k.
  void fill_values() {
    bool first = true;
    for (size_t g = 0; g < plan.groups.size(); ++g) {
      const Group& group = plan.groups[g];
      if (group.kind == Group::sinc) {
        fill_sinc(group, first);
        continue;
      }
      fill(g);
      for (int t : group.terms) {
        plan.maps.value[static_cast<int>(args.terms[t].kind)](s, rows, cols, plan.constants[t], first, k);
        first = false;
      }
    }
    set_diagonal(k, T(0));
  }

  void fill_sinc(const Group& group, bool& first) {
    for (int t : group.terms) {
      poll_inside_chunk();
      plan.loops.sinc(x(), rows, args.dim, panel, cols, plan.constants[t].scale, s);
      for (int r = 0; r < rows; ++r)
        for (int j = r * tile_cols<T>; j < r * tile_cols<T> + cols; ++j)
          k[j] = (first ? T(0) : k[j]) + plan.constants[t].coefficient * s[j];
      first = false;
    }
  }
};

template <class T>
bool has_sinc(const Plan<T>& plan) {
  return std::any_of(plan.groups.begin(), plan.groups.end(), [](const Group& g) { return g.kind == Group::sinc; });
}

// Weights of a panel: few columns one register row each (narrow), many in blocks of wide_cols columns one after the other.
// Blocks are packed once for a panel if its rows come in many small tiles, else for each tile. centre: taken from the
// values, (batch, columns) as in Plan.
template <class T>
class PanelWeights {
 public:
  PanelWeights(const PairWeights<T>& w, Worker<T>& worker, const T* centre = nullptr)
      : w_(w), worker_(worker), centre_(centre) {
    narrow_ = w.columns <= max_narrow && !centre;
    int64_t blocks = ceil_div(w.columns, int64_t{wide_cols});
    kept_ = blocks == 1 || (!worker.plan.large && blocks <= max_kept_blocks);
    int64_t columns = narrow_ ? w.columns : (kept_ ? blocks : 1) * wide_cols;
    panel_ = worker.arena.template take<T>(columns * tile_cols<T>);
  }
  const T* panel() const { return panel_; }

  void pack() {
    if (!narrow_) {
      for (int64_t q = 0; kept_ && q < w_.columns; q += wide_cols) pack_block(q, panel_ + q * tile_cols<T>);
    } else if (w_.data) {
      worker_.plan.loops.pack_panel(rows(), w_.columns, w_.columns, worker_.valid, worker_.cols, panel_);
    } else {
      std::fill(panel_, panel_ + worker_.valid, T(1));
      std::fill(panel_ + worker_.valid, panel_ + worker_.cols, T(0));
    }
  }
  // out (rows, columns) += k times the weights
  void add(const T* k, double* out, int64_t stride) {
    const auto& loops = worker_.plan.loops;
    if (narrow_) {
      loops.reduce_narrow(k, worker_.rows, worker_.cols, panel_, static_cast<int>(w_.columns), out, stride);
      return;
    }
    for (int64_t q = 0; q < w_.columns; q += wide_cols) {
      T* block = kept_ ? panel_ + q * tile_cols<T> : panel_;
      if (!kept_) pack_block(q, block);
      loops.reduce_wide(k, worker_.rows, worker_.cols, block, block_columns(q), out + q, stride);
    }
  }

 private:
  const T* rows() const {
    return w_.data + ((w_.per_batch ? worker_.batch * worker_.args.m : 0) + worker_.col) * w_.columns;
  }
  int block_columns(int64_t q) const { return static_cast<int>(std::min<int64_t>(wide_cols, w_.columns - q)); }
  void pack_block(int64_t q, T* out) {
    const T* centre = centre_ ? centre_ + worker_.batch * w_.columns + q : nullptr;
    worker_.plan.loops.pack_values(rows() + q, w_.columns, worker_.valid, worker_.cols, block_columns(q), centre, out);
  }
  const PairWeights<T>& w_;
  Worker<T>& worker_;
  const T* centre_;
  bool narrow_, kept_;
  T* panel_;
};

// The memory that units work in, as many as threads are at work: fresh memory costs more than a small unit's sums.
template <class T, class Op>
class Workers {
 public:
  struct State {
    Worker<T> worker;
    typename Op::Local local;
    std::vector<double> own;
    State(const Plan<T>& plan, const Op& op) : worker(plan, op.whole_panel), local(op, worker) {}
  };
  Workers(const Plan<T>& plan, const Op& op) : plan_(plan), op_(op) {}

  std::unique_ptr<State> take() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        auto state = std::move(idle_.back());
        idle_.pop_back();
        return state;
      }
    }
    return std::make_unique<State>(plan_, op_);
  }
  void give_back(std::unique_ptr<State> state) {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(state));
  }

 private:
  const Plan<T>& plan_;
  const Op& op_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<State>> idle_;
};

// Runs an operation over all units. Op has: width, accumulators of a row; whole_panel, pack_small; a Local with the
// memory of one unit and panel(), tile(acc); start(acc); merge(acc, other); finish(batch, row, acc).
template <class T, class Op>
void run(const Plan<T>& plan, const Op& op) {
  const PairArgs<T>& a = plan.args;
  if (a.batch == 0 || a.n == 0) return;
  int64_t width = op.width, per_problem = plan.chunks * plan.slabs, units = a.batch * per_problem;
  std::vector<double> parts;
  if (plan.slabs > 1) parts.resize(static_cast<size_t>(a.batch * plan.slabs * a.n * width));
  // Small problems go together, so that a chunk is worth its memory and its claim.
  int64_t pairs = a.batch * a.n * a.m, unit_pairs = std::max<int64_t>(1, pairs / units);
  int64_t grain = std::max<int64_t>(1, pairs < inline_pairs ? units : inline_pairs / 4 / unit_pairs);
  Workers<T, Op> workers(plan, op);
  parallel_for(units, grain, [&](int64_t begin, int64_t end) {
    auto state = workers.take();
    Worker<T>& worker = state->worker;
    typename Op::Local& local = state->local;
    std::vector<double>& own = state->own;
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t batch = unit / per_problem, slab = unit % per_problem / plan.chunks, chunk = unit % plan.chunks;
      int64_t first = chunk * plan.chunk, last = std::min(a.n, first + plan.chunk);
      double* acc;
      if (plan.slabs > 1) {
        acc = parts.data() + ((batch * plan.slabs + slab) * a.n + first) * width;
      } else {
        own.resize(static_cast<size_t>(plan.chunk * width));
        acc = own.data();
      }
      for (int64_t r = first; r < last; ++r) op.start(acc + (r - first) * width);
      worker.batch = batch;
      int64_t end_col = std::min(a.m, (slab + 1) * plan.slab);
      for (worker.col = slab * plan.slab; worker.col < end_col; worker.col += tile_cols<T>) {
        worker.valid = static_cast<int>(std::min<int64_t>(tile_cols<T>, end_col - worker.col));
        worker.cols = static_cast<int>(round_up(worker.valid, plan.loops.col_step));
        worker.start_panel(!plan.large || op.whole_panel);
        local.panel();
        for (worker.row = first; worker.row < last; worker.row += plan.tile_rows) {
          worker.rows = static_cast<int>(std::min(plan.tile_rows, last - worker.row));
          local.tile(acc + (worker.row - first) * width);
        }
        poll_inside_chunk();
      }
      if (plan.slabs == 1)
        for (int64_t r = first; r < last; ++r) op.finish(batch, r, acc + (r - first) * width);
    }
    workers.give_back(std::move(state));
  });
  if (plan.slabs == 1) return;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t r = 0; r < a.n; ++r) {
      double* total = parts.data() + (b * plan.slabs * a.n + r) * width;
      for (int64_t s = 1; s < plan.slabs; ++s) op.merge(total, total + s * a.n * width);
      op.finish(b, r, total);
    }
}

template <class T>
struct AddOp {
  const Plan<T>& plan;
  int64_t width;
  bool whole_panel;
  void start(double* acc) const { std::fill_n(acc, width, 0.0); }
  void merge(double* acc, const double* other) const {
    for (int64_t i = 0; i < width; ++i) acc[i] += other[i];
  }
};

// ---- sums -----------------------------------------------------------------------------------------------------------

template <class T>
struct SumOp : AddOp<T> {
  PairWeights<T> weights;
  T* out;
  struct Local {
    const SumOp& op;
    Worker<T>& w;
    PanelWeights<T> weights;
    Local(const SumOp& o, Worker<T>& worker) : op(o), w(worker), weights(o.weights, worker) {}
    void panel() { weights.pack(); }
    void tile(double* acc) {
      const Plan<T>& plan = w.plan;
      if (op.width == 1 && !w.has_diagonal() && !op.whole_panel) {
        for (size_t g = 0; g < plan.groups.size(); ++g) {
          w.fill(g);
          for (int t : plan.groups[g].terms)
            plan.maps.value_sum[static_cast<int>(w.args.terms[t].kind)](w.s, w.rows, w.cols, plan.constants[t],
                                                                        weights.panel(), acc, 1);
        }
        return;
      }
      w.fill_values();
      weights.add(w.k, acc, op.width);
    }
  };
  void finish(int64_t b, int64_t row, const double* acc) const {
    for (int64_t q = 0; q < this->width; ++q)
      out[(b * this->plan.args.n + row) * this->width + q] = static_cast<T>(acc[q]);
  }
};

// ---- gradients ------------------------------------------------------------------------------------------------------

// Accumulators of a row: for each group dim numbers and the sum of the factors, then the sum of the values.
template <class T>
struct GradientOp : AddOp<T> {
  PairWeights<T> weights;
  bool in_y, watch;
  T *sum, *gradient;
  std::atomic<int64_t>* coincident;
  struct Local {
    const GradientOp& op;
    Worker<T>& w;
    PanelWeights<T> weights;
    PairWeights<T> columns;  // y as values
    PanelWeights<T> values, centred;
    T *factors, *spare_weights, *scratch;  // factors: of each term, see MapLoops::slope
    Local(const GradientOp& o, Worker<T>& worker)
        : op(o),
          w(worker),
          weights(o.weights, worker),
          columns{w.args.y, w.args.dim, true},
          values(columns, worker),
          centred(columns, worker, w.plan.centre.data()) {
      factors = w.arena.template take<T>(w.args.n_terms * tile_cols<T>);
      spare_weights = w.arena.template take<T>(tile_cols<T>);
      scratch = op.whole_panel ? w.arena.template take<T>(3 * w.args.dim * w.plan.loops.lanes) : nullptr;
    }
    void panel() {
      weights.pack();
      if (w.plan.large && has(Group::product)) values.pack();
      if (w.plan.large && has(Group::radial)) centred.pack();
      for (int t = 0; t < w.args.n_terms; ++t) {
        T factor = w.plan.constants[t].coefficient * w.plan.constants[t].slope;
        for (int j = 0; j < w.cols; ++j) factors[t * tile_cols<T> + j] = factor * weights.panel()[j];
      }
    }

    void tile(double* acc) {
      const Plan<T>& plan = w.plan;
      const int64_t dim = w.args.dim, width = op.width;
      for (size_t g = 0; g < plan.groups.size(); ++g) {
        const Group& group = plan.groups[g];
        double* out = acc + static_cast<int64_t>(g) * (dim + 1);
        double* values_sum = op.sum ? acc + width - 1 : nullptr;
        if (group.kind == Group::sinc) {
          sinc(group, out, values_sum);
          continue;
        }
        w.fill(g);
        if (op.watch) watch(group);
        bool diagonal = w.has_diagonal();
        bool first = true;
        for (int t : group.terms) {
          auto map = plan.maps.slope[static_cast<int>(w.args.terms[t].kind)];
          map(w.s, w.rows, w.cols, plan.constants[t], weights.panel(), factors + t * tile_cols<T>, first, w.k,
              diagonal ? nullptr : values_sum, width);
          first = false;
        }
        w.set_diagonal(w.k, T(0));
        reduce(g, out);
        if (diagonal && values_sum) diagonal_values(group, values_sum);
      }
    }

    bool has(Group::Kind kind) const {
      return std::any_of(w.plan.groups.begin(), w.plan.groups.end(), [&](const Group& g) { return g.kind == kind; });
    }

    void reduce(size_t g, double* out) {
      const Plan<T>& plan = w.plan;
      const auto& loops = plan.loops;
      const int64_t dim = w.args.dim, width = op.width;
      bool radial = plan.groups[g].kind == Group::radial;
      if (!radial && op.in_y) {
        loops.row_sums(w.k, w.rows, w.cols, out + dim, width);
        return;
      }
      if (!plan.large) {
        if (radial) {
          double part[small_tile_rows * max_small_dim] = {};
          loops.reduce_grad[dim](w.k, w.rows, w.cols, w.x(), w.panel, part);
          for (int r = 0; r < w.rows; ++r)
            for (int64_t a = 0; a < dim; ++a) out[r * width + a] += part[r * dim + a];
        } else {
          loops.reduce_narrow(w.k, w.rows, w.cols, w.panel, static_cast<int>(dim), out, width);
        }
        return;
      }
      if (!radial) {
        values.add(w.k, out, width);
        return;
      }
      // sum c (x - y) = (x - centre) sum c - sum c (y - centre); close pairs, where that cancels, one by one.
      for (int32_t at : w.close) {
        int r = at / tile_cols<T>, j = at % tile_cols<T>;
        const T *x = w.x() + r * dim, *y = w.y() + j * dim;
        double c = static_cast<double>(w.k[at]);
        loops.subtract_difference(c, x, y, dim, out + r * width);
        w.k[at] = T(0);
      }
      loops.row_sums(w.k, w.rows, w.cols, out + dim, width);
      centred.add(w.k, out, width);
    }

    void diagonal_values(const Group& group, double* values_sum) {
      bool first = true;
      for (int t : group.terms) {
        w.plan.maps.value[static_cast<int>(w.args.terms[t].kind)](w.s, w.rows, w.cols, w.plan.constants[t], first, w.k);
        first = false;
      }
      w.set_diagonal(w.k, T(0));
      w.plan.loops.reduce_narrow(w.k, w.rows, w.cols, weights.panel(), 1, values_sum, op.width);
    }

    void watch(const Group& group) {
      bool singular = false;
      for (int t : group.terms) singular = singular || is_singular(w.args.terms[t]);
      if (!singular) return;
      int64_t zeros = w.plan.loops.count_zeros(w.s, w.rows, w.cols);
      if (zeros && w.has_diagonal())
        for (int64_t i = std::max(w.row, w.col); i < std::min(w.row + w.rows, w.col + w.valid); ++i)
          zeros -= w.s[(i - w.row) * tile_cols<T> + (i - w.col)] < least_square<T>();
      if (zeros) op.coincident->fetch_add(zeros, std::memory_order_relaxed);
    }

    void sinc(const Group& group, double* out, double* values_sum) {
      const auto& loops = w.plan.loops;
      const int64_t dim = w.args.dim, width = op.width;
      std::vector<double> part(static_cast<size_t>(dim));
      for (int t : group.terms) {
        const auto& c = w.plan.constants[t];
        for (int r = 0; r < w.rows; ++r) {
          poll_inside_chunk();
          std::copy_n(weights.panel(), w.cols, spare_weights);
          int64_t self = w.row + r - w.col;
          if (w.args.exclude_self && self >= 0 && self < w.valid) spare_weights[self] = T(0);
          std::fill(part.begin(), part.end(), 0.0);
          loops.sinc_grad(w.x() + r * dim, 1, dim, w.panel, w.cols, c.scale, spare_weights, part.data(), scratch);
          for (int64_t a = 0; a < dim; ++a) out[r * width + a] += static_cast<double>(c.coefficient) * part[a];
          if (!values_sum) continue;
          loops.sinc(w.x() + r * dim, 1, dim, w.panel, w.cols, c.scale, w.k);
          double value = 0.0;
          loops.reduce_narrow(w.k, 1, w.cols, spare_weights, 1, &value, 1);
          values_sum[r * width] += static_cast<double>(c.coefficient) * value;
        }
      }
    }
  };

  void finish(int64_t b, int64_t row, const double* acc) const {
    const Plan<T>& plan = this->plan;
    const int64_t dim = plan.args.dim, at = b * plan.args.n + row;
    const T* x = plan.args.x + at * dim;
    for (int64_t a = 0; a < dim; ++a) {
      double total = 0.0;
      for (size_t g = 0; g < plan.groups.size(); ++g) {
        const double* part = acc + static_cast<int64_t>(g) * (dim + 1);
        double value = part[a];
        if (plan.groups[g].kind == Group::product) {
          if (in_y) value = static_cast<double>(x[a]) * part[dim];
        } else {
          if (plan.groups[g].kind == Group::radial) {
            if (plan.large)
              value = (static_cast<double>(x[a]) - static_cast<double>(plan.centre[b * dim + a])) * part[dim] - value;
            if (plan.groups[g].metric >= 0) value *= plan.args.metrics[plan.groups[g].metric * dim + a];
          }
          if (in_y) value = -value;
        }
        total += value;
      }
      gradient[at * dim + a] = static_cast<T>(total);
    }
    if (sum) sum[at] = static_cast<T>(acc[this->width - 1]);
  }
};

// ---- log-sum-exp and softmax means ----------------------------------------------------------------------------------

// Accumulators of a row: the largest exponent so far (base 2), the sum of the rest, and the weighted sums of the values.
template <class T>
struct SoftmaxOp {
  const Plan<T>& plan;
  int64_t width;
  bool whole_panel;
  PairWeights<T> log_weights, values;
  const std::vector<double>& shifts;  // of the log weights, one for each problem
  T *logsumexp, *mean;
  std::atomic<int64_t>* empty;

  void start(double* acc) const {
    std::fill_n(acc, width, 0.0);
    acc[0] = -std::numeric_limits<double>::infinity();
  }
  static void rescale(double* acc, double top, int64_t width) {
    if (!(top > acc[0])) return;
    double factor = std::exp2(acc[0] - top);
    for (int64_t i = 1; i < width; ++i) acc[i] *= factor;
    acc[0] = top;
  }
  void merge(double* acc, const double* other) const {
    if (other[0] == -std::numeric_limits<double>::infinity()) return;
    rescale(acc, other[0], width);
    double factor = std::exp2(other[0] - acc[0]);
    for (int64_t i = 1; i < width; ++i) acc[i] += factor * other[i];
  }

  struct Local {
    const SoftmaxOp& op;
    Worker<T>& w;
    PanelWeights<T> values;
    T *weights, *tops;
    Local(const SoftmaxOp& o, Worker<T>& worker) : op(o), w(worker), values(o.values, worker) {
      weights = w.arena.template take<T>(tile_cols<T>);
      tops = w.arena.template take<T>(w.plan.tile_rows);
    }
    void panel() {
      constexpr double log2_e = 1.44269504088896340736;
      const T* lw = op.log_weights.data;
      if (lw) lw += (op.log_weights.per_batch ? w.batch * w.args.m : 0) + w.col;
      double shift = op.shifts.empty() ? 0.0 : op.shifts[op.log_weights.per_batch ? w.batch : 0];
      for (int j = 0; j < w.valid; ++j)
        weights[j] = lw ? static_cast<T>((static_cast<double>(lw[j]) - shift) * log2_e) : T(0);
      std::fill(weights + w.valid, weights + w.cols, -std::numeric_limits<T>::infinity());
      if (op.mean) values.pack();
    }
    void tile(double* acc) {
      const Plan<T>& plan = w.plan;
      for (size_t g = 0; g < plan.groups.size(); ++g) {
        w.fill(g);
        for (int t : plan.groups[g].terms) {
          plan.maps.log2[static_cast<int>(w.args.terms[t].kind)](w.s, w.rows, w.cols, plan.constants[t], weights, w.k,
                                                                 tops);
          if (w.has_diagonal()) leave_out_diagonal();
          for (int r = 0; r < w.rows; ++r) {
            double* row = acc + r * op.width;
            rescale(row, static_cast<double>(tops[r]), op.width);
            // Nothing so far: any finite number will do, all terms are 0.
            tops[r] = row[0] == -std::numeric_limits<double>::infinity() ? T(0) : static_cast<T>(row[0]);
          }
          plan.loops.exponentials(w.k, w.rows, w.cols, tops, acc + 1, op.width);
          if (op.mean) values.add(w.k, acc + 2, op.width);
        }
      }
    }
    void leave_out_diagonal() {
      w.set_diagonal(w.k, -std::numeric_limits<T>::infinity());
      for (int r = 0; r < w.rows; ++r) {
        const T* row = w.k + r * tile_cols<T>;
        tops[r] = *std::max_element(row, row + w.cols);
      }
    }
  };

  void finish(int64_t b, int64_t row, const double* acc) const {
    int64_t at = b * plan.args.n + row;
    double shift = shifts.empty() ? 0.0 : shifts[log_weights.per_batch ? b : 0];
    constexpr double ln2 = 0.693147180559945309417;
    if (logsumexp) logsumexp[at] = static_cast<T>((acc[0] + std::log2(acc[1])) * ln2 + shift);
    if (mean && acc[0] == -std::numeric_limits<double>::infinity()) empty->fetch_add(1, std::memory_order_relaxed);
    for (int64_t q = 0; mean && q < values.columns; ++q)
      mean[at * values.columns + q] = static_cast<T>(acc[2 + q] / acc[1]);
  }
};

// ---- Stein kernels --------------------------------------------------------------------------------------------------

template <class T>
struct SteinTileMaker {
  Worker<T>& w;
  const T *scores_x, *scores_y;
  SteinTiles<T> tiles;
  T *score_panel, *row_dots;

  SteinTileMaker(Worker<T>& worker, const T* sx, const T* sy) : w(worker), scores_x(sx), scores_y(sy) {
    int64_t size = w.plan.tile_rows * tile_cols<T>;
    tiles.s = w.s;
    tiles.dots = w.arena.template take<T>(size);
    tiles.cross = w.arena.template take<T>(size);
    tiles.bend = w.arena.template take<T>(size);
    score_panel = w.arena.template take<T>((w.plan.large ? difference_depth : w.args.dim) * tile_cols<T>);
    row_dots = w.arena.template take<T>(w.plan.tile_rows + tile_cols<T>);
  }
  const T* sx() const { return scores_x + (w.batch * w.args.n + w.row) * w.args.dim; }
  const T* sy() const { return scores_y + (w.batch * w.args.m + w.col) * w.args.dim; }

  void panel() {
    if (!w.plan.large) w.plan.loops.pack_panel(sy(), w.args.dim, w.args.dim, w.valid, w.cols, score_panel);
  }

  // The Stein kernel of all groups, to k.
  void fill() {
    const Plan<T>& plan = w.plan;
    bool first = true;
    for (size_t g = 0; g < plan.groups.size(); ++g) {
      bool radial = plan.groups[g].kind == Group::radial;
      SteinTiles<T> t = tiles;
      if (radial)
        fill_radial(g);
      else
        fill_product();
      if (radial && !plan.metric(g)) t.bend = t.s;
      if (w.valid < w.cols) w.pad(w.s);
      for (int i : plan.groups[g].terms) {
        plan.maps.stein[static_cast<int>(w.args.terms[i].kind)](t, w.rows, w.cols, plan.constants[i], plan.trace[g],
                                                                first, w.k);
        first = false;
      }
    }
    w.set_diagonal(w.k, T(0));
  }

  void fill_radial(size_t g) {
    const Plan<T>& plan = w.plan;
    const int64_t dim = w.args.dim;
    const T* metric = plan.metric(g);
    auto& table = metric ? plan.loops.metric_stein : plan.loops.stein;
    if (!plan.large) {
      table[dim](w.x(), sx(), dim, w.rows, dim, w.panel, score_panel, w.cols, metric, true, tiles);
      return;
    }
    for (int64_t d = 0; d < dim; d += difference_depth) {
      int64_t depth = std::min(difference_depth, dim - d);
      plan.loops.pack_panel(w.y() + d, dim, depth, w.valid, w.cols, w.panel);
      plan.loops.pack_panel(sy() + d, dim, depth, w.valid, w.cols, score_panel);
      table[0](w.x() + d, sx() + d, dim, w.rows, depth, w.panel, score_panel, w.cols, metric ? metric + d : nullptr,
               d == 0, tiles);
    }
  }

  void fill_product() {
    const auto& loops = w.plan.loops;
    const int64_t dim = w.args.dim, depth = w.plan.large ? difference_depth : dim;
    auto loop = loops.dots[w.plan.large ? 0 : dim];
    for (int64_t d = 0; d < dim; d += depth) {
      int64_t n = std::min(depth, dim - d);
      if (w.plan.large) {
        loops.pack_panel(w.y() + d, dim, n, w.valid, w.cols, w.panel);
        loops.pack_panel(sy() + d, dim, n, w.valid, w.cols, score_panel);
      }
      loop(w.x() + d, dim, w.rows, n, w.panel, w.cols, nullptr, d == 0, tiles.s);
      loop(sx() + d, dim, w.rows, n, score_panel, w.cols, nullptr, d == 0, tiles.dots);
    }
    T* col_dots = row_dots + w.plan.tile_rows;
    for (int r = 0; r < w.rows; ++r) row_dots[r] = dot(w.x() + r * dim, sx() + r * dim);
    for (int j = 0; j < w.cols; ++j) col_dots[j] = j < w.valid ? dot(w.y() + j * dim, sy() + j * dim) : T(0);
    for (int r = 0; r < w.rows; ++r)
      for (int j = 0; j < w.cols; ++j) tiles.cross[r * tile_cols<T> + j] = row_dots[r] + col_dots[j];
  }
  T dot(const T* a, const T* b) const {
    double sum = 0.0;
    for (int64_t k = 0; k < w.args.dim; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
    return static_cast<T>(sum);
  }
};

template <class T>
struct SteinOp : AddOp<T> {
  const T *scores_x, *scores_y;
  PairWeights<T> weights;
  T* out;
  struct Local {
    const SteinOp& op;
    Worker<T>& w;
    SteinTileMaker<T> maker;
    PanelWeights<T> weights;
    Local(const SteinOp& o, Worker<T>& worker)
        : op(o), w(worker), maker(worker, o.scores_x, o.scores_y), weights(o.weights, worker) {}
    void panel() {
      maker.panel();
      weights.pack();
    }
    void tile(double* acc) {
      maker.fill();
      weights.add(w.k, acc, op.width);
    }
  };
  void finish(int64_t b, int64_t row, const double* acc) const {
    for (int64_t q = 0; q < this->width; ++q)
      out[(b * this->plan.args.n + row) * this->width + q] = static_cast<T>(acc[q]);
  }
};

// ---- whole matrices -------------------------------------------------------------------------------------------------

template <class T>
struct MatrixOp : AddOp<T> {
  const T *scores_x, *scores_y;
  T* out;
  struct Local {
    const MatrixOp& op;
    Worker<T>& w;
    std::unique_ptr<SteinTileMaker<T>> maker;
    Local(const MatrixOp& o, Worker<T>& worker) : op(o), w(worker) {
      if (o.scores_x) maker = std::make_unique<SteinTileMaker<T>>(worker, o.scores_x, o.scores_y);
    }
    void panel() {
      if (maker) maker->panel();
    }
    void tile(double*) {
      if (maker)
        maker->fill();
      else
        w.fill_values();
      for (int r = 0; r < w.rows; ++r)
        std::copy_n(w.k + r * tile_cols<T>, w.valid, op.out + (w.batch * w.args.n + w.row + r) * w.args.m + w.col);
    }
  };
  void finish(int64_t, int64_t, const double*) const {}
};

// ---- neighbours -----------------------------------------------------------------------------------------------------

// A row's accumulators are `count` pairs (squared distance, index), sorted; kept as doubles, exact for both.
template <class T>
struct NearestOp {
  const Plan<T>& plan;
  int64_t width;
  bool whole_panel;
  int count;
  int64_t* index;
  T* distance;

  void start(double* acc) const {
    for (int i = 0; i < count; ++i) acc[2 * i] = std::numeric_limits<double>::infinity(), acc[2 * i + 1] = -1.0;
  }
  // Indices arrive in rising order, so that equals stay behind.
  void insert(double* acc, double square, double at) const {
    int i = count - 1;
    for (; i > 0 && acc[2 * i - 2] > square; --i) acc[2 * i] = acc[2 * i - 2], acc[2 * i + 1] = acc[2 * i - 1];
    acc[2 * i] = square;
    acc[2 * i + 1] = at;
  }
  void merge(double* acc, const double* other) const {
    for (int i = 0; i < count && other[2 * i] < acc[2 * count - 2]; ++i) insert(acc, other[2 * i], other[2 * i + 1]);
  }
  struct Local {
    const NearestOp& op;
    Worker<T>& w;
    Local(const NearestOp& o, Worker<T>& worker) : op(o), w(worker) {}
    void panel() {}
    void tile(double* acc) {
      w.fill(0);
      w.set_diagonal(w.s, std::numeric_limits<T>::infinity());
      for (int r = 0; r < w.rows; ++r) {
        double* own = acc + r * op.width;
        const T* s = w.s + r * tile_cols<T>;
        for (int j = 0; j < w.valid; ++j)
          if (static_cast<double>(s[j]) < own[2 * op.count - 2])
            op.insert(own, static_cast<double>(s[j]), static_cast<double>(w.col + j));
      }
    }
  };
  void finish(int64_t b, int64_t row, const double* acc) const {
    int64_t at = (b * plan.args.n + row) * count;
    for (int i = 0; i < count; ++i) {
      index[at + i] = static_cast<int64_t>(acc[2 * i + 1]);
      distance[at + i] = static_cast<T>(std::sqrt(acc[2 * i]));
    }
  }
};

// ---- entry points ---------------------------------------------------------------------------------------------------

template <class T>
void run_sum(const PairArgs<T>& args, const PairWeights<T>& weights, T* out) {
  Plan<T> plan(args);
  plan.direct = plan.large && args.n <= few_rows;
  plan.cut(weights.columns, small_tile_rows);
  plan.prepare_products();
  run(plan, SumOp<T>{{plan, weights.columns, has_sinc(plan)}, weights, out});
}

template <class T>
int64_t run_gradient(const PairArgs<T>& args, const PairWeights<T>& weights, bool in_y, T* sum, T* gradient) {
  Plan<T> plan(args);
  int64_t width = static_cast<int64_t>(plan.groups.size()) * (args.dim + 1) + 1;
  plan.cut(width, small_tile_rows);
  plan.prepare_products(true);
  bool watch = std::any_of(args.terms, args.terms + args.n_terms, is_singular);
  std::atomic<int64_t> coincident{0};
  run(plan, GradientOp<T>{{plan, width, has_sinc(plan)}, weights, in_y, watch, sum, gradient, &coincident});
  return coincident.load();
}

template <class T>
int64_t run_softmax(const PairArgs<T>& args, const PairWeights<T>& log_weights, const PairWeights<T>& values,
                    T* logsumexp, T* mean) {
  Plan<T> plan(args);
  int64_t width = 2 + (mean ? values.columns : 0);
  plan.direct = plan.large && args.n <= few_rows;
  plan.cut(width, small_tile_rows);
  plan.prepare_products();
  // The largest log weight is taken out first: it costs digits of a float otherwise.
  std::vector<double> shifts;
  if (log_weights.data)
    for (int64_t b = 0; b < (log_weights.per_batch ? args.batch : 1); ++b) {
      const T* lw = log_weights.data + b * args.m;
      double top = args.m > 0 ? static_cast<double>(*std::max_element(lw, lw + args.m)) : 0.0;
      shifts.push_back(std::isfinite(top) ? top : 0.0);
    }
  std::atomic<int64_t> empty{0};
  PairWeights<T> columns = mean ? values : PairWeights<T>{nullptr, 1, false};
  run(plan, SoftmaxOp<T>{plan, width, false, log_weights, columns, shifts, logsumexp, mean, &empty});
  return empty.load();
}

template <class T>
void run_stein(const PairArgs<T>& args, const T* scores_x, const T* scores_y, const PairWeights<T>& weights, T* out) {
  Plan<T> plan(args);
  plan.differences = true;
  plan.cut(weights.columns, stein_tile_rows, 48);  // five tiles at a time
  run(plan, SteinOp<T>{{plan, weights.columns, false}, scores_x, scores_y, weights, out});
}

template <class T>
void run_matrix(const PairArgs<T>& args, const T* scores_x, const T* scores_y, T* out) {
  Plan<T> plan(args);
  plan.differences = scores_x != nullptr;
  plan.cut(1, small_tile_rows, scores_x ? 48 : 192);
  plan.prepare_products();
  run(plan, MatrixOp<T>{{plan, 0, has_sinc(plan)}, scores_x, scores_y, out});
}

template <class T>
void run_nearest(const PairArgs<T>& args, int count, int64_t* index, T* distance) {
  Plan<T> plan(args);
  plan.differences = true;
  plan.cut(2 * count, small_tile_rows);
  run(plan, NearestOp<T>{plan, 2 * count, false, count, index, distance});
}

}  // namespace

#define MK_INTERACTION(T)                                                                                             \
  template <>                                                                                                         \
  void kernel_sum<T>(const PairArgs<T>& args, const PairWeights<T>& weights, T* out, Queue) {                         \
    run_sum(args, weights, out);                                                                                      \
  }                                                                                                                   \
  template <>                                                                                                         \
  int64_t kernel_gradient<T>(const PairArgs<T>& args, const PairWeights<T>& weights, bool in_y, T* sum, T* gradient,  \
                             Queue) {                                                                                 \
    return run_gradient(args, weights, in_y, sum, gradient);                                                          \
  }                                                                                                                   \
  template <>                                                                                                         \
  int64_t kernel_softmax<T>(const PairArgs<T>& args, const PairWeights<T>& log_weights, const PairWeights<T>& values, \
                            T* logsumexp, T* mean, Queue) {                                                           \
    return run_softmax(args, log_weights, values, logsumexp, mean);                                                   \
  }                                                                                                                   \
  template <>                                                                                                         \
  void stein_sum<T>(const PairArgs<T>& args, const T* scores_x, const T* scores_y, const PairWeights<T>& weights,     \
                    T* out, Queue) {                                                                                  \
    run_stein(args, scores_x, scores_y, weights, out);                                                                \
  }                                                                                                                   \
  template <>                                                                                                         \
  void kernel_matrix<T>(const PairArgs<T>& args, const T* scores_x, const T* scores_y, T* out, Queue) {               \
    run_matrix(args, scores_x, scores_y, out);                                                                        \
  }                                                                                                                   \
  template <>                                                                                                         \
  void nearest<T>(const PairArgs<T>& args, int count, int64_t* index, T* distance, Queue) {                           \
    run_nearest(args, count, index, distance);                                                                        \
  }
MK_INTERACTION(float)
MK_INTERACTION(double)
#undef MK_INTERACTION

}  // namespace cpu
}  // namespace mk
