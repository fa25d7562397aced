// The key with which commands ask a head that wants one. From the environment alone: every process of a
// machine can read command lines.
#pragma once

#include <cstdlib>
#include <string>

namespace paceline::cli {

// $PACELINE_API_KEY, or "".
inline std::string ApiKeyOfEnvironment() {
  const char* key = std::getenv("PACELINE_API_KEY");
  return key == nullptr ? "" : key;
}

}  // namespace paceline::cli
