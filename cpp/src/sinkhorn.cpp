// CPU executor of entropic transport.
//
// A problem's log scalings are split, in base 2, into whole numbers f, g and factors u, v near 1: the entries
// e_ij = 2^(f_i + g_j - c_ij) then depend on f and g by exact shifts only, and P_ij = u_i e_ij v_j. One iteration of the
// scaled form takes blocks of a few rows: fills their entries (one exponential a pair, or none where they are kept), sums
// them along the rows, makes the rows right, and adds them to the column sums while they are in cache. Rows are cut into
// chunks by the sizes alone, whose column sums are added in order: results do not depend on the number of threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mckean/executor.hpp"
#include "mckean/sinkhorn.hpp"
#include "pool.hpp"
#include "sinkhorn_isa.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr double ln2 = 0.693147180559945309417, log2_e = 1.44269504088896340736;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int64_t small_problem = int64_t{1} << 18;  // pairs: a batch of these is shared out problem by problem
constexpr int64_t inline_pairs = 100000;             // below, other threads are not worth waking
constexpr int64_t block_bytes = 256 * 1024;          // of entries that should stay in cache between rows and columns
constexpr int64_t part_rows = 128;                   // rows whose column sums are added in T
constexpr int64_t product_depth = 256;               // coordinates of one block of a matrix product

template <class T>
const SinkhornLoops<T>& scaling_loops();
template <>
const SinkhornLoops<float>& scaling_loops<float>() {
  return sinkhorn_table().f32;
}
template <>
const SinkhornLoops<double>& scaling_loops<double>() {
  return sinkhorn_table().f64;
}
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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <class T>
constexpr T far = static_cast<T>(sizeof(T) == 4 ? 1e30 : 1e300);
// Whole numbers up to here, and the sum of two, are exact.
template <class T>
constexpr double most_whole = sizeof(T) == 4 ? 4194304.0 : 2251799813685248.0;
template <class T>
constexpr double least_sum = sizeof(T) == 4 ? 1e-30 : 1e-280;

// Memory aligned to a cache line, not initialised.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(n) * sizeof(T) + 64, std::align_val_t{64}))) {}
  T* get() const { return data_.get(); }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

// Things that threads borrow for the time of a chunk.
template <class W>
class Shelf {
 public:
  template <class Make>
  std::unique_ptr<W> take(const Make& make) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<W> w = std::move(idle_.back());
        idle_.pop_back();
        return w;
      }
    }
    return make();
  }
  void give(std::unique_ptr<W> w) {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(w));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<W>> idle_;
};

// Calls body(i) for i < n, on this thread alone if `serial`.
template <class Body>
void each(int64_t n, bool serial, const Body& body) {
  if (serial) {
    for (int64_t i = 0; i < n; ++i) {
      body(i);
      poll_inside_chunk();
    }
  } else {
    parallel_for(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) body(i);
    });
  }
}

// Calls body(first, last) for ranges of [0, n): what is done once for every row or column.
template <class Body>
void ranges(int64_t n, bool serial, const Body& body) {
  constexpr int64_t grain = 32768;
  each(ceil_div(n, grain), serial || n <= grain,
       [&](int64_t part) { body(part * grain, std::min(n, (part + 1) * grain)); });
}

// ---- points ---------------------------------------------------------------------------------------------------------

// Points of one side of a problem, centred and scaled so that c = |x - y|^p.
template <class T>
struct Cloud {
  const T* points = nullptr;
  int64_t count = 0;
  Buffer<T> rows, panels;
  std::vector<T> norms;
};

// One problem at one eps: its costs, tile by tile.
template <class T>
struct Costs {
  const TransportArgs<T>& args;
  const TileLoops<T>& tiles = tile_loops<T>();
  const SinkhornLoops<T>& loops = scaling_loops<T>();
  CostRule rule;
  double rate;  // c = rate * cost
  bool points, large, serial;
  const T* cost = nullptr;
  T factor = T(1);  // of centred coordinates
  std::vector<T> centre, factors;
  T near = T(0);
  Cloud<T> x, y;

  Costs(const TransportArgs<T>& a, int64_t problem, double eps, bool alone)
      : args(a), rule(cost_rule(a.power)), rate(log2_e / eps), points(a.x != nullptr), serial(alone) {
    large = points && a.dim > max_small_dim;
    if (!points) {
      cost = a.cost + (a.cost_per_batch ? problem * a.n * a.m : 0);
      return;
    }
    x.points = a.x + problem * a.n * a.dim;
    x.count = a.n;
    y.points = a.y + problem * a.m * a.dim;
    y.count = a.m;
    factor = static_cast<T>(std::pow(rate, 1.0 / a.power));
    factors.assign(static_cast<size_t>(a.dim), factor);
    // Any point near the middle of the cloud will do: the mean of some of y.
    std::vector<double> sum(static_cast<size_t>(a.dim), 0.0);
    int64_t samples = std::min<int64_t>(a.m, 256);
    for (int64_t i = 0; i < samples; ++i)
      for (int64_t k = 0; k < a.dim; ++k) sum[k] += static_cast<double>(y.points[i * a.m / samples * a.dim + k]);
    for (double s : sum) centre.push_back(static_cast<T>(s / static_cast<double>(samples)));
  }

  void need(bool transposed) {
    if (!points) return;
    need_rows(transposed ? y : x);
    need_panels(transposed ? x : y);
    if (!large) return;
    need_norms(x);
    need_norms(y);
    // The products err by a few eps (|x|^2 + |y|^2). Where that matters, pairs that lie 20 (float) times closer than
    // their distance from the centre are computed again by differences.
    double top = static_cast<double>(*std::max_element(x.norms.begin(), x.norms.end())) +
                 static_cast<double>(*std::max_element(y.norms.begin(), y.norms.end()));
    bool matters = rule.power < 2.0 || top * 4 * std::numeric_limits<T>::epsilon() > (sizeof(T) == 4 ? 1e-6 : 1e-13);
    near = matters ? (sizeof(T) == 4 ? T(0.05) : T(1e-3)) : T(0);
  }

  void need_rows(Cloud<T>& cloud) {
    if (cloud.rows) return;
    cloud.rows = Buffer<T>(cloud.count * args.dim);
    T* out = cloud.rows.get();
    each(ceil_div(cloud.count, 4096), serial, [&](int64_t part) {
      int64_t first = part * 4096, n = std::min<int64_t>(4096, cloud.count - first);
      if (!large) {
        loops.pack_rows(cloud.points + first * args.dim, args.dim, n, centre.data(), factor, out + first * args.dim);
        return;
      }
      for (int64_t d = 0; d < args.dim; d += product_depth) {  // (block of coordinates, row, coordinate)
        int64_t depth = std::min(product_depth, args.dim - d);
        tiles.pack_rows(cloud.points + first * args.dim + d, args.dim, depth, static_cast<int>(n), centre.data() + d,
                        factors.data() + d, out + d * cloud.count + first * depth);
      }
    });
  }

