// Bindings of entropic transport. Included by bindings.hpp inside the executor's namespace.
#pragma once

template <class T>
using HostOut = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// Owns a batch of problems for Python, and keeps their arrays alive.
template <class T>
struct TransportHandle {
  std::optional<In<T>> x, y, cost;
  TransportArgs<T> args;
  std::unique_ptr<Transport<T>, void (*)(Transport<T>*)> native;

  TransportHandle(std::optional<In<T>> x_, std::optional<In<T>> y_, double power, std::optional<In<T>> cost_,
                  int64_t batch, int64_t n, int64_t m, uintptr_t queue)
      : x(x_), y(y_), cost(cost_), args{}, native(nullptr, free_transport<T>) {
    require(batch >= 0 && n >= 1 && m >= 1 && n < (int64_t{1} << 31) && m < (int64_t{1} << 31), "transport: bad sizes");
    args.batch = batch;
    args.n = n;
    args.m = m;
    if (cost) {
      require(!x && !y, "transport: expected points or a cost");
      args.cost = cost->data();
      args.cost_per_batch = size_of(*cost) == batch * n * m;
      require(args.cost_per_batch || size_of(*cost) == n * m, "cost: wrong size");
    } else {
      require(x && y && power > 0, "transport: expected points or a cost");
      args.power = power;
      args.dim = batch == 0 ? 1 : size_of(*x) / (batch * n);
      require(args.dim >= 1 && size_of(*x) == batch * n * args.dim && size_of(*y) == batch * m * args.dim,
              "x, y: wrong size");
      args.x = x->data();
      args.y = y->data();
    }
    nb::gil_scoped_release release;
    native.reset(make_transport<T>(args, as_queue(queue)));
  }
};

