// Steps of stochastic differential equations and their control, for one path or a register of paths (V). Vectors of a path
// are arrays A of V: V* for registers, strided memory for GPU threads.
//
// Parameters of the built-in systems, rows of (p, dim):
//   Ornstein-Uhlenbeck  dy = p0 (p1 - y) dt + p2 dB            geometric  dy = p0 y dt + p1 y dB
//   Cox-Ingersoll-Ross  dy = p0 (p1 - y) dt + p2 sqrt(y) dB    Langevin   dy = grad log p dt + p0 dB
//   Lorenz              p0 = (sigma, rho, beta), noise p1      kinetic    see kinetic.hpp; y = (x, v)
// in the sense of the solver that runs them.
#pragma once

#include "mckean/brownian.hpp"
#include "mckean/executor.hpp"
#include "mckean/kinetic.hpp"
#include "mckean/math.hpp"
#include "mckean/targets.hpp"

namespace mk {

// One element of sde_update.
template <class T>
MK_HD T sde_update_element(const SdeUpdateArgs<T>& a, int64_t row, int64_t column) {
  int64_t at = row * a.dim + column;
  T sum = a.base ? a.base[at] : T(0);
  double step = a.steps ? a.steps[row] : a.step;
  for (int k = 0; k < a.n_drifts; ++k) sum = sum + static_cast<T>(a.a[k] * step) * a.drifts[k][at];
  for (int k = 0; k < a.n_diffusions; ++k) {
    T p = static_cast<T>(a.p[k]), q = static_cast<T>(a.q[k]);
    if (a.layout == NoiseLayout::matrix) {
      const T* g = a.diffusions[k] + at * a.noises;
      const T* W = a.W + row * a.noises;
      const T* H = a.H ? a.H + row * a.noises : nullptr;
      T part = T(0);
      for (int64_t l = 0; l < a.noises; ++l) part = part + g[l] * (H ? p * W[l] + q * H[l] : p * W[l]);
      sum = sum + part;
    } else {
      int64_t l = a.layout == NoiseLayout::diagonal ? at : row;
      sum = sum + a.diffusions[k][at] * (a.H ? p * a.W[l] + q * a.H[l] : p * a.W[l]);
    }
  }
  return sum;
}

// The scaled error of one element, squared.
template <class T>
MK_HD double scaled_square(T error, T y0, T y1, double rtol, double atol) {
  if (error == T(0)) return 0.0;  // also where the tolerance is 0
  double a = static_cast<double>(y0 < T(0) ? -y0 : y0), b = static_cast<double>(y1 < T(0) ? -y1 : y1);
  double e = static_cast<double>(error) / (atol + rtol * (a > b ? a : b));
  return e * e;
}

// ---- gradients of targets -------------------------------------------------------------------------------------------

template <class V>
MK_HD V larger(V a, V b) {
  return a < b ? b : a;
}
template <class V>
MK_HD V positive_part(V x) {
  V zero = Ops<V>::constant(typename Ops<V>::T(0));
  return x > zero ? x : zero;
}

// out = grad log p(x) of dim coordinates; scratch: dim.
template <class V, class A>
MK_HD void target_gradient(const SdeTarget<typename Ops<V>::T>& target, int64_t dim, A x, A out, A scratch) {
  using T = typename Ops<V>::T;
  using O = Ops<V>;
  if (target.kind == TargetKind::diagonal) {
    for (int64_t j = 0; j < dim; ++j) {
      V w = O::constant(target.matrix[j]);
      out[j] = (O::constant(target.vector[j]) - x[j]) * w * w;
    }
  } else if (target.kind == TargetKind::full) {
    for (int64_t j = 0; j < dim; ++j) scratch[j] = x[j] - O::constant(target.vector[j]);
    for (int64_t j = 0; j < dim; ++j) out[j] = O::constant(T(0));
    for (int64_t r = 0; r < dim; ++r) {
      const T* row = target.matrix + r * dim;
      V z = O::constant(T(0));
      for (int64_t j = 0; j <= r; ++j) z = z + O::constant(row[j]) * scratch[j];
      for (int64_t j = 0; j <= r; ++j) out[j] = out[j] - O::constant(row[j]) * z;
    }
  } else if (target.kind == TargetKind::funnel) {
    V squares = O::constant(T(0));
    for (int64_t j = 1; j < dim; ++j) squares = squares + x[j] * x[j];
    FunnelPoint<V> p = funnel_point<V>(x[0], squares, static_cast<T>(dim - 1), static_cast<T>(target.numbers[0]), T(0));
    for (int64_t j = 1; j < dim; ++j) out[j] = -(p.shrink * x[j]);
    out[0] = p.gradient0;
  } else if (target.kind == TargetKind::banana) {
    BananaArgs<T> a{};
    a.precision = static_cast<T>(target.numbers[0]);
    a.curvature = static_cast<T>(target.numbers[1]);
    a.offset = static_cast<T>(target.numbers[2]);
    BananaPoint<V> p = banana_point<V, T>(x[0], x[1], O::constant(T(0)), a);
    for (int64_t j = 2; j < dim; ++j) out[j] = -x[j];
    out[0] = p.gradient0;
    out[1] = p.gradient1;
  } else if (target.kind == TargetKind::logistic) {
    constexpr int tile = 4;  // rows that share one pass over x
    for (int64_t j = 0; j < dim; ++j) out[j] = O::constant(T(0)) - O::constant(target.vector[j]) * x[j];
    for (int64_t r = 0; r < target.rows; r += tile) {
      const T* row = target.matrix + r * dim;
      const int m = target.rows - r < tile ? static_cast<int>(target.rows - r) : tile;
      V t[tile];
      for (int k = 0; k < tile; ++k) t[k] = O::constant(T(0));
      if (m == tile) {
        for (int64_t j = 0; j < dim; ++j) {
          V v = x[j];
          for (int k = 0; k < tile; ++k) t[k] = t[k] + O::constant(row[k * dim + j]) * v;
        }
      } else {
        for (int k = 0; k < m; ++k)
          for (int64_t j = 0; j < dim; ++j) t[k] = t[k] + O::constant(row[k * dim + j]) * x[j];
      }
      // The derivative of -log(1 + e^-t): 1 / (1 + e^t)
      for (int k = 0; k < m; ++k) {
        V zero = O::constant(T(0)), one = O::constant(T(1));
        V e = exp_clamped<V>(t[k] < zero ? t[k] : -t[k]);
        t[k] = (t[k] > zero ? e : one) / (one + e);
      }
      if (m == tile) {
        for (int64_t j = 0; j < dim; ++j) {
          V g = out[j];
          for (int k = 0; k < tile; ++k) g = g + O::constant(row[k * dim + j]) * t[k];
          out[j] = g;
        }
      } else {
        for (int k = 0; k < m; ++k)
          for (int64_t j = 0; j < dim; ++j) out[j] = out[j] + O::constant(row[k * dim + j]) * t[k];
      }
    }
  }
}

// ---- systems --------------------------------------------------------------------------------------------------------

template <class A>
struct SdeNoise {
  A W, H, K;
};

template <class V, class A, SdeSystem system>
struct BuiltInSystem {
  using T = typename Ops<V>::T;
  using O = Ops<V>;
  static constexpr bool constant_diffusion = system != SdeSystem::geometric && system != SdeSystem::cox_ingersoll_ross;
  static constexpr bool kinetic = system == SdeSystem::kinetic, square_root = system == SdeSystem::cox_ingersoll_ross;
  const SdeArgs<T>& a;
  A scratch;  // (dim,)

