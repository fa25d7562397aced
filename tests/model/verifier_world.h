// A world without a model for tests of verification: target and drafter are tables over the last two tokens,
// and steps run as a trunk runs them. Everything is a function of the seed. The mistakes that drafting stacks
// make can be planted one by one between the real parts (Bug).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "model/sampler.h"
#include "model/verifier.h"

namespace paceline::testing {

using Text = std::vector<TokenId>;
inline const Text kWorldPrompt = {3, 5};

uint64_t WorldBits(uint64_t a, uint64_t b);

// Logits behind every pair of tokens, uniform in [-spread, spread); the drafter's are the target's, blurred
// by up to 1.
class World {
 public:
  World(int32_t vocab, double spread);
  int32_t vocab() const { return vocab_; }
  // [vocab] behind `text` and then `ahead`.
  const std::vector<float>& target(std::span<const TokenId> text, std::span<const TokenId> ahead = {}) const;
  const std::vector<float>& draft(std::span<const TokenId> text, std::span<const TokenId> ahead = {}) const;

 private:
  size_t ContextOf(std::span<const TokenId> text, std::span<const TokenId> ahead) const;

  const int32_t vocab_;
  std::vector<std::vector<float>> target_, draft_;  // [vocab * vocab][vocab]
};
// Of 8 ids: strings of five tokens can be counted. Of 32: more than a drafter reports candidates.
const World& SmallWorld();
const World& WideWorld();

// ---------------------------------------------------------------- drafters

struct Guess {
  Text tokens;
  std::vector<SparseDistribution> distributions;
};
using WorldDrafter = std::function<Guess(const World& world, const SamplerState& state,
                                         const Sampling& sampling, int32_t depth)>;

Guess Coupled(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth);
Guess Sampled(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth);
// Sampled as above, but nobody is told from what.
Guess SampledAndForgotten(const World& world, const SamplerState& state, const Sampling& sampling,
                          int32_t depth);
Guess Likeliest(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth);
Guess Nothing(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth);
Guess AtRandom(const World& world, const SamplerState& state, const Sampling& sampling, int32_t depth);
// Knows the text: the first `right` guesses are true, the next is not.
WorldDrafter Knowing(Text text, int32_t right);

// ---------------------------------------------------------------- decoding

enum class Bug {
  kNone,
  kFreshSampleOnMismatch,  // the draw that refused a draft is drawn again
  kRatioOfFullQ,           // the draft comes from the four likeliest, the ratio knows all
  kLowPrecisionQ,          // the draft comes from rounded logits, the ratio from exact ones
  kWeakDraftsDropped,      // a sampled draft goes back because it looks weak
  kNoOverlay,              // penalties of the text in front of the step only
  kMinPSkipped,            // on rows behind the first
  kBiasSkipped,            // on rows behind the first
  kBonusFromWrongRow,      // the row of the last draft instead of the one behind it
};

// One sequence. `length` counts the prompt.
class Decoding {
 public:
  explicit Decoding(const World& world) : world_(world) {}

  Text Plain(const Sampling& sampling, int64_t length);
  // Steps as a trunk runs them: the rows of all drafts first, then the verdict, row by row.
  Text Drafted(const Sampling& sampling, int64_t length, const WorldDrafter& drafter,
               const std::function<int32_t(int64_t)>& depth, Bug bug = Bug::kNone);

  // Of the last call of Drafted.
  int64_t drafted() const { return drafted_; }
  int64_t accepted() const { return accepted_; }

 private:
  Guess DraftWith(Bug bug, const WorldDrafter& drafter, const Sampling& sampling, int32_t depth) const;
  void Step(const Sampling& sampling, const Guess& guess, Bug bug);

  const World& world_;
  const kernels::KernelTable& table_ = kernels::ReferenceKernels();
  ThreadPool pool_{1};
  SamplerState state_;
  int64_t drafted_ = 0, accepted_ = 0;
};

std::shared_ptr<const LogitAdjustments> Adjusted(std::vector<std::pair<TokenId, float>> bias,
                                                 std::vector<TokenId> allowed);
std::function<int32_t(int64_t)> Always(int32_t depth);

}  // namespace paceline::testing
