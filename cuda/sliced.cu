// CUDA executor of the sliced distances.
//
// Projections x and y are sorted apart, row by row (a row: one direction of one problem), and a point finds its place
// among the other points by binary search. All weights are whole numbers: counts times the other count where all are equal,
// else multiples of 2^-61. So prefix sums are exact, in any order, and heights of the distribution functions are differences
// without rounding; sorted points y can be kept (SlicedTarget) and give the same bits as fresh ones.
//
// Rows are done in slabs, so memory is bounded: 64 MiB or a quarter of the inputs, whichever is more, besides what CUB asks
// for; one row if that is more: for float 16 bytes a point of x and 8 of y, for double 24 and 16, with weights 16 more, and
// 52 more for exponents other than 1. Every row and every entry of the gradient is computed in an order of its own: results
// depend neither on slabs nor on the device; there are no atomics.
#include <chrono>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>

#include "mckean/power_sum.hpp"
#include "mckean/sliced.hpp"
#include "pair_tile.cuh"
#include "segmented_sort.cuh"

namespace mk {

struct SlicedTarget {
  int64_t m, dim, slices;
  void *keys = nullptr, *directions = nullptr;  // (slices, m) sorted, (slices, dim)
  int64_t* masses = nullptr;                    // (slices, m) or null
  double* centre = nullptr;                     // (dim,)
  cudaEvent_t done = nullptr;                   // after all that was queued so far to make or to read it, on any stream
  mutable std::mutex records;                   // of `done`
};

namespace cuda {
namespace {

#ifndef MK_SLICED_BYTES  // the tests on the host set it low, so that there are many slabs
#define MK_SLICED_BYTES (int64_t{64} << 20)
#endif
constexpr int64_t slab_bytes = MK_SLICED_BYTES;
constexpr int per_thread = 4, chunk_points = block_threads * per_thread;
constexpr int64_t max_points = std::numeric_limits<int>::max();

__device__ inline int thread_in_block() { return static_cast<int>(threadIdx.x); }

// ---- small things ---------------------------------------------------------------------------------------------------

template <class T>
__global__ void copy_kernel(T* out, const T* in, int64_t size) {
  for (int64_t i = first_item(); i < size; i += item_stride()) out[i] = in[i];
}

// The sum over the block, for thread 0. Every thread of the block calls it.
__device__ inline double block_sum(double own, double* room) {
  const int t = thread_in_block();
  __syncthreads();
  room[t] = own;
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) room[t] += room[t + half];
  }
  return room[0];
}

// sums (rows, columns) = parts (rows, count, columns) added up in an order that depends on count alone. A block each.
__global__ void __launch_bounds__(block_threads)
    row_sums_kernel(const double* parts, int64_t count, int columns, double* sums) {
  __shared__ double room[block_threads];
  const int64_t row = blockIdx.x / columns, column = blockIdx.x % columns;
  double own = 0.0;
  for (int64_t i = thread_in_block(); i < count; i += blockDim.x) own += parts[(row * count + i) * columns + column];
  own = block_sum(own, room);
  if (thread_in_block() == 0) sums[row * columns + column] = own;
}

void row_sums(const double* parts, int64_t rows, int64_t count, int columns, double* sums, Queue queue) {
  unsigned threads = 1;
  while (threads < block_threads && threads < count) threads *= 2;
  launch_blocks("sliced", row_sums_kernel, dim3(static_cast<unsigned>(rows * columns)), dim3(threads), queue, parts,
                count, columns, sums);
}

// t^p, t >= 0
__device__ inline double power_of(double t, double p) {
  if (p == 1.0) return t;
  if (p == 2.0) return t * t;
  if (p == 3.0) return t * t * t;
  if (t == 0.0) return p == 0.0 ? 1.0 : 0.0;
  const bool tiny = t < 1e-300;
  double log = log_positive<double>(tiny ? t * 0x1p100 : t);
  if (tiny) log -= 69.314718055994530942;
  return exp_clamped<double>(p * log);
}

// How many of the ascending keys first .. end are < z, or <= z with `equal`, counted from key 0.
template <class T>
__device__ inline int rank_of(const T* keys, int first, int end, T z, bool equal) {
  while (first < end) {
    const int middle = first + (end - first) / 2;
    if (keys[middle] < z || (equal && keys[middle] == z))
      first = middle + 1;
    else
      end = middle;
  }
  return first;
}

// ---- projection and back-projection ---------------------------------------------------------------------------------

// The centre of every problem's points y: (problems, dim). A thread reads at most centre_points coordinates, unless it has
// to look for positive weights.
template <class T>
__global__ void centre_kernel(const T* y, const double* weights, int64_t problems, int64_t points, int64_t dim,
                              double* out) {
  const int parts = points < centre_points ? static_cast<int>(points) : centre_points;
  for (int64_t i = first_item(); i < problems * dim; i += item_stride()) {
    const int64_t problem = i / dim, k = i % dim;
    T values[centre_points];
    int count = 0;
    for (int part = 0; part < parts; ++part) {
      const int64_t j = centre_point(part, parts, points, weights ? weights + problem * points : nullptr);
      if (j >= 0) values[count++] = y[(problem * points + j) * dim + k];
    }
    out[i] = count > 0 ? static_cast<double>(lower_median(values, count)) : 0.0;
  }
}

// Coordinates first .. first + count of points minus the centre, subtracted in double; zeros past the last point.
template <class T, int depth>
__device__ inline void load_centred(const T* points, const double* centre, int64_t dim, int64_t first, int count,
                                    int valid, Panel<T, depth>& panel) {
  int shift = 0;
  while ((1 << shift) < count) ++shift;
  const int k = thread_number() & ((1 << shift) - 1);
  if (k >= count) return;
  const double c = centre[first + k];
  for (int i = thread_number() >> shift; i < tile_size; i += pair_threads >> shift)
    panel.at[k][i % side].v[i / side] =
        i < valid ? static_cast<T>(static_cast<double>(points[i * dim + first + k]) - c) : T(0);
}

// s[r][c] += sum over `count` panels of a[r] b[c], in their order.
template <class T, int depth>
__device__ inline void add_products(int count, const Panel<T, depth>& a, const Panel<T, depth>& b, Micro<T>& s) {
  for (int k = 0; k < count; ++k) {
    const Quad<T> p = a.at[k][threadIdx.y], q = b.at[k][threadIdx.x];
#pragma unroll
    for (int r = 0; r < micro; ++r)
#pragma unroll
      for (int c = 0; c < micro; ++c) s[r][c] = s[r][c] + p.v[r] * q.v[c];
  }
}

template <class T>
struct Projection {
  const T* points;       // (problems, count, dim)
  const double* centre;  // (problems or 1, dim)
  int64_t centre_stride, count, dim, slices, point_tiles, slice_tiles;
  const T* directions;  // (slices, dim)
  T* keys;              // (problems, slices, count)
  int* index;           // likewise, or null
};

// 64 points of a problem by 64 directions. Bound by arithmetic for many dimensions, else by what it writes.
template <class T>
__global__ void __launch_bounds__(pair_threads) project_kernel(const __grid_constant__ Projection<T> a) {
  constexpr int depth = panel_depth<T>;
  __shared__ Panels<T, depth> panels;
  const int64_t number = blockIdx.x, slice = number % a.slice_tiles * tile_size;
  const int64_t point = number / a.slice_tiles % a.point_tiles * tile_size,
                problem = number / a.slice_tiles / a.point_tiles;
  const T* points = a.points + (problem * a.count + point) * a.dim;
  Micro<T> s;
  fill(s, T(0));
  for (int64_t first = 0; first < a.dim; first += depth) {
    const int count = static_cast<int>(a.dim - first < depth ? a.dim - first : depth);
    __syncthreads();
    load_panel(a.directions + slice * a.dim, a.dim, first, count, clipped(a.slices - slice), panels.x);
    load_centred(points, a.centre + problem * a.centre_stride, a.dim, first, count, clipped(a.count - point), panels.y);
    __syncthreads();
    add_products(count, panels.x, panels.y, s);
  }
  for (int r = 0; r < micro; ++r)
    for (int c = 0; c < micro; ++c) {
      const int64_t p = slice + threadIdx.y + side * r, i = point + threadIdx.x + side * c;
      if (p >= a.slices || i >= a.count) continue;
      const int64_t at = (problem * a.slices + p) * a.count + i;
      a.keys[at] = s[r][c] + T(0);  // -0 becomes +0: a sort by bits takes them for equal then
      if (a.index) a.index[at] = static_cast<int>(i);
    }
}

template <class T>
struct BackProjection {
  const T* slopes;      // (problems, slices, n)
  const T* directions;  // (slices, dim)
  int64_t n, dim, slices, point_tiles, dim_tiles;
  T* gradient;  // (problems, n, dim)
  bool fresh;   // nothing there yet
};

// gradient += sum over the slices, one after the other: how they are cut into slabs changes no bit.
template <class T>
__global__ void __launch_bounds__(pair_threads) back_kernel(const __grid_constant__ BackProjection<T> a) {
  constexpr int depth = panel_depth<T>;
  __shared__ Panels<T, depth> panels;
  const int64_t number = blockIdx.x, coordinate = number % a.dim_tiles * tile_size;
  const int64_t point = number / a.dim_tiles % a.point_tiles * tile_size,
                problem = number / a.dim_tiles / a.point_tiles;
  T* gradient = a.gradient + (problem * a.n + point) * a.dim + coordinate;
  const int points = clipped(a.n - point), coordinates = clipped(a.dim - coordinate);
  Micro<T> s;
  fill(s, T(0));
  for (int r = 0; r < micro && !a.fresh; ++r)
    for (int c = 0; c < micro; ++c) {
      const int i = static_cast<int>(threadIdx.y) + side * r, k = static_cast<int>(threadIdx.x) + side * c;
      if (i < points && k < coordinates) s[r][c] = gradient[i * a.dim + k];
    }
  for (int64_t first = 0; first < a.slices; first += depth) {
    const int count = static_cast<int>(a.slices - first < depth ? a.slices - first : depth);
    __syncthreads();
    const int own = thread_number() % tile_size;
    for (int p = thread_number() / tile_size; p < count; p += pair_threads / tile_size) {
      panels.x.at[p][own % side].v[own / side] =
          own < points ? a.slopes[(problem * a.slices + first + p) * a.n + point + own] : T(0);
      panels.y.at[p][own % side].v[own / side] =
          own < coordinates ? a.directions[(first + p) * a.dim + coordinate + own] : T(0);
    }
    __syncthreads();
    add_products(count, panels.x, panels.y, s);
  }
  for (int r = 0; r < micro; ++r)
    for (int c = 0; c < micro; ++c) {
      const int i = static_cast<int>(threadIdx.y) + side * r, k = static_cast<int>(threadIdx.x) + side * c;
      if (i < points && k < coordinates) gradient[i * a.dim + k] = s[r][c];
    }
}

// ---- masses ---------------------------------------------------------------------------------------------------------

// The mass of the first i points: of a table, or i shares of equal masses, rounded down. i rest < 2^62.
struct Masses {
  const int64_t* sums;  // (points,) of the row, or null
  int64_t share, rest, points;
  __device__ int64_t of(int64_t i) const {
    if (sums) return i == 0 ? 0 : sums[i - 1];
    return rest == 0 ? i * share : i * share + i * rest / points;
  }
};
// Rounded masses may sum to a little more than this, and slopes add two heights.
constexpr int64_t unit_mass = int64_t{1} << 61;

// masses (rows, points) of the sorted points, each on its own. weights (problems, points), `slices` rows a problem.
__global__ void mass_kernel(const double* weights, const int* index, int64_t rows, int64_t points, int64_t slices,
                            int64_t* masses) {
  for (int64_t i = first_item(); i < rows * points; i += item_stride()) {
    const double w = weights[i / points / slices * points + index[i]];
    masses[i] = static_cast<int64_t>(w * static_cast<double>(unit_mass) + 0.5);
  }
}

// Every chunk of every row becomes its prefix sums; the last ones also go to totals (rows, chunks).
__global__ void __launch_bounds__(block_threads)
    scan_kernel(int64_t* data, int64_t points, int64_t chunks, int64_t* totals) {
  __shared__ int64_t room[block_threads];
  const int t = thread_in_block();
  const int64_t row = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t first = chunk * chunk_points + t * per_thread;
  int64_t own[per_thread], sum = 0;
  for (int k = 0; k < per_thread; ++k) {
    sum += first + k < points ? data[row * points + first + k] : 0;
    own[k] = sum;
  }
  room[t] = sum;
  for (int reach = 1; reach < block_threads; reach *= 2) {
    __syncthreads();
    const int64_t before = t >= reach ? room[t - reach] : 0;
    __syncthreads();
    room[t] += before;
  }
  for (int k = 0; k < per_thread; ++k)
    if (first + k < points) data[row * points + first + k] = room[t] - sum + own[k];
  if (totals && t == block_threads - 1) totals[row * chunks + chunk] = room[t];
}

__global__ void add_totals_kernel(int64_t* data, int64_t rows, int64_t points, int64_t chunks, const int64_t* totals) {
  for (int64_t i = first_item(); i < rows * points; i += item_stride()) {
    const int64_t row = i / points, chunk = i % points / chunk_points;
    if (chunk > 0) data[i] += totals[row * chunks + chunk - 1];
  }
}

void scan_rows(int64_t* data, int64_t rows, int64_t points, Queue queue) {
  const int64_t chunks = (points - 1) / chunk_points + 1;
  Scratch<int64_t> totals(chunks > 1 ? rows * chunks : 0, queue);
  launch_blocks("sliced", scan_kernel, dim3(static_cast<unsigned>(rows * chunks)), dim3(block_threads), queue, data,
                points, chunks, totals.data());
  if (chunks == 1) return;
  scan_rows(totals.data(), rows, chunks, queue);
  launch("sliced", add_totals_kernel, rows * points, queue, data, rows, points, chunks, totals.data());
}

// ---- places of points in a row --------------------------------------------------------------------------------------

// Sorted rows of x, or of y.
template <class T>
struct Side {
  const T* keys;          // (rows, points)
  const int* index;       // likewise, or null
  const int64_t* masses;  // likewise, prefix sums; null: equal ones
  int64_t share, rest;
  int points;
  int64_t rows;  // row r of the slab is row r % rows here: y may be the same for all problems
  __device__ const T* row(int64_t r) const { return keys + r % rows * points; }
  __device__ Masses masses_of(int64_t r) const {
    return {masses ? masses + r % rows * points : nullptr, share, rest, points};
  }
};

// What the kernels over the rows of a slab share.
template <class T>
struct Slab {
  Side<T> x, y;
  int64_t slices;           // rows of one problem
  double unit;              // of masses
  const double* x_weights;  // (problems, n), or null
  double scale;
  T* slopes;  // (rows, n), null: not wanted
  __device__ double weight(int64_t row, int i) const {
    return x_weights ? x_weights[row / slices * x.points + i] : 1.0 / static_cast<double>(x.points);
  }
};

// A point's place in the union of a row, where x comes before y at equal keys.
struct Place {
  int x_until, y_until;                            // points up to and including this one
  int x_less = 0, y_less = 0, x_le = 0, y_le = 0;  // < and <= it, where asked for
  double gap;                                      // to the next one, 0 at the end
};

// Point i of the own keys, x or y; `from` and `to` enclose its rank among the other keys.
template <class T>
__device__ inline Place place_of(const T* x, int n, const T* y, int m, bool of_x, int i, int from, int to, bool ties) {
  const T* own = of_x ? x : y;
  const T* other = of_x ? y : x;
  const int points = of_x ? n : m, others = of_x ? m : n;
  const T z = own[i];
  const int rank = rank_of(other, from, to, z, !of_x);
  Place a;
  a.x_until = of_x ? i + 1 : rank;
  a.y_until = of_x ? rank : i + 1;
  bool any = i + 1 < points;
  T next = any ? own[i + 1] : z;
  if (rank < others && (!any || other[rank] < next)) {
    next = other[rank];
    any = true;
  }
  a.gap = any ? static_cast<double>(next) - static_cast<double>(z) : 0.0;
  if (!ties) return a;
  const int less = i > 0 && own[i - 1] == z ? rank_of(own, 0, i, z, false) : i;
  const int le = i + 1 < points && own[i + 1] == z ? rank_of(own, i + 1, points, z, true) : i + 1;
  int other_less = rank, other_le = rank;
  if (of_x && rank < others && other[rank] == z) other_le = rank_of(other, rank, others, z, true);
  if (!of_x && rank > 0 && other[rank - 1] == z) other_less = rank_of(other, 0, rank, z, false);
  a.x_less = of_x ? less : other_less;
  a.x_le = of_x ? le : other_le;
  a.y_less = of_x ? other_less : less;
  a.y_le = of_x ? other_le : le;
  return a;
}

// What a block does: a chunk of the points x of a row, or of its points y.
struct Chunk {
  int64_t row, part;
  bool of_x;
  int first, end;
};
template <class T>
__device__ inline Chunk chunk_of(const Slab<T>& a, int64_t x_parts, int64_t parts) {
  Chunk c;
  c.row = blockIdx.x / parts;
  c.part = blockIdx.x % parts;
  c.of_x = c.part < x_parts;
  const int points = c.of_x ? a.x.points : a.y.points;
  c.first = static_cast<int>((c.of_x ? c.part : c.part - x_parts) * chunk_points);
  c.end = points - c.first < chunk_points ? points : c.first + chunk_points;
  return c;
}
// Where the ranks of the chunk's points among the others lie: found once a block. Thread 0 and 1 write, the caller waits.
template <class T>
__device__ inline void find_range(const Slab<T>& a, const Chunk& c, int* range) {
  const T* own = c.of_x ? a.x.row(c.row) : a.y.row(c.row);
  const T* other = c.of_x ? a.y.row(c.row) : a.x.row(c.row);
  const int others = c.of_x ? a.y.points : a.x.points, t = thread_in_block();
  if (t < 2) range[t] = rank_of(other, 0, others, t == 0 ? own[c.first] : own[c.end - 1], t == 1);
}

int64_t parts_of(int64_t points) { return (points - 1) / chunk_points + 1; }

// ---- r = 1 ----------------------------------------------------------------------------------------------------------

// parts (rows, parts): sums of 2 gap height^2, the height being that of G - F. slopes: 2 a_i (height below + at) scale.
template <class T>
__global__ void __launch_bounds__(block_threads)
    energy_kernel(const __grid_constant__ Slab<T> a, int64_t x_parts, int64_t n_parts, double* parts) {
  __shared__ int range[2];
  __shared__ double room[block_threads];
  const Chunk c = chunk_of(a, x_parts, n_parts);
  find_range(a, c, range);
  __syncthreads();
  const T *x = a.x.row(c.row), *y = a.y.row(c.row);
  const Masses F = a.x.masses_of(c.row), G = a.y.masses_of(c.row);
  const bool sloped = a.slopes && c.of_x;
  double sum = 0.0;
  for (int i = c.first + thread_in_block(); i < c.end; i += block_threads) {
    const Place p = place_of(x, a.x.points, y, a.y.points, c.of_x, i, range[0], range[1], sloped);
    const double height = static_cast<double>(G.of(p.y_until) - F.of(p.x_until)) * a.unit;
    sum += 2.0 * p.gap * height * height;
    if (!sloped) continue;
    const int64_t both = G.of(p.y_less) - F.of(p.x_less) + (G.of(p.y_le) - F.of(p.x_le));
    const int at = a.x.index[c.row * a.x.points + i];
    const double slope = 2.0 * a.weight(c.row, at) * (static_cast<double>(both) * a.unit);
    a.slopes[c.row * a.x.points + at] = static_cast<T>(a.scale * slope);
  }
  sum = block_sum(sum, room);
  if (thread_in_block() == 0) parts[c.row * n_parts + c.part] = sum;
}

// ---- other r: power_sum.hpp -----------------------------------------------------------------------------------------

constexpr int segment_points = 128;  // of the union: a block runs through them one by one, a thread for each exponent
constexpr int contribution_points = 16, contribution_lanes = 8;

// The union of both sides, point by point.
struct Union {
  double *z, *below, *upto;  // (rows, points): position, height of G - F before and after the points at it
  int* source;               // number of the point of x, -1: of y
  int64_t points;
};
// Of a row: gap height^2, (weight at a position)^2, gap height, then the range and its power r.
enum { stat_area, stat_tied, stat_moment, stat_range, stat_power, n_stats };
constexpr int n_sums = 3;

template <class T>
__global__ void __launch_bounds__(block_threads)
    union_kernel(const __grid_constant__ Slab<T> a, int64_t x_parts, int64_t n_parts, Union u, double* parts) {
  __shared__ int range[2];
  __shared__ double room[block_threads];
  const Chunk c = chunk_of(a, x_parts, n_parts);
  find_range(a, c, range);
  __syncthreads();
  const T *x = a.x.row(c.row), *y = a.y.row(c.row);
  const Masses F = a.x.masses_of(c.row), G = a.y.masses_of(c.row);
  double sums[n_sums] = {0.0, 0.0, 0.0};
  for (int i = c.first + thread_in_block(); i < c.end; i += block_threads) {
    const Place p = place_of(x, a.x.points, y, a.y.points, c.of_x, i, range[0], range[1], true);
    const int64_t here = static_cast<int64_t>(p.x_until) + p.y_until - 1, at = c.row * u.points + here;
    const double below = static_cast<double>(G.of(p.y_less) - F.of(p.x_less)) * a.unit;
    const double upto = static_cast<double>(G.of(p.y_le) - F.of(p.x_le)) * a.unit;
    u.z[at] = static_cast<double>(c.of_x ? x[i] : y[i]);
    u.below[at] = below;
    u.upto[at] = upto;
    u.source[at] = !c.of_x ? -1 : a.x.index ? a.x.index[c.row * a.x.points + i] : i;
    sums[stat_area] += p.gap * upto * upto;
    sums[stat_moment] += p.gap * upto;
    if (here == static_cast<int64_t>(p.x_less) + p.y_less) sums[stat_tied] += (upto - below) * (upto - below);
  }
  for (int k = 0; k < n_sums; ++k) {
    const double sum = block_sum(sums[k], room);
    if (thread_in_block() == 0) parts[(c.row * n_parts + c.part) * n_sums + k] = sum;
  }
}

__global__ void stats_kernel(int64_t rows, Union u, const double* sums, double r, double* stats) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const double range = u.z[(row + 1) * u.points - 1] - u.z[row * u.points];
    for (int k = 0; k < n_sums; ++k) stats[row * n_stats + k] = sums[row * n_sums + k];
    stats[row * n_stats + stat_range] = range;
    stats[row * n_stats + stat_power] = power_of(range, r);
  }
}

