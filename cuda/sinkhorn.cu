// CUDA executor of entropic transport, on the tiles of pair_tile.cuh.
//
// A pass works for one side, the rows or the columns ("own"), and sums over the other: a block takes 64 own points and
// one slab of the others, and costs are made anew, or read, in every pass. Passes for the columns exchange the roles.
// Parts of all slabs are added in order by the kernels that use them. Slabs depend on the sizes of one problem alone and
// there are no atomics, so results depend neither on the device, nor on the batch, nor on which problems are still active.
//
// Scalings are kept in double. Pairs see them in base 2 as a whole number, the head, and 2^rest, the tail, which is a
// factor of the sum: heads add without rounding, so the exponent head + head - C / eps is rounded once, where it is small,
// and float loses nothing to large potentials.
//
// Every form of the iteration is a log-sum-exp in one pass. A thread changes the exponent under which it sums only when
// one comes up that is larger by 60, so that this costs one comparison a pair, and stored exponentials would be as many
// bytes to read as the cost is.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "mckean/sinkhorn.hpp"
#include "pair_tile.cuh"

namespace mk {

template <class T>
struct Transport {
  TransportArgs<T> args;
};

namespace cuda {
namespace {

#ifndef MK_TRANSPORT_BYTES  // the tests on the host set it low, so that batches are cut
#define MK_TRANSPORT_BYTES (int64_t{512} << 20)
#endif
constexpr int64_t part_bytes = MK_TRANSPORT_BYTES;
constexpr int64_t enough_blocks = 1024, least_slab = 256;
constexpr int run_tiles = 16;  // tiles a thread sums in T (4 terms each) before they join a double
constexpr int max_narrow = 4;  // columns of values summed in registers
constexpr double ln2 = 0.693147180559945309417, log2_e = 1.44269504088896340736;

template <class T>
__device__ constexpr T infinity() {
  return static_cast<T>(__builtin_inff());
}
template <class T>
__device__ inline bool is_finite(T x) {
  return x - x == T(0);
}

// ---- scalings -------------------------------------------------------------------------------------------------------

// Of the slots (the problems of one call, numbered from 0): value log_2 e = head + log_2 tail.
template <class T>
struct Scaling {
  double* value;  // (slots, size)
  T *head, *tail;
};

// Points with value +inf are those that no other point can reach: they take part in no sum, like those without weight.
template <class T>
__device__ inline void put(const Scaling<T>& s, int64_t at, double value) {
  s.value[at] = value;
  if (!is_finite(value)) {
    s.head[at] = -infinity<T>();
    s.tail[at] = T(1);
    return;
  }
  constexpr double magic = Format<double>::round_magic;
  const double exponent = value * log2_e;
  const bool large = exponent > 1e15 || exponent < -1e15;
  const T head = static_cast<T>(large ? exponent : (exponent + magic) - magic);
  s.head[at] = head;
  s.tail[at] = static_cast<T>(exp2_small<double>(Ops<double>::min(exponent - static_cast<double>(head), 100.0)));
}

template <class T>
__global__ void put_kernel(Scaling<T> s, int64_t size) {
  for (int64_t i = first_item(); i < size; i += item_stride()) put(s, i, s.value[i]);
}

// ---- pairs ----------------------------------------------------------------------------------------------------------

// The pairs of a pass.
template <class T>
struct Pairs {
  PairGrid<T> grid;  // x: own points, y: the others; null for a given cost
  const T* cost;     // own point i and other point j: [i * m + j], or transposed [j * n + i]
  int64_t cost_step;
  bool transposed;
  CostRule rule;
  const int64_t* problems;  // (slots,), or null: slot 0 is problem 0
  const int32_t* active;    // (slots,), or null
  const T* rates;           // (slots,): log_2 e / eps
  const T *own_head, *own_tail, *head, *tail;
  int64_t rows;  // slots * n
};

struct Block : PairBlock {
  int64_t slot;
};

template <class T>
__device__ inline Block block_of(const Pairs<T>& a) {
  Block b;
  static_cast<PairBlock&>(b) = pair_block(a.grid);
  b.slot = b.problem;
  if (a.problems) b.problem = a.problems[b.slot];
  return b;
}

// Room for squared distances on their way, or for costs: own point i of the tile is at [other][i % 16].v[i / 16].
template <class T>
struct CostTile {
  Quad<T> at[tile_size][side + 1];
};
template <class T, bool dense>
struct Room : Panels<T, panel_depth<T>> {};
template <class T>
struct Room<T, true> : CostTile<T> {};

// Heads and tails of a tile's other points.
template <class T>
struct Others {
  Quad<T> head[side], tail[side];
};

template <class T>
__device__ inline void load_others(const Pairs<T>& a, const Block& b, int64_t col, Others<T>& out) {
  const int j = thread_number();
  if (j >= tile_size) return;
  const bool there = col + j < b.end;
  const int64_t at = b.slot * a.grid.m + col + j;
  out.head[j % side].v[j / side] = there ? a.head[at] : -infinity<T>();
  out.tail[j % side].v[j / side] = there ? a.tail[at] : T(0);
}

// Squared distances of a tile. The caller has synchronised; afterwards what it loaded can be read.
template <class T>
__device__ inline void load_pairs(const Pairs<T>& a, const Block& b, int64_t col, bool keep_x,
                                  Panels<T, panel_depth<T>>& panels, Micro<T>& s) {
  distances(a.grid, b, col, Form::squares, nullptr, T(0), keep_x, panels, s);
}

// Costs of a tile, read in the order they lie in memory.
template <class T>
__device__ inline void load_pairs(const Pairs<T>& a, const Block& b, int64_t col, bool, CostTile<T>& tile,
                                  Micro<T>& s) {
  const T* cost = a.cost + b.problem * a.cost_step;
  if (a.transposed) {
    for (int e = thread_number(); e < tile_size * tile_size; e += pair_threads) {
      const int i = e % tile_size, j = e / tile_size;
      const bool there = i < b.rows && col + j < b.end;
      tile.at[j][i % side].v[i / side] = there ? cost[(col + j) * a.grid.n + b.row + i] : T(0);
    }
  } else {
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) {
        const int64_t i = threadIdx.y + side * r, j = col + threadIdx.x + side * c;
        s[r][c] = i < b.rows && j < b.end ? cost[(b.row + i) * a.grid.m + j] : T(0);
      }
  }
  __syncthreads();
  if (!a.transposed) return;
#pragma unroll
  for (int c = 0; c < micro; ++c) {
    const Quad<T> column = tile.at[threadIdx.x + side * c][threadIdx.y];
#pragma unroll
    for (int r = 0; r < micro; ++r) s[r][c] = column.v[r];
  }
}

// Functions of four pairs: a call costs little beside what they do.
template <class T, bool slope>
__device__ __attribute__((noinline)) Quad<T> called_power(Quad<T> s, const CostRule& rule) {
  for (int i = 0; i < micro; ++i) s.v[i] = slope ? cost_slope<T>(s.v[i], rule) : cost_of_square<T>(s.v[i], rule);
  return s;
}

// The cost of squared distances, or its slope.
template <class T, bool slope>
__device__ inline void map_squares(const CostRule& rule, Micro<T>& s) {
  if (rule.kind == CostKind::square && !slope) return;
  if (rule.kind == CostKind::root) {
    constexpr CostRule root{CostKind::root, 1.0};
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) s[r][c] = slope ? cost_slope<T>(s[r][c], root) : cost_of_square<T>(s[r][c], root);
    return;
  }
#pragma unroll
  for (int r = 0; r < micro; ++r) {
    const Quad<T> mapped = rule.kind == CostKind::square
                               ? Quad<T>{{T(2), T(2), T(2), T(2)}}
                               : called_power<T, slope>({{s[r][0], s[r][1], s[r][2], s[r][3]}}, rule);
#pragma unroll
    for (int c = 0; c < micro; ++c) s[r][c] = mapped.v[c];
  }
}

template <class T>
__device__ inline T head_of(const Pairs<T>& a, const Block& b, int r) {
  const int i = static_cast<int>(threadIdx.y) + side * r;
  return i < b.rows ? a.own_head[b.slot * a.grid.n + b.row + i] : -infinity<T>();
}

// Own points that have no weight have log-sum-exps all the same.
template <class T>
__device__ inline T reference(T head) {
  return is_finite(head) ? head : T(0);
}

// 2^l: infinite above the range, 0 for NaN, which only an infinite cost can bring.
template <class T>
__device__ inline T entry_of(T l) {
  constexpr T most = T(Format<T>::bias);
  const T e = exp2_small<T>(Ops<T>::min(most, l));
  return l > most ? infinity<T>() : e;
}

// The plan's entries of a tile from its costs, but for the tails of the own points.
template <class T>
__device__ inline void entries(const T (&own)[micro], const Others<T>& others, T rate, Micro<T>& c) {
  const Quad<T> head = others.head[threadIdx.x], tail = others.tail[threadIdx.x];
#pragma unroll
  for (int r = 0; r < micro; ++r)
#pragma unroll
    for (int i = 0; i < micro; ++i) c[r][i] = entry_of<T>((own[r] + head.v[i]) - c[r][i] * rate) * tail.v[i];
}

// ---- log-sum-exp ----------------------------------------------------------------------------------------------------

// Any finite number will do as long as all terms are 0.
template <class T>
__device__ inline T finite_top(T top) {
  return top == -infinity<T>() ? T(0) : top;
}

// parts (slabs, slots, n, 2): an exponent t (base 2), and the sum of 2^(reference + head - C rate - t) tail. Bound by
// arithmetic: for squared distances in float 2 dim + 17 operations a pair.
template <class T, bool dense>
__global__ void __launch_bounds__(pair_threads)
    logsum_kernel(const __grid_constant__ Pairs<T> a, double* __restrict__ parts) {
  __shared__ Room<T, dense> room;
  __shared__ Others<T> others;
  __shared__ double table[tile_size][side + 1], tops[tile_size];
  const Block b = block_of(a);
  if (a.active && !a.active[b.slot]) return;
  constexpr T slack = T(60);  // sums of 64 terms up to 2^61 fit in float
  const T rate = a.rates[b.slot];
  T own[micro], top[micro], run[micro] = {};
  double total[micro] = {};
  for (int r = 0; r < micro; ++r) {
    own[r] = reference(head_of(a, b, r));
    top[r] = -infinity<T>();
  }
  int tiles = 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_others(a, b, col, others);
    Micro<T> l;
    load_pairs(a, b, col, col > b.first, room, l);
    if (!dense) map_squares<T, false>(a.rule, l);
    const Quad<T> head = others.head[threadIdx.x], tail = others.tail[threadIdx.x];
#pragma unroll
    for (int r = 0; r < micro; ++r) {
#pragma unroll
      for (int c = 0; c < micro; ++c) l[r][c] = (own[r] + head.v[c]) - l[r][c] * rate;
      T best = top[r];
#pragma unroll
      for (int c = 0; c < micro; ++c) best = l[r][c] > best ? l[r][c] : best;
      if (best > top[r] + slack) {
        const T factor = exp2_small<T>(top[r] - best);
        top[r] = best;
        total[r] *= static_cast<double>(factor);
        run[r] = run[r] * factor;
      }
      const T under = finite_top(top[r]);
      T part = T(0);
#pragma unroll
      for (int c = 0; c < micro; ++c) part = part + exp2_small<T>(l[r][c] - under) * tail.v[c];
      run[r] = run[r] + part;
    }
    if (++tiles % run_tiles != 0 && col + tile_size < b.end) continue;
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      total[r] += static_cast<double>(run[r]);
      run[r] = T(0);
    }
  }
  // One exponent for the 16 threads of a row.
  __syncthreads();
  for (int r = 0; r < micro; ++r) table[threadIdx.y + side * r][threadIdx.x] = static_cast<double>(top[r]);
  __syncthreads();
  const int row = thread_number();
  if (row < tile_size) {
    double best = table[row][0];
    for (int t = 1; t < side; ++t) best = table[row][t] > best ? table[row][t] : best;
    tops[row] = best;
  }
  __syncthreads();
  for (int r = 0; r < micro; ++r)
    total[r] *= exp2_small<double>(static_cast<double>(top[r]) - finite_top(tops[threadIdx.y + side * r]));
  const double sum = sum_of_row(total, table);
  if (row >= b.rows) return;
  double* part = parts + (b.slab * a.rows + b.slot * a.grid.n + b.row + row) * 2;
  part[0] = tops[row];
  part[1] = sum;
}

