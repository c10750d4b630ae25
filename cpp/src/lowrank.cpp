// CPU executor of the low-rank models: long vectors are cut into blocks whose sums are added in a fixed order, batches into
// ranges of items.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "lowrank_isa.hpp"
#include "mckean/executor.hpp"
#include "mckean/small_matrix.hpp"
#include "pool.hpp"
#include "random_isa.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t block = lowrank_block;
constexpr int64_t enough_work = 1 << 17;  // multiplications worth waking a second thread for

int64_t blocks_of(int64_t dim) { return (dim + block - 1) / block; }
size_t count_of(int64_t n) { return static_cast<size_t>(n); }

template <class T>
const LowRankLoops<T>& loops() {
  return lowrank_loops<T>();
}

// body(i) for i < n, in parallel where `work` is worth it.
template <class Body>
void for_each(int64_t n, int64_t work, Body body) {
  if (work < enough_work) {
    for (int64_t i = 0; i < n; ++i) body(i);
  } else {
    parallel_for(n, 1, [&](int64_t a, int64_t b) {
      for (int64_t i = a; i < b; ++i) body(i);
    });
  }
}

// Room for n numbers at an address every register can be loaded from.
class Aligned {
 public:
  double* get(int64_t n) {
    if (room_.size() < count_of(n + 8)) room_.resize(count_of(n + 8));
    void* p = room_.data();
    size_t space = room_.size() * sizeof(double);
    return static_cast<double*>(std::align(64, count_of(n) * sizeof(double), p, space));
  }

 private:
  std::vector<double> room_;
};

template <class T>
void draw(T* out, int64_t first, int64_t n, uint64_t key, uint64_t counter);
template <>
void draw<float>(float* out, int64_t first, int64_t n, uint64_t key, uint64_t counter) {
  random_table().normal_f32(out, static_cast<uint64_t>(first), n, key, counter);
}
template <>
void draw<double>(double* out, int64_t first, int64_t n, uint64_t key, uint64_t counter) {
  random_table().normal_f64(out, static_cast<uint64_t>(first), n, key, counter);
}

// ---- Lanczos --------------------------------------------------------------------------------------------------------

// One pass over w: first w -= sum_j h_j v_j where `from` is given, then, where `sums` is, v_j . w for the whole basis.
// Returns |w|^2.
template <class T>
double sweep(const LanczosArgs<T>& a, int64_t from, int64_t count, const T* h, double* sums) {
  int64_t n = blocks_of(a.dim), width = 1 + (sums ? a.count : 0);
  thread_local std::vector<double> parts;
  parts.assign(count_of(n * width), 0.0);
  double* all = parts.data();
  for_each(n, a.dim * (a.count + 1), [&, all](int64_t i) {
    int64_t first = i * block, size = std::min(block, a.dim - first);
    T* w = a.w + first;
    double* part = all + i * width;
    const T* v = a.basis + first;
    part[0] = count > 0 ? loops<T>().subtract(v + from * a.dim, a.dim, count, h, w, size) : loops<T>().square(w, size);
    if (sums) loops<T>().dots(v, a.dim, a.count, w, size, part + 1);
  });
  double square = 0.0;
  if (sums) std::fill(sums, sums + a.count, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    square += all[i * width];
    if (sums)
      for (int64_t j = 0; j < a.count; ++j) sums[j] += all[i * width + 1 + j];
  }
  return square;
}

template <class T>
double dot(const T* v, const T* w, int64_t dim) {
  int64_t n = blocks_of(dim);
  std::vector<double> parts(count_of(n), 0.0);
  for_each(n, dim, [&](int64_t i) {
    loops<T>().dots(v + i * block, dim, 1, w + i * block, std::min(block, dim - i * block), &parts[count_of(i)]);
  });
  return std::accumulate(parts.begin(), parts.end(), 0.0);
}

// ---- tall matrices --------------------------------------------------------------------------------------------------

constexpr int64_t tall_rows = 256;  // handled at a time: a block of both matrices is in the cache of second level

// Rows first .. first + n as (n, columns), `lead` apart; copied to `room` unless they lie so already.
template <class T>
struct Block {
  const T* data;
  int64_t lead;
};
template <class T>
Block<T> rows_of(const Tall<T>& m, int64_t dim, int64_t first, int64_t n, bool padded, std::vector<T>& room) {
  bool whole = m.columns % loops<T>().lanes == 0;
  if (!m.rows && (whole || !padded)) return {m.data + first * m.columns, m.columns};
  int64_t lead = padded ? padded_columns(m.columns) : m.columns;
  if (room.size() < count_of(tall_rows * lead)) room.resize(count_of(tall_rows * lead), T(0));
  if (m.rows)
    loops<T>().transpose(m.data + first, dim, m.columns, n, room.data(), lead);
  else
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(room.data() + i * lead, m.data + (first + i) * m.columns, count_of(m.columns) * sizeof(T));
  return {room.data(), lead};
}

// Numbers as float64, in their own place if they are.
inline const double* widened(const double* x, int64_t, std::vector<double>&) { return x; }
inline const double* widened(const float* x, int64_t n, std::vector<double>& room) {
  if (room.size() < count_of(n)) room.resize(count_of(n));
  lowrank_table().widen(x, n, room.data());
  return room.data();
}
inline void narrow_to(const double* from, int64_t n, double* to) {
  if (from != to) std::memcpy(to, from, count_of(n) * sizeof(double));
}
inline void narrow_to(const double* from, int64_t n, float* to) { lowrank_table().narrow(from, n, to); }

// ---- models against vectors -----------------------------------------------------------------------------------------