template <class T>
void bind_sinkhorn_type(nb::module_& m, const char* name) {
  using Handle = TransportHandle<T>;
  using Doubles = HostOut<double>;
  using Optional = std::optional<Doubles>;
  using Problems = HostIn<int64_t>;
  // The state of a call, its sizes checked.
  static constexpr auto scalings = [](Handle& h, Problems& problems, HostIn<double>& eps, Doubles& F, Doubles& G) {
    const TransportArgs<T>& a = h.args;
    require(size_of(eps) == a.batch && size_of(F) == a.batch * a.n && size_of(G) == a.batch * a.m,
            "eps, rows, cols: wrong size");
    for (int64_t p = 0; p < size_of(problems); ++p)
      require(problems.data()[p] >= 0 && problems.data()[p] < a.batch, "problems: out of range");
    return Scalings{problems.data(), size_of(problems), eps.data(), F.data(), G.data()};
  };
  static constexpr auto host = [](Optional& array, int64_t size) -> double* {
    require(!array || size_of(*array) == size, "host array: wrong size");
    return array ? array->data() : nullptr;
  };
  nb::class_<Handle>(m, name)
      .def("forget", [](Handle& h) { transport_forget<T>(*h.native); })
      .def(
          "iterate",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, int form, bool symmetric,
             double relaxation, HostIn<double> a, HostIn<double> b, HostIn<double> row_power, HostIn<double> col_power,
             int64_t max_iter, double tol, Doubles errors, HostOut<int64_t> iterations, uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            const TransportArgs<T>& args = h.args;
            require(form >= 0 && form <= 2 && (form < 2 || args.cost), "form: unknown");
            require(!symmetric || args.n == args.m, "symmetric: expected a square problem");
            require(size_of(a) == args.batch * args.n && size_of(b) == args.batch * args.m &&
                        size_of(row_power) == args.batch && size_of(col_power) == args.batch &&
                        size_of(errors) == args.batch && size_of(iterations) == args.batch,
                    "iterate: sizes differ");
            ScalingRule rule{static_cast<ScalingForm>(form),
                             symmetric,
                             relaxation,
                             a.data(),
                             b.data(),
                             row_power.data(),
                             col_power.data(),
                             max_iter,
                             tol};
            nb::gil_scoped_release release;
            transport_iterate<T>(*h.native, at, rule, errors.data(), iterations.data(), as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "form"_a,
          "symmetric"_a, "relaxation"_a, "a"_a.noconvert(), "b"_a.noconvert(), "row_power"_a.noconvert(),
          "col_power"_a.noconvert(), "max_iter"_a, "tol"_a, "errors"_a.noconvert(), "iterations"_a.noconvert(),
          "queue"_a = 0)
      .def(
          "transform",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, bool columns, Doubles out,
             uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            require(size_of(out) == h.args.batch * (columns ? h.args.m : h.args.n), "out: wrong size");
            nb::gil_scoped_release release;
            transport_transform<T>(*h.native, at, columns, out.data(), as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "columns"_a,
          "out"_a.noconvert(), "queue"_a = 0)
      .def(
          "marginals",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, Optional row_sums,
             Optional col_sums, Optional cost, uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            const TransportArgs<T>& a = h.args;
            double *r = host(row_sums, a.batch * a.n), *c = host(col_sums, a.batch * a.m), *v = host(cost, a.batch);
            nb::gil_scoped_release release;
            transport_marginals<T>(*h.native, at, r, c, v, as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(),
          "row_sums"_a.noconvert().none(), "col_sums"_a.noconvert().none(), "cost"_a.noconvert().none(), "queue"_a = 0)
      .def(
          "product",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, HostIn<double> u, HostIn<double> v,
             Doubles row_sums, Doubles col_sums, uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            const TransportArgs<T>& a = h.args;
            require(size_of(u) == a.batch * a.n && size_of(row_sums) == a.batch * a.n && size_of(v) == a.batch * a.m &&
                        size_of(col_sums) == a.batch * a.m,
                    "product: sizes differ");
            nb::gil_scoped_release release;
            transport_product<T>(*h.native, at, u.data(), v.data(), row_sums.data(), col_sums.data(), as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "u"_a.noconvert(),
          "v"_a.noconvert(), "row_sums"_a.noconvert(), "col_sums"_a.noconvert(), "queue"_a = 0)
      .def(
          "apply",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, bool transposed, In<T> values,
             int64_t columns, Out<T> out, uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            const TransportArgs<T>& a = h.args;
            int64_t from = transposed ? a.n : a.m, to = transposed ? a.m : a.n;
            require(
                columns >= 0 && size_of(values) == a.batch * from * columns && size_of(out) == a.batch * to * columns,
                "apply: sizes differ");
            if (columns == 0) return;
            nb::gil_scoped_release release;
            transport_apply<T>(*h.native, at, transposed, values.data(), columns, out.data(), as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "transposed"_a,
          "values"_a.noconvert(), "columns"_a, "out"_a.noconvert(), "queue"_a = 0)
      .def(
          "gradient",
          [](Handle& h, Problems problems, HostIn<double> eps, Doubles F, Doubles G, bool in_y, Out<T> out,
             uintptr_t queue) {
            Scalings at = scalings(h, problems, eps, F, G);
            const TransportArgs<T>& a = h.args;
            require(!a.cost && size_of(out) == a.batch * (in_y ? a.m : a.n) * a.dim, "out: wrong size");
            nb::gil_scoped_release release;
            transport_gradient<T>(*h.native, at, in_y, out.data(), as_queue(queue));
          },
          "problems"_a.noconvert(), "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "in_y"_a,
          "out"_a.noconvert(), "queue"_a = 0)
      .def(
          "plan",
          [](Handle& h, HostIn<double> eps, Doubles F, Doubles G, int64_t problem, int64_t first, int64_t last,
             Out<T> out, uintptr_t queue) {
            const TransportArgs<T>& a = h.args;
            require(size_of(eps) == a.batch && size_of(F) == a.batch * a.n && size_of(G) == a.batch * a.m,
                    "eps, rows, cols: wrong size");
            require(problem >= 0 && problem < a.batch && first >= 0 && first <= last && last <= a.n &&
                        size_of(out) == (last - first) * a.m,
                    "plan: out of range");
            Scalings at{&problem, 1, eps.data(), F.data(), G.data()};
            nb::gil_scoped_release release;
            transport_plan<T>(*h.native, at, problem, first, last, out.data(), as_queue(queue));
          },
          "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "problem"_a, "first"_a, "last"_a,
          "out"_a.noconvert(), "queue"_a = 0)
      .def(
          "kept",
          [](Handle& h, HostIn<double> eps, Doubles F, Doubles G, int64_t problem, HostIn<double> row_level,
             HostIn<double> col_level, int64_t most, uintptr_t queue) -> nb::object {
            const TransportArgs<T>& a = h.args;
            require(size_of(eps) == a.batch && size_of(F) == a.batch * a.n && size_of(G) == a.batch * a.m &&
                        size_of(row_level) == a.n && size_of(col_level) == a.m && problem >= 0 && problem < a.batch,
                    "kept: sizes differ");
            Scalings at{&problem, 1, eps.data(), F.data(), G.data()};
            auto* kept = new KeptEntries;
            nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<KeptEntries*>(p); });
            {
              nb::gil_scoped_release release;
              *kept =
                  transport_kept<T>(*h.native, at, problem, row_level.data(), col_level.data(), most, as_queue(queue));
            }
            if (!kept->complete) return nb::none();
            auto give = [&](auto& v) {
              using E = std::decay_t<decltype(v[0])>;
              size_t size = v.size();
              return nb::cast(nb::ndarray<nb::numpy, E, nb::ndim<1>>(v.data(), {size}, owner));
            };
            return nb::make_tuple(give(kept->start), give(kept->column), give(kept->value));
          },
          "eps"_a.noconvert(), "rows"_a.noconvert(), "cols"_a.noconvert(), "problem"_a, "row_level"_a.noconvert(),
          "col_level"_a.noconvert(), "most"_a, "queue"_a = 0,
          nb::sig("def kept(self, eps: object, rows: object, cols: object, problem: int, row_level: object, "
                  "col_level: object, most: int, queue: int = 0) -> "
                  "tuple[NDArray[numpy.int64], NDArray[numpy.int32], NDArray[numpy.float64]] | None"));
  m.def(
      "transport_of_points",
      [](In<T> x, In<T> y, double power, int64_t batch, int64_t n, int64_t rows_y, uintptr_t queue) {
        return nb::cast(new Handle(x, y, power, std::nullopt, batch, n, rows_y, queue), nb::rv_policy::take_ownership);
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "power"_a, "batch"_a, "n"_a, "m"_a, "queue"_a = 0);
  m.def(
      "transport_of_cost",
      [](In<T> cost, int64_t batch, int64_t n, int64_t cols, uintptr_t queue) {
        return nb::cast(new Handle(std::nullopt, std::nullopt, 0.0, cost, batch, n, cols, queue),
                        nb::rv_policy::take_ownership);
      },
      "cost"_a.noconvert(), "batch"_a, "n"_a, "m"_a, "queue"_a = 0);
}