  MK_HD int64_t dim() const { return a.dim; }
  MK_HD int64_t diffusion_size() const { return a.dim; }
  MK_HD V p(int row, int64_t j) const { return O::constant(a.parameters[row * a.dim + j]); }

  MK_HD void drift(V, A y, A out) const {
    if constexpr (system == SdeSystem::ornstein_uhlenbeck || system == SdeSystem::cox_ingersoll_ross) {
      for (int64_t j = 0; j < a.dim; ++j) out[j] = p(0, j) * (p(1, j) - y[j]);
    } else if constexpr (system == SdeSystem::geometric) {
      for (int64_t j = 0; j < a.dim; ++j) out[j] = p(0, j) * y[j];
    } else if constexpr (system == SdeSystem::lorenz) {
      V y0 = y[0], y1 = y[1], y2 = y[2];
      out[0] = p(0, 0) * (y1 - y0);
      out[1] = y0 * (p(0, 1) - y2) - y1;
      out[2] = y0 * y1 - p(0, 2) * y2;
    } else if constexpr (system == SdeSystem::langevin) {
      target_gradient<V, A>(a.target, a.dim, y, out, scratch);
    }
  }
  MK_HD void diffusion(V, A y, A out) const {
    for (int64_t j = 0; j < a.dim; ++j) {
      if constexpr (system == SdeSystem::ornstein_uhlenbeck)
        out[j] = p(2, j);
      else if constexpr (system == SdeSystem::geometric)
        out[j] = p(1, j) * y[j];
      else if constexpr (system == SdeSystem::cox_ingersoll_ross)
        out[j] = p(2, j) * O::sqrt(positive_part<V>(y[j]));
      else if constexpr (system == SdeSystem::lorenz)
        out[j] = p(1, j);
      else
        out[j] = p(0, j);
    }
  }
  // g dg/dy
  MK_HD void slope(A y, A out) const {
    for (int64_t j = 0; j < a.dim; ++j) {
      if constexpr (system == SdeSystem::geometric)
        out[j] = p(1, j) * p(1, j) * y[j];
      else if constexpr (system == SdeSystem::cox_ingersoll_ross)
        out[j] = p(2, j) * p(2, j) * O::constant(T(0.5));
      else
        out[j] = O::constant(T(0));
    }
  }
  // out += G (p W + q H)
  MK_HD void add_noise(A out, A G, V p_, V q, bool areas, const SdeNoise<A>& n) const {
    if (areas)
      for (int64_t j = 0; j < a.dim; ++j) out[j] = out[j] + G[j] * (p_ * n.W[j] + q * n.H[j]);
    else
      for (int64_t j = 0; j < a.dim; ++j) out[j] = out[j] + G[j] * (p_ * n.W[j]);
  }
};

// ---- one step -------------------------------------------------------------------------------------------------------

template <class V, class A>
MK_HD void copy_values(int64_t n, A from, A to) {
  for (int64_t j = 0; j < n; ++j) to[j] = from[j];
}
template <class V, class A>
MK_HD void add_multiple(int64_t n, V c, A x, A to) {
  for (int64_t j = 0; j < n; ++j) to[j] = to[j] + c * x[j];
}

// What a step works in: F, G for every stage, one vector of a state, and for the error one more.
template <class A>
struct SdeSpace {
  A F, G, z;
};
// In values V, of one step.
MK_HD int64_t sde_space_size(int64_t dim, int64_t diffusion_size, int stages) {
  return stages * (dim + diffusion_size) + dim;
}

template <class V, class A, class System>
MK_HD void runge_kutta_step(const System& s, const SdeTableau& tb, V t, V h, A y, const SdeNoise<A>& n, A y1, A error,
                            bool wants_error, const SdeSpace<A>& w) {
  using O = Ops<V>;
  using T = typename O::T;
  const int64_t d = s.dim(), g = s.diffusion_size();
  for (int j = 0; j < tb.stages; ++j) {
    bool moved = false;
    for (int k = 0; k < j; ++k) {
      bool drifts = tb.a[j][k] != 0.0, noise = tb.w[j][k] != 0.0 || tb.h[j][k] != 0.0;
      if (!drifts && !noise) continue;
      if (!moved) copy_values<V>(d, y, w.z);
      moved = true;
      if (drifts) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.a[j][k])), w.F + k * d, w.z);
      if (noise)
        s.add_noise(w.z, w.G + k * g, O::constant(static_cast<T>(tb.w[j][k])), O::constant(static_cast<T>(tb.h[j][k])),
                    tb.h[j][k] != 0.0, n);
    }
    V at = t + h * O::constant(static_cast<T>(tb.c[j]));
    if (tb.uses_drift[j]) s.drift(at, moved ? w.z : y, w.F + j * d);
    if (tb.uses_diffusion[j]) s.diffusion(at, moved ? w.z : y, w.G + j * g);
  }
  copy_values<V>(d, y, y1);
  if (wants_error)
    for (int64_t j = 0; j < d; ++j) error[j] = O::constant(T(0));
  for (int k = 0; k < tb.stages; ++k) {
    if (tb.b[k] != 0.0) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.b[k])), w.F + k * d, y1);
    if (tb.bw[k] != 0.0 || tb.bh[k] != 0.0)
      s.add_noise(y1, w.G + k * g, O::constant(static_cast<T>(tb.bw[k])), O::constant(static_cast<T>(tb.bh[k])),
                  tb.bh[k] != 0.0, n);
    if (!wants_error) continue;
    if (tb.e[k] != 0.0) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.e[k])), w.F + k * d, error);
    if (tb.ew[k] != 0.0 || tb.eh[k] != 0.0)
      s.add_noise(error, w.G + k * g, O::constant(static_cast<T>(tb.ew[k])), O::constant(static_cast<T>(tb.eh[k])),
                  tb.eh[k] != 0.0, n);
  }
}