template <class T>
double shift_of(const LowRankArgs<T>& a, int64_t item) {
  return a.t[a.t_per_batch ? item : 0];
}
template <class T>
double weight_of(const LowRankArgs<T>& a, int64_t item, Spectral f, int64_t k) {
  double least = a.least ? a.least[a.t_per_batch ? item : 0] : 0.0;
  return spectral_weight(f, static_cast<double>(a.s[item * a.rank + k]), shift_of(a, item), least);
}

// What lies beside the span of U: out = sum_a scale_a alpha_a b_a, of the numbers first .. first + n of `out`.
template <class T>
struct Beside {
  int count = 0;
  T factor[max_spectral_terms];
  int term[max_spectral_terms];
};
template <class T>
Beside<T> beside_of(const LowRankArgs<T>& a, int64_t item) {
  Beside<T> b;
  for (int n = 0; n < a.n_terms; ++n) {
    b.factor[b.count] = static_cast<T>(a.terms[n].scale * spectral_alpha(a.terms[n].function, shift_of(a, item)));
    b.term[b.count++] = n;
  }
  return b;
}

// Rows that share a model are multiplied with it as matrices, `group` of them at a time.
template <class T>
constexpr int64_t group = 24;
template <class T>
constexpr int64_t tile = 512;  // of the dimensions, whose part of U is kept while a group of rows passes

// Normals of a stream, drawn anew only where others are asked for.
template <class T>
class Noise {
 public:
  // n rows of `width` numbers, the first of each `stride` after that of the row before
  const T* rows(const LowRankArgs<T>& a, int64_t first, int64_t n, int64_t stride, int64_t width) {
    if (first_ != first || drawn_.size() != count_of(n * width)) {
      drawn_.resize(count_of(n * width));
      for (int64_t i = 0; i < n; ++i) draw<T>(drawn_.data() + i * width, first + i * stride, width, a.key, a.counter);
      first_ = first;
    }
    return drawn_.data();
  }

 private:
  std::vector<T> drawn_;
  int64_t first_ = -1;
};

template <class T>
struct RowRoom {
  std::vector<T> tile_of_U, product, weights;
  std::vector<double> sums, total;
  Noise<T> noise;
};

// sums (n, rank) = rows (n, from .. from + width of dim) times U
template <class T>
void project_rows(const LowRankArgs<T>& a, const T* U, const T* rows, int64_t lead, int64_t n, int64_t from,
                  int64_t width, double* sums, RowRoom<T>& room) {
  int64_t k = a.rank, pad = padded_columns(k);
  bool whole = k % loops<T>().lanes == 0;
  room.product.resize(count_of(n * k));
  std::fill(sums, sums + n * k, 0.0);
  for (int64_t at = 0; at < width; at += tile<T>) {
    int64_t some = std::min(tile<T>, width - at);
    const T* m = U + (from + at) * k;
    if (!whole) {
      if (room.tile_of_U.size() < count_of(tile<T> * pad)) room.tile_of_U.resize(count_of(tile<T> * pad), T(0));
      for (int64_t i = 0; i < some; ++i)
        std::memcpy(room.tile_of_U.data() + i * pad, m + i * k, count_of(k) * sizeof(T));
      m = room.tile_of_U.data();
    }
    loops<T>().multiply(rows + at, lead, n, some, m, whole ? k : pad, k, false, room.product.data(), k);
    for (int64_t i = 0; i < n * k; ++i) sums[i] += static_cast<double>(room.product[count_of(i)]);
  }
}

// out += weights (n, rank) times U^T, over from .. from + width of dim
template <class T>
void expand_rows(const LowRankArgs<T>& a, const T* U, const T* weights, int64_t n, int64_t from, int64_t width, T* out,
                 int64_t lead, RowRoom<T>& room) {
  int64_t k = a.rank, pad = padded_columns(tile<T>);
  if (room.tile_of_U.size() < count_of(k * pad)) room.tile_of_U.resize(count_of(k * pad), T(0));
  for (int64_t at = 0; at < width; at += tile<T>) {
    int64_t some = std::min(tile<T>, width - at);
    loops<T>().transpose(U + (from + at) * k, k, some, k, room.tile_of_U.data(), pad);
    loops<T>().multiply(weights, k, n, k, room.tile_of_U.data(), pad, some, true, out + at, lead);
  }
}

// Groups of rows and blocks of dimensions of a batch; part (i, j) of item m.
template <class T>
struct RowGrid {
  const LowRankArgs<T>& a;
  int64_t groups = (a.rows + group<T> - 1) / group<T>, blocks = blocks_of(a.dim);
  int64_t size() const { return a.batch * groups * blocks; }
  struct Part {
    int64_t item, first_row, n, from, width;
  };
  Part part(int64_t i) const {
    int64_t b = i % blocks, g = i / blocks % groups, item = i / blocks / groups;
    int64_t row = g * group<T>, from = b * block;
    return {item, row, std::min(group<T>, a.rows - row), from, std::min(block, a.dim - from)};
  }
};

// The rows of term number `term` in a part, drawn into room.noise where it is noise.
template <class T>
Block<T> rows_of_term(const LowRankArgs<T>& a, int term, const typename RowGrid<T>::Part& p, RowRoom<T>& room) {
  int64_t first = (p.item * a.rows + p.first_row) * a.dim + p.from;
  if (a.terms[term].b) return {a.terms[term].b + first, a.dim};
  return {room.noise.rows(a, first, p.n, a.dim, p.width), p.width};
}

// weights (n, rank) (+)= scale_a w_a (U^T b_a) of one term, from its projections
template <class T>
void add_weights(const LowRankArgs<T>& a, int64_t item, int term, const double* sums, int64_t n, double* weights) {
  for (int64_t k = 0; k < a.rank; ++k) {
    double w = a.terms[term].scale * weight_of(a, item, a.terms[term].function, k);
    for (int64_t i = 0; i < n; ++i) weights[i * a.rank + k] += w * sums[i * a.rank + k];
  }
}

