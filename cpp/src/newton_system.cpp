#include "newton_system.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "pool.hpp"

namespace mk {
namespace {

constexpr double delta = 1.0 + 1e-9;        // the diagonal after scaling: components of S may be singular without
constexpr int64_t grain = 512;              // rows of a chunk; part of the order of sums
constexpr int64_t parallel_work = 1 << 17;  // entries and rows, above which products are worth waking threads
constexpr int64_t patience = 250;           // steps of conjugate gradients before a factorisation is tried
constexpr double sparse_enough = 20.0;      // entries for each row and column, up to which it is
constexpr double most_fill = 8.4e6;         // entries of the factor
constexpr double most_work = 2e10;          // multiplications of the factorisation
constexpr double absent = 1e-280;           // sums up to it are those of points without weight
constexpr double no_pivot = 1e-14;          // of a diagonal of 1: rounding, where the shift was lost

class Poll {
 public:
  explicit Poll(void (*poll)()) : poll_(poll), last_(Clock::now()) {}
  void operator()() {
    if (!poll_) return;
    auto now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(50)) return;
    last_ = now;
    poll_();
  }

 private:
  using Clock = std::chrono::steady_clock;
  void (*poll_)();
  Clock::time_point last_;
};

struct Rows {
  std::vector<int64_t> start;
  std::vector<int32_t> column;
  std::vector<double> value;

  int64_t size() const { return static_cast<int64_t>(start.size()) - 1; }
  // Four sums, so that an addition need not wait for the last one.
  double dot(int64_t i, const double* x) const {
    const int64_t last = start[i + 1];
    int64_t e = start[i];
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (; e + 4 <= last; e += 4) {
      s0 += value[e] * x[column[e]];
      s1 += value[e + 1] * x[column[e + 1]];
      s2 += value[e + 2] * x[column[e + 2]];
      s3 += value[e + 3] * x[column[e + 3]];
    }
    for (; e < last; ++e) s0 += value[e] * x[column[e]];
    return (s0 + s1) + (s2 + s3);
  }
};

Rows transposed(const Rows& a, int64_t cols) {
  Rows t;
  t.start.assign(static_cast<size_t>(cols) + 1, 0);
  t.column.resize(a.column.size());
  t.value.resize(a.value.size());
  for (int32_t j : a.column) ++t.start[j + 1];
  for (int64_t j = 0; j < cols; ++j) t.start[j + 1] += t.start[j];
  std::vector<int64_t> at(t.start.begin(), t.start.end() - 1);
  for (int64_t i = 0; i < a.size(); ++i)
    for (int64_t e = a.start[i]; e < a.start[i + 1]; ++e) {
      int64_t k = at[a.column[e]]++;
      t.column[k] = static_cast<int32_t>(i);
      t.value[k] = a.value[e];
    }
  return t;
}

// The system divided by the roots of its diagonal on both sides: [[delta, S], [S^T, delta]] y = g. The longer side comes
// first.
struct Scaled {
  Rows rows, cols;
  std::vector<double> row_scale, col_scale, row_rhs, col_rhs;
  double size;  // of the right side
  bool parallel;

  explicit Scaled(const NewtonSystem& s) {
    scale(s.n, s.row_sums, s.rhs_rows, row_scale, row_rhs);
    scale(s.m, s.col_sums, s.rhs_cols, col_scale, col_rhs);
    rows.start.assign(s.start, s.start + s.n + 1);
    rows.column.assign(s.column, s.column + s.start[s.n]);
    rows.value.resize(rows.column.size());
    for (int64_t i = 0; i < s.n; ++i)
      for (int64_t e = s.start[i]; e < s.start[i + 1]; ++e)
        rows.value[e] = s.value[e] * row_scale[i] * col_scale[s.column[e]];
    cols = transposed(rows, s.m);
    if (s.m > s.n) {
      std::swap(rows, cols);
      std::swap(row_scale, col_scale);
      std::swap(row_rhs, col_rhs);
    }
    double sum = 0;
    for (double g : row_rhs) sum += g * g;
    for (double g : col_rhs) sum += g * g;
    size = std::sqrt(sum);
    parallel = static_cast<int64_t>(rows.value.size()) + s.n + s.m > parallel_work;
  }

