// Unicode normalisation form C through ICU, held to the code points that the `tokenizers` package normalises.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace paceline {

// `text` is UTF-8. Internal when ICU's data is missing or memory ends.
absl::StatusOr<std::string> NormalizeNfc(std::string_view text);

}  // namespace paceline
