// Which backends a binary of kernel tests compares with the reference: kernels_test those of this machine's
// processor (tables_cpu.cc), cuda_kernels_test the cuda backend on the host executor and, where there is one,
// on the GPU (tables_cuda.cc). The tests are the same.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace paceline::kernels {

// Those this machine runs well.
std::vector<const KernelTable*> AvailableTables();
// And those it emulates.
std::vector<const KernelTable*> TestableTables();
// How many threads a pool of the tests has; one after the other.
std::vector<int> ThreadCounts();
// Of long lists of cases every so-many-th is enough: 1, or more where all backends are slow.
int CaseStride();

}  // namespace paceline::kernels