  // body(chunk, first, last)
  template <class F>
  void ranges(int64_t count, const F& body) const {
    if (parallel) {
      parallel_for(count, grain, [&](int64_t first, int64_t last) { body(first / grain, first, last); });
    } else {
      for (int64_t first = 0; first < count; first += grain) body(first / grain, first, std::min(count, first + grain));
    }
  }

 private:
  static void scale(int64_t n, const double* sums, const double* rhs, std::vector<double>& scales,
                    std::vector<double>& scaled) {
    scales.resize(static_cast<size_t>(n));
    scaled.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      scales[i] = sums[i] > absent ? 1.0 / std::sqrt(sums[i]) : 0.0;
      scaled[i] = sums[i] > absent ? rhs[i] * scales[i] : 0.0;
    }
  }
};

struct Answer {
  std::vector<double> rows, cols;
};

// (delta - S^T S / delta) y = g - S^T h / delta; the long side follows and leaves no residual.
class ConjugateGradients {
 public:
  explicit ConjugateGradients(const Scaled& s)
      : s_(s), m_(s.cols.size()), y_(m_), r_(m_), p_(m_), q_(m_), t_(s.row_rhs.size()), parts_(m_ / grain + 1) {
    rr_ = total(m_, [&](int64_t j) {
      r_[j] = s_.col_rhs[j] - s_.cols.dot(j, s_.row_rhs.data()) / delta;
      p_[j] = r_[j];
      return r_[j] * r_[j];
    });
  }

  int64_t iterations = 0;
  double residual() const { return std::sqrt(rr_); }

  // Up to `most` steps in all; false where there are none left to do any good.
  bool run(int64_t most, double tol, Poll& poll) {
    while (iterations < most && residual() > tol) {
      poll();
      s_.ranges(s_.rows.size(), [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) t_[i] = s_.rows.dot(i, p_.data()) / delta;
      });
      const double pq = total(m_, [&](int64_t j) {
        q_[j] = delta * p_[j] - s_.cols.dot(j, t_.data());
        return p_[j] * q_[j];
      });
      if (!(pq > 0)) return false;  // lost to rounding
      const double alpha = rr_ / pq;
      const double next = total(m_, [&](int64_t j) {
        y_[j] += alpha * p_[j];
        r_[j] -= alpha * q_[j];
        return r_[j] * r_[j];
      });
      const double beta = next / rr_;
      rr_ = next;
      s_.ranges(m_, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t j = first; j < last; ++j) p_[j] = r_[j] + beta * p_[j];
      });
      ++iterations;
    }
    return residual() > tol;
  }

  Answer answer() const {
    Answer a{std::vector<double>(t_.size()), y_};
    s_.ranges(s_.rows.size(), [&](int64_t, int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) a.rows[i] = (s_.row_rhs[i] - s_.rows.dot(i, y_.data())) / delta;
    });
    return a;
  }

 private:
  template <class F>
  double total(int64_t count, const F& term) {
    s_.ranges(count, [&](int64_t chunk, int64_t first, int64_t last) {
      double sum = 0;
      for (int64_t j = first; j < last; ++j) sum += term(j);
      parts_[chunk] = sum;
    });
    double sum = 0;
    for (double part : parts_) sum += part;
    return sum;
  }

  const Scaled& s_;
  int64_t m_;
  std::vector<double> y_, r_, p_, q_, t_, parts_;
  double rr_;
};

// ---- the factorisation ----------------------------------------------------------------------------------------------

// Variables that are eliminated together, and the later ones they touch.
struct Front {
  std::vector<int32_t> pivots, rows, children;
};

