// What quantization_config adds to the tensors themselves: the zero convention and the group size. Everything
// else is decided from the tensors present (docs/FORMATS.md, INT4).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace paceline {

struct QuantisationHints {
  int64_t bits = 0;         // 0 = not said
  int64_t group_size = 0;   // 0 = not said, -1 = all inputs
  bool true_zeros = false;  // qzeros hold the zero itself; otherwise zero - 1
};

// `config_text` must have passed ParseModelConfig. LOAD-002, LOAD-007 naming the field.
absl::StatusOr<QuantisationHints> ParseQuantisation(const std::string& config_text,
                                                    const std::string& directory);

}  // namespace paceline
