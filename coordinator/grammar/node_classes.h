// Which nodes of a grammar are the same for a while.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/grammar/grammar.h"

namespace paceline {

// [nodes] Two nodes of one class accept the same texts of up to `bytes` bytes, end their rules at the same
// places within them, and return to nodes of one class. Classes count from 0.
std::vector<int32_t> NodeClasses(const Grammar& grammar, int32_t bytes);

}  // namespace paceline