// An elimination order by approximate minimum degree on the quotient graph (Amestoy, Davis, Duff, SIAM J. Matrix Anal.
// Appl. 17, 1996). Eliminated variables become elements, cliques named after their pivot; `fronts` is the assembly tree.
class Ordering {
 public:
  std::vector<Front> fronts;
  double fill = 0, work = 0;

  Ordering(const Rows& rows, const Rows& cols) : n_(rows.size()), count_(rows.size() + cols.size()) {
    const size_t N = static_cast<size_t>(count_);
    at_.resize(N + 1);
    list_.reserve(rows.column.size() * 2);
    for (int64_t i = 0; i < n_; ++i) {
      at_[i] = static_cast<int64_t>(list_.size());
      for (int64_t e = rows.start[i]; e < rows.start[i + 1]; ++e)
        list_.push_back(static_cast<int32_t>(n_ + rows.column[e]));
    }
    for (int64_t j = 0; j < cols.size(); ++j) {
      at_[n_ + j] = static_cast<int64_t>(list_.size());
      for (int64_t e = cols.start[j]; e < cols.start[j + 1]; ++e) list_.push_back(cols.column[e]);
    }
    at_[N] = static_cast<int64_t>(list_.size());
    weight_.assign(N, 1);
    elements_.assign(N, 0);
    length_.resize(N);
    degree_.resize(N);
    head_.assign(N + 1, -1);
    next_.resize(N);
    previous_.resize(N);
    member_.assign(N, -1);
    last_member_.resize(N);
    flag_.assign(N, 0);
    seen_.assign(N, 0);
    outside_.resize(N);
    alive_.assign(N, 0);
    pattern_.resize(N);
    size_.resize(N);
    front_.resize(N);
    for (int32_t i = 0; i < count_; ++i) {
      length_[i] = degree_[i] = static_cast<int32_t>(at_[i + 1] - at_[i]);
      last_member_[i] = i;
      insert(i);
    }
  }

  // False: too much fill.
  bool run(Poll& poll) {
    int64_t done = 0;
    while (done < count_) {
      poll();
      while (head_[lowest_] < 0) ++lowest_;
      const int32_t p = head_[lowest_];
      remove(p);
      Front front;
      gather(p, front);
      int32_t pivots = weight_[p];
      weight_[p] = 0;
      measure();
      groups_.clear();
      for (int32_t i : touched_) pivots += update(i, p, front);
      merge_equal();
      done += pivots;
      finish(p, pivots, done, front);
      if (fill > most_fill || work > most_work) return false;
    }
    return true;
  }

 private:
  void insert(int32_t i) {
    const int32_t d = degree_[i], h = head_[d];
    next_[i] = h;
    previous_[i] = -1;
    if (h >= 0) previous_[h] = i;
    head_[d] = i;
    lowest_ = std::min(lowest_, d);
  }
  void remove(int32_t i) {
    if (previous_[i] >= 0)
      next_[previous_[i]] = next_[i];
    else
      head_[degree_[i]] = next_[i];
    if (next_[i] >= 0) previous_[next_[i]] = previous_[i];
  }
  void join(int32_t into, int32_t i) {
    member_[last_member_[into]] = i;
    last_member_[into] = last_member_[i];
    weight_[i] = 0;
  }
  void absorb(int32_t e, Front& front) {
    alive_[e] = 0;
    std::vector<int32_t>().swap(pattern_[e]);
    front.children.push_back(front_[e]);
  }

  // The variables the pivot touches, out of their degree lists.
  void gather(int32_t p, Front& front) {
    ++tag_;
    touched_.clear();
    flag_[p] = tag_;
    auto touch = [&](int32_t i) {
      if (weight_[i] == 0 || flag_[i] == tag_) return;
      flag_[i] = tag_;
      touched_.push_back(i);
      remove(i);
    };
    const int32_t* list = list_.data() + at_[p];
    for (int32_t k = 0; k < elements_[p]; ++k) {
      for (int32_t i : pattern_[list[k]]) touch(i);
      absorb(list[k], front);
    }
    for (int32_t k = elements_[p]; k < length_[p]; ++k) touch(list[k]);
  }

