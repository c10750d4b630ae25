// CPU executor of the selection family: candidates and columns are cut into chunks; what is sequential polls for Ctrl-C.
#include "mckean/selection.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "pool.hpp"
#include "selection_isa.hpp"

namespace mk {
namespace cpu {
namespace {

constexpr int64_t chunk_work = int64_t{1} << 18;

template <class T>
const SelectionLoops<T>& loops();
template <>
const SelectionLoops<float>& loops<float>() {
  return selection_table().f32;
}
template <>
const SelectionLoops<double>& loops<double>() {
  return selection_table().f64;
}

// Runs `body` once, where poll_inside_chunk works.
template <class Body>
void alone(Body body) {
  parallel_for(1, 1, [&](int64_t, int64_t) { body(); });
}

// The rows and columns of a matrix that belong to one half.
template <class T>
void sub_gram(const T* gram, int64_t n, const std::vector<int64_t>& members, T* out) {
  // On and above the diagonal, which is what the walk reads.
  const size_t count = members.size();
  const int64_t* at = members.data();
  for (size_t i = 0; i < count; ++i) {
    const T* row = gram + at[i] * n;
    for (size_t j = i; j < count; ++j) out[i * count + j] = row[at[j]];
  }
}

template <class T>
struct HalvingTree {
  int levels;
  const double* uniforms;
  int64_t stride;
  const double* log_terms;
  bool indefinite = false;

