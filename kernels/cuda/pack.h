// From the neutral form of weights to the device's (matrix.h). Packing runs on the host, a stretch of tiles
// at a time, so that only the plain form and a small buffer are in host memory.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/machine.h"
#include "kernels/kernels.h"

namespace paceline::kernels::cuda {

struct DeviceMatrix {
  Matrix view = {};
  DeviceMemory data, scales, zeros, terms, first_term, block_scales;
  int64_t bytes = 0;  // read per pass
};

struct DeviceLinear final : Linear {
  ~DeviceLinear() override;
  DeviceMatrix matrix;
};

struct DeviceExpert final : Expert {
  ~DeviceExpert() override;
  DeviceMatrix gate, up, down;
  DeviceMemory matrices;  // ExpertMatrices, for kernels
};

// LOAD-008: the device has no room.
absl::StatusOr<DeviceMatrix> PackMatrix(Machine& machine, PlainLinear plain);
absl::StatusOr<std::unique_ptr<Linear>> PackLinear(Machine& machine, PlainLinear plain);
absl::StatusOr<std::unique_ptr<Expert>> PackExpert(Machine& machine, PlainExpert plain);
absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(Machine& machine, const PlainLinear& form);

// Which kernels serve a matrix.
Kind KindOf(const Matrix& m);

}  // namespace paceline::kernels::cuda
