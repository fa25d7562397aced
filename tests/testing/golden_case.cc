// Reading golden cases.
#include "tests/testing/golden_case.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "nlohmann/json.hpp"

namespace paceline::testing {

std::vector<GoldenCase> GoldenCases() {
  std::vector<GoldenCase> cases;
  for (const std::string& root : {std::string(PACELINE_SOURCE_DIR) + "/tests/goldens/cases",
                                  std::string(PACELINE_GOLDENS) + "/cases"}) {
    if (!std::filesystem::exists(root)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      GoldenCase c;
      c.name = entry.path().filename();
      c.directory = entry.path();
      if (std::any_of(cases.begin(), cases.end(),
                      [&](const GoldenCase& seen) { return seen.name == c.name; }))
        continue;
      std::ifstream file(entry.path() / "case.json");
      const nlohmann::json j = nlohmann::json::parse(file);
      c.bf16_logprob_bound = j["bounds"]["bf16_kv"]["logprob"];
      c.fp32_logprob_bound = j["bounds"]["fp32_kv"]["logprob"];
      c.ends = j["end_ids"].get<std::vector<TokenId>>();
      for (const auto& p : j["prompts"]) {
        GoldenPrompt prompt;
        prompt.prompt = p["prompt"].get<std::vector<TokenId>>();
        prompt.continuation = p["continuation"].get<std::vector<TokenId>>();
        for (const auto& x : p["logprobs"])
          prompt.logprobs.push_back(x.is_null() ? std::nanf("") : x.get<float>());
        for (const auto& row : p["top"]) {
          std::vector<Candidate> top;
          for (const auto& pair : row) top.push_back({pair[0].get<TokenId>(), pair[1].get<float>()});
          prompt.top.push_back(std::move(top));
        }
        if (p.contains("drafts")) {
          for (const auto& d : p["drafts"]) {
            if (!d.is_null()) prompt.drafts.push_back(d.get<std::vector<TokenId>>());
          }
          for (const auto& s : p["drafts_sure"]) {
            if (!s.is_null()) prompt.drafts_sure.push_back(s.get<int32_t>());
          }
        }
        c.prompts.push_back(std::move(prompt));
      }
      cases.push_back(std::move(c));
    }
  }
  std::sort(cases.begin(), cases.end(),
            [](const GoldenCase& a, const GoldenCase& b) { return a.name < b.name; });
  CHECK(!cases.empty());
  return cases;
}

}  // namespace paceline::testing