template <class T>
void write_part(const LowRankArgs<T>& a, const typename RowGrid<T>::Part& p, const double* weights, RowRoom<T>& room) {
  const T* U = a.U + p.item * a.dim * a.rank;
  T* out = a.out + (p.item * a.rows + p.first_row) * a.dim + p.from;
  Beside<T> beside = beside_of(a, p.item);
  Block<T> from[max_spectral_terms];
  for (int c = 0; c < beside.count; ++c) from[c] = rows_of_term(a, beside.term[c], p, room);
  for (int64_t i = 0; i < p.n; ++i) {
    const T* x[max_spectral_terms];
    for (int c = 0; c < beside.count; ++c) x[c] = from[c].data + i * from[c].lead;
    loops<T>().combine(beside.count, beside.factor, x, false, out + i * a.dim, p.width);
  }
  room.weights.resize(count_of(p.n * a.rank));
  for (int64_t i = 0; i < p.n * a.rank; ++i) room.weights[count_of(i)] = static_cast<T>(weights[i]);
  expand_rows(a, U, room.weights.data(), p.n, p.from, p.width, out, a.dim, room);
}

template <class T>
void apply_to_rows(const LowRankArgs<T>& a) {
  RowGrid<T> grid{a};
  int64_t k = a.rank, width = group<T> * k, work = a.batch * a.rows * a.dim * k, blocks = grid.blocks;
  auto project_part = [&](const typename RowGrid<T>::Part& p, int term, double* sums, RowRoom<T>& room) {
    Block<T> rows = rows_of_term(a, term, p, room);
    project_rows(a, a.U + p.item * a.dim * k, rows.data, rows.lead, p.n, p.from, p.width, sums, room);
  };
  auto in_ranges = [&](int64_t n, auto body) {
    int64_t some = std::max<int64_t>(1, std::min<int64_t>(16, n / 64));
    for_each((n + some - 1) / some, work, [&](int64_t range) {
      RowRoom<T> room;
      for (int64_t i = range * some; i < std::min(n, (range + 1) * some); ++i) body(i, room);
    });
  };
  if (blocks == 1) {
    in_ranges(grid.size(), [&](int64_t i, RowRoom<T>& room) {
      auto p = grid.part(i);
      room.sums.resize(count_of(width));
      room.total.assign(count_of(width), 0.0);
      for (int t = 0; t < a.n_terms; ++t) {
        if (a.terms[t].function == Spectral::identity) continue;
        project_part(p, t, room.sums.data(), room);
        add_weights(a, p.item, t, room.sums.data(), p.n, room.total.data());
      }
      write_part(a, p, room.total.data(), room);
    });
    return;
  }
  std::vector<double> parts(count_of(grid.size() * width * a.n_terms)), weights(count_of(grid.size() / blocks * width));
  in_ranges(grid.size(), [&](int64_t i, RowRoom<T>& room) {
    auto p = grid.part(i);
    for (int t = 0; t < a.n_terms; ++t)
      if (a.terms[t].function != Spectral::identity)
        project_part(p, t, parts.data() + (i * a.n_terms + t) * width, room);
  });
  for_each(grid.size() / blocks, grid.size() * width, [&](int64_t g) {
    auto p = grid.part(g * blocks);
    std::vector<double> sums(count_of(width));
    for (int t = 0; t < a.n_terms; ++t) {
      if (a.terms[t].function == Spectral::identity) continue;
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t b = 0; b < blocks; ++b) {
        const double* part = parts.data() + ((g * blocks + b) * a.n_terms + t) * width;
        for (int64_t e = 0; e < p.n * k; ++e) sums[count_of(e)] += part[e];
      }
      add_weights(a, p.item, t, sums.data(), p.n, weights.data() + g * width);
    }
  });
  in_ranges(grid.size(), [&](int64_t i, RowRoom<T>& room) {
    write_part(a, grid.part(i), weights.data() + i / blocks * width, room);
  });
}

// One vector for each model: U is read twice, from memory once where it fits the caches.
template <class T>
struct VectorRoom {
  std::vector<T> weights, base;
  Noise<T> noise;
  std::vector<double> sums, total;
};

template <class T>
const T* vector_of_term(const LowRankArgs<T>& a, int term, int64_t first, int64_t n, Noise<T>& noise) {
  return a.terms[term].b ? a.terms[term].b + first : noise.rows(a, first, 1, 0, n);
}

// sums (n_terms, rank) of the block of dimensions from .. from + n
template <class T>
void project_vector(const LowRankArgs<T>& a, int64_t item, int64_t from, int64_t n, double* sums, Noise<T>& noise) {
  const T* U = a.U + (item * a.dim + from) * a.rank;
  for (int t = 0; t < a.n_terms; ++t) {
    if (a.terms[t].function == Spectral::identity) continue;
    const T* b = vector_of_term(a, t, item * a.dim + from, n, noise);
    loops<T>().project(U, a.rank, (a.dim - from) * a.rank, b, n, sums + t * a.rank);
  }
}

template <class T>
void weights_of_vector(const LowRankArgs<T>& a, int64_t item, const double* sums, VectorRoom<T>& room) {
  room.total.assign(count_of(a.rank), 0.0);
  for (int t = 0; t < a.n_terms; ++t)
    if (a.terms[t].function != Spectral::identity) add_weights(a, item, t, sums + t * a.rank, 1, room.total.data());
  room.weights.assign(count_of(padded_columns(a.rank)), T(0));
  for (int64_t k = 0; k < a.rank; ++k) room.weights[count_of(k)] = static_cast<T>(room.total[count_of(k)]);
}

