// Bindings of an executor, written once: core_module.cpp includes this for the CPU, cuda/cuda_module.cpp for CUDA. Shapes
// and values were checked in python/mckean; here only what would touch memory out of bounds is checked again.
// Loops live in the executors, never here: nanobind compiles this file for size.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "mckean/executor.hpp"
#include "mckean/philox.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mk {
namespace MK_EXECUTOR {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, Device>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, Device>;
template <class T>
using HostIn = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;

inline Queue as_queue(uintptr_t handle) { return reinterpret_cast<Queue>(handle); }

inline void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

template <class Array>
int64_t size_of(const Array& a) {
  return static_cast<int64_t>(a.size());
}

// ---- random numbers -------------------------------------------------------------------------------------------------

template <class T>
void bind_random_type(nb::module_& m) {
  m.def(
      "fill_uniform",
      [](Out<T> out, uint64_t seed, uint64_t stream, uint64_t counter, uint64_t first, uintptr_t queue) {
        T* data = out.data();
        int64_t n = size_of(out);
        nb::gil_scoped_release release;
        fill_uniform<T>(data, n, first, stream_key(seed, stream), counter, as_queue(queue));
      },
      "out"_a.noconvert(), "seed"_a, "stream"_a, "counter"_a, "first"_a, "queue"_a = 0);
  m.def(
      "fill_normal",
      [](Out<T> out, uint64_t seed, uint64_t stream, uint64_t counter, uint64_t first, uintptr_t queue) {
        T* data = out.data();
        int64_t n = size_of(out);
        nb::gil_scoped_release release;
        fill_normal<T>(data, n, first, stream_key(seed, stream), counter, as_queue(queue));
      },
      "out"_a.noconvert(), "seed"_a, "stream"_a, "counter"_a, "first"_a, "queue"_a = 0);
  m.def(
      "step_noise",
      [](std::vector<Out<T>> outs, std::vector<double> scales, uint64_t seed, uint64_t counter, uintptr_t queue) {
        require(outs.size() >= 1 && outs.size() <= 3 && scales.size() == outs.size(), "outs: expected 1 to 3 arrays");
        T* data[3] = {};
        T scale[3] = {};
        for (size_t c = 0; c < outs.size(); ++c) {
          require(outs[c].size() == outs[0].size(), "outs: sizes differ");
          data[c] = outs[c].data();
          scale[c] = static_cast<T>(scales[c]);
        }
        int64_t n = size_of(outs[0]);
        nb::gil_scoped_release release;
        step_noise<T>(data, scale, static_cast<int>(outs.size()), n, seed, counter, as_queue(queue));
      },
      "outs"_a.noconvert(), "scales"_a, "seed"_a, "counter"_a, "queue"_a = 0);
}

inline void bind_random(nb::module_& m) {
  m.def(
      "random_words",
      [](Out<uint32_t> out, uint64_t seed, uint64_t stream, uint64_t counter, uint64_t first, uintptr_t queue) {
        uint32_t* data = out.data();
        int64_t n = size_of(out);
        nb::gil_scoped_release release;
        fill_words(data, n, first, stream_key(seed, stream), counter, as_queue(queue));
      },
      "out"_a.noconvert(), "seed"_a, "stream"_a, "counter"_a, "first"_a, "queue"_a = 0);
  bind_random_type<float>(m);
  bind_random_type<double>(m);
}

// ---- fused stepping -------------------------------------------------------------------------------------------------

template <class T>
void bind_stepping_type(nb::module_& m) {
  using RowCoefficient = std::tuple<int, int, In<T>>;
  using RowNoise = std::tuple<int, In<T>>;
  m.def(
      "combine",
      [](std::vector<Out<T>> outs, std::vector<In<T>> arrays, HostIn<double> coefficients,
         std::vector<RowCoefficient> row_coefficients, HostIn<double> noise_scales, std::vector<RowNoise> row_noise,
         int64_t rows, int64_t cols, uint64_t seed, uint64_t stream, uint64_t counter, uintptr_t queue) {
        CombineArgs<T> a{};
        int n_outs = static_cast<int>(outs.size()), n_arrays = static_cast<int>(arrays.size());
        require(n_outs >= 1 && n_outs <= max_combine_outputs, "coefficients: expected 1 to 8 outputs");
        require(n_arrays <= max_combine_arrays, "arrays: expected at most 16");
        require(size_of(coefficients) == n_outs * n_arrays, "coefficients: expected shape (outputs, arrays)");
        require(size_of(noise_scales) == n_outs, "noise_scale: expected one per output");
        require(rows >= 0 && cols >= 0, "rows, cols: negative");
        a.n_outputs = n_outs;
        a.n_arrays = n_arrays;
        a.rows = rows;
        a.cols = cols;
        for (int j = 0; j < n_outs; ++j) {
          require(size_of(outs[j]) == rows * cols, "out: wrong size");
          a.outs[j] = outs[j].data();
          for (int k = 0; k < n_arrays; ++k)
            a.coefficients[j * max_combine_arrays + k] = static_cast<T>(coefficients.data()[j * n_arrays + k]);
          a.noise[j] = static_cast<T>(noise_scales.data()[j]);
          a.draws = a.draws || noise_scales.data()[j] != 0.0;
        }
        for (int k = 0; k < n_arrays; ++k) {
          require(size_of(arrays[k]) == rows * cols, "arrays: wrong size");
          a.arrays[k] = arrays[k].data();
        }
        for (auto& [j, k, array] : row_coefficients) {
          require(j >= 0 && j < n_outs && k >= 0 && k < n_arrays && size_of(array) == rows,
                  "coefficients: bad row array");
          a.row_coefficients[j * max_combine_arrays + k] = array.data();
        }
        for (auto& [j, array] : row_noise) {
          require(j >= 0 && j < n_outs && size_of(array) == rows, "noise_scale: bad row array");
          a.row_noise[j] = array.data();
          a.draws = true;
        }
        a.key = stream_key(seed, stream);
        a.counter = counter;
        nb::gil_scoped_release release;
        combine<T>(a, as_queue(queue));
      },
      "outs"_a.noconvert(), "arrays"_a.noconvert(), "coefficients"_a.noconvert(), "row_coefficients"_a.noconvert(),
      "noise_scales"_a.noconvert(), "row_noise"_a.noconvert(), "rows"_a, "cols"_a, "seed"_a, "stream"_a, "counter"_a,
      "queue"_a = 0);

  m.def(
      "metropolis",
      [](In<T> x, In<T> x_proposed, In<T> gradient, In<T> gradient_proposed, In<T> log_density,
         In<T> log_density_proposed, double step, uint64_t seed, uint64_t counter, Out<T> x_new, Out<T> gradient_new,
         Out<T> log_density_new, Out<uint8_t> accepted, uintptr_t queue) {
        require(x.ndim() == 2, "x: expected shape (n, d)");
        int64_t rows = static_cast<int64_t>(x.shape(0)), cols = static_cast<int64_t>(x.shape(1)), n = rows * cols;
        require(size_of(x_proposed) == n && size_of(gradient) == n && size_of(gradient_proposed) == n &&
                    size_of(x_new) == n && size_of(gradient_new) == n && size_of(log_density) == rows &&
                    size_of(log_density_proposed) == rows && size_of(log_density_new) == rows &&
                    size_of(accepted) == rows,
                "metropolis: sizes differ");
        // A stream of its own: proposals of the same seed use stream 0.
        MetropolisArgs<T> a{rows,
                            cols,
                            x.data(),
                            x_proposed.data(),
                            gradient.data(),
                            gradient_proposed.data(),
                            log_density.data(),
                            log_density_proposed.data(),
                            static_cast<T>(step),
                            stream_key(seed, 0x6d6574726f706f6cull),
                            counter,
                            x_new.data(),
                            gradient_new.data(),
                            log_density_new.data(),
                            accepted.data()};
        nb::gil_scoped_release release;
        metropolis<T>(a, as_queue(queue));
      },
      "x"_a.noconvert(), "x_proposed"_a.noconvert(), "gradient"_a.noconvert(), "gradient_proposed"_a.noconvert(),
      "log_density"_a.noconvert(), "log_density_proposed"_a.noconvert(), "step"_a, "seed"_a, "counter"_a,
      "x_new"_a.noconvert(), "gradient_new"_a.noconvert(), "log_density_new"_a.noconvert(), "accepted"_a.noconvert(),
      "queue"_a = 0);
}

// ---- families of their own file -------------------------------------------------------------------------------------

#include "bind_brownian.hpp"
#include "bind_interaction.hpp"
#include "bind_lowrank.hpp"
#include "bind_sde.hpp"
#include "bind_sinkhorn.hpp"
#include "bind_sliced.hpp"
#include "bind_targets.hpp"
#include "bind_walk.hpp"

inline void bind_executor(nb::module_& m) {
  bind_random(m);
  bind_brownian(m);
  bind_interaction_type<float>(m);
  bind_interaction_type<double>(m);
  bind_lowrank_type<float>(m);
  bind_lowrank_type<double>(m);
  bind_sde_type<float>(m);
  bind_sde_type<double>(m);
  bind_sinkhorn_type<float>(m, "TransportF32");
  bind_sinkhorn_type<double>(m, "TransportF64");
  bind_sliced_type<float>(m, "SlicedTargetF32");
  bind_sliced_type<double>(m, "SlicedTargetF64");
  bind_targets_type<float>(m);
  bind_targets_type<double>(m);
  bind_stepping_type<float>(m);
  bind_stepping_type<double>(m);
  bind_walk_type<float>(m);
  bind_walk_type<double>(m);
}

}  // namespace MK_EXECUTOR
}  // namespace mk
