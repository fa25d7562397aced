// Verification without a model: target and drafter are tables over the last two tokens. Coupled text is plain
// text, token for token; under either rule strings have the target's probabilities, computed here a second
// time. The mistakes that drafting stacks make are planted one by one between the real parts (Bug), and each
// is seen by the test that names it.
#include "model/verifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/random.h"
#include "model/sampler.h"

namespace paceline {
namespace {

using Text = std::vector<TokenId>;
constexpr int32_t kVocab = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
const Text kPrompt = {3, 5};

// ---------------------------------------------------------------- the tables

uint64_t Bits(uint64_t a, uint64_t b) { return RandomBits(a, 99, RandomPurpose::kSynth, b, 0); }

// Logits behind every pair of tokens; the drafter's are the target's, blurred.
struct World {
  World() {
    for (int32_t context = 0; context < kVocab * kVocab; ++context) {
      for (int32_t v = 0; v < kVocab; ++v) {
        const uint64_t key = static_cast<uint64_t>(context * kVocab + v);
        target[context].push_back(static_cast<float>(4 * UniformOf(Bits(1, key)) - 2));
        draft[context].push_back(target[context][v] + static_cast<float>(2 * UniformOf(Bits(2, key)) - 1));
      }
    }
  }
  static int32_t Context(TokenId before, TokenId last) { return before * kVocab + last; }
  std::vector<float> target[kVocab * kVocab];  // [vocab] each
  std::vector<float> draft[kVocab * kVocab];
};
const World& TheWorld() {
  static const World world;
  return world;
}
// Behind `text` and then `ahead`.
int32_t ContextOf(std::span<const TokenId> text, std::span<const TokenId> ahead) {
  const auto back = [&](size_t n) {  // n = 1: the last
    return n <= ahead.size() ? ahead[ahead.size() - n] : text[text.size() - (n - ahead.size())];
  };
  return World::Context(back(2), back(1));
}

// ---------------------------------------------------------------- drafters

struct Guess {
  Text tokens;
  std::vector<SparseDistribution> distributions;
};
using Drafter = std::function<Guess(const SamplerState& state, const Sampling& sampling, int32_t depth)>;

Guess Coupled(const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k) {
    std::vector<float> logits = TheWorld().draft[ContextOf(state.tokens(), guess.tokens)];
    guess.tokens.push_back(*SampleDraft(logits, {}, sampling, state, state.size() + k, guess.tokens));
  }
  return guess;
}
Guess Sampled(const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k) {
    std::vector<float> logits = TheWorld().draft[ContextOf(state.tokens(), guess.tokens)];
    DraftDraw draw = *SampleDraftDistribution(logits, {}, sampling, state, state.size() + k, guess.tokens);
    guess.tokens.push_back(draw.token);
    guess.distributions.push_back(std::move(draw.distribution));
  }
  return guess;
}
// Sampled as above, but nobody is told from what.
Guess SampledAndForgotten(const SamplerState& state, const Sampling& sampling, int32_t depth) {
  return {Sampled(state, sampling, depth).tokens, {}};
}
Guess Likeliest(const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Sampling greedy = sampling;
  greedy.temperature = 0;
  return Coupled(state, greedy, depth);
}
Guess Nothing(const SamplerState&, const Sampling&, int32_t) { return {}; }
Guess AtRandom(const SamplerState& state, const Sampling& sampling, int32_t depth) {
  Guess guess;
  for (int32_t k = 0; k < depth; ++k)
    guess.tokens.push_back(static_cast<TokenId>(Bits(sampling.seed + 7, state.size() * 16 + k) % kVocab));
  return guess;
}
// Knows the text: the first `right` guesses are true, the next is not.
Drafter Knowing(Text text, int32_t right) {
  return [text = std::move(text), right](const SamplerState& state, const Sampling&, int32_t depth) {
    Guess guess;
    for (int32_t k = 0; k < depth && state.size() + k < static_cast<int64_t>(text.size()); ++k)
      guess.tokens.push_back((text[state.size() + k] + (k == right ? 1 : 0)) % kVocab);
    return guess;
  };
}

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

