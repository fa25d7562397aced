// Sampling by keyed noise. What is kept by top-k, top-p and min-p is read off many draws: over enough
// positions every kept token comes out, and a dropped one never does.
#include "model/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "model/gumbel.h"

namespace paceline {
namespace {

using ::testing::ElementsAre;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

absl::StatusOr<TokenId> Draw(std::vector<float> logits, const Sampling& sampling, int64_t position = 1) {
  ThreadPool pool(1);
  return SampleToken(kernels::ReferenceKernels(), pool, logits, sampling, position);
}

std::vector<float> Logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Every token that comes out over `positions` positions.
std::set<TokenId> Drawn(const std::vector<float>& logits, const Sampling& sampling,
                        int64_t positions = 3000) {
  ThreadPool pool(1);
  std::set<TokenId> seen;
  for (int64_t p = 0; p < positions; ++p)
    seen.insert(SampleToken(kernels::ReferenceKernels(), pool, logits, sampling, p).value_or(-1));
  return seen;
}

// ---------------------------------------------------------------- the noise

// A second writing of NUMERICS, Randomness: one round at a time, 128-bit products, libm's logarithm.
uint64_t SpecifiedBits(uint64_t seed, uint32_t choice, uint64_t position, uint32_t token) {
  uint32_t c0 = token, c1 = static_cast<uint32_t>(position);
  uint32_t c2 = static_cast<uint32_t>(position >> 32) | 1u << 16, c3 = choice;
  for (uint32_t round = 0; round < 10; ++round) {
    const uint32_t key0 = static_cast<uint32_t>(seed) + round * 0x9E3779B9u;
    const uint32_t key1 = static_cast<uint32_t>(seed >> 32) + round * 0xBB67AE85u;
    const uint64_t left = uint64_t{c0} * 0xD2511F53u, right = uint64_t{c2} * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(right >> 32) ^ c1 ^ key0;
    c1 = static_cast<uint32_t>(right);
    c2 = static_cast<uint32_t>(left >> 32) ^ c3 ^ key1;
    c3 = static_cast<uint32_t>(left);
  }
  return uint64_t{c1} << 32 | c0;
}

TEST(GumbelNoise, IsTheSpecifiedFunctionOfItsKey) {
  struct Case {
    uint64_t seed;
    uint32_t choice;
    int64_t position;
    TokenId token;
    uint64_t bits;
    double noise;  // computed with 50 decimal digits
  };
  const Case cases[] = {
      {0, 0, 0, 0, 0x2c1463ea8ea0a395, -0.5648473530214612},
      {1, 0, 1, 7, 0xc9d8870d1a8eac12, 1.4368580193160811},
      {0x0123456789abcdef, 3, 0x100000005, 151935, 0x2d077c4c65203221, -0.5526575665419545},
      {0xffffffffffffffff, 0xffffffff, 262143, 248319, 0x6f9c0c5f7457f730, 0.18612393534184507},
  };
  for (const Case& c : cases) {
    const uint64_t bits =
        SpecifiedBits(c.seed, c.choice, static_cast<uint64_t>(c.position), static_cast<uint32_t>(c.token));
    EXPECT_EQ(bits, c.bits);
    const double u = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
    EXPECT_NEAR(-std::log(-std::log(u)), c.noise, 1e-14);
    EXPECT_NEAR(GumbelNoise(c.seed, c.choice, c.position, c.token), c.noise, 1e-14);
  }
}

TEST(GumbelNoise, IsAlwaysFinite) {
  for (int64_t p = 0; p < 100000; ++p) ASSERT_TRUE(std::isfinite(GumbelNoise(9, 0, p, 5))) << p;
}

// ---------------------------------------------------------------- greedy and refusals

TEST(SampleToken, GreedyTakesTheLowestOfTheLargest) {
  EXPECT_EQ(*Draw({1, 3, 3, -2}, {.temperature = 0}), 1);
  EXPECT_EQ(*Draw({3, 3, 3}, {.temperature = 0}), 0);
  EXPECT_EQ(*Draw({kMinusInfinity, -1, -1}, {.temperature = 0}), 1);
  EXPECT_EQ(*Draw({-0.0f, 0.0f}, {.temperature = 0}), 0);
  // One candidate is no draw, whatever the temperature.
  for (int64_t p = 0; p < 50; ++p) EXPECT_EQ(*Draw({1, 3, 3, -2}, {.temperature = 9, .top_k = 1}, p), 1);
}

TEST(SampleToken, WhatIsNotANumberIsRefused) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> rows = {
      {1, kNaN, 2},           {kNaN},        {kMinusInfinity, kMinusInfinity},
      {kMinusInfinity, kNaN}, {1, infinity}, {infinity, infinity}};
  for (const auto& row : rows) {
    for (const float temperature : {0.0f, 1.0f}) {
      const auto drawn = Draw(row, {.temperature = temperature});
      ASSERT_FALSE(drawn.ok());
      EXPECT_EQ(drawn.status().code(), absl::StatusCode::kDataLoss);
      EXPECT_EQ(CodeOf(std::string(drawn.status().message())), "REQ-003");
    }
  }
}

TEST(SampleToken, MaskedIdsAreNeverDrawn) {
  const std::vector<float> logits = {kMinusInfinity, 0, kMinusInfinity, -1, kMinusInfinity};
  EXPECT_THAT(Drawn(logits, {}), ElementsAre(1, 3));
  EXPECT_THAT(Drawn(logits, {.temperature = 100}), ElementsAre(1, 3));
  // More than there are: the masked ones stay out.
  EXPECT_THAT(Drawn(logits, {.top_k = 4}), ElementsAre(1, 3));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.999999f}), ElementsAre(1, 3));
  EXPECT_THAT(Drawn({kMinusInfinity, -70}, {}), ElementsAre(1));
}

