// Bindings of self-repellent walks. Included by bindings.hpp inside the executor's namespace. What CSR arrays and positions
// hold was checked in python/mckean.
#pragma once

template <class T>
void bind_walk_type(nb::module_& m) {
  using Loss = std::tuple<int, In<int64_t>, In<T>, In<T>, double, HostIn<double>, In<T>, Out<T>>;
  // graph: indptr, indices, chances of the base chain, 1 / (nodes * target).
  // loss: kind, rows of the nodes (nodes + 1,), rows, labels, l2, rates (steps,), theta_in, theta
  m.def(
      "walk",
      [](std::tuple<In<int64_t>, In<int64_t>, In<double>, In<double>> graph, double alpha, bool shared,
         HostIn<double> deposit, HostIn<double> scale, In<T> x_in, Out<T> x, In<double> mass_in, Out<double> mass,
         double shrink, double floor, std::optional<Out<int64_t>> path, int64_t path_row, std::optional<Loss> loss,
         uint64_t seed, uint64_t stream, uint64_t counter, uintptr_t queue) {
        auto& [indptr, indices, chance, inverse] = graph;
        WalkArgs<T> a{};
        a.graph = {size_of(inverse), indptr.data(), indices.data(), chance.data(), inverse.data()};
        a.alpha = alpha;
        a.walkers = size_of(x);
        a.steps = size_of(deposit);
        a.shared = shared;
        a.deposit = deposit.data();
        a.scale = scale.data();
        a.x_in = x_in.data();
        a.x = x.data();
        a.mass_in = mass_in.data();
        a.mass = mass.data();
        a.shrink = shrink;
        a.floor = floor;
        if (path) {
          require(path_row >= 0 && path->ndim() == 2 && static_cast<int64_t>(path->shape(1)) == a.walkers &&
                      path_row + a.steps <= static_cast<int64_t>(path->shape(0)),
                  "path: wrong size");
          a.path = path->data() + path_row * a.walkers;
        }
        a.loss.kind = NodeLoss::none;
        int64_t masses = (shared ? 1 : a.walkers) * a.graph.nodes;
        require(a.graph.nodes >= 1 && size_of(indptr) == a.graph.nodes + 1 && size_of(indices) == size_of(chance) &&
                    size_of(scale) == a.steps && size_of(x_in) == a.walkers && size_of(mass_in) == masses &&
                    size_of(mass) == masses,
                "walk: sizes differ");
        if (loss) {
          auto& [kind, start, rows, labels, l2, rate, theta_in, theta] = *loss;
          require(kind == 0 || kind == 1, "walk: unknown loss");
          require(rows.ndim() == 2 && rows.shape(1) >= 1, "rows: expected shape (rows, d)");
          a.loss = {static_cast<NodeLoss>(kind),
                    static_cast<int64_t>(rows.shape(1)),
                    start.data(),
                    rows.data(),
                    labels.data(),
                    static_cast<T>(l2),
                    rate.data(),
                    theta_in.data(),
                    theta.data()};
          require(size_of(start) == a.graph.nodes + 1 && labels.size() == rows.shape(0) && size_of(rate) == a.steps &&
                      size_of(theta) == a.walkers * a.loss.dim && size_of(theta_in) == size_of(theta),
                  "walk: sizes of the loss differ");
        }
        a.key = stream_key(seed, stream);
        a.counter = counter;
        nb::gil_scoped_release release;
        walk<T>(a, as_queue(queue));
      },
      "graph"_a.noconvert(), "alpha"_a, "shared"_a, "deposit"_a.noconvert(), "scale"_a.noconvert(),
      "x_in"_a.noconvert(), "x"_a.noconvert(), "mass_in"_a.noconvert(), "mass"_a.noconvert(), "shrink"_a, "floor"_a,
      "path"_a.noconvert().none(), "path_row"_a, "loss"_a.noconvert().none(), "seed"_a, "stream"_a, "counter"_a,
      "queue"_a = 0);
}