  // position: of this part in the level's run of points, hence of its uniforms.
  void split(int level, int64_t position, int64_t n, const T* gram, const int64_t* points, int64_t* order) {
    if (level == levels) {
      std::copy(points, points + n, order);
      return;
    }
    std::vector<double> sums(static_cast<size_t>(n));
    std::vector<uint8_t> right(static_cast<size_t>(n / 2));
    HalveArgs<T> args{n,   gram,         sums.data(), uniforms + level * stride + position / 2, log_terms[level],
                      0.0, right.data(), false};
    loops<T>().halve(args);
    indefinite = indefinite || args.indefinite;
    poll_inside_chunk();
    const bool deeper = level + 1 < levels;
    std::vector<int64_t> members(static_cast<size_t>(n / 2)), ids(members.size());
    std::vector<T> part(deeper ? members.size() * members.size() : 0);
    for (int side = 0; side < 2; ++side) {
      for (int64_t p = 0; p < n / 2; ++p) {
        members[static_cast<size_t>(p)] = 2 * p + (right[static_cast<size_t>(p)] != side ? 1 : 0);
        ids[static_cast<size_t>(p)] = points[members[static_cast<size_t>(p)]];
      }
      if (deeper) sub_gram(gram, n, members, part.data());
      split(level + 1, position + side * (n / 2), n / 2, part.data(), ids.data(), order + side * (n / 2));
    }
  }
};

}  // namespace

template <class T>
void halve(HalveArgs<T>& args) {
  alone([&] { loops<T>().halve(args); });
}

template <class T>
bool halve_tree(int64_t n, const T* gram, int levels, const double* uniforms, int64_t stride, const double* log_terms,
                int64_t* order) {
  HalvingTree<T> tree{levels, uniforms, stride, log_terms};
  std::vector<int64_t> points(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) points[static_cast<size_t>(i)] = i;
  alone([&] { tree.split(0, 0, n, gram, points.data(), order); });
  return tree.indefinite;
}

template <class T>
int64_t best_replacement(int64_t n, const double* core, const T* old_row, const double* offset, const uint8_t* barred,
                         double scale) {
  constexpr int64_t grain = 1 << 14;
  struct Best {
    double cost = std::numeric_limits<double>::infinity();
    int64_t index = -1;
  };
  std::vector<Best> chunks(static_cast<size_t>((n + grain - 1) / grain));
  parallel_for(n, grain, [&](int64_t a, int64_t b) {
    Best best;
    for (int64_t i = a; i < b; ++i) {
      double cost = scale * (core[i] - static_cast<double>(old_row[i])) + offset[i];
      if (cost < best.cost && !(barred && barred[i])) best = {cost, i};
    }
    chunks[static_cast<size_t>(a / grain)] = best;
  });
  Best best;
  for (const Best& chunk : chunks)
    if (chunk.cost < best.cost) best = chunk;
  return best.index;
}

template <class T>
void distances(const DistanceArgs<T>& args) {
  const auto& l = loops<T>();
  // Whole tiles of columns, so that cuts do not make ragged ones.
  int64_t tiles = (args.cols + l.column_tile - 1) / l.column_tile;
  int64_t work = std::max<int64_t>(1, args.rows * (args.dim + 4) * l.column_tile);
  parallel_for(tiles, std::max<int64_t>(1, chunk_work / work), [&](int64_t a, int64_t b) {
    l.distances(args, a * l.column_tile, std::min(args.cols, b * l.column_tile));
  });
}

template <class T>
void pam_offer(const PamState<T>& s, const T* row, int32_t slot, int64_t point) {
  const T infinity = std::numeric_limits<T>::infinity();
  for (int64_t o = 0; o < s.n; ++o) {
    if (slot == 0) {
      s.near[o] = s.far[o] = infinity;
      s.nearest[o] = s.second[o] = 0;
    }
    T d = o == point ? T(0) : row[o];
    // A medoid is its own nearest, also where another one has the same coordinates.
    if (d < s.near[o] || o == point) {
      s.far[o] = s.near[o];
      s.second[o] = s.nearest[o];
      s.near[o] = d;
      s.nearest[o] = slot;
    } else if (d < s.far[o]) {
      s.far[o] = d;
      s.second[o] = slot;
    }
  }
}

template <class T>
PamTotals pam_totals(const PamState<T>& s, double* removal) {
  std::fill(removal, removal + s.k, 0.0);
  for (int64_t o = 0; o < s.n; ++o)
    removal[s.nearest[o]] += static_cast<double>(s.far[o]) - static_cast<double>(s.near[o]);
  return {loops<T>().gain(s.n, s.near, nullptr), loops<T>().gain(s.n, s.far, nullptr)};
}

namespace {

template <class T>
void change_of(const PamState<T>& s, const double* removal, const uint8_t* is_medoid, int64_t point, const T* row,
               double* loss, double* change, int32_t* slot) {
  *change = std::numeric_limits<double>::infinity();
  *slot = -1;
  if (is_medoid[point]) return;
  std::copy(removal, removal + s.k, loss);
  double common = loops<T>().changes(s, row, loss);
  const double* least = std::min_element(loss, loss + s.k);
  *slot = static_cast<int32_t>(least - loss);
  *change = *least + common;
}

}  // namespace

template <class T>
void pam_changes(const PamState<T>& s, const double* removal, const uint8_t* is_medoid, int64_t first, int64_t count,
                 const T* rows, double* change, int32_t* slot) {
  parallel_for(count, std::max<int64_t>(1, chunk_work / (s.n + s.k)), [&](int64_t a, int64_t b) {
    std::vector<double> loss(static_cast<size_t>(s.k));
    for (int64_t i = a; i < b; ++i)
      change_of(s, removal, is_medoid, first + i, rows + i * s.n, loss.data(), change + i, slot + i);
  });
}

template <class T>
int64_t pam_first(const PamState<T>& s, const double* removal, const uint8_t* is_medoid, int64_t first, int64_t count,
                  const T* rows, double bound, double* change, int32_t* slot) {
  // Evaluating beyond the first improvement changes nothing but the time it takes. Improvements come close together in the
  // beginning of a search, so one thread looks ahead a little, and only then all of them do.
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / (s.n + s.k));
  int64_t found = count;
  alone([&] {
    std::vector<double> loss(static_cast<size_t>(s.k));
    for (int64_t i = 0; i < std::min(grain, count) && found == count; ++i) {
      change_of(s, removal, is_medoid, first + i, rows + i * s.n, loss.data(), change, slot);
      if (*change < bound) found = i;
    }
  });
  const int64_t batch = grain * 2 * num_threads();
  std::vector<double> changes(static_cast<size_t>(std::min(batch, count)));
  std::vector<int32_t> slots(changes.size());
  for (int64_t i = grain; i < count && found == count; i += batch) {
    int64_t some = std::min(batch, count - i);
    parallel_for(some, grain, [&](int64_t a, int64_t b) {
      std::vector<double> loss(static_cast<size_t>(s.k));
      for (int64_t c = a; c < b; ++c) {
        size_t at = static_cast<size_t>(c);
        change_of(s, removal, is_medoid, first + i + c, rows + (i + c) * s.n, loss.data(), &changes[at], &slots[at]);
        // What comes after an improvement in this chunk is not wanted.
        if (changes[at] < bound) return;
      }
    });
    for (int64_t c = 0; c < some; ++c) {
      if (changes[static_cast<size_t>(c)] < bound) {
        *change = changes[static_cast<size_t>(c)];
        *slot = slots[static_cast<size_t>(c)];
        found = i + c;
        break;
      }
    }
  }
  return found;
}

template <class T>
int64_t pam_swap(const PamState<T>& s, const T* row, int32_t slot, int64_t point, int64_t* search) {
  int64_t found = 0;
  for (int64_t o = 0; o < s.n; ++o) {
    T d = row[o];
    if (o == point) {
      if (s.nearest[o] != slot) {
        s.second[o] = s.nearest[o];
        s.far[o] = s.near[o];
      }
      s.nearest[o] = slot;
      s.near[o] = T(0);
    } else if (s.nearest[o] == slot) {
      if (d < s.far[o]) {
        s.near[o] = d;
      } else {
        s.nearest[o] = s.second[o];
        s.near[o] = s.far[o];
        search[found++] = o;
      }
    } else if (d < s.near[o]) {
      s.second[o] = s.nearest[o];
      s.far[o] = s.near[o];
      s.nearest[o] = slot;
      s.near[o] = d;
    } else if (d < s.far[o]) {
      s.second[o] = slot;
      s.far[o] = d;
    } else if (s.second[o] == slot) {
      search[found++] = o;
    }
  }
  return found;
}

template <class T>
void pam_search(const PamState<T>& s, const int64_t* search, int64_t count, const T* to_medoids) {
  for (int64_t i = 0; i < count; ++i) {
    int64_t o = search[i];
    const T* d = to_medoids + i * s.k;
    T far = std::numeric_limits<T>::infinity();
    int32_t second = 0;
    for (int64_t b = 0; b < s.k; ++b) {
      if (b != s.nearest[o] && d[b] < far) {
        far = d[b];
        second = static_cast<int32_t>(b);
      }
    }
    s.far[o] = far;
    s.second[o] = second;
  }
}

template <class T>
void pam_gains(int64_t n, int64_t count, const T* rows, const T* near, double* gain) {
  parallel_for(count, std::max<int64_t>(1, chunk_work / (n + 1)), [&](int64_t a, int64_t b) {
    for (int64_t i = a; i < b; ++i) gain[i] = loops<T>().gain(n, rows + i * n, near);
  });
}

int64_t bradley_terry(const Comparisons& g, bool zermelo, double prior, double tol, int64_t max_iter, double* p) {
  int64_t sweeps = 0;
  bool settled = false;
  std::vector<double> before(static_cast<size_t>(g.n)), total(zermelo ? static_cast<size_t>(g.n) : 0);
  for (int64_t i = 0; i < g.n; ++i) {
    before[static_cast<size_t>(i)] = p[i] / (p[i] + 1);
    if (!zermelo) continue;
    for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e) total[static_cast<size_t>(i)] += g.wins[e];
  }
  alone([&] {
    while (sweeps < max_iter && !settled) {
      int64_t since_poll = 0;
      for (int64_t i = 0; i < g.n; ++i) {
        // In place and in this order: that is what is proved to converge.
        double up = prior > 0 ? prior / (p[i] + 1) : 0, down = up;
        if (zermelo) {
          up = prior + total[static_cast<size_t>(i)];
          down = 2 * down;
          for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e)
            down += (g.wins[e] + g.losses[e]) / (p[i] + p[g.opponents[e]]);
        } else {
          for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e) {
            double other = p[g.opponents[e]], share = 1 / (p[i] + other);
            up += g.wins[e] * other * share;
            down += g.losses[e] * share;
          }
        }
        if (down > 0) p[i] = up / down;  // else nobody was met
        since_poll += g.start[i + 1] - g.start[i] + 1;
        if (since_poll > chunk_work) {
          poll_inside_chunk();
          since_poll = 0;
        }
      }
      if (prior == 0) {
        double logs = 0;
        for (int64_t i = 0; i < g.n; ++i) logs += std::log(p[i]);
        double scale = std::exp(-logs / static_cast<double>(g.n));
        for (int64_t i = 0; i < g.n; ++i) p[i] *= scale;
      }
      double moved = 0;
      for (int64_t i = 0; i < g.n; ++i) {
        double now = p[i] / (p[i] + 1), step = std::fabs(now - before[static_cast<size_t>(i)]);
        before[static_cast<size_t>(i)] = now;
        if (!(step <= moved)) moved = step;
      }
      ++sweeps;
      settled = moved < tol;
      poll_inside_chunk();
    }
  });
  return settled ? sweeps : -sweeps;
}

