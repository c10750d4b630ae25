// Stands in for CUDA's header of this name where no GPU is at hand (tools/cuda_on_host.sh): two pretended devices whose
// memory is the host's, and streams that have always finished. Every allocation is known, so a pointer that is not device
// memory, a copy beyond the end of an allocation, and freeing twice are errors as on a device. Tests only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
using cudaStream_t = struct CUstream_st*;

struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};

namespace pretended {

constexpr int devices = 2;
constexpr size_t device_bytes = size_t{8} << 30;
inline thread_local int device = 0;
inline std::mutex in_use;
struct Allocation {
  size_t bytes;
  int device;
};
inline std::map<uintptr_t, Allocation> allocations;

// The allocation that holds [p, p + bytes), or null.
inline const Allocation* find(const void* p, size_t bytes) {
  uintptr_t at = reinterpret_cast<uintptr_t>(p);
  auto next = allocations.upper_bound(at);
  if (next == allocations.begin()) return nullptr;
  auto& [start, found] = *--next;
  return at + bytes <= start + found.bytes && at < start + found.bytes ? &found : nullptr;
}

}  // namespace pretended

inline const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess                 ? "no error"
         : e == cudaErrorInvalidValue     ? "invalid argument"
         : e == cudaErrorMemoryAllocation ? "out of memory"
         : e == cudaErrorInvalidDevice    ? "invalid device ordinal"
                                          : "unknown error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = pretended::devices, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"kernels run on the host (tests only)", 0, 0, 1, pretended::device_bytes};
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = pretended::device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= pretended::devices) return cudaErrorInvalidDevice;
  return pretended::device = device, cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* p) {
  std::lock_guard<std::mutex> lock(pretended::in_use);
  const pretended::Allocation* a = pretended::find(p, 0);
  *out = a ? cudaPointerAttributes{cudaMemoryTypeDevice, a->device}
           : cudaPointerAttributes{cudaMemoryTypeUnregistered, -2};
  return cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t) {
  if (bytes > pretended::device_bytes || !(*p = std::malloc(bytes))) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xff, bytes);  // NaN: nothing may rely on fresh memory
  std::lock_guard<std::mutex> lock(pretended::in_use);
  pretended::allocations[reinterpret_cast<uintptr_t>(*p)] = {bytes, pretended::device};
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  std::lock_guard<std::mutex> lock(pretended::in_use);
  auto found = pretended::allocations.find(reinterpret_cast<uintptr_t>(p));
  if (found == pretended::allocations.end() || found->second.device != pretended::device) return cudaErrorInvalidValue;
  pretended::allocations.erase(found);
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  {
    std::lock_guard<std::mutex> lock(pretended::in_use);
    const pretended::Allocation* a = pretended::find(kind == cudaMemcpyHostToDevice ? to : from, bytes);
    if (!a || a->device != pretended::device) return cudaErrorInvalidValue;
  }
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
// What is queued is done at once, so events have nothing to do.
using cudaEvent_t = struct CUevent_st*;
constexpr unsigned cudaEventDisableTiming = 2, cudaEventWaitExternal = 1, cudaEventRecordExternal = 1;
constexpr cudaStream_t cudaStreamPerThread = nullptr;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = nullptr, cudaSuccess; }
inline cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