// Parts of log-sum-exps, and the heads that were their references.
template <class T>
struct LogParts {
  const double* data;
  int64_t slabs, rows;
  const T* head;
};

// log sum_j exp(other_j - C_ij / eps), -inf where the sum is empty.
template <class T>
__device__ inline double log_of_row(const LogParts<T>& p, int64_t row) {
  double top = -infinity<double>(), sum = 0.0;
  for (int64_t i = 0; i < p.slabs; ++i) {
    const double own = p.data[(i * p.rows + row) * 2];
    top = own > top ? own : top;
  }
  for (int64_t i = 0; i < p.slabs; ++i) {
    const double* part = p.data + (i * p.rows + row) * 2;
    if (part[0] > -infinity<double>()) sum += part[1] * exp2_small<double>(part[0] - top);
  }
  if (!(sum > 0.0)) return -infinity<double>();
  return (top - static_cast<double>(reference(p.head[row]))) * ln2 + log_positive<double>(sum);
}

// The sum of the plan's entries of a row, from its scaling and from the above.
__device__ inline double row_sum(double value, double log) {
  return log > -infinity<double>() ? exp_any<double>(value + log) : 0.0;
}

// out (rows,): row sums of the plan if `sums`, else minus the log-sum-exp.
template <class T>
__global__ void log_rows_kernel(LogParts<T> p, const double* value, bool sums, double* out) {
  for (int64_t row = first_item(); row < p.rows; row += item_stride()) {
    const double log = log_of_row(p, row);
    out[row] = sums ? row_sum(value[row], log) : -log;
  }
}

