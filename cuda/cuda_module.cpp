// mckean._cuda: the CUDA executor, the devices it can use, and device memory for callers who have no framework that holds
// any. Imports without a driver; device_status() then says why nothing can be done.
#define MK_EXECUTOR cuda
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
namespace mk {
namespace cuda { using Device = nanobind::device::cuda; }
}  // namespace mk
#include "bindings.hpp"
#include "device.hpp"

namespace {

template <class T>
using HostOut = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

template <class T>
using DeviceArray = nb::ndarray<T, nb::array_api, nb::device::cuda>;  // an object with __dlpack__, not a bare capsule

struct Allocation {
  void* memory;
  int device;
  mk::Queue queue;

  Allocation(size_t bytes, int device, mk::Queue queue) : device(device), queue(queue) {
    mk::cuda::OnDevice on(device);
    memory = mk::cuda::allocate(bytes, queue);
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  ~Allocation() {
    try {
      mk::cuda::OnDevice on(device);
      mk::cuda::release(memory, queue);
    } catch (const std::runtime_error&) {
      // At exit the driver may be gone, and the memory with it.
    }
  }
};

void check_device(int device) {
  std::string why = mk::cuda::device_status();
  if (!why.empty()) throw std::runtime_error(why);
  if (device < 0 || device >= mk::cuda::device_count())
    throw std::invalid_argument("device: no CUDA device " + std::to_string(device));
}

// A C-contiguous array that frees its memory on `queue`, which must still exist then.
template <class T>
DeviceArray<T> make_array(const std::vector<size_t>& shape, int device, uintptr_t queue) {
  size_t bytes = sizeof(T);
  for (size_t size : shape)
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > static_cast<size_t>(PTRDIFF_MAX))
      throw std::invalid_argument("shape: too large");
  check_device(device);
  auto* owned = new Allocation(bytes, device, mk::cuda::as_queue(queue));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<Allocation*>(p); });
  return DeviceArray<T>(owned->memory, shape.size(), shape.data(), owner, nullptr, nb::dtype<T>(),
                        nb::device::cuda::value, device);
}

nb::object empty(const std::vector<size_t>& shape, const std::string& dtype, int device, uintptr_t queue) {
  if (dtype == "float32") return nb::cast(make_array<float>(shape, device, queue));
  if (dtype == "float64") return nb::cast(make_array<double>(shape, device, queue));
  if (dtype == "uint8") return nb::cast(make_array<uint8_t>(shape, device, queue));
  if (dtype == "uint32") return nb::cast(make_array<uint32_t>(shape, device, queue));
  if (dtype == "int64") return nb::cast(make_array<int64_t>(shape, device, queue));
  throw nb::type_error(("dtype: expected float32, float64, uint8, uint32 or int64, got " + dtype).c_str());
}

template <class T>
void bind_memory(nb::module_& m) {
  m.def(
      "to_device",
      [](mk::cuda::HostIn<T> array, int device, uintptr_t queue) {
        std::vector<size_t> shape;
        for (size_t i = 0; i < array.ndim(); ++i) shape.push_back(array.shape(i));
        DeviceArray<T> out = make_array<T>(shape, device, queue);
        const T* source = array.data();
        T* target = out.data();
        size_t bytes = array.size() * sizeof(T);
        {
          nb::gil_scoped_release release;
          mk::cuda::OnDevice on(device);
          mk::cuda::copy_to_device(target, source, bytes, mk::cuda::as_queue(queue));
        }
        return out;
      },
      "array"_a.noconvert(), "device_index"_a = 0, "queue"_a = 0);
  m.def(
      "to_host",
      [](mk::cuda::In<T> array, HostOut<T> out, uintptr_t queue) {
        mk::cuda::require(out.size() == array.size(), "out: wrong size");
        if (array.size() == 0) return;
        const T* source = array.data();
        T* target = out.data();
        size_t bytes = array.size() * sizeof(T);
        nb::gil_scoped_release release;
        mk::cuda::OnDevice on(source);
        mk::cuda::copy_to_host(target, source, bytes, mk::cuda::as_queue(queue));
      },
      "array"_a.noconvert(), "out"_a.noconvert(), "queue"_a = 0,
      "Copies to the NumPy array `out` and returns when it is there.");
}

nb::list devices() {
  nb::list found;
  for (const mk::cuda::DeviceInfo& d : mk::cuda::devices()) {
    nb::dict entry;
    entry["index"] = d.index;
    entry["name"] = d.name;
    entry["compute_capability"] = std::to_string(d.major) + "." + std::to_string(d.minor);
    entry["memory_bytes"] = d.memory_bytes;
    entry["multiprocessors"] = d.multiprocessors;
    entry["driver"] = std::to_string(d.driver / 1000) + "." + std::to_string(d.driver % 1000 / 10);
    entry["runtime"] = std::to_string(d.runtime / 1000) + "." + std::to_string(d.runtime % 1000 / 10);
    found.append(entry);
  }
  return found;
}

}  // namespace

NB_MODULE(_cuda, m) {
  nb::set_leak_warnings(false);  // objects alive at interpreter exit are not leaks worth a report to users
  m.def("device_status", &mk::cuda::device_status, "Empty, or why no CUDA device can be used.");
  m.def("device_count", &mk::cuda::device_count);
  m.def("devices", &devices, nb::sig("def devices() -> list[dict[str, int | str]]"));
  m.def("empty", &empty, "shape"_a, "dtype"_a, "device_index"_a = 0, "queue"_a = 0,
        "Uninitialised device memory, freed on `queue`.");
  bind_memory<float>(m);
  bind_memory<double>(m);
  bind_memory<uint8_t>(m);
  bind_memory<uint32_t>(m);
  bind_memory<int64_t>(m);
  mk::cuda::bind_executor(m);
}