  // outside_[e]: the weight of element e beyond the touched variables.
  void measure() {
    for (int32_t i : touched_) {
      const int32_t* list = list_.data() + at_[i];
      for (int32_t k = 0; k < elements_[i]; ++k) {
        const int32_t e = list[k];
        if (!alive_[e]) continue;
        if (seen_[e] != tag_) {
          seen_[e] = tag_;
          outside_[e] = size_[e];
        }
        outside_[e] -= weight_[i];
      }
    }
  }

  // The list of a touched variable once p is an element. Returns the weight of i if it can be eliminated with p.
  int32_t update(int32_t i, int32_t p, Front& front) {
    int32_t* list = list_.data() + at_[i];
    kept_.clear();
    uint64_t hash = 0;
    int64_t degree = 0;
    int32_t elements = 0;
    for (int32_t k = elements_[i]; k < length_[i]; ++k) {
      const int32_t u = list[k];
      if (weight_[u] == 0 || flag_[u] == tag_) continue;
      kept_.push_back(u);
      degree += weight_[u];
      hash += mixed(u);
    }
    for (int32_t k = 0; k < elements_[i]; ++k) {
      const int32_t e = list[k];
      if (!alive_[e]) continue;
      if (outside_[e] == 0) {  // all of it is touched: one clique within another
        absorb(e, front);
        continue;
      }
      degree += outside_[e];
      hash += mixed(e);
      list[elements++] = e;
    }
    if (elements == 0 && kept_.empty()) {
      const int32_t weight = weight_[i];
      join(p, i);
      return weight;
    }
    list[elements++] = p;
    std::copy(kept_.begin(), kept_.end(), list + elements);
    elements_[i] = elements;
    length_[i] = elements + static_cast<int32_t>(kept_.size());
    degree_[i] = static_cast<int32_t>(std::min<int64_t>(degree_[i], degree));
    groups_.emplace_back(hash, i);
    return 0;
  }

  static uint64_t mixed(int32_t i) {
    uint64_t h = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull;
    return h ^ (h >> 29);
  }

  // Variables with the same neighbours stay so for good: one of them stands for all.
  void merge_equal() {
    std::sort(groups_.begin(), groups_.end());
    for (size_t first = 0; first < groups_.size();) {
      size_t last = first + 1;
      while (last < groups_.size() && groups_[last].first == groups_[first].first) ++last;
      for (size_t g = first; g + 1 < last; ++g) {
        const int32_t i = groups_[g].second;
        if (weight_[i] == 0) continue;
        ++tag_;
        for (int32_t k = 0; k < length_[i]; ++k) seen_[list_[at_[i] + k]] = tag_;
        for (size_t h = g + 1; h < last; ++h) {
          const int32_t j = groups_[h].second;
          if (weight_[j] == 0 || length_[j] != length_[i] || elements_[j] != elements_[i]) continue;
          bool same = true;
          for (int32_t k = 0; same && k < length_[j]; ++k) same = seen_[list_[at_[j] + k]] == tag_;
          if (!same) continue;
          const int32_t weight = weight_[j];
          join(i, j);
          weight_[i] += weight;
          degree_[i] = std::max(0, degree_[i]);
        }
      }
      first = last;
    }
  }

  void finish(int32_t p, int32_t pivots, int64_t done, Front& front) {
    int32_t size = 0;
    std::vector<int32_t>& pattern = pattern_[p];
    for (int32_t i : touched_)
      if (weight_[i] > 0) {
        pattern.push_back(i);
        size += weight_[i];
      }
    for (int32_t i : pattern) {
      const int64_t bound = std::min<int64_t>(static_cast<int64_t>(degree_[i]) + size, count_ - done) - weight_[i];
      degree_[i] = static_cast<int32_t>(std::max<int64_t>(0, bound));
      insert(i);
    }
    alive_[p] = 1;
    size_[p] = size;
    front_[p] = static_cast<int32_t>(fronts.size());
    const double k = pivots, d = size, f = k + d;
    fill += k * (k + 1) / 2 + k * d;
    work += (f * (f + 1) * (2 * f + 1) - d * (d + 1) * (2 * d + 1)) / 12;
    for (int32_t q = p; q >= 0; q = member_[q]) front.pivots.push_back(q);
    front.rows.reserve(static_cast<size_t>(size));
    for (int32_t i : pattern)
      for (int32_t q = i; q >= 0; q = member_[q]) front.rows.push_back(q);
    fronts.push_back(std::move(front));
  }

