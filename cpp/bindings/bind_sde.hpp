// Bindings of stochastic differential equations. Included by bindings.hpp inside the executor's namespace.
#pragma once

template <class T>
void bind_sde_type(nb::module_& m) {
  using Optional = std::optional<In<T>>;
  m.def(
      "sde_update",
      [](int layout, Optional base, std::vector<In<T>> drifts, std::vector<double> a, std::optional<In<double>> steps,
         double step, std::vector<In<T>> diffusions, std::vector<double> p, std::vector<double> q, Optional W,
         Optional H, Out<T> out, uintptr_t queue) {
        require(out.ndim() == 2, "out: expected shape (rows, dim)");
        SdeUpdateArgs<T> u{};
        u.rows = static_cast<int64_t>(out.shape(0));
        u.dim = static_cast<int64_t>(out.shape(1));
        int64_t n = u.rows * u.dim;
        require(layout >= 0 && layout <= 2, "layout: expected 0, 1 or 2");
        u.layout = static_cast<NoiseLayout>(layout);
        u.n_drifts = static_cast<int>(drifts.size());
        u.n_diffusions = static_cast<int>(diffusions.size());
        require(u.n_drifts <= max_sde_stages && u.n_diffusions <= max_sde_stages, "drifts, diffusions: too many");
        require(a.size() == drifts.size() && p.size() == diffusions.size() && q.size() == p.size(),
                "a, p, q: expected one per array");
        require(!base || size_of(*base) == n, "base: wrong size");
        u.base = base ? base->data() : nullptr;
        require(!steps || size_of(*steps) == u.rows, "steps: expected one per row");
        u.steps = steps ? steps->data() : nullptr;
        u.step = step;
        if (u.n_diffusions > 0) {
          require(W.has_value(), "W: missing");
          u.noises = u.rows > 0 ? size_of(*W) / u.rows : 0;
          require(size_of(*W) == u.rows * u.noises && (!H || size_of(*H) == size_of(*W)), "W, H: wrong size");
          require(u.layout != NoiseLayout::diagonal || u.noises == u.dim || u.rows == 0, "W: expected dim columns");
          require(u.layout != NoiseLayout::scalar || u.noises == 1 || u.rows == 0, "W: expected one column");
          u.W = W->data();
          u.H = H ? H->data() : nullptr;
        }
        for (int k = 0; k < u.n_drifts; ++k) {
          require(size_of(drifts[static_cast<size_t>(k)]) == n, "drifts: wrong size");
          u.drifts[k] = drifts[static_cast<size_t>(k)].data();
          u.a[k] = a[static_cast<size_t>(k)];
        }
        for (int k = 0; k < u.n_diffusions; ++k) {
          size_t i = static_cast<size_t>(k);
          require(size_of(diffusions[i]) == n * (u.layout == NoiseLayout::matrix ? u.noises : 1),
                  "diffusions: wrong size");
          u.diffusions[k] = diffusions[i].data();
          u.p[k] = p[i];
          u.q[k] = q[i];
          require(q[i] == 0.0 || H.has_value() || n == 0, "H: missing");
        }
        u.out = out.data();
        nb::gil_scoped_release release;
        sde_update<T>(u, as_queue(queue));
      },
      "layout"_a, "base"_a.noconvert().none(), "drifts"_a.noconvert(), "a"_a, "steps"_a.noconvert().none(), "step"_a,
      "diffusions"_a.noconvert(), "p"_a, "q"_a, "W"_a.noconvert().none(), "H"_a.noconvert().none(), "out"_a.noconvert(),
      "queue"_a = 0);
  m.def(
      "sde_error_norm",
      [](In<T> error, In<T> y0, In<T> y1, double rtol, double atol, Out<double> out, uintptr_t queue) {
        require(error.ndim() == 2, "error: expected shape (rows, dim)");
        int64_t rows = static_cast<int64_t>(error.shape(0)), dim = static_cast<int64_t>(error.shape(1));
        require(size_of(y0) == rows * dim && size_of(y1) == rows * dim && size_of(out) == rows,
                "sde_error_norm: sizes differ");
        nb::gil_scoped_release release;
        sde_error_norm<T>(rows, dim, error.data(), y0.data(), y1.data(), rtol, atol, out.data(), as_queue(queue));
      },
      "error"_a.noconvert(), "y0"_a.noconvert(), "y1"_a.noconvert(), "rtol"_a, "atol"_a, "out"_a.noconvert(),
      "queue"_a = 0);
  m.def(
      "sde_select",
      [](In<uint8_t> mask, In<T> a, In<T> b, Out<T> out, uintptr_t queue) {
        require(out.ndim() == 2, "out: expected shape (rows, dim)");
        int64_t rows = static_cast<int64_t>(out.shape(0)), dim = static_cast<int64_t>(out.shape(1));
        require(size_of(mask) == rows && size_of(a) == rows * dim && size_of(b) == rows * dim,
                "sde_select: sizes differ");
        nb::gil_scoped_release release;
        sde_select<T>(rows, dim, mask.data(), a.data(), b.data(), out.data(), as_queue(queue));
      },
      "mask"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(), "out"_a.noconvert(), "queue"_a = 0);
  // tableau: c, a, w, h, b, bw, bh and, where it has an error, e, ew, eh; control: as in SdeControl; callbacks: addresses of
  // drift, its data, diffusion, its data.
  m.def(
      "sde_integrate",
      [](const Tree& tree, int system, int layout, Optional parameters, int target, Optional target_matrix,
         Optional target_vector, std::vector<double> target_numbers, std::vector<uintptr_t> callbacks, int method,
         std::vector<HostIn<double>> tableau, bool doubling, double friction, double u, std::vector<double> control,
         HostIn<double> times, HostIn<int64_t> save_at, In<T> y0, Out<T> ys, std::optional<Out<double>> clocks,
         Out<int64_t> counts, Out<double> failed, uintptr_t queue) {
        SdeArgs<T> a{};
        require(y0.ndim() == 2 && ys.ndim() == 3, "y0, ys: expected (paths, dim) and (saves, paths, dim)");
        a.tree = tree.args;
        a.paths = static_cast<int64_t>(y0.shape(0));
        a.dim = static_cast<int64_t>(y0.shape(1));
        a.noises = tree.args.dim;
        a.n_times = size_of(times);
        a.n_saves = static_cast<int64_t>(ys.shape(0));
        require(tree.args.paths == a.paths && a.dim >= 1 && a.noises >= 1, "tree: expected one path per row of y0");
        require(a.n_times >= 2 && size_of(save_at) == a.n_times, "times, save_at: expected at least two, one each");
        require(static_cast<int64_t>(ys.shape(1)) == a.paths && static_cast<int64_t>(ys.shape(2)) == a.dim,
                "ys: wrong size");
        require(size_of(counts) == 4 * a.paths && size_of(failed) == a.paths, "counts, failed: wrong size");
        require(system >= 0 && system <= static_cast<int>(SdeSystem::callbacks), "system: unknown");
        require(layout >= 0 && layout <= 2, "layout: unknown");
        require(method >= 0 && method <= static_cast<int>(SdeMethod::exponential), "method: unknown");
        require(target >= 0 && target <= static_cast<int>(TargetKind::logistic), "target: unknown");
        a.system = static_cast<SdeSystem>(system);
        a.layout = static_cast<NoiseLayout>(layout);
        a.method = static_cast<SdeMethod>(method);
        const bool kinetic = a.system == SdeSystem::kinetic, user = a.system == SdeSystem::callbacks;
        require(kinetic == (a.method >= SdeMethod::quicsort), "method: does not fit the system");
        require(user || (a.layout == NoiseLayout::diagonal && a.noises == (kinetic ? a.dim / 2 : a.dim)),
                "layout: built-in systems have diagonal noise");
        require(!user || a.layout == NoiseLayout::matrix || a.noises == (a.layout == NoiseLayout::scalar ? 1 : a.dim),
                "noises: wrong number");
        require(!kinetic || a.dim % 2 == 0, "y0: expected x and v of the same size");
        if (!kinetic && !user) {
          constexpr int rows[] = {3, 2, 3, 2, 1};
          require(parameters && size_of(*parameters) == rows[system] * a.dim, "parameters: wrong size");
          require(a.system != SdeSystem::lorenz || a.dim == 3, "y0: expected three columns");
          a.parameters = parameters->data();
        }
        const bool square_root = a.method == SdeMethod::cir_splitting || a.method == SdeMethod::cir_implicit;
        require(!square_root || a.system == SdeSystem::cox_ingersoll_ross, "method: does not fit the system");
        const bool milstein = a.method == SdeMethod::milstein_ito || a.method == SdeMethod::milstein_stratonovich;
        require(!milstein || !user, "method: Milstein needs a built-in system");
        const bool areas = a.method == SdeMethod::cir_splitting || kinetic;
        const bool more = a.method == SdeMethod::quicsort || a.method == SdeMethod::should;
        require(!areas || a.method == SdeMethod::baoab || a.tree.components >= 2, "tree: expected areas");
        require(!more || a.tree.components == 3, "tree: expected both areas");
        if (kinetic || a.system == SdeSystem::langevin) {
          const int64_t d = kinetic ? a.dim / 2 : a.dim;
          SdeTarget<T>& at = a.target;
          at.kind = static_cast<TargetKind>(target);
          require(at.kind != TargetKind::none, "target: missing");
          const bool matrix =
              at.kind == TargetKind::diagonal || at.kind == TargetKind::full || at.kind == TargetKind::logistic;
          if (matrix) {
            require(target_matrix && target_vector && size_of(*target_vector) == d, "target: wrong size");
            at.rows = at.kind == TargetKind::logistic ? size_of(*target_matrix) / d : d;
            require(size_of(*target_matrix) == (at.kind == TargetKind::diagonal ? d : at.rows * d),
                    "target: wrong size");
            at.matrix = target_matrix->data();
            at.vector = target_vector->data();
          }
          require(target_numbers.size() <= 3, "target_numbers: too many");
          require(at.kind != TargetKind::banana || d >= 2, "y0: expected two columns");
          for (size_t i = 0; i < target_numbers.size(); ++i) at.numbers[i] = target_numbers[i];
        }
        if (user) {
          require(callbacks.size() == 4 && callbacks[0] && callbacks[2], "callbacks: expected four addresses");
          a.callbacks.drift = reinterpret_cast<SdeCallbacks::Function>(callbacks[0]);
          a.callbacks.drift_data = reinterpret_cast<void*>(callbacks[1]);
          a.callbacks.diffusion = reinterpret_cast<SdeCallbacks::Function>(callbacks[2]);
          a.callbacks.diffusion_data = reinterpret_cast<void*>(callbacks[3]);
        }
        if (a.method <= SdeMethod::additive) {
          require(tableau.size() == 7 || tableau.size() == 10, "tableau: expected 7 or 10 arrays");
          SdeTableau& tb = a.tableau;
          const int64_t n = size_of(tableau[0]);
          require(n >= 1 && n <= max_sde_stages, "tableau: too many stages");
          tb.stages = static_cast<int>(n);
          tb.has_error = tableau.size() == 10;
          for (size_t i = 0; i < tableau.size(); ++i)
            require(size_of(tableau[i]) == (i >= 1 && i <= 3 ? n * n : n), "tableau: sizes differ");
          auto table = [&](size_t i, double (&to)[max_sde_stages][max_sde_stages]) {
            for (int64_t r = 0; r < n; ++r)
              for (int64_t k = 0; k < n; ++k) to[r][k] = tableau[i].data()[r * n + k];
          };
          auto row = [&](size_t i, double (&to)[max_sde_stages]) {
            for (int64_t k = 0; k < n; ++k) to[k] = tableau[i].data()[k];
          };
          row(0, tb.c);
          table(1, tb.a);
          table(2, tb.w);
          table(3, tb.h);
          row(4, tb.b);
          row(5, tb.bw);
          row(6, tb.bh);
          if (tb.has_error) {
            row(7, tb.e);
            row(8, tb.ew);
            row(9, tb.eh);
          }
          bool wants_areas = a.method == SdeMethod::additive;
          for (int k = 0; k < tb.stages; ++k) {
            bool drift = tb.b[k] != 0.0 || tb.e[k] != 0.0;
            bool noise = tb.bw[k] != 0.0 || tb.bh[k] != 0.0 || tb.ew[k] != 0.0 || tb.eh[k] != 0.0;
            wants_areas = wants_areas || tb.bh[k] != 0.0 || tb.eh[k] != 0.0;
            for (int j = k + 1; j < tb.stages; ++j) {
              drift = drift || tb.a[j][k] != 0.0;
              noise = noise || tb.w[j][k] != 0.0 || tb.h[j][k] != 0.0;
              wants_areas = wants_areas || tb.h[j][k] != 0.0;
            }
            tb.uses_drift[k] = drift;
            tb.uses_diffusion[k] = noise;
          }
          require(!wants_areas || a.tree.components >= 2, "tree: expected areas");
        }
        a.doubling = doubling;
        a.friction = friction;
        a.u = u;
        require(control.size() == 14, "control: expected 14 numbers");
        SdeControl& c = a.control;
        c.kind = control[0] == 0.0 ? SdeControl::constant : control[0] == 1.0 ? SdeControl::pid : SdeControl::state;
        c.rtol = control[1];
        c.atol = control[2];
        for (size_t i = 0; i < 3; ++i) c.power[i] = control[3 + i];
        c.safety = control[6];
        c.factor_min = control[7];
        c.factor_max = control[8];
        c.dtmin = control[9];
        c.dtmax = control[10];
        c.ctol = control[11];
        c.revisit = control[12] != 0.0;
        c.fail_at_dtmin = control[13] != 0.0;
        if (c.kind != SdeControl::constant) {
          require(clocks && size_of(*clocks) == 3 * a.paths, "clocks: expected (paths, 3)");
          require(c.dtmin > 0 && c.dtmin <= c.dtmax, "control: expected 0 < dtmin <= dtmax");
          require(!c.revisit || (c.safety <= 0.9 && c.factor_min >= 0.1 && c.factor_max <= 10.0),
                  "control: expected safety <= 0.9 and factors between 0.1 and 10 with revisit");
          const bool kinetic_error = a.method == SdeMethod::align;
          const bool embedded = kinetic_error || a.method == SdeMethod::reversible_heun ||
                                (a.method <= SdeMethod::additive && a.tableau.has_error);
          require(c.kind == SdeControl::state || doubling || embedded, "method: has no error estimate");
          a.clocks = clocks->data();
        } else {
          require(!doubling, "doubling: needs adaptive steps");
        }
        a.times = times.data();
        a.save_at = save_at.data();
        for (int64_t k = 0; k < a.n_times; ++k)
          require(a.save_at[k] < a.n_saves && (k == 0 || a.times[k] > a.times[k - 1]), "times: expected to increase");
        a.y0 = y0.data();
        a.ys = ys.data();
        a.counts = counts.data();
        a.failed = failed.data();
        nb::gil_scoped_release release;
        sde_integrate<T>(a, as_queue(queue));
      },
      "tree"_a, "system"_a, "layout"_a, "parameters"_a.noconvert().none(), "target"_a,
      "target_matrix"_a.noconvert().none(), "target_vector"_a.noconvert().none(), "target_numbers"_a, "callbacks"_a,
      "method"_a, "tableau"_a.noconvert(), "doubling"_a, "friction"_a, "u"_a, "control"_a, "times"_a.noconvert(),
      "save_at"_a.noconvert(), "y0"_a.noconvert(), "ys"_a.noconvert(), "clocks"_a.noconvert().none(),
      "counts"_a.noconvert(), "failed"_a.noconvert(), "queue"_a = 0);
}