struct PowerSums {
  PowerRule rule;
  Union u;
  int64_t segments;
  double* state;  // (rows, segments, 3, terms): sums from the left and from the right of a segment, and its decay
};

// The gaps of one segment, each in units of the range, to the next point or 0, and heights of points and the one after.
struct Segment {
  double gap[segment_points], below[segment_points + 1], upto[segment_points + 1];
  int count;
  bool last;
};

__device__ inline void load_segment(const PowerSums& a, int64_t row, int64_t number, double range, Segment& s) {
  const int64_t first = number * segment_points, left = a.u.points - first;
  const int count = static_cast<int>(left < segment_points ? left : segment_points);
  const int64_t at = row * a.u.points + first;
  for (int i = thread_in_block(); i <= count; i += static_cast<int>(blockDim.x)) {
    const bool there = i < left;
    s.below[i] = there ? a.u.below[at + i] : 0.0;
    s.upto[i] = there ? a.u.upto[at + i] : 0.0;
    if (i < count) s.gap[i] = i + 1 < left && range > 0.0 ? (a.u.z[at + i + 1] - a.u.z[at + i]) / range : 0.0;
  }
  if (thread_in_block() == 0) {
    s.count = count;
    s.last = left <= segment_points;
  }
  __syncthreads();
}

// What a segment does to the sums that come in from the left, at its first point, and from the right, at the next one's.
__global__ void __launch_bounds__(max_power_terms)
    segment_kernel(const __grid_constant__ PowerSums a, const double* stats) {
  __shared__ Segment s;
  const int64_t row = blockIdx.x / a.segments, number = blockIdx.x % a.segments;
  load_segment(a, row, number, stats[row * n_stats + stat_range], s);
  const int k = thread_in_block();
  if (k >= a.rule.terms) return;
  double left = 0.0, right = 0.0, all = 1.0;
  for (int i = 0; i < s.count; ++i) {
    if (s.gap[i] == 0.0) continue;
    const Decay<double> d = decay<double>(a.rule.exponent[k] * s.gap[i]);
    if (a.rule.below) {
      left = carry_decay<double>(left, s.upto[i] - s.below[i], d);
      all *= d.keep;
      right += all * (s.upto[i + 1] - s.below[i + 1]);
    } else {
      left = carry_rise<double>(left, s.upto[i], d);
      right += all * d.lose * -s.below[i + 1];
      all *= d.keep;
    }
  }
  double* state = a.state + blockIdx.x * 3 * static_cast<int64_t>(a.rule.terms) + k;
  state[0] = left;
  state[a.rule.terms] = right;
  state[2 * a.rule.terms] = all;
}

