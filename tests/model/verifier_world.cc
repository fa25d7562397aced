// The tables, who guesses from them, and the steps.
#include "tests/model/verifier_world.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace paceline::testing {

uint64_t WorldBits(uint64_t a, uint64_t b) { return RandomBits(a, 99, RandomPurpose::kSynth, b, 0); }

World::World(int32_t vocab, double spread) : vocab_(vocab) {
  const auto contexts = static_cast<size_t>(vocab) * static_cast<size_t>(vocab);
  target_.resize(contexts);
  draft_.resize(contexts);
  for (size_t context = 0; context < contexts; ++context) {
    for (int32_t v = 0; v < vocab; ++v) {
      const uint64_t key = context * static_cast<size_t>(vocab) + static_cast<size_t>(v);
      target_[context].push_back(static_cast<float>(2 * spread * UniformOf(WorldBits(1, key)) - spread));
      draft_[context].push_back(target_[context].back() +
                                static_cast<float>(2 * UniformOf(WorldBits(2, key)) - 1));
    }
  }
}

size_t World::ContextOf(std::span<const TokenId> text, std::span<const TokenId> ahead) const {
  const auto back = [&](size_t n) {  // n = 1: the last
    return n <= ahead.size() ? ahead[ahead.size() - n] : text[text.size() - (n - ahead.size())];
  };
  return static_cast<size_t>(back(2) * vocab_ + back(1));
}
const std::vector<float>& World::target(std::span<const TokenId> text, std::span<const TokenId> ahead) const {
  return target_[ContextOf(text, ahead)];
}
const std::vector<float>& World::draft(std::span<const TokenId> text, std::span<const TokenId> ahead) const {
  return draft_[ContextOf(text, ahead)];
}

const World& SmallWorld() {
  static const World world(8, 2);
  return world;
}
const World& WideWorld() {
  static const World world(32, 3);
  return world;
}

Guess Coupled(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k) {
    std::vector<float> logits = world.draft(state.tokens(), guess.tokens);
    guess.tokens.push_back(*SampleDraft(logits, {}, sampling, state, state.size() + k, guess.tokens));
  }
  return guess;
}
Guess Sampled(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k) {
    std::vector<float> logits = world.draft(state.tokens(), guess.tokens);
    DraftDraw draw = *SampleDraftDistribution(logits, {}, sampling, state, state.size() + k, guess.tokens);
    guess.tokens.push_back(draw.token);
    guess.distributions.push_back(std::move(draw.distribution));
  }
  return guess;
}
Guess SampledAndForgotten(const World& world, const SamplerState& state, const Sampling& sampling,
                          int32_t depth) {
  return {Sampled(world, state, sampling, depth).tokens, {}};
}
Guess Likeliest(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Sampling greedy = sampling;
  greedy.temperature = 0;
  return Coupled(world, state, greedy, depth);
}
Guess Nothing(const World& /*world*/, const SamplerState&, const Sampling&, int32_t) { return {}; }
Guess AtRandom(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k)
    guess.tokens.push_back(static_cast<TokenId>(WorldBits(sampling.seed + 7, state.size() * 16 + k) %
                                                static_cast<uint64_t>(world.vocab())));
  return guess;
}
WorldDrafter Knowing(Text text, int32_t right) {
  return [text = std::move(text), right](const World& world, const SamplerState& state, const Sampling&,
                                         int32_t depth) {
    Guess guess;
    for (int32_t k = 0; k < depth && state.size() + k < static_cast<int64_t>(text.size()); ++k)
      guess.tokens.push_back((text[state.size() + k] + (k == right ? 1 : 0)) % world.vocab());
    return guess;
  };
}

namespace {

// A significand of four bits, as in E4M3.
float FourBits(float x) {
  int exponent = 0;
  const float significand = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(significand * 16) / 16, exponent);
}

}  // namespace