template <class T>
void write_vector(const LowRankArgs<T>& a, int64_t item, int64_t from, int64_t n, const T* weights, Noise<T>& noise,
                  std::vector<T>& base) {
  int64_t first = item * a.dim + from;
  Beside<T> beside = beside_of(a, item);
  const T* x[max_spectral_terms] = {};
  for (int c = 0; c < beside.count; ++c) x[c] = vector_of_term(a, beside.term[c], first, n, noise);
  const T* start = x[0];
  T alpha = beside.factor[0];
  if (beside.count > 1) {
    base.resize(count_of(n));
    loops<T>().combine(beside.count, beside.factor, x, false, base.data(), n);
    start = base.data();
    alpha = T(1);
  }
  loops<T>().expand(a.U + first * a.rank, a.rank, (a.dim - from) * a.rank, weights, start, alpha, a.out + first, n);
}

template <class T>
void apply_to_vectors(const LowRankArgs<T>& a) {
  int64_t n = blocks_of(a.dim), each = std::max<int64_t>(1, a.dim * a.rank);
  if (n == 1 || a.batch >= 16) {
    int64_t some = std::max<int64_t>(1, enough_work / each);
    for_each((a.batch + some - 1) / some, a.batch * each, [&](int64_t range) {
      VectorRoom<T> room;
      for (int64_t item = range * some; item < std::min(a.batch, (range + 1) * some); ++item) {
        room.sums.assign(count_of(a.n_terms * a.rank), 0.0);
        for (int64_t from = 0; from < a.dim; from += block)
          project_vector(a, item, from, std::min(block, a.dim - from), room.sums.data(), room.noise);
        weights_of_vector(a, item, room.sums.data(), room);
        for (int64_t from = 0; from < a.dim; from += block)
          write_vector(a, item, from, std::min(block, a.dim - from), room.weights.data(), room.noise, room.base);
      }
    });
    return;
  }
  int64_t width = a.n_terms * a.rank;
  VectorRoom<T> room;
  std::vector<double> parts(count_of(n * width));
  for (int64_t item = 0; item < a.batch; ++item) {
    std::fill(parts.begin(), parts.end(), 0.0);
    for_each(n, each, [&](int64_t i) {
      Noise<T> noise;
      project_vector(a, item, i * block, std::min(block, a.dim - i * block), parts.data() + i * width, noise);
    });
    room.sums.assign(count_of(width), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = 0; k < width; ++k) room.sums[count_of(k)] += parts[count_of(i * width + k)];
    weights_of_vector(a, item, room.sums.data(), room);
    for_each(n, each, [&](int64_t i) {
      Noise<T> noise;
      std::vector<T> base;
      write_vector(a, item, i * block, std::min(block, a.dim - i * block), room.weights.data(), noise, base);
    });
  }
}

// ---- Gram matrices of a batch ---------------------------------------------------------------------------------------

// As many items as a register of float64 has lanes are worked on together; element e of item l at [e * lanes + l]. All of it
// is in float64: Gram matrices square the condition of their columns.
struct GramRoom {
  Aligned G, Q, c, least;
  std::vector<double> sums, projection, root, wide, padded, b, weights, small, item, other;
};

// Rows from .. from + n of W (divided by the roots of the diagonal), and how many numbers may be read there.
template <class T>
const double* wide_rows(const T* W, int64_t d, int64_t k, int64_t from, int64_t n, GramRoom& room, int64_t* readable) {
  const double* w = widened(W + from * k, n * k, room.wide);
  *readable = static_cast<const void*>(w) == static_cast<const void*>(W + from * k) ? (d - from) * k : n * k;
  if (room.root.empty()) return w;
  if (room.wide.size() < count_of(n * k)) room.wide.resize(count_of(n * k));
  for (int64_t i = 0; i < n; ++i) {
    double r = room.root[count_of(from + i)];
    for (int64_t p = 0; p < k; ++p) room.wide[count_of(i * k + p)] = w[i * k + p] * r;
  }
  *readable = n * k;
  return room.wide.data();
}

inline void add_gram(const double* w, int64_t k, int64_t n, std::vector<double>& sums, std::vector<double>& padded) {
  int64_t pad = padded_columns(k);
  const double* b = w;
  bool whole = k % loops<double>().lanes == 0;
  if (!whole) {
    if (padded.size() < count_of(n * pad)) padded.resize(count_of(n * pad), 0.0);
    for (int64_t i = 0; i < n; ++i) std::memcpy(padded.data() + i * pad, w + i * k, count_of(k) * sizeof(double));
    b = padded.data();
  }
  loops<double>().gram(w, k, k, b, whole ? k : pad, k, n, true, sums.data());
}

inline void spread_gram(const std::vector<double>& sums, int64_t k, int lanes, int lane, double* G) {
  for (int64_t p = 0; p < k; ++p)
    for (int64_t q = p; q < k; ++q)
      G[(p * k + q) * lanes + lane] = G[(q * k + p) * lanes + lane] = sums[count_of(p * k + q)];
}

