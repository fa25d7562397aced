// The draw as NUMERICS writes it, two logarithms for every id and full sorts, judges the one that passes ids
// over: the same token for every row, over ties, masks, extremes and any number of threads.
#include "model/gumbel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <random>

#include "kernels/scalar_math.h"
#include "model/sampler.h"
#include "tests/model/state_of.h"

namespace paceline {
namespace {

using testing::StateOf;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

TokenId ByFormula(const std::vector<float>& logits, const Sampling& sampling, int64_t position) {
  struct Scored {
    TokenId token;
    float logit;
  };
  const auto higher = [](const Scored& a, const Scored& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  std::vector<Scored> candidates;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kMinusInfinity) candidates.push_back({static_cast<TokenId>(i), logits[i]});
  }
  std::sort(candidates.begin(), candidates.end(), higher);
  const Scored best = candidates[0];
  if (sampling.temperature == 0.0f) return best.token;
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < candidates.size())
    candidates.resize(sampling.top_k);
  const double temperature = static_cast<double>(sampling.temperature);
  const auto weight = [&](const Scored& s) {
    return kernels::Exp64(static_cast<double>(s.logit) / temperature -
                          static_cast<double>(best.logit) / temperature);
  };
  if (sampling.top_p < 1.0f) {
    double total = 0, sum = 0;
    for (const Scored& s : candidates) total += weight(s);
    size_t keep = 0;
    while (keep < candidates.size()) {
      sum += weight(candidates[keep++]);
      if (sum >= static_cast<double>(sampling.top_p) * total) break;
    }
    candidates.resize(keep);
  }
  TokenId drawn = best.token;
  double highest = -std::numeric_limits<double>::infinity();
  for (const Scored& s : candidates) {
    if (sampling.min_p > 0 && weight(s) < static_cast<double>(sampling.min_p)) continue;
    const double score = static_cast<double>(s.logit) / temperature +
                         GumbelNoise(sampling.seed, sampling.choice, position, s.token);
    if (score > highest || (score == highest && s.token < drawn)) {
      highest = score;
      drawn = s.token;
    }
  }
  return drawn;
}

class Rows {
 public:
  explicit Rows(uint32_t seed) : random_(seed) {}
  size_t Pick(size_t count) { return random_() % count; }
  // A row of some kind: smooth, with many ties, all equal, with masks, very wide, very flat, near a peak,
  // subnormal.
  std::vector<float> Next(size_t size) {
    std::normal_distribution<float> normal(0, 3);
    std::vector<float> row(size);
    const size_t kind = Pick(8);
    const float scale = kind == 4 ? 1e30f : kind == 5 ? 1e-20f : kind == 7 ? 7e-45f : 1.0f;
    for (float& l : row) {
      l = normal(random_) * scale;
      if (kind == 1) l = std::nearbyint(l);
      if (kind == 2) l = 1.5f;
      if (kind == 3 && Pick(4) != 0) l = kMinusInfinity;
    }
    if (kind == 6) row[Pick(size)] = 30;
    row[Pick(size)] = std::max(row[0], 0.0f);  // never all masked
    return row;
  }
  Sampling Params() {
    static constexpr float kTemperatures[] = {1, 1, 0.6f, 0.1f, 3, 1e-3f, 1e-38f, 1e38f, 1e5f, 7e-45f};
    static constexpr float kTopP[] = {1, 1, 0.95f, 0.5f, 0.01f, 0.25f, 0.75f, 0};
    static constexpr float kMinP[] = {0, 0, 0.05f, 0.5f, 1, 1e-30f, 1e-40f};
    static constexpr int32_t kTopK[] = {0, 0, 1, 2, 20, 100, 5000, 1 << 30};
    return {.temperature = kTemperatures[Pick(std::size(kTemperatures))],
            .top_k = kTopK[Pick(std::size(kTopK))],
            .top_p = kTopP[Pick(std::size(kTopP))],
            .min_p = kMinP[Pick(std::size(kMinP))],
            .seed = random_(),
            .choice = static_cast<uint32_t>(Pick(3))};
  }

