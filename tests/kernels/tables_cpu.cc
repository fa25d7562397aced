// The instruction sets of this machine.
#include "kernels/cpu/cpu.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {

std::vector<const KernelTable*> AvailableTables() { return cpu::Available(); }
std::vector<const KernelTable*> TestableTables() { return cpu::Testable(); }
std::vector<int> ThreadCounts() { return {1, 2, 3}; }
int CaseStride() { return 1; }

}  // namespace paceline::kernels