template <class T>
void woodbury_group(const WoodburyArgs<T>& a, int64_t begin, int64_t end, uint8_t* failed, GramRoom& room) {
  const LowRankTable& small = lowrank_table();
  const LowRankLoops<double>& wide = loops<double>();
  const int lanes = small.lanes;
  int64_t k = a.rank, d = a.dim;
  bool solve = a.function == Spectral::solve;
  double* G = room.G.get(k * k * lanes);
  double* Q = solve ? nullptr : room.Q.get(k * k * lanes);
  double* c = room.c.get(k * lanes);
  double* least = room.least.get(lanes);
  std::fill(G, G + k * k * lanes, 0.0);
  std::fill(c, c + k * lanes, 0.0);
  std::vector<double> logdet(count_of(lanes), 0.0), most(count_of(lanes), 0.0);
  for (int64_t p = 0; p < k; ++p)
    for (int l = 0; l < lanes; ++l) G[(p * k + p) * lanes + l] = 1.0;  // of lanes without an item
  auto t_of = [&](int64_t item) { return a.diagonal ? 1.0 : a.t[a.t_per_batch ? item : 0]; };
  room.root.clear();
  auto set_root = [&](int64_t item) {
    if (!a.diagonal) return;
    room.root.resize(count_of(d));
    const T* D = a.diagonal + (a.diagonal_per_batch ? item * d : 0);
    for (int64_t i = 0; i < d; ++i) room.root[count_of(i)] = 1.0 / std::sqrt(static_cast<double>(D[i]));
  };
  // b as the projection and the result see it
  auto wide_b = [&](int64_t item, int64_t from, int64_t n) {
    const double* b = widened(a.b + item * d + from, n, room.b);
    if (!a.diagonal || !solve) return b;
    if (room.b.size() < count_of(n)) room.b.resize(count_of(n));
    for (int64_t i = 0; i < n; ++i) room.b[count_of(i)] = b[i] * room.root[count_of(from + i)];
    return static_cast<const double*>(room.b.data());
  };
  int64_t readable;
  for (int64_t item = begin; item < end; ++item) {
    int lane = static_cast<int>(item - begin);
    set_root(item);
    room.sums.assign(count_of(k * k), 0.0);
    room.projection.assign(count_of(k), 0.0);
    for (int64_t from = 0; from < d; from += block) {
      poll_inside_chunk();
      int64_t n = std::min(block, d - from);
      const double* w = wide_rows(a.W + item * d * k, d, k, from, n, room, &readable);
      add_gram(w, k, n, room.sums, room.padded);
      if (a.b) wide.project(w, k, readable, wide_b(item, from, n), n, room.projection.data());
    }
    double t = t_of(item);
    spread_gram(room.sums, k, lanes, lane, G);
    for (int64_t p = 0; p < k; ++p) {
      double& g = G[(p * k + p) * lanes + lane];
      most[count_of(lane)] = std::max(most[count_of(lane)], g);
      if (solve) g += t;
      c[p * lanes + lane] = room.projection[count_of(p)];
    }
    double sum = static_cast<double>(d - k) * std::log(t);
    if (a.diagonal)
      for (int64_t i = 0; i < d; ++i) sum -= 2.0 * std::log(room.root[count_of(i)]);
    logdet[count_of(lane)] = sum;
  }
  if (k > 0 && solve) {
    small.cholesky(G, static_cast<int>(k), least);
    small.cholesky_solve(G, static_cast<int>(k), c);
  } else if (k > 0) {
    small.eigen(G, Q, static_cast<int>(k));
  }
  for (int64_t item = begin; item < end; ++item) {
    int lane = static_cast<int>(item - begin);
    double t = t_of(item), alpha = solve ? 1.0 / t : 1.0 / std::sqrt(t), sum = logdet[count_of(lane)];
    // t below the rounding of the Gram matrix: nothing is left of the part beside the columns
    bool bad = k > 0 && !(t > std::numeric_limits<double>::epsilon() * most[count_of(lane)]);
    room.weights.assign(count_of(padded_columns(k)), 0.0);
    if (solve) {
      bad = bad || (k > 0 && !(least[lane] > 0.0));
      for (int64_t p = 0; p < k; ++p) {
        sum += 2.0 * std::log(G[(p * k + p) * lanes + lane]);
        room.weights[count_of(p)] = -c[p * lanes + lane] / t;
      }
    } else {
      for (int64_t e = 0; e < k; ++e) {
        double g = G[(e * k + e) * lanes + lane], dot = 0.0;
        bad = bad || !std::isfinite(g);
        sum += std::log(g + t);
        for (int64_t p = 0; p < k; ++p) dot += Q[(p * k + e) * lanes + lane] * c[p * lanes + lane];
        double rt = std::sqrt(t), rg = std::sqrt(g + t);
        dot *= -1.0 / (rt * rg * (rt + rg));
        for (int64_t p = 0; p < k; ++p) room.weights[count_of(p)] += Q[(p * k + e) * lanes + lane] * dot;
      }
    }
    failed[item] = bad;
    if (bad) std::fill(room.weights.begin(), room.weights.begin() + k, std::numeric_limits<double>::quiet_NaN());
    if (a.logdet) a.logdet[item] = sum;
    if (!a.out) continue;
    set_root(item);
    room.other.resize(count_of(std::min(block, d)));
    for (int64_t from = 0; from < d; from += block) {
      int64_t n = std::min(block, d - from);
      const double* w = wide_rows(a.W + item * d * k, d, k, from, n, room, &readable);
      double* out = room.other.data();
      wide.expand(w, k, readable, room.weights.data(), wide_b(item, from, n), alpha, out, n);
      if (a.diagonal)
        for (int64_t i = 0; i < n; ++i) out[i] *= room.root[count_of(from + i)];
      narrow_to(out, n, a.out + item * d + from);
    }
  }
}

// Columns of `item` (d, k) that are nearly orthonormal made so, by Newton's iteration for the polar factor; those of zeros stay.
inline void orthonormalise(int64_t d, int64_t k, GramRoom& room) {
  int64_t pad = padded_columns(k);
  for (int round = 0; round < 8; ++round) {
    room.sums.assign(count_of(k * k), 0.0);
    for (int64_t from = 0; from < d; from += block)
      add_gram(room.item.data() + from * k, k, std::min(block, d - from), room.sums, room.padded);
    double off = 0.0;
    for (int64_t p = 0; p < k; ++p)
      for (int64_t q = p; q < k; ++q) {
        double g = room.sums[count_of(p * k + q)], unit = p == q && g != 0.0 ? 1.0 : 0.0;
        off = std::max(off, std::abs(g - unit));
        double m = (p == q ? 1.5 : 0.0) - 0.5 * g;
        room.small[count_of(p * pad + q)] = room.small[count_of(q * pad + p)] = m;
      }
    if (!(off > 1e-13)) return;
    room.other.resize(count_of(d * k));
    loops<double>().multiply(room.item.data(), k, d, k, room.small.data(), pad, k, false, room.other.data(), k);
    room.item.swap(room.other);
  }
}

