// The known-answer run of a node: what its backend computes on fixed inputs, one digest per class of
// arithmetic. A node whose silicon or build computes anything else must not answer for an expert.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace paceline {

// "integer experts <digest>, float experts <digest>, trunk <digest>" of what `table` computes, 16 hex digits
// each; under 10 ms.
std::string RunKnownAnswers(const kernels::KernelTable& table);

// What every sound node says under `math`.
std::string ExpectedKnownAnswers(kernels::FloatMath math = kernels::FloatMath::kPortable);

// Whether `answer` is right for the float math of `table`. DEV-001 names each class whose digest in `answer`
// is not the expected one.
absl::Status CheckKnownAnswers(const kernels::KernelTable& table, const std::string& answer);

}  // namespace paceline