  int64_t n_, count_;
  int32_t lowest_ = 0;
  int64_t tag_ = 0;
  // Of a variable: its list, elements first. It never grows: an element takes the place of what it absorbed.
  std::vector<int64_t> at_;
  std::vector<int32_t> list_, elements_, length_;
  std::vector<int32_t> weight_;  // how many a variable stands for; 0: eliminated, or stood for
  std::vector<int32_t> degree_, head_, next_, previous_, member_, last_member_;
  std::vector<int64_t> flag_, seen_;
  std::vector<int32_t> outside_, size_, front_;
  std::vector<char> alive_;  // elements
  std::vector<std::vector<int32_t>> pattern_;
  std::vector<int32_t> touched_, kept_;
  std::vector<std::pair<uint64_t, int32_t>> groups_;
};

// c -= sum_q w_q l_q for rows first .. last of columns l of length f.
void subtract(double* __restrict c, const double* __restrict l, int64_t f, int64_t first, int64_t last, const double* w,
              int64_t count) {
  int64_t q = 0;
  for (; q + 4 <= count; q += 4, l += 4 * f) {
    const double w0 = w[q], w1 = w[q + 1], w2 = w[q + 2], w3 = w[q + 3];
    const double *l0 = l, *l1 = l + f, *l2 = l + 2 * f, *l3 = l + 3 * f;
    for (int64_t i = first; i < last; ++i) c[i] -= (l0[i] * w0 + l1[i] * w1) + (l2[i] * w2 + l3[i] * w3);
  }
  for (; q < count; ++q, l += f)
    for (int64_t i = first; i < last; ++i) c[i] -= l[i] * w[q];
}

// The same for two columns at once, which halves what is read.
void subtract_two(double* __restrict c, double* __restrict d, const double* __restrict l, int64_t f, int64_t first,
                  int64_t last, const double* w, const double* v, int64_t count) {
  int64_t q = 0;
  for (; q + 4 <= count; q += 4, l += 4 * f) {
    const double w0 = w[q], w1 = w[q + 1], w2 = w[q + 2], w3 = w[q + 3];
    const double v0 = v[q], v1 = v[q + 1], v2 = v[q + 2], v3 = v[q + 3];
    const double *l0 = l, *l1 = l + f, *l2 = l + 2 * f, *l3 = l + 3 * f;
    for (int64_t i = first; i < last; ++i) {
      const double a0 = l0[i], a1 = l1[i], a2 = l2[i], a3 = l3[i];
      c[i] -= (a0 * w0 + a1 * w1) + (a2 * w2 + a3 * w3);
      d[i] -= (a0 * v0 + a1 * v1) + (a2 * v2 + a3 * v3);
    }
  }
  for (; q < count; ++q, l += f)
    for (int64_t i = first; i < last; ++i) {
      c[i] -= l[i] * w[q];
      d[i] -= l[i] * v[q];
    }
}

// L D L^T of [[delta, S], [S^T, delta]], front by front (Duff, Reid, ACM TOMS 9, 1983): all arithmetic is on small dense
// matrices.
class Factor {
 public:
  // False: too much fill, and nothing was allocated for it.
  bool make(const Scaled& s, Poll& poll) {
    n_ = s.rows.size();
    count_ = n_ + s.cols.size();
    Ordering ordering(s.rows, s.cols);
    if (!ordering.run(poll)) return false;
    fronts_ = std::move(ordering.fronts);
    arrange();
    numbers(s, poll);
    return true;
  }

