// Which CUDA devices there are, device memory for callers without a framework, and the device a call works on. Host code
// only: everything here is compiled by the host compiler and works without a driver up to the first call that needs one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mckean/executor.hpp"

namespace mk {
namespace cuda {

inline cudaStream_t as_stream(Queue queue) { return static_cast<cudaStream_t>(queue); }

// Throws std::runtime_error "<what>: <CUDA's text>" unless the call succeeded.
void check(cudaError_t error, const char* what);

// Empty, or why no device can be used.
std::string device_status();

int device_count();  // 0 where device_status() is not empty

struct DeviceInfo {
  int index;
  std::string name;
  int major, minor;  // compute capability
  int64_t memory_bytes;
  int multiprocessors;
  int driver, runtime;  // CUDA versions, 13000 for 13.0
};
std::vector<DeviceInfo> devices();  // milliseconds a device: not for every call

// While it lives, the calling thread's current device is the one that owns `memory` (or has the given number); then the one
// before is current again. Streams belong to a device, so every launch and every allocation happens under one of these.
class OnDevice {
 public:
  explicit OnDevice(int device);
  explicit OnDevice(const void* memory);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  void enter(int device);
  int before_ = -1;  // -1: nothing was changed
};

// Stream-ordered memory of the device in use. allocate throws std::bad_alloc when the device is full.
void* allocate(size_t bytes, Queue queue);
void release(void* memory, Queue queue) noexcept;

// Returns when the source may be changed, not when the copy is done.
void copy_to_device(void* device_memory, const void* host, size_t bytes, Queue queue);
// Returns when the copy is done: the one function of this executor that waits.
void copy_to_host(void* host, const void* device_memory, size_t bytes, Queue queue);

// A few host tables on the device for the duration of one launch.
class Upload {
 public:
  Upload(const std::vector<double>& tables, Queue queue);
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;
  const double* data() const { return static_cast<const double*>(memory_); }

 private:
  void* memory_ = nullptr;
  Queue queue_;
};

}  // namespace cuda
}  // namespace mk
