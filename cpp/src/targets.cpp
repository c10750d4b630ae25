// CPU executor of the built-in targets: particles are cut into blocks of as many as fit the registers, blocks into chunks.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "pool.hpp"
#include "targets_isa.hpp"

namespace mk {
namespace cpu {
namespace {

// Products and sums of a chunk: large against the cost of claiming one, a few milliseconds at most.
constexpr int64_t chunk_work = int64_t{1} << 20;
// Elements of the model that one part of the rows has. Part of the bits: sums of parts are added in double, in order.
constexpr int64_t part_elements = int64_t{1} << 20;
// Parts that are in memory at a time: enough for any number of threads, and at most this many bytes if one fits.
constexpr int64_t wave_parts = 256, wave_bytes = int64_t{32} << 20;

template <class T>
const TargetLoops<T>& loops();
template <>
const TargetLoops<float>& loops<float>() {
  return target_table().f32;
}
template <>
const TargetLoops<double>& loops<double>() {
  return target_table().f64;
}

// Memory aligned to a cache line, not initialised.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) : raw_(new unsigned char[static_cast<size_t>(n) * sizeof(T) + 64]) {}
  T* data() const {
    uintptr_t at = reinterpret_cast<uintptr_t>(raw_.get());
    return reinterpret_cast<T*>((at + 63) / 64 * 64);
  }

 private:
  std::unique_ptr<unsigned char[]> raw_;
};

// Calls body(first particle, scratch) for every block; block_work: operations of one.
template <class T, class Body>
void for_blocks(const TargetPoints<T>& at, int lanes, int64_t block_work, int64_t scratch, Body body) {
  int64_t blocks = (at.n + lanes - 1) / lanes;
  parallel_for(blocks, std::max<int64_t>(1, chunk_work / block_work), [&](int64_t a, int64_t b) {
    Scratch<T> memory(scratch);
    for (int64_t block = a; block < b; ++block) body(block * lanes, memory.data());
  });
}

template <class T>
void run_mixture(const MixtureArgs<T>& a) {
  const auto& l = loops<T>();
  int64_t d = a.at.dim, work = l.lanes * d * a.components * (a.full ? d + 8 : 8);
  for_blocks(a.at, l.lanes, work, 4 * d * l.lanes, [&](int64_t first, T* scratch) { l.mixture(a, first, scratch); });
}

template <class T, class Args>
void run_points(const Args& a, void (*loop)(const Args&, int64_t, T*)) {
  int lanes = loops<T>().lanes;
  for_blocks(a.at, lanes, 8 * lanes * a.at.dim, a.at.dim * lanes,
             [&](int64_t first, T* scratch) { loop(a, first, scratch); });
}

// Few blocks against many rows: parts of the rows are work of their own, in waves, so that threads have enough to do,
// memory stays bounded and Ctrl-C is heard.
template <class T>
void run_logistic_parts(const LogisticArgs<T>& a, int64_t part_rows) {
  const auto& l = loops<T>();
  int64_t d = a.at.dim, parts = (a.rows + part_rows - 1) / part_rows, blocks = (a.at.n + l.lanes - 1) / l.lanes;
  int64_t size = (d + 1) * l.lanes;
  int64_t wave = std::max<int64_t>(1, std::min(wave_parts, wave_bytes / (size * int64_t{sizeof(double)})));
  int64_t parts_at_once = std::min(parts, wave), blocks_at_once = std::max<int64_t>(1, wave / parts_at_once);
  Scratch<double> memory(parts_at_once * blocks_at_once * size);
  std::vector<double> totals(static_cast<size_t>(blocks_at_once * size));
  for (int64_t block = 0; block < blocks; block += blocks_at_once) {
    int64_t some_blocks = std::min(blocks_at_once, blocks - block);
    for (int64_t part = 0; part < parts; part += parts_at_once) {
      int64_t some_parts = std::min(parts_at_once, parts - part);
      parallel_for(some_blocks * some_parts, 1, [&](int64_t begin, int64_t end) {
        Scratch<T> scratch(2 * d * l.lanes);
        for (int64_t i = begin; i < end; ++i) {
          int64_t row = (part + i % some_parts) * part_rows;
          l.logistic_rows(a, (block + i / some_parts) * l.lanes, row, std::min(row + part_rows, a.rows), scratch.data(),
                          memory.data() + i * size);
        }
      });
      for (int64_t b = 0; b < some_blocks; ++b) {
        double* total = totals.data() + b * size;
        for (int64_t p = 0; p < some_parts; ++p) {
          const double* from = memory.data() + (b * some_parts + p) * size;
          for (int64_t i = 0; i < size; ++i) total[i] = part + p == 0 ? from[i] : total[i] + from[i];
        }
      }
    }
    for (int64_t b = 0; b < some_blocks; ++b) l.logistic_finish(a, (block + b) * l.lanes, totals.data() + b * size);
  }
}

template <class T>
void run_logistic(const LogisticArgs<T>& a) {
  const auto& l = loops<T>();
  int64_t d = a.at.dim, part_rows = std::max<int64_t>(128, part_elements / d / 128 * 128);
  if (a.rows > part_rows) return run_logistic_parts(a, part_rows);
  for_blocks(a.at, l.lanes, 4 * l.lanes * a.rows * (d + 16),
             int64_t{2 + sizeof(double) / sizeof(T)} * (d + 1) * l.lanes, [&](int64_t first, T* scratch) {
               // The totals come first, so that both are aligned.
               double* totals = reinterpret_cast<double*>(scratch);
               T* rest = reinterpret_cast<T*>(totals + (d + 1) * l.lanes);
               l.logistic_rows(a, first, 0, a.rows, rest, totals);
               l.logistic_finish(a, first, totals);
             });
}

}  // namespace

template <>
void gaussian_mixture<float>(const MixtureArgs<float>& args, Queue) {
  run_mixture(args);
}
template <>
void gaussian_mixture<double>(const MixtureArgs<double>& args, Queue) {
  run_mixture(args);
}
template <>
void funnel<float>(const FunnelArgs<float>& args, Queue) {
  run_points<float>(args, loops<float>().funnel);
}
template <>
void funnel<double>(const FunnelArgs<double>& args, Queue) {
  run_points<double>(args, loops<double>().funnel);
}
template <>
void banana<float>(const BananaArgs<float>& args, Queue) {
  run_points<float>(args, loops<float>().banana);
}
template <>
void banana<double>(const BananaArgs<double>& args, Queue) {
  run_points<double>(args, loops<double>().banana);
}
template <>
void logistic_regression<float>(const LogisticArgs<float>& args, Queue) {
  run_logistic(args);
}
template <>
void logistic_regression<double>(const LogisticArgs<double>& args, Queue) {
  run_logistic(args);
}

}  // namespace cpu
}  // namespace mk