  void need_panels(Cloud<T>& cloud) {
    if (cloud.panels) return;
    constexpr int C = tile_cols<T>;
    int64_t count = ceil_div(cloud.count, C);
    cloud.panels = Buffer<T>(count * C * args.dim);
    each(count, serial, [&](int64_t p) {
      const T* from = cloud.points + p * C * args.dim;
      T* out = cloud.panels.get() + p * C * args.dim;
      int valid = static_cast<int>(std::min<int64_t>(C, cloud.count - p * C));
      if (!large) {
        int cols = static_cast<int>(round_up(valid, loops.col_step));
        loops.pack_panel(from, args.dim, valid, cols, centre.data(), factor, out);
        return;
      }
      for (int64_t d = 0; d < args.dim; d += product_depth)
        tiles.pack_columns(from + d, args.dim, std::min(product_depth, args.dim - d), valid, centre.data() + d,
                           factors.data() + d, out + d * C);
    });
  }

  void need_norms(Cloud<T>& cloud) {
    if (!cloud.norms.empty()) return;
    cloud.norms.resize(static_cast<size_t>(cloud.count));
    each(ceil_div(cloud.count, 4096), serial, [&](int64_t part) {
      for (int64_t i = part * 4096; i < std::min(cloud.count, (part + 1) * 4096); ++i)
        cloud.norms[i] = tiles.norm(cloud.points + i * args.dim, centre.data(), factors.data(), args.dim);
    });
  }

  // Squared distances of rows against columns, to a tile. list: room for a tile.
  void squares(bool transposed, int64_t row, int rows, int64_t col, int valid, T* s, int32_t* list) const {
    constexpr int C = tile_cols<T>;
    const Cloud<T>&a = transposed ? y : x, &b = transposed ? x : y;
    const int64_t dim = args.dim;
    const T* panel = b.panels.get() + col * dim;
    if (!large) {
      tiles.squares[dim](a.rows.get() + row * dim, dim, rows, dim, panel,
                         static_cast<int>(round_up(valid, loops.col_step)), nullptr, true, s);
      return;
    }
    int cols = static_cast<int>(round_up(valid, tiles.col_step));
    for (int64_t d = 0; d < dim; d += product_depth) {
      int64_t depth = std::min(product_depth, dim - d);
      tiles.product_block(a.rows.get() + d * a.count + row * depth, panel + d * C, rows, cols, depth, d == 0, s);
      poll_inside_chunk();
    }
    T norms[C];
    std::copy_n(b.norms.data() + col, valid, norms);
    std::fill(norms + valid, norms + cols, T(0));
    const T* own = a.norms.data() + row;
    int found = tiles.finish_squares(s, rows, cols, own, norms, near, list);
    for (int i = 0; i < found; ++i) {
      int r = list[i] / C, first = list[i] % C;
      for (int j = first; j < std::min(first + tiles.lanes, valid); ++j) {
        if (!(s[r * C + j] < near * (own[r] + norms[j]))) continue;
        s[r * C + j] =
            tiles.pair_square(a.points + (row + r) * dim, b.points + (col + j) * dim, dim, nullptr) * (factor * factor);
      }
    }
  }

  void tile(bool transposed, int64_t row, int rows, int64_t col, int valid, T* c, int32_t* list) const {
    int cols = static_cast<int>(round_up(valid, loops.col_step));
    if (points) {
      squares(transposed, row, rows, col, valid, c, list);
      loops.raise(c, rows, cols, rule);
    } else if (transposed) {
      loops.tile_of_transposed(cost + col * args.m + row, args.m, rows, valid, cols, static_cast<T>(rate), c);
    } else {
      loops.tile_of_cost(cost + row * args.m + col, args.m, rows, valid, cols, static_cast<T>(rate), c);
    }
  }
};

// ---- scalings -------------------------------------------------------------------------------------------------------

// 2^whole factor, with 0 as a whole number far below all others and the factor 0.
template <class T>
struct Split {
  int64_t count;
  Buffer<T> whole, narrow;  // padded
  std::vector<double> factor;

  Split(int64_t n, int64_t padded) : count(n), whole(padded), narrow(padded), factor(static_cast<size_t>(n)) {
    for (int64_t i = n; i < padded; ++i) {
      whole.get()[i] = -far<T>;
      narrow.get()[i] = T(0);
    }
  }
  void set_log_2(int64_t i, double log_2) {
    double part = std::rint(log_2);
    if (!(std::fabs(part) <= most_whole<T>))
      throw std::invalid_argument(
          sizeof(T) == 4 ? "eps: expected a larger one (or a smaller init): potentials / eps are beyond float32"
                         : "eps: expected a larger one (or a smaller init): potentials / eps are beyond float64");
    whole.get()[i] = static_cast<T>(part);
    set_factor(i, std::exp2(log_2 - part));
  }
  void set_factor(int64_t i, double f) {
    factor[i] = f;
    narrow.get()[i] = static_cast<T>(f);
  }
  void load(const double* log_e, bool serial) {
    ranges(count, serial, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        if (log_e[i] > -infinity) {
          set_log_2(i, log_e[i] * log2_e);
        } else {
          whole.get()[i] = -far<T>;
          set_factor(i, 0.0);
        }
      }
    });
  }
  void unload(double* out, bool serial) const {
    ranges(count, serial, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out[i] = log_e(i);
    });
  }
  bool there(int64_t i) const { return whole.get()[i] > -far<T>; }
  double log_e(int64_t i) const {
    return there(i) ? (static_cast<double>(whole.get()[i]) + std::log2(factor[i])) * ln2 : -infinity;
  }
  // Moves powers of 2 from a factor to its whole number.
  void settle(int64_t i) {
    double f = factor[i];
    // What over-relaxation has thrown out of range stays there for the caller to see.
    if ((f > 0.25 && f < 4.0) || f == 0.0 || !std::isfinite(f) || !there(i)) return;
    int by = std::ilogb(f);
    whole.get()[i] += static_cast<T>(by);
    set_factor(i, std::ldexp(f, -by));
  }
};

// A thread's memory, for blocks of rows of one shape.
template <class T>
struct Desk {
  int64_t block, padded;
  Buffer<T> part, tile, more;
  Buffer<int32_t> list;
  Desk(int64_t rows, int64_t cols)
      : block(rows),
        padded(cols),
        part(cols),
        tile(rows * tile_cols<T>),
        more(rows * tile_cols<T>),
        list(std::max<int64_t>(cols, rows * tile_cols<T>)) {
    std::fill_n(part.get(), padded, T(0));
  }
  T* entries() {  // block rows of padded
    if (!entries_) entries_ = Buffer<T>(block * padded);
    return entries_.get();
  }

