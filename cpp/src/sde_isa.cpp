// Paths of stochastic differential equations from beginning to end, a register of paths at a time, one instruction set. The
// Brownian path is most of the work for small systems (brownian_isa.cpp); nothing but the saved states leaves the cache.
#include "sde_isa.hpp"

#include "tree_lanes.hpp"

namespace mk {
namespace MK_ISA {
namespace {

constexpr int64_t cell_bytes = int64_t{64} << 20;  // of remembered tree cells, at most
constexpr int64_t tick_elements = 4096;            // noise components between two looks at Ctrl-C, of large states

// Steps between two looks at Ctrl-C: about a millisecond.
template <class T>
int steps_per_tick(const SdeArgs<T>& a) {
  int64_t gradient = a.target.kind == TargetKind::logistic ? a.target.rows * a.dim
                     : a.target.kind == TargetKind::full   ? a.dim * a.dim
                                                           : 0;
  int64_t steps = 20000 / (1 + a.noises * 4 + gradient / 8);
  return static_cast<int>(steps < 1 ? 1 : steps > 64 ? 64 : steps);
}

// The user's compiled functions, one lane after the other; only lanes that are under way are asked.
struct CallbackSystem {
  using V = VecD;
  static constexpr bool constant_diffusion = false, kinetic = false, square_root = false;
  const SdeArgs<double>& a;
  VecD* scratch;
  double* row;  // (dim + dim * noises)
  const bool* active;

  int64_t dim() const { return a.dim; }
  int64_t diffusion_size() const { return a.layout == NoiseLayout::matrix ? a.dim * a.noises : a.dim; }
  void call(SdeCallbacks::Function f, void* data, VecD t, const VecD* y, VecD* out, int64_t size) const {
    double* result = row + a.dim;
    for (int l = 0; l < Ops<VecD>::N; ++l) {
      if (!active[l]) {
        for (int64_t j = 0; j < size; ++j) out[j][l] = 0.0;
        continue;
      }
      for (int64_t j = 0; j < a.dim; ++j) row[j] = y[j][l];
      f(t[l], row, result, data);
      for (int64_t j = 0; j < size; ++j) out[j][l] = result[j];
    }
  }
  void drift(VecD t, const VecD* y, VecD* out) const {
    call(a.callbacks.drift, a.callbacks.drift_data, t, y, out, a.dim);
  }
  void diffusion(VecD t, const VecD* y, VecD* out) const {
    call(a.callbacks.diffusion, a.callbacks.diffusion_data, t, y, out, diffusion_size());
  }
  void slope(const VecD*, VecD*) const {}
  void add_noise(VecD* out, const VecD* G, VecD p, VecD q, bool areas, const SdeNoise<VecD*>& n) const {
    const bool matrix = a.layout == NoiseLayout::matrix, scalar = a.layout == NoiseLayout::scalar;
    for (int64_t j = 0; j < a.dim; ++j) {
      VecD sum{};
      const int64_t m = matrix ? a.noises : 1;
      for (int64_t l = 0; l < m; ++l) {
        const int64_t at = matrix ? l : scalar ? 0 : j;
        VecD part = p * n.W[at];
        if (areas) part = part + q * n.H[at];
        sum = sum + G[matrix ? j * m + l : j] * part;
      }
      out[j] = out[j] + sum;
    }
  }
};

// Memory handed out piece by piece.
struct Arena {
  char* at;
  int64_t used;
  template <class X>
  X* take(int64_t n) {
    int64_t bytes = (n * static_cast<int64_t>(sizeof(X)) + 63) / 64 * 64;
    X* p = reinterpret_cast<X*>(at ? at + used : nullptr);
    used += bytes;
    return p;
  }
};

template <class T>
int64_t diffusion_size(const SdeArgs<T>& a) {
  return a.layout == NoiseLayout::matrix ? a.dim * a.noises : a.dim;
}

template <class T>
int cells_of(const SdeArgs<T>& a) {
  return a.tree.components == 3 ? 3 : 2;
}
// Levels of the tree whose cells are remembered; the deepest ones.
template <class T>
int kept_levels(const SdeArgs<T>& a) {
  int64_t level = a.noises * cells_of(a) * static_cast<int64_t>(sizeof(VecOf<T>));
  int64_t levels = level > 0 ? cell_bytes / level : 0;
  return static_cast<int>(levels < a.tree.depth ? levels : a.tree.depth);
}

template <class T>
struct Memory {
  using V = VecOf<T>;
  V *y, *y1, *coarse, *error, *space, *scratch, *cells;
  V* noise[3][3];  // the step or its first half, its second half, the whole; W, H, K each
  double *row, *ends;
  void* sweeps;