int64_t unreached(const Comparisons& g, bool beats) {
  if (g.n == 0) return -1;
  const double* results = beats ? g.wins : g.losses;
  std::vector<uint8_t> seen(static_cast<size_t>(g.n));
  std::vector<int64_t> open{0};
  seen[0] = 1;
  while (!open.empty()) {
    int64_t i = open.back();
    open.pop_back();
    for (int64_t e = g.start[i]; e < g.start[i + 1]; ++e) {
      int64_t j = g.opponents[e];
      if (results[e] > 0 && !seen[static_cast<size_t>(j)]) {
        seen[static_cast<size_t>(j)] = 1;
        open.push_back(j);
      }
    }
  }
  for (int64_t i = 0; i < g.n; ++i)
    if (!seen[static_cast<size_t>(i)]) return i;
  return -1;
}

#define MK_SELECTION(T)                                                                                                \
  template void halve<T>(HalveArgs<T>&);                                                                               \
  template bool halve_tree<T>(int64_t, const T*, int, const double*, int64_t, const double*, int64_t*);                \
  template int64_t best_replacement<T>(int64_t, const double*, const T*, const double*, const uint8_t*, double);       \
  template void distances<T>(const DistanceArgs<T>&);                                                                  \
  template void pam_offer<T>(const PamState<T>&, const T*, int32_t, int64_t);                                          \
  template PamTotals pam_totals<T>(const PamState<T>&, double*);                                                       \
  template void pam_changes<T>(const PamState<T>&, const double*, const uint8_t*, int64_t, int64_t, const T*, double*, \
                               int32_t*);                                                                              \
  template int64_t pam_first<T>(const PamState<T>&, const double*, const uint8_t*, int64_t, int64_t, const T*, double, \
                                double*, int32_t*);                                                                    \
  template int64_t pam_swap<T>(const PamState<T>&, const T*, int32_t, int64_t, int64_t*);                              \
  template void pam_search<T>(const PamState<T>&, const int64_t*, int64_t, const T*);                                  \
  template void pam_gains<T>(int64_t, int64_t, const T*, const T*, double*);
MK_SELECTION(float)
MK_SELECTION(double)
#undef MK_SELECTION

}  // namespace cpu
}  // namespace mk
