// CPU executor of the sliced distances. Directions are worked off in slabs: project all points on the slab's directions, sort
// and scan every slice (one thread each), and bring the derivatives back to the points. Memory is that of one slab.
//
// Every projected value, every slice's distance and every coordinate of the gradient (summed over slices in their order) is
// a chain of its own, so neither the number of threads nor the size of a slab changes a bit.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <vector>

#include "mckean/executor.hpp"
#include "mckean/sliced.hpp"
#include "pool.hpp"
#include "power_scan_isa.hpp"
#include "sliced.hpp"
#include "sliced_isa.hpp"

namespace mk {

namespace cpu {
namespace {

// Memory that is not cleared.
template <class T>
class Buffer {
 public:
  T* get(int64_t size) {
    if (size > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(static_cast<T*>(::operator new(static_cast<size_t>(size) * sizeof(T), std::align_val_t{64})));
      size_ = size;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

}  // namespace
}  // namespace cpu

// y along every direction, in ascending order. Values are float or double.
struct SlicedTarget {
  bool weighted = false;
  cpu::Buffer<unsigned char> centre, directions, values;  // (dim,), (slices, dim), (slices, m)
  cpu::Buffer<double> weights;                            // (slices, m), of the sorted values

  template <class T>
  static T* as(const cpu::Buffer<unsigned char>& bytes) {
    return reinterpret_cast<T*>(bytes.data());
  }
};

namespace cpu {
namespace {

constexpr int64_t slab_bytes = int64_t{16} << 20;  // of projections, where few directions at a time cost nothing
constexpr int64_t most_bytes = int64_t{64}
                               << 20;    // of everything beyond input and output, unless there are many points
constexpr double chunk_seconds = 40e-6;  // less is not worth a second thread
constexpr int64_t cached_dims = 256;     // of a panel: 16 KiB

template <class T>
const SlicedLoops<T>& loops();
template <>
const SlicedLoops<float>& loops<float>() {
  return sliced_table().f32;
}
template <>
const SlicedLoops<double>& loops<double>() {
  return sliced_table().f64;
}

template <class T>
struct Workspace {
  Buffer<T> slab, panel;
  Buffer<const T*> rows;
  Buffer<uint64_t> records;
  Buffer<uint32_t> counts;
  Buffer<double> sorted;
};

// As many workspaces as threads are at work at the same time.
template <class T>
class Workspaces {
 public:
  class Lease {
   public:
    explicit Lease(Workspaces& from) : from_(from) {
      std::lock_guard<std::mutex> lock(from.mutex_);
      if (!from.free_.empty()) {
        held_ = std::move(from.free_.back());
        from.free_.pop_back();
      }
      if (!held_) {
        from.free_.reserve(++from.made_);
        held_.reset(new Workspace<T>);
      }
    }
    ~Lease() {
      std::lock_guard<std::mutex> lock(from_.mutex_);
      from_.free_.push_back(std::move(held_));  // within what was reserved
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace<T>* operator->() { return held_.get(); }

   private:
    Workspaces& from_;
    std::unique_ptr<Workspace<T>> held_;
  };