// g depends on t alone: G0 at t in w.G, G1 at t + h behind it.
template <class V, class A, class System>
MK_HD void additive_step(const System& s, const SdeTableau& tb, V t, V h, A y, const SdeNoise<A>& n, A y1, A error,
                         bool wants_error, const SdeSpace<A>& w) {
  using O = Ops<V>;
  using T = typename O::T;
  const int64_t d = s.dim(), g = s.diffusion_size();
  V one = O::constant(T(1)), zero = O::constant(T(0));
  s.diffusion(t, y, w.G);
  for (int j = 0; j < tb.stages; ++j) {
    copy_values<V>(d, y, w.z);
    for (int k = 0; k < j; ++k)
      if (tb.a[j][k] != 0.0) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.a[j][k])), w.F + k * d, w.z);
    if (tb.w[j][0] != 0.0 || tb.h[j][0] != 0.0)
      s.add_noise(w.z, w.G, O::constant(static_cast<T>(tb.w[j][0])), O::constant(static_cast<T>(tb.h[j][0])),
                  tb.h[j][0] != 0.0, n);
    s.drift(t + h * O::constant(static_cast<T>(tb.c[j])), w.z, w.F + j * d);
  }
  copy_values<V>(d, y, y1);
  if (wants_error)
    for (int64_t j = 0; j < d; ++j) error[j] = zero;
  for (int k = 0; k < tb.stages; ++k) {
    if (tb.b[k] != 0.0) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.b[k])), w.F + k * d, y1);
    if (wants_error && tb.e[k] != 0.0) add_multiple<V>(d, h * O::constant(static_cast<T>(tb.e[k])), w.F + k * d, error);
  }
  s.add_noise(y1, w.G, one, zero, false, n);
  if (System::constant_diffusion) return;
  A G1 = w.G + g;
  s.diffusion(t + h, y, G1);
  for (int64_t j = 0; j < g; ++j) G1[j] = G1[j] - w.G[j];
  s.add_noise(y1, G1, O::constant(T(0.5)), O::constant(T(-1)), true, n);
}