// ---- iterations -----------------------------------------------------------------------------------------------------

// The sum or the largest over the block, for all its threads, which all call it; of numbers that are not negative.
__device__ inline double block_result(double own, bool largest, double* room) {
  const int t = static_cast<int>(threadIdx.x);
  __syncthreads();
  room[t] = own;
  for (int half = block_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t >= half) continue;
    const double other = room[t + half];
    room[t] = largest ? (other > room[t] ? other : room[t]) : room[t] + other;
  }
  __syncthreads();
  return room[0];
}

// Points in chunks of block_threads of one problem, a block each.
struct Chunks {
  int64_t slots, size, per_slot;
};

// What is fixed about one side of the problems in a call.
struct Side {
  const double *weights, *power;  // (slots, size), (slots,)
  const int32_t* active;
};

// missing (slots, chunks): sums of |row sum - weight|.
template <class T>
__global__ void __launch_bounds__(block_threads)
    missing_kernel(Chunks chunks, LogParts<T> p, Side fixed, const double* value, double* missing) {
  __shared__ double room[block_threads];
  for (int64_t chunk = blockIdx.x; chunk < chunks.slots * chunks.per_slot; chunk += gridDim.x) {
    const int64_t slot = chunk / chunks.per_slot;
    const int64_t i = chunk % chunks.per_slot * block_threads + threadIdx.x, row = slot * chunks.size + i;
    double own = 0.0;
    if (i < chunks.size && fixed.active[slot]) {
      const double d = row_sum(value[row], log_of_row(p, row)) - fixed.weights[row];
      own = d < 0.0 ? -d : d;
    }
    own = block_result(own, false, room);
    if (threadIdx.x == 0) missing[chunk] = own;
  }
}

__device__ inline double log_weight(double w) {
  return w < 1e-300 ? log_positive<double>(w * 0x1p100) - 100.0 * ln2 : log_positive<double>(w);
}

// The new scalings of one side, in `also` too unless it is empty; changes (slots, chunks): the largest change.
template <class T>
__global__ void __launch_bounds__(block_threads)
    update_kernel(Chunks chunks, LogParts<T> p, Side fixed, double relaxation, Scaling<T> scaling, Scaling<T> also,
                  double* changes) {
  __shared__ double room[block_threads];
  for (int64_t chunk = blockIdx.x; chunk < chunks.slots * chunks.per_slot; chunk += gridDim.x) {
    const int64_t slot = chunk / chunks.per_slot;
    const int64_t i = chunk % chunks.per_slot * block_threads + threadIdx.x, row = slot * chunks.size + i;
    double change = 0.0;
    if (i < chunks.size && fixed.active[slot]) {
      const double before = scaling.value[row], weight = fixed.weights[row];
      double now = before;
      if (weight > 0.0) {
        now = log_weight(weight) - fixed.power[slot] * log_of_row(p, row);
        if (is_finite(before)) now = before + relaxation * (now - before);
        if (now != before) change = now > before ? now - before : before - now;
        put(scaling, row, now);
      }
      if (also.value) put(also, row, now);
    }
    change = block_result(change, true, room);
    if (threadIdx.x == 0) changes[chunk] = change;
  }
}

// Where the problems stand.
struct Progress {
  double* errors;       // (slots,)
  int64_t* iterations;  // (slots,)
  int32_t *active, *balanced;
};

// Once in every iteration of a problem. Balanced ones: after the sums of the rows, before these change, `first` what is
// missing. Others: at the end, with the changes of rows and of columns.
__global__ void __launch_bounds__(block_threads)
    decide_kernel(int64_t slots, Progress at, int32_t balanced, const double* first, int64_t first_size,
                  const double* second, int64_t second_size, double tol) {
  __shared__ double room[block_threads];
  for (int64_t slot = blockIdx.x; slot < slots; slot += gridDim.x) {
    if (!at.active[slot] || at.balanced[slot] != balanced) continue;
    double own = 0.0;
    for (int64_t i = threadIdx.x; i < first_size; i += block_threads) {
      const double e = first[slot * first_size + i];
      own = balanced ? own + e : (e > own ? e : own);
    }
    for (int64_t i = threadIdx.x; i < second_size; i += block_threads) {
      const double e = second[slot * second_size + i];
      own = e > own ? e : own;
    }
    const double error = block_result(own, !balanced, room);
    if (threadIdx.x > 0) continue;
    at.errors[slot] = error;
    if (!balanced || !(error <= tol)) ++at.iterations[slot];
    if (error <= tol) at.active[slot] = 0;
  }
}

// ---- sums with the plan ---------------------------------------------------------------------------------------------

// What entries are multiplied with: one number for each other point and column.
template <class T>
struct Values {
  const T* data;          // (batch, m, columns), or null
  const double* doubles;  // else (slots, m)
  int64_t columns;
};

template <class T>
__device__ inline T value_at(const Values<T>& v, const Pairs<T>& a, const Block& b, int64_t j, int64_t q) {
  if (v.data) return v.data[(b.problem * a.grid.m + j) * v.columns + q];
  return static_cast<T>(v.doubles[b.slot * a.grid.m + j]);
}

enum class Sum {
  values,  // of entries times values
  cost,    // of entries times costs; 0 where a cost is infinite
  slope    // of entries times the gradient of their cost
};

template <class T>
__device__ double* part_of(const Pairs<T>& a, const Block& b, double* parts, int64_t width) {
  return parts + (b.slab * a.rows + b.slot * a.grid.n + b.row) * width;
}

// Entries of a tile, for slopes times the slope.
template <class T, bool dense, bool slope, class Space>
__device__ inline void weighted_tile(const Pairs<T>& a, const Block& b, int64_t col, bool keep_x, const T (&own)[micro],
                                     const Others<T>& others, T rate, Space& room, Micro<T>& k) {
  load_pairs(a, b, col, keep_x, room, k);
  if constexpr (slope) {
    Micro<T> slopes;
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) slopes[r][c] = k[r][c];
    map_squares<T, true>(a.rule, slopes);
    map_squares<T, false>(a.rule, k);
    entries(own, others, rate, k);
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) k[r][c] = k[r][c] * slopes[r][c];
  } else {
    if (!dense) map_squares<T, false>(a.rule, k);
    entries(own, others, rate, k);
  }
}

