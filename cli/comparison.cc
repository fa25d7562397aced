// Looks for the first difference only: what follows it follows from it.
#include "cli/comparison.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/report.h"

namespace paceline::cli {
namespace {

ScoredToken At(const std::vector<GeneratedToken>& tokens, size_t i) {
  if (i >= tokens.size()) return {};
  return {tokens[i].id, tokens[i].logprob.value_or(0)};
}

bool Same(const ScoredToken& a, const ScoredToken& b) {
  return a.id == b.id && std::bit_cast<uint32_t>(a.logit) == std::bit_cast<uint32_t>(b.logit);
}

nlohmann::ordered_json PairJson(const ScoredToken& token) {
  if (token.id < 0) return nullptr;
  return nlohmann::ordered_json::array({token.id, ExactFloat(token.logit)});
}

std::string PairText(const ScoredToken& token) {
  return token.id < 0 ? "no token" : absl::StrFormat("id %d (%.9g)", token.id, token.logit);
}

}  // namespace

Comparison Compare(std::string name, const std::vector<GeneratedToken>& left,
                   const std::vector<GeneratedToken>& right) {
  Comparison comparison;
  comparison.name = std::move(name);
  const size_t longest = std::max(left.size(), right.size());
  for (size_t i = 0; i < longest; ++i) {
    const ScoredToken a = At(left, i);
    const ScoredToken b = At(right, i);
    ++comparison.tokens;
    if (Same(a, b)) continue;
    comparison.difference = {static_cast<int64_t>(i), a, b};
    break;
  }
  return comparison;
}

bool AllEqual(const std::vector<Comparison>& comparisons) {
  return std::none_of(comparisons.begin(), comparisons.end(),
                      [](const Comparison& c) { return c.difference.has_value(); });
}

nlohmann::ordered_json ComparisonsJson(const std::vector<Comparison>& comparisons) {
  nlohmann::ordered_json out;
  out["equal"] = AllEqual(comparisons);
  out["comparisons"] = nlohmann::ordered_json::array();
  for (const Comparison& c : comparisons) {
    nlohmann::ordered_json entry;
    entry["name"] = c.name;
    entry["equal"] = !c.difference.has_value();
    entry["tokens"] = c.tokens;
    entry["first_difference"] = nullptr;
    if (c.difference) {
      entry["first_difference"] = {{"position", c.difference->position},
                                   {"left", PairJson(c.difference->left)},
                                   {"right", PairJson(c.difference->right)}};
    }
    entry["drafted"] = c.speculation.drafted;
    entry["accepted"] = c.speculation.accepted;
    out["comparisons"].push_back(std::move(entry));
  }
  return out;
}

std::string ComparisonsTable(const std::vector<Comparison>& comparisons) {
  std::string out = absl::StrFormat("%-16s %6s  %-9s %s\n", "COMPARISON", "TOKENS", "VERDICT", "");
  int different = 0;
  for (const Comparison& c : comparisons) {
    std::string remark;
    if (c.difference) {
      ++different;
      remark = absl::StrFormat("at token %d: %s against %s", c.difference->position,
                               PairText(c.difference->left), PairText(c.difference->right));
    } else if (c.speculation.drafted > 0) {
      remark = absl::StrFormat("%d of %d drafts accepted", c.speculation.accepted, c.speculation.drafted);
    }
    absl::StrAppend(&out, absl::StrFormat("%-16s %6d  %-9s %s\n", c.name, c.tokens,
                                          c.difference ? "DIFFERENT" : "equal", remark));
  }
  absl::StrAppend(&out, different == 0 ? "equal: every token and every log-probability, bit for bit\n"
                                       : absl::StrFormat("DIFFERENT: %d of %d comparisons\n", different,
                                                         comparisons.size()));
  return out;
}

}  // namespace paceline::cli