// Diagonal noise: y + h f + g W + g g' (W^2 - h) / 2, without h in the Stratonovich sense.
template <class V, class A, class System>
MK_HD void milstein_step(const System& s, bool ito, V t, V h, A y, const SdeNoise<A>& n, A y1, const SdeSpace<A>& w) {
  using O = Ops<V>;
  using T = typename O::T;
  const int64_t d = s.dim();
  V half = O::constant(T(0.5)), less = ito ? h : O::constant(T(0));
  s.drift(t, y, w.F);
  s.diffusion(t, y, w.G);
  s.slope(y, w.z);
  for (int64_t j = 0; j < d; ++j)
    y1[j] = y[j] + h * w.F[j] + w.G[j] * n.W[j] + half * w.z[j] * (n.W[j] * n.W[j] - less);
}

// State: y, z, f(t, z), g(t, z).
template <class V, class A, class System>
MK_HD void reversible_heun_step(const System& s, V t, V h, A y, const SdeNoise<A>& n, A y1, A error, bool wants_error) {
  using O = Ops<V>;
  using T = typename O::T;
  const int64_t d = s.dim();
  V one = O::constant(T(1)), zero = O::constant(T(0)), half = O::constant(T(0.5)), two = O::constant(T(2));
  A z = y + d, F = y + 2 * d, G = y + 3 * d, z1 = y1 + d, F1 = y1 + 2 * d, G1 = y1 + 3 * d;
  for (int64_t j = 0; j < d; ++j) z1[j] = two * y[j] - z[j] + h * F[j];
  s.add_noise(z1, G, one, zero, false, n);
  s.drift(t + h, z1, F1);
  s.diffusion(t + h, z1, G1);
  V half_h = half * h;
  for (int64_t j = 0; j < d; ++j) y1[j] = y[j] + half_h * (F[j] + F1[j]);
  s.add_noise(y1, G, half, zero, false, n);
  s.add_noise(y1, G1, half, zero, false, n);
  if (!wants_error) return;
  for (int64_t j = 0; j < d; ++j) error[j] = half_h * (F1[j] - F[j]);
  s.add_noise(error, G1, half, zero, false, n);
  s.add_noise(error, G, -half, zero, false, n);
}

