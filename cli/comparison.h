// Two runs of one request, token by token: what `verify` says about them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "coordinator/request.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// A token and its natural log-probability before any transform: the logit less the log of the row's sum, so
// equal logits give equal numbers.
struct ScoredToken {
  TokenId id = -1;  // -1: the run had ended
  float logit = 0;
};

struct Comparison {
  std::string name;    // "drafted-greedy"
  int64_t tokens = 0;  // compared
  struct Difference {
    int64_t position = 0;  // of generated tokens, from 0
    ScoredToken left;
    ScoredToken right;
  };
  std::optional<Difference> difference;  // the first
  SpeculationStats speculation;          // of the right run
};

// A difference is another id, another log-probability bit, or one run that is shorter.
Comparison Compare(std::string name, const std::vector<GeneratedToken>& left,
                   const std::vector<GeneratedToken>& right);

bool AllEqual(const std::vector<Comparison>& comparisons);
// {"equal", "comparisons": [{"name", "equal", "tokens", "first_difference", "drafted", "accepted"}]}.
nlohmann::ordered_json ComparisonsJson(const std::vector<Comparison>& comparisons);
// A table and a line with the verdict.
std::string ComparisonsTable(const std::vector<Comparison>& comparisons);

}  // namespace paceline::cli