 private:
  std::mutex mutex_;
  size_t made_ = 0;
  std::vector<std::unique_ptr<Workspace<T>>> free_;
};

// Adds the time of its life to one stage.
class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<int64_t>* to) : to_(to), start_(to ? Clock::now() : Clock::time_point{}) {}
  ~Stopwatch() {
    if (to_) *to_ += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  std::atomic<int64_t>* to_;
  Clock::time_point start_;
};

int64_t grain_of(double seconds_each) {
  return std::max<int64_t>(1, static_cast<int64_t>(chunk_seconds / std::max(seconds_each, 1e-12)));
}

template <class T>
void centre_of(const T* y, const double* weights, int64_t m, int64_t dim, T* centre) {
  const int parts = static_cast<int>(std::min<int64_t>(centre_points, m));
  int64_t chosen[centre_points];
  int count = 0;
  for (int part = 0; part < parts; ++part) {
    const int64_t j = centre_point(part, parts, m, weights);
    if (j >= 0) chosen[count++] = j;
  }
  for (int64_t k = 0; k < dim; ++k) {
    T values[centre_points];
    for (int c = 0; c < count; ++c) values[c] = y[chosen[c] * dim + k];
    centre[k] = count ? lower_median(values, count) : T(0);
  }
}

SliceWeights slice_weights(int64_t n, int64_t m, const double* x, const double* y) {
  SliceWeights w{n, m, false, 0, 0, x, y, 1.0 / static_cast<double>(n), 1.0 / static_cast<double>(m)};
  const int64_t common = std::gcd(n, m);
  w.x_step = m / common;
  w.y_step = n / common;
  // Counts reach n m / gcd and must be exact as doubles.
  w.counted = !x && !y && static_cast<double>(n) * static_cast<double>(w.x_step) <= 9007199254740992.0;
  return w;
}

// The sum of values in a fixed order that loses little.
double pairwise_sum(const double* values, int64_t count) {
  if (count <= 8) return std::accumulate(values, values + count, 0.0);
  return pairwise_sum(values, count / 2) + pairwise_sum(values + count / 2, count - count / 2);
}

template <class T>
class Slicer {
 public:
  explicit Slicer(const SlicedArgs<T>& args) : a_(args), loops_(loops<T>()) {
    if (a_.target) {
      directions_ = SlicedTarget::as<T>(a_.target->directions);
      centres_.assign(SlicedTarget::as<T>(a_.target->centre), SlicedTarget::as<T>(a_.target->centre) + a_.dim);
    } else {
      directions_ = a_.directions;
      const int64_t clouds = a_.y_per_batch ? a_.batch : 1;
      centres_.resize(static_cast<size_t>(clouds * a_.dim));
      parallel_for(clouds, grain_of(0.3e-6 * static_cast<double>(a_.dim)), [&](int64_t first, int64_t last) {
        for (int64_t b = first; b < last; ++b)
          centre_of(a_.y + b * a_.m * a_.dim, a_.y_weights ? a_.y_weights + b * a_.m : nullptr, a_.m, a_.dim,
                    centres_.data() + b * a_.dim);
      });
    }
    projected_ = a_.n + (a_.target ? 0 : a_.m);
    points_ = a_.n + a_.m;
    // Whole panels fit behind the last point, and rows do not all start in the same cache sets.
    stride_ = (points_ + loops_.lanes) / 16 * 16 + 16;
    if (stride_ / 16 % 2 == 0) stride_ += 16;
    const double slices = static_cast<double>(a_.slices), points = static_cast<double>(points_);
    if (a_.kind == SlicedKind::mmd && a_.exponent != 1.0) power_rule_ = power_scan_rule<T>(a_.exponent);
    over_problems_ = a_.batch >= 2 * num_threads() && points * slices < 4e6;
    slab_ = slab_size();
  }

  void run() {
    measure_units();
    for (first_ = 0; first_ < a_.slices; first_ += count_) {
      count_ = std::min(slab_, a_.slices - first_);
      pack_directions();
      const double cost = static_cast<double>(points_ * count_) * (10e-9 + 0.06e-9 * static_cast<double>(a_.dim));
      if (over_problems_) {
        parallel_for(a_.batch, grain_of(cost), [&](int64_t first, int64_t last) {
          for (int64_t b = first; b < last; ++b) problem(b);
        });
      } else {
        for (int64_t b = 0; b < a_.batch; ++b) problem(b);
      }
    }
    if (a_.gradient && (a_.root || !units_.empty())) finish_transport();
    if (a_.stages)
      for (int s = 0; s < sliced_stages; ++s) a_.stages[s] += 1e-9 * static_cast<double>(nanoseconds_[s].load());
  }