// Cox-Ingersoll-Ross processes; parameters are of the Ito form.
//   splitting: J. Foster, G. dos Reis, C. Strange, "High order splitting methods for SDEs satisfying a commutativity
//   condition" (2023);  implicit: drift-implicit Euler steps of the square root, S. Dereich, A. Neuenkirch, L. Szpruch (2012).
template <class V, class A>
MK_HD void cir_step(const SdeArgs<typename Ops<V>::T>& a, V h, A y, const SdeNoise<A>& n, A y1) {
  using O = Ops<V>;
  using T = typename O::T;
  V half = O::constant(T(0.5)), quarter = O::constant(T(0.25)), one = O::constant(T(1));
  for (int64_t j = 0; j < a.dim; ++j) {
    V rate = O::constant(a.parameters[j]), s = O::constant(a.parameters[2 * a.dim + j]);
    V level = O::constant(a.parameters[a.dim + j]) - quarter * s * s / rate;
    V hs = half * s, x = y[j];
    if (a.method == SdeMethod::cir_splitting) {
      V c1 = exp_clamped<V>(rate * h * O::constant(T(-0.21132486540518711775)));
      V c2 = exp_clamped<V>(rate * h * O::constant(T(-0.57735026918962576451)));
      V W2 = half * n.W[j], H3 = O::constant(T(1.7320508075688772935)) * n.H[j];
      x = c1 * x + (one - c1) * level;
      V r = O::sqrt(positive_part<V>(x)) + hs * (W2 + H3);
      x = c2 * (r * r) + (one - c2) * level;
      r = O::sqrt(positive_part<V>(x)) + hs * (W2 - H3);
      y1[j] = c1 * (r * r) + (one - c1) * level;
    } else {
      V q = O::constant(T(2)) + rate * h;
      V r = O::sqrt(positive_part<V>(x)) + hs * n.W[j];
      V z = (r + O::sqrt(positive_part<V>(r * r + q * rate * level * h))) / q;
      y1[j] = z * z;
    }
  }
}

// The coefficients of a kinetic step, a lane each.
template <class V>
struct KineticLanes {
  V row[4][kinetic_columns];
  V error;
  double step[Ops<V>::N];  // they belong to; negative: none
  int stages, rows;
};
template <class V>
MK_HD void kinetic_forget(KineticLanes<V>& c) {
  for (int l = 0; l < Ops<V>::N; ++l) c.step[l] = -1.0;
  for (int r = 0; r < 4; ++r)
    for (int k = 0; k < kinetic_columns; ++k) c.row[r][k] = Ops<V>::constant(typename Ops<V>::T(0));
  c.error = c.row[0][0];
  c.stages = c.rows = 0;
}
template <class V>
MK_HD void kinetic_coefficients(SdeMethod scheme, double friction, double u, const double* steps, KineticLanes<V>& c) {
  using O = Ops<V>;
  using T = typename O::T;
  for (int l = 0; l < O::N; ++l) {
    if (c.step[l] == steps[l]) continue;
    KineticRows r = kinetic_rows(scheme, steps[l], friction, u);
    for (int i = 0; i < r.rows; ++i)
      for (int k = 0; k < kinetic_columns; ++k) O::set_lane(c.row[i][k], l, static_cast<T>(r.row[i][k]));
    O::set_lane(c.error, l, static_cast<T>(r.error));
    c.step[l] = steps[l];
    c.stages = r.stages;
    c.rows = r.rows;
  }
}