  // x (n + m,), in place.
  void solve(double* x) const {
    std::vector<double> y;
    for (const Front& front : fronts_) {
      const int64_t k = static_cast<int64_t>(front.pivots.size()), f = k + static_cast<int64_t>(front.rows.size());
      const double* l = lower_.data() + begin_[&front - fronts_.data()];
      y.assign(static_cast<size_t>(f), 0.0);
      for (int64_t j = 0; j < k; ++j) y[j] = x[front.pivots[j]];
      for (int64_t j = 0; j < k; ++j, l += f)
        for (int64_t i = j + 1; i < f; ++i) y[i] -= l[i] * y[j];
      for (int64_t j = 0; j < k; ++j) x[front.pivots[j]] = y[j];
      for (int64_t i = k; i < f; ++i) x[front.rows[i - k]] += y[i];
    }
    for (size_t o = fronts_.size(); o-- > 0;) {
      const Front& front = fronts_[o];
      const int64_t k = static_cast<int64_t>(front.pivots.size()), f = k + static_cast<int64_t>(front.rows.size());
      const double *l = lower_.data() + begin_[o] + (k - 1) * f, *inverse = inverse_.data() + pivot_begin_[o];
      y.resize(static_cast<size_t>(f));
      for (int64_t j = 0; j < k; ++j) y[j] = x[front.pivots[j]] * inverse[j];
      for (int64_t i = k; i < f; ++i) y[i] = x[front.rows[i - k]];
      for (int64_t j = k - 1; j >= 0; --j, l -= f) {
        double sum = 0;
        for (int64_t i = j + 1; i < f; ++i) sum += l[i] * y[i];
        y[j] = inverse[j] == 0 ? 0.0 : y[j] - sum;
        x[front.pivots[j]] = y[j];
      }
    }
  }

 private:
  // Children right before their parents, so that few of their matrices wait at a time.
  void arrange() {
    const size_t F = fronts_.size();
    std::vector<char> is_child(F, 0);
    for (const Front& f : fronts_)
      for (int32_t c : f.children) is_child[c] = 1;
    std::vector<int32_t> order, place(F);
    std::vector<std::pair<int32_t, size_t>> stack;
    for (size_t root = 0; root < F; ++root) {
      if (is_child[root]) continue;
      stack.emplace_back(static_cast<int32_t>(root), 0);
      while (!stack.empty()) {
        auto& [front, child] = stack.back();
        if (child < fronts_[front].children.size()) {
          const int32_t next = fronts_[front].children[child++];
          stack.emplace_back(next, 0);
        } else {
          place[front] = static_cast<int32_t>(order.size());
          order.push_back(front);
          stack.pop_back();
        }
      }
    }
    std::vector<Front> arranged(F);
    for (size_t o = 0; o < F; ++o) {
      arranged[o] = std::move(fronts_[order[o]]);
      for (int32_t& c : arranged[o].children) c = place[c];
    }
    fronts_ = std::move(arranged);
    rank_.resize(static_cast<size_t>(count_));
    int32_t rank = 0;
    int64_t entries = 0;
    for (Front& f : fronts_) {
      begin_.push_back(entries);
      pivot_begin_.push_back(rank);
      entries += static_cast<int64_t>(f.pivots.size() * (f.pivots.size() + f.rows.size()));
      for (int32_t v : f.pivots) rank_[v] = rank++;
    }
    for (Front& f : fronts_)
      std::sort(f.rows.begin(), f.rows.end(), [&](int32_t u, int32_t v) { return rank_[u] < rank_[v]; });
    lower_.resize(static_cast<size_t>(entries));
    inverse_.resize(static_cast<size_t>(count_));
  }