// ---------------------------------------------------------------- top-k, top-p, min-p

TEST(SampleToken, TopKBreaksTiesByTheLowerId) {
  EXPECT_THAT(Drawn({0, 1, 1, 1, 0}, {.top_k = 2}), ElementsAre(1, 2));
  EXPECT_THAT(Drawn({0, 1, 0, 1, 0}, {.top_k = 3}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Drawn({0, 0, 0}, {.top_k = 3}), ElementsAre(0, 1, 2));
  EXPECT_THAT(Drawn({0, 0, 0}, {.top_k = 100}), ElementsAre(0, 1, 2));
}

TEST(SampleToken, TopPKeepsTheTokenThatCrossesAndAlwaysOne) {
  // Shuffled: 0.15 0.5 0.1 0.25, so by size the ids are 1 3 0 2 with sums 0.5 0.75 0.9 1.
  const std::vector<float> logits = Logs({0.15, 0.5, 0.1, 0.25});
  EXPECT_THAT(Drawn(logits, {.top_p = 0.001f}), ElementsAre(1));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.0f}), ElementsAre(1));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.49f}), ElementsAre(1));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.51f}), ElementsAre(1, 3));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.74f}), ElementsAre(1, 3));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.76f}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Drawn(logits, {.top_p = 0.91f}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Drawn(logits, {.top_p = 1.0f}), ElementsAre(0, 1, 2, 3));
  // Equal logits add up exactly: 2 of 4 are exactly 0.5, and the lower ids go first.
  EXPECT_THAT(Drawn({0, 0, 0, 0}, {.top_p = 0.5f}), ElementsAre(0, 1));
}

