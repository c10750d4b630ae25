// Bindings of the sliced distances. Included by bindings.hpp inside the executor's namespace.
#pragma once

// Owns the sorted projections of a target for Python.
template <class T>
struct SlicedTargetHandle {
  SlicedTarget* target;
  int64_t m, dim, slices;
  int kind;
  double exponent;
  explicit SlicedTargetHandle(const SlicedArgs<T>& a, Queue queue)
      : target(make_sliced_target<T>(a, queue)),
        m(a.m),
        dim(a.dim),
        slices(a.slices),
        kind(static_cast<int>(a.kind)),
        exponent(a.exponent) {}
  SlicedTargetHandle(const SlicedTargetHandle&) = delete;
  SlicedTargetHandle& operator=(const SlicedTargetHandle&) = delete;
  ~SlicedTargetHandle() { free_sliced_target(target); }
};

constexpr int64_t sliced_most = int64_t{1} << 31;  // records hold a point's number in 32 bits

inline void check_sliced_kind(int kind, double exponent) {
  require(kind == 0 ? exponent > 0.0 && exponent < 2.0 : kind == 1 && exponent >= 1.0 && exponent < 1e300,
          "sliced: bad kind or exponent");
}

template <class T>
void bind_sliced_type(nb::module_& m, const char* target_name) {
  using Target = SlicedTargetHandle<T>;
  using OptionalIn = std::optional<In<T>>;
  using OptionalWeights = std::optional<In<double>>;
  nb::class_<Target>(m, target_name);
  m.def(
      "sliced_target",
      [](int kind, double exponent, In<T> y, In<T> directions, OptionalWeights y_weights, uintptr_t queue) {
        check_sliced_kind(kind, exponent);
        require(y.ndim() == 2 && directions.ndim() == 2, "y, directions: expected two axes");
        SlicedArgs<T> a{};
        a.kind = static_cast<SlicedKind>(kind);
        a.exponent = exponent;
        a.batch = 1;
        a.m = static_cast<int64_t>(y.shape(0));
        a.dim = static_cast<int64_t>(y.shape(1));
        a.slices = static_cast<int64_t>(directions.shape(0));
        require(a.m < sliced_most, "y: expected fewer than 2^31 points");
        require(a.m >= 1 && a.dim >= 1 && a.slices >= 1 && static_cast<int64_t>(directions.shape(1)) == a.dim &&
                    (!y_weights || size_of(*y_weights) == a.m),
                "sliced_target: sizes differ");
        a.y = y.data();
        a.directions = directions.data();
        a.y_weights = y_weights ? y_weights->data() : nullptr;
        std::unique_ptr<Target> made;
        {
          nb::gil_scoped_release release;
          made.reset(new Target(a, as_queue(queue)));
        }
        return nb::cast(made.release(), nb::rv_policy::take_ownership);
      },
      "kind"_a, "exponent"_a, "y"_a.noconvert(), "directions"_a.noconvert(), "y_weights"_a.noconvert().none(),
      "queue"_a = 0);
  m.def(
      "sliced",
      [](int kind, double exponent, In<T> x, OptionalIn y, OptionalIn directions, OptionalWeights x_weights,
         OptionalWeights y_weights, Target* target, double scale, bool root, Out<double> values,
         std::optional<Out<T>> gradient, std::optional<nb::ndarray<double, nb::c_contig, nb::device::cpu>> stages,
         uintptr_t queue) {
        check_sliced_kind(kind, exponent);
        require(x.ndim() == 2 || x.ndim() == 3, "x: expected shape (n, d) or (batch, n, d)");
        size_t lead = x.ndim() - 2;
        SlicedArgs<T> a{};
        a.kind = static_cast<SlicedKind>(kind);
        a.exponent = exponent;
        a.batch = lead ? static_cast<int64_t>(x.shape(0)) : 1;
        a.n = static_cast<int64_t>(x.shape(lead));
        a.dim = static_cast<int64_t>(x.shape(lead + 1));
        a.x = x.data();
        a.scale = scale;
        a.root = root;
        if (target) {
          require(!y && !directions && !y_weights, "target: excludes y, directions and y_weights");
          require(target->dim == a.dim && target->kind == kind && (kind == 1 || target->exponent == exponent),
                  "target: made for something else");
          a.target = target->target;
          a.m = target->m;
          a.slices = target->slices;
        } else {
          require(y && directions && (y->ndim() == 2 || y->ndim() == x.ndim()) && directions->ndim() == 2,
                  "y, directions: expected with as many axes as x");
          a.y_per_batch = y->ndim() == 3;
          size_t skip = y->ndim() - 2;
          require(!a.y_per_batch || static_cast<int64_t>(y->shape(0)) == a.batch, "y: expected as many problems as x");
          a.m = static_cast<int64_t>(y->shape(skip));
          a.slices = static_cast<int64_t>(directions->shape(0));
          require(
              static_cast<int64_t>(y->shape(skip + 1)) == a.dim && static_cast<int64_t>(directions->shape(1)) == a.dim,
              "y, directions: expected as many columns as x");
          require(!y_weights || size_of(*y_weights) == (a.y_per_batch ? a.batch : 1) * a.m, "y_weights: wrong size");
          a.y = y->data();
          a.directions = directions->data();
          a.y_weights = y_weights ? y_weights->data() : nullptr;
        }
        require(a.n < sliced_most && a.m < sliced_most && a.n + a.m < sliced_most,
                "x, y: expected fewer than 2^31 points");
        require(a.n >= 1 && a.m >= 1 && a.dim >= 1 && a.slices >= 1, "sliced: empty");
        require(!x_weights || size_of(*x_weights) == a.batch * a.n, "x_weights: wrong size");
        a.x_weights = x_weights ? x_weights->data() : nullptr;
        require(size_of(values) == a.batch * a.slices, "values: wrong size");
        a.values = values.data();
        if (gradient) {
          require(size_of(*gradient) == a.batch * a.n * a.dim, "gradient: wrong size");
          a.gradient = gradient->data();
        }
        if (stages) {
          require(size_of(*stages) == sliced_stages, "stages: wrong size");
          a.stages = stages->data();
        }
        if (a.batch == 0) return;
        nb::gil_scoped_release release;
        sliced<T>(a, as_queue(queue));
      },
      "kind"_a, "exponent"_a, "x"_a.noconvert(), "y"_a.noconvert().none(), "directions"_a.noconvert().none(),
      "x_weights"_a.noconvert().none(), "y_weights"_a.noconvert().none(), "target"_a.none(), "scale"_a, "root"_a,
      "values"_a.noconvert(), "gradient"_a.noconvert().none(), "stages"_a.noconvert().none() = nb::none(),
      "queue"_a = 0);
}