 private:
  Buffer<T> entries_;
};

// How a side of a problem is cut.
template <class T>
struct Cut {
  int64_t rows, cols, padded, block, chunk, chunks;
  Cut(const Costs<T>& costs, bool transposed)
      : rows(transposed ? costs.args.m : costs.args.n), cols(transposed ? costs.args.n : costs.args.m) {
    const SinkhornLoops<T>& loops = costs.loops;
    const TileLoops<T>& tiles = costs.tiles;
    const int64_t n = rows, m = cols;
    padded = round_up(m, loops.col_step);
    int64_t fitting = block_bytes / (padded * static_cast<int64_t>(sizeof(T)));
    if (transposed && !costs.points) {
      block = 64;  // so many columns of the matrix are whole cache lines
    } else if (costs.large) {
      int64_t step = tiles.block_rows;
      block = std::min<int64_t>(std::max<int64_t>(fitting / step, 1), 24 / step) * step;
      block = std::max<int64_t>(block, std::min<int64_t>(12, round_up(n, step)));
    } else {
      block = row_step;
    }
    // Few chunks where their column sums are long; never fewer than a machine has cores to share them.
    int64_t most = m > (int64_t{1} << 17) ? 16 : 32;
    chunk = round_up(std::max<int64_t>(ceil_div(n, most), 64), block);
    chunks = ceil_div(n, chunk);
  }
};

}  // namespace
}  // namespace cpu

template <class T>
struct Transport {
  TransportArgs<T> args;
  // The kept entries of problems, and the whole numbers and eps they were made with.
  struct Kept {
    cpu::Buffer<T> entries;
    std::vector<T> rows, cols;
    double eps = 0.0;
  };
  std::vector<std::unique_ptr<Kept>> kept;
  cpu::Shelf<cpu::Desk<T>> desks[2];  // of rows against columns, and the other way round
};

namespace cpu {
namespace {

// One problem, its scalings and one way to look at it: rows against columns, or the other way round.
template <class T>
struct View {
  Costs<T>& costs;
  bool transposed, serial;
  Cut<T> cut;
  const SinkhornLoops<T>& loops = scaling_loops<T>();
  Shelf<Desk<T>>& desks;
  T* stored = nullptr;  // kept entries, rows of cut.padded

  View(Costs<T>& c, Shelf<Desk<T>>& shelf, bool t, bool alone)
      : costs(c), transposed(t), serial(alone), cut(c, t), desks(shelf) {
    costs.need(t);
  }

  template <class Body>
  void chunks(const Body& body) {
    each(cut.chunks, serial || cut.rows * cut.cols < inline_pairs, [&](int64_t c) {
      auto desk = desks.take([&] { return std::make_unique<Desk<T>>(cut.block, cut.padded); });
      body(c, *desk, c * cut.chunk, std::min(cut.rows, (c + 1) * cut.chunk));
      desks.give(std::move(desk));
    });
  }
  template <class Body>
  void panels(const Body& body, int64_t from = 0) const {  // from: the first column of a panel
    constexpr int C = tile_cols<T>;
    for (int64_t col = from; col < cut.cols; col += C) {
      int valid = static_cast<int>(std::min<int64_t>(C, cut.cols - col));
      body(col, valid, static_cast<int>(round_up(valid, loops.col_step)));
    }
  }

  // Entries of some rows, all columns; sums[r] = sum_j e_rj v_j. Returns where they are.
  const T* entries(Desk<T>& desk, int64_t row, int rows, const T* f, const T* g, const T* v, double* sums) const {
    std::fill_n(sums, rows, 0.0);
    if (stored) {
      const T* e = stored + row * cut.padded;
      loops.dots(e, cut.padded, rows, cut.padded, v, sums);
      return e;
    }
    fill(desk, row, rows, f, g, v, desk.entries(), sums);
    return desk.entries();
  }
  void fill(Desk<T>& desk, int64_t row, int rows, const T* f, const T* g, const T* v, T* e, double* sums,
            int64_t from = 0) const {
    const Costs<T>& c = costs;
    const int64_t dim = c.args.dim;
    bool fused = c.points && dim <= max_fused_dim && (c.rule.kind == CostKind::square || c.rule.kind == CostKind::root);
    const Cloud<T>&a = transposed ? c.y : c.x, &b = transposed ? c.x : c.y;
    panels(
        [&](int64_t col, int valid, int cols) {
          if (fused) {
            auto loop = (c.rule.kind == CostKind::square ? loops.fused_squares : loops.fused_roots)[dim];
            loop(a.rows.get() + row * dim, rows, b.panels.get() + col * dim, cols, f + row, g + col, v + col, e + col,
                 cut.padded, sums);
          } else if (!c.points && !transposed) {
            loops.fused_dense(c.cost + row * c.args.m + col, c.args.m, rows, valid, cols, static_cast<T>(c.rate),
                              f + row, g + col, v + col, e + col, cut.padded, sums);
          } else {
            c.tile(transposed, row, rows, col, valid, desk.tile.get(), desk.list.get());
            loops.fused_tile(desk.tile.get(), rows, cols, f + row, g + col, v + col, e + col, cut.padded, sums);
          }
        },
        from);
  }

  // -log2 sum_j 2^(g_j - c_ij) v_j of some rows
  void log_sums(Desk<T>& desk, int64_t row, int rows, const T* g, const T* v, double* out) const {
    double sums[64], tops[64];
    std::fill_n(sums, rows, 0.0);
    std::fill_n(tops, rows, -infinity);
    T shift[64];
    panels([&](int64_t col, int valid, int cols) {
      costs.tile(transposed, row, rows, col, valid, desk.tile.get(), desk.list.get());
      loops.exponents(desk.tile.get(), rows, cols, g + col, shift);
      for (int r = 0; r < rows; ++r) {
        double top = static_cast<double>(shift[r]);
        if (top > tops[r]) {
          sums[r] = sums[r] > 0.0 ? sums[r] * std::exp2(tops[r] - top) : 0.0;
          tops[r] = top;
        }
        shift[r] = tops[r] > -infinity ? static_cast<T>(tops[r]) : T(0);
      }
      loops.exponentials(desk.tile.get(), rows, cols, shift, v + col, sums);
    });
    // Where all of a row is forbidden, or all columns are absent, the tops are those of numbers far below.
    for (int r = 0; r < rows; ++r)
      out[r] =
          tops[r] > -0.5 * static_cast<double>(far<T>) && sums[r] > 0.0 ? -(tops[r] + std::log2(sums[r])) : infinity;
  }
  void log_sums(const Split<T>& cols, double* out) {
    chunks([&](int64_t, Desk<T>& desk, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; row += cut.block) {
        int rows = static_cast<int>(std::min(cut.block, last - row));
        log_sums(desk, row, rows, cols.whole.get(), cols.narrow.get(), out + row);
        poll_inside_chunk();
      }
    });
  }

