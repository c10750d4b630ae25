// Bindings of the interaction sums. Included by bindings.hpp inside the executor's namespace.
// A kernel arrives as a list of (kind, coefficient, scale, offset, exponent, row of metrics or -1).
#pragma once

using TermTuple = std::tuple<int, double, double, double, double, int>;

template <class T>
PairArgs<T> pair_args(const In<T>& x, const In<T>& y, const std::vector<TermTuple>& terms,
                      const std::optional<HostIn<double>>& metrics, bool exclude_self) {
  require((x.ndim() == 2 || x.ndim() == 3) && y.ndim() == x.ndim(), "x, y: expected shape (n, d) or (batch, n, d)");
  size_t lead = x.ndim() - 2;
  PairArgs<T> a{};
  a.batch = lead ? static_cast<int64_t>(x.shape(0)) : 1;
  a.n = static_cast<int64_t>(x.shape(lead));
  a.m = static_cast<int64_t>(y.shape(lead));
  a.dim = static_cast<int64_t>(x.shape(lead + 1));
  require(a.dim >= 1 && static_cast<int64_t>(y.shape(lead + 1)) == a.dim, "y: expected as many columns as x");
  require(!lead || y.shape(0) == x.shape(0), "y: expected as many problems as x");
  a.x = x.data();
  a.y = y.data();
  int64_t n_metrics = 0;
  if (metrics) {
    require(metrics->ndim() == 2 && static_cast<int64_t>(metrics->shape(1)) == a.dim, "metrics: expected shape (k, d)");
    n_metrics = static_cast<int64_t>(metrics->shape(0));
    a.metrics = metrics->data();
  }
  require(terms.size() >= 1 && terms.size() <= max_kernel_terms, "k: expected 1 to 8 terms");
  for (const TermTuple& t : terms) {
    auto [kind, coefficient, scale, offset, exponent, metric] = t;
    require(kind >= 0 && kind <= static_cast<int>(KernelKind::sinc), "k: unknown kind");
    require(metric >= -1 && metric < n_metrics, "k: no such metric");
    a.terms[a.n_terms++] = {static_cast<KernelKind>(kind), coefficient, scale, offset, exponent, metric};
  }
  a.exclude_self = exclude_self;
  return a;
}

template <class T>
PairWeights<T> pair_weights(const std::optional<In<T>>& given, int64_t columns, bool per_batch, const PairArgs<T>& a) {
  if (!given) return {nullptr, 1, false};
  require(columns >= 1 && size_of(*given) == (per_batch ? a.batch : 1) * a.m * columns, "weights: wrong size");
  return {given->data(), columns, per_batch};
}

template <class T>
T* pair_output(const std::optional<Out<T>>& out, int64_t size) {
  if (!out) return nullptr;
  require(size_of(*out) == size, "out: wrong size");
  return out->data();
}

template <class T>
const T* pair_scores(const std::optional<In<T>>& scores, int64_t size) {
  if (!scores) return nullptr;
  require(size_of(*scores) == size, "scores: wrong size");
  return scores->data();
}

