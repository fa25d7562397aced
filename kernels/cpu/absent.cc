// Machines that are not x86: the cpu backend answers that it is absent.
#include "base/error.h"
#include "kernels/cpu/cpu.h"

namespace paceline::kernels::cpu {

absl::StatusOr<const KernelTable*> Select(std::string_view) {
  return Error(errors::kDevice,
               "the cpu backend has vector code for x86 only; use --backend reference on this machine");
}
std::vector<const KernelTable*> Available() { return {}; }
std::vector<const KernelTable*> Testable() { return {}; }
ExpertsWithoutContractFunction ExpertsWithoutContract(const KernelTable&) { return nullptr; }
std::string_view CpuClass() { return "not x86"; }

}  // namespace paceline::kernels::cpu
