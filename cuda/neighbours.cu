// Nearest points and the median distance on the device, on the tiles of pair_tile.cuh. The same numbers in the same order
// whatever the device: counts are whole numbers, and lists are merged slab by slab.
#include <cmath>
#include <stdexcept>

#include "pair_tile.cuh"

namespace mk {
namespace cuda {
namespace {

constexpr int64_t enough_blocks = 1024, least_slab = 1024;
constexpr int64_t list_bytes = int64_t{512} << 20;

template <class T>
__device__ constexpr T infinity() {
  return static_cast<T>(__builtin_inff());
}

template <class T>
PairGrid<T> cut(const T* x, const T* y, int64_t batch, int64_t n, int64_t m, int64_t dim, int64_t most) {
  const int64_t row_tiles = (n - 1) / tile_size + 1, tiles = row_tiles * batch, fine = (m - 1) / least_slab + 1;
  int64_t slabs = (enough_blocks - 1) / tiles + 1;
  slabs = slabs < fine ? slabs : fine;
  slabs = slabs < most ? slabs : most;
  slabs = slabs > 1 ? slabs : 1;
  const int64_t slab = ((m - 1) / slabs / tile_size + 1) * tile_size;
  slabs = (m - 1) / slab + 1;
  if ((tiles * slabs) >> 31 != 0) throw std::invalid_argument("x: too many points");
  return {x, y, n, m, dim, row_tiles, slabs, slab, false};
}

// ---- the nearest points ---------------------------------------------------------------------------------------------

// Squared distances and indices of the `count` nearest so far, sorted. Candidates arrive in rising order of their index, so
// equals stay behind.
template <class T>
__device__ void insert(T* squares, int64_t* index, int count, T square, int64_t at) {
  int i = count - 1;
  for (; i > 0 && squares[i - 1] > square; --i) {
    squares[i] = squares[i - 1];
    index[i] = index[i - 1];
  }
  squares[i] = square;
  index[i] = at;
}

// index and squares (slabs, problems, n, count): the nearest of the slab, sorted. Distances are bound by arithmetic. One
// thread of each row looks through a tile, if it holds something nearer than the last of the list; such tiles become rare.
template <class T>
__global__ void __launch_bounds__(pair_threads)
    nearest_kernel(const __grid_constant__ PairGrid<T> g, const double* metric, int64_t problems, int count,
                   int64_t* index, T* squares) {
  __shared__ Panels<T, panel_depth<T>> panels;
  __shared__ T tile[tile_size][tile_size + 1];
  __shared__ T limit[tile_size];
  __shared__ int nearer[tile_size];  // than the limit; threads may write the same 1
  const PairBlock b = pair_block(g);
  const int own = thread_number();
  const int64_t list = ((b.slab * problems + b.problem) * g.n + b.row + own) * count;
  if (own < tile_size) {
    limit[own] = infinity<T>();
    nearer[own] = 0;
  }
  for (int i = 0; i < count && own < b.rows; ++i) {
    squares[list + i] = infinity<T>();
    index[list + i] = -1;
  }
  for (int64_t col = b.first; col < b.end; col += tile_size) {
    __syncthreads();
    Micro<T> s;
    distances(g, b, col, metric ? Form::metric_squares : Form::squares, metric, T(0), col > b.first, panels, s);
    mask(g, b, col, s, infinity<T>());
    for (int r = 0; r < micro; ++r)
      for (int c = 0; c < micro; ++c) {
        tile[threadIdx.y + side * r][threadIdx.x + side * c] = s[r][c];
        if (s[r][c] < limit[threadIdx.y + side * r]) nearer[threadIdx.y + side * r] = 1;
      }
    __syncthreads();
    if (own >= b.rows || !nearer[own]) continue;
    T last = limit[own];
    for (int j = 0; j < tile_size; ++j) {
      if (!(tile[own][j] < last)) continue;
      insert(squares + list, index + list, count, tile[own][j], col + j);
      last = squares[list + count - 1];
    }
    limit[own] = last;
    nearer[own] = 0;
  }
}

// From the lists of all slabs to the outputs (rows, count); with one slab they may be the same memory.
template <class T>
__global__ void merge_kernel(int64_t rows, int64_t slabs, int count, const int64_t* indices, const T* squares,
                             int64_t* index, T* distance) {
  for (int64_t row = first_item(); row < rows; row += item_stride()) {
    const int64_t own = row * count;
    for (int i = 0; i < count; ++i) {
      distance[own + i] = squares[own + i];
      index[own + i] = indices[own + i];
    }
    for (int64_t slab = 1; slab < slabs; ++slab) {
      const int64_t other = (slab * rows + row) * count;
      for (int i = 0; i < count && squares[other + i] < distance[own + count - 1]; ++i)
        insert(distance + own, index + own, count, squares[other + i], indices[other + i]);
    }
    for (int i = 0; i < count; ++i) distance[own + i] = Ops<T>::sqrt(distance[own + i]);
  }
}

template <class T>
__global__ void no_points_kernel(int64_t size, int64_t* index, T* distance) {
  for (int64_t i = first_item(); i < size; i += item_stride()) {
    index[i] = -1;
    distance[i] = infinity<T>();
  }
}

template <class T>
void run_nearest(const PairArgs<T>& a, int count, int64_t* index, T* distance, Queue queue) {
  if (a.batch == 0 || a.n == 0) return;
  OnDevice device(index);
  const int64_t rows = a.batch * a.n;
  if (a.m == 0) return launch("nearest", no_points_kernel<T>, rows * count, queue, rows * count, index, distance);
  const bool scaled = a.terms[0].metric >= 0;
  Upload metric(scaled ? std::vector<double>(a.metrics, a.metrics + a.dim) : std::vector<double>(), queue);
  const int64_t fits = list_bytes / (rows * count * static_cast<int64_t>(sizeof(int64_t) + sizeof(T)));
  PairGrid<T> grid = cut(a.x, a.y, a.batch, a.n, a.m, a.dim, fits);
  grid.exclude_self = a.exclude_self;
  const int64_t lists = grid.slabs > 1 ? grid.slabs * rows * count : 0;
  Scratch<int64_t> indices(lists, queue);
  Scratch<T> squares(lists, queue);
  int64_t* found = lists ? indices.data() : index;
  T* found_squares = lists ? squares.data() : distance;
  const int64_t blocks = grid.row_tiles * a.batch * grid.slabs;
  launch_blocks("nearest", nearest_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(side, side), queue, grid,
                scaled ? metric.data() : static_cast<const double*>(nullptr), a.batch, count, found, found_squares);
  launch("nearest", merge_kernel<T>, rows, queue, rows, grid.slabs, count, found, found_squares, index, distance);
}

// ---- the median of all distances ------------------------------------------------------------------------------------

// The bits of a positive number sort like the number, so counting squared distances by 11 bits at a time finds the bits of
// the two middle ones: 3 passes over the pairs for float, 6 for double.
constexpr int digit_bits = 11, n_digits = 1 << digit_bits;

__device__ inline uint64_t key_of(float square) { return Ops<float>::bits(square); }
__device__ inline uint64_t key_of(double square) { return Ops<double>::bits(square); }
template <class T>
T value_of(uint64_t key) {
  return Ops<T>::from_bits(static_cast<typename Ops<T>::U>(key));
}

// Whole numbers: the order of adding does not matter. Run on the host, the threads of a block take turns.
template <class U>
__device__ void count_up(U* counter, U by) {
#if defined(__CUDACC__)
  atomicAdd(counter, by);
#else
  *counter += by;
#endif
}

// Where the two middle ranks are: the bits above `shift + bits` found so far, the same for both or not.
struct Digits {
  uint64_t prefix[2];
  int shift, bits;
};

// counts (2, n_digits), zero before: pairs i < j that agree with the prefixes, by their next digit. Bound by the counting
// in shared memory, where threads of a warp that meet the same digit wait for each other.
template <class T>
__global__ void __launch_bounds__(pair_threads)
    digit_kernel(const __grid_constant__ PairGrid<T> g, Digits digits, unsigned long long* counts) {
  __shared__ Panels<T, panel_depth<T>> panels;
  __shared__ unsigned own[2][n_digits];
  const PairBlock b = pair_block(g);
  const bool apart = digits.prefix[0] != digits.prefix[1];
  const int above = digits.shift + digits.bits;
  for (int i = thread_number(); i < 2 * n_digits; i += pair_threads) own[i / n_digits][i % n_digits] = 0;
  const int64_t first = b.first > b.row ? b.first : b.row;  // slabs and rows are cut at multiples of a tile
  for (int64_t col = first; col < b.end; col += tile_size) {
    __syncthreads();
    Micro<T> s;
    distances(g, b, col, Form::squares, static_cast<const double*>(nullptr), T(0), col > first, panels, s);
    for (int r = 0; r < micro; ++r)
      for (int c = 0; c < micro; ++c) {
        const int64_t i = b.row + threadIdx.y + side * r, j = col + threadIdx.x + side * c;
        if (i >= j || j >= b.end) continue;
        const uint64_t key = key_of(s[r][c]), top = above >= 8 * static_cast<int>(sizeof(T)) ? 0 : key >> above;
        const int digit = static_cast<int>(key >> digits.shift & ((1 << digits.bits) - 1));
        if (top == digits.prefix[0]) count_up(&own[0][digit], 1u);
        if (apart && top == digits.prefix[1]) count_up(&own[1][digit], 1u);
      }
  }
  __syncthreads();
  for (int i = thread_number(); i < 2 * n_digits; i += pair_threads)
    if (unsigned found = own[i / n_digits][i % n_digits]) count_up(&counts[i], static_cast<unsigned long long>(found));
}

__global__ void zero_kernel(unsigned long long* out, int64_t size) {
  for (int64_t i = first_item(); i < size; i += item_stride()) out[i] = 0;
}

template <class T>
void run_median(const T* x, int64_t n, int64_t dim, double* lower, double* upper, Queue queue) {
  OnDevice device(x);
  // A block counts fewer than 2^32 pairs: slabs of at most 2^25 columns.
  PairGrid<T> grid = cut(x, x, 1, n, n, dim, n);
  if (grid.slab > int64_t{1} << 25) throw std::invalid_argument("x: too many points");
  const uint64_t pairs = static_cast<uint64_t>(n) * static_cast<uint64_t>(n - 1) / 2;
  uint64_t rank[2] = {(pairs - 1) / 2, pairs / 2};
  Digits digits{};
  Scratch<unsigned long long> counts(2 * n_digits, queue);
  std::vector<unsigned long long> found(2 * n_digits);
  for (int left = 8 * static_cast<int>(sizeof(T)); left > 0;) {
    digits.bits = left < digit_bits ? left : digit_bits;
    digits.shift = left -= digits.bits;
    launch("pair_median", zero_kernel, 2 * n_digits, queue, counts.data(), int64_t{2 * n_digits});
    launch_blocks("pair_median", digit_kernel<T>, dim3(static_cast<unsigned>(grid.row_tiles * grid.slabs)),
                  dim3(side, side), queue, grid, digits, counts.data());
    copy_to_host(found.data(), counts.data(), found.size() * sizeof found[0], queue);
    const bool apart = digits.prefix[0] != digits.prefix[1];
    for (int m = 0; m < 2; ++m) {
      const unsigned long long* c = found.data() + (apart && m == 1 ? n_digits : 0);
      int digit = 0;
      while (rank[m] >= c[digit]) rank[m] -= c[digit++];
      digits.prefix[m] = digits.prefix[m] << digits.bits | static_cast<uint64_t>(digit);
    }
  }
  *lower = std::sqrt(static_cast<double>(value_of<T>(digits.prefix[0])));
  *upper = std::sqrt(static_cast<double>(value_of<T>(digits.prefix[1])));
}

}  // namespace

template <>
void nearest<float>(const PairArgs<float>& args, int count, int64_t* index, float* distance, Queue queue) {
  run_nearest(args, count, index, distance, queue);
}
template <>
void nearest<double>(const PairArgs<double>& args, int count, int64_t* index, double* distance, Queue queue) {
  run_nearest(args, count, index, distance, queue);
}
template <>
void pair_median<float>(const float* x, int64_t n, int64_t dim, double* lower, double* upper, Queue queue) {
  run_median(x, n, dim, lower, upper, queue);
}
template <>
void pair_median<double>(const double* x, int64_t n, int64_t dim, double* lower, double* upper, Queue queue) {
  run_median(x, n, dim, lower, upper, queue);
}

}  // namespace cuda
}  // namespace mk
