// Measuring on a GPU: launches recorded once and replayed as one graph, timed by the device's own clock.
// Without a header of CUDA.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/cuda/gpu_machine.h"

namespace paceline::kernels::cuda {

// A recorded sequence of launches. Whatever `launches` starts on the machine's stream becomes part of it; it
// must not copy to or from the host.
class GpuGraph {
 public:
  GpuGraph(GpuMachine& machine, const std::function<void()>& launches);
  ~GpuGraph();
  GpuGraph(const GpuGraph&) = delete;
  GpuGraph& operator=(const GpuGraph&) = delete;

  int64_t kernels() const { return kernels_; }
  // Runs it once and waits: seconds between its first and its last kernel.
  double Replay();

 private:
  GpuMachine& machine_;
  void *graph_ = nullptr, *begin_ = nullptr, *end_ = nullptr;
  int64_t kernels_ = 0;
};

// Bytes per second of a large copy inside the device's memory, read and written ones counted: the best of
// several.
double MeasureCopyBandwidth(GpuMachine& machine);

}  // namespace paceline::kernels::cuda