 private:
  std::mt19937 random_;
};

TEST(SampleToken, PassesNobodyOverWhoCouldWin) {
  ThreadPool one(1), three(3);
  Rows rows(11);
  for (const size_t size : {1, 2, 31, 32, 33, 100, 1000, 20000}) {
    const int32_t cases = size < 2000 ? 3000 : 60;
    for (int32_t i = 0; i < cases; ++i) {
      const std::vector<float> row = rows.Next(size);
      const Sampling sampling = rows.Params();
      const int64_t position = static_cast<int64_t>(rows.Pick(1 << 20));
      const TokenId want = ByFormula(row, sampling, position);
      ASSERT_EQ(*SampleToken(kernels::ReferenceKernels(), one, row, sampling, position), want)
          << size << " " << i;
      ASSERT_EQ(*SampleToken(kernels::ReferenceKernels(), three, row, sampling, position), want)
          << size << " " << i << ", three threads";
    }
  }
}

// Without truncation, where nearly every id is passed over: many more draws from rows as models give them.
TEST(SampleToken, PlainDrawsOfALongRow) {
  ThreadPool pool(2);
  Rows rows(12);
  for (int32_t i = 0; i < 6; ++i) {
    const std::vector<float> row = rows.Next(60000);
    for (const float temperature : {0.3f, 1.0f, 2.0f}) {
      for (int64_t position = 0; position < 5; ++position) {
        const Sampling sampling{.temperature = temperature, .seed = 77};
        ASSERT_EQ(*SampleToken(kernels::ReferenceKernels(), pool, row, sampling, position),
                  ByFormula(row, sampling, position));
      }
    }
  }
}

// Two ids of equal logit and all others far below: the draw is between their noises, and often close.
TEST(SampleToken, CloseRacesGoToTheHigherScore) {
  ThreadPool pool(1);
  std::vector<float> row(200, -50.0f);
  row[70] = row[150] = 4.0f;
  for (int64_t position = 0; position < 20000; ++position) {
    const TokenId want = GumbelNoise(9, 0, position, 70) >= GumbelNoise(9, 0, position, 150) ? 70 : 150;
    ASSERT_EQ(*SampleToken(kernels::ReferenceKernels(), pool, row, {.seed = 9}, position), want);
  }
}

// ---------------------------------------------------------------- drafts

// A drafter's ids and nothing else: what the target would draw if every other id were masked.
TEST(SampleDraft, IsTheTargetsDrawAmongTheDraftersIds) {
  ThreadPool pool(1);
  Rows rows(13);
  for (int32_t i = 0; i < 3000; ++i) {
    const size_t size = 40 + rows.Pick(300);
    std::vector<float> full = rows.Next(size);
    Sampling sampling = rows.Params();
    if (rows.Pick(2) == 0) {
      sampling.presence_penalty = 0.7f;
      sampling.repetition_penalty = 1.2f;
      sampling.frequency_penalty = 0.2f;
      auto adjustments = std::make_shared<LogitAdjustments>();
      adjustments->bias = {{3, 2.0f}, {17, -1.0f}, {30, 0.5f}};
      if (rows.Pick(2) == 0) {
        for (TokenId id = 0; id < static_cast<TokenId>(size); id += 1 + static_cast<TokenId>(rows.Pick(2)))
          adjustments->allowed.push_back(id);
      }
      sampling.adjustments = adjustments;
    }
    const std::vector<TokenId> prompt = {1, 3, 5, 7, 7}, text = {3, 17, 3, 8}, ahead = {17, 9, 5, 9};
    std::vector<TokenId> ids;
    std::vector<float> logits;
    const bool all = rows.Pick(4) == 0;
    for (size_t id = 0; id < size; ++id) {
      if (all || id == 0 || rows.Pick(2) == 0) {
        ids.push_back(static_cast<TokenId>(id));
        logits.push_back(full[id]);
      } else {
        full[id] = kMinusInfinity;
      }
    }
    if (*std::max_element(full.begin(), full.end()) == kMinusInfinity) continue;
    const SamplerState before = StateOf(prompt, text);
    std::vector<TokenId> longer = text;
    longer.insert(longer.end(), ahead.begin(), ahead.end());
    AdjustLogits(full, sampling, StateOf(prompt, longer));
    const auto want = SampleToken(kernels::ReferenceKernels(), pool, full, sampling, 55);
    const auto got = SampleDraft(logits, all ? std::span<const TokenId>() : std::span<const TokenId>(ids),
                                 sampling, before, 55, ahead);
    ASSERT_EQ(got.ok(), want.ok());
    if (want.ok()) {
      ASSERT_EQ(*got, *want) << i;
    }
    for (size_t k = 0; k < ids.size(); ++k) ASSERT_EQ(logits[k], full[ids[k]]) << i;
  }
}