  // Sorts y of the one problem there is along every direction, into a target.
  void fill(SlicedTarget& target) {
    T* values = SlicedTarget::as<T>(target.values);
    double* weights = target.weights.data();
    for (first_ = 0; first_ < a_.slices; first_ += count_) {
      count_ = std::min(slab_, a_.slices - first_);
      pack_directions();
      typename Workspaces<T>::Lease own(workspaces_);
      T* slab = own->slab.get(count_ * stride_);
      project(0, slab);
      parallel_for(count_, grain_of(sort_seconds()), [&](int64_t first, int64_t last) {
        typename Workspaces<T>::Lease w(workspaces_);
        for (int64_t p = first; p < last; ++p) {
          uint64_t* memory = w->records.get(2 * points_);
          const T* z = slab + p * stride_;
          const uint64_t* records =
              loops_.sort(z, a_.m, 0, memory, memory + points_, w->counts.get(sort_counts), poll_inside_chunk);
          for (int64_t j = 0; j < a_.m; ++j) {
            const uint32_t index = static_cast<uint32_t>(records[j]);
            values[(first_ + p) * a_.m + j] = z[index];
            if (weights) weights[(first_ + p) * a_.m + j] = a_.y_weights[index];
          }
        }
      });
    }
  }
  const std::vector<T>& centres() const { return centres_; }

 private:
  int64_t slab_size() const {
    const int threads = over_problems_ ? 1 : num_threads();
    // A slice, and its direction as the two products want it.
    const int64_t each = (stride_ + 2 * a_.dim) * static_cast<int64_t>(sizeof(T)), records = 16 * points_ * threads;
    // With many coordinates every slab costs a reading of all points, so slabs are as large as memory allows.
    int64_t bytes = a_.dim <= 32 ? slab_bytes : std::max(most_bytes - records, slab_bytes);
    // Large slices: three for each thread; one where the scan itself takes the memory, and the time.
    const bool scan_is_large = power_rule_.rule.terms > 0;
    bytes = std::max(bytes, scan_is_large ? each * threads : std::min<int64_t>(24 * points_, 3 * each) * threads);
    if (over_problems_) bytes = slab_bytes / 4;
    int64_t size = std::max<int64_t>(bytes / each, 1);
    if (size > loops_.group) size -= size % loops_.group;
    return std::min(size, a_.slices);
  }

  std::atomic<int64_t>* stage(SlicedStage s) { return a_.stages ? &nanoseconds_[s] : nullptr; }
  double sort_seconds() const { return 8e-9 * static_cast<double>(points_); }

  void pack_directions() {
    const int64_t group = loops_.group, dim = a_.dim, groups = (count_ + group - 1) / group;
    const T* from = directions_ + first_ * dim;
    T* across = across_.get(groups * dim * group);
    T* along = a_.gradient ? along_.get((dim + group - 1) / group * count_ * group) : nullptr;
    parallel_for(count_, grain_of(4e-9 * static_cast<double>(dim)), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        for (int64_t k = 0; k < dim; ++k) across[(p / group * dim + k) * group + p % group] = from[p * dim + k];
        if (along)
          for (int64_t k = 0; k < dim; ++k) along[(k / group * count_ + p) * group + k % group] = from[p * dim + k];
      }
    });
  }

  void problem(int64_t b) {
    typename Workspaces<T>::Lease own(workspaces_);
    T* slab = own->slab.get(count_ * stride_);
    project(b, slab);
    parallel_for(count_, grain_of(sort_seconds()), [&](int64_t first, int64_t last) {
      typename Workspaces<T>::Lease w(workspaces_);
      for (int64_t p = first; p < last; ++p) slice(b, p, slab + p * stride_, *w.operator->());
    });
    if (a_.gradient) back(b, slab);
  }