  // rows_out_i = sum_j e_ij v_j and cols_out_j = sum_i w_i e_ij; w(first, rows, sums, weights) gives the weights of rows
  // once their sums are known. column_parts: (chunks, padded).
  template <class Weights>
  void sweep(const T* f, const T* g, const T* v, std::vector<double>& column_parts, const Weights& weights) {
    column_parts.resize(static_cast<size_t>(cut.chunks * cut.padded));
    chunks([&](int64_t c, Desk<T>& desk, int64_t first, int64_t last) {
      double* sums_of_columns = column_parts.data() + c * cut.padded;
      std::fill_n(sums_of_columns, cut.padded, 0.0);
      double sums[64];
      T w[64];
      int64_t pending = 0;
      for (int64_t row = first; row < last; row += cut.block) {
        int rows = static_cast<int>(std::min(cut.block, last - row));
        const T* e = entries(desk, row, rows, f, g, v, sums);
        weights(desk, row, rows, sums, w, const_cast<T*>(e));
        loops.spread(e, cut.padded, rows, cut.padded, w, desk.part.get());
        pending += rows;
        if (pending >= part_rows || row + rows == last) {
          loops.flush(desk.part.get(), cut.padded, sums_of_columns);
          pending = 0;
        }
        poll_inside_chunk();
      }
    });
  }
  // The row sums of a symmetric problem, sums_i = sum_j e_ij v_j: of panels past its own a row takes the entries for both
  // their places. column_parts: the second of them.
  void half_sweep(const T* f, const T* g, const T* v, std::vector<double>& column_parts, double* sums) {
    constexpr int64_t C = tile_cols<T>;
    column_parts.resize(static_cast<size_t>(cut.chunks * cut.padded));
    chunks([&](int64_t c, Desk<T>& desk, int64_t first, int64_t last) {
      double* sums_of_columns = column_parts.data() + c * cut.padded;
      std::fill_n(sums_of_columns, cut.padded, 0.0);
      int64_t pending = 0;
      for (int64_t row = first, rows; row < last; row += rows) {
        rows = std::min({cut.block, last - row, C - row % C});
        int64_t own = row / C * C, next = std::min(own + C, cut.padded);
        std::fill_n(sums + row, rows, 0.0);
        T* e = desk.entries();
        fill(desk, row, static_cast<int>(rows), f, g, v, e, sums + row, own);
        if (next < cut.padded)
          loops.spread(e + next, cut.padded, static_cast<int>(rows), cut.padded - next, v + row,
                       desk.part.get() + next);
        pending += rows;
        if (pending >= part_rows || row + rows == last) {
          loops.flush(desk.part.get() + own, cut.padded - own, sums_of_columns + own);
          pending = 0;
        }
        poll_inside_chunk();
      }
    });
  }
  // Calls body(first, last) for ranges of columns, with their sums in column_parts[first .. last).
  template <class Body>
  void columns(std::vector<double>& column_parts, const Body& body) {
    constexpr int64_t grain = 4096;
    each(ceil_div(cut.cols, grain), serial || cut.cols <= grain, [&](int64_t part) {
      int64_t first = part * grain, last = std::min(cut.cols, first + grain);
      for (int64_t c = 1; c < cut.chunks; ++c)
        for (int64_t j = first; j < last; ++j) column_parts[j] += column_parts[c * cut.padded + j];
      body(part, first, last);
    });
  }
};

// ---- iterations -----------------------------------------------------------------------------------------------------

// One problem on its way.
template <class T>
class Iteration {
 public:
  Iteration(Transport<T>& transport, const Scalings& at, const ScalingRule& rule, int64_t problem, bool serial)
      : transport_(transport),
        rule_(rule),
        serial_(serial),
        problem_(problem),
        n_(transport.args.n),
        m_(transport.args.m),
        F_(at.rows + problem * n_),
        G_(at.cols + problem * m_),
        a_(rule.a + problem * n_),
        b_(rule.b + problem * m_),
        row_power_(rule.row_power[problem]),
        col_power_(rule.col_power[problem]),
        relaxation_(rule.symmetric ? 0.5 : rule.relaxation),
        balanced_(row_power_ == 1.0 && col_power_ == 1.0 && !rule.symmetric),
        plain_(balanced_ && relaxation_ == 1.0),
        eps_(at.eps[problem]),
        costs_(transport.args, problem, eps_, serial),
        rows_(n_, round_up(n_, 64)),
        cols_(m_, round_up(m_, 64)),
        view_(costs_, transport.desks[0], false, serial) {}

  void run(double& error, int64_t& done) {
    error = infinity;
    done = 0;
    if (rule_.max_iter <= 0) return;
    rows_.load(F_, serial_);
    cols_.load(G_, serial_);
    bool kept = rule_.form == ScalingForm::stored && !costs_.points;
    if (kept) keep(true);
    for (; done < rule_.max_iter; ++done) {
      if (!balanced_ && error <= rule_.tol) break;
      if (rule_.form == ScalingForm::log_domain) {
        if (!step_in_logs(error)) break;
      } else if (rule_.symmetric && !kept) {
        symmetric_step(error);
      } else {
        if (!step(error)) break;
        if (kept) keep(false);
      }
    }
    rows_.unload(F_, serial_);
    cols_.unload(G_, serial_);
  }

 private:
  // The new log scaling, base 2, from the old one and -log2 of the sum of the other side.
  double updated(double old, double weight, double minus_log_sum, double power) const {
    return old + relaxation_ * (std::log2(weight) + power * minus_log_sum - old);
  }
  static double log_2(const Split<T>& s, int64_t i) {
    return static_cast<double>(s.whole.get()[i]) + std::log2(s.factor[i]);
  }

  // False: the error was small enough, and nothing was changed.
  bool step_in_logs(double& error) {
    std::vector<double> sums(static_cast<size_t>(std::max(n_, m_)));
    view_.log_sums(cols_, sums.data());
    double missing = 0.0, change = 0.0;
    for (int64_t i = 0; i < n_; ++i)
      missing += std::fabs((rows_.there(i) ? std::exp2(log_2(rows_, i) - sums[i]) : 0.0) - a_[i]);
    if (balanced_) {
      error = missing;
      if (error <= rule_.tol) return false;
    }
    for (int64_t i = 0; i < n_; ++i) change = std::max(change, move(rows_, i, a_[i], sums[i], row_power_));
    if (rule_.symmetric) {
      follow();
    } else {
      if (!other_) other_ = std::make_unique<View<T>>(costs_, transport_.desks[1], true, serial_);
      other_->log_sums(rows_, sums.data());
      for (int64_t j = 0; j < m_; ++j) change = std::max(change, move(cols_, j, b_[j], sums[j], col_power_));
    }
    if (!balanced_) error = change * ln2;
    return true;
  }
  double move(Split<T>& s, int64_t i, double weight, double minus_log_sum, double power) {
    if (!s.there(i) || !(weight > 0.0) || !std::isfinite(minus_log_sum)) return 0.0;
    double old = log_2(s, i), next = updated(old, weight, minus_log_sum, power);
    s.set_log_2(i, next);
    return std::fabs(next - old);
  }
  void follow() {
    for (int64_t i = 0; i < n_; ++i) {
      cols_.whole.get()[i] = rows_.whole.get()[i];
      cols_.set_factor(i, rows_.factor[i]);
    }
  }