TEST(SampleToken, MinPIsRelativeToTheLargest) {
  // 0.4 0.3 0.2 0.1: relative to the largest 1, 0.75, 0.5, 0.25.
  const std::vector<float> logits = Logs({0.4, 0.3, 0.2, 0.1});
  EXPECT_THAT(Drawn(logits, {.min_p = 0.24f}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Drawn(logits, {.min_p = 0.26f}), ElementsAre(0, 1, 2));
  EXPECT_THAT(Drawn(logits, {.min_p = 0.6f}), ElementsAre(0, 1));
  EXPECT_THAT(Drawn(logits, {.min_p = 0.76f}), ElementsAre(0));
  EXPECT_THAT(Drawn(logits, {.min_p = 1.0f}), ElementsAre(0));
  EXPECT_THAT(Drawn({2, 2, 1}, {.min_p = 1.0f}), ElementsAre(0, 1));
}

TEST(SampleToken, TemperatureComesFirst) {
  // At temperature 2 the square roots count: 0.8 0.2 become 0.894 0.447, of their sum 0.667 0.333.
  const std::vector<float> logits = Logs({0.8, 0.2});
  EXPECT_THAT(Drawn(logits, {.temperature = 1, .min_p = 0.4f}), ElementsAre(0));     // 0.25 < 0.4
  EXPECT_THAT(Drawn(logits, {.temperature = 2, .min_p = 0.4f}), ElementsAre(0, 1));  // 0.5 >= 0.4
  EXPECT_THAT(Drawn(logits, {.temperature = 1, .top_p = 0.7f}), ElementsAre(0));     // 0.8 >= 0.7
  EXPECT_THAT(Drawn(logits, {.temperature = 2, .top_p = 0.7f}), ElementsAre(0, 1));  // 0.667 < 0.7
}

TEST(SampleToken, TopKComesBeforeTopP) {
  // Of 0.4 0.3 0.2 0.1 the first three are 0.444 0.333 0.222 of their own sum: two of them reach 0.75. Of all
  // four, two would make 0.7 only.
  EXPECT_THAT(Drawn(Logs({0.4, 0.3, 0.2, 0.1}), {.top_k = 3, .top_p = 0.75f}), ElementsAre(0, 1));
  EXPECT_THAT(Drawn(Logs({0.4, 0.3, 0.2, 0.1}), {.top_p = 0.75f}), ElementsAre(0, 1, 2));
}

TEST(SampleToken, TopPComesBeforeMinP) {
  // Of all four, 0.4 does not reach 0.5, so two stay, and both are above 0.6 of the largest. Min-p first
  // would leave 0.571 0.429, and top-p then one.
  EXPECT_THAT(Drawn(Logs({0.4, 0.3, 0.2, 0.1}), {.top_p = 0.5f, .min_p = 0.6f}), ElementsAre(0, 1));
}

TEST(SampleToken, ExtremeTemperaturesStayNumbers) {
  EXPECT_THAT(Drawn({1, 2, 3}, {.temperature = 1e-38f, .top_p = 0.9f}, 100), ElementsAre(2));
  EXPECT_THAT(Drawn({-1e38f, 1e38f}, {.temperature = 1e-38f, .min_p = 0.1f}, 100), ElementsAre(1));
  EXPECT_THAT(Drawn({1, 2, 3}, {.temperature = 1e38f}), ElementsAre(0, 1, 2));
}

// ---------------------------------------------------------------- keys

TEST(SampleToken, IsTheArgmaxOfLogitOverTemperaturePlusNoise) {
  const std::vector<float> logits = {0.3f, -1.1f, 2.0f, 0.9f, 1.7f};
  for (int64_t position = 1; position < 500; ++position) {
    const Sampling sampling{.temperature = 0.7f, .seed = 77, .choice = 2};
    TokenId want = -1;
    double highest = -1e300;
    for (TokenId t = 0; t < 5; ++t) {
      const double u =
          (static_cast<double>(
               SpecifiedBits(77, 2, static_cast<uint64_t>(position), static_cast<uint32_t>(t)) >> 12) +
           0.5) *
          0x1p-52;
      const double score =
          static_cast<double>(logits[t]) / static_cast<double>(0.7f) - std::log(-std::log(u));
      if (score > highest) {
        highest = score;
        want = t;
      }
    }
    ASSERT_EQ(*Draw(logits, sampling, position), want) << position;
  }
}

TEST(SampleToken, ATokenDoesNotDependOnCandidatesThatLose) {
  // The noise of a token is its own: taking away a loser, or masking it, leaves the winner.
  const std::vector<float> logits = {0.3f, -0.1f, 0.2f, 0.5f, 0.1f, 0.4f};
  for (int64_t position = 0; position < 300; ++position) {
    const TokenId winner = *Draw(logits, {.seed = 5}, position);
    for (TokenId loser = 0; loser < 6; ++loser) {
      if (loser == winner) continue;
      std::vector<float> fewer = logits;
      fewer[loser] = kMinusInfinity;
      ASSERT_EQ(*Draw(fewer, {.seed = 5}, position), winner) << position << " without " << loser;
    }
    std::vector<float> longer = logits;
    longer.resize(40, kMinusInfinity);
    ASSERT_EQ(*Draw(longer, {.seed = 5}, position), winner);
  }
}

TEST(SampleToken, SeedChoiceAndPositionEachChangeTheDraws) {
  const std::vector<float> logits(64, 0.0f);
  const auto draws = [&](uint64_t seed, uint32_t choice, int64_t first) {
    std::vector<TokenId> tokens;
    for (int64_t p = first; p < first + 16; ++p)
      tokens.push_back(*Draw(logits, {.seed = seed, .choice = choice}, p));
    return tokens;
  };
  const auto base = draws(1, 0, 0);
  EXPECT_EQ(draws(1, 0, 0), base);
  EXPECT_NE(draws(2, 0, 0), base);
  EXPECT_NE(draws(uint64_t{1} | uint64_t{1} << 32, 0, 0), base);
  EXPECT_NE(draws(1, 1, 0), base);
  EXPECT_NE(draws(1, 0, 16), base);
  EXPECT_NE(draws(1, 0, int64_t{1} << 32), base);
  EXPECT_NE(draws(1, 0, 0), draws(1, 0, 1));
}

// ---------------------------------------------------------------- distribution

// Pearson's statistic of draws over positions 1 .. count against `expected`.
double ChiSquare(const std::vector<double>& expected, int64_t count,
                 const std::function<TokenId(int64_t)>& draw) {
  std::vector<int64_t> seen(expected.size(), 0);
  for (int64_t p = 1; p <= count; ++p) ++seen[static_cast<size_t>(draw(p))];
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double want = expected[i] * static_cast<double>(count);
    sum += (static_cast<double>(seen[i]) - want) * (static_cast<double>(seen[i]) - want) / want;
  }
  return sum;
}

