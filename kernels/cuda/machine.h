// A device and its memory. Two fill this: a GPU (gpu_machine.cu) and the host executor (emulated.cc), which
// keeps the same rules, so that a pointer to host memory in a kernel's arguments is found without a GPU.
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace paceline::kernels::cuda {

class Machine {
 public:
  virtual ~Machine() = default;
  // Device memory, 256-byte aligned; its content is anything. Null where there is no room.
  virtual void* Allocate(int64_t bytes) = 0;
  virtual void Free(void* memory) = 0;
  // In the order of launches, from any thread. CopyIn is through with host memory when it returns, CopyOut
  // waits for all launches.
  virtual void CopyIn(void* to, const void* from, int64_t bytes) = 0;
  virtual void CopyOut(void* to, const void* from, int64_t bytes) = 0;
  virtual void Clear(void* memory, int64_t bytes) = 0;
  // Whether every piece of scratch memory is an allocation of its own, so that what is written behind it is
  // found.
  virtual bool watches_borders() const { return false; }
  // One call of the backend at a time: it owns the stream and the scratch memory.
  std::mutex& lock() { return lock_; }

 private:
  std::mutex lock_;
};

// Device memory of one owner.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Machine& machine, int64_t bytes)
      : machine_(&machine), memory_(machine.Allocate(bytes)), bytes_(bytes) {}
  DeviceMemory(DeviceMemory&& other) noexcept
      : machine_(other.machine_), memory_(std::exchange(other.memory_, nullptr)), bytes_(other.bytes_) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(machine_, other.machine_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() {
    if (memory_ != nullptr) machine_->Free(memory_);
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(memory_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  Machine* machine_ = nullptr;
  void* memory_ = nullptr;
  int64_t bytes_ = 0;
};

// Scratch memory of one call: taken piece by piece, given back together. Grows to the largest call and stays.
class Scratch {
 public:
  explicit Scratch(Machine& machine) : machine_(machine) {}

  template <class T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // A copy of host memory.
  template <class T>
  T* Put(const T* from, int64_t count) {
    T* to = Take<T>(count);
    machine_.CopyIn(to, from, count * static_cast<int64_t>(sizeof(T)));
    return to;
  }
  template <class T>
  T* Zeros(int64_t count) {
    T* to = Take<T>(count);
    machine_.Clear(to, count * static_cast<int64_t>(sizeof(T)));
    return to;
  }
  void Reset();

 private:
  void* TakeBytes(int64_t bytes);

  Machine& machine_;
  std::vector<DeviceMemory> chunks_;
  int64_t used_ = 0;  // bytes of the last one
};

}  // namespace paceline::kernels::cuda