  // One entry serves a pair in both orders.
  void symmetric_step(double& error) {
    next_.resize(static_cast<size_t>(n_));
    view_.half_sweep(rows_.whole.get(), cols_.whole.get(), cols_.narrow.get(), parts_, next_.data());
    std::vector<double> changes(static_cast<size_t>(ceil_div(n_, 4096)), 0.0);
    view_.columns(parts_, [&](int64_t part, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        if (!rows_.there(i) || !(a_[i] > 0.0)) continue;
        double sum = next_[i] + parts_[i], whole = static_cast<double>(rows_.whole.get()[i]), l;
        if (sum > least_sum<T> && sum < 1.0 / least_sum<T>) {
          l = whole - std::log2(sum);
        } else {
          auto desk = view_.desks.take([&] { return std::make_unique<Desk<T>>(view_.cut.block, view_.cut.padded); });
          view_.log_sums(*desk, i, 1, cols_.whole.get(), cols_.narrow.get(), &l);
          view_.desks.give(std::move(desk));
        }
        changes[part] = std::max(changes[part], move(rows_, i, a_[i], l, row_power_));
      }
    });
    follow();
    error = *std::max_element(changes.begin(), changes.end()) * ln2;
  }

  bool step(double& error) {
    next_.resize(static_cast<size_t>(n_));
    missing_.assign(static_cast<size_t>(view_.cut.chunks), 0.0);
    change_.assign(static_cast<size_t>(view_.cut.chunks), 0.0);
    T *f = rows_.whole.get(), *g = cols_.whole.get(), *v = cols_.narrow.get();
    view_.sweep(f, g, v, parts_, [&](Desk<T>& desk, int64_t row, int rows, double* sums, T* w, T* e) {
      int64_t c = row / view_.cut.chunk;
      for (int r = 0; r < rows; ++r) {
        int64_t i = row + r;
        double u = rows_.factor[i], next = 0.0;
        if (rows_.there(i) && a_[i] > 0.0) {
          missing_[c] += std::fabs(u * sums[r] - a_[i]);
          if (!(sums[r] > least_sum<T> && sums[r] < 1.0 / least_sum<T>)) {
            next = rescue_row(desk, i, e + r * view_.cut.padded, change_[c]);
          } else if (plain_) {
            next = a_[i] / sums[r];
          } else {
            double old = static_cast<double>(f[i]) + std::log2(u);
            double log_next = updated(old, a_[i], static_cast<double>(f[i]) - std::log2(sums[r]), row_power_);
            next = std::exp2(log_next - static_cast<double>(f[i]));
            change_[c] = std::max(change_[c], std::fabs(log_next - old));
          }
        } else {
          missing_[c] += a_[i];
        }
        next_[i] = next;
        w[r] = static_cast<T>(next);
      }
    });
    double missing = 0.0, change = 0.0;
    for (int64_t c = 0; c < view_.cut.chunks; ++c) {
      missing += missing_[c];
      change = std::max(change, change_[c]);
    }
    if (balanced_) {
      error = missing;
      if (error <= rule_.tol) return false;
    }
    const bool settle = rule_.form != ScalingForm::stored;
    ranges(n_, serial_, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        rows_.set_factor(i, next_[i]);
        if (settle && !rule_.symmetric) rows_.settle(i);
      }
    });
    if (rule_.symmetric) {  // of kept entries
      follow();
      error = change * ln2;
      return true;
    }
    std::vector<double> changes(static_cast<size_t>(ceil_div(m_, 4096)), 0.0);
    std::atomic<bool> lost{false};
    view_.columns(parts_, [&](int64_t part, int64_t first, int64_t last) {
      for (int64_t j = first; j < last; ++j) {
        if (!cols_.there(j) || !(b_[j] > 0.0)) continue;
        double sum = parts_[j];
        if (!(sum > least_sum<T> && sum < 1.0 / least_sum<T>)) {
          lost.store(true, std::memory_order_relaxed);
        } else if (plain_) {
          cols_.set_factor(j, b_[j] / sum);
        } else {
          double whole = static_cast<double>(g[j]), old = whole + std::log2(cols_.factor[j]);
          double log_next = updated(old, b_[j], whole - std::log2(sum), col_power_);
          cols_.set_factor(j, std::exp2(log_next - whole));
          changes[part] = std::max(changes[part], std::fabs(log_next - old));
        }
      }
    });
    if (lost) {
      if (!other_) other_ = std::make_unique<View<T>>(costs_, transport_.desks[1], true, serial_);
      std::vector<double> sums(static_cast<size_t>(m_));
      other_->log_sums(rows_, sums.data());
      for (int64_t j = 0; j < m_; ++j) {
        if (parts_[j] > least_sum<T> && parts_[j] < 1.0 / least_sum<T>) continue;
        change = std::max(change, move(cols_, j, b_[j], sums[j], col_power_));
      }
    }
    if (settle)
      ranges(m_, serial_, [&](int64_t first, int64_t last) {
        for (int64_t j = first; j < last; ++j) cols_.settle(j);
      });
    for (double c : changes) change = std::max(change, c);
    if (!balanced_) error = change * ln2;
    return true;
  }

  // The row whose entries are all too small, or too large: made right by log-sum-exp, and its entries anew.
  double rescue_row(Desk<T>& desk, int64_t i, T* e, double& change) {
    double l, sum = 0.0;
    view_.log_sums(desk, i, 1, cols_.whole.get(), cols_.narrow.get(), &l);
    if (!std::isfinite(l)) {
      std::fill_n(e, view_.cut.padded, T(0));
      return rows_.factor[i];
    }
    double old = log_2(rows_, i), next = updated(old, a_[i], l, row_power_), factor = rows_.factor[i];
    rows_.set_log_2(i, next);
    std::swap(factor, rows_.factor[i]);  // that of the state, should the iteration turn out to be none
    rows_.factor[i] = std::exp2(std::max(-1000.0, std::min(1000.0, old - static_cast<double>(rows_.whole.get()[i]))));
    view_.fill(desk, i, 1, rows_.whole.get(), cols_.whole.get(), cols_.narrow.get(), e, &sum);
    if (view_.stored) kept().rows[i] = rows_.whole.get()[i];
    change = std::max(change, std::fabs(next - old));
    return factor;
  }

  typename Transport<T>::Kept& kept() { return *transport_.kept[problem_]; }

  // Sees to it that the kept entries belong to whole numbers not far from the scalings.
  void keep(bool fresh) {
    const double most = sizeof(T) == 4 ? 10.0 : 60.0;
    auto& mine = transport_.kept[problem_];
    auto apart = [&](const Split<T>& s, const std::vector<T>& made) {
      for (int64_t i = 0; i < s.count; ++i) {
        if (!s.there(i)) {
          if (made[i] != s.whole.get()[i]) return true;
          continue;
        }
        double by = static_cast<double>(s.whole.get()[i]) - static_cast<double>(made[i]);
        if (!(std::fabs(by + (s.factor[i] > 0.0 ? std::ilogb(s.factor[i]) : 0)) <= most)) return true;
      }
      return false;
    };
    auto take = [](Split<T>& s, const std::vector<T>& made) {  // the scalings, in terms of these whole numbers
      for (int64_t i = 0; i < s.count; ++i) {
        if (!s.there(i) || made[i] == s.whole.get()[i]) continue;
        double by = static_cast<double>(s.whole.get()[i]) - static_cast<double>(made[i]);
        s.whole.get()[i] = made[i];
        s.set_factor(i, std::ldexp(s.factor[i], static_cast<int>(by)));
      }
    };
    if (fresh && mine && mine->eps == eps_ && !apart(rows_, mine->rows) && !apart(cols_, mine->cols)) {
      take(rows_, mine->rows);
      take(cols_, mine->cols);
      view_.stored = mine->entries.get();
      return;
    }
    if (!fresh && !apart(rows_, mine->rows) && !apart(cols_, mine->cols)) return;
    for (int64_t i = 0; i < n_; ++i) rows_.settle(i);
    for (int64_t j = 0; j < m_; ++j) cols_.settle(j);
    if (!mine) mine = std::make_unique<typename Transport<T>::Kept>();
    const int64_t padded = view_.cut.padded;
    if (!mine->entries) mine->entries = Buffer<T>(n_ * padded);
    mine->eps = 0.0;  // until they are there
    mine->rows.assign(rows_.whole.get(), rows_.whole.get() + n_);
    mine->cols.assign(cols_.whole.get(), cols_.whole.get() + m_);
    view_.stored = nullptr;
    view_.chunks([&](int64_t, Desk<T>& desk, int64_t first, int64_t last) {
      double sums[64] = {};
      for (int64_t row = first; row < last; row += view_.cut.block) {
        int rows = static_cast<int>(std::min(view_.cut.block, last - row));
        view_.fill(desk, row, rows, rows_.whole.get(), cols_.whole.get(), cols_.narrow.get(),
                   mine->entries.get() + row * padded, sums);
        poll_inside_chunk();
      }
    });
    mine->eps = eps_;
    view_.stored = mine->entries.get();
  }

  Transport<T>& transport_;
  const ScalingRule& rule_;
  bool serial_;
  int64_t problem_, n_, m_;
  double *F_, *G_;
  const double *a_, *b_;
  double row_power_, col_power_, relaxation_;
  bool balanced_, plain_;  // plain: no change to measure, and no logarithms
  double eps_;
  Costs<T> costs_;
  Split<T> rows_, cols_;
  View<T> view_;
  std::unique_ptr<View<T>> other_;
  std::vector<double> parts_, next_, missing_, change_;
};