// A significand of four bits, as in E4M3.
float FourBits(float x) {
  int exponent = 0;
  const float significand = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(significand * 16) / 16, exponent);
}

Guess DraftWith(Bug bug, const Drafter& drafter, const SamplerState& state, const Sampling& sampling,
                int32_t depth) {
  if (bug == Bug::kRatioOfFullQ || bug == Bug::kLowPrecisionQ) {
    Guess guess;
    for (int32_t k = 0; k < depth; ++k) {
      const std::vector<float>& exact = TheWorld().draft[ContextOf(state.tokens(), guess.tokens)];
      std::vector<float> told = exact, used = exact;
      Sampling narrow = sampling;
      if (bug == Bug::kRatioOfFullQ) narrow.top_k = 4;
      if (bug == Bug::kLowPrecisionQ) {
        for (float& l : used) l = FourBits(l);
      }
      const int64_t position = state.size() + k;
      guess.distributions.push_back(
          SampleDraftDistribution(told, {}, sampling, state, position, guess.tokens)->distribution);
      guess.tokens.push_back(SampleDraftDistribution(used, {}, narrow, state, position, guess.tokens)->token);
    }
    return guess;
  }
  Guess guess = drafter(state, sampling, depth);
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

struct Harness {
  const kernels::KernelTable& table = kernels::ReferenceKernels();
  ThreadPool pool{1};
  SamplerState state;
  int64_t drafted = 0, accepted = 0;

  Text Plain(const Sampling& sampling, int64_t length) {
    state.Reset(static_cast<int64_t>(kPrompt.size()));
    state.Append(kPrompt);
    while (state.size() < length) {
      std::vector<float> logits = TheWorld().target[ContextOf(state.tokens(), {})];
      AdjustLogits(logits, sampling, state);
      const TokenId token = *SampleToken(table, pool, logits, sampling, state.size());
      state.Append({&token, 1});
    }
    return {state.tokens().begin(), state.tokens().end()};
  }

  // Steps as a trunk runs them: the rows of all drafts first, then the verdict, row by row.
  Text Drafted(const Sampling& sampling, int64_t length, const Drafter& drafter,
               const std::function<int32_t(int64_t)>& depth, Bug bug = Bug::kNone) {
    state.Reset(static_cast<int64_t>(kPrompt.size()));
    state.Append(kPrompt);
    drafted = accepted = 0;
    while (state.size() < length)
      Step(sampling, DraftWith(bug, drafter, state, sampling, depth(state.size())), bug);
    Text text(state.tokens().begin(), state.tokens().end());
    text.resize(static_cast<size_t>(length));
    return text;
  }

 private:
  void Step(const Sampling& sampling, const Guess& guess, Bug bug) {
    std::vector<std::vector<float>> rows;  // [1 + drafts][vocab]
    for (size_t k = 0; k <= guess.tokens.size(); ++k) {
      rows.push_back(TheWorld().target[ContextOf(state.tokens(), std::span(guess.tokens).first(k))]);
    }
    if (bug == Bug::kBonusFromWrongRow && rows.size() > 1) rows.back() = rows[rows.size() - 2];
    Sampling used = sampling;
    SamplerState in_front;
    if (bug == Bug::kNoOverlay) in_front = state;
    Verification verification({.sampling = &used,
                               .state = &state,
                               .drafts = guess.tokens,
                               .distributions = guess.distributions,
                               .position = state.size()});
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
      const TokenId token = *verification.Judge(table, pool, rows[row]);
      const bool wrong = row < guess.tokens.size() && token != guess.tokens[row];
      if (bug == Bug::kFreshSampleOnMismatch && wrong) {
        Sampling fresh = used;
        fresh.choice += 1;
        const TokenId other = *SampleToken(table, pool, rows[row], fresh, state.size() - 1);
        state.Truncate(state.size() - 1);
        state.Append({&other, 1});
      }
    }
    EXPECT_EQ(static_cast<size_t>(verification.accepted()) + 1, row);
    drafted += static_cast<int64_t>(guess.tokens.size());
    accepted += verification.accepted();
  }
};

