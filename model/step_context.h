// What every layer of a step needs: the backend, scratch memory and the rows with their positions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/step.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/stage_meter.h"

namespace paceline {

// The rows of a step: runs of consecutive positions, each of one sequence with its own pages and state slot.
struct Batch {
  int32_t rows = 0;
  std::vector<kernels::RowRun> runs;
  std::vector<int32_t> slots;   // [runs]
  std::vector<float> cos, sin;  // [rows, rotary_dims / 2]
  int32_t rotary_half = 0;
};

// Angles of every row's position. NUMERICS, RoPE.
void FillRotary(double theta, int32_t rotary_dims, Batch& batch);

struct StepContext {
  const kernels::KernelTable& table;
  ThreadPool& pool;
  kernels::Workspace& workspace;
  kernels::ActivationContract contract;
  const Batch& batch;
  StageMeter* meter = nullptr;                       // may be null
  std::vector<int32_t>* distinct_experts = nullptr;  // may be null; every MoE layer appends its own
  std::vector<LeafLoad>* leaf_loads = nullptr;       // the same
};

// x [rows, width] as its consumers want it: codes are made when one of them is integer. Lives in the
// workspace.
kernels::Activations Activate(const StepContext& context, const float* x, int32_t rows, int64_t width,
                              std::initializer_list<const kernels::Linear*> consumers);

}  // namespace paceline