  void project(int64_t b, T* slab) {
    const int64_t lanes = loops_.lanes, dim = a_.dim, panels = (projected_ + lanes - 1) / lanes;
    const T* x = a_.x ? a_.x + b * a_.n * dim : nullptr;
    const T* y = a_.y ? a_.y + (a_.y_per_batch ? b : 0) * a_.m * dim : nullptr;
    const T* centre = centres_.data() + (a_.y_per_batch ? b : 0) * dim;
    const T* across = across_.get(0);
    const double seconds = 1e-9 * static_cast<double>(lanes * dim) * (0.5 + 0.03 * static_cast<double>(count_));
    parallel_for(panels, grain_of(seconds), [&](int64_t first, int64_t last) {
      Stopwatch watch(stage(stage_project));
      typename Workspaces<T>::Lease w(workspaces_);
      T* panel = w->panel.get(lanes * dim);
      const T** rows = w->rows.get(lanes);
      for (int64_t at = first; at < last; ++at) {
        const int64_t start = at * lanes, valid = std::min(lanes, projected_ - start);
        for (int64_t l = 0; l < valid; ++l) {
          const int64_t i = start + l;
          rows[l] = i < a_.n ? x + i * dim : y + (i - a_.n) * dim;
        }
        loops_.pack(rows, static_cast<int>(valid), dim, centre, panel);
        for (int64_t k = 0; k < dim; k += cached_dims)
          for (int64_t p = 0; p < count_; p += loops_.group)
            loops_.product(panel + k * lanes, lanes, std::min(cached_dims, dim - k),
                           across + p * dim + k * loops_.group,
                           static_cast<int>(std::min<int64_t>(loops_.group, count_ - p)), k == 0,
                           slab + p * stride_ + start, stride_);
        if ((at - first) % 1024 == 1023) poll_inside_chunk();
      }
    });
  }

  void slice(int64_t b, int64_t p, T* z, Workspace<T>& w) {
    const int64_t n = a_.n, m = a_.m;
    const SlicedTarget* target = a_.target;
    const double* y_weights = a_.y_weights ? a_.y_weights + (a_.y_per_batch ? b : 0) * m : nullptr;
    if (target && target->weighted) y_weights = target->weights.data() + (first_ + p) * m;
    const SliceWeights weights = slice_weights(n, m, a_.x_weights ? a_.x_weights + b * n : nullptr, y_weights);
    double& value = a_.values[b * a_.slices + first_ + p];
    static_assert(sizeof(uint64_t) == sizeof(double), "a half of the records serves the scan for r != 1");
    const int64_t half = power_scan_workspace(points_);
    uint64_t* memory = w.records.get(2 * half);
    uint64_t* spare = memory + half;
    uint32_t* counts = w.counts.get(sort_counts);
    const bool transport = a_.kind == SlicedKind::wasserstein;
    const uint64_t *records = nullptr, *y_records = nullptr;
    {
      Stopwatch watch(stage(stage_sort));
      if (target)
        std::memcpy(z + n, SlicedTarget::as<T>(target->values) + (first_ + p) * m, static_cast<size_t>(m) * sizeof(T));
      // Merging waits for every comparison: it pays where there is little to sort beside what is sorted.
      const bool merged = target && !transport && m >= 8 * n;
      if (transport || merged) records = loops_.sort(z, n, 0, memory, spare, counts, poll_inside_chunk);
      if (transport && target) {
        loops_.index(z, n, points_, memory + n);
        y_records = memory + n;
      } else if (transport) {
        // x and y share the two halves of the memory.
        y_records = loops_.sort(z + n, m, static_cast<uint32_t>(n), memory + n, spare + n, counts, poll_inside_chunk);
      } else if (merged) {
        uint64_t* out = records == memory ? spare : memory;
        loops_.merge(z, records, n, m, out);
        records = out;
      } else {
        records = loops_.sort(z, points_, 0, memory, spare, counts, poll_inside_chunk);
      }
    }
    poll_inside_chunk();
    Stopwatch watch(stage(stage_scan));
    if (transport) {
      value = loops_.transport(records, y_records, weights, a_.exponent, shrink(b), z, a_.gradient != nullptr,
                               poll_inside_chunk);
    } else if (a_.exponent == 1.0) {
      value = loops_.scan(records, weights, z, a_.gradient != nullptr);
    } else {
      double* values = w.sorted.get(3 * points_);
      double *signs = values + points_, *force = a_.gradient ? signs + points_ : nullptr;
      loops_.to_doubles(records, weights, z, values, signs);
      double* workspace = reinterpret_cast<double*>(records == memory ? spare : memory);  // the half that sorting left
      value = power_scan_table().scan({&power_rule_, points_, values, signs, force, workspace, poll_inside_chunk});
      if (force) loops_.scatter(records, points_, force, z);
    }
  }

