// Devices and device memory of the CUDA executor.
#include "device.hpp"

#include <new>
#include <stdexcept>

namespace mk {
namespace cuda {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

std::string device_status() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver)
    return "no NVIDIA driver, or one too old for CUDA " + std::to_string(CUDART_VERSION / 1000);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return "no CUDA device";
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> found;
  int count = device_count(), driver = 0, runtime = 0;
  if (count == 0) return found;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, i), "cudaGetDeviceProperties");
    found.push_back(
        {i, p.name, p.major, p.minor, static_cast<int64_t>(p.totalGlobalMem), p.multiProcessorCount, driver, runtime});
  }
  return found;
}

OnDevice::OnDevice(int device) { enter(device); }

OnDevice::OnDevice(const void* memory) {
  cudaPointerAttributes where{};
  check(cudaPointerGetAttributes(&where, memory), "cudaPointerGetAttributes");
  if (where.type != cudaMemoryTypeDevice && where.type != cudaMemoryTypeManaged)
    throw std::invalid_argument("expected memory of a CUDA device");
  enter(where.device);
}

void OnDevice::enter(int device) {
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  if (current == device) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  before_ = current;
}

OnDevice::~OnDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

void* allocate(size_t bytes, Queue queue) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  cudaError_t error = cudaMallocAsync(&memory, bytes, as_stream(queue));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the caller hears of it from the exception; later calls should not
    throw std::bad_alloc();
  }
  check(error, "cudaMallocAsync");
  return memory;
}

// Errors are dropped: it runs in destructors, and at exit the driver may be gone already.
void release(void* memory, Queue queue) noexcept {
  if (memory && cudaFreeAsync(memory, as_stream(queue)) != cudaSuccess) cudaGetLastError();
}

// The runtime stages pageable memory before it returns. Under stream capture it would only note the address.
void copy_to_device(void* device_memory, const void* host, size_t bytes, Queue queue) {
  if (bytes == 0) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(as_stream(queue), &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone)
    throw std::runtime_error("host data cannot be copied to the device while a CUDA graph is being captured");
  check(cudaMemcpyAsync(device_memory, host, bytes, cudaMemcpyHostToDevice, as_stream(queue)), "cudaMemcpyAsync");
}

void copy_to_host(void* host, const void* device_memory, size_t bytes, Queue queue) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(host, device_memory, bytes, cudaMemcpyDeviceToHost, as_stream(queue)), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(as_stream(queue)), "cudaStreamSynchronize");
}

Upload::Upload(const std::vector<double>& tables, Queue queue) : queue_(queue) {
  memory_ = allocate(tables.size() * sizeof(double), queue);
  try {
    copy_to_device(memory_, tables.data(), tables.size() * sizeof(double), queue);
  } catch (...) {
    release(memory_, queue_);
    throw;
  }
}
Upload::~Upload() { release(memory_, queue_); }

}  // namespace cuda
}  // namespace mk