  void numbers(const Scaled& s, Poll& poll) {
    std::vector<std::vector<double>> rest(fronts_.size());  // what a front leaves to its parent
    std::vector<int32_t> place(static_cast<size_t>(count_)), map;
    std::vector<double> a;
    for (size_t o = 0; o < fronts_.size(); ++o) {
      poll();
      const Front& front = fronts_[o];
      const int64_t k = static_cast<int64_t>(front.pivots.size()), d = static_cast<int64_t>(front.rows.size()),
                    f = k + d;
      a.assign(static_cast<size_t>(f * f), 0.0);
      for (int64_t j = 0; j < k; ++j) place[front.pivots[j]] = static_cast<int32_t>(j);
      for (int64_t i = 0; i < d; ++i) place[front.rows[i]] = static_cast<int32_t>(k + i);
      for (int64_t j = 0; j < k; ++j) {
        const int32_t v = front.pivots[j];
        double* column = a.data() + j * f;
        column[j] = delta;
        const bool is_row = v < n_;
        const Rows& rows = is_row ? s.rows : s.cols;
        const int64_t i = is_row ? v : v - n_;
        for (int64_t e = rows.start[i]; e < rows.start[i + 1]; ++e) {
          const int64_t u = is_row ? n_ + rows.column[e] : rows.column[e];
          if (rank_[u] > rank_[v]) column[place[u]] += rows.value[e];
        }
      }
      for (int32_t c : front.children) {
        const std::vector<int32_t>& rows = fronts_[c].rows;
        const int64_t size = static_cast<int64_t>(rows.size());
        map.resize(rows.size());
        for (int64_t i = 0; i < size; ++i) map[i] = place[rows[i]];
        const double* b = rest[c].data();
        for (int64_t j = 0; j < size; ++j, b += size) {
          double* column = a.data() + map[j] * f;
          for (int64_t i = j; i < size; ++i) column[map[i]] += b[i];
        }
        std::vector<double>().swap(rest[c]);
      }
      eliminate(a.data(), f, k, inverse_.data() + pivot_begin_[o], poll);
      std::copy_n(a.data(), k * f, lower_.data() + begin_[o]);
      if (d == 0) continue;
      rest[o].resize(static_cast<size_t>(d * d));
      for (int64_t j = 0; j < d; ++j)
        std::copy(a.data() + (k + j) * f + k + j, a.data() + (k + j + 1) * f, rest[o].data() + j * d + j);
    }
  }

  // The first k columns of the lower half of `a` (f, f), by columns, become those of L; what follows, the Schur complement.
  static void eliminate(double* a, int64_t f, int64_t k, double* inverse, Poll& poll) {
    constexpr int64_t block = 32;
    double w[block], pivot[block];
    for (int64_t b = 0; b < k; b += block) {
      poll();
      const int64_t e = std::min(k, b + block), count = e - b;
      const double* l = a + b * f;
      for (int64_t j = b; j < e; ++j) {
        double* column = a + j * f;
        for (int64_t q = b; q < j; ++q) w[q - b] = a[q * f + j] * pivot[q - b];
        subtract(column, l, f, j, f, w, j - b);
        // A pivot lost to rounding ends a component that is singular: its last variable is held at 0.
        const bool good = column[j] > no_pivot;
        pivot[j - b] = good ? column[j] : 0.0;
        inverse[j] = good ? 1.0 / column[j] : 0.0;
        column[j] = 1.0;
        for (int64_t i = j + 1; i < f; ++i) column[i] *= inverse[j];
      }
      auto columns = [&](int64_t first, int64_t last) {
        double u[block], v[block];
        for (int64_t c = e + 2 * first; c < std::min(f, e + 2 * last); c += 2) {
          double* column = a + c * f;
          for (int64_t q = 0; q < count; ++q) u[q] = l[q * f + c] * pivot[q];
          if (c + 1 == f) {
            subtract(column, l, f, c, f, u, count);
            continue;
          }
          for (int64_t q = 0; q < count; ++q) v[q] = l[q * f + c + 1] * pivot[q];
          subtract_two(column, column + f, l, f, c, f, u, v, count);
        }
      };
      const int64_t pairs = (f - e + 1) / 2;
      if ((f - e) * (f - e) * count > 4 * parallel_work * 8)
        parallel_for(pairs, 16, columns);
      else
        columns(0, pairs);
    }
  }