template <class T>
void factor_group(int64_t begin, int64_t end, int64_t d, int64_t k, const T* W, T* U, T* s, GramRoom& room) {
  const LowRankTable& small = lowrank_table();
  const int lanes = small.lanes;
  double *G = room.G.get(k * k * lanes), *Q = room.Q.get(k * k * lanes);
  std::fill(G, G + k * k * lanes, 0.0);
  room.root.clear();
  int64_t readable;
  for (int64_t item = begin; item < end; ++item) {
    room.sums.assign(count_of(k * k), 0.0);
    for (int64_t from = 0; from < d; from += block) {
      poll_inside_chunk();
      int64_t n = std::min(block, d - from);
      add_gram(wide_rows(W + item * d * k, d, k, from, n, room, &readable), k, n, room.sums, room.padded);
    }
    spread_gram(room.sums, k, lanes, static_cast<int>(item - begin), G);
  }
  small.eigen(G, Q, static_cast<int>(k));
  int64_t pad = padded_columns(k);
  std::vector<int64_t> order(count_of(k));
  // float32 columns carry their own rounding: what it leaves of dependent ones is not a direction
  const double rounding = static_cast<double>(std::numeric_limits<T>::epsilon());
  const double floor = static_cast<double>(k) * std::max(std::numeric_limits<double>::epsilon(), rounding * rounding);
  for (int64_t item = begin; item < end; ++item) {
    int lane = static_cast<int>(item - begin);
    auto g = [&](int64_t e) { return G[(e * k + e) * lanes + lane]; };
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t p, int64_t q) { return g(p) > g(q); });
    double most = g(order[0]), last = most;
    room.small.assign(count_of(k * pad), 0.0);
    for (int64_t e = 0; e < k; ++e) {
      int64_t o = order[count_of(e)];
      bool kept = g(o) > floor * most;
      if (kept) last = g(o);
      s[item * k + e] = kept ? static_cast<T>(g(o)) : T(0);
      double scale = kept ? 1.0 / std::sqrt(g(o)) : 0.0;
      for (int64_t p = 0; p < k; ++p) room.small[count_of(p * pad + e)] = scale * Q[(p * k + o) * lanes + lane];
    }
    room.item.resize(count_of(d * k));
    for (int64_t from = 0; from < d; from += block) {
      int64_t n = std::min(block, d - from);
      const double* w = wide_rows(W + item * d * k, d, k, from, n, room, &readable);
      loops<double>().multiply(w, k, n, k, room.small.data(), pad, k, false, room.item.data() + from * k, k);
    }
    if (last < 1e-6 * most) orthonormalise(d, k, room);
    narrow_to(room.item.data(), d * k, U + item * d * k);
  }
}

// body(begin, end) for groups of as many items as there are lanes, a range of groups with one room each.
template <class Body>
void for_groups(int64_t batch, int64_t each, Body body) {
  int64_t lanes = lowrank_table().lanes, groups = (batch + lanes - 1) / lanes;
  int64_t some = std::max<int64_t>(1, enough_work / std::max<int64_t>(1, each * lanes));
  for_each((groups + some - 1) / some, batch * each, [&](int64_t range) {
    GramRoom room;
    for (int64_t g = range * some; g < std::min(groups, (range + 1) * some); ++g)
      body(g * lanes, std::min(batch, (g + 1) * lanes), room);
  });
}

}  // namespace

template <class T>
LanczosStep lanczos_step(const LanczosArgs<T>& a, Queue) {
  thread_local std::vector<double> sums;
  thread_local std::vector<T> factors;
  sums.assign(count_of(a.count + 1), 0.0);
  factors.assign(count_of(a.count + 2), T(0));
  std::fill(a.coefficients, a.coefficients + a.count, 0.0);
  double* dots = a.passes > 0 && a.count > 0 ? sums.data() : nullptr;
  double square;
  if (a.recurrence && a.count > 0) {
    int64_t last = a.count - 1, from = std::max<int64_t>(0, last - 1);
    const T* v = a.basis + last * a.dim;
    double alpha = dot(v, a.w, a.dim);
    factors[0] = static_cast<T>(last > 0 ? a.beta : alpha);
    factors[1] = static_cast<T>(alpha);
    square = sweep(a, from, a.count - from, factors.data(), dots);
    a.coefficients[last] = static_cast<double>(static_cast<T>(alpha));
    if (last > 0) a.coefficients[from] = static_cast<double>(factors[0]);
  } else {
    square = sweep<T>(a, 0, 0, nullptr, dots);
  }
  int done = 0;
  // Subtracts what was measured; with `again` it measures what is left in the same reading of the basis.
  auto pass = [&](bool again) {
    for (int64_t j = 0; j < a.count; ++j) {
      factors[count_of(j)] = static_cast<T>(sums[count_of(j)]);
      a.coefficients[j] += static_cast<double>(factors[count_of(j)]);
    }
    ++done;
    return sweep(a, 0, a.count, factors.data(), again ? sums.data() : nullptr);
  };
  if (dots && std::isfinite(square)) {
    double before = square;
    square = pass(a.passes == 2);
    if (a.passes == 2) {
      square = pass(false);
    } else if (square < 0.5 * before && std::isfinite(square)) {
      sweep<T>(a, 0, 0, nullptr, sums.data());
      square = pass(false);
    }
  }
  double norm = std::sqrt(square);
  if (norm > a.least && std::isfinite(norm)) {
    T* next = a.basis + a.count * a.dim;
    T factor = static_cast<T>(1.0 / norm);
    for_each(blocks_of(a.dim), a.dim, [&](int64_t i) {
      loops<T>().scale(a.w + i * block, factor, next + i * block, std::min(block, a.dim - i * block));
    });
  }
  return {norm, done};
}