TEST(SampleDraft, RefusesWhatIsNotANumber) {
  std::vector<float> logits = {1, std::numeric_limits<float>::quiet_NaN(), 2};
  EXPECT_EQ(SampleDraft(logits, {}, {}, {}, 1).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(SampleDraftDistribution(logits, {}, {}, {}, 1).status().code(), absl::StatusCode::kDataLoss);
  std::vector<float> none(3, kMinusInfinity);
  EXPECT_EQ(SampleDraft(none, {}, {}, {}, 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SampleDraftDistribution, HoldsTheTwentyLikeliestAndDrawsFromThem) {
  std::vector<TokenId> ids;
  std::vector<float> row;
  std::mt19937 random(3);
  for (TokenId id = 0; id < 60; ++id) {
    ids.push_back(5 * id + 2);
    row.push_back(static_cast<float>(random() % 4000) / 1000);
  }
  std::vector<float> sorted = row;
  std::sort(sorted.rbegin(), sorted.rend());
  std::vector<float> logits = row;
  const SparseDistribution distribution =
      SampleDraftDistribution(logits, ids, {.temperature = 0.7f}, {}, 4).value().distribution;
  ASSERT_EQ(distribution.entries.size(), kDraftCandidates);
  double total = 0, sum = 0;
  for (size_t i = 0; i < kDraftCandidates; ++i) total += std::exp(static_cast<double>(sorted[i]) / 0.7);
  for (size_t i = 0; i < kDraftCandidates; ++i) {
    const auto& e = distribution.entries[i];
    if (i > 0) {
      EXPECT_LT(distribution.entries[i - 1].token, e.token);
    }
    const float logit = row[static_cast<size_t>(e.token - 2) / 5];
    EXPECT_GE(logit, sorted[kDraftCandidates - 1]);
    EXPECT_NEAR(e.probability, std::exp(static_cast<double>(logit) / static_cast<double>(0.7f)) / total,
                1e-6);
    sum += e.probability;
  }
  EXPECT_NEAR(sum, 1, 1e-12);

  constexpr int32_t kDraws = 100000;
  std::vector<double> seen(400, 0.0);
  for (int32_t position = 0; position < kDraws; ++position) {
    logits = row;
    ++seen[SampleDraftDistribution(logits, ids, {.temperature = 0.7f, .seed = 8}, {}, position)->token];
  }
  double chi_square = 0;
  for (const auto& e : distribution.entries) {
    const double want = e.probability * kDraws;
    chi_square += (seen[e.token] - want) * (seen[e.token] - want) / want;
  }
  EXPECT_LT(chi_square, 63.2);  // 19 degrees of freedom exceed this with probability 1.2e-6
}

TEST(SampleDraftDistribution, IsCertainWhenGreedy) {
  std::vector<float> logits = {0, 2, 1};
  const DraftDraw draw = *SampleDraftDistribution(logits, {}, {.temperature = 0}, {}, 4);
  EXPECT_EQ(draw.token, 1);
  ASSERT_EQ(draw.distribution.entries.size(), 1u);
  EXPECT_EQ(draw.distribution.entries[0].probability, 1);
}

}  // namespace
}  // namespace paceline