  int64_t n_ = 0, count_ = 0;
  std::vector<Front> fronts_;
  std::vector<int32_t> rank_;
  std::vector<int64_t> begin_, pivot_begin_;
  std::vector<double> lower_, inverse_;
};

// Twice, the second time for the rounding of the first. Returns the residual, or a negative number: too much fill.
double factorised(const Scaled& s, Poll& poll, Answer& answer) {
  Factor factor;
  if (!factor.make(s, poll)) return -1.0;
  const int64_t n = s.rows.size(), m = s.cols.size();
  std::vector<double> x(static_cast<size_t>(n + m)), best;
  answer.rows.assign(static_cast<size_t>(n), 0.0);
  answer.cols.assign(static_cast<size_t>(m), 0.0);
  std::copy(s.row_rhs.begin(), s.row_rhs.end(), x.begin());
  std::copy(s.col_rhs.begin(), s.col_rhs.end(), x.begin() + n);
  double residual = s.size;
  Answer next;
  for (int pass = 0; pass < 2; ++pass) {
    factor.solve(x.data());
    next = answer;
    for (int64_t i = 0; i < n; ++i) next.rows[i] += x[i];
    for (int64_t j = 0; j < m; ++j) next.cols[j] += x[n + j];
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      x[i] = s.row_rhs[i] - delta * next.rows[i] - s.rows.dot(i, next.cols.data());
      sum += x[i] * x[i];
    }
    for (int64_t j = 0; j < m; ++j) {
      x[n + j] = s.col_rhs[j] - delta * next.cols[j] - s.cols.dot(j, next.rows.data());
      sum += x[n + j] * x[n + j];
    }
    if (!(sum < residual * residual) && pass > 0) break;
    residual = std::sqrt(sum);
    std::swap(answer, next);
  }
  return residual;
}

}  // namespace

NewtonOutcome newton_solve(const NewtonSystem& system) {
  Poll poll(system.poll);
  Scaled s(system);
  const double tol = system.tol * s.size;
  NewtonOutcome outcome{0, 0.0, NewtonEnd::conjugate_gradients};
  Answer answer;
  const bool may_factorise = system.method == NewtonMethod::automatic &&
                             static_cast<double>(s.rows.value.size()) < sparse_enough * (system.n + system.m);
  double residual = -1.0;
  if (system.method == NewtonMethod::direct) {
    residual = factorised(s, poll, answer);
    outcome.end = residual < 0 ? NewtonEnd::too_much_fill : NewtonEnd::direct;
    if (residual < 0) {
      answer = {std::vector<double>(s.row_rhs.size()), std::vector<double>(s.col_rhs.size())};
      residual = s.size;
    }
  } else {
    ConjugateGradients cg(s);
    bool unfinished = cg.run(may_factorise ? std::min(patience, system.max_iter) : system.max_iter, tol, poll);
    if (unfinished && may_factorise) residual = factorised(s, poll, answer);
    if (residual >= 0) {
      outcome.end = NewtonEnd::direct;
    } else {
      if (unfinished && may_factorise) {
        outcome.end = NewtonEnd::too_much_fill;
        cg.run(system.max_iter, tol, poll);
      }
      answer = cg.answer();
      residual = cg.residual();
    }
    outcome.iterations = cg.iterations;
  }
  outcome.residual = s.size > 0 ? residual / s.size : 0.0;
  const bool flipped = system.m > system.n;
  double *rows = flipped ? system.out_cols : system.out_rows, *cols = flipped ? system.out_rows : system.out_cols;
  for (size_t i = 0; i < answer.rows.size(); ++i) rows[i] = answer.rows[i] * s.row_scale[i];
  for (size_t j = 0; j < answer.cols.size(); ++j) cols[j] = answer.cols[j] * s.col_scale[j];
  return outcome;
}

}  // namespace mk