// ---------------------------------------------------------------- samplings

std::shared_ptr<const LogitAdjustments> Adjusted(std::vector<std::pair<TokenId, float>> bias,
                                                 std::vector<TokenId> allowed) {
  return std::make_shared<LogitAdjustments>(LogitAdjustments{std::move(bias), std::move(allowed)});
}

std::vector<std::pair<const char*, Sampling>> Samplings() {
  const auto bias = Adjusted({{1, 1.5f}, {4, -2.0f}}, {});
  return {
      {"greedy", {.temperature = 0}},
      {"greedy, penalties", {.temperature = 0, .repetition_penalty = 1.3f, .presence_penalty = 0.5f}},
      {"plain", {}},
      {"cool", {.temperature = 0.6f}},
      {"top-k", {.top_k = 3}},
      {"top-p", {.top_p = 0.8f}},
      {"min-p", {.min_p = 0.2f}},
      {"truncated", {.temperature = 0.8f, .top_k = 6, .top_p = 0.9f, .min_p = 0.05f}},
      {"repetition", {.repetition_penalty = 1.4f}},
      {"presence", {.presence_penalty = 1.5f}},
      {"frequency", {.frequency_penalty = 0.3f}},
      {"bias", {.adjustments = bias}},
      {"allowed", {.adjustments = Adjusted({}, {0, 2, 3, 5, 6})}},
      {"everything",
       {.temperature = 0.9f,
        .top_k = 7,
        .top_p = 0.95f,
        .min_p = 0.02f,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.4f,
        .frequency_penalty = 0.1f,
        .adjustments = Adjusted({{1, 1.5f}, {4, -2.0f}}, {0, 1, 2, 4, 5, 6, 7})}},
  };
}

std::function<int32_t(int64_t)> Always(int32_t depth) {
  return [depth](int64_t) { return depth; };
}
int32_t RandomDepth(int64_t position) { return static_cast<int32_t>(Bits(3, position) % (kMaxDraft + 1)); }

// ---------------------------------------------------------------- identity

TEST(Coupled, TextIsThatOfPlainDecodingWhateverTheDrafts) {
  constexpr int64_t kLength = 1000;
  Harness plain, drafted;
  uint64_t seed = 1;
  for (const auto& [name, given] : Samplings()) {
    for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
      // Rejection promises the text only where nothing is random.
      if (rule == AcceptanceRule::kRejection && given.temperature > 0) continue;
      Sampling sampling = given;
      sampling.acceptance = rule;
      sampling.seed = seed++;
      const Text want = plain.Plain(sampling, kLength);
      const std::pair<const char*, Drafter> drafters[] = {{"coupled", Coupled},
                                                          {"sampled", Sampled},
                                                          {"likeliest", Likeliest},
                                                          {"random", AtRandom},
                                                          {"none", Nothing},
                                                          {"never right", Knowing(want, 0)},
                                                          {"right once", Knowing(want, 1)},
                                                          {"right thrice", Knowing(want, 3)},
                                                          {"all-knowing", Knowing(want, kMaxDraft)}};
      for (const auto& [who, drafter] : drafters) {
        for (int32_t depth = 1; depth <= kMaxDraft; ++depth)
          ASSERT_EQ(drafted.Drafted(sampling, kLength, drafter, Always(depth)), want)
              << name << ", " << who << ", depth " << depth;
        ASSERT_EQ(drafted.Drafted(sampling, kLength, drafter, RandomDepth), want) << name << ", " << who;
      }
      drafted.Drafted(sampling, kLength, Knowing(want, kMaxDraft), Always(4));
      EXPECT_EQ(drafted.accepted, drafted.drafted) << name;
      drafted.Drafted(sampling, kLength, Knowing(want, 0), Always(4));
      EXPECT_EQ(drafted.accepted, 0) << name;
    }
  }
}

