// Bindings of the low-rank models. Included by bindings.hpp inside the executor's namespace.
#pragma once

template <class T, class Array>
Tall<T> tall(const Array& a, bool rows, int64_t dim) {
  require(a.ndim() == 2 && static_cast<int64_t>(a.shape(rows ? 1 : 0)) == dim, "tall matrix: wrong shape");
  return {a.data(), static_cast<int64_t>(a.shape(rows ? 0 : 1)), rows};
}

template <class T>
void lowrank_model(LowRankArgs<T>& a, const In<T>& U, const In<T>& s, const HostIn<double>& t) {
  require(U.ndim() == 2 || U.ndim() == 3, "U: expected shape (d, k) or (batch, d, k)");
  size_t lead = U.ndim() - 2;
  a.batch = lead ? static_cast<int64_t>(U.shape(0)) : 1;
  a.dim = static_cast<int64_t>(U.shape(lead));
  a.rank = static_cast<int64_t>(U.shape(lead + 1));
  require(size_of(s) == a.batch * a.rank, "s: wrong size");
  require(size_of(t) == 1 || size_of(t) == a.batch, "t: expected one number, or one for each model");
  a.t_per_batch = size_of(t) != 1;
  a.U = U.data();
  a.s = s.data();
  a.t = t.data();
}

inline Spectral as_spectral(int f) {
  require(f >= 0 && f <= static_cast<int>(Spectral::precondition), "function: unknown");
  return static_cast<Spectral>(f);
}