template <class T>
void bind_interaction_type(nb::module_& m) {
  using Terms = const std::vector<TermTuple>&;
  using Metrics = const std::optional<HostIn<double>>&;
  using OptionalIn = std::optional<In<T>>;
  using OptionalOut = std::optional<Out<T>>;
  m.def(
      "kernel_sum",
      [](In<T> x, In<T> y, Terms terms, Metrics metrics, bool exclude_self, OptionalIn weights, int64_t columns,
         bool per_batch, Out<T> out, uintptr_t queue) {
        PairArgs<T> a = pair_args<T>(x, y, terms, metrics, exclude_self);
        PairWeights<T> w = pair_weights<T>(weights, columns, per_batch, a);
        require(size_of(out) == a.batch * a.n * w.columns, "out: wrong size");
        T* data = out.data();
        nb::gil_scoped_release release;
        kernel_sum<T>(a, w, data, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "terms"_a, "metrics"_a.noconvert().none(), "exclude_self"_a,
      "weights"_a.noconvert().none(), "columns"_a, "per_batch"_a, "out"_a.noconvert(), "queue"_a = 0);
  m.def(
      "kernel_gradient",
      [](In<T> x, In<T> y, Terms terms, Metrics metrics, bool exclude_self, OptionalIn weights, bool per_batch,
         bool in_y, OptionalOut sum, Out<T> gradient, uintptr_t queue) {
        PairArgs<T> a = pair_args<T>(x, y, terms, metrics, exclude_self);
        PairWeights<T> w = pair_weights<T>(weights, 1, per_batch, a);
        T* sums = pair_output<T>(sum, a.batch * a.n);
        require(size_of(gradient) == a.batch * a.n * a.dim, "gradient: wrong size");
        T* data = gradient.data();
        nb::gil_scoped_release release;
        return kernel_gradient<T>(a, w, in_y, sums, data, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "terms"_a, "metrics"_a.noconvert().none(), "exclude_self"_a,
      "weights"_a.noconvert().none(), "per_batch"_a, "in_y"_a, "sum"_a.noconvert().none(), "gradient"_a.noconvert(),
      "queue"_a = 0);
  m.def(
      "kernel_softmax",
      [](In<T> x, In<T> y, Terms terms, Metrics metrics, bool exclude_self, OptionalIn log_weights, bool per_batch,
         OptionalIn values, int64_t columns, bool values_per_batch, OptionalOut logsumexp, OptionalOut mean,
         uintptr_t queue) {
        PairArgs<T> a = pair_args<T>(x, y, terms, metrics, exclude_self);
        PairWeights<T> w = pair_weights<T>(log_weights, 1, per_batch, a);
        PairWeights<T> v = pair_weights<T>(values, columns, values_per_batch, a);
        for (int t = 0; t < a.n_terms; ++t) {
          KernelKind kind = a.terms[t].kind;
          require(a.terms[t].coefficient > 0.0 && kind != KernelKind::sinc && kind != KernelKind::logarithm &&
                      kind != KernelKind::polynomial,
                  "k: not positive");
        }
        T* lse = pair_output<T>(logsumexp, a.batch * a.n);
        T* means = pair_output<T>(mean, a.batch * a.n * v.columns);
        nb::gil_scoped_release release;
        return kernel_softmax<T>(a, w, v, lse, means, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "terms"_a, "metrics"_a.noconvert().none(), "exclude_self"_a,
      "log_weights"_a.noconvert().none(), "per_batch"_a, "values"_a.noconvert().none(), "columns"_a,
      "values_per_batch"_a, "logsumexp"_a.noconvert().none(), "mean"_a.noconvert().none(), "queue"_a = 0);
  m.def(
      "stein_sum",
      [](In<T> x, In<T> y, Terms terms, Metrics metrics, bool exclude_self, In<T> scores_x, In<T> scores_y,
         OptionalIn weights, int64_t columns, bool per_batch, Out<T> out, uintptr_t queue) {
        PairArgs<T> a = pair_args<T>(x, y, terms, metrics, exclude_self);
        PairWeights<T> w = pair_weights<T>(weights, columns, per_batch, a);
        require(size_of(scores_x) == a.batch * a.n * a.dim && size_of(scores_y) == a.batch * a.m * a.dim,
                "scores: wrong size");
        require(size_of(out) == a.batch * a.n * w.columns, "out: wrong size");
        for (int t = 0; t < a.n_terms; ++t) require(a.terms[t].kind != KernelKind::sinc, "k: no Stein kernel");
        const T *sx = scores_x.data(), *sy = scores_y.data();
        T* data = out.data();
        nb::gil_scoped_release release;
        stein_sum<T>(a, sx, sy, w, data, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "terms"_a, "metrics"_a.noconvert().none(), "exclude_self"_a,
      "scores_x"_a.noconvert(), "scores_y"_a.noconvert(), "weights"_a.noconvert().none(), "columns"_a, "per_batch"_a,
      "out"_a.noconvert(), "queue"_a = 0);
  m.def(
      "kernel_matrix",
      [](In<T> x, In<T> y, Terms terms, Metrics metrics, OptionalIn scores_x, OptionalIn scores_y, Out<T> out,
         uintptr_t queue) {
        PairArgs<T> a = pair_args<T>(x, y, terms, metrics, false);
        require(size_of(out) == a.batch * a.n * a.m, "out: wrong size");
        const T* sx = pair_scores<T>(scores_x, a.batch * a.n * a.dim);
        const T* sy = pair_scores<T>(scores_y, a.batch * a.m * a.dim);
        require(!sx == !sy, "scores: expected both or none");
        for (int t = 0; t < a.n_terms; ++t) require(!sx || a.terms[t].kind != KernelKind::sinc, "k: no Stein kernel");
        T* data = out.data();
        nb::gil_scoped_release release;
        kernel_matrix<T>(a, sx, sy, data, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "terms"_a, "metrics"_a.noconvert().none(), "scores_x"_a.noconvert().none(),
      "scores_y"_a.noconvert().none(), "out"_a.noconvert(), "queue"_a = 0);
  m.def(
      "nearest",
      [](In<T> x, In<T> y, Metrics metrics, bool exclude_self, int count, Out<int64_t> index, Out<T> distance,
         uintptr_t queue) {
        TermTuple term{static_cast<int>(KernelKind::square_root), 1.0, 1.0, 0.0, 0.5, metrics ? 0 : -1};
        PairArgs<T> a = pair_args<T>(x, y, {term}, metrics, exclude_self);
        require(count >= 1 && size_of(index) == a.batch * a.n * count && size_of(distance) == size_of(index),
                "nearest: wrong size");
        int64_t* indices = index.data();
        T* distances = distance.data();
        nb::gil_scoped_release release;
        nearest<T>(a, count, indices, distances, as_queue(queue));
      },
      "x"_a.noconvert(), "y"_a.noconvert(), "metrics"_a.noconvert().none(), "exclude_self"_a, "count"_a,
      "index"_a.noconvert(), "distance"_a.noconvert(), "queue"_a = 0);
  m.def(
      "pair_median",
      [](In<T> x, uintptr_t queue) {
        require(x.ndim() == 2 && x.shape(0) >= 2 && x.shape(1) >= 1, "x: expected shape (n, d), n >= 2");
        const T* data = x.data();
        int64_t n = static_cast<int64_t>(x.shape(0)), dim = static_cast<int64_t>(x.shape(1));
        double lower = 0.0, upper = 0.0;
        {
          nb::gil_scoped_release release;
          pair_median<T>(data, n, dim, &lower, &upper, as_queue(queue));
        }
        return std::make_tuple(lower, upper);
      },
      "x"_a.noconvert(), "queue"_a = 0);
}