// A drafter that draws with the target's noise is right far more often than one that draws by itself.
TEST(Coupled, SharedNoiseBeatsAnIndependentDraw) {
  Harness shared, own;
  shared.Drafted({.seed = 5}, 4000, Coupled, Always(1));
  own.Drafted({.seed = 5}, 4000, Sampled, Always(1));
  EXPECT_GT(shared.accepted * 10, shared.drafted * 6);
  EXPECT_LT(own.accepted * 10, own.drafted * 4);
}

void ExpectIdentityFails(Bug bug, const Sampling& sampling) {
  Harness plain, drafted;
  const Text want = plain.Plain(sampling, 300);
  const Drafter knowing = Knowing(want, kMaxDraft);
  EXPECT_EQ(drafted.Drafted(sampling, 300, knowing, Always(3)), want);
  EXPECT_NE(drafted.Drafted(sampling, 300, knowing, Always(3), bug), want);
  EXPECT_NE(drafted.Drafted(sampling, 300, Coupled, Always(2), bug), want);
}

TEST(PlantedBug, PenaltiesWithoutOverlayBreakIdentity) {
  ExpectIdentityFails(Bug::kNoOverlay, {.seed = 1, .presence_penalty = 1.5f});
  ExpectIdentityFails(Bug::kNoOverlay, {.seed = 2, .frequency_penalty = 0.5f});
  ExpectIdentityFails(Bug::kNoOverlay, {.temperature = 0, .frequency_penalty = 0.5f});
}
TEST(PlantedBug, MinPSkippedOnVerifiedRowsBreaksIdentity) {
  ExpectIdentityFails(Bug::kMinPSkipped, {.min_p = 0.3f, .seed = 1});
}
TEST(PlantedBug, BiasSkippedOnVerifiedRowsBreaksIdentity) {
  ExpectIdentityFails(Bug::kBiasSkipped, {.seed = 1, .adjustments = Adjusted({{1, 1.5f}}, {})});
  ExpectIdentityFails(Bug::kBiasSkipped, {.seed = 1, .adjustments = Adjusted({}, {0, 2, 5, 6})});
}
TEST(PlantedBug, BonusFromTheWrongRowBreaksIdentity) {
  ExpectIdentityFails(Bug::kBonusFromWrongRow, {.seed = 1});
  // Without a penalty the likeliest tokens run in a circle that the drafter never guesses.
  ExpectIdentityFails(Bug::kBonusFromWrongRow, {.temperature = 0, .frequency_penalty = 0.3f});
}
TEST(PlantedBug, AFreshSampleOnMismatchBreaksIdentity) {
  Harness plain, drafted;
  const Sampling sampling{.seed = 1};
  EXPECT_NE(drafted.Drafted(sampling, 300, Coupled, Always(2), Bug::kFreshSampleOnMismatch),
            plain.Plain(sampling, 300));
}

// ---------------------------------------------------------------- distribution

// A second writing of NUMERICS, Sampling, in fp64 and without care for speed: probabilities behind `text`.
std::vector<double> Expected(const Text& text, const Sampling& s) {
  const std::vector<float>& logits = TheWorld().target[World::Context(text[text.size() - 2], text.back())];
  std::vector<std::pair<double, TokenId>> kept;  // logit, id
  for (TokenId id = 0; id < kVocab; ++id) {
    double l = static_cast<double>(logits[id]);
    if (s.adjustments != nullptr) {
      const auto& allowed = s.adjustments->allowed;
      if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), id) == allowed.end()) continue;
      for (const auto& [of, bias] : s.adjustments->bias) l += of == id ? static_cast<double>(bias) : 0.0;
    }
    const int64_t generated = std::count(text.begin() + kPrompt.size(), text.end(), id);
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
  std::vector<double> p(kVocab, 0.0);
  total = 0;
  for (size_t i = 0; i < kept.size(); ++i) total += weight(i);
  for (size_t i = 0; i < kept.size(); ++i) p[kept[i].second] = weight(i) / total;
  return p;
}

