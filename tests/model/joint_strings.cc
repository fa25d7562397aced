// Counting strings, and judging the counts.
#include "tests/model/joint_strings.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace paceline::testing {

std::vector<double> ExpectedDraw(const World& world, const Text& text, const Sampling& s) {
  const std::vector<float>& logits = world.target(text);
  std::vector<std::pair<double, TokenId>> kept;  // logit, id
  for (TokenId id = 0; id < world.vocab(); ++id) {
    double l = static_cast<double>(logits[id]);
    if (s.adjustments != nullptr) {
      const auto& allowed = s.adjustments->allowed;
      if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), id) == allowed.end()) continue;
      for (const auto& [of, bias] : s.adjustments->bias) l += of == id ? static_cast<double>(bias) : 0.0;
    }
    const int64_t generated =
        std::count(text.begin() + static_cast<int64_t>(kWorldPrompt.size()), text.end(), id);
    if (std::find(text.begin(), text.end(), id) != text.end()) {
      const double r = static_cast<double>(s.repetition_penalty);
      l = l > 0 ? l / r : l * r;
    }
    if (generated > 0) l -= static_cast<double>(s.presence_penalty);
    l -= static_cast<double>(s.frequency_penalty) * static_cast<double>(generated);
    kept.push_back({l / static_cast<double>(s.temperature), id});
  }
  std::sort(kept.begin(), kept.end(), [](auto a, auto b) { return a.first > b.first; });
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < kept.size()) kept.resize(s.top_k);
  const double top = kept[0].first;
  const auto weight = [&](size_t i) { return std::exp(kept[i].first - top); };
  double total = 0, sum = 0;
  for (size_t i = 0; i < kept.size(); ++i) total += weight(i);
  size_t keep = 0;
  while (keep < kept.size() && sum < static_cast<double>(s.top_p) * total) sum += weight(keep++);
  if (s.top_p < 1) kept.resize(keep);
  while (weight(kept.size() - 1) < static_cast<double>(s.min_p)) kept.pop_back();
  std::vector<double> p(static_cast<size_t>(world.vocab()), 0.0);
  total = 0;
  for (size_t i = 0; i < kept.size(); ++i) total += weight(i);
  for (size_t i = 0; i < kept.size(); ++i) p[kept[i].second] = weight(i) / total;
  return p;
}

JointStrings::JointStrings(const World& world, int32_t tokens) : vocab_(world.vocab()) {
  const auto group = [&](int32_t first, int32_t count) {
    groups_.push_back({first, count, std::vector<double>(static_cast<size_t>(std::pow(vocab_, count)), 0.0)});
  };
  for (int32_t i = 0; i < tokens; ++i) group(i, 1);
  for (int32_t i = 0; i + 1 < tokens; ++i) group(i, 2);
  group(0, 3);
  group(tokens - 3, 3);
}

void JointStrings::Add(const TokenId* string, double weight) {
  for (Group& group : groups_) {
    size_t cell = 0;
    for (int32_t i = group.first; i < group.first + group.count; ++i)
      cell = cell * static_cast<size_t>(vocab_) + static_cast<size_t>(string[i]);
    group.cells[cell] += weight;
  }
}

void JointStrings::AddEvery(const World& world, const Sampling& sampling, int32_t left, Text& text,
                            double probability) {
  if (left == 0) return Add(&text[kWorldPrompt.size()], probability);
  const std::vector<double> p = ExpectedDraw(world, text, sampling);
  for (TokenId id = 0; id < vocab_; ++id) {
    if (p[static_cast<size_t>(id)] == 0) continue;
    text.push_back(id);
    AddEvery(world, sampling, left - 1, text, probability * p[static_cast<size_t>(id)]);
    text.pop_back();
  }
}

JointStrings JointStrings::Expected(const World& world, int32_t tokens, const Sampling& sampling) {
  JointStrings strings(world, tokens);
  Text text = kWorldPrompt;
  strings.AddEvery(world, sampling, tokens, text, 1.0);
  return strings;
}

JointStrings JointStrings::Observed(const World& world, int32_t tokens, Sampling sampling,
                                    const WorldDrafter& drafter, int32_t depth, int64_t requests,
                                    uint64_t first_seed, Bug bug) {
  Decoding decoding(world);
  JointStrings strings(world, tokens);
  for (int64_t i = 0; i < requests; ++i) {
    sampling.seed = first_seed + static_cast<uint64_t>(i);
    const Text text = decoding.Drafted(sampling, static_cast<int64_t>(kWorldPrompt.size()) + tokens, drafter,
                                       Always(depth), bug);
    strings.Add(&text[kWorldPrompt.size()], 1);
  }
  return strings;
}

namespace {

// Pearson's statistic over its critical value at significance 1e-6 (Wilson and Hilferty, "The distribution of
// chi-square", 1931; 1.5 % above the true value at 15 degrees of freedom). Cells that expect fewer than 5
// draws are pooled. What cannot happen and does is infinitely bad.
double Badness(const std::vector<double>& probabilities, const std::vector<double>& seen, double requests) {
  double sum = 0, pooled_seen = 0, pooled_want = 0;
  int32_t cells = 0;
  const auto add = [&](double want, double got) {
    sum += (got - want) * (got - want) / want;
    ++cells;
  };
  for (size_t i = 0; i < seen.size(); ++i) {
    const double want = probabilities[i] * requests;
    if (want == 0 && seen[i] > 0) return std::numeric_limits<double>::infinity();
    if (want >= 5) {
      add(want, seen[i]);
    } else {
      pooled_want += want;
      pooled_seen += seen[i];
    }
  }
  if (pooled_want >= 5) add(pooled_want, pooled_seen);
  if (cells < 2) return 0;
  const double freedom = cells - 1, part = 2 / (9 * freedom);
  return sum / (freedom * std::pow(1 - part + 4.75342 * std::sqrt(part), 3));
}

}  // namespace

double Worst(const JointStrings& expected, const JointStrings& seen, double requests) {
  double worst = 0;
  for (size_t g = 0; g < expected.groups_.size(); ++g)
    worst = std::max(worst, Badness(expected.groups_[g].cells, seen.groups_[g].cells, requests));
  return worst;
}

}  // namespace paceline::testing