// Calls body(problem, serial) for the problems of a call: many small ones side by side, large ones one after another.
template <class T, class Body>
void problems(const Transport<T>& transport, const Scalings& at, const Body& body) {
  bool serial = transport.args.n * transport.args.m < small_problem &&
                (at.count > 1 || transport.args.n * transport.args.m < inline_pairs);
  if (serial) {
    parallel_for(at.count, 1, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) body(at.problems[p], true);
    });
  } else {
    for (int64_t p = 0; p < at.count; ++p) body(at.problems[p], false);
  }
}

// A problem at rest, seen from its rows or its columns.
template <class T>
struct Still {
  Costs<T> costs;
  Split<T> rows, cols;
  View<T> view;

  Still(Transport<T>& transport, const Scalings& at, int64_t problem, bool transposed, bool serial)
      : costs(transport.args, problem, at.eps[problem], serial),
        rows(transposed ? transport.args.m : transport.args.n,
             round_up(transposed ? transport.args.m : transport.args.n, 64)),
        cols(transposed ? transport.args.n : transport.args.m,
             round_up(transposed ? transport.args.n : transport.args.m, 64)),
        view(costs, transport.desks[transposed], transposed, serial) {
    const double *F = at.rows + problem * transport.args.n, *G = at.cols + problem * transport.args.m;
    rows.load(transposed ? G : F, serial);
    cols.load(transposed ? F : G, serial);
  }
};

// Row sums of P v and column sums of P^T u, null: ones; and the cost of the plan.
template <class T>
void still_sums(Transport<T>& transport, const Scalings& at, const double* u, const double* v, double* row_sums,
                double* col_sums, double* cost) {
  const int64_t n = transport.args.n, m = transport.args.m;
  problems(transport, at, [&](int64_t b, bool serial) {
    Still<T> s(transport, at, b, false, serial);
    View<T>& view = s.view;
    Buffer<T> weights(view.cut.padded);
    std::fill(weights.get() + m, weights.get() + view.cut.padded, T(0));
    for (int64_t j = 0; j < m; ++j) weights.get()[j] = static_cast<T>(s.cols.factor[j] * (v ? v[b * m + j] : 1.0));
    std::vector<double> parts, costs(static_cast<size_t>(view.cut.chunks), 0.0);
    const T *f = s.rows.whole.get(), *g = s.cols.whole.get();
    view.sweep(f, g, weights.get(), parts, [&](Desk<T>& desk, int64_t row, int rows, double* sums, T* w, T* e) {
      for (int r = 0; r < rows; ++r) {
        int64_t i = row + r;
        if (row_sums) row_sums[b * n + i] = s.rows.factor[i] * sums[r];
        w[r] = static_cast<T>(s.rows.factor[i] * (u ? u[b * n + i] : 1.0));
      }
      if (!cost) return;
      double total[64] = {};
      view.panels([&](int64_t col, int valid, int cols) {
        T *tile = desk.tile.get(), *more = desk.more.get();
        s.costs.tile(false, row, rows, col, valid, tile, desk.list.get());
        for (int r = 0; r < rows; ++r)
          std::memcpy(more + r * tile_cols<T>, e + r * view.cut.padded + col, static_cast<size_t>(cols) * sizeof(T));
        view.loops.cost_sums(tile, more, rows, cols, weights.get() + col, total);
      });
      for (int r = 0; r < rows; ++r) costs[row / view.cut.chunk] += s.rows.factor[row + r] * total[r];
    });
    if (col_sums)
      view.columns(parts, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t j = first; j < last; ++j) col_sums[b * m + j] = s.cols.factor[j] * parts[j];
      });
    if (!cost) return;
    cost[b] = 0.0;
    for (double c : costs) cost[b] += c / s.costs.rate;
  });
}

}  // namespace