// From what segments do to what comes in.
__global__ void carry_kernel(const __grid_constant__ PowerSums a, int64_t rows) {
  const int64_t terms = a.rule.terms;
  for (int64_t i = first_item(); i < rows * terms; i += item_stride()) {
    double* state = a.state + i / terms * a.segments * 3 * terms + i % terms;
    double left = 0.0, right = 0.0;
    for (int64_t s = 0; s < a.segments; ++s) {
      double* at = state + s * 3 * terms;
      const double own = at[0];
      at[0] = left;
      left = own + at[2 * terms] * left;
    }
    for (int64_t s = a.segments; s-- > 0;) {
      double* at = state + s * 3 * terms;
      const double own = at[terms];
      at[terms] = right;
      right = own + at[2 * terms] * right;
    }
  }
}

// parts (rows, segments): what the exponentials add to the value, in units of range^r. slopes: all of them.
template <class T>
__global__ void __launch_bounds__(max_power_terms)
    power_kernel(const __grid_constant__ PowerSums a, const __grid_constant__ Slab<T> slab, const double* stats,
                 double* parts) {
  __shared__ Segment s;
  __shared__ double room[max_power_terms];
  __shared__ double contribution[contribution_points][max_power_terms + 1];
  __shared__ double partial[contribution_points][contribution_lanes];
  __shared__ double total[segment_points];
  const int64_t row = blockIdx.x / a.segments, number = blockIdx.x % a.segments;
  const double* stat = stats + row * n_stats;
  load_segment(a, row, number, stat[stat_range], s);
  const int k = thread_in_block(), threads = static_cast<int>(blockDim.x), terms = a.rule.terms;
  const bool active = k < terms, below = a.rule.below;
  const double exponent = active ? a.rule.exponent[k] : 0.0, coefficient = active ? a.rule.coefficient[k] : 0.0;
  const double* state = a.state + blockIdx.x * 3 * static_cast<int64_t>(terms) + (active ? k : 0);
  // Adds the contributions of all exponents for the points first .. first + count; `sign` > 0: they are the first ones.
  auto collect = [&](int first, int count, double sign) {
    __syncthreads();
    for (int t = k; t < contribution_points * contribution_lanes; t += threads) {
      const int point = t / contribution_lanes, lane = t % contribution_lanes;
      double sum = 0.0;
      for (int e = lane; e < terms && point < count; e += contribution_lanes) sum += contribution[point][e];
      partial[point][lane] = sum;
    }
    __syncthreads();
    for (int point = k; point < count; point += threads) {
      double sum = 0.0;
      for (int lane = 0; lane < contribution_lanes; ++lane) sum += partial[point][lane];
      total[first + point] = sign > 0.0 ? sum : total[first + point] - sum;
    }
  };
  double sum = state[0], value = 0.0;
  for (int first = 0; first < s.count; first += contribution_points) {
    const int count = s.count - first < contribution_points ? s.count - first : contribution_points;
    __syncthreads();
    for (int i = first; i < first + count; ++i) {
      contribution[i - first][k] = coefficient * exponent * sum;
      const double u = exponent * s.gap[i], own = s.upto[i] - s.below[i];
      if (s.last && i == s.count - 1) value += below ? (sum + own) * (sum + own) : sum * sum;
      if (u == 0.0) continue;
      const Decay<double> d = decay<double>(u);
      value += below ? gap_decay<double>(sum + own, d) : gap_rise<double>(sum, s.upto[i], u, d);
      sum = below ? carry_decay<double>(sum, own, d) : carry_rise<double>(sum, s.upto[i], d);
    }
    if (slab.slopes) collect(first, count, 1.0);
  }
  room[k] = coefficient * value;
  __syncthreads();
  if (k == 0) {
    double all = 0.0;
    for (int e = 0; e < terms; ++e) all += room[e];
    parts[blockIdx.x] = all;
  }
  if (!slab.slopes) return;
  sum = state[terms];
  for (int end = s.count; end > 0;) {
    const int first = (end - 1) / contribution_points * contribution_points;
    __syncthreads();
    for (int i = end - 1; i >= first; --i) {
      const double u = exponent * s.gap[i];
      if (u > 0.0) {
        const Decay<double> d = decay<double>(u);
        sum = below ? carry_decay<double>(sum, s.upto[i + 1] - s.below[i + 1], d)
                    : carry_rise<double>(sum, -s.below[i + 1], d);
      }
      contribution[i - first][k] = coefficient * exponent * sum;
    }
    collect(first, end - first, -1.0);
    end = first;
  }
  __syncthreads();
  const double range = stat[stat_range];
  for (int i = k; i < s.count; i += threads) {
    const int source = a.u.source[row * a.u.points + number * segment_points + i];
    if (source < 0) continue;
    double slope = 0.0;
    if (range > 0.0)
      slope =
          (total[i] + a.rule.linear * (s.below[i] + s.upto[i]) + 2.0 * a.rule.quadratic * (stat[stat_moment] / range)) *
          (stat[stat_power] / range);
    slope *= 2.0 * slab.weight(row, source);
    slab.slopes[row * slab.x.points + source] = static_cast<T>(slab.scale * slope);
  }
}

