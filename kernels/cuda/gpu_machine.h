// A GPU as a Machine, without a header of CUDA: gpu_machine.cu and the launch_*.cu files are what nvcc
// compiles.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/machine.h"

namespace paceline::kernels::cuda {

// Starts K on `stream`. Defined for every kernel of the backend in launch_*.cu; a refused launch aborts.
template <class K>
void LaunchOn(void* stream, const typename K::Args& args);

class GpuMachine final : public Machine {
 public:
  // The first GPU that kernels were built for; null when there is none. Never destroyed: the driver may be
  // gone when statics are.
  static GpuMachine* Find();
  static GpuMachine& Instance() { return *Find(); }

  // Null where the device has no room.
  void* Allocate(int64_t bytes) override;
  void Free(void* memory) override;
  void CopyIn(void* to, const void* from, int64_t bytes) override;
  void CopyOut(void* to, const void* from, int64_t bytes) override;
  void Clear(void* memory, int64_t bytes) override;

  template <class K>
  void Launch(const typename K::Args& args) {
    Use();
    LaunchOn<K>(stream_, args);
  }
  void* stream() const { return stream_; }
  int device() const { return device_; }

 private:
  explicit GpuMachine(int device);
  // Makes the device the calling thread's.
  void Use() const;

  int device_ = 0;
  void* stream_ = nullptr;
};

}  // namespace paceline::kernels::cuda