template <class T>
void bind_lowrank_type(nb::module_& m) {
  using HostOut = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
  m.def(
      "lanczos_step",
      [](Out<T> basis, int64_t count, Out<T> w, bool recurrence, double beta, int passes, double least,
         HostOut coefficients, uintptr_t queue) {
        require(basis.ndim() == 2 && count >= 0 && count < static_cast<int64_t>(basis.shape(0)),
                "basis: expected room for one more row");
        int64_t dim = static_cast<int64_t>(basis.shape(1));
        require(size_of(w) == dim && size_of(coefficients) >= count, "lanczos_step: sizes differ");
        require(passes >= 0 && passes <= 2, "passes: expected 0, 1 or 2");
        LanczosArgs<T> a{dim, count, basis.data(), w.data(), recurrence, beta, passes, least, coefficients.data()};
        LanczosStep done;
        {
          nb::gil_scoped_release release;
          done = lanczos_step<T>(a, as_queue(queue));
        }
        return std::make_tuple(done.norm, done.passes);
      },
      "basis"_a.noconvert(), "count"_a, "w"_a.noconvert(), "recurrence"_a, "beta"_a, "passes"_a, "least"_a,
      "coefficients"_a.noconvert(), "queue"_a = 0);
  m.def(
      "tall_gram",
      [](In<T> A, bool a_rows, In<T> B, bool b_rows, HostOut out, uintptr_t queue) {
        require(A.ndim() == 2, "A: expected two axes");
        int64_t dim = static_cast<int64_t>(A.shape(a_rows ? 1 : 0));
        Tall<T> x = tall<T>(A, a_rows, dim), y = tall<T>(B, b_rows, dim);
        require(size_of(out) == x.columns * y.columns, "out: wrong size");
        double* data = out.data();
        nb::gil_scoped_release release;
        tall_gram<T>(dim, x, y, data, as_queue(queue));
      },
      "A"_a.noconvert(), "a_rows"_a, "B"_a.noconvert(), "b_rows"_a, "out"_a.noconvert(), "queue"_a = 0);
  m.def(
      "tall_multiply",
      [](In<T> A, bool a_rows, HostIn<double> M, bool add, Out<T> out, bool out_rows, uintptr_t queue) {
        require(A.ndim() == 2 && M.ndim() == 2, "A, M: expected two axes");
        int64_t dim = static_cast<int64_t>(A.shape(a_rows ? 1 : 0)), columns = static_cast<int64_t>(M.shape(1));
        Tall<T> x = tall<T>(A, a_rows, dim), y = tall<T>(out, out_rows, dim);
        require(static_cast<int64_t>(M.shape(0)) == x.columns && y.columns == columns, "tall_multiply: sizes differ");
        const double* middle = M.data();
        T* data = out.data();
        nb::gil_scoped_release release;
        tall_multiply<T>(dim, x, middle, columns, add, out_rows, data, as_queue(queue));
      },
      "A"_a.noconvert(), "a_rows"_a, "M"_a.noconvert(), "add"_a, "out"_a.noconvert(), "out_rows"_a, "queue"_a = 0);
  m.def(
      "orient_columns",
      [](Out<T> U, uintptr_t queue) {
        require(U.ndim() == 2, "U: expected shape (d, k)");
        int64_t dim = static_cast<int64_t>(U.shape(0)), columns = static_cast<int64_t>(U.shape(1));
        T* data = U.data();
        nb::gil_scoped_release release;
        if (dim * columns > 0) orient_columns<T>(dim, columns, data, as_queue(queue));
      },
      "U"_a.noconvert(), "queue"_a = 0);
  m.def(
      "lowrank_apply",
      [](In<T> U, In<T> s, HostIn<double> t, std::optional<HostIn<double>> least, std::vector<int> functions,
         std::vector<double> scales, std::vector<std::optional<In<T>>> arrays, Out<T> out, uint64_t seed,
         uint64_t stream, uint64_t counter, uintptr_t queue) {
        LowRankArgs<T> a{};
        lowrank_model(a, U, s, t);
        size_t n = functions.size();
        require(n >= 1 && n <= static_cast<size_t>(max_spectral_terms) && scales.size() == n && arrays.size() == n,
                "functions: expected 1 to 4, with as many scales and arrays");
        int64_t size = size_of(out), each = a.batch * a.dim;
        require(each > 0 ? size % each == 0 : size == 0, "out: wrong size");
        a.rows = each > 0 ? size / each : 0;
        a.vectors = out.ndim() + 1 == U.ndim();
        require(!least || size_of(*least) == size_of(t), "least: expected as many numbers as t");
        a.least = least ? least->data() : nullptr;
        a.n_terms = static_cast<int>(n);
        for (size_t i = 0; i < n; ++i) {
          require(!arrays[i] || size_of(*arrays[i]) == size, "arrays: wrong size");
          a.terms[i] = {as_spectral(functions[i]), scales[i], arrays[i] ? arrays[i]->data() : nullptr};
          require(a.terms[i].function != Spectral::precondition || least, "least: missing");
        }
        a.key = stream_key(seed, stream);
        a.counter = counter;
        a.out = out.data();
        nb::gil_scoped_release release;
        if (size > 0) lowrank_apply<T>(a, as_queue(queue));
      },
      "U"_a.noconvert(), "s"_a.noconvert(), "t"_a.noconvert(), "least"_a.noconvert().none(), "functions"_a, "scales"_a,
      "arrays"_a.noconvert(), "out"_a.noconvert(), "seed"_a = 0, "stream"_a = 0, "counter"_a = 0, "queue"_a = 0);
  m.def(
      "lowrank_quadratic",
      [](In<T> U, In<T> s, HostIn<double> t, int function, In<T> b, Out<double> out, uintptr_t queue) {
        LowRankArgs<T> a{};
        lowrank_model(a, U, s, t);
        require(a.dim >= 1 && size_of(out) % (a.batch > 0 ? a.batch : 1) == 0, "out: wrong size");
        a.rows = a.batch > 0 ? size_of(out) / a.batch : 0;
        require(size_of(b) == a.batch * a.rows * a.dim, "b: wrong size");
        a.n_terms = 1;
        a.terms[0] = {as_spectral(function), 1.0, b.data()};
        require(a.terms[0].function != Spectral::precondition, "function: not this one");
        double* data = out.data();
        nb::gil_scoped_release release;
        if (a.batch * a.rows > 0) lowrank_quadratic<T>(a, data, as_queue(queue));
      },
      "U"_a.noconvert(), "s"_a.noconvert(), "t"_a.noconvert(), "function"_a, "b"_a.noconvert(), "out"_a.noconvert(),
      "queue"_a = 0);
  m.def(
      "woodbury",
      [](In<T> W, std::optional<In<T>> diagonal, HostIn<double> t, int function, std::optional<In<T>> b,
         std::optional<Out<T>> out, std::optional<Out<double>> logdet, uintptr_t queue) {
        require(W.ndim() == 3, "W: expected shape (batch, d, k)");
        WoodburyArgs<T> a{};
        a.batch = static_cast<int64_t>(W.shape(0));
        a.dim = static_cast<int64_t>(W.shape(1));
        a.rank = static_cast<int64_t>(W.shape(2));
        a.W = W.data();
        if (diagonal) {
          require(size_of(*diagonal) == a.dim || size_of(*diagonal) == a.batch * a.dim, "diagonal: wrong size");
          a.diagonal = diagonal->data();
          a.diagonal_per_batch = diagonal->ndim() == 2;
          require(size_of(*diagonal) == (a.diagonal_per_batch ? a.batch : 1) * a.dim, "diagonal: wrong size");
        }
        require(size_of(t) == 1 || size_of(t) == a.batch, "t: expected one number, or one for each model");
        a.t = t.data();
        a.t_per_batch = size_of(t) != 1;
        a.function = as_spectral(function);
        require(a.function == Spectral::solve || a.function == Spectral::sqrt_solve, "function: not this one");
        require(b.has_value() == out.has_value(), "b, out: expected both or neither");
        if (b) {
          require(size_of(*b) == a.batch * a.dim && size_of(*out) == a.batch * a.dim, "b, out: wrong size");
          a.b = b->data();
          a.out = out->data();
        }
        if (logdet) {
          require(size_of(*logdet) == a.batch, "logdet: wrong size");
          a.logdet = logdet->data();
        }
        nb::gil_scoped_release release;
        return a.batch > 0 ? woodbury<T>(a, as_queue(queue)) : int64_t{0};
      },
      "W"_a.noconvert(), "diagonal"_a.noconvert().none(), "t"_a.noconvert(), "function"_a, "b"_a.noconvert().none(),
      "out"_a.noconvert().none(), "logdet"_a.noconvert().none(), "queue"_a = 0);
  m.def(
      "gram_factor",
      [](In<T> W, Out<T> U, Out<T> s, uintptr_t queue) {
        require(W.ndim() == 3, "W: expected shape (batch, d, k)");
        int64_t batch = static_cast<int64_t>(W.shape(0)), dim = static_cast<int64_t>(W.shape(1)),
                rank = static_cast<int64_t>(W.shape(2));
        require(size_of(U) == batch * dim * rank && size_of(s) == batch * rank, "U, s: wrong size");
        const T* w = W.data();
        T *u = U.data(), *values = s.data();
        nb::gil_scoped_release release;
        if (batch * rank > 0) gram_factor<T>(batch, dim, rank, w, u, values, as_queue(queue));
      },
      "W"_a.noconvert(), "U"_a.noconvert(), "s"_a.noconvert(), "queue"_a = 0);
  m.def(
      "levenberg_marquardt_rows",
      [](In<T> e, In<T> previous, int rule, double value, double kappa, Out<T> out, uintptr_t queue) {
        require(e.ndim() == 2, "e: expected shape (n, d)");
        require(rule >= 0 && rule <= 2, "rule: unknown");
        require(size_of(previous) == size_of(e) && size_of(out) == size_of(e), "previous, out: wrong size");
        DirectionArgs<T> a{static_cast<int64_t>(e.shape(0)),
                           static_cast<int64_t>(e.shape(1)),
                           e.data(),
                           previous.data(),
                           static_cast<DampingRule>(rule),
                           value,
                           kappa,
                           out.data()};
        nb::gil_scoped_release release;
        levenberg_marquardt_rows<T>(a, as_queue(queue));
      },
      "e"_a.noconvert(), "previous"_a.noconvert(), "rule"_a, "value"_a, "kappa"_a, "out"_a.noconvert(), "queue"_a = 0);
}