__global__ void power_values_kernel(int64_t rows, double linear, double quadratic, double tied, const double* stats,
                                    double* values) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const double* s = stats + row * n_stats;
    const double range = s[stat_range];
    double value = 0.0;
    if (range > 0.0) {
      const double moment = s[stat_moment] / range;
      value =
          values[row] + 2.0 * linear * (s[stat_area] / range) + 2.0 * quadratic * moment * moment + tied * s[stat_tied];
    }
    values[row] = value * s[stat_power];
  }
}

// ---- Wasserstein ----------------------------------------------------------------------------------------------------

constexpr int walk_points = 128;  // of y, that a thread goes through for one point of x

// `lanes` threads share a point of x, whose mass goes to points y one after the other; parts (rows, n_parts). The last
// point of y takes whatever rounding of the weights has left. A heavy point, with more points y than its threads should go
// through, is left to the whole block.
template <class T>
__global__ void __launch_bounds__(block_threads, 3)
    transport_kernel(const __grid_constant__ Slab<T> a, double p, int lanes, int64_t n_parts, double* parts) {
  __shared__ double room[block_threads];
  __shared__ int heavy[block_threads];  // of a group: where its point y begins, -1: done
  __shared__ int any_heavy;
  const int64_t row = blockIdx.x / n_parts, part = blockIdx.x % n_parts;
  const T *x = a.x.row(row), *y = a.y.row(row);
  const Masses F = a.x.masses_of(row), G = a.y.masses_of(row);
  const int n = a.x.points, m = a.y.points, t = thread_in_block(), lane = t % lanes, groups = block_threads / lanes;
  double value = 0.0;
  // What the points from, from + by, ... of y add to the slope of point i, and to the value.
  auto walk = [&](int64_t i, int64_t from, int by) {
    const int64_t first = F.of(i), end = F.of(i + 1);
    const double z = static_cast<double>(x[i]);
    double slope = 0.0;
    for (int64_t j = from; j < m; j += by) {
      const int64_t start = G.of(j), stop = j == m - 1 ? std::numeric_limits<int64_t>::max() : G.of(j + 1);
      if (start >= end) break;
      const int64_t mass = (stop < end ? stop : end) - (start > first ? start : first);
      const double distance = z - static_cast<double>(y[j]), size = distance < 0.0 ? -distance : distance;
      if (mass <= 0 || size == 0.0) continue;
      const double w = static_cast<double>(mass) * a.unit, less = power_of(size, p - 1.0);
      value += w * (less * size);
      slope += distance < 0.0 ? -w * p * less : w * p * less;
    }
    return slope;
  };
  auto write = [&](int64_t i, double slope) {
    a.slopes[row * n + a.x.index[row * n + i]] = static_cast<T>(a.scale * slope);
  };
  for (int step = 0; step < per_thread; ++step) {
    const int64_t first_point = (part * per_thread + step) * groups, i = first_point + t / lanes;
    __syncthreads();
    if (t == 0) any_heavy = 0;
    __syncthreads();
    double slope = 0.0;
    bool done = false;
    if (i < n) {
      const int64_t first = F.of(i);
      int from = 0, to = m - 1;  // the last j with G.of(j) <= first
      while (from < to) {
        const int middle = from + (to - from + 1) / 2;
        if (G.of(middle) <= first)
          from = middle;
        else
          to = middle - 1;
      }
      const int64_t reach = static_cast<int64_t>(walk_points) * lanes;
      done = groups == 1 || from + reach >= m || G.of(from + reach) >= F.of(i + 1);
      if (done) slope = walk(i, from + lane, lanes);
      if (!done) any_heavy = 1;
      if (lane == 0) heavy[t / lanes] = done ? -1 : from;
    }
    room[t] = slope;
    for (int half = lanes / 2; half > 0 && a.slopes; half /= 2) {
      __syncthreads();
      if (lane < half) room[t] += room[t + half];
    }
    if (done && lane == 0 && a.slopes) write(i, room[t]);
    __syncthreads();
    if (!any_heavy) continue;
    for (int group = 0; group < groups && first_point + group < n; ++group) {
      if (heavy[group] < 0) continue;
      slope = block_sum(walk(first_point + group, static_cast<int64_t>(heavy[group]) + t, block_threads), room);
      if (t == 0 && a.slopes) write(first_point + group, slope);
    }
  }
  value = block_sum(value, room);
  if (t == 0) parts[blockIdx.x] = value;
}

