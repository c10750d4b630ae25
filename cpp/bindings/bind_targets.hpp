// Bindings of the built-in targets. Included by bindings.hpp inside the executor's namespace.
#pragma once

template <class T>
TargetPoints<T> target_points(const In<T>& x, std::optional<Out<T>>& density, std::optional<Out<T>>& gradient) {
  require(x.ndim() == 2, "x: expected shape (n, d)");
  int64_t n = static_cast<int64_t>(x.shape(0)), dim = static_cast<int64_t>(x.shape(1));
  require(dim >= 1, "x: expected at least one column");
  return {n, dim, x.data(), checked_output<T>(density, n), checked_output<T>(gradient, n * dim)};
}

template <class T>
void bind_targets_type(nb::module_& m) {
  using Optional = std::optional<Out<T>>;
  // whitening: (k, d, d) lower triangular, or (k, d) diagonals
  m.def(
      "gaussian_mixture",
      [](In<T> x, In<T> means, In<T> whitening, In<double> constants, Optional density, Optional gradient,
         uintptr_t queue) {
        MixtureArgs<T> a{target_points<T>(x, density, gradient),
                         size_of(constants),
                         whitening.ndim() == 3,
                         means.data(),
                         whitening.data(),
                         constants.data()};
        int64_t d = a.at.dim, k = a.components;
        require(k >= 1 && size_of(means) == k * d && size_of(whitening) == k * d * (a.full ? d : 1),
                "gaussian_mixture: sizes differ");
        nb::gil_scoped_release release;
        gaussian_mixture<T>(a, as_queue(queue));
      },
      "x"_a.noconvert(), "means"_a.noconvert(), "whitening"_a.noconvert(), "constants"_a.noconvert(),
      "density"_a.noconvert().none(), "gradient"_a.noconvert().none(), "queue"_a = 0);
  m.def(
      "funnel",
      [](In<T> x, double precision, double constant, Optional density, Optional gradient, uintptr_t queue) {
        FunnelArgs<T> a{target_points<T>(x, density, gradient), static_cast<T>(precision), static_cast<T>(constant)};
        nb::gil_scoped_release release;
        funnel<T>(a, as_queue(queue));
      },
      "x"_a.noconvert(), "precision"_a, "constant"_a, "density"_a.noconvert().none(), "gradient"_a.noconvert().none(),
      "queue"_a = 0);
  m.def(
      "banana",
      [](In<T> x, double precision, double curvature, double offset, double constant, Optional density,
         Optional gradient, uintptr_t queue) {
        BananaArgs<T> a{target_points<T>(x, density, gradient), static_cast<T>(precision), static_cast<T>(curvature),
                        static_cast<T>(offset), static_cast<T>(constant)};
        require(a.at.dim >= 2, "x: expected at least two columns");
        nb::gil_scoped_release release;
        banana<T>(a, as_queue(queue));
      },
      "x"_a.noconvert(), "precision"_a, "curvature"_a, "offset"_a, "constant"_a, "density"_a.noconvert().none(),
      "gradient"_a.noconvert().none(), "queue"_a = 0);
  m.def(
      "logistic_regression",
      [](In<T> x, In<T> signed_rows, In<T> precision, double constant, Optional density, Optional gradient,
         uintptr_t queue) {
        require(signed_rows.ndim() == 2, "signed_rows: expected shape (m, d)");
        LogisticArgs<T> a{target_points<T>(x, density, gradient), static_cast<int64_t>(signed_rows.shape(0)),
                          signed_rows.data(), precision.data(), constant};
        require(a.rows >= 1 && size_of(signed_rows) == a.rows * a.at.dim && size_of(precision) == a.at.dim,
                "logistic_regression: sizes differ");
        nb::gil_scoped_release release;
        logistic_regression<T>(a, as_queue(queue));
      },
      "x"_a.noconvert(), "signed_rows"_a.noconvert(), "precision"_a.noconvert(), "constant"_a,
      "density"_a.noconvert().none(), "gradient"_a.noconvert().none(), "queue"_a = 0);
}
