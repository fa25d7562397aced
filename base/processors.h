// The processors a process may run on, and threads that stay on one of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline {

// Numbers of the processors this process may run on, as Linux counts them: first one of every core, then the
// cores' further threads. Empty where the system does not say.
std::vector<int> ProcessorsHere();

// "0-3,8" -> 0, 1, 2, 3, 8; in the order given, each once. InvalidArgument (CFG-002) for anything else, and
// for a processor that this process may not run on.
absl::StatusOr<std::vector<int>> ParseProcessors(std::string_view list);
// The inverse: "0,1,2,3,8".
std::string ProcessorsText(const std::vector<int>& processors);

// Keeps the calling thread, and threads born of it later, on one processor. False where the system refuses.
bool StayOn(int processor);

}  // namespace paceline