// factors (problems,): d mean^(1/p) / d mean of the mean of a problem's values.
__global__ void __launch_bounds__(block_threads)
    root_kernel(const double* values, int64_t slices, double p, double* factors) {
  __shared__ double room[block_threads];
  double sum = 0.0;
  for (int64_t i = thread_in_block(); i < slices; i += block_threads) sum += values[blockIdx.x * slices + i];
  const double mean = block_sum(sum, room) / static_cast<double>(slices);
  if (thread_in_block() > 0) return;
  if (!(mean > 0.0))
    factors[blockIdx.x] = 0.0;
  else if (p == 1.0)
    factors[blockIdx.x] = 1.0;
  else if (p == 2.0)
    factors[blockIdx.x] = 0.5 / Ops<double>::sqrt(mean);
  else
    factors[blockIdx.x] = power_of(mean, 1.0 / p - 1.0) / p;
}
template <class T>
__global__ void multiply_kernel(T* gradient, int64_t size, int64_t each, const double* factors) {
  for (int64_t i = first_item(); i < size; i += item_stride())
    gradient[i] = static_cast<T>(static_cast<double>(gradient[i]) * factors[i / each]);
}

// values (batch, slices) of the rows of a slab.
__global__ void place_values_kernel(int64_t rows, int64_t slab_slices, int64_t first_problem, int64_t first_slice,
                                    int64_t slices, const double* of_rows, double* values) {
  for (int64_t row = first_item(); row < rows; row += item_stride())
    values[(first_problem + row / slab_slices) * slices + first_slice + row % slab_slices] = of_rows[row];
}

