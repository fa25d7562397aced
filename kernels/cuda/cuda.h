// The cuda backend's door: the table of this machine's GPU, and the same kernels on the host executor.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/cuda/facts.h"
#include "kernels/kernels.h"

namespace paceline::kernels::cuda {

// DEV-001: this build has no CUDA, there is no driver, or no GPU that the kernels were built for.
absl::StatusOr<const KernelTable*> Select();
// Slow: for tests of the kernels where there is no GPU. DEV-001 in a build with sanitizers.
absl::StatusOr<const KernelTable*> SelectEmulated();

}  // namespace paceline::kernels::cuda