// State: x, v, and the gradient at x where the scheme keeps it. w.F: two gradients, w.z: a position and scratch (2 halves).
template <class V, class A>
MK_HD void kinetic_step(const SdeArgs<typename Ops<V>::T>& a, const KineticLanes<V>& c, A y, const SdeNoise<A>& n, A y1,
                        A error, bool wants_error, const SdeSpace<A>& w) {
  using O = Ops<V>;
  using T = typename O::T;
  const int64_t d = a.dim / 2;
  const bool keeps = keeps_gradient(a.method), has_K = a.method == SdeMethod::quicsort || a.method == SdeMethod::should,
             has_H = a.method != SdeMethod::baoab;
  A v = y + d, g0 = y + 2 * d, scratch = w.z + d;
  for (int i = 0; i < c.rows; ++i) {
    const bool stage = i < c.stages, last = i + 1 == c.rows;
    A out = last ? y1 + d : stage && !(keeps && i + 1 == c.stages) ? w.z : y1;
    const V* row = c.row[i];
    for (int64_t j = 0; j < d; ++j) {
      V sum = row[1] * v[j] + row[3] * n.W[j];
      if (i < c.rows - 1) sum = y[j] + sum;
      if (has_H) sum = sum + row[4] * n.H[j];
      if (has_K) sum = sum + row[5] * n.K[j];
      if (keeps) sum = sum + row[2] * g0[j];
      if (i >= 1) sum = sum + row[6] * w.F[j];
      if (i >= 2 && c.stages == 2) sum = sum + row[7] * w.F[d + j];
      out[j] = sum;
    }
    if (stage) target_gradient<V, A>(a.target, d, out, w.F + i * d, scratch);
  }
  if (keeps) copy_values<V>(d, w.F + (c.stages - 1) * d, y1 + 2 * d);
  if (wants_error) {
    for (int64_t j = 0; j < d; ++j) error[j] = O::constant(T(0));
    for (int64_t j = 0; j < d; ++j) error[d + j] = c.error * (w.F[j] - g0[j]);
  }
}

// How many values V a state has: y and what the method keeps beside it.
template <class T>
MK_HD int64_t sde_state_size(const SdeArgs<T>& a, int64_t diffusion_size) {
  if (a.method == SdeMethod::reversible_heun) return 3 * a.dim + diffusion_size;
  if (a.method >= SdeMethod::quicsort) return a.dim + (keeps_gradient(a.method) ? a.dim / 2 : 0);
  return a.dim;
}
template <class T>
MK_HD int sde_stage_count(const SdeArgs<T>& a) {
  return a.method <= SdeMethod::additive ? (a.tableau.stages > 2 ? a.tableau.stages : 2) : 2;
}
// Drifts (gradients) a step evaluates.
template <class T>
MK_HD int sde_evaluations(const SdeArgs<T>& a) {
  if (a.method == SdeMethod::runge_kutta) {
    int n = 0;
    for (int j = 0; j < a.tableau.stages; ++j) n += a.tableau.uses_drift[j];
    return n;
  }
  if (a.method == SdeMethod::additive) return a.tableau.stages;
  if (a.method == SdeMethod::quicsort || a.method == SdeMethod::should) return 2;
  if (a.method == SdeMethod::cir_splitting || a.method == SdeMethod::cir_implicit) return 0;
  return 1;
}

template <class V, class A, class System>
struct SdeStepper {
  using T = typename Ops<V>::T;
  const SdeArgs<T>& a;
  System system;
  SdeSpace<A> space;

  // What the state keeps beside y, from y. Returns the drifts evaluated.
  MK_HD int start(V t, A y) const {
    const int64_t d = a.dim;
    if constexpr (System::kinetic) {
      if (!keeps_gradient(a.method)) return 0;
      target_gradient<V, A>(a.target, d / 2, y, y + d, space.z + d / 2);
      return 1;
    } else {
      if (a.method != SdeMethod::reversible_heun) return 0;
      copy_values<V>(d, y, y + d);
      system.drift(t, y, y + 2 * d);
      system.diffusion(t, y, y + 3 * d);
      return 1;
    }
  }
  MK_HD void step(V t, V h, const KineticLanes<V>& coefficients, A y, const SdeNoise<A>& n, A y1, A error,
                  bool wants_error) const {
    if constexpr (System::kinetic) {
      kinetic_step<V, A>(a, coefficients, y, n, y1, error, wants_error, space);
    } else {
      if (a.method == SdeMethod::runge_kutta)
        runge_kutta_step<V, A>(system, a.tableau, t, h, y, n, y1, error, wants_error, space);
      else if (a.method == SdeMethod::additive)
        additive_step<V, A>(system, a.tableau, t, h, y, n, y1, error, wants_error, space);
      else if (a.method == SdeMethod::reversible_heun)
        reversible_heun_step<V, A>(system, t, h, y, n, y1, error, wants_error);
      else if (a.method == SdeMethod::milstein_ito || a.method == SdeMethod::milstein_stratonovich)
        milstein_step<V, A>(system, a.method == SdeMethod::milstein_ito, t, h, y, n, y1, space);
      else if constexpr (System::square_root)
        cir_step<V, A>(a, h, y, n, y1);
    }
  }
};

