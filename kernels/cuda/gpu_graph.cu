// CUDA graphs and events.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/gpu_graph.h"

namespace paceline::kernels::cuda {
namespace {

void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda backend: %s failed: %s (%s)\n", what, cudaGetErrorString(error),
               cudaGetErrorName(error));
  std::abort();
}

cudaStream_t Stream(const GpuMachine& machine) { return static_cast<cudaStream_t>(machine.stream()); }

// Seconds of what `work` puts on the stream.
template <class Work>
double Timed(const GpuMachine& machine, cudaEvent_t begin, cudaEvent_t end, const Work& work) {
  Must(cudaEventRecord(begin, Stream(machine)), "recording an event");
  work();
  Must(cudaEventRecord(end, Stream(machine)), "recording an event");
  Must(cudaEventSynchronize(end), "a kernel");
  float milliseconds = 0;
  Must(cudaEventElapsedTime(&milliseconds, begin, end), "reading the device's clock");
  return milliseconds * 1e-3;
}

}  // namespace

GpuGraph::GpuGraph(GpuMachine& machine, const std::function<void()>& launches) : machine_(machine) {
  cudaGraph_t recorded;
  Must(cudaStreamBeginCapture(Stream(machine), cudaStreamCaptureModeThreadLocal), "recording");
  launches();
  Must(cudaStreamEndCapture(Stream(machine), &recorded), "recording");
  size_t nodes = 0;
  Must(cudaGraphGetNodes(recorded, nullptr, &nodes), "counting kernels");
  kernels_ = static_cast<int64_t>(nodes);
  cudaGraphExec_t graph;
  Must(cudaGraphInstantiate(&graph, recorded, 0), "making a graph");
  Must(cudaGraphDestroy(recorded), "recording");
  graph_ = graph;
  cudaEvent_t begin, end;
  Must(cudaEventCreate(&begin), "making an event");
  Must(cudaEventCreate(&end), "making an event");
  begin_ = begin;
  end_ = end;
}

GpuGraph::~GpuGraph() {
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_));
  cudaEventDestroy(static_cast<cudaEvent_t>(begin_));
  cudaEventDestroy(static_cast<cudaEvent_t>(end_));
}

double GpuGraph::Replay() {
  return Timed(machine_, static_cast<cudaEvent_t>(begin_), static_cast<cudaEvent_t>(end_), [&] {
    Must(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), Stream(machine_)), "starting a graph");
  });
}

double MeasureCopyBandwidth(GpuMachine& machine) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  constexpr int kRounds = 7;
  const DeviceMemory from(machine, kBytes), to(machine, kBytes);
  if (from.as<void>() == nullptr || to.as<void>() == nullptr) return 0;
  cudaEvent_t begin, end;
  Must(cudaEventCreate(&begin), "making an event");
  Must(cudaEventCreate(&end), "making an event");
  double best = 0;
  for (int i = 0; i < kRounds; ++i) {
    const double seconds = Timed(machine, begin, end, [&] {
      Must(cudaMemcpyAsync(to.as<void>(), from.as<void>(), kBytes, cudaMemcpyDeviceToDevice, Stream(machine)),
           "copying");
    });
    best = std::max(best, 2.0 * kBytes / seconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

}  // namespace paceline::kernels::cuda