// parts (slabs, slots, n, width), width up to Q: columns of values, 1 for costs, dim for slopes.
template <class T, bool dense, Sum kind, int Q>
__global__ void __launch_bounds__(pair_threads)
    sum_kernel(const __grid_constant__ Pairs<T> a, Values<T> values, int width, double* __restrict__ parts) {
  __shared__ Room<T, dense> room;
  __shared__ Others<T> others;
  __shared__ Quad<T> weights[Q][side];
  __shared__ double table[tile_size][side + 1];
  const Block b = block_of(a);
  const T rate = a.rates[b.slot];
  T own[micro], run[Q][micro] = {};
  double total[Q] = {};  // of row t in thread t < 64
  for (int r = 0; r < micro; ++r) own[r] = head_of(a, b, r);
  int tiles = 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_others(a, b, col, others);
    if (kind == Sum::values)
      for (int e = thread_number(); e < tile_size * Q; e += pair_threads) {
        const int j = e / Q, q = e % Q;
        const bool there = col + j < b.end && q < width;
        weights[q][j % side].v[j / side] = there ? value_at(values, a, b, col + j, q) : T(0);
      }
    Micro<T> k;
    if constexpr (kind == Sum::cost) {
      load_pairs(a, b, col, col > b.first, room, k);
      if (!dense) map_squares<T, false>(a.rule, k);
      Micro<T> e;
#pragma unroll
      for (int r = 0; r < micro; ++r)
#pragma unroll
        for (int c = 0; c < micro; ++c) e[r][c] = k[r][c];
      entries(own, others, rate, e);
#pragma unroll
      for (int r = 0; r < micro; ++r)
#pragma unroll
        for (int c = 0; c < micro; ++c) run[0][r] = run[0][r] + (e[r][c] > T(0) ? e[r][c] * k[r][c] : T(0));
    } else {
      weighted_tile<T, dense, kind == Sum::slope>(a, b, col, col > b.first, own, others, rate, room, k);
#pragma unroll
      for (int q = 0; q < Q; ++q) {
        if (q >= width) break;
        Quad<T> v, from{};
        if constexpr (kind == Sum::slope) {
          v = room.y.at[q][threadIdx.x];
          from = room.x.at[q][threadIdx.y];
        } else {
          v = weights[q][threadIdx.x];
        }
#pragma unroll
        for (int r = 0; r < micro; ++r) {
          T part = T(0);
#pragma unroll
          for (int c = 0; c < micro; ++c) part = part + k[r][c] * (kind == Sum::slope ? from.v[r] - v.v[c] : v.v[c]);
          run[q][r] = run[q][r] + part;
        }
      }
    }
    if (++tiles % run_tiles != 0 && col + tile_size < b.end) continue;
#pragma unroll
    for (int q = 0; q < Q; ++q) {
      total[q] += sum_of_row(run[q], table);
#pragma unroll
      for (int r = 0; r < micro; ++r) run[q][r] = T(0);
    }
  }
  if (thread_number() >= b.rows) return;
  double* part = part_of(a, b, parts, width) + thread_number() * width;
#pragma unroll
  for (int q = 0; q < Q; ++q)
    if (q < width) part[q] = total[q];
}

// Tiles whose entries are in shared memory at a time.
template <class T>
constexpr int wide_tiles = sizeof(T) == 4 ? 2 : 1;

// Any number of columns, C blocks of 16 at a time: a thread has 4 rows and C columns. The sums so far are in memory, in
// double; a block adds to its own part only, always the same element from the same thread.
template <class T, bool dense, bool slope, int C>
__global__ void __launch_bounds__(pair_threads)
    wide_kernel(const __grid_constant__ Pairs<T> a, Values<T> values, int64_t width, double* __restrict__ parts) {
  constexpr int wide_cols = wide_tiles<T> * tile_size;
  __shared__ union {
    Panels<T, panel_depth<T>> panels;
    Quad<T> values[side][side];  // 16 rows of the values, of the columns tx + 16 c
  } mixed;
  __shared__ CostTile<T> tiles[wide_tiles<T>];  // costs, then entries
  __shared__ Others<T> others;
  const PairGrid<T>& g = a.grid;
  const Block b = block_of(a);
  const T rate = a.rates[b.slot];
  const int tx = threadIdx.x, ty = threadIdx.y;
  T own[micro];
  for (int r = 0; r < micro; ++r) own[r] = head_of(a, b, r);
  double* const part = part_of(a, b, parts, width);
  for (int64_t wide_col = b.first; wide_col < b.end; wide_col += wide_cols) {
    const int64_t wide_end = wide_col + wide_cols < b.end ? wide_col + wide_cols : b.end;
    for (int t = 0; t < wide_tiles<T>; ++t) {
      const int64_t col = wide_col + t * tile_size;
      if (col >= b.end) break;
      __syncthreads();
      load_others(a, b, col, others);
      Micro<T> k;
      if constexpr (dense)
        weighted_tile<T, dense, slope>(a, b, col, false, own, others, rate, tiles[t], k);
      else
        weighted_tile<T, dense, slope>(a, b, col, false, own, others, rate, mixed.panels, k);
#pragma unroll
      for (int c = 0; c < micro; ++c) tiles[t].at[tx + side * c][ty] = {{k[0][c], k[1][c], k[2][c], k[3][c]}};
    }
    for (int64_t q0 = 0; q0 < width; q0 += side * C) {
      T sum[micro][C] = {}, from[micro][C] = {};
      if constexpr (slope) {
        for (int r = 0; r < micro; ++r)
          for (int c = 0; c < C; ++c) {
            const int64_t q = q0 + tx + side * c;
            if (ty + side * r < b.rows && q < width)
              from[r][c] = g.x[(b.problem * g.n + b.row + ty + side * r) * g.dim + q];
          }
      }
      for (int64_t col = wide_col; col < wide_end; col += side) {
        __syncthreads();
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const int64_t q = q0 + tx + side * c;
          const bool there = col + ty < wide_end && q < width;
          mixed.values[ty][tx].v[c] = there ? value_at(values, a, b, col + ty, q) : T(0);
        }
        __syncthreads();
        const int from_wide = static_cast<int>(col - wide_col);
        const CostTile<T>& tile = tiles[from_wide / tile_size];
#pragma unroll 4
        for (int j = 0; j < side; ++j) {
          const Quad<T> k = tile.at[from_wide % tile_size + j][ty];
#pragma unroll
          for (int c = 0; c < C; ++c) {
            const T v = mixed.values[j][tx].v[c];
#pragma unroll
            for (int r = 0; r < micro; ++r) sum[r][c] = sum[r][c] + k.v[r] * (slope ? from[r][c] - v : v);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < micro; ++r)
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const int64_t q = q0 + tx + side * c;
          if (ty + side * r >= b.rows || q >= width) continue;
          double* total = part + (ty + side * r) * width + q;
          *total = (wide_col == b.first ? 0.0 : *total) + static_cast<double>(sum[r][c]);
        }
    }
  }
}