// ---- the whole ------------------------------------------------------------------------------------------------------

// Adds the seconds of every stage to the caller's table, and waits for the device where there is one.
class Clock {
 public:
  Clock(double* stages, Queue queue) : stages_(stages), queue_(queue) { lap(stage_project, 0.0); }
  void lap(SlicedStage stage, double factor = 1.0) {
    if (!stages_) return;
    check(cudaStreamSynchronize(as_stream(queue_)), "cudaStreamSynchronize");
    const auto now = std::chrono::steady_clock::now();
    stages_[stage] += factor * std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  double* stages_;
  Queue queue_;
  std::chrono::steady_clock::time_point last_{};
};

// Streams come and go while a target lives, so it keeps an event and no stream. Under capture, waits and records become
// nodes of the graph: the event lies outside of it.
bool captured(Queue queue) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(as_stream(queue), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}
void wait_for(const SlicedTarget& target, Queue queue) {
  const unsigned flags = captured(queue) ? cudaEventWaitExternal : 0;
  check(cudaStreamWaitEvent(as_stream(queue), target.done, flags), "cudaStreamWaitEvent");
}
void record(const SlicedTarget& target, Queue queue) {
  const unsigned flags = captured(queue) ? cudaEventRecordExternal : 0;
  check(cudaEventRecordWithFlags(target.done, as_stream(queue), flags), "cudaEventRecord");
}

// While it lives, the queue reads the target.
class TargetUse {
 public:
  TargetUse(const SlicedTarget* target, Queue queue) : target_(target), queue_(queue) {
    if (!target) return;
    std::lock_guard<std::mutex> lock(target->records);
    wait_for(*target, queue);
  }
  ~TargetUse() {
    if (!target_) return;
    std::lock_guard<std::mutex> lock(target_->records);
    try {
      wait_for(*target_, queue_);  // another thread may have recorded its own use meanwhile, and that must not be lost
      record(*target_, queue_);
    } catch (const std::runtime_error&) {
      cudaGetLastError();
    }
  }
  TargetUse(const TargetUse&) = delete;
  TargetUse& operator=(const TargetUse&) = delete;

 private:
  const SlicedTarget* target_;
  Queue queue_;
};

// Rooms for the rows of one side of a slab.
template <class T>
struct SideRooms {
  Scratch<T> a, b;
  Scratch<int> ia, ib;
  Scratch<int64_t> masses;
  T* spare = nullptr;  // a or b, whichever is free after the sort
  SideRooms(int64_t rows, int64_t points, bool index, bool weights, Queue queue)
      : a(rows * points, queue),
        b(rows * points, queue),
        ia(index ? rows * points : 0, queue),
        ib(index ? rows * points : 0, queue),
        masses(weights ? rows * points : 0, queue) {}
  static int64_t bytes(int64_t points, bool index, bool weights) {
    return points * (2 * static_cast<int64_t>(sizeof(T)) + (index ? 8 : 0) + (weights ? 8 : 0));
  }
};

template <class T>
struct SideSource {
  const T* points;        // (problems, count, dim), the slab's
  const double* centre;   // (problems or 1, dim), likewise
  int64_t centre_stride;  // 0: the same for all
  const double* weights;  // (problems, count), or null
  int64_t problems, count;
};

// Projects, sorts and weighs the rows of one side.
template <class T>
Side<T> sorted_side(const SideSource<T>& s, const T* directions, int64_t slices, int64_t dim, SideRooms<T>& rooms,
                    Clock& clock, Queue queue) {
  const int64_t rows = s.problems * slices;
  SortRooms<T> sort{{rooms.a.data(), rooms.b.data()}, {rooms.ia.data(), rooms.ib.data()}};
  Projection<T> p{s.points,
                  s.centre,
                  s.centre_stride,
                  s.count,
                  dim,
                  slices,
                  (s.count - 1) / tile_size + 1,
                  (slices - 1) / tile_size + 1,
                  directions,
                  sort.keys[0],
                  sort.index[0]};
  launch_blocks("project", project_kernel<T>, dim3(static_cast<unsigned>(s.problems * p.point_tiles * p.slice_tiles)),
                dim3(side, side), queue, p);
  clock.lap(stage_project);
  sort_rows(sort, rows, s.count, queue);
  clock.lap(stage_sort);
  if (s.weights) {
    launch("sliced", mass_kernel, rows * s.count, queue, s.weights, sort.sorted_index(), rows, s.count, slices,
           rooms.masses.data());
    scan_rows(rooms.masses.data(), rows, s.count, queue);
  }
  clock.lap(stage_scan);
  rooms.spare = sort.spare();
  return {sort.sorted(), sort.sorted_index(), rooms.masses.data(), 0, 0, static_cast<int>(s.count), rows};
}

// Values of the rows of a slab, and slopes where wanted.
template <class T>
class Scan {
 public:
  Scan(const SlicedArgs<T>& a, int64_t rows, Queue queue)
      : kind_(a.kind),
        exponent_(a.exponent),
        both_(a.n + a.m),
        powers_(a.kind == SlicedKind::mmd && a.exponent != 1.0),
        lanes_(lanes_of(a.n, a.m)),
        x_parts_(parts_of(a.n)),
        parts_count_(a.kind == SlicedKind::mmd ? x_parts_ + parts_of(a.m)
                                               : (a.n - 1) / (per_thread * (block_threads / lanes_)) + 1),
        segments_(powers_ ? (both_ - 1) / segment_points + 1 : 0),
        rule_(powers_ ? power_rule(a.exponent, power_step<T>, power_t_min<T>(both_)) : PowerRule{}),
        parts_(rows * most(parts_count_ * (powers_ ? n_sums : 1), segments_), queue),
        sums_(rows * n_sums, queue),
        stats_(powers_ ? rows * n_stats : 0, queue),
        reals_(powers_ ? 3 * rows * both_ : 0, queue),
        source_(powers_ ? rows * both_ : 0, queue),
        state_(powers_ ? rows * segments_ * 3 * rule_.terms : 0, queue) {}