constexpr int32_t kTokens = 5;  // generated per request: depth 4 and its bonus row
constexpr int32_t kStrings = kVocab * kVocab * kVocab;

// Cells: each position by itself, then the strings of the first three and of the last three tokens.
struct Cells {
  std::vector<double> single[kTokens];
  std::vector<double> first, last;
  Cells() : first(kStrings, 0.0), last(kStrings, 0.0) {
    for (auto& s : single) s.assign(kVocab, 0.0);
  }
  void Add(const TokenId* t, double weight) {
    for (int32_t i = 0; i < kTokens; ++i) single[i][t[i]] += weight;
    first[(t[0] * kVocab + t[1]) * kVocab + t[2]] += weight;
    last[(t[2] * kVocab + t[3]) * kVocab + t[4]] += weight;
  }
};

void AddExpected(const Sampling& sampling, Text& text, double probability, Cells& cells) {
  if (text.size() == kPrompt.size() + kTokens) return cells.Add(&text[kPrompt.size()], probability);
  const std::vector<double> p = Expected(text, sampling);
  for (TokenId id = 0; id < kVocab; ++id) {
    if (p[id] == 0) continue;
    text.push_back(id);
    AddExpected(sampling, text, probability * p[id], cells);
    text.pop_back();
  }
}
Cells ExpectedCells(const Sampling& sampling) {
  Cells cells;
  Text text = kPrompt;
  AddExpected(sampling, text, 1.0, cells);
  return cells;
}

Cells Observed(Sampling sampling, const Drafter& drafter, int32_t depth, int64_t requests,
               uint64_t first_seed, Bug bug = Bug::kNone) {
  Harness harness;
  Cells cells;
  for (int64_t i = 0; i < requests; ++i) {
    sampling.seed = first_seed + static_cast<uint64_t>(i);
    const Text text = harness.Drafted(sampling, static_cast<int64_t>(kPrompt.size()) + kTokens, drafter,
                                      Always(depth), bug);
    cells.Add(&text[kPrompt.size()], 1);
  }
  return cells;
}

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
double Worst(const Cells& expected, const Cells& seen, double requests) {
  double worst =
      std::max(Badness(expected.first, seen.first, requests), Badness(expected.last, seen.last, requests));
  for (int32_t i = 0; i < kTokens; ++i)
    worst = std::max(worst, Badness(expected.single[i], seen.single[i], requests));
  return worst;
}

// 4 rules x 4 depths x 4 samplings x 13'000 requests x 5 tokens: 4.16 million draws.
TEST(Distribution, JointStringsAreTheTargetsUnderEveryRule) {
  constexpr int64_t kRequests = 13000;
  const std::pair<const char*, Sampling> samplings[] = {
      {"plain", {}},
      {"truncated", {.temperature = 0.8f, .top_k = 6, .top_p = 0.9f, .min_p = 0.1f}},
      {"penalties", {.repetition_penalty = 1.2f, .presence_penalty = 0.8f, .frequency_penalty = 0.3f}},
      {"everything",
       {.temperature = 1.2f,
        .top_k = 6,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repetition_penalty = 1.1f,
        .presence_penalty = 0.5f,
        .adjustments = Adjusted({{1, 1.0f}, {4, -1.0f}}, {0, 1, 2, 4, 5, 6, 7})}},
  };
  struct Rule {
    const char* name;
    AcceptanceRule acceptance;
    Drafter drafter;
  };
  const Rule rules[] = {{"coupled", AcceptanceRule::kCoupled, Coupled},
                        {"rejection", AcceptanceRule::kRejection, Sampled},
                        {"rejection of certain drafts", AcceptanceRule::kRejection, Likeliest},
                        {"rejection of forgotten draws", AcceptanceRule::kRejection, SampledAndForgotten}};
  uint64_t seed = 1;
  double worst = 0;
  for (const auto& [name, given] : samplings) {
    const Cells expected = ExpectedCells(given);
    for (const Rule& rule : rules) {
      for (int32_t depth = 1; depth <= 4; ++depth, seed += kRequests) {
        Sampling sampling = given;
        sampling.acceptance = rule.acceptance;
        const Cells seen = Observed(sampling, rule.drafter, depth, kRequests, seed);
        const double badness = Worst(expected, seen, kRequests);
        EXPECT_LT(badness, 1) << rule.name << ", " << name << ", depth " << depth;
        worst = std::max(worst, badness);
      }
    }
  }
  RecordProperty("worst", absl::StrCat(worst));
}

