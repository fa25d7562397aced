// Backend by name.
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"

namespace paceline::kernels {

absl::StatusOr<const KernelTable*> SelectKernels(std::string_view backend, std::string_view isa) {
  if (backend == "reference") return &ReferenceKernels();
  if (backend == "cpu") return cpu::Select(isa);
  if (backend == "cuda") {
    return Error(errors::kDevice,
                 "the cuda backend is not in this build; use --backend cpu, or build with `cmake --preset "
                 "cuda` where the CUDA toolkit is");
  }
  return Error(errors::kOption, absl::StrCat("--backend is reference, cpu or cuda, not `",
                                             absl::string_view(backend.data(), backend.size()), "`"));
}

}  // namespace paceline::kernels
