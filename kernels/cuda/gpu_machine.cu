// Memory, copies and facts of GPUs, by the CUDA runtime. The runtime is linked statically and opens the
// driver by itself: a machine without one gets an error code from the first call, nothing fails to start.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/facts.h"
#include "kernels/cuda/gpu_machine.h"

namespace paceline::kernels::cuda {
namespace {

__global__ void Probe() {}

// What cannot fail unless we or the device are broken.
void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda backend: %s failed: %s (%s)\n", what, cudaGetErrorString(error),
               cudaGetErrorName(error));
  std::abort();
}

// Whether this build has code for the device: the runtime finds none for Probe otherwise.
bool Usable(int device) {
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(device) != cudaSuccess) return false;
  cudaFuncAttributes attributes;
  const bool usable = cudaFuncGetAttributes(&attributes, Probe) == cudaSuccess;
  cudaGetLastError();  // an error of this question is none of a later call
  cudaSetDevice(before);
  return usable;
}

cudaStream_t Stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

Facts Inspect() {
  Facts facts;
  facts.built = true;
  facts.architectures = PACELINE_CUDA_ARCHITECTURES;
  facts.runtime_version = CUDART_VERSION;
  int version = 0, count = 0;
  if (cudaDriverGetVersion(&version) == cudaSuccess) facts.driver_version = version;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (facts.driver_version == 0) {
    facts.problem = "no NVIDIA driver is installed on this machine";
  } else if (error != cudaSuccess) {
    facts.problem = std::string("the NVIDIA driver says: ") + cudaGetErrorString(error);
    count = 0;
  } else if (count == 0) {
    facts.problem = "there is an NVIDIA driver, but no GPU that this process may use";
  }
  cudaGetLastError();
  for (int device = 0; facts.problem.empty() && device < count; ++device) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) continue;
    DeviceFacts& one = facts.devices.emplace_back();
    one.name = properties.name;
    one.major = properties.major;
    one.minor = properties.minor;
    one.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    one.usable = Usable(device);
  }
  return facts;
}

GpuMachine* GpuMachine::Find() {
  static GpuMachine* const machine = []() -> GpuMachine* {
    const Facts facts = Inspect();
    for (size_t device = 0; device < facts.devices.size(); ++device) {
      if (facts.devices[device].usable) return new GpuMachine(static_cast<int>(device));
    }
    return nullptr;
  }();
  return machine;
}

GpuMachine::GpuMachine(int device) : device_(device) {
  Use();
  cudaStream_t stream;
  Must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  stream_ = stream;
}

void GpuMachine::Use() const { Must(cudaSetDevice(device_), "choosing the device"); }

void* GpuMachine::Allocate(int64_t bytes) {
  Use();
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  Must(error, "allocating device memory");
  return memory;
}

void GpuMachine::Free(void* memory) {
  Use();
  Must(cudaFree(memory), "freeing device memory");
}

void GpuMachine::CopyIn(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  Use();
  Must(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, Stream(stream_)),
       "copying to the device");
  // Where the device reads host memory by itself, a pageable copy may still be on its way.
  Must(cudaStreamSynchronize(Stream(stream_)), "a kernel");
}

void GpuMachine::CopyOut(void* to, const void* from, int64_t bytes) {
  Use();
  if (bytes > 0)
    Must(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, Stream(stream_)),
         "copying from the device");
  Must(cudaStreamSynchronize(Stream(stream_)), "a kernel");
}

void GpuMachine::Clear(void* memory, int64_t bytes) {
  Use();
  Must(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), Stream(stream_)), "clearing device memory");
}

}  // namespace paceline::kernels::cuda
