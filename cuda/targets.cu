// CUDA executor of the built-in targets. One thread per particle, with the sums of the CPU executor in its order, so mixtures,
// funnel and banana give its bits; the logistic model has a tiled kernel of its own.
#include "mckean/targets.hpp"

#include "launch.cuh"

namespace mk {
namespace cuda {
namespace {

constexpr int64_t run_rows = 128;  // terms summed in T before they join a double, as on the CPU
constexpr int row_tile = 4;

template <class T>
class Scratch {
 public:
  Scratch(int64_t n, Queue queue) : memory_(allocate(static_cast<size_t>(n) * sizeof(T), queue)), queue_(queue) {}
  ~Scratch() { release(memory_, queue_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return static_cast<T*>(memory_); }

 private:
  void* memory_;
  Queue queue_;
};

template <class T>
const void* output_of(const TargetPoints<T>& at) {
  return at.density ? at.density : at.gradient;
}

// ---- Gaussian mixtures ----------------------------------------------------------------------------------------------

// Density of one component without its constant. t: (dim, stride), where the derivatives of a full one are kept.
template <class T, bool full>
__device__ double component_density(const MixtureArgs<T>& a, int64_t k, const T* x, T* t, int64_t stride) {
  const int64_t d = a.at.dim;
  const T* mean = a.means + k * d;
  const T* factor = a.whitening + k * d * (full ? d : 1);
  double density = 0.0;
  for (int64_t first = 0; first < d; first += run_rows) {
    int64_t end = first + run_rows < d ? first + run_rows : d;
    if (full) {
      T part = T(0);
      for (int64_t row = first; row < end;) {
        int64_t tile = row + row_tile <= end ? row_tile : 1;
        auto run = GaussianLink::start<T>();
        for (int64_t r = row; r < row + tile; ++r) {
          T z = T(0);
          for (int64_t j = 0; j <= r; ++j) z = z + factor[r * d + j] * (x[j] - mean[j]);
          GaussianLink::term<T>(run, z);
          if (t) t[r * stride] = z;
        }
        part = part + GaussianLink::finish<T>(run);
        row += tile;
      }
      density += static_cast<double>(part);
    } else {
      auto run = GaussianLink::start<T>();
      for (int64_t j = first; j < end; ++j) {
        T z = (x[j] - mean[j]) * factor[j];
        GaussianLink::term<T>(run, z);
      }
      density += static_cast<double>(GaussianLink::finish<T>(run));
    }
  }
  return density;
}

template <class T, bool full>
__device__ T component_slope(const MixtureArgs<T>& a, int64_t k, const T* x, const T* t, int64_t stride, int64_t j) {
  const int64_t d = a.at.dim;
  if (!full) {
    T w = a.whitening[k * d + j];
    return -((x[j] - a.means[k * d + j]) * w) * w;
  }
  const T* factor = a.whitening + k * d * d;
  T g = T(0);
  for (int64_t r = j; r < d; ++r) g = g + factor[r * d + j] * t[r * stride];
  return g;
}

// Bound by the loads of x and, for full components, of A (the same for all threads of a warp: one broadcast). Derivatives
// of a full component lie in `slopes`, (dim, n), particles fastest, so a warp reads and writes whole sectors.
template <class T, bool full>
__global__ void mixture_kernel(const __grid_constant__ MixtureArgs<T> a, T* slopes) {
  const int64_t d = a.at.dim;
  for (int64_t i = first_item(); i < a.at.n; i += item_stride()) {
    const T* x = a.at.x + i * d;
    T* g = a.at.gradient ? a.at.gradient + i * d : nullptr;
    T* t = slopes ? slopes + i : nullptr;
    double top = 0.0;
    T sum = T(1);
    for (int64_t k = 0; k < a.components; ++k) {
      double density = component_density<T, full>(a, k, x, t, a.at.n) + a.constants[k];
      MixtureScales<T> s{T(0), T(1)};
      if (k == 0) {
        top = density;
      } else {
        s = mixture_scales<T>(static_cast<T>(mixture_delta(top, density)));
        sum = sum * s.old + s.joining;
      }
      if (!g) continue;
      for (int64_t j = 0; j < d; ++j) {
        T slope = component_slope<T, full>(a, k, x, t, a.at.n, j);
        g[j] = k == 0 ? slope : g[j] * s.old + slope * s.joining;
      }
    }
    if (a.components > 1) {
      top = top + static_cast<double>(log_positive<T>(sum));
      for (int64_t j = 0; j < (g ? d : 0); ++j) g[j] = g[j] / sum;
    }
    if (a.at.density) a.at.density[i] = static_cast<T>(top);
  }
}

template <class T>
void run_mixture(const MixtureArgs<T>& a, Queue queue) {
  if (a.at.n == 0 || !output_of(a.at)) return;
  OnDevice device(output_of(a.at));
  if (!a.full) return launch("gaussian_mixture", mixture_kernel<T, false>, a.at.n, queue, a, static_cast<T*>(nullptr));
  if (!a.at.gradient)
    return launch("gaussian_mixture", mixture_kernel<T, true>, a.at.n, queue, a, static_cast<T*>(nullptr));
  Scratch<T> slopes(a.at.n * a.at.dim, queue);
  launch("gaussian_mixture", mixture_kernel<T, true>, a.at.n, queue, a, slopes.data());
}

// ---- funnel and banana: bound by memory -----------------------------------------------------------------------------

template <class T>
__device__ T squares_from(const T* x, int64_t from, int64_t dim) {
  T total = T(0);
  for (int64_t first = from; first < dim; first += run_rows) {
    int64_t end = first + run_rows < dim ? first + run_rows : dim;
    T part = T(0);
    for (int64_t j = first; j < end; ++j) part = part + x[j] * x[j];
    total = total + part;
  }
  return total;
}

template <class T>
__global__ void funnel_kernel(const __grid_constant__ FunnelArgs<T> a) {
  const int64_t d = a.at.dim;
  for (int64_t i = first_item(); i < a.at.n; i += item_stride()) {
    const T* x = a.at.x + i * d;
    FunnelPoint<T> p = funnel_point<T>(x[0], squares_from(x, 1, d), static_cast<T>(d - 1), a.precision, a.constant);
    if (a.at.density) a.at.density[i] = p.density;
    if (!a.at.gradient) continue;
    T* g = a.at.gradient + i * d;
    g[0] = p.gradient0;
    for (int64_t j = 1; j < d; ++j) g[j] = -(p.shrink * x[j]);
  }
}

template <class T>
__global__ void banana_kernel(const __grid_constant__ BananaArgs<T> a) {
  const int64_t d = a.at.dim;
  for (int64_t i = first_item(); i < a.at.n; i += item_stride()) {
    const T* x = a.at.x + i * d;
    BananaPoint<T> p = banana_point<T, T>(x[0], x[1], squares_from(x, 2, d), a);
    if (a.at.density) a.at.density[i] = p.density;
    if (!a.at.gradient) continue;
    T* g = a.at.gradient + i * d;
    g[0] = p.gradient0;
    g[1] = p.gradient1;
    for (int64_t j = 2; j < d; ++j) g[j] = -x[j];
  }
}

template <class Args>
void run_points(const char* name, void (*kernel)(Args), const Args& a, Queue queue) {
  if (a.at.n == 0 || !output_of(a.at)) return;
  OnDevice device(output_of(a.at));
  launch(name, kernel, a.at.n, queue, a);
}

// ---- logistic regression --------------------------------------------------------------------------------------------

constexpr int tile_particles = 32, tile_rows = 64, tile_cols = 32;
constexpr int tile_warps = 8, warp_rows = tile_rows / tile_warps, warp_particles = tile_particles / tile_warps;
constexpr int64_t enough_blocks = 1024, least_slice_rows = 256;
constexpr int64_t slice_bytes = int64_t{512} << 20;

// A block holds 32 particles and one slice of the rows, which it reads in tiles of 64 x 32 through shared memory: once for
// the logits of the tile's rows (a thread has one particle and 8 rows), once for their gradient (a thread has one column
// and 4 particles). Bound by shared memory: 9 reads for 8 products and sums, then 5 for 4.
// density (slices, n), gradient (slices, n, dim): sums over the slice. A block adds to its own part only, always the same
// element from the same thread, so neither atomics nor fences are needed.
template <class T>
__global__ void __launch_bounds__(tile_particles* tile_warps)
    logistic_kernel(const __grid_constant__ LogisticArgs<T> a, int64_t slice_rows, double* density, double* gradient) {
  __shared__ T rows[tile_rows][tile_cols + 1];
  __shared__ T points[tile_particles][tile_cols + 1];
  __shared__ T slopes[tile_rows][tile_particles + 1];
  __shared__ double sums[tile_warps][tile_particles];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int64_t d = a.at.dim, n = a.at.n, slice = blockIdx.y;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_particles;
  const int64_t end = (slice + 1) * slice_rows < a.rows ? (slice + 1) * slice_rows : a.rows;
  auto load_rows = [&](int64_t row, int64_t col) {
    for (int r = warp; r < tile_rows; r += tile_warps)
      rows[r][lane] = row + r < end && col + lane < d ? a.signed_rows[(row + r) * d + col + lane] : T(0);
  };
  double sum = 0.0;
  for (int64_t row = slice * slice_rows; row < end; row += tile_rows) {
    T t[warp_rows] = {};
    for (int64_t col = 0; col < d; col += tile_cols) {
      load_rows(row, col);
      for (int i = warp; i < tile_particles; i += tile_warps) {
        int64_t particle = first + i < n ? first + i : n - 1;
        points[i][lane] = col + lane < d ? a.at.x[particle * d + col + lane] : T(0);
      }
      __syncthreads();
      for (int j = 0; j < tile_cols; ++j) {
        T v = points[lane][j];
#pragma unroll
        for (int r = 0; r < warp_rows; ++r) t[r] = t[r] + rows[warp * warp_rows + r][j] * v;
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < warp_rows; r += row_tile) {
      auto run = LogisticLink::start<T>();
#pragma unroll
      for (int i = r; i < r + row_tile; ++i) {
        bool inside = row + warp * warp_rows + i < end;
        if (inside) LogisticLink::term<T>(run, t[i]);
        slopes[warp * warp_rows + i][lane] = inside ? t[i] : T(0);
      }
      sum += static_cast<double>(LogisticLink::finish<T>(run));
    }
    __syncthreads();
    for (int64_t col = 0; col < (a.at.gradient ? d : 0); col += tile_cols) {
      load_rows(row, col);
      __syncthreads();
      T g[warp_particles] = {};
      for (int r = 0; r < tile_rows; ++r) {
        T v = rows[r][lane];
#pragma unroll
        for (int i = 0; i < warp_particles; ++i) g[i] = g[i] + v * slopes[r][warp * warp_particles + i];
      }
#pragma unroll
      for (int i = 0; i < warp_particles; ++i) {
        int64_t particle = first + warp * warp_particles + i;
        if (particle >= n || col + lane >= d) continue;
        double& total = gradient[(slice * n + particle) * d + col + lane];
        total = (row == slice * slice_rows ? 0.0 : total) + static_cast<double>(g[i]);
      }
      __syncthreads();
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || first + lane >= n) return;
  for (int w = 1; w < tile_warps; ++w) sum += sums[w][lane];
  density[slice * n + first + lane] = sum;
}

template <class T>
__global__ void logistic_density_kernel(const __grid_constant__ LogisticArgs<T> a, int64_t slices,
                                        const double* parts) {
  const int64_t d = a.at.dim;
  for (int64_t i = first_item(); i < a.at.n; i += item_stride()) {
    double prior = 0.0;
    for (int64_t j = 0; j < d; ++j) {
      double v = static_cast<double>(a.at.x[i * d + j]);
      prior += -(static_cast<double>(a.precision[j]) * v) * v;
    }
    double total = 0.5 * prior;
    for (int64_t s = 0; s < slices; ++s) total += parts[s * a.at.n + i];
    a.at.density[i] = static_cast<T>(a.constant + total);
  }
}

template <class T>
__global__ void logistic_gradient_kernel(const __grid_constant__ LogisticArgs<T> a, int64_t slices,
                                         const double* parts) {
  const int64_t d = a.at.dim, size = a.at.n * d;
  for (int64_t e = first_item(); e < size; e += item_stride()) {
    double total = -(static_cast<double>(a.precision[e % d]) * static_cast<double>(a.at.x[e]));
    for (int64_t s = 0; s < slices; ++s) total += parts[s * size + e];
    a.at.gradient[e] = static_cast<T>(total);
  }
}

template <class T>
void run_logistic(const LogisticArgs<T>& a, Queue queue) {
  if (a.at.n == 0 || !output_of(a.at)) return;
  OnDevice device(output_of(a.at));
  // Enough blocks for any device, from the sizes alone: the slices are part of the bits.
  int64_t tiles = (a.at.n - 1) / tile_particles + 1, most = (a.rows - 1) / least_slice_rows + 1;
  int64_t fits = slice_bytes / (a.at.n * (a.at.dim + 1) * static_cast<int64_t>(sizeof(double)));
  int64_t slices = enough_blocks / tiles;
  slices = slices < most ? slices : most;
  slices = slices < fits ? slices : fits;
  slices = slices > 1 ? slices : 1;
  int64_t tiles_per_slice = ((a.rows - 1) / tile_rows + 1 + slices - 1) / slices;
  int64_t slice_rows = tiles_per_slice * tile_rows;
  slices = (a.rows - 1) / slice_rows + 1;
  Scratch<double> parts(slices * a.at.n * (a.at.gradient ? a.at.dim + 1 : 1), queue);
  double *density = parts.data(), *gradient = density + slices * a.at.n;
  dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(slices)), threads(tile_particles, tile_warps);
  launch_blocks("logistic_regression", logistic_kernel<T>, grid, threads, queue, a, slice_rows, density, gradient);
  if (a.at.density) launch("logistic_density", logistic_density_kernel<T>, a.at.n, queue, a, slices, density);
  if (a.at.gradient)
    launch("logistic_gradient", logistic_gradient_kernel<T>, a.at.n * a.at.dim, queue, a, slices, gradient);
}

}  // namespace

template <>
void gaussian_mixture<float>(const MixtureArgs<float>& args, Queue queue) {
  run_mixture(args, queue);
}
template <>
void gaussian_mixture<double>(const MixtureArgs<double>& args, Queue queue) {
  run_mixture(args, queue);
}
template <>
void funnel<float>(const FunnelArgs<float>& args, Queue queue) {
  run_points("funnel", funnel_kernel<float>, args, queue);
}
template <>
void funnel<double>(const FunnelArgs<double>& args, Queue queue) {
  run_points("funnel", funnel_kernel<double>, args, queue);
}
template <>
void banana<float>(const BananaArgs<float>& args, Queue queue) {
  run_points("banana", banana_kernel<float>, args, queue);
}
template <>
void banana<double>(const BananaArgs<double>& args, Queue queue) {
  run_points("banana", banana_kernel<double>, args, queue);
}
template <>
void logistic_regression<float>(const LogisticArgs<float>& args, Queue queue) {
  run_logistic(args, queue);
}
template <>
void logistic_regression<double>(const LogisticArgs<double>& args, Queue queue) {
  run_logistic(args, queue);
}

}  // namespace cuda
}  // namespace mk
