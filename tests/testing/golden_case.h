// A golden case as its case.json has it (tests/goldens/README.md), for tests that run it in process.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/step.h"

namespace paceline::testing {

struct GoldenPrompt {
  std::vector<TokenId> prompt, continuation;
  std::vector<float> logprobs;               // [tokens], the first is not a number
  std::vector<std::vector<Candidate>> top;   // [tokens][5]
  std::vector<std::vector<TokenId>> drafts;  // [tokens - 1][4], empty without an MTP layer
  std::vector<int32_t> drafts_sure;          // [tokens - 1]
};

struct GoldenCase {
  std::string name;
  std::string directory;
  double bf16_logprob_bound = 0, fp32_logprob_bound = 0;
  std::vector<TokenId> ends;
  std::vector<GoldenPrompt> prompts;
};

inline void PrintTo(const GoldenCase& c, std::ostream* out) { *out << c.name; }

// Every case of tests/goldens and, where the build names one, of the second folder. Aborts on an unreadable
// case.
std::vector<GoldenCase> GoldenCases();

}  // namespace paceline::testing