constexpr double kCritical15 = 56.493;  // 15 degrees of freedom exceed this with probability 1e-6
const std::vector<float> kSixteen = {0.1f,  1.9f, -0.7f, 0.0f,  1.2f, -1.5f, 0.8f,  0.4f,
                                     -0.2f, 0.6f, 1.1f,  -1.1f, 0.3f, 1.5f,  -0.4f, 0.9f};

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (const float l : logits) sum += p.emplace_back(std::exp(static_cast<double>(l) / temperature));
  for (double& x : p) x /= sum;
  return p;
}

TEST(SampleToken, DrawsFollowTheSoftmax) {
  ThreadPool pool(1);
  const double plain = ChiSquare(Softmax(kSixteen, 1.0), 200000, [&](int64_t p) {
    return SampleToken(kernels::ReferenceKernels(), pool, kSixteen, {.seed = 20}, p).value_or(0);
  });
  EXPECT_LT(plain, kCritical15);
  const double cool = ChiSquare(Softmax(kSixteen, 0.5), 200000, [&](int64_t p) {
    return SampleToken(kernels::ReferenceKernels(), pool, kSixteen, {.temperature = 0.5f, .seed = 21}, p)
        .value_or(0);
  });
  EXPECT_LT(cool, kCritical15);
}

TEST(SampleToken, NeighbouringPositionsAreIndependent) {
  ThreadPool pool(1);
  const std::vector<float> four = {0, 0.5f, 1, -0.5f};
  const std::vector<double> one = Softmax(four, 1);
  std::vector<double> pairs;
  for (const double a : one) {
    for (const double b : one) pairs.push_back(a * b);
  }
  const auto draw = [&](int64_t p) {
    return SampleToken(kernels::ReferenceKernels(), pool, four, {.seed = 22}, p).value_or(0);
  };
  EXPECT_LT(ChiSquare(pairs, 50000, [&](int64_t p) { return 4 * draw(2 * p) + draw(2 * p + 1); }),
            kCritical15);
}

// The statistic must be able to fail: noise that forgets the token, and a generator that repeats itself.
TEST(SampleToken, TheStatisticSeesSharedNoise) {
  const auto draw_with = [](const std::function<double(int64_t, TokenId)>& noise) {
    return [noise](int64_t p) {
      TokenId best = 0;
      for (TokenId t = 1; t < 16; ++t) {
        if (kSixteen[t] + noise(p, t) > kSixteen[best] + noise(p, best)) best = t;
      }
      return best;
    };
  };
  const auto own = [](int64_t p, TokenId t) { return GumbelNoise(20, 0, p, t); };
  const auto of_the_position = [](int64_t p, TokenId) { return GumbelNoise(20, 0, p, 0); };
  const auto shared_by_two = [](int64_t p, TokenId t) { return GumbelNoise(20, 0, p, t / 2); };
  const auto few_positions = [](int64_t p, TokenId t) { return GumbelNoise(20, 0, p % 64, t); };
  const std::vector<double> expected = Softmax(kSixteen, 1.0);
  EXPECT_LT(ChiSquare(expected, 20000, draw_with(own)), kCritical15);
  EXPECT_GT(ChiSquare(expected, 20000, draw_with(of_the_position)), kCritical15);
  EXPECT_GT(ChiSquare(expected, 20000, draw_with(shared_by_two)), kCritical15);
  EXPECT_GT(ChiSquare(expected, 20000, draw_with(few_positions)), kCritical15);
}

// ---------------------------------------------------------------- candidates

std::vector<std::pair<TokenId, float>> Top(const std::vector<float>& logits, float lse, int32_t count) {
  std::vector<std::pair<TokenId, float>> out;
  for (const Candidate& c : TopCandidates(logits, lse, count)) out.push_back({c.token, c.logprob});
  return out;
}

TEST(TopCandidates, HighestFirstTiesToTheLowerId) {
  using P = std::pair<TokenId, float>;
  EXPECT_THAT(Top({1, 4, 2, 4, 3, 2}, 5, 5), ElementsAre(P{1, -1}, P{3, -1}, P{4, -2}, P{2, -3}, P{5, -3}));
  EXPECT_THAT(Top({2, 2, 2, 2}, 0, 2), ElementsAre(P{0, 2}, P{1, 2}));
  EXPECT_THAT(Top({1, 2}, 0, 9), ElementsAre(P{1, 2}, P{0, 1}));
  EXPECT_TRUE(Top({1, 2}, 0, 0).empty());
  EXPECT_TRUE(Top({1, 2}, 0, -1).empty());
  EXPECT_THAT(Top({kMinusInfinity, 2}, 0, 2), ElementsAre(P{1, 2}, P{0, kMinusInfinity}));
}

}  // namespace
}  // namespace paceline