// out: the parts of all slabs and the tail of the own point. By problem, or by slot where `problems` is null.
template <class T, class R>
__global__ void add_parts_kernel(Pairs<T> a, const int64_t* problems, const double* parts, int64_t width, R* out) {
  for (int64_t e = first_item(); e < a.rows * width; e += item_stride()) {
    const int64_t row = e / width, n = a.grid.n;
    double total = 0.0;
    for (int64_t i = 0; i < a.grid.slabs; ++i) total += parts[i * a.rows * width + e];
    const int64_t at = problems ? problems[row / n] * n + row % n : row;
    out[at * width + e % width] = static_cast<R>(total * static_cast<double>(a.own_tail[row]));
  }
}

// ---- entries of the plan --------------------------------------------------------------------------------------------

// out (n, m) of one problem. Bound by the writes.
template <class T, bool dense>
__global__ void __launch_bounds__(pair_threads) plan_kernel(const __grid_constant__ Pairs<T> a, T* __restrict__ out) {
  __shared__ Room<T, dense> room;
  __shared__ Others<T> others;
  const Block b = block_of(a);
  T own[micro];
  for (int r = 0; r < micro; ++r) own[r] = head_of(a, b, r);
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_others(a, b, col, others);
    Micro<T> k;
    weighted_tile<T, dense, false>(a, b, col, col > b.first, own, others, a.rates[b.slot], room, k);
#pragma unroll
    for (int r = 0; r < micro; ++r) {
      const int64_t i = threadIdx.y + side * r;
      if (i >= b.rows) continue;
      const T tail = a.own_tail[b.row + i];
#pragma unroll
      for (int c = 0; c < micro; ++c) {
        const int64_t j = col + threadIdx.x + side * c;
        if (j < b.end) out[(b.row + i) * a.grid.m + j] = k[r][c] * tail;
      }
    }
  }
}

// Entries above row_level_i col_level_j of one problem. One kernel counts and writes, so that both see the same bits.
struct Kept {
  const double *row_level, *col_level;  // (n,), (m,)
  int32_t* counts;                      // (n, slabs), or null: write
  const int64_t* start;                 // (n, slabs)
  int32_t* column;
  double* value;
};

template <class T, bool dense>
__global__ void __launch_bounds__(pair_threads) kept_kernel(const __grid_constant__ Pairs<T> a, Kept kept) {
  __shared__ Panels<T, panel_depth<T>> panels;
  __shared__ CostTile<T> tile;
  __shared__ Others<T> others;
  __shared__ double level[tile_size];
  const Block b = block_of(a);
  const int row = thread_number();
  T own[micro];
  for (int r = 0; r < micro; ++r) own[r] = head_of(a, b, r);
  const bool scans = row < b.rows;
  const int64_t number = (b.row + row) * a.grid.slabs + b.slab;
  const double row_level = scans ? kept.row_level[b.row + row] : 0.0;
  const double tail = scans ? static_cast<double>(a.own_tail[b.row + row]) : 0.0;
  int64_t at = scans && !kept.counts ? kept.start[number] : 0;
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    load_others(a, b, col, others);
    if (row < tile_size) level[row] = col + row < b.end ? kept.col_level[col + row] : 0.0;
    Micro<T> k;
    if constexpr (dense)
      weighted_tile<T, dense, false>(a, b, col, false, own, others, a.rates[b.slot], tile, k);
    else
      weighted_tile<T, dense, false>(a, b, col, col > b.first, own, others, a.rates[b.slot], panels, k);
#pragma unroll
    for (int c = 0; c < micro; ++c)
      tile.at[threadIdx.x + side * c][threadIdx.y] = {{k[0][c], k[1][c], k[2][c], k[3][c]}};
    __syncthreads();
    if (!scans) continue;
    const int cols = clipped(b.end - col);
    for (int j = 0; j < cols; ++j) {
      const double value = static_cast<double>(tile.at[j][row % side].v[row / side]) * tail;
      if (!(value > row_level * level[j])) continue;
      if (!kept.counts) {
        kept.column[at] = static_cast<int32_t>(col + j);
        kept.value[at] = value;
      }
      ++at;
    }
  }
  if (scans && kept.counts) kept.counts[number] = static_cast<int32_t>(at);
}

// ---- launching ------------------------------------------------------------------------------------------------------

// How the pairs of one problem are cut for a pass whose parts have `width` doubles for each own point.
struct Cut {
  int64_t row_tiles, slabs, slab;
};

Cut cut_pairs(int64_t n, int64_t m, int64_t width) {
  constexpr int64_t step = 2 * tile_size;
  Cut cut{(n - 1) / tile_size + 1, 0, 0};
  int64_t slabs = std::min((enough_blocks - 1) / cut.row_tiles + 1, (m - 1) / least_slab + 1);
  if (width > 2) slabs = std::min(slabs, part_bytes / (n * width * static_cast<int64_t>(sizeof(double))));
  slabs = std::max<int64_t>(slabs, 1);
  cut.slab = ((m - 1) / slabs / step + 1) * step;
  cut.slabs = (m - 1) / cut.slab + 1;
  return cut;
}

// Heads must be whole numbers of T, and so must the sum of two.
template <class T>
const std::vector<double>& within_range(const std::vector<double>& scalings) {
  constexpr double most = sizeof(T) == 4 ? 4194304.0 : 2251799813685248.0;
  for (double value : scalings)
    if (!(std::fabs(value) * log2_e <= most) && !std::isinf(value))
      throw std::invalid_argument(
          sizeof(T) == 4 ? "eps: expected a larger one (or a smaller init): potentials / eps are beyond float32"
                         : "eps: expected a larger one (or a smaller init): potentials / eps are beyond float64");
  return scalings;
}

template <class V>
void upload(V* to, const std::vector<V>& from, Queue queue) {
  copy_to_device(to, from.data(), from.size() * sizeof(V), queue);
}

void wait(Queue queue) { check(cudaStreamSynchronize(as_stream(queue)), "cudaStreamSynchronize"); }

// Some of the problems of a call, on the device.
template <class T>
class State {
 public:
  const int64_t count, n, m;
  const Queue queue;

  State(const TransportArgs<T>& args, const Scalings& at, Queue queue)
      : count(at.count),
        n(args.n),
        m(args.m),
        queue(queue),
        args_(args),
        at_(at),
        problems_(count, queue),
        rates_(count, queue),
        doubles_(count * (n + m), queue),
        values_(2 * count * (n + m), queue) {
    rows = {doubles_.data(), values_.data(), values_.data() + count * n};
    cols = {doubles_.data() + count * n, values_.data() + 2 * count * n, values_.data() + count * (2 * n + m)};
    std::vector<int64_t> problems(at.problems, at.problems + count);
    std::vector<T> rates;
    for (int64_t problem : problems) {
      double rate = log2_e / at.eps[problem], most = static_cast<double>(std::numeric_limits<T>::max());
      rates.push_back(static_cast<T>(rate < most ? rate : most));
    }
    upload(problems_.data(), problems, queue);
    upload(rates_.data(), rates, queue);
    upload(rows.value, within_range<T>(packed(at.rows, n)), queue);
    upload(cols.value, within_range<T>(packed(at.cols, m)), queue);
    launch("scalings", put_kernel<T>, count * n, queue, rows, count * n);
    launch("scalings", put_kernel<T>, count * m, queue, cols, count * m);
  }

