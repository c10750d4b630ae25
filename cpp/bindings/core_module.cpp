// mckean._core: the CPU executor, and the process-wide settings.
#define MK_EXECUTOR cpu
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
namespace mk {
namespace cpu { using Device = nanobind::device::cpu; }
}  // namespace mk
#include "bind_directions.hpp"
#include "bind_newton.hpp"
#include "bind_selection.hpp"
#include "bindings.hpp"
#include "dispatch.hpp"
#include "finite.hpp"
#include "mckean/kinetic.hpp"
#include "mckean/random.hpp"
#include "pool.hpp"
#include "power_scan_isa.hpp"
#include "sliced.hpp"

namespace {

void check_signals() {
  nb::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

template <class T>
void bind_all_finite(nb::module_& m) {
  m.def(
      "all_finite",
      [](mk::cpu::In<T> array) {
        const T* data = array.data();
        int64_t n = mk::cpu::size_of(array);
        nb::gil_scoped_release release;
        return mk::cpu::all_finite<T>(data, n);
      },
      "array"_a.noconvert(), "Whether no element is NaN or infinite.");
  m.def(
      "sum_of_squares",
      [](mk::cpu::In<T> array) {
        const T* data = array.data();
        int64_t n = mk::cpu::size_of(array);
        nb::gil_scoped_release release;
        return mk::cpu::sum_of_squares<T>(data, n);
      },
      "array"_a.noconvert(), "Infinite where it overflows the type.");
}

template <class T>
void bind_slice_order(nb::module_& m) {
  m.def(
      "slice_order",
      [](mk::cpu::In<T> z, mk::cpu::Out<int64_t> order) {
        int64_t n = mk::cpu::size_of(z);
        mk::cpu::require(mk::cpu::size_of(order) == n && n < (int64_t{1} << 31), "order: wrong size");
        const T* data = z.data();
        int64_t* out = order.data();
        nb::gil_scoped_release release;
        mk::cpu::slice_order<T>(data, n, out);
      },
      "z"_a.noconvert(), "order"_a.noconvert(), "The stable argsort of finite numbers.");
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // objects alive at interpreter exit are not leaks worth a report to users
  mk::set_poll(check_signals);
  m.def("num_threads", &mk::num_threads);
  m.def("set_num_threads", &mk::set_num_threads, "n"_a);
  m.def("simd_level", [] { return std::string(mk::simd_level_name()); });
  m.def("simd_levels", &mk::simd_levels);
  m.def("set_simd_level", &mk::set_simd_level, "name"_a);
  m.def(
      "philox4x32",
      [](std::vector<uint32_t> counter, std::vector<uint32_t> key) {
        if (counter.size() != 4 || key.size() != 2) throw std::invalid_argument("counter: expected 4 words, key: 2");
        auto r = mk::philox<uint32_t>(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
        return std::vector<uint32_t>(r.w, r.w + 4);
      },
      "counter"_a, "key"_a);
  m.def(
      "normals_of_words",  // for tests: the float64 transform on words of one's choice
      [](std::vector<uint32_t> w) {
        if (w.size() != 4) throw std::invalid_argument("words: expected 4");
        auto p = mk::normal_pair_wide<double>(w[0], w[1], w[2], w[3]);
        return std::vector<double>{p.z0, p.z1};
      },
      "words"_a);
  m.def(
      "power_scan",  // for tests: D^2 of sorted points and signed weights, and the force on them
      [](mk::cpu::In<double> z, mk::cpu::In<double> s, double r, bool single, mk::cpu::Out<double> force) {
        int64_t n = mk::cpu::size_of(z);
        mk::cpu::require(n >= 1 && mk::cpu::size_of(s) == n && mk::cpu::size_of(force) == n,
                         "power_scan: sizes differ");
        mk::cpu::require(r > 0 && r < 2 && r != 1, "r: expected a number in (0, 2) other than 1");
        std::vector<double> work(static_cast<size_t>(mk::power_scan_workspace(n)));
        mk::PowerScanRule rule = single ? mk::power_scan_rule<float>(r) : mk::power_scan_rule<double>(r);
        mk::PowerScanArgs args{&rule, n, z.data(), s.data(), nullptr, work.data(), mk::poll_inside_chunk};
        double alone = mk::power_scan_table().scan(args);
        args.force = force.data();
        return std::make_tuple(alone, mk::power_scan_table().scan(args));
      },
      "z"_a.noconvert(), "s"_a.noconvert(), "r"_a, "single"_a, "force"_a.noconvert());
  m.def(
      "kinetic_rows",  // for tests: the table of a scheme for one step, (4, 8)
      [](int scheme, double step, double friction, double u) {
        auto r = mk::kinetic_rows(static_cast<mk::SdeMethod>(scheme), step, friction, u);
        return std::vector<double>(&r.row[0][0], &r.row[0][0] + r.rows * mk::kinetic_columns);
      },
      "scheme"_a, "step"_a, "friction"_a, "u"_a);
  bind_all_finite<float>(m);
  bind_all_finite<double>(m);
  bind_slice_order<float>(m);
  bind_slice_order<double>(m);
  mk::cpu::bind_executor(m);
  mk::cpu::bind_directions(m);
  mk::cpu::bind_newton(m, check_signals);
  mk::cpu::bind_selection(m);
}
