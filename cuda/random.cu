// CUDA executor of the random numbers. Bound by Philox (ten rounds of two 32-bit multiplies) and the Box-Muller series for
// normals, by memory for float uniforms.
#include "launch.cuh"
#include "mckean/random.hpp"

namespace mk {
namespace cuda {
namespace {

// One thread per Philox block. The 16 threads of a group write number j of their blocks side by side: see random.hpp.
// skip: numbers of the first group that come before `first`.
template <class T, Tag tag>
__global__ void fill_kernel(T* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, int64_t skip,
                            int64_t blocks) {
  for (int64_t t = first_item(); t < blocks; t += item_stride()) {
    int64_t lane = t % stream_lanes, in_range = t / stream_lanes * stream_group<T> - skip;
    uint64_t group = (first + static_cast<uint64_t>(in_range)) / stream_group<T>;
    uint64_t block = group * stream_lanes + static_cast<uint64_t>(lane);
    Words<uint32_t> r =
        stream_words<uint32_t>(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key, counter, tag);
    BlockOf<T> b = tag == Tag::normal ? StreamNumbers<T, T>::normals(r) : StreamNumbers<T, T>::uniforms(r);
#pragma unroll
    for (int j = 0; j < per_block<T>; ++j) {
      int64_t i = in_range + j * stream_lanes + lane;
      if (i >= 0 && i < n) out[i] = b.x[j];
    }
  }
}

__global__ void words_kernel(uint32_t* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, int64_t skip,
                             int64_t blocks) {
  for (int64_t t = first_item(); t < blocks; t += item_stride()) {
    int64_t at = t * 4 - skip;
    uint64_t block = (first + static_cast<uint64_t>(at)) / 4;
    Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key,
                                               counter, Tag::uniform);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (at + j >= 0 && at + j < n) out[at + j] = r.w[j];
  }
}

template <class T>
struct StepNoiseArgs {
  T* outs[3];
  T scales[3];
  int count;
};

template <class T>
__global__ void step_noise_kernel(const __grid_constant__ StepNoiseArgs<T> a, int64_t n, uint64_t seed,
                                  uint64_t counter) {
  for (int64_t i = first_item(); i < n; i += item_stride()) {
    Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), seed, counter,
                                               Tag::step_noise);
    NormalPair<T> p = normal_pair<T>(r.w[0], r.w[1]);
    a.outs[0][i] = p.z0 * a.scales[0];
    if (a.count >= 2) a.outs[1][i] = p.z1 * a.scales[1];
    if (a.count == 3) a.outs[2][i] = normal_pair<T>(r.w[2], r.w[3]).z0 * a.scales[2];
  }
}

template <class T, Tag tag>
void fill(const char* name, T* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  if (n == 0) return;
  OnDevice device(out);
  int64_t skip = static_cast<int64_t>(first % stream_group<T>);
  int64_t blocks = ((skip + n - 1) / stream_group<T> + 1) * stream_lanes;
  launch(name, fill_kernel<T, tag>, blocks, queue, out, n, first, key, counter, skip, blocks);
}

template <class T>
void noise(T* const* outs, const T* scales, int count, int64_t n, uint64_t seed, uint64_t counter, Queue queue) {
  if (n == 0 || count == 0) return;
  OnDevice device(outs[0]);
  StepNoiseArgs<T> a{};
  a.count = count;
  for (int c = 0; c < count; ++c) {
    a.outs[c] = outs[c];
    a.scales[c] = scales[c];
  }
  launch("step_noise", step_noise_kernel<T>, n, queue, a, n, seed, counter);
}

}  // namespace

void fill_words(uint32_t* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  if (n == 0) return;
  OnDevice device(out);
  int64_t skip = static_cast<int64_t>(first % 4), blocks = (skip + n - 1) / 4 + 1;
  launch("fill_words", words_kernel, blocks, queue, out, n, first, key, counter, skip, blocks);
}

template <>
void fill_uniform<float>(float* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  fill<float, Tag::uniform>("fill_uniform", out, n, first, key, counter, queue);
}
template <>
void fill_uniform<double>(double* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  fill<double, Tag::uniform>("fill_uniform", out, n, first, key, counter, queue);
}
template <>
void fill_normal<float>(float* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  fill<float, Tag::normal>("fill_normal", out, n, first, key, counter, queue);
}
template <>
void fill_normal<double>(double* out, int64_t n, uint64_t first, uint64_t key, uint64_t counter, Queue queue) {
  fill<double, Tag::normal>("fill_normal", out, n, first, key, counter, queue);
}

template <>
void step_noise<float>(float* const* outs, const float* scales, int count, int64_t n, uint64_t seed, uint64_t counter,
                       Queue queue) {
  noise(outs, scales, count, n, seed, counter, queue);
}
template <>
void step_noise<double>(double* const* outs, const double* scales, int count, int64_t n, uint64_t seed,
                        uint64_t counter, Queue queue) {
  noise(outs, scales, count, n, seed, counter, queue);
}

}  // namespace cuda
}  // namespace mk