// Of rejection sampling the share of accepted drafts is known: the sum of min(p, q).
TEST(Distribution, RejectionAcceptsAsOftenAsItCan) {
  const Text text = kPrompt;
  const std::vector<double> p = Expected(text, {});
  SamplerState state;
  state.Reset(2);
  state.Append(kPrompt);
  std::vector<float> logits = TheWorld().draft[ContextOf(text, {})];
  const DraftDraw draw = *SampleDraftDistribution(logits, {}, {}, state, 2);
  double overlap = 0;
  for (const SparseDistribution::Entry& e : draw.distribution.entries)
    overlap += std::min(e.probability, p[e.token]);
  Harness harness;
  constexpr int64_t kRequests = 50000;
  double accepted = 0;
  for (int64_t i = 0; i < kRequests; ++i) {
    harness.Drafted({.seed = 900000 + static_cast<uint64_t>(i), .acceptance = AcceptanceRule::kRejection}, 3,
                    Sampled, Always(1));
    accepted += static_cast<double>(harness.accepted);
  }
  EXPECT_NEAR(accepted / kRequests, overlap, 5 * std::sqrt(overlap * (1 - overlap) / kRequests));
}

// The same statistic, the same number of draws: the real parts pass, the planted mistake does not.
void ExpectDistributionFails(Bug bug, const Drafter& drafter, Sampling sampling, int64_t requests = 13000) {
  const Cells expected = ExpectedCells(sampling);
  for (const int32_t depth : {1, 3}) {
    EXPECT_LT(
        Worst(expected, Observed(sampling, drafter, depth, requests, 500), static_cast<double>(requests)), 1)
        << depth;
    EXPECT_GT(Worst(expected, Observed(sampling, drafter, depth, requests, 500, bug),
                    static_cast<double>(requests)),
              1)
        << depth;
  }
}
TEST(PlantedBug, AFreshSampleOnMismatchShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kFreshSampleOnMismatch, Sampled, {});
  ExpectDistributionFails(Bug::kFreshSampleOnMismatch, Coupled, {});
}
TEST(PlantedBug, ARatioOfTheFullQShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kRatioOfFullQ, Sampled, {.acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, ALowPrecisionQShowsInTheDistribution) {
  // The smallest of the mistakes: three percent of the probability in the wrong places.
  ExpectDistributionFails(Bug::kLowPrecisionQ, Sampled, {.acceptance = AcceptanceRule::kRejection}, 60000);
}
TEST(PlantedBug, DroppedWeakDraftsShowInTheDistribution) {
  ExpectDistributionFails(Bug::kWeakDraftsDropped, Sampled, {.acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, PenaltiesWithoutOverlayShowInTheDistribution) {
  ExpectDistributionFails(Bug::kNoOverlay, Sampled,
                          {.presence_penalty = 1.5f, .acceptance = AcceptanceRule::kRejection});
}
TEST(PlantedBug, MinPSkippedOnVerifiedRowsShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kMinPSkipped, Coupled, {.min_p = 0.3f});
}
TEST(PlantedBug, BiasSkippedOnVerifiedRowsShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kBiasSkipped, Coupled, {.adjustments = Adjusted({{1, 1.5f}}, {})});
}
TEST(PlantedBug, BonusFromTheWrongRowShowsInTheDistribution) {
  ExpectDistributionFails(Bug::kBonusFromWrongRow, Sampled, {.acceptance = AcceptanceRule::kRejection});
}

// ---------------------------------------------------------------- the interface

struct OneStep {
  SamplerState state;
  ThreadPool pool{1};
  OneStep() {
    state.Reset(2);
    state.Append(kPrompt);
  }
  absl::StatusOr<TokenId> Judge(Verification& verification, std::vector<float> logits) {
    return verification.Judge(kernels::ReferenceKernels(), pool, logits);
  }
};

TEST(Verification, WithoutDraftsOneRowIsEnough) {
  OneStep step;
  const Sampling greedy{.temperature = 0};
  Verification verification({.sampling = &greedy, .state = &step.state, .position = 2});
  EXPECT_FALSE(verification.done());
  EXPECT_EQ(*step.Judge(verification, {0, 1, 5, 0, 0, 0, 0, 0}), 2);
  EXPECT_TRUE(verification.done());
  EXPECT_EQ(verification.accepted(), 0);
  EXPECT_EQ(step.state.tokens().back(), 2);
  EXPECT_EQ(step.state.counts().at(2).generated, 1);
}

TEST(Verification, ARowThatIsNotNumbersFailsUnderEveryRule) {
  const std::vector<float> bad = {0, std::numeric_limits<float>::quiet_NaN(), 0, 0, 0, 0, 0, 0};
  const Text drafts = {2};
  for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
    for (const double assume : {-1.0, 1.0}) {
      OneStep step;
      const Sampling sampling{.acceptance = rule};
      Verification verification({.sampling = &sampling,
                                 .state = &step.state,
                                 .drafts = drafts,
                                 .position = 2,
                                 .assume_acceptance = assume});
      const auto token = step.Judge(verification, bad);
      ASSERT_FALSE(token.ok());
      EXPECT_EQ(CodeOf(std::string(token.status().message())), "REQ-003");
      EXPECT_EQ(step.state.size(), 2);
    }
  }
}

