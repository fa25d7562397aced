// JSON from files that nobody vouches for: bounded in size and nesting, duplicate keys refused, nothing
// thrown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/error.h"
#include "nlohmann/json_fwd.hpp"

namespace paceline {

inline constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
// Headers of safetensors files and the index: the limit of the published library.
inline constexpr int64_t kMaxHeaderBytes = 100'000'000;
inline constexpr int kMaxJsonNesting = 64;

// A name from a file as it may stand in an error: control characters escaped, at most 300 bytes.
std::string Printable(std::string_view name);

// `what` names the text in errors, which carry `code`: too large, nested too deeply, a key twice, not JSON.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, int64_t max_bytes, const ErrorCode& code,
                                         const std::string& what);

// kMaxJsonNesting bounds brackets outside strings; the check needs no memory, so it comes before any parser.
absl::Status CheckNesting(std::string_view text, const ErrorCode& code, const std::string& what);

// A whole file of at most `max_bytes`. LOAD-001 when it is absent or no plain file, `code` when it is too
// large.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes, const ErrorCode& code);

}  // namespace paceline