  // Of a row, what the constructor allocates.
  static int64_t bytes(const SlicedArgs<T>& a) {
    if (a.kind != SlicedKind::mmd || a.exponent == 1.0) return (a.n + a.m) / 32 + 64;
    return (a.n + a.m) * (28 + 24 * max_power_terms / segment_points) + 4096;
  }

  const double* values() const { return sums_.data(); }

  void run(const Slab<T>& slab, int64_t rows, Queue queue) {
    const dim3 blocks(static_cast<unsigned>(rows * parts_count_)), threads(block_threads);
    if (kind_ == SlicedKind::wasserstein) {
      launch_blocks("transport", transport_kernel<T>, blocks, threads, queue, slab, exponent_, lanes_, parts_count_,
                    parts_.data());
      return row_sums(parts_.data(), rows, parts_count_, 1, sums_.data(), queue);
    }
    if (!powers_) {
      launch_blocks("energy", energy_kernel<T>, blocks, threads, queue, slab, x_parts_, parts_count_, parts_.data());
      return row_sums(parts_.data(), rows, parts_count_, 1, sums_.data(), queue);
    }
    const int64_t size = rows * both_;
    const Union u{reals_.data(), reals_.data() + size, reals_.data() + 2 * size, source_.data(), both_};
    launch_blocks("union", union_kernel<T>, blocks, threads, queue, slab, x_parts_, parts_count_, u, parts_.data());
    row_sums(parts_.data(), rows, parts_count_, n_sums, sums_.data(), queue);
    launch("stats", stats_kernel, rows, queue, rows, u, sums_.data(), exponent_, stats_.data());
    const PowerSums sums{rule_, u, segments_, state_.data()};
    const dim3 each(static_cast<unsigned>(rows * segments_)),
        by_term(static_cast<unsigned>((rule_.terms + 31) / 32 * 32));
    launch_blocks("segment", segment_kernel, each, by_term, queue, sums, stats_.data());
    launch("carry", carry_kernel, rows * rule_.terms, queue, sums, rows);
    launch_blocks("power", power_kernel<T>, each, by_term, queue, sums, slab, stats_.data(), parts_.data());
    row_sums(parts_.data(), rows, segments_, 1, sums_.data(), queue);
    launch("values", power_values_kernel, rows, queue, rows, rule_.linear, rule_.quadratic, rule_.tied, stats_.data(),
           sums_.data());
  }

 private:
  static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
  static int lanes_of(int64_t n, int64_t m) {
    int lanes = 1;
    while (lanes < block_threads && 2 * lanes <= m / n) lanes *= 2;
    return lanes;
  }

