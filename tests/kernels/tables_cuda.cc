// The cuda backend, on the host executor and on a GPU. PACELINE_TEST_GPU=only leaves the executor out.
#include <cstdlib>
#include <string_view>

#include "kernels/cuda/cuda.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {

std::vector<const KernelTable*> AvailableTables() { return TestableTables(); }

std::vector<const KernelTable*> TestableTables() {
  const char* word = std::getenv("PACELINE_TEST_GPU");
  std::vector<const KernelTable*> tables;
  if (const auto gpu = cuda::Select(); gpu.ok()) tables.push_back(*gpu);
  if (word != nullptr && std::string_view(word) == "only") return tables;
  if (const auto emulated = cuda::SelectEmulated(); emulated.ok()) tables.push_back(*emulated);
  return tables;
}

// The pool is not used.
std::vector<int> ThreadCounts() { return {1}; }
int CaseStride() { return 11; }

}  // namespace paceline::kernels