  template <int M>
  static int64_t sweep_bytes(const SdeArgs<T>& a) {
    return a.noises * static_cast<int64_t>(sizeof(Sweep<V, M>));
  }
  Memory(const SdeArgs<T>& a, Arena& arena) {
    const int64_t state = sde_state_size(a, diffusion_size(a));
    y = arena.template take<V>(state);
    y1 = arena.template take<V>(state);
    coarse = arena.template take<V>(state);
    error = arena.template take<V>(a.dim);
    space = arena.template take<V>(sde_space_size(a.dim, diffusion_size(a), sde_stage_count(a)));
    scratch = arena.template take<V>(a.dim);
    for (int part = 0; part < (a.doubling ? 3 : 1); ++part)
      for (int c = 0; c < 3; ++c) noise[part][c] = arena.template take<V>(a.noises);
    const bool adaptive = a.control.kind != SdeControl::constant;
    cells = adaptive ? arena.template take<V>(a.noises * cells_of(a) * (kept_levels(a) + 1)) : nullptr;
    row = a.system == SdeSystem::callbacks ? arena.template take<double>(a.dim + diffusion_size(a)) : nullptr;
    ends = a.control.revisit ? arena.template take<double>(Ops<V>::N * sde_most_ends) : nullptr;
    sweeps = adaptive ? nullptr
                      : arena.template take<char>(a.tree.components == 1   ? sweep_bytes<1>(a)
                                                  : a.tree.components == 2 ? sweep_bytes<2>(a)
                                                                           : sweep_bytes<3>(a));
  }
};

template <class T>
int64_t scratch_bytes(const SdeArgs<T>& a) {
  Arena arena{nullptr, 0};
  Memory<T> memory(a, arena);
  return arena.used;
}

// Cells of one noise component.
template <class T, int M>
struct ElementCursor {
  VecOf<T>* cells;  // of this element: (levels, per cell)
  int start, first_level;
  static constexpr int per = M == 3 ? 3 : 2;
  MK_HD bool load(int& level, Cell<VecOf<T>>& c) {
    if (start < 0) return false;
    level = start;
    const VecOf<T>* p = cells + (start - first_level) * per;
    c.W = p[0];
    c.H = p[1];
    c.K = M == 3 ? p[2] : p[0];
    return true;
  }
  MK_HD void store(int level, const Cell<VecOf<T>>& c) {
    if (level < first_level) return;
    VecOf<T>* p = cells + (level - first_level) * per;
    p[0] = c.W;
    p[1] = c.H;
    if (M == 3) p[2] = c.K;
  }
};

// What the lanes of a register know of their trees.
template <class T>
struct LaneTrees {
  using V = VecOf<T>;
  static constexpr int N = Ops<V>::N;
  uint64_t lane[N];  // of the first noise component
  uint64_t leaf[N];
  int depth[N];
  int first_level, levels;
};

template <class T, int M>
__attribute__((noinline)) void query_noise_of(const SdeArgs<T>& a, const double* s, const double* t,
                                              LaneTrees<T>& known, VecOf<T>* cells, VecOf<T>* const* out, T scale,
                                              void (*tick)()) {
  using V = VecOf<T>;
  constexpr int N = Ops<V>::N;
  const int depth = a.tree.depth;
  QueryPlan plan[N];
  for (int l = 0; l < N; ++l)
    plan[l] =
        plan_query(leaf_units(s[l], a.tree.t0, a.tree.t1, depth), leaf_units(t[l], a.tree.t0, a.tree.t1, depth), depth);
  LanePlans<T> plans;
  plans.digest(plan, N, depth);
  int start = depth;
  for (int l = 0; l < N; ++l) {
    int shared = plans.shared_levels(plan[l], l, depth, known.leaf[l], known.depth[l]);
    if (shared < start) start = shared;
  }
  if (start < known.first_level) start = -1;
  V factor = Ops<V>::constant(scale);
  for (int64_t e = 0; e < a.noises; ++e) {
    if (e % tick_elements == tick_elements - 1) tick();
    LaneWords<V> words;
    for (int l = 0; l < N; ++l) {
      uint64_t lane = known.lane[l] + static_cast<uint64_t>(e);
      words.lo[l] = static_cast<uint32_t>(lane);
      words.hi[l] = static_cast<uint32_t>(lane >> 32);
    }
    ElementCursor<T, M> cursor{cells + e * (known.levels + 1) * ElementCursor<T, M>::per, start, known.first_level};
    Piece<V, V> p = query_plans<T, M>(a.tree.seed, depth, words, plans, cursor);
    if (plans.any_inside) {
      for (int l = 0; l < N; ++l) {
        if (plan[l].kind != QueryPlan::inside) continue;
        NoCursor none;
        uint64_t lane = known.lane[l] + static_cast<uint64_t>(e);
        Piece<T, T> one = tree_query<T, M>(a.tree.seed, depth, static_cast<uint32_t>(lane),
                                           static_cast<uint32_t>(lane >> 32), plan[l], none);
        p.W[l] = one.W;
        p.H[l] = one.H;
        p.K[l] = one.K;
      }
    }
    out[0][e] = p.W * factor;
    if (M >= 2) out[1][e] = p.H * factor;
    if (M == 3) out[2][e] = p.K * factor;
  }
  for (int l = 0; l < N; ++l) {
    known.leaf[l] = plan[l].kind == QueryPlan::empty ? 0 : plan[l].leaf_t;
    if (known.leaf[l] >> depth) known.leaf[l] = (uint64_t{1} << depth) - 1;
    known.depth[l] = plans.end;
  }
}

template <class T>
void query_noise(const SdeArgs<T>& a, const double* s, const double* t, LaneTrees<T>& known, VecOf<T>* cells,
                 VecOf<T>* const* out, T scale, void (*tick)()) {
  (a.tree.components == 1   ? query_noise_of<T, 1>
   : a.tree.components == 2 ? query_noise_of<T, 2>
                            : query_noise_of<T, 3>)(a, s, t, known, cells, out, scale, tick);
}

template <class T, int M>
__attribute__((noinline)) void whole_of_halves_of(const SdeArgs<T>& a, VecOf<T> h1, VecOf<T> h2,
                                                  VecOf<T>* const (*noise)[3]) {
  using V = VecOf<T>;
  for (int64_t e = 0; e < a.noises; ++e) {
    V zero{};
    Piece<V, V> p{h1, noise[0][0][e], M >= 2 ? noise[0][1][e] : zero, M == 3 ? noise[0][2][e] : zero};
    Piece<V, V> q{h2, noise[1][0][e], M >= 2 ? noise[1][1][e] : zero, M == 3 ? noise[1][2][e] : zero};
    Piece<V, V> sum = chen<V, V, M>(p, q);
    noise[2][0][e] = sum.W;
    if (M >= 2) noise[2][1][e] = sum.H;
    if (M == 3) noise[2][2][e] = sum.K;
  }
}

template <class T>
void whole_of_halves(const SdeArgs<T>& a, VecOf<T> h1, VecOf<T> h2, VecOf<T>* const (*noise)[3]) {
  (a.tree.components == 1   ? whole_of_halves_of<T, 1>
   : a.tree.components == 2 ? whole_of_halves_of<T, 2>
                            : whole_of_halves_of<T, 3>)(a, h1, h2, noise);
}

// The walks of a register of paths from path `block` on, one for each noise component, at the start of the grid.
template <class T, int M>
__attribute__((noinline)) void begin_sweeps_of(const SdeArgs<T>& a, int64_t block, void* sweeps, void (*tick)()) {
  for (int64_t e = 0; e < a.noises; ++e) {
    if (e % tick_elements == tick_elements - 1) tick();
    Sweep<VecOf<T>, M>& walk = static_cast<Sweep<VecOf<T>, M>*>(sweeps)[e];
    walk.seed = a.tree.seed;
    walk.depth = a.tree.depth;
    for (int l = 0; l < Ops<VecOf<T>>::N; ++l) {
      uint64_t lane = static_cast<uint64_t>(a.tree.first_lane + (block + l) * a.noises + e);
      walk.lane_lo[l] = static_cast<uint32_t>(lane);
      walk.lane_hi[l] = static_cast<uint32_t>(lane >> 32);
    }
    walk.seek(leaf_units(a.times[0], a.tree.t0, a.tree.t1, a.tree.depth));
  }
}
template <class T>
void begin_sweeps(const SdeArgs<T>& a, int64_t block, void* sweeps, void (*tick)()) {
  (a.tree.components == 1   ? begin_sweeps_of<T, 1>
   : a.tree.components == 2 ? begin_sweeps_of<T, 2>
                            : begin_sweeps_of<T, 3>)(a, block, sweeps, tick);
}
template <class T, int M>
__attribute__((noinline)) void advance_sweeps_of(const SdeArgs<T>& a, double time, void* sweeps, VecOf<T>* const* out,
                                                 T scale, void (*tick)()) {
  using V = VecOf<T>;
  const double to = leaf_units(time, a.tree.t0, a.tree.t1, a.tree.depth);
  const V factor = Ops<V>::constant(scale);
  for (int64_t e = 0; e < a.noises; ++e) {
    if (e % tick_elements == tick_elements - 1) tick();
    Piece<V, T> p = static_cast<Sweep<V, M>*>(sweeps)[e].advance(to);
    out[0][e] = p.W * factor;
    if (M >= 2) out[1][e] = p.H * factor;
    if (M == 3) out[2][e] = p.K * factor;
  }
}
template <class T>
void advance_sweeps(const SdeArgs<T>& a, double time, void* sweeps, VecOf<T>* const* out, T scale, void (*tick)()) {
  (a.tree.components == 1   ? advance_sweeps_of<T, 1>
   : a.tree.components == 2 ? advance_sweeps_of<T, 2>
                            : advance_sweeps_of<T, 3>)(a, time, sweeps, out, scale, tick);
}

template <class T>
void write_lane(const SdeArgs<T>& a, int64_t save, int64_t path, const VecOf<T>* y, int l) {
  if (save < 0) return;
  T* out = a.ys + (save * a.paths + path) * a.dim;
  for (int64_t j = 0; j < a.dim; ++j) out[j] = y[j][l];
}
template <class T>
void write_missing(const SdeArgs<T>& a, int64_t from, int64_t path) {
  for (int64_t k = from; k < a.n_times; ++k) {
    if (a.save_at[k] < 0) continue;
    T* out = a.ys + (a.save_at[k] * a.paths + path) * a.dim;
    for (int64_t j = 0; j < a.dim; ++j) out[j] = static_cast<T>(__builtin_nan(""));
  }
}

// Lanes of y that are finite in every coordinate.
template <class V>
MK_HD V finite_measure(int64_t n, const V* y) {
  V sum{};
  for (int64_t j = 0; j < n; ++j) sum = sum + (y[j] - y[j]);
  return sum;  // zero, else NaN
}

template <class System, class T>
System make_system(const SdeArgs<T>& a, Memory<T>& m, const bool* active) {
  if constexpr (__is_same(System, CallbackSystem)) {
    return System{a, m.scratch, m.row, active};
  } else {
    (void)active;
    return System{a, m.scratch};
  }
}

// ---- the same times for all -----------------------------------------------------------------------------------------

template <class V, class Stepper>
__attribute__((noinline)) void take_step(const Stepper& stepper, V t, V h, const KineticLanes<V>& coefficients, V* y,
                                         const SdeNoise<V*>& n, V* y1, V* error, bool wants_error) {
  stepper.step(t, h, coefficients, y, n, y1, error, wants_error);
}

template <class T, class System>
void constant_steps(const SdeArgs<T>& a, int64_t first, int64_t last, char* scratch, void (*tick)()) {
  using V = VecOf<T>;
  using O = Ops<V>;
  constexpr int N = O::N;
  Arena arena{scratch, 0};
  Memory<T> m(a, arena);
  const int64_t g = diffusion_size(a), stages = sde_stage_count(a);
  bool active[N];
  System system = make_system<System, T>(a, m, active);
  SdeStepper<V, V*, System> stepper{a, system, {m.space, m.space + stages * a.dim, m.space + stages * (a.dim + g)}};
  const T scale = static_cast<T>(Ops<double>::sqrt(a.tree.t1 - a.tree.t0));
  SdeNoise<V*> noise{m.noise[0][0], m.noise[0][1], m.noise[0][2]};
  KineticLanes<V> coefficients;
  kinetic_forget(coefficients);
  const int per_step = sde_evaluations(a);
  const int unit_ticks = steps_per_tick(a);
  int since_tick = 0;
  for (int64_t block = first; block < last; block += N) {
    const int n = static_cast<int>(last - block < N ? last - block : N);
    int64_t steps[N];
    for (int l = 0; l < N; ++l) {
      active[l] = l < n;
      steps[l] = 0;
      const T* from = a.y0 + (block + (l < n ? l : n - 1)) * a.dim;
      for (int64_t j = 0; j < a.dim; ++j) m.y[j][l] = from[j];
      if (l < n) a.failed[block + l] = __builtin_nan("");
    }
    begin_sweeps(a, block, m.sweeps, tick);
    for (int l = 0; l < n; ++l) write_lane(a, a.save_at[0], block + l, m.y, l);
    const int64_t at_start = stepper.start(O::constant(static_cast<T>(a.times[0])), m.y);
    V *y = m.y, *y1 = m.y1;
    int left = n;
    for (int64_t k = 0; k + 1 < a.n_times && left > 0; ++k) {
      const double t = a.times[k], h = a.times[k + 1] - t;
      advance_sweeps(a, a.times[k + 1], m.sweeps, m.noise[0], scale, tick);
      if constexpr (System::kinetic) {
        double hs[N];
        for (int l = 0; l < N; ++l) hs[l] = h;
        kinetic_coefficients<V>(a.method, a.friction, a.u, hs, coefficients);
      }
      take_step<V>(stepper, O::constant(static_cast<T>(t)), O::constant(static_cast<T>(h)), coefficients, y, noise, y1,
                   m.error, false);
      V bad = finite_measure(a.dim, y1);
      const bool some_bad = O::any(bad != V{});
      for (int l = 0; l < n; ++l) {
        if (!active[l]) continue;
        if (some_bad && !(bad[l] == T(0))) {
          active[l] = false;
          --left;
          a.failed[block + l] = a.times[k + 1];
          write_missing(a, k + 1, block + l);
          continue;
        }
        ++steps[l];
        write_lane(a, a.save_at[k + 1], block + l, y1, l);
      }
      V* swap = y;
      y = y1;
      y1 = swap;
      if (++since_tick >= unit_ticks) {
        since_tick = 0;
        tick();
      }
    }
    for (int l = 0; l < n; ++l) {
      int64_t* count = a.counts + (block + l) * 4;
      count[0] = steps[l];
      count[1] = 0;
      count[2] = at_start + (steps[l] + (active[l] ? 0 : 1)) * per_step;
      count[3] = 0;
    }
  }
}

// ---- a clock for every lane -----------------------------------------------------------------------------------------

template <class T, class System>
void adaptive_steps(const SdeArgs<T>& a, int64_t first, int64_t last, char* scratch, void (*tick)()) {
  using V = VecOf<T>;
  using O = Ops<V>;
  constexpr int N = O::N;
  Arena arena{scratch, 0};
  Memory<T> m(a, arena);
  const int64_t g = diffusion_size(a), stages = sde_stage_count(a), state = sde_state_size(a, g);
  bool active[N];
  System system = make_system<System, T>(a, m, active);
  SdeStepper<V, V*, System> stepper{a, system, {m.space, m.space + stages * a.dim, m.space + stages * (a.dim + g)}};
  const T scale = static_cast<T>(Ops<double>::sqrt(a.tree.t1 - a.tree.t0));
  const bool embedded = a.control.kind == SdeControl::pid && !a.doubling;
  const int per_step = sde_evaluations(a) * (a.doubling ? 3 : 1);
  SdeNoise<V*> parts[3];
  for (int c = 0; c < (a.doubling ? 3 : 1); ++c) parts[c] = {m.noise[c][0], m.noise[c][1], m.noise[c][2]};
  KineticLanes<V> coefficients, coefficients_half;
  kinetic_forget(coefficients);
  kinetic_forget(coefficients_half);

  SdeClock clock[N];
  int64_t path[N], counts[N][4];
  LaneTrees<T> known;
  known.levels = kept_levels(a);
  known.first_level = a.tree.depth + 1 - known.levels;
  for (int64_t j = 0; j < state; ++j) m.y[j] = m.y1[j] = m.coarse[j] = V{};
  int64_t next = first;
  const int unit_ticks = steps_per_tick(a);
  int running = 0, since_tick = 0;
  double s[N], mid[N], e[N];
  for (int l = 0; l < N; ++l) {
    active[l] = false;
    path[l] = first;
    s[l] = mid[l] = e[l] = a.times[0];
    known.lane[l] = static_cast<uint64_t>(a.tree.first_lane + first * a.noises);
    known.leaf[l] = 0;
    known.depth[l] = 0;
    counts[l][0] = counts[l][1] = counts[l][2] = counts[l][3] = 0;
  }
  for (;;) {
    // Lanes that are free take the next paths.
    bool fresh[N] = {};
    bool any_fresh = false;
    for (int l = 0; l < N; ++l) {
      if (active[l] || next >= last) continue;
      const int64_t p = next++;
      path[l] = p;
      fresh[l] = active[l] = any_fresh = true;
      ++running;
      double* from = a.clocks + p * 3;
      clock[l] = SdeClock{a.times[0],
                          from[0],
                          sde_history(from[1]),
                          sde_history(from[2]),
                          0.0,
                          0.0,
                          1,
                          m.ends ? m.ends + l * sde_most_ends : nullptr,
                          0};
      for (int64_t j = 0; j < a.dim; ++j) m.y[j][l] = a.y0[p * a.dim + j];
      known.lane[l] = static_cast<uint64_t>(a.tree.first_lane + p * a.noises);
      known.depth[l] = 0;
      counts[l][0] = counts[l][1] = counts[l][2] = counts[l][3] = 0;
      a.failed[p] = __builtin_nan("");
      write_lane(a, a.save_at[0], p, m.y, l);
    }
    if (running == 0) return;
    V t{};
    for (int l = 0; l < N; ++l) t[l] = static_cast<T>(active[l] ? clock[l].t : a.times[0]);
    if (any_fresh && state > a.dim) {
      // The state beside y of fresh lanes alone: the others keep theirs.
      copy_values<V>(a.dim, m.y, m.coarse);
      int spent = stepper.start(t, m.coarse);
      for (int l = 0; l < N; ++l) {
        if (!fresh[l]) continue;
        counts[l][2] += spent;
        for (int64_t j = a.dim; j < state; ++j) m.y[j][l] = m.coarse[j][l];
      }
    }
    double hs[N], halves[N];
    V h{}, h1{}, h2{};
    for (int l = 0; l < N; ++l) {
      if (active[l]) {
        sde_propose(a.control, a.times, clock[l]);
        s[l] = clock[l].t;
        e[l] = clock[l].end;
        mid[l] = s[l] + 0.5 * (e[l] - s[l]);
      } else {
        s[l] = mid[l] = e[l];  // an empty query
      }
      hs[l] = e[l] - s[l];
      halves[l] = 0.5 * hs[l];
      h[l] = static_cast<T>(hs[l]);
      h1[l] = static_cast<T>(mid[l] - s[l]);
      h2[l] = static_cast<T>(e[l] - mid[l]);
    }
    if constexpr (System::kinetic) {
      kinetic_coefficients<V>(a.method, a.friction, a.u, hs, coefficients);
      if (a.doubling) kinetic_coefficients<V>(a.method, a.friction, a.u, halves, coefficients_half);
    }
    if (a.doubling) {
      query_noise<T>(a, s, mid, known, m.cells, m.noise[0], scale, tick);
      query_noise<T>(a, mid, e, known, m.cells, m.noise[1], scale, tick);
      V one = O::constant(T(1));  // free lanes have no length: any will do
      V w1 = h1 > V{} ? h1 : one, w2 = h2 > V{} ? h2 : one;
      whole_of_halves<T>(a, w1, w2, m.noise);
      take_step<V>(stepper, t, h, coefficients, m.y, parts[2], m.coarse, m.error, false);
      for (int64_t j = 0; j < a.dim; ++j) m.error[j] = m.coarse[j];
      V t_mid{};
      for (int l = 0; l < N; ++l) t_mid[l] = static_cast<T>(mid[l]);
      take_step<V>(stepper, t, h1, coefficients_half, m.y, parts[0], m.coarse, m.error, false);
      take_step<V>(stepper, t_mid, h2, coefficients_half, m.coarse, parts[1], m.y1, m.error, false);
      for (int64_t j = 0; j < a.dim; ++j) m.error[j] = m.y1[j] - m.error[j];
    } else {
      query_noise<T>(a, s, e, known, m.cells, m.noise[0], scale, tick);
      take_step<V>(stepper, t, h, coefficients, m.y, parts[0], m.y1, m.error, embedded);
    }
    V squares{}, least0 = m.y[0], least1 = m.y1[0];
    if (a.control.kind == SdeControl::pid) {
      V rtol = O::constant(static_cast<T>(a.control.rtol)), atol = O::constant(static_cast<T>(a.control.atol));
      for (int64_t j = 0; j < a.dim; ++j) {
        V p = m.y[j], q = m.y1[j];
        p = p < V{} ? -p : p;
        q = q < V{} ? -q : q;
        V r = m.error[j] / (atol + rtol * larger<V>(p, q));
        r = m.error[j] == V{} ? V{} : r;  // also where the tolerance is 0
        squares = squares + r * r;
      }
    } else {
      for (int64_t j = 1; j < a.dim; ++j) {
        least0 = m.y[j] < least0 ? m.y[j] : least0;
        least1 = m.y1[j] < least1 ? m.y1[j] : least1;
      }
    }
    V bad = finite_measure(a.dim, m.y1);
    typename IntsOf<T>::type take{};
    for (int l = 0; l < N; ++l) {
      if (!active[l]) continue;
      double scaled = Ops<double>::sqrt(static_cast<double>(squares[l]) / static_cast<double>(a.dim));
      counts[l][2] += per_step;
      SdeVerdict verdict = sde_judge(a.control, clock[l], scaled, bad[l] == T(0), static_cast<double>(least0[l]),
                                     static_cast<double>(least1[l]));
      if (verdict == SdeVerdict::rejected) {
        ++counts[l][1];
        continue;
      }
      bool done = verdict == SdeVerdict::not_finite || verdict == SdeVerdict::too_large;
      if (done) {
        if (verdict == SdeVerdict::too_large) counts[l][3] = -1;
        a.failed[path[l]] = clock[l].t;
        write_missing(a, clock[l].stop, path[l]);
      } else {
        ++counts[l][0];
        if (verdict == SdeVerdict::clamped) ++counts[l][3];
        take[l] = -1;
        if (clock[l].t == a.times[clock[l].stop]) {
          write_lane(a, a.save_at[clock[l].stop], path[l], m.y1, l);
          done = ++clock[l].stop == a.n_times;
        }
      }
      if (done) {
        active[l] = false;
        --running;
        double* to = a.clocks + path[l] * 3;
        to[0] = clock[l].h;
        to[1] = clock[l].e1;
        to[2] = clock[l].e2;
        for (int c = 0; c < 4; ++c) a.counts[path[l] * 4 + c] = counts[l][c];
      }
    }
    for (int64_t j = 0; j < state; ++j) m.y[j] = take ? m.y1[j] : m.y[j];
    if (++since_tick >= unit_ticks) {
      since_tick = 0;
      tick();
    }
  }
}

// ---- the choice -----------------------------------------------------------------------------------------------------

template <class T, class System>
void run_system(const SdeArgs<T>& a, int64_t first, int64_t last, char* scratch, void (*tick)()) {
  (a.control.kind == SdeControl::constant ? constant_steps<T, System> : adaptive_steps<T, System>)(a, first, last,
                                                                                                   scratch, tick);
}

template <class T>
void run(const SdeArgs<T>& a, int64_t first, int64_t last, char* scratch, void (*tick)()) {
  using V = VecOf<T>;
  switch (a.system) {
    case SdeSystem::ornstein_uhlenbeck:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::ornstein_uhlenbeck>>(a, first, last, scratch, tick);
    case SdeSystem::geometric:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::geometric>>(a, first, last, scratch, tick);
    case SdeSystem::cox_ingersoll_ross:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::cox_ingersoll_ross>>(a, first, last, scratch, tick);
    case SdeSystem::lorenz:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::lorenz>>(a, first, last, scratch, tick);
    case SdeSystem::langevin:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::langevin>>(a, first, last, scratch, tick);
    case SdeSystem::kinetic:
      return run_system<T, BuiltInSystem<V, V*, SdeSystem::kinetic>>(a, first, last, scratch, tick);
    case SdeSystem::callbacks:
      if constexpr (sizeof(T) == 8) run_system<T, CallbackSystem>(a, first, last, scratch, tick);
  }
}

}  // namespace

extern const SdeTable sde_table;
const SdeTable sde_table = {{Ops<VecF>::N, scratch_bytes<float>, run<float>},
                            {Ops<VecD>::N, scratch_bytes<double>, run<double>}};

}  // namespace MK_ISA
}  // namespace mk