template <class T>
Transport<T>* make_transport(const TransportArgs<T>& args, Queue) {
  auto* made = new Transport<T>;
  made->args = args;
  made->kept.resize(static_cast<size_t>(args.batch));
  return made;
}
template <class T>
void free_transport(Transport<T>* transport) {
  delete transport;
}

template <class T>
void transport_forget(Transport<T>& transport) {
  for (auto& kept : transport.kept) kept.reset();
}

template <class T>
void transport_iterate(Transport<T>& transport, const Scalings& at, const ScalingRule& rule, double* errors,
                       int64_t* iterations, Queue) {
  problems(transport, at,
           [&](int64_t b, bool serial) { Iteration<T>(transport, at, rule, b, serial).run(errors[b], iterations[b]); });
}

template <class T>
void transport_transform(Transport<T>& transport, const Scalings& at, bool columns, double* out, Queue) {
  const int64_t size = columns ? transport.args.m : transport.args.n;
  problems(transport, at, [&](int64_t b, bool serial) {
    Still<T> s(transport, at, b, columns, serial);
    s.view.log_sums(s.cols, out + b * size);
    for (int64_t i = 0; i < size; ++i) out[b * size + i] *= ln2;
  });
}

template <class T>
void transport_marginals(Transport<T>& transport, const Scalings& at, double* rows, double* cols, double* cost, Queue) {
  still_sums<T>(transport, at, nullptr, nullptr, rows, cols, cost);
}

template <class T>
void transport_product(Transport<T>& transport, const Scalings& at, const double* u, const double* v, double* rows,
                       double* cols, Queue) {
  still_sums<T>(transport, at, u, v, rows, cols, nullptr);
}

template <class T>
void transport_apply(Transport<T>& transport, const Scalings& at, bool transposed, const T* values, int64_t columns,
                     T* out, Queue) {
  const int64_t to = transposed ? transport.args.m : transport.args.n, from = transport.args.n + transport.args.m - to;
  problems(transport, at, [&](int64_t b, bool serial) {
    Still<T> s(transport, at, b, transposed, serial);
    View<T>& view = s.view;
    const TileLoops<T>& tiles = s.costs.tiles;
    constexpr int C = tile_cols<T>;
    view.chunks([&](int64_t, Desk<T>& desk, int64_t first, int64_t last) {
      int64_t width = std::min<int64_t>(columns, wide_cols);
      std::vector<double> sums(static_cast<size_t>(view.cut.block * width));
      Buffer<T> packed(C * wide_cols);
      double ignored[64];
      for (int64_t row = first; row < last; row += view.cut.block) {
        int rows = static_cast<int>(std::min(view.cut.block, last - row));
        T* e = desk.entries();
        view.fill(desk, row, rows, s.rows.whole.get(), s.cols.whole.get(), s.cols.narrow.get(), e, ignored);
        for (int64_t q = 0; q < columns; q += wide_cols) {
          int now = static_cast<int>(std::min<int64_t>(wide_cols, columns - q));
          std::fill(sums.begin(), sums.end(), 0.0);
          view.panels([&](int64_t col, int valid, int cols) {
            T* tile = desk.tile.get();
            for (int r = 0; r < rows; ++r)
              std::memcpy(tile + r * C, e + r * view.cut.padded + col, static_cast<size_t>(cols) * sizeof(T));
            view.loops.weigh(tile, rows, cols, s.cols.narrow.get() + col);
            const T* from_values = values + (b * from + col) * columns + q;
            if (now <= 4) {
              for (int k = 0; k < now; ++k)
                for (int j = 0; j < cols; ++j)
                  packed.get()[k * C + j] = j < valid ? from_values[j * columns + k] : T(0);
              tiles.reduce_narrow(tile, rows, cols, packed.get(), now, sums.data(), width);
            } else {
              tiles.pack_values(from_values, columns, valid, cols, now, nullptr, packed.get());
              tiles.reduce_wide(tile, rows, cols, packed.get(), now, sums.data(), width);
            }
          });
          for (int r = 0; r < rows; ++r)
            for (int k = 0; k < now; ++k)
              out[(b * to + row + r) * columns + q + k] = static_cast<T>(s.rows.factor[row + r] * sums[r * width + k]);
          poll_inside_chunk();
        }
      }
    });
  });
}

template <class T>
void transport_gradient(Transport<T>& transport, const Scalings& at, bool in_y, T* out, Queue) {
  const int64_t to = in_y ? transport.args.m : transport.args.n, dim = transport.args.dim;
  problems(transport, at, [&](int64_t b, bool serial) {
    Still<T> s(transport, at, b, in_y, serial);
    View<T>& view = s.view;
    const TileLoops<T>& tiles = s.costs.tiles;
    const Cloud<T>&a = in_y ? s.costs.y : s.costs.x, &other = in_y ? s.costs.x : s.costs.y;
    constexpr int C = tile_cols<T>;
    // Slopes are in scaled coordinates: of |x - y|^p in x that is factor^(1 - p) of it.
    const double back = std::pow(static_cast<double>(s.costs.factor), 1.0 - transport.args.power);
    view.chunks([&](int64_t, Desk<T>& desk, int64_t first, int64_t last) {
      std::vector<double> sums(static_cast<size_t>(view.cut.block * dim)), weight(static_cast<size_t>(view.cut.block));
      Buffer<T> packed(s.costs.large ? C * wide_cols : 1), slope(view.cut.block * C);
      double ignored[64];
      for (int64_t row = first; row < last; row += view.cut.block) {
        int rows = static_cast<int>(std::min(view.cut.block, last - row));
        std::fill(sums.begin(), sums.end(), 0.0);
        std::fill(weight.begin(), weight.end(), 0.0);
        view.panels([&](int64_t col, int valid, int cols) {
          T *squares = desk.tile.get(), *c = desk.more.get(), *e = slope.get();
          s.costs.squares(in_y, row, rows, col, valid, squares, desk.list.get());
          std::memcpy(c, squares, static_cast<size_t>(rows) * C * sizeof(T));
          view.loops.raise(c, rows, cols, s.costs.rule);
          view.loops.fused_tile(c, rows, cols, s.rows.whole.get() + row, s.cols.whole.get() + col,
                                s.cols.narrow.get() + col, e, C, ignored);
          view.loops.slopes(squares, e, rows, cols, s.cols.narrow.get() + col, s.costs.rule);
          if (!s.costs.large) {
            tiles.reduce_grad[dim](e, rows, cols, a.rows.get() + row * dim, other.panels.get() + col * dim,
                                   sums.data());
            return;
          }
          tiles.row_sums(e, rows, cols, weight.data(), 1);
          for (int64_t k = 0; k < dim; k += wide_cols) {
            int now = static_cast<int>(std::min<int64_t>(wide_cols, dim - k));
            tiles.pack_values(other.points + col * dim + k, dim, valid, cols, now, s.costs.centre.data() + k,
                              packed.get());
            tiles.reduce_wide(e, rows, cols, packed.get(), now, sums.data() + k, dim);
          }
        });
        for (int r = 0; r < rows; ++r)
          for (int64_t k = 0; k < dim; ++k) {
            double sum = sums[r * dim + k];
            if (s.costs.large) {  // sum_j e (y_j - centre)
              double centred =
                  static_cast<double>(a.points[(row + r) * dim + k]) - static_cast<double>(s.costs.centre[k]);
              sum = static_cast<double>(s.costs.factor) * (weight[r] * centred - sum);
            }
            out[(b * to + row + r) * dim + k] = static_cast<T>(s.rows.factor[row + r] * back * sum);
          }
        poll_inside_chunk();
      }
    });
  });
}