  Scaling<T> rows, cols;

  // Host numbers of the batch, of these problems alone.
  std::vector<double> packed(const double* of_batch, int64_t size) const {
    std::vector<double> out(static_cast<size_t>(count * size));
    for (int64_t s = 0; s < count; ++s) std::copy_n(of_batch + at_.problems[s] * size, size, out.data() + s * size);
    return out;
  }
  // The other way, from the device.
  template <class V>
  void fetch(const V* from, int64_t size, V* of_batch) const {
    std::vector<V> host(static_cast<size_t>(count * size));
    copy_to_host(host.data(), from, host.size() * sizeof(V), queue);
    for (int64_t s = 0; s < count; ++s) std::copy_n(host.data() + s * size, size, of_batch + at_.problems[s] * size);
  }

  Pairs<T> pairs(bool columns, int64_t width, const int32_t* active = nullptr) const {
    const TransportArgs<T>& args = args_;
    const int64_t own = columns ? m : n, others = columns ? n : m;
    const Cut cut = cut_pairs(own, others, width);
    Pairs<T> p{};
    p.grid = {columns ? args.y : args.x,
              columns ? args.x : args.y,
              own,
              others,
              args.dim,
              cut.row_tiles,
              cut.slabs,
              cut.slab,
              false};
    p.cost = args.cost;
    p.cost_step = args.cost_per_batch ? n * m : 0;
    p.transposed = columns;
    p.rule = cost_rule(args.power);
    p.problems = problems_.data();
    p.active = active;
    p.rates = rates_.data();
    const Scaling<T>&mine = columns ? cols : rows, &theirs = columns ? rows : cols;
    p.own_head = mine.head;
    p.own_tail = mine.tail;
    p.head = theirs.head;
    p.tail = theirs.tail;
    p.rows = count * own;
    return p;
  }
  const int64_t* problems() const { return problems_.data(); }

 private:
  const TransportArgs<T>& args_;
  const Scalings& at_;
  Scratch<int64_t> problems_;
  Scratch<T> rates_;
  Scratch<double> doubles_;
  Scratch<T> values_;
};

template <class T>
int64_t blocks_of(const Pairs<T>& p) {
  return p.rows / p.grid.n * p.grid.row_tiles * p.grid.slabs;
}
template <class T>
int64_t parts_of(const Pairs<T>& p, int64_t width) {
  return p.rows * p.grid.slabs * width;
}

template <class T, class... Parameters, class... Arguments>
void launch_pairs(const char* name, void (*points)(Parameters...), void (*dense)(Parameters...), const Pairs<T>& p,
                  Queue queue, Arguments&&... arguments) {
  launch_blocks(name, p.cost ? dense : points, dim3(static_cast<unsigned>(blocks_of(p))), dim3(side, side), queue, p,
                std::forward<Arguments>(arguments)...);
}

template <class T>
void log_sums(const Pairs<T>& p, double* parts, Queue queue) {
  launch_pairs("transport", logsum_kernel<T, false>, logsum_kernel<T, true>, p, queue, parts);
}
template <class T>
LogParts<T> log_parts(const Pairs<T>& p, const double* parts) {
  return {parts, p.grid.slabs, p.rows, p.own_head};
}

// run(problems of the call that fit at once)
template <class T, class Run>
void for_problems(const TransportArgs<T>& args, const Scalings& at, int64_t width, Run run) {
  if (at.count == 0) return;
  OnDevice device(args.cost ? args.cost : args.x);
  const Cut r = cut_pairs(args.n, args.m, width), c = cut_pairs(args.m, args.n, width);
  const int64_t bytes = 8 * width * std::max(r.slabs * args.n, c.slabs * args.m) + 32 * (args.n + args.m);
  const int64_t blocks = std::max(r.row_tiles * r.slabs, c.row_tiles * c.slabs);
  const int64_t most = std::max<int64_t>(std::min(part_bytes / bytes, (int64_t{1} << 30) / blocks), 1);
  for (int64_t first = 0; first < at.count; first += most) {
    Scalings some = at;
    some.problems = at.problems + first;
    some.count = std::min(most, at.count - first);
    run(some);
  }
}

Chunks chunks_of(int64_t slots, int64_t size) { return {slots, size, (size - 1) / block_threads + 1}; }

unsigned at_most(int64_t blocks) { return static_cast<unsigned>(std::min(blocks, max_blocks)); }