  SlicedKind kind_;
  double exponent_;
  int64_t both_;
  bool powers_;
  int lanes_;
  int64_t x_parts_, parts_count_, segments_;
  PowerRule rule_;
  Scratch<double> parts_, sums_, stats_, reals_;
  Scratch<int> source_;
  Scratch<double> state_;
};

void check_points(int64_t points, const char* name) {
  if (points >= max_points)
    throw std::invalid_argument(std::string(name) + ": too many points for a sort on the device");
}

// How many rows of `bytes` each fit, at least one; sorts and grids count with 31 bits.
int64_t rows_that_fit(int64_t bytes, int64_t inputs, int64_t points) {
  const int64_t room = inputs / 4 > slab_bytes ? inputs / 4 : slab_bytes;
  const int64_t rows = room / bytes, most = max_points / points;
  const int64_t fits = rows < most ? rows : most;
  return fits > 1 ? fits : 1;
}

// Shares of equal masses, and the unit of masses, which both sides have in common.
template <class T>
double set_masses(Side<T>& x, Side<T>& y) {
  if (!x.masses && !y.masses) {
    x.share = y.points;
    y.share = x.points;
    return 1.0 / (static_cast<double>(x.points) * static_cast<double>(y.points));
  }
  for (Side<T>* s : {&x, &y}) {
    s->share = unit_mass / s->points;
    s->rest = unit_mass % s->points;
  }
  return 1.0 / static_cast<double>(unit_mass);
}

template <class T>
void run_sliced(const SlicedArgs<T>& a, Queue queue) {
  if (a.batch == 0) return;
  OnDevice device(a.values);
  check_points(a.n, "x");
  check_points(a.m, "y");
  const SlicedTarget* target = a.target;
  const TargetUse use(target, queue);
  Clock clock(a.stages, queue);
  const bool x_index = a.gradient || a.x_weights;
  const int64_t y_problems = a.y_per_batch ? a.batch : 1;
  const T* directions = target ? static_cast<const T*>(target->directions) : a.directions;
  Scratch<double> own_centre(target ? 0 : y_problems * a.dim, queue);
  if (!target)
    launch("centre", centre_kernel<T>, y_problems * a.dim, queue, a.y, a.y_weights, y_problems, a.m, a.dim,
           own_centre.data());
  const double* centre = target ? target->centre : own_centre.data();
  const int64_t centre_stride = a.y_per_batch ? a.dim : 0;

  // A slab is some slices of one problem, or all slices of some problems.
  const int64_t y_row = target ? 0 : SideRooms<T>::bytes(a.m, a.y_weights, a.y_weights);
  const int64_t row_bytes = SideRooms<T>::bytes(a.n, x_index, a.x_weights) + y_row + Scan<T>::bytes(a);
  const int64_t inputs = static_cast<int64_t>(sizeof(T)) * a.dim * (a.batch * a.n + (target ? 0 : y_problems * a.m));
  const int64_t fits = rows_that_fit(row_bytes, inputs, a.n + a.m + 2 * tile_size);
  const int64_t slab_slices = fits < a.slices ? fits : a.slices;
  const int64_t most = fits / a.slices > 1 ? fits / a.slices : 1;
  const int64_t slab_problems = slab_slices < a.slices ? 1 : most < a.batch ? most : a.batch;
  const int64_t rows = slab_problems * slab_slices;
  SideRooms<T> x_rooms(rows, a.n, x_index, a.x_weights, queue);
  SideRooms<T> y_rooms(target ? 0 : (a.y_per_batch ? rows : slab_slices), a.m, a.y_weights, a.y_weights, queue);
  Scan<T> scan(a, rows, queue);

  for (int64_t slice = 0; slice < a.slices; slice += slab_slices) {
    const int64_t slices = a.slices - slice < slab_slices ? a.slices - slice : slab_slices;
    const T* along = directions + slice * a.dim;
    Side<T> y{};
    if (target)
      y = {static_cast<const T*>(target->keys) + slice * a.m,
           nullptr,
           target->masses ? target->masses + slice * a.m : nullptr,
           0,
           0,
           static_cast<int>(a.m),
           slices};
    for (int64_t problem = 0; problem < a.batch; problem += slab_problems) {
      const int64_t problems = a.batch - problem < slab_problems ? a.batch - problem : slab_problems;
      if (!target && (a.y_per_batch || problem == 0)) {
        const int64_t at = a.y_per_batch ? problem : 0;
        const SideSource<T> source{a.y + at * a.m * a.dim,
                                   centre + at * a.dim,
                                   centre_stride,
                                   a.y_weights ? a.y_weights + at * a.m : nullptr,
                                   a.y_per_batch ? problems : 1,
                                   a.m};
        y = sorted_side(source, along, slices, a.dim, y_rooms, clock, queue);
      }
      const SideSource<T> source{a.x + problem * a.n * a.dim,
                                 centre + problem * centre_stride,
                                 centre_stride,
                                 a.x_weights ? a.x_weights + problem * a.n : nullptr,
                                 problems,
                                 a.n};
      Slab<T> slab{};
      slab.x = sorted_side(source, along, slices, a.dim, x_rooms, clock, queue);
      slab.y = y;
      slab.slices = slices;
      slab.unit = set_masses(slab.x, slab.y);
      slab.x_weights = source.weights;
      slab.scale = a.scale;
      slab.slopes = a.gradient ? x_rooms.spare : nullptr;
      scan.run(slab, problems * slices, queue);
      launch("values", place_values_kernel, problems * slices, queue, problems * slices, slices, problem, slice,
             a.slices, scan.values(), a.values);
      clock.lap(stage_scan);
      if (!a.gradient) continue;
      const BackProjection<T> back{slab.slopes,
                                   along,
                                   a.n,
                                   a.dim,
                                   slices,
                                   (a.n - 1) / tile_size + 1,
                                   (a.dim - 1) / tile_size + 1,
                                   a.gradient + problem * a.n * a.dim,
                                   slice == 0};
      launch_blocks("back", back_kernel<T>, dim3(static_cast<unsigned>(problems * back.point_tiles * back.dim_tiles)),
                    dim3(side, side), queue, back);
      clock.lap(stage_back);
    }
  }
  if (a.gradient && a.root) {
    Scratch<double> factors(a.batch, queue);
    launch_blocks("root", root_kernel, dim3(static_cast<unsigned>(a.batch)), dim3(block_threads), queue, a.values,
                  a.slices, a.exponent, factors.data());
    launch("root", multiply_kernel<T>, a.batch * a.n * a.dim, queue, a.gradient, a.batch * a.n * a.dim, a.n * a.dim,
           factors.data());
    clock.lap(stage_back);
  }
}

template <class T>
T* kept(int64_t size, Queue queue) {
  return static_cast<T*>(allocate(static_cast<size_t>(size) * sizeof(T), queue));
}

void free_target(SlicedTarget* t, Queue queue) {
  for (void* memory : {t->keys, t->directions, static_cast<void*>(t->masses), static_cast<void*>(t->centre)})
    release(memory, queue);
  if (t->done) cudaEventDestroy(t->done);  // streams keep what they need of it
  delete t;
}

template <class T>
SlicedTarget* run_make_target(const SlicedArgs<T>& a, Queue queue) {
  OnDevice device(a.y);
  check_points(a.m, "y");
  auto* t = new SlicedTarget;
  t->m = a.m;
  t->dim = a.dim;
  t->slices = a.slices;
  try {
    check(cudaEventCreateWithFlags(&t->done, cudaEventDisableTiming), "cudaEventCreate");
    t->keys = kept<T>(a.slices * a.m, queue);
    t->directions = kept<T>(a.slices * a.dim, queue);
    t->centre = kept<double>(a.dim, queue);
    if (a.y_weights) t->masses = kept<int64_t>(a.slices * a.m, queue);
    launch("target", copy_kernel<T>, a.slices * a.dim, queue, static_cast<T*>(t->directions), a.directions,
           a.slices * a.dim);
    launch("centre", centre_kernel<T>, a.dim, queue, a.y, a.y_weights, int64_t{1}, a.m, a.dim, t->centre);
    const int64_t bytes = SideRooms<T>::bytes(a.m, a.y_weights, a.y_weights);
    const int64_t inputs = static_cast<int64_t>(sizeof(T)) * a.dim * a.m;
    const int64_t fits = rows_that_fit(bytes, inputs, a.m + tile_size), most = fits < a.slices ? fits : a.slices;
    SideRooms<T> rooms(most, a.m, a.y_weights, a.y_weights, queue);
    Clock clock(nullptr, queue);
    const SideSource<T> source{a.y, t->centre, 0, a.y_weights, 1, a.m};
    for (int64_t slice = 0; slice < a.slices; slice += most) {
      const int64_t slices = a.slices - slice < most ? a.slices - slice : most, size = slices * a.m;
      const Side<T> y = sorted_side(source, a.directions + slice * a.dim, slices, a.dim, rooms, clock, queue);
      launch("target", copy_kernel<T>, size, queue, static_cast<T*>(t->keys) + slice * a.m, y.keys, size);
      if (t->masses) launch("target", copy_kernel<int64_t>, size, queue, t->masses + slice * a.m, y.masses, size);
    }
    record(*t, queue);
  } catch (...) {
    free_target(t, queue);
    throw;
  }
  return t;
}

}  // namespace

template <>
void sliced<float>(const SlicedArgs<float>& args, Queue queue) {
  run_sliced(args, queue);
}
template <>
void sliced<double>(const SlicedArgs<double>& args, Queue queue) {
  run_sliced(args, queue);
}
template <>
SlicedTarget* make_sliced_target<float>(const SlicedArgs<float>& args, Queue queue) {
  return run_make_target(args, queue);
}
template <>
SlicedTarget* make_sliced_target<double>(const SlicedArgs<double>& args, Queue queue) {
  return run_make_target(args, queue);
}
void free_sliced_target(SlicedTarget* target) {
  if (!target) return;
  try {
    OnDevice device(target->centre);
    // Not the legacy default stream: that would break a capture elsewhere.
    check(cudaStreamWaitEvent(cudaStreamPerThread, target->done, 0), "cudaStreamWaitEvent");
    free_target(target, cudaStreamPerThread);
  } catch (const std::runtime_error&) {
    // At exit the driver may be gone, and the memory with it.
    delete target;
  }
}

}  // namespace cuda
}  // namespace mk