template <class T>
void transport_plan(Transport<T>& transport, const Scalings& at, int64_t problem, int64_t first, int64_t last, T* out,
                    Queue) {
  Still<T> s(transport, at, problem, false, false);
  View<T>& view = s.view;
  const int64_t m = transport.args.m;
  each(ceil_div(last - first, view.cut.block), false, [&](int64_t part) {
    int64_t row = first + part * view.cut.block;
    int rows = static_cast<int>(std::min(view.cut.block, last - row));
    auto desk = view.desks.take([&] { return std::make_unique<Desk<T>>(view.cut.block, view.cut.padded); });
    double ignored[64];
    T* e = desk->entries();
    view.fill(*desk, row, rows, s.rows.whole.get(), s.cols.whole.get(), s.cols.narrow.get(), e, ignored);
    for (int r = 0; r < rows; ++r)
      for (int64_t j = 0; j < m; ++j)
        out[(row + r - first) * m + j] =
            static_cast<T>(s.rows.factor[row + r] * s.cols.factor[j] * static_cast<double>(e[r * view.cut.padded + j]));
    view.desks.give(std::move(desk));
  });
}

template <class T>
KeptEntries transport_kept(Transport<T>& transport, const Scalings& at, int64_t problem, const double* row_level,
                           const double* col_level, int64_t most, Queue) {
  Still<T> s(transport, at, problem, false, transport.args.n * transport.args.m < inline_pairs);
  View<T>& view = s.view;
  const int64_t n = transport.args.n, m = transport.args.m;
  Buffer<T> level(view.cut.padded);
  for (int64_t j = 0; j < view.cut.padded; ++j) level.get()[j] = j < m ? static_cast<T>(col_level[j]) : T(1);
  struct Part {
    std::vector<int64_t> counts;
    std::vector<int32_t> column;
    std::vector<double> value;
  };
  std::vector<Part> parts(static_cast<size_t>(view.cut.chunks));
  std::atomic<int64_t> total{0};
  view.chunks([&](int64_t c, Desk<T>& desk, int64_t first, int64_t last) {
    double ignored[64];
    Part& part = parts[c];
    for (int64_t row = first; row < last && total.load(std::memory_order_relaxed) <= most; row += view.cut.block) {
      int rows = static_cast<int>(std::min(view.cut.block, last - row));
      T* e = desk.entries();
      view.fill(desk, row, rows, s.rows.whole.get(), s.cols.whole.get(), s.cols.narrow.get(), e, ignored);
      for (int r = 0; r < rows; ++r) {
        double u = s.rows.factor[row + r];
        const T* own = e + r * view.cut.padded;
        int64_t found = 0;
        if (u > 0.0)
          found = view.loops.find(own, view.cut.padded, s.cols.narrow.get(), static_cast<T>(row_level[row + r] / u),
                                  level.get(), desk.list.get());
        part.counts.push_back(found);
        for (int64_t q = 0; q < found; ++q) {
          int32_t j = desk.list.get()[q];
          part.column.push_back(j);
          part.value.push_back(u * s.cols.factor[j] * static_cast<double>(own[j]));
        }
        total.fetch_add(found, std::memory_order_relaxed);
      }
      poll_inside_chunk();
    }
  });
  if (total.load() > most) return {{}, {}, {}, false};
  KeptEntries kept{{0}, {}, {}, true};
  kept.start.reserve(static_cast<size_t>(n + 1));
  kept.column.reserve(static_cast<size_t>(total.load()));
  kept.value.reserve(static_cast<size_t>(total.load()));
  for (Part& part : parts) {
    for (int64_t count : part.counts) kept.start.push_back(kept.start.back() + count);
    kept.column.insert(kept.column.end(), part.column.begin(), part.column.end());
    kept.value.insert(kept.value.end(), part.value.begin(), part.value.end());
  }
  return kept;
}

#define MK_TRANSPORT(T)                                                                                              \
  template Transport<T>* make_transport<T>(const TransportArgs<T>&, Queue);                                          \
  template void free_transport<T>(Transport<T>*);                                                                    \
  template void transport_forget<T>(Transport<T>&);                                                                  \
  template void transport_iterate<T>(Transport<T>&, const Scalings&, const ScalingRule&, double*, int64_t*, Queue);  \
  template void transport_transform<T>(Transport<T>&, const Scalings&, bool, double*, Queue);                        \
  template void transport_marginals<T>(Transport<T>&, const Scalings&, double*, double*, double*, Queue);            \
  template void transport_product<T>(Transport<T>&, const Scalings&, const double*, const double*, double*, double*, \
                                     Queue);                                                                         \
  template void transport_apply<T>(Transport<T>&, const Scalings&, bool, const T*, int64_t, T*, Queue);              \
  template void transport_gradient<T>(Transport<T>&, const Scalings&, bool, T*, Queue);                              \
  template void transport_plan<T>(Transport<T>&, const Scalings&, int64_t, int64_t, int64_t, T*, Queue);             \
  template KeptEntries transport_kept<T>(Transport<T>&, const Scalings&, int64_t, const double*, const double*,      \
                                         int64_t, Queue);
MK_TRANSPORT(float)
MK_TRANSPORT(double)
#undef MK_TRANSPORT

}  // namespace cpu
}  // namespace mk