Guess Decoding::DraftWith(Bug bug, const WorldDrafter& drafter, const Sampling& sampling,
                          int32_t depth) const {
  if (bug == Bug::kRatioOfFullQ || bug == Bug::kLowPrecisionQ) {
    Guess guess;
    for (int32_t k = 0; k < depth; ++k) {
      const std::vector<float>& exact = world_.draft(state_.tokens(), guess.tokens);
      std::vector<float> told = exact, used = exact;
      Sampling narrow = sampling;
      if (bug == Bug::kRatioOfFullQ) narrow.top_k = 4;
      if (bug == Bug::kLowPrecisionQ) {
        for (float& l : used) l = FourBits(l);
      }
      const int64_t position = state_.size() + k;
      guess.distributions.push_back(
          SampleDraftDistribution(told, {}, sampling, state_, position, guess.tokens)->distribution);
      guess.tokens.push_back(
          SampleDraftDistribution(used, {}, narrow, state_, position, guess.tokens)->token);
    }
    return guess;
  }
  Guess guess = drafter(world_, state_, sampling, depth);
  if (bug == Bug::kWeakDraftsDropped) {
    for (size_t k = 0; k < guess.tokens.size(); ++k) {
      for (const SparseDistribution::Entry& e : guess.distributions[k].entries) {
        if (e.token != guess.tokens[k] || e.probability >= 0.1) continue;
        guess.tokens.resize(k);
        guess.distributions.resize(k);
        return guess;
      }
    }
  }
  return guess;
}

Text Decoding::Plain(const Sampling& sampling, int64_t length) {
  state_.Reset(static_cast<int64_t>(kWorldPrompt.size()));
  state_.Append(kWorldPrompt);
  while (state_.size() < length) {
    std::vector<float> logits = world_.target(state_.tokens());
    AdjustLogits(logits, sampling, state_);
    const TokenId token = *SampleToken(table_, pool_, logits, sampling, state_.size());
    state_.Append({&token, 1});
  }
  return {state_.tokens().begin(), state_.tokens().end()};
}

Text Decoding::Drafted(const Sampling& sampling, int64_t length, const WorldDrafter& drafter,
                       const std::function<int32_t(int64_t)>& depth, Bug bug) {
  state_.Reset(static_cast<int64_t>(kWorldPrompt.size()));
  state_.Append(kWorldPrompt);
  drafted_ = accepted_ = 0;
  while (state_.size() < length) Step(sampling, DraftWith(bug, drafter, sampling, depth(state_.size())), bug);
  Text text(state_.tokens().begin(), state_.tokens().end());
  text.resize(static_cast<size_t>(length));
  return text;
}

void Decoding::Step(const Sampling& sampling, const Guess& guess, Bug bug) {
  std::vector<std::vector<float>> rows;  // [1 + drafts][vocab]
  for (size_t k = 0; k <= guess.tokens.size(); ++k) {
    rows.push_back(world_.target(state_.tokens(), std::span(guess.tokens).first(k)));
  }
  if (bug == Bug::kBonusFromWrongRow && rows.size() > 1) rows.back() = rows[rows.size() - 2];
  Sampling used = sampling;
  SamplerState in_front;
  if (bug == Bug::kNoOverlay) in_front = state_;
  Verification verification({.sampling = &used,
                             .state = &state_,
                             .drafts = guess.tokens,
                             .distributions = guess.distributions,
                             .position = state_.size()});
  size_t row = 0;
  for (; !verification.done(); ++row) {
    if (row > 0 && bug == Bug::kMinPSkipped) used.min_p = 0;
    if (row > 0 && bug == Bug::kBiasSkipped) used.adjustments = nullptr;
    if (bug == Bug::kNoOverlay) {
      AdjustLogits(rows[row], sampling, in_front);
      used.repetition_penalty = 1;
      used.presence_penalty = used.frequency_penalty = 0;
      used.adjustments = nullptr;
    }
    const TokenId token = *verification.Judge(table_, pool_, rows[row]);
    const bool wrong = row < guess.tokens.size() && token != guess.tokens[row];
    if (bug == Bug::kFreshSampleOnMismatch && wrong) {
      Sampling fresh = used;
      fresh.choice += 1;
      const TokenId other = *SampleToken(table_, pool_, rows[row], fresh, state_.size() - 1);
      state_.Truncate(state_.size() - 1);
      state_.Append({&other, 1});
    }
  }
  EXPECT_EQ(static_cast<size_t>(verification.accepted()) + 1, row);
  drafted_ += static_cast<int64_t>(guess.tokens.size());
  accepted_ += verification.accepted();
}

std::shared_ptr<const LogitAdjustments> Adjusted(std::vector<std::pair<TokenId, float>> bias,
                                                 std::vector<TokenId> allowed) {
  return std::make_shared<LogitAdjustments>(LogitAdjustments{std::move(bias), std::move(allowed)});
}

std::function<int32_t(int64_t)> Always(int32_t depth) {
  return [depth](int64_t) { return depth; };
}

}  // namespace paceline::testing