  void back(int64_t b, const T* slab) {
    const int64_t lanes = loops_.lanes, dim = a_.dim, panels = (a_.n + lanes - 1) / lanes;
    T* gradient = a_.gradient + b * a_.n * dim;
    const T* along = along_.get(0);
    const T scale = first_ + count_ == a_.slices ? static_cast<T>(a_.scale) : T(1);
    const double seconds = 1e-9 * static_cast<double>(lanes * dim) * (0.7 + 0.03 * static_cast<double>(count_));
    parallel_for(panels, grain_of(seconds), [&](int64_t first, int64_t last) {
      Stopwatch watch(stage(stage_back));
      typename Workspaces<T>::Lease w(workspaces_);
      T* panel = w->panel.get((dim + count_) * lanes);
      T* tile = panel + dim * lanes;
      const T** rows = w->rows.get(lanes);
      const std::vector<T> zero(static_cast<size_t>(dim));
      for (int64_t at = first; at < last; ++at) {
        const int64_t start = at * lanes;
        const int valid = static_cast<int>(std::min(lanes, a_.n - start));
        T* to = gradient + start * dim;
        const T* g = slab + start;
        int64_t g_stride = stride_;
        if (dim >
            2 * loops_.group) {  // read once for every group of coordinates, from as many pages as there are slices
          loops_.gather(g, stride_, count_, tile);
          g = tile;
          g_stride = lanes;
        }
        if (first_ > 0) {
          for (int l = 0; l < valid; ++l) rows[l] = to + l * dim;
          loops_.pack(rows, valid, dim, zero.data(), panel);
        }
        for (int64_t k = 0; k < dim; k += loops_.group)
          loops_.product(g, g_stride, count_, along + k * count_,
                         static_cast<int>(std::min<int64_t>(loops_.group, dim - k)), first_ == 0, panel + k * lanes,
                         lanes);
        loops_.unpack(panel, valid, dim, scale, to);
        if ((at - first) % 1024 == 1023) poll_inside_chunk();
      }
    });
  }

  // p |t|^(p - 1) may leave the range of float32 where its mean's root does not: slices hold it in units of the cloud's
  // size (a power of two, so that no digit is lost).
  void measure_units() {
    if (!a_.gradient || a_.kind != SlicedKind::wasserstein || sizeof(T) == 8 || a_.exponent == 1.0) return;
    units_.resize(static_cast<size_t>(a_.batch));
    parallel_for(a_.batch, grain_of(0.3e-9 * static_cast<double>(a_.n * a_.dim)), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const T* centre = centres_.data() + (a_.y_per_batch ? b : 0) * a_.dim;
        T most = 0;
        for (int64_t i = b * a_.n; i < (b + 1) * a_.n; ++i)
          for (int64_t k = 0; k < a_.dim; ++k) most = std::max(most, std::fabs(a_.x[i * a_.dim + k] - centre[k]));
        units_[static_cast<size_t>(b)] = most > 0 ? std::exp2(std::ceil(std::log2(static_cast<double>(most)))) : 1.0;
      }
    });
  }
  double shrink(int64_t b) const {
    return units_.empty() ? 1.0 : std::pow(units_[static_cast<size_t>(b)], 1.0 - a_.exponent);
  }