template <class T>
void iterate(const TransportArgs<T>& args, const Scalings& at, const ScalingRule& rule, double* errors,
             int64_t* iterations, Queue queue) {
  State<T> state(args, at, queue);
  const int64_t count = at.count, n = args.n, m = args.m;
  std::vector<int32_t> flags(static_cast<size_t>(2 * count), 1);  // active, balanced
  int64_t balanced = 0;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t problem = at.problems[s];
    const bool exact = rule.row_power[problem] == 1.0 && rule.col_power[problem] == 1.0 && !rule.symmetric;
    flags[static_cast<size_t>(count + s)] = exact;
    balanced += exact;
  }
  const Pairs<T> row_pairs = state.pairs(false, 2), col_pairs = state.pairs(true, 2);
  const Chunks row_chunks = chunks_of(count, n), col_chunks = chunks_of(count, m);
  Scratch<int32_t> device_flags(2 * count, queue);
  Scratch<int64_t> done(count, queue);
  Scratch<double> weights(count * (n + m), queue), powers(2 * count, queue), reached(count, queue),
      parts(std::max(parts_of(row_pairs, 2), parts_of(col_pairs, 2)), queue),
      row_results(count * row_chunks.per_slot, queue), col_results(count * col_chunks.per_slot, queue);
  upload(device_flags.data(), flags, queue);
  upload(done.data(), std::vector<int64_t>(static_cast<size_t>(count), 0), queue);
  upload(reached.data(), std::vector<double>(static_cast<size_t>(count), std::numeric_limits<double>::infinity()),
         queue);
  upload(weights.data(), state.packed(rule.a, n), queue);
  upload(weights.data() + count * n, state.packed(rule.b, m), queue);
  upload(powers.data(), state.packed(rule.row_power, 1), queue);
  upload(powers.data() + count, state.packed(rule.col_power, 1), queue);
  const Progress progress{reached.data(), done.data(), device_flags.data(), device_flags.data() + count};
  const Side row_side{weights.data(), powers.data(), progress.active};
  const Side col_side{weights.data() + count * n, powers.data() + count, progress.active};
  Pairs<T> for_rows = row_pairs, for_cols = col_pairs;
  for_rows.active = for_cols.active = progress.active;
  const LogParts<T> row_logs = log_parts(for_rows, parts.data()), col_logs = log_parts(for_cols, parts.data());
  const dim3 threads(block_threads), row_blocks(at_most(count * row_chunks.per_slot)),
      col_blocks(at_most(count * col_chunks.per_slot)), slot_blocks(at_most(count));
  const Scaling<T> none{};
  int64_t look = 1;  // the iteration after which the host asks whether any problem is left
  for (int64_t k = 1; k <= rule.max_iter; ++k) {
    log_sums(for_rows, parts.data(), queue);
    if (balanced > 0) {
      launch_blocks("transport", missing_kernel<T>, row_blocks, threads, queue, row_chunks, row_logs, row_side,
                    state.rows.value, row_results.data());
      launch_blocks("transport", decide_kernel, slot_blocks, threads, queue, count, progress, int32_t{1},
                    row_results.data(), row_chunks.per_slot, nullptr, int64_t{0}, rule.tol);
    }
    launch_blocks("transport", update_kernel<T>, row_blocks, threads, queue, row_chunks, row_logs, row_side,
                  rule.symmetric ? 0.5 : rule.relaxation, state.rows, rule.symmetric ? state.cols : none,
                  row_results.data());
    if (!rule.symmetric) {
      log_sums(for_cols, parts.data(), queue);
      launch_blocks("transport", update_kernel<T>, col_blocks, threads, queue, col_chunks, col_logs, col_side,
                    rule.relaxation, state.cols, none, col_results.data());
    }
    if (balanced < count)
      launch_blocks("transport", decide_kernel, slot_blocks, threads, queue, count, progress, int32_t{0},
                    row_results.data(), row_chunks.per_slot, col_results.data(),
                    rule.symmetric ? int64_t{0} : col_chunks.per_slot, rule.tol);
    if (k < look) continue;
    look += std::min<int64_t>(k, 16);
    copy_to_host(flags.data(), progress.active, static_cast<size_t>(count) * sizeof(int32_t), queue);
    if (std::all_of(flags.begin(), flags.begin() + count, [](int32_t active) { return active == 0; })) break;
  }
  state.fetch(state.rows.value, n, at.rows);
  state.fetch(state.cols.value, m, at.cols);
  state.fetch(reached.data(), 1, errors);
  state.fetch(done.data(), 1, iterations);
  within_range<T>(state.packed(at.rows, n));
  within_range<T>(state.packed(at.cols, m));
}

// Minus the log-sum-exps of one side, or the sums of the plan.
template <class T>
void log_rows(const State<T>& state, bool columns, bool sums, double* out) {
  const Pairs<T> p = state.pairs(columns, 2);
  Scratch<double> parts(parts_of(p, 2), state.queue), result(p.rows, state.queue);
  log_sums(p, parts.data(), state.queue);
  launch("transport", log_rows_kernel<T>, p.rows, state.queue, log_parts(p, parts.data()),
         (columns ? state.cols : state.rows).value, sums, result.data());
  state.fetch(result.data(), p.grid.n, out);
}

// The parts of P values, P C or P times gradients.
template <class T>
void sum_parts(const Pairs<T>& p, Sum kind, const Values<T>& values, int64_t width, double* parts, Queue queue) {
  const int narrow = static_cast<int>(width);
  if (kind == Sum::cost)
    launch_pairs("transport", sum_kernel<T, false, Sum::cost, 1>, sum_kernel<T, true, Sum::cost, 1>, p, queue, values,
                 narrow, parts);
  else if (kind == Sum::slope && width <= max_narrow)
    launch_pairs("transport", sum_kernel<T, false, Sum::slope, max_narrow>,
                 sum_kernel<T, false, Sum::slope, max_narrow>, p, queue, values, narrow, parts);
  else if (kind == Sum::slope && width <= side)
    launch_pairs("transport", wide_kernel<T, false, true, 1>, wide_kernel<T, false, true, 1>, p, queue, values, width,
                 parts);
  else if (kind == Sum::slope)
    launch_pairs("transport", wide_kernel<T, false, true, micro>, wide_kernel<T, false, true, micro>, p, queue, values,
                 width, parts);
  else if (width == 1)
    launch_pairs("transport", sum_kernel<T, false, Sum::values, 1>, sum_kernel<T, true, Sum::values, 1>, p, queue,
                 values, narrow, parts);
  else if (width <= max_narrow)
    launch_pairs("transport", sum_kernel<T, false, Sum::values, max_narrow>,
                 sum_kernel<T, true, Sum::values, max_narrow>, p, queue, values, narrow, parts);
  else if (width <= side)
    launch_pairs("transport", wide_kernel<T, false, false, 1>, wide_kernel<T, true, false, 1>, p, queue, values, width,
                 parts);
  else
    launch_pairs("transport", wide_kernel<T, false, false, micro>, wide_kernel<T, true, false, micro>, p, queue, values,
                 width, parts);
}

// Into device memory of the caller, by problem.
template <class T>
void sums_to_device(const State<T>& state, bool columns, Sum kind, const Values<T>& values, int64_t width, T* out) {
  const Pairs<T> p = state.pairs(columns, width);
  Scratch<double> parts(parts_of(p, width), state.queue);
  sum_parts(p, kind, values, width, parts.data(), state.queue);
  launch("transport", add_parts_kernel<T, T>, p.rows * width, state.queue, p, state.problems(), parts.data(), width,
         out);
}

// One number for each own point, into host memory.
template <class T>
std::vector<double> sums_by_slot(const State<T>& state, bool columns, Sum kind, const Values<T>& values) {
  const Pairs<T> p = state.pairs(columns, 2);
  Scratch<double> parts(parts_of(p, 1), state.queue), result(p.rows, state.queue);
  sum_parts(p, kind, values, 1, parts.data(), state.queue);
  launch("transport", add_parts_kernel<T, double>, p.rows, state.queue, p, nullptr, parts.data(), int64_t{1},
         result.data());
  std::vector<double> host(static_cast<size_t>(p.rows));
  copy_to_host(host.data(), result.data(), host.size() * sizeof(double), state.queue);
  return host;
}

// The one problem of a state, its rows from `first` on: pointers are moved there, and it becomes problem 0.
template <class T>
Pairs<T> pairs_of_rows(const State<T>& state, const TransportArgs<T>& args, int64_t problem, int64_t first,
                       int64_t last) {
  Pairs<T> p = state.pairs(false, 2);
  const Cut cut = cut_pairs(last - first, args.m, 2);
  if (args.cost) {
    p.cost += problem * p.cost_step + first * args.m;
  } else {
    p.grid.x += (problem * args.n + first) * args.dim;
    p.grid.y += problem * args.m * args.dim;
  }
  p.grid.n = p.rows = last - first;
  p.grid.row_tiles = cut.row_tiles;
  p.grid.slabs = cut.slabs;
  p.grid.slab = cut.slab;
  p.problems = nullptr;
  p.own_head += first;
  p.own_tail += first;
  return p;
}