template <class T>
void tall_gram(int64_t dim, const Tall<T>& A, const Tall<T>& B, double* out, Queue) {
  int64_t k = A.columns, l = B.columns, size = k * l;
  std::fill(out, out + size, 0.0);
  if (size == 0 || dim == 0) return;
  auto as_rows = [](const Tall<T>& m) { return m.rows || m.columns == 1; };
  if (as_rows(A) && as_rows(B) && k * l <= 4 * std::max(k, l)) {
    // Dot products, without blocks of columns.
    const Tall<T>&many = k >= l ? A : B, &few = k >= l ? B : A;
    int64_t n = blocks_of(dim);
    std::vector<double> parts(count_of(n * size), 0.0);
    for_each(n, dim * size, [&](int64_t i) {
      int64_t first = i * block, rows = std::min(block, dim - first);
      std::vector<double> room_few, room_many;
      for (int64_t q = 0; q < few.columns; ++q) {
        const double* w = widened(few.data + q * dim + first, rows, room_few);
        for (int64_t p = 0; p < many.columns; ++p)
          loops<double>().dots(widened(many.data + p * dim + first, rows, room_many), 0, 1, w, rows,
                               parts.data() + i * size + q * many.columns + p);
      }
    });
    for (int64_t i = 0; i < n; ++i)
      for (int64_t e = 0; e < size; ++e) {
        int64_t q = e / many.columns, p = e % many.columns;
        out[k >= l ? p * l + q : q * l + p] += parts[count_of(i * size + e)];
      }
    return;
  }
  bool same = A.data == B.data && A.rows == B.rows && k == l;
  // As many parts as their sums may take 64 MB, of the problem's size alone.
  int64_t most = std::max<int64_t>(2, std::min<int64_t>(64, (int64_t{1} << 23) / size));
  int64_t chunk = std::max(block, ((dim + most - 1) / most + block - 1) / block * block), n = (dim + chunk - 1) / chunk;
  std::vector<std::vector<double>> parts(count_of(n));
  for_each(n, dim * size, [&](int64_t i) {
    auto& part = parts[count_of(i)];
    part.assign(count_of(size), 0.0);
    std::vector<T> room_a, room_b;
    std::vector<double> wide_a, wide_b;
    int64_t last = std::min(dim, (i + 1) * chunk);
    for (int64_t first = i * chunk; first < last; first += tall_rows) {
      int64_t rows = std::min(tall_rows, last - first);
      Block<T> y = rows_of(B, dim, first, rows, true, room_b);
      Block<T> x = same ? y : rows_of(A, dim, first, rows, false, room_a);
      const double* right = widened(y.data, rows * y.lead, wide_b);
      const double* left = same ? right : widened(x.data, rows * x.lead, wide_a);
      loops<double>().gram(left, x.lead, k, right, y.lead, l, rows, same, part.data());
      if ((first / tall_rows) % 16 == 15) poll_inside_chunk();
    }
  });
  for (const auto& part : parts)
    for (int64_t e = 0; e < size; ++e) out[e] += part[count_of(e)];
  if (same)
    for (int64_t p = 0; p < k; ++p)
      for (int64_t q = 0; q < p; ++q) out[p * k + q] = out[q * k + p];
}

template <class T>
void tall_multiply(int64_t dim, const Tall<T>& A, const double* M, int64_t columns, bool add, bool out_rows, T* out,
                   Queue) {
  int64_t k = A.columns, lead = out_rows ? k : padded_columns(columns), n = (dim + tall_rows - 1) / tall_rows;
  if (columns == 0 || dim == 0) return;
  std::vector<T> m(count_of(out_rows ? columns * k : k * lead), T(0));
  for (int64_t p = 0; p < k; ++p)
    for (int64_t q = 0; q < columns; ++q)
      m[count_of(out_rows ? q * lead + p : p * lead + q)] = static_cast<T>(M[p * columns + q]);
  for_each(n, dim * k * columns, [&](int64_t i) {
    thread_local std::vector<T> room;
    int64_t first = i * tall_rows, rows = std::min(tall_rows, dim - first);
    if (!out_rows) {
      Block<T> x = rows_of(A, dim, first, rows, false, room);
      loops<T>().multiply(x.data, x.lead, rows, k, m.data(), lead, columns, add, out + first * columns, columns);
      return;
    }
    // A copy of the block: the output may take its place.
    if (room.size() < count_of(k * tall_rows)) room.resize(count_of(k * tall_rows));
    if (A.rows)
      for (int64_t p = 0; p < k; ++p)
        std::memcpy(room.data() + p * tall_rows, A.data + p * dim + first, count_of(rows) * sizeof(T));
    else
      loops<T>().transpose(A.data + first * k, k, rows, k, room.data(), tall_rows);
    loops<T>().multiply(m.data(), k, columns, k, room.data(), tall_rows, rows, add, out + first, dim);
  });
}