TEST(Verification, AMaskedDraftIsNeverEmitted) {
  const Text drafts = {4};
  for (uint64_t seed = 0; seed < 200; ++seed) {
    for (const AcceptanceRule rule : {AcceptanceRule::kCoupled, AcceptanceRule::kRejection}) {
      OneStep step;
      const Sampling sampling{.seed = seed, .acceptance = rule};
      Verification verification(
          {.sampling = &sampling, .state = &step.state, .drafts = drafts, .position = 2});
      EXPECT_NE(*step.Judge(verification, {0, 0, 0, 0, -kInfinity, 0, 0, 0}), 4);
      EXPECT_TRUE(verification.done());
    }
  }
}

TEST(Verification, AssumedAcceptanceAsksNeitherTargetNorDraft) {
  constexpr int32_t kSteps = 20000;
  for (const double assume : {0.0, 0.6, 1.0}) {
    for (const TokenId draft : {2, 6}) {  // what the target draws, and what it never would
      const Text drafts(4, draft);
      double judged = 0, right = 0;
      for (uint64_t seed = 0; seed < kSteps / 4; ++seed) {
        OneStep step;
        const Sampling greedy{.temperature = 0, .seed = seed};
        Verification verification({.sampling = &greedy,
                                   .state = &step.state,
                                   .drafts = drafts,
                                   .position = 2,
                                   .assume_acceptance = assume});
        int32_t rows = 0;
        while (!verification.done()) {
          const TokenId token = *step.Judge(verification, {0, 1, 5, 0, 0, 0, 0, 0});
          EXPECT_EQ(token, verification.done() ? 2 : draft);
          ++rows;
        }
        EXPECT_EQ(rows, verification.accepted() + 1);
        judged += std::min(rows, 4);
        right += verification.accepted();
      }
      EXPECT_NEAR(right / judged, assume, 5 * std::sqrt(assume * (1 - assume) / judged));
    }
  }
}

}  // namespace
}  // namespace paceline
