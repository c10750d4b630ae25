// Bindings of the Brownian trees. Included by bindings.hpp inside the executor's namespace.
#pragma once

struct Tree {
  TreeArgs args;
  Cursor* cursor;

  Tree(uint64_t seed, int components, int depth, double t0, double t1, int64_t first_lane, int64_t paths, int64_t dim,
       int value_bytes) {
    require(components >= 1 && components <= 3, "levy_area: unknown");
    require(depth >= 0 && depth <= 52, "tol: depth out of range");
    require(t1 > t0, "t1: expected t1 > t0");
    require(first_lane >= 0 && paths >= 1 && dim >= 1, "shape: expected positive sizes");
    args = TreeArgs{seed, components, depth, t0, t1, first_lane, paths, dim};
    cursor = make_cursor(args, value_bytes);
  }
  ~Tree() { free_cursor(cursor); }
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;
};

template <class T>
T* checked_output(std::optional<Out<T>>& out, int64_t size) {
  if (!out) return nullptr;
  require(size_of(*out) == size, "out: wrong size");
  return out->data();
}

template <class T, class C>
void bind_tree_type(C& tree) {
  using Optional = std::optional<Out<T>>;
  tree.def(
      "increment",
      [](const Tree& self, double s, double t, Optional W, Optional H, Optional K, uintptr_t queue) {
        int64_t n = self.args.paths * self.args.dim;
        T *w = checked_output<T>(W, n), *h = checked_output<T>(H, n), *k = checked_output<T>(K, n);
        nb::gil_scoped_release release;
        tree_increment<T>(self.args, &s, &t, false, w, h, k, self.cursor, as_queue(queue));
      },
      "s"_a, "t"_a, "W"_a.noconvert().none(), "H"_a.noconvert().none(), "K"_a.noconvert().none(), "queue"_a = 0);
  tree.def(
      "increment_per_path",
      [](const Tree& self, In<double> s, In<double> t, Optional W, Optional H, Optional K, uintptr_t queue) {
        int64_t n = self.args.paths * self.args.dim;
        require(size_of(s) == self.args.paths && size_of(t) == self.args.paths, "s, t: expected one time per path");
        T *w = checked_output<T>(W, n), *h = checked_output<T>(H, n), *k = checked_output<T>(K, n);
        const double *s_data = s.data(), *t_data = t.data();
        nb::gil_scoped_release release;
        tree_increment<T>(self.args, s_data, t_data, true, w, h, k, self.cursor, as_queue(queue));
      },
      "s"_a.noconvert(), "t"_a.noconvert(), "W"_a.noconvert().none(), "H"_a.noconvert().none(),
      "K"_a.noconvert().none(), "queue"_a = 0);
  tree.def(
      "increments",
      [](const Tree& self, HostIn<double> ts, Optional W, Optional H, Optional K, uintptr_t queue) {
        int64_t times = size_of(ts);
        require(times >= 1, "ts: expected at least one time");
        int64_t n = self.args.paths * self.args.dim * (times - 1);
        T *w = checked_output<T>(W, n), *h = checked_output<T>(H, n), *k = checked_output<T>(K, n);
        const double* t = ts.data();
        nb::gil_scoped_release release;
        tree_increments<T>(self.args, t, times, w, h, k, as_queue(queue));
      },
      "ts"_a.noconvert(), "W"_a.noconvert().none(), "H"_a.noconvert().none(), "K"_a.noconvert().none(), "queue"_a = 0);
  // leaf: (terms, 4), weight: (terms,), past: (terms, terms) or None, partial: (times, terms, 4)
  tree.def(
      "fractional",
      [](const Tree& self, HostIn<double> ts, HostIn<double> leaf, HostIn<double> weight,
         std::optional<HostIn<double>> past, HostIn<double> partial, Out<T> out, uintptr_t queue) {
        int64_t times = size_of(ts), terms = size_of(weight);
        require(self.args.components == 3, "fractional: needs a tree with W, H and K");
        require(terms >= 1 && terms <= 16, "n_ou: expected 1 to 16 terms");
        require(self.args.depth <= 26, "tol: depth of a fractional tree is at most 26");
        require(size_of(leaf) == terms * 4 && size_of(partial) == times * terms * 4 &&
                    (!past || size_of(*past) == terms * terms) &&
                    size_of(out) == times * self.args.paths * self.args.dim,
                "fractional: sizes differ");
        FractionalArgs a{self.args, static_cast<int>(terms), leaf.data(), weight.data(), past ? past->data() : nullptr};
        const double *t = ts.data(), *p = partial.data();
        T* data = out.data();
        nb::gil_scoped_release release;
        fractional_values<T>(a, t, times, p, data, as_queue(queue));
      },
      "ts"_a.noconvert(), "leaf"_a.noconvert(), "weight"_a.noconvert(), "past"_a.noconvert().none(),
      "partial"_a.noconvert(), "out"_a.noconvert(), "queue"_a = 0);
}

inline void bind_brownian(nb::module_& m) {
  nb::class_<Tree> tree(m, "Tree");
  tree.def(nb::init<uint64_t, int, int, double, double, int64_t, int64_t, int64_t, int>(), "seed"_a, "components"_a,
           "depth"_a, "t0"_a, "t1"_a, "first_lane"_a, "paths"_a, "dim"_a, "value_bytes"_a);
  bind_tree_type<float>(tree);
  bind_tree_type<double>(tree);
}
