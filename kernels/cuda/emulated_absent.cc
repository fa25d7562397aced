// Builds with sanitizers, which take the executor's fibers for broken stacks.
#include "base/error.h"
#include "kernels/cuda/cuda.h"

namespace paceline::kernels::cuda {

absl::StatusOr<const KernelTable*> SelectEmulated() {
  return Error(errors::kDevice,
               "--backend cuda-emulated is not in a build with sanitizers; use the release build");
}

}  // namespace paceline::kernels::cuda
