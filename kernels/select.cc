// Backend by name.
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/kernels.h"

namespace paceline::kernels {

absl::StatusOr<const KernelTable*> SelectKernels(std::string_view backend, std::string_view isa) {
  if (backend == "reference") return &ReferenceKernels();
  if (backend == "cpu") return cpu::Select(isa);
  if (backend == "cuda") return cuda::Select();
  if (backend == "cuda-emulated") return cuda::SelectEmulated();
  return Error(errors::kOption, absl::StrCat("--backend is reference, cpu, cuda or cuda-emulated, not `",
                                             absl::string_view(backend.data(), backend.size()), "`"));
}

}  // namespace paceline::kernels