// ---- control of the step, per path ----------------------------------------------------------------------------------

struct SdeClock {
  double t, h, e1, e2;   // where the path is, the next step, 1 / error of the last two accepted steps
  double end, proposal;  // of the attempt under way
  int64_t stop;          // index of the next time that must be hit
  double* ends;          // ends of rejected steps still to be visited, the nearest last; null: they are not
  int n_ends;
};
// Each is at most 0.9 times as far as the one before, but for those that a longer step after a short accepted one adds; for
// factors between 0.1 and 10 there are never more. Callers see to that.
constexpr int sde_most_ends = 512;

MK_HD void sde_propose(const SdeControl& c, const double* times, SdeClock& k) {
  double h = k.h < c.dtmin ? c.dtmin : k.h > c.dtmax ? c.dtmax : k.h;
  const double target = k.n_ends > 0 ? k.ends[k.n_ends - 1] : times[k.stop];
  const double gap = target - k.t;
  k.proposal = h;
  if (h >= gap - 1e-10 * h)
    k.end = target;
  else if (gap - h < c.dtmin)  // two steps of half the gap, so that no tiny step is left
    k.end = k.t + 0.5 * gap;
  else
    k.end = k.t + h;
}

// 1 / error that is zero or infinite counts as 1.
MK_HD double sde_history(double e) { return e > 0.0 && e < 1e300 ? e : 1.0; }
MK_HD double sde_power(double e, double p) { return p == 0.0 ? 1.0 : exp_clamped<double>(p * log_positive<double>(e)); }
MK_HD double sde_desired(const SdeControl& c, double least) {
  double x = least * c.ctol;
  double h = x > 0.0 ? sde_power(x, 2.0 / 3.0) : 0.0;
  return h < c.dtmin ? c.dtmin : h > c.dtmax ? c.dtmax : h;
}

// clamped: accepted in spite of its error, since steps must not be shorter; too_large: failed for its error.
enum class SdeVerdict : int { rejected, accepted, clamped, not_finite, too_large };

// scaled: the error over its tolerance; finite: the state is. least0, least1: the smallest coordinate before and
// after the step, for the state rule.
MK_HD SdeVerdict sde_judge(const SdeControl& c, SdeClock& k, double scaled, bool finite, double least0, double least1) {
  double step = k.end - k.t;
  bool at_floor = step <= c.dtmin * (1.0 + 1e-10), accept, good;
  double next;
  if (c.kind == SdeControl::state) {
    double worse = least0 < least1 ? least0 : least1;
    good = step < 1.1 * sde_desired(c, worse);
    accept = finite && (good || at_floor);
    next = sde_desired(c, accept ? least1 : worse);
    if (!accept && !(next < step)) next = 0.5 * step;  // not finite
  } else {
    double e = 1.0 / scaled;
    good = scaled < 1.0;
    accept = finite && (good || (at_floor && !c.fail_at_dtmin));
    double factor;
    if (!finite || !(e > 0.0))
      factor = c.factor_min;
    else if (!(e < 1e300))
      factor = c.factor_max;
    else
      factor = c.safety * sde_power(e, c.power[0]) * sde_power(k.e1, c.power[1]) * sde_power(k.e2, c.power[2]);
    double low = accept ? 1.0 : c.factor_min, high = accept ? c.factor_max : c.safety;
    factor = factor < low ? low : factor > high ? high : factor;
    next = step * factor;
    if (accept) {
      k.e2 = k.e1;
      k.e1 = sde_history(e);
    }
  }
  if (!accept) {
    if (at_floor) return finite ? SdeVerdict::too_large : SdeVerdict::not_finite;
    if (k.ends && k.n_ends < sde_most_ends && (k.n_ends == 0 || k.end < k.ends[k.n_ends - 1]))
      k.ends[k.n_ends++] = k.end;
    k.h = next < c.dtmin ? c.dtmin : next;
    return SdeVerdict::rejected;
  }
  if (k.n_ends > 0 && k.end == k.ends[k.n_ends - 1]) --k.n_ends;
  // A step that was cut short for a stop says nothing against the proposal it was cut from.
  if (c.kind == SdeControl::pid && good && step < k.proposal && next < k.proposal) next = k.proposal;
  k.h = next < c.dtmin ? c.dtmin : next > c.dtmax ? c.dtmax : next;
  k.t = k.end;
  return good ? SdeVerdict::accepted : SdeVerdict::clamped;
}

}  // namespace mk
