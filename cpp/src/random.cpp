// CPU executor of the random numbers: cuts the index range into chunks and hands them to the loops in use.
#include "mckean/executor.hpp"
#include "pool.hpp"
#include "random_isa.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t grain = 1 << 15;  // numbers a chunk: about 0.1 ms, a multiple of every group size

template <class T>
using Fill = void (*)(T*, uint64_t, int64_t, uint64_t, uint64_t);

template <class T>
void fill(Fill<T> loop, T* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter) {
  parallel_for(n, grain,
               [=](int64_t a, int64_t b) { loop(out + a, first + static_cast<uint64_t>(a), b - a, key, counter); });
}

}  // namespace

void fill_words(uint32_t* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue) {
  fill(random_table().words, out, n, first, key, counter);
}
template <>
void fill_uniform<float>(float* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue) {
  fill(random_table().uniform_f32, out, n, first, key, counter);
}
template <>
void fill_uniform<double>(double* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue) {
  fill(random_table().uniform_f64, out, n, first, key, counter);
}
template <>
void fill_normal<float>(float* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue) {
  fill(random_table().normal_f32, out, n, first, key, counter);
}
template <>
void fill_normal<double>(double* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue) {
  fill(random_table().normal_f64, out, n, first, key, counter);
}

template <>
void step_noise<float>(float* const* outs, const float* scales, int count, int64_t n, uint64_t seed, uint64_t counter,
                       Queue) {
  parallel_for(n, grain,
               [=](int64_t a, int64_t b) { random_table().step_noise_f32(outs, scales, count, a, b, seed, counter); });
}
template <>
void step_noise<double>(double* const* outs, const double* scales, int count, int64_t n, uint64_t seed,
                        uint64_t counter, Queue) {
  parallel_for(n, grain,
               [=](int64_t a, int64_t b) { random_table().step_noise_f64(outs, scales, count, a, b, seed, counter); });
}

}  // namespace cpu
}  // namespace mk
