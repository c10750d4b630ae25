// Bindings of stochastic differential equations. Included by bindings.hpp inside the executor's namespace.
#pragma once

template <class T>
void bind_sde_type(nb::module_& m) {
  using Optional = std::optional<In<T>>;
  m.def(
      "sde_update",
      [](int layout, Optional base, std::vector<In<T>> drifts, std::vector<double> a, std::optional<In<double>> steps,
         double step, std::vector<In<T>> diffusions, std::vector<double> p, std::vector<double> q, Optional W, Optional H,
         Out<T> out, uintptr_t queue) {
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
}