  // Back to the units of the data, and the derivative of mean^(1/p) if asked for.
  void finish_transport() {
    const int64_t size = a_.n * a_.dim;
    parallel_for(a_.batch, grain_of(1e-9 * static_cast<double>(size)), [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        double factor = units_.empty() ? 1.0 : std::pow(units_[static_cast<size_t>(b)], a_.exponent - 1.0);
        if (a_.root) {
          const double mean = pairwise_sum(a_.values + b * a_.slices, a_.slices) / static_cast<double>(a_.slices);
          factor = mean > 0.0 ? factor * std::pow(mean, 1.0 / a_.exponent - 1.0) / a_.exponent : 0.0;
        }
        for (int64_t i = 0; i < size; ++i)
          a_.gradient[b * size + i] = static_cast<T>(factor * static_cast<double>(a_.gradient[b * size + i]));
      }
    });
  }

  const SlicedArgs<T> a_;
  const SlicedLoops<T>& loops_;
  const T* directions_;
  std::vector<T> centres_;
  PowerScanRule power_rule_{};  // r != 1
  std::vector<double> units_;   // of each problem; empty: 1
  int64_t points_, projected_, stride_, slab_;
  bool over_problems_;
  int64_t first_ = 0, count_ = 0;  // of the slab
  Buffer<T> across_, along_;       // its directions, as the loops of projection and of bringing back want them
  Workspaces<T> workspaces_;
  std::atomic<int64_t> nanoseconds_[sliced_stages] = {};
};

}  // namespace

template <class T>
void sliced(const SlicedArgs<T>& args, Queue) {
  Slicer<T>(args).run();
}

template <class T>
SlicedTarget* make_sliced_target(const SlicedArgs<T>& args, Queue) {
  std::unique_ptr<SlicedTarget> target(new SlicedTarget);
  const auto bytes = [](int64_t count) { return count * static_cast<int64_t>(sizeof(T)); };
  target->weighted = args.y_weights != nullptr;
  target->values.get(bytes(args.slices * args.m));
  if (target->weighted) target->weights.get(args.slices * args.m);
  target->directions.get(bytes(args.slices * args.dim));
  std::memcpy(target->directions.data(), args.directions, static_cast<size_t>(bytes(args.slices * args.dim)));
  SlicedArgs<T> only_y = args;
  only_y.n = 0;
  only_y.gradient = nullptr;
  only_y.stages = nullptr;
  Slicer<T> slicer(only_y);
  slicer.fill(*target);
  target->centre.get(bytes(args.dim));
  std::memcpy(target->centre.data(), slicer.centres().data(), static_cast<size_t>(bytes(args.dim)));
  return target.release();
}

void free_sliced_target(SlicedTarget* target) { delete target; }

template <class T>
void slice_order(const T* z, int64_t n, int64_t* order) {
  if (n == 0) return;
  Workspace<T> w;
  uint64_t* memory = w.records.get(2 * n);
  const uint64_t* records = loops<T>().sort(z, n, 0, memory, memory + n, w.counts.get(sort_counts), poll_inside_chunk);
  for (int64_t k = 0; k < n; ++k) order[k] = static_cast<uint32_t>(records[k]);
}
template void slice_order<float>(const float*, int64_t, int64_t*);
template void slice_order<double>(const double*, int64_t, int64_t*);

template void sliced<float>(const SlicedArgs<float>&, Queue);
template void sliced<double>(const SlicedArgs<double>&, Queue);
template SlicedTarget* make_sliced_target<float>(const SlicedArgs<float>&, Queue);
template SlicedTarget* make_sliced_target<double>(const SlicedArgs<double>&, Queue);

}  // namespace cpu
}  // namespace mk