template <class T>
void orient_columns(int64_t dim, int64_t columns, T* U, Queue) {
  int64_t n = (dim + tall_rows - 1) / tall_rows, some = 16, ranges = (n + some - 1) / some;
  std::vector<T> high(count_of(ranges * columns), T(0)), low = high;
  auto rows_of_range = [&](int64_t r, auto body) {
    int64_t last = std::min(dim, (r + 1) * some * tall_rows);
    for (int64_t i = r * some * tall_rows; i < last; ++i) body(U + i * columns);
  };
  for_each(ranges, dim * columns, [&](int64_t r) {
    T *most = high.data() + r * columns, *least = low.data() + r * columns;
    rows_of_range(r, [=](const T* row) {
      for (int64_t c = 0; c < columns; ++c) {
        most[c] = row[c] > most[c] ? row[c] : most[c];
        least[c] = row[c] < least[c] ? row[c] : least[c];
      }
    });
  });
  for (int64_t r = 1; r < ranges; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      high[count_of(c)] = std::max(high[count_of(c)], high[count_of(r * columns + c)]);
      low[count_of(c)] = std::min(low[count_of(c)], low[count_of(r * columns + c)]);
    }
  std::vector<T> sign(count_of(columns));
  bool any = false;
  for (int64_t c = 0; c < columns; ++c) {
    sign[count_of(c)] = high[count_of(c)] < -low[count_of(c)] ? T(-1) : T(1);
    any = any || sign[count_of(c)] < T(0);
  }
  if (any)
    for_each(ranges, dim * columns, [&](int64_t r) {
      const T* turn = sign.data();
      rows_of_range(r, [=](T* row) {
        for (int64_t c = 0; c < columns; ++c) row[c] *= turn[c];
      });
    });
}

template <class T>
void lowrank_apply(const LowRankArgs<T>& a, Queue) {
  if (a.vectors)
    apply_to_vectors(a);
  else
    apply_to_rows(a);
}

template <class T>
void lowrank_quadratic(const LowRankArgs<T>& a, double* out, Queue) {
  Spectral f = a.terms[0].function;
  int64_t k = a.rank, some = std::max<int64_t>(1, enough_work / std::max<int64_t>(1, a.dim * k));
  for_each((a.batch * a.rows + some - 1) / some, a.batch * a.rows * a.dim * (k + 1), [&](int64_t range) {
    std::vector<double> sums(count_of(k));
    for (int64_t r = range * some; r < std::min(a.batch * a.rows, (range + 1) * some); ++r) {
      int64_t item = r / a.rows;
      const T *b = a.terms[0].b + r * a.dim, *U = a.U + item * a.dim * k;
      std::fill(sums.begin(), sums.end(), 0.0);
      double square = 0.0;
      for (int64_t from = 0; from < a.dim; from += block) {
        int64_t n = std::min(block, a.dim - from);
        square += loops<T>().square(b + from, n);
        if (f != Spectral::identity) loops<T>().project(U + from * k, k, (a.dim - from) * k, b + from, n, sums.data());
      }
      double total = spectral_alpha(f, shift_of(a, item)) * square;
      if (f != Spectral::identity)
        for (int64_t e = 0; e < k; ++e) total += weight_of(a, item, f, e) * sums[count_of(e)] * sums[count_of(e)];
      out[r] = total;
    }
  });
}

template <class T>
int64_t woodbury(const WoodburyArgs<T>& a, Queue) {
  std::vector<uint8_t> failed(count_of(a.batch), 0);
  for_groups(a.batch, a.dim * a.rank * (a.rank + 4),
             [&](int64_t begin, int64_t end, GramRoom& room) { woodbury_group(a, begin, end, failed.data(), room); });
  return std::accumulate(failed.begin(), failed.end(), int64_t{0});
}

template <class T>
void gram_factor(int64_t batch, int64_t dim, int64_t rank, const T* W, T* U, T* s, Queue) {
  for_groups(batch, (dim + 8 * rank) * rank * (rank + 4),
             [&](int64_t begin, int64_t end, GramRoom& room) { factor_group(begin, end, dim, rank, W, U, s, room); });
}

template <class T>
void levenberg_marquardt_rows(const DirectionArgs<T>& a, Queue) {
  int64_t some = std::max<int64_t>(1, enough_work / std::max<int64_t>(1, a.dim));
  for_each((a.rows + some - 1) / some, a.rows * a.dim, [&](int64_t range) {
    for (int64_t r = range * some; r < std::min(a.rows, (range + 1) * some); ++r) {
      const T *e = a.e + r * a.dim, *previous = a.previous + r * a.dim;
      double sums[3] = {};
      for (int64_t from = 0; from < a.dim; from += block)
        loops<T>().dots_of_two(e + from, previous + from, std::min(block, a.dim - from), sums);
      TwoTerms c = levenberg_marquardt(a.rule, a.value, a.kappa, sums[0], sums[1], sums[2]);
      // the factors may be large and nearly cancel
      loops<T>().combine_two(c.e, e, c.previous, previous, a.out + r * a.dim, a.dim);
    }
  });
}

#define MK_INSTANTIATE(T)                                                                                 \
  template LanczosStep lanczos_step<T>(const LanczosArgs<T>&, Queue);                                     \
  template void tall_gram<T>(int64_t, const Tall<T>&, const Tall<T>&, double*, Queue);                    \
  template void tall_multiply<T>(int64_t, const Tall<T>&, const double*, int64_t, bool, bool, T*, Queue); \
  template void orient_columns<T>(int64_t, int64_t, T*, Queue);                                           \
  template void lowrank_apply<T>(const LowRankArgs<T>&, Queue);                                           \
  template void lowrank_quadratic<T>(const LowRankArgs<T>&, double*, Queue);                              \
  template int64_t woodbury<T>(const WoodburyArgs<T>&, Queue);                                            \
  template void gram_factor<T>(int64_t, int64_t, int64_t, const T*, T*, T*, Queue);                       \
  template void levenberg_marquardt_rows<T>(const DirectionArgs<T>&, Queue);
MK_INSTANTIATE(float)
MK_INSTANTIATE(double)
#undef MK_INSTANTIATE

}  // namespace cpu
}  // namespace mk