template <class T>
KeptEntries kept_entries(const TransportArgs<T>& args, const Scalings& at, int64_t problem, const double* row_level,
                         const double* col_level, int64_t most, Queue queue) {
  OnDevice device(args.cost ? args.cost : args.x);
  const int64_t n = args.n, m = args.m;
  State<T> state(args, at, queue);
  const Pairs<T> p = pairs_of_rows(state, args, problem, 0, n);
  const int64_t slabs = p.grid.slabs;
  Scratch<double> levels(n + m, queue);
  copy_to_device(levels.data(), row_level, static_cast<size_t>(n) * sizeof(double), queue);
  copy_to_device(levels.data() + n, col_level, static_cast<size_t>(m) * sizeof(double), queue);
  Scratch<int32_t> counts(n * slabs, queue);
  Kept kept{levels.data(), levels.data() + n, counts.data(), nullptr, nullptr, nullptr};
  launch_pairs("transport", kept_kernel<T, false>, kept_kernel<T, true>, p, queue, kept);
  std::vector<int32_t> found(static_cast<size_t>(n * slabs));
  copy_to_host(found.data(), counts.data(), found.size() * sizeof(int32_t), queue);
  std::vector<int64_t> start(found.size());
  KeptEntries out{{}, {}, {}, true};
  int64_t total = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (i % static_cast<size_t>(slabs) == 0) out.start.push_back(total);
    start[i] = total;
    total += found[i];
  }
  out.start.push_back(total);
  if (total > most) return {{}, {}, {}, false};
  if (total == 0) return out;
  Scratch<int64_t> starts(n * slabs, queue);
  Scratch<int32_t> column(total, queue);
  Scratch<double> value(total, queue);
  upload(starts.data(), start, queue);
  kept = {levels.data(), levels.data() + n, nullptr, starts.data(), column.data(), value.data()};
  launch_pairs("transport", kept_kernel<T, false>, kept_kernel<T, true>, p, queue, kept);
  out.column.resize(static_cast<size_t>(total));
  out.value.resize(static_cast<size_t>(total));
  copy_to_host(out.column.data(), column.data(), out.column.size() * sizeof(int32_t), queue);
  copy_to_host(out.value.data(), value.data(), out.value.size() * sizeof(double), queue);
  return out;
}

}  // namespace

template <class T>
Transport<T>* make_transport(const TransportArgs<T>& args, Queue) {
  return new Transport<T>{args};
}
template <class T>
void free_transport(Transport<T>* transport) {
  delete transport;
}

template <class T>
void transport_forget(Transport<T>&) {}  // nothing is kept

template <class T>
void transport_iterate(Transport<T>& t, const Scalings& at, const ScalingRule& rule, double* errors,
                       int64_t* iterations, Queue queue) {
  for_problems(t.args, at, 2, [&](const Scalings& some) { iterate(t.args, some, rule, errors, iterations, queue); });
}

template <class T>
void transport_transform(Transport<T>& t, const Scalings& at, bool columns, double* out, Queue queue) {
  for_problems(t.args, at, 2,
               [&](const Scalings& some) { log_rows(State<T>(t.args, some, queue), columns, false, out); });
}

template <class T>
void transport_marginals(Transport<T>& t, const Scalings& at, double* rows, double* cols, double* cost, Queue queue) {
  for_problems(t.args, at, 2, [&](const Scalings& some) {
    State<T> state(t.args, some, queue);
    if (rows) log_rows(state, false, true, rows);
    if (cols) log_rows(state, true, true, cols);
    if (!cost) return;
    const std::vector<double> sums = sums_by_slot(state, false, Sum::cost, Values<T>{});
    for (int64_t s = 0; s < some.count; ++s) {
      double total = 0.0;
      for (int64_t i = 0; i < t.args.n; ++i) total += sums[static_cast<size_t>(s * t.args.n + i)];
      cost[some.problems[s]] = total;
    }
  });
}

template <class T>
void transport_product(Transport<T>& t, const Scalings& at, const double* u, const double* v, double* rows,
                       double* cols, Queue queue) {
  const int64_t n = t.args.n, m = t.args.m;
  for_problems(t.args, at, 2, [&](const Scalings& some) {
    State<T> state(t.args, some, queue);
    for (const bool columns : {false, true}) {
      const int64_t own = columns ? m : n, others = columns ? n : m;
      Scratch<double> factors(some.count * others, queue);
      upload(factors.data(), state.packed(columns ? u : v, others), queue);
      const std::vector<double> sums = sums_by_slot(state, columns, Sum::values, Values<T>{nullptr, factors.data(), 1});
      for (int64_t s = 0; s < some.count; ++s)
        std::copy_n(sums.data() + s * own, own, (columns ? cols : rows) + some.problems[s] * own);
    }
  });
}

template <class T>
void transport_apply(Transport<T>& t, const Scalings& at, bool transposed, const T* values, int64_t columns, T* out,
                     Queue queue) {
  for_problems(t.args, at, columns, [&](const Scalings& some) {
    sums_to_device(State<T>(t.args, some, queue), transposed, Sum::values, {values, nullptr, columns}, columns, out);
  });
  if (at.count > 0) wait(queue);
}

template <class T>
void transport_gradient(Transport<T>& t, const Scalings& at, bool in_y, T* out, Queue queue) {
  for_problems(t.args, at, t.args.dim, [&](const Scalings& some) {
    const Values<T> points{in_y ? t.args.x : t.args.y, nullptr, t.args.dim};
    sums_to_device(State<T>(t.args, some, queue), in_y, Sum::slope, points, t.args.dim, out);
  });
  if (at.count > 0) wait(queue);
}

template <class T>
void transport_plan(Transport<T>& t, const Scalings& at, int64_t problem, int64_t first, int64_t last, T* out,
                    Queue queue) {
  if (first == last) return;
  OnDevice device(t.args.cost ? t.args.cost : t.args.x);
  State<T> state(t.args, at, queue);
  launch_pairs("transport", plan_kernel<T, false>, plan_kernel<T, true>,
               pairs_of_rows(state, t.args, problem, first, last), queue, out);
  wait(queue);
}

template <class T>
KeptEntries transport_kept(Transport<T>& t, const Scalings& at, int64_t problem, const double* row_level,
                           const double* col_level, int64_t most, Queue queue) {
  return kept_entries(t.args, at, problem, row_level, col_level, most, queue);
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

}  // namespace cuda
}  // namespace mk
