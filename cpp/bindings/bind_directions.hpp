// Bindings of the slicing directions, of the CPU module only. Included by core_module.cpp.
#pragma once

#include "bindings.hpp"
#include "mckean/directions.hpp"

namespace mk {
namespace cpu {

template <class T>
void bind_directions_type(nb::module_& m) {
  m.def(
      "directions",
      [](int kind, uint64_t seed, Out<T> out) {
        require(kind >= 0 && kind <= 2 && out.ndim() == 2, "directions: bad arguments");
        int64_t count = static_cast<int64_t>(out.shape(0)), dim = static_cast<int64_t>(out.shape(1));
        require(count >= 1 && dim >= 2, "directions: expected at least one direction, two dimensions");
        require(kind != 2 || (count <= int64_t{1} << 32 && dim <= sobol_max_dim), "directions: beyond Sobol points");
        T* data = out.data();
        nb::gil_scoped_release release;
        directions<T>(static_cast<DirectionKind>(kind), seed, count, dim, data);
      },
      "kind"_a, "seed"_a, "out"_a.noconvert());
}

inline void bind_directions(nb::module_& m) {
  bind_directions_type<float>(m);
  bind_directions_type<double>(m);
  m.def(
      "sobol_points",  // for tests
      [](Out<uint32_t> out) {
        require(out.ndim() == 2, "sobol_points: bad arguments");
        int64_t count = static_cast<int64_t>(out.shape(0)), dim = static_cast<int64_t>(out.shape(1));
        require(count >= 1 && count <= int64_t{1} << 31 && dim >= 1 && dim <= sobol_max_dim, "sobol_points: bad sizes");
        uint32_t* data = out.data();
        nb::gil_scoped_release release;
        sobol_points(count, dim, data);
      },
      "out"_a.noconvert());
  m.def("normal_quantile", [](double u) { return normal_quantile<double>(u); }, "u"_a);  // for tests
}

}  // namespace cpu
}  // namespace mk
