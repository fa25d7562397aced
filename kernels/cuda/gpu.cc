// The backend on a GPU.
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/gpu_machine.h"

namespace paceline::kernels::cuda {

absl::StatusOr<const KernelTable*> Select() {
  if (GpuMachine::Find() == nullptr) {
    const Facts facts = Inspect();
    if (!facts.problem.empty())
      return Error(errors::kDevice,
                   absl::StrCat("--backend cuda: ", facts.problem,
                                "; use --backend cpu, or run `paceline doctor` to see what is "
                                "there"));
    return Error(
        errors::kDevice,
        absl::StrCat("--backend cuda: this build has kernels for compute capability ", facts.architectures,
                     ", and the GPU here (", facts.devices[0].name, ") has ", facts.devices[0].major, ".",
                     facts.devices[0].minor, "; add it to PACELINE_CUDA_ARCHITECTURES and build again"));
  }
  static const KernelTable table = Backend<GpuMachine>::Table("cuda");
  return &table;
}

}  // namespace paceline::kernels::cuda
