// CPU executor of the slicing directions.
#include "mckean/directions.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "directions_isa.hpp"
#include "mckean/random.hpp"
#include "pool.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t chunk_work = int64_t{1} << 16;     // multiplications a chunk, roughly
constexpr int64_t batch_doubles = int64_t{1} << 22;  // of the reflections of several frames at once: 32 MiB

template <class T>
const DirectionLoops<T>& loops();
template <>
const DirectionLoops<float>& loops<float>() {
  return direction_table().f32;
}
template <>
const DirectionLoops<double>& loops<double>() {
  return direction_table().f64;
}

// Memory that is written before it is read.
std::unique_ptr<double[]> scratch(int64_t n) { return std::unique_ptr<double[]>(new double[static_cast<size_t>(n)]); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
void orthogonal(uint64_t key, int64_t count, int64_t dim, T* out) {
  const int64_t frames = ceil_div(count, dim), most_rows = std::min(count, dim);
  const int64_t blocks = ceil_div(most_rows, reflections);
  const int64_t u_size = Frame::offset(dim, blocks) + reflections * reflections,
                t_size = blocks * reflections * reflections;
  const int64_t each = u_size + t_size + blocks * reflections;
  const int64_t batch = std::min(frames, std::max<int64_t>(1, batch_doubles / each));
  auto memory = scratch(batch * each);
  const int64_t grain = std::max<int64_t>(1, chunk_work / (reflections * reflections * dim));
  for (int64_t start = 0; start < frames; start += batch) {
    auto frame = [&](int64_t i) {
      double* u = memory.get() + i * each;
      return Frame{dim,
                   std::min(dim, count - (start + i) * dim),
                   key,
                   static_cast<uint64_t>(start + i),
                   u,
                   u + u_size,
                   u + u_size + t_size};
    };
    const int64_t some = std::min(batch, frames - start);
    parallel_for(some * blocks, grain, [&](int64_t a, int64_t b) {
      auto work = scratch(dim * reflections);
      for (int64_t i = a; i < b; ++i) {
        Frame f = frame(i / blocks);
        if (i % blocks < f.blocks()) direction_table().frame_block(f, i % blocks, work.get());
        poll_inside_chunk();
      }
    });
    parallel_for(some * blocks, grain, [&](int64_t a, int64_t b) {
      auto panels = scratch(dim * reflections);
      for (int64_t i = a; i < b; ++i) {
        Frame f = frame(i / blocks);
        const int64_t block = blocks - 1 - i % blocks;  // the last one takes longest
        if (block >= f.blocks()) continue;
        for (int64_t at = block; at >= 0; --at) {
          direction_table().frame_reflect(f, block, at, panels.get());
          poll_inside_chunk();
        }
        loops<T>().frame_rows(f, block, panels.get(), out + ((start + i / blocks) * dim + block * reflections) * dim);
      }
    });
  }
}

template <class T>
void random(uint64_t key, int64_t count, int64_t dim, T* out) {
  parallel_for(count, std::max<int64_t>(1, chunk_work / (8 * dim)), [&](int64_t a, int64_t b) {
    auto work = scratch(dim);
    loops<T>().random_rows(key, a, b, dim, work.get(), out + a * dim);
  });
}

// Equispaced lines, turned together by a random angle.
template <class T>
void half_circle_lines(uint64_t key, int64_t count, T* out) {
  const double shift = stream_number<double>(0, key, 0, Tag::uniform);
  parallel_for(count, 1 << 14, [&](int64_t a, int64_t b) {
    for (int64_t k = a; k < b; ++k) {
      PlaneVector v = half_circle((static_cast<double>(k) + shift) / static_cast<double>(count));
      out[2 * k] = static_cast<T>(v.x);
      out[2 * k + 1] = static_cast<T>(v.y);
    }
  });
}

// ---- Sobol points ---------------------------------------------------------------------------------------------------

// Whether x generates the multiplicative group of the polynomials over GF(2) modulo p, whose degree is `degree` < 32.
class Primitivity {
 public:
  explicit Primitivity(int degree) : degree_(degree), order_((uint32_t{1} << degree) - 1) {
    uint32_t rest = order_;
    for (uint32_t q = 3; q * q <= rest; q += 2) {
      if (rest % q != 0) continue;
      factors_.push_back(q);
      while (rest % q == 0) rest /= q;
    }
    if (rest > 1) factors_.push_back(rest);
  }
  bool operator()(uint32_t p) const {
    if (power(p, order_) != 1) return false;
    return std::all_of(factors_.begin(), factors_.end(),
                       [&](uint32_t q) { return q == order_ || power(p, order_ / q) != 1; });
  }

 private:
  uint32_t times_x(uint32_t a, uint32_t p) const {
    a <<= 1;
    return a >> degree_ ? a ^ p : a;
  }
  uint32_t product(uint32_t a, uint32_t b, uint32_t p) const {
    uint32_t r = 0;
    for (int i = degree_ - 1; i >= 0; --i) {
      r = times_x(r, p);
      if (b >> i & 1) r ^= a;
    }
    return r;
  }
  uint32_t power(uint32_t p, uint32_t exponent) const {  // of x
    uint32_t r = 1;
    for (int i = bit_width(exponent) - 1; i >= 0; --i) {
      r = product(r, r, p);
      if (exponent >> i & 1) r = times_x(r, p);
    }
    return r;
  }
  int degree_;
  uint32_t order_;
  std::vector<uint32_t> factors_;
};

// The first primitive polynomials over GF(2), by degree and then by value; bit i is the coefficient of x^i.
std::vector<uint32_t> primitive_polynomials(int64_t count) {
  static std::mutex mutex;
  static std::vector<uint32_t> found;
  static int degree = 0;
  std::lock_guard<std::mutex> lock(mutex);
  while (static_cast<int64_t>(found.size()) < count) {
    std::vector<uint32_t> next;
    Primitivity primitive(degree + 1);
    for (uint32_t p = (2u << degree) | 1; p < (4u << degree); p += 2)
      if (primitive(p)) next.push_back(p);
    found.insert(found.end(), next.begin(), next.end());
    ++degree;
  }
  return {found.begin(), found.begin() + count};
}

// m_1 .. m_s for the polynomials of degree 1 <= s <= 8, one after the other: what S. Joe, F. Kuo, "Constructing Sobol
// sequences with better two-dimensional projections", SIAM J. Sci. Comput. 30, 2008, found by search.
constexpr uint8_t initial_numbers[] = {
    1,   1,  3,  1,  3,   1,  1,  1,  1,   1,   1,  3,   3,   1,   3,  5,   13,  1,  1,   5,  5,   17, 1,  1,  5,   5,
    5,   1,  1,  7,  11,  19, 1,  1,  5,   1,   1,  1,   1,   1,   3,  11,  1,   3,  5,   5,  31,  1,  3,  3,  9,   7,
    49,  1,  1,  1,  15,  21, 21, 1,  3,   1,   13, 27,  49,  1,   1,  1,   15,  7,  5,   1,  3,   1,  15, 13, 25,  1,
    1,   5,  5,  19, 61,  1,  3,  7,  11,  23,  15, 103, 1,   3,   7,  13,  13,  15, 69,  1,  1,   3,  13, 7,  35,  63,
    1,   3,  5,  9,  1,   25, 53, 1,  3,   1,   13, 9,   35,  107, 1,  3,   1,   5,  27,  61, 31,  1,  1,  5,  11,  19,
    41,  61, 1,  3,  5,   3,  3,  13, 69,  1,   1,  7,   13,  1,   19, 1,   1,   3,  7,   5,  13,  19, 59, 1,  1,   3,
    9,   25, 29, 41, 1,   3,  5,  13, 23,  1,   55, 1,   3,   7,   3,  13,  59,  17, 1,   3,  1,   3,  5,  53, 69,  1,
    1,   5,  5,  23, 33,  13, 1,  1,  7,   7,   1,  61,  123, 1,   1,  7,   9,   13, 61,  49, 1,   3,  3,  5,  3,   55,
    33,  1,  3,  1,  15,  31, 13, 49, 245, 1,   3,  5,   15,  31,  59, 63,  97,  1,  3,   1,  11,  11, 11, 77, 249, 1,
    3,   1,  11, 27, 43,  71, 9,  1,  1,   7,   15, 21,  11,  81,  45, 1,   3,   7,  3,   25, 31,  65, 79, 1,  3,   1,
    1,   19, 11, 3,  205, 1,  1,  5,  9,   19,  21, 29,  157, 1,   3,  7,   11,  1,  33,  89, 185, 1,  3,  3,  3,   15,
    9,   79, 71, 1,  3,   7,  11, 15, 39,  119, 27, 1,   1,   3,   1,  11,  31,  97, 225, 1,  1,   1,  3,  23, 43,  57,
    177, 1,  3,  7,  7,   17, 17, 37, 71,  1,   3,  1,   5,   27,  63, 123, 213, 1,  1,   3,  5,   11, 43, 53, 133};

// Column t: the direction numbers of coordinate t, (bits, dim), most significant bit first.
std::vector<uint32_t> sobol_numbers(int bits, int64_t dim) {
  std::vector<uint32_t> numbers(static_cast<size_t>(bits * dim));
  const std::vector<uint32_t> polynomials = primitive_polynomials(dim - 1);
  size_t listed = 0;
  for (int64_t t = 0; t < dim; ++t) {
    uint32_t v[32];
    const uint32_t p = t > 0 ? polynomials[static_cast<size_t>(t - 1)] : 1;
    const int s = bit_width(p) - 1;
    for (int i = 0; i < 32; ++i) {
      if (i >= s) {  // the polynomial's recurrence; of degree 0: all m are 1
        v[i] = s == 0 ? uint32_t{1} << (31 - i) : v[i - s] ^ (v[i - s] >> s);
        for (int l = 1; l < s; ++l)
          if (p >> (s - l) & 1) v[i] ^= v[i - l];
        continue;
      }
      uint32_t m;
      if (listed < sizeof initial_numbers) {
        m = initial_numbers[listed++];
      } else {  // beyond the table, any odd numbers below 2^(i + 1)
        Words<uint32_t> r =
            philox<uint32_t>(static_cast<uint32_t>(t), static_cast<uint32_t>(i), 0u, 0u, 0x536f626fu, 0x6cu);
        m = (r.w[0] & ((uint32_t{1} << (i + 1)) - 1)) | 1;
      }
      v[i] = m << (31 - i);
    }
    for (int i = 0; i < bits; ++i) numbers[static_cast<size_t>(i * dim + t)] = v[i];
  }
  return numbers;
}

int sobol_bits(int64_t count) { return std::max(1, bit_width(static_cast<uint64_t>(count - 1))); }

// Point p in the order of the Gray code.
void sobol_point(const std::vector<uint32_t>& numbers, int64_t p, int64_t dim, uint32_t* x) {
  std::fill(x, x + dim, 0u);
  for (uint64_t gray = static_cast<uint64_t>(p ^ (p >> 1)); gray != 0; gray &= gray - 1) {
    const uint32_t* number = numbers.data() + trailing_zeros(gray) * dim;
    for (int64_t t = 0; t < dim; ++t) x[t] ^= number[t];
  }
}

template <class T>
void sobol(uint64_t key, int64_t count, int64_t dim, T* out) {
  std::vector<uint32_t> numbers = sobol_numbers(sobol_bits(count), dim), seeds(static_cast<size_t>(4 * dim));
  for (uint32_t& number : numbers) number = reverse_bits(number);
  for (int64_t t = 0; t < dim; ++t) {
    Words<uint32_t> r = stream_words<uint32_t>(static_cast<uint32_t>(t), 0u, key, 0, Tag::uniform);
    for (int i = 0; i < 4; ++i) seeds[static_cast<size_t>(i * dim + t)] = r.w[i];
  }
  const SobolTables tables{dim, numbers.data(), seeds.data()};
  parallel_for(count, std::max<int64_t>(8, chunk_work / (32 * dim)), [&](int64_t a, int64_t b) {
    std::vector<uint32_t> state(static_cast<size_t>(dim));
    auto work = scratch(dim);
    sobol_point(numbers, a, dim, state.data());
    loops<T>().sobol_rows(tables, a, b, state.data(), work.get(), out + a * dim);
  });
}

}  // namespace

void sobol_points(int64_t count, int64_t dim, uint32_t* out) {
  const std::vector<uint32_t> numbers = sobol_numbers(sobol_bits(count), dim);
  for (int64_t p = 0; p < count; ++p) sobol_point(numbers, p, dim, out + p * dim);
}

template <class T>
void directions(DirectionKind kind, uint64_t seed, int64_t count, int64_t dim, T* out) {
  const uint64_t key = stream_key(seed, direction_stream + static_cast<uint64_t>(kind));
  if (kind == DirectionKind::random) return random(key, count, dim, out);
  if (dim == 2) return half_circle_lines(stream_key(seed, circle_stream), count, out);
  if (kind == DirectionKind::sobol) return sobol(key, count, dim, out);
  orthogonal(key, count, dim, out);
}
template void directions<float>(DirectionKind, uint64_t, int64_t, int64_t, float*);
template void directions<double>(DirectionKind, uint64_t, int64_t, int64_t, double*);

}  // namespace cpu
}  // namespace mk
