// Builds without nvcc: the cuda backend answers that it is absent.
#include "base/error.h"
#include "kernels/cuda/cuda.h"

namespace paceline::kernels::cuda {

absl::StatusOr<const KernelTable*> Select() {
  return Error(
      errors::kDevice,
      "the cuda backend is not in this build; use --backend cpu, or build with `cmake --preset cuda` where "
      "the CUDA toolkit is");
}

Facts Inspect() {
  Facts facts;
  facts.problem = "this build is without CUDA; build with `cmake --preset cuda` where the CUDA toolkit is";
  return facts;
}

}  // namespace paceline::kernels::cuda
