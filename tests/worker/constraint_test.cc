// Constrained texts over a real trunk: whatever drafts, at whatever depth, the text is that of plain decoding
// and obeys its constraint.
#include "coordinator/grammar/constraint.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/testing/drafted_run.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::LocalCluster;
using testing::LocalClusterOptions;
using testing::RunOutcome;
using testing::RunPolicy;
using testing::RunRequest;
using testing::ScriptedDrafter;

constexpr char kSchema[] = R"({"type": "object", "properties": {"a": {"type": "string", "maxLength": 12},
  "b": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 99}, "maxItems": 4},
  "c": {"enum": ["x", "yy", null]}}, "required": ["a", "b", "c"]})";

struct Fixture {
  GoldenCase golden;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ConstraintCompiler> compiler;
  TokenId stop = 0;

  explicit Fixture(const std::string& name) {
    for (const GoldenCase& c : testing::GoldenCases()) {
      if (c.name == name) golden = c;
    }
    checkpoint = *Checkpoint::Open(golden.directory);
    tokenizer = *Tokenizer::Load(golden.directory);
    compiler = std::make_unique<ConstraintCompiler>(tokenizer.get(), checkpoint->config().vocab);
    while (!tokenizer->IsSpecial(stop)) ++stop;
  }

  std::shared_ptr<const Constraint> Compile(ConstraintSpec::Kind kind, const std::string& text,
                                            const std::string& after = "") {
    const auto made =
        compiler->Compile({.kind = kind, .text = text, .after = after}, {}, std::vector<TokenId>{stop});
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : nullptr;
  }
  std::vector<TokenId> Prompt() const {
    std::vector<TokenId> prompt = golden.prompts.back().prompt;
    prompt.resize(std::min<size_t>(prompt.size(), 20));
    return prompt;
  }
  std::unique_ptr<LocalCluster> Start(LocalClusterOptions options) {
    options.head_backend = options.worker_backend = "cpu";
    options.has_token.resize(static_cast<size_t>(tokenizer->size()));
    for (TokenId id = 0; id < tokenizer->size(); ++id)
      options.has_token[static_cast<size_t>(id)] = tokenizer->HasToken(id);
    auto cluster = LocalCluster::Start(*checkpoint, options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    return *std::move(cluster);
  }
  // The text up to the id that ends it; nothing when there is none.
  std::optional<std::string> Text(const RunOutcome& outcome) const {
    const auto end = std::find(outcome.tokens.begin(), outcome.tokens.end(), stop);
    if (end == outcome.tokens.end()) return std::nullopt;
    return tokenizer->Decode({outcome.tokens.begin(), end});
  }
  // Whether a matcher that has seen nothing of this accepts every token.
  static bool Obeys(const Constraint& constraint, const RunOutcome& outcome) {
    const auto matcher = constraint.Start();
    return std::all_of(outcome.tokens.begin(), outcome.tokens.end(),
                       [&](TokenId id) { return matcher->Accept(id); });
  }
};

std::vector<RunOutcome> RunAll(LocalTrunk& trunk, const std::vector<RunRequest>& requests,
                               const RunPolicy& policy) {
  auto outcomes = testing::RunRequests(trunk, requests, policy);
  EXPECT_TRUE(outcomes.ok()) << outcomes.status();
  return outcomes.ok() ? *std::move(outcomes) : std::vector<RunOutcome>(requests.size());
}

RunPolicy Always(DraftSource source, int32_t depth) {
  return {.source = source, .depth = [depth](uint64_t, size_t) { return depth; }};
}

std::vector<std::pair<std::string, Sampling>> Samplings() {
  auto adjustments = std::make_shared<LogitAdjustments>();
  adjustments->bias = {{3, 2.5f}, {40, 6.0f}};
  Sampling penalised{.temperature = 0, .repetition_penalty = 1.3f, .presence_penalty = 0.7f};
  Sampling seeded{.temperature = 0.9f, .top_k = 20, .top_p = 0.95f, .seed = 11};
  Sampling hot{.temperature = 1.6f, .seed = 5, .presence_penalty = 1.5f};
  hot.adjustments = adjustments;
  return {{"greedy", Sampling{.temperature = 0}}, {"penalised", penalised}, {"seeded", seeded}, {"hot", hot}};
}

TEST(Constraint, DraftingLeavesAConstrainedTextAlone) {
  Fixture f("hybrid-int4-fp8-bf16");
  const std::vector<std::pair<std::string, std::shared_ptr<const Constraint>>> constraints = {
      {"schema", f.Compile(ConstraintSpec::Kind::kJsonSchema, kSchema)},
      {"regex", f.Compile(ConstraintSpec::Kind::kRegex, "(?:[a-f]{3}-)*[0-9]{2,40}")},
      {"ebnf", f.Compile(ConstraintSpec::Kind::kEbnf, "root ::= \"(\" root \")\" | [a-z]{1,3} root | \"!\"")},
      {"after", f.Compile(ConstraintSpec::Kind::kRegex, "[ab]{4,8}", "e")}};
  const auto cluster = f.Start({.ranks = 2});
  LocalTrunk& trunk = cluster->trunk();
  const auto vocab = static_cast<int32_t>(trunk.info().vocab);
  for (const auto& [constraint_name, constraint] : constraints) {
    for (auto& [name, sampling] : Samplings()) {
      Sampling constrained = sampling;
      constrained.constraint = constraint;
      const std::vector<RunRequest> requests = {{f.Prompt(), 60, constrained}};
      const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
      EXPECT_TRUE(Fixture::Obeys(*constraint, plain[0])) << constraint_name << ", " << name;
      std::vector<TokenId> text = requests[0].prompt;
      text.insert(text.end(), plain[0].tokens.begin(), plain[0].tokens.end());
      // Right for a while, then off: mostly to ids that the constraint does not allow.
      const auto script = [&](const DraftRequest& request) {
        std::vector<TokenId> drafts;
        for (int32_t d = 0; d < request.depth; ++d) {
          const size_t at = static_cast<size_t>(request.position) + 1 + static_cast<size_t>(d);
          const TokenId truth = at < text.size() ? text[at] : 0;
          drafts.push_back(d < request.position * 7 % 9 ? truth : (truth + 1) % vocab);
        }
        return drafts;
      };
      trunk.SetDrafter(DraftSource::kSuffix, std::make_unique<ScriptedDrafter>(script));
      for (int32_t depth = 1; depth <= kMaxDraft; ++depth) {
        const std::vector<RunOutcome> drafted = RunAll(trunk, requests, Always(DraftSource::kSuffix, depth));
        const std::string label = absl::StrCat(constraint_name, ", ", name, " at ", depth);
        EXPECT_EQ(drafted[0].tokens, plain[0].tokens) << label;
        EXPECT_EQ(drafted[0].logprobs, plain[0].logprobs) << label;
        EXPECT_GT(drafted[0].accepted, 0) << label;
      }
    }
  }
}

TEST(Constraint, TheMtpLayerDraftsWhatTheConstraintAllows) {
  Fixture f("mtp-equals-target");
  LocalClusterOptions options;
  options.drafting = {.mtp = true, .required = true, .suffix = true, .format = MtpFormat::kStored};
  const auto cluster = f.Start(options);
  LocalTrunk& trunk = cluster->trunk();
  const auto schema = f.Compile(ConstraintSpec::Kind::kJsonSchema, kSchema);
  for (auto& [name, sampling] : Samplings()) {
    std::vector<RunRequest> requests;
    for (int32_t r = 0; r < 3; ++r) {
      Sampling constrained = sampling;
      constrained.seed += static_cast<uint64_t>(r);
      // Two constrained ones and a free one in the same steps.
      if (r != 1) constrained.constraint = schema;
      requests.push_back({f.Prompt(), 50 + r, constrained});
    }
    const std::vector<RunOutcome> plain = RunAll(trunk, requests, RunPolicy{});
    for (const DraftSource source : trunk.info().drafters) {
      RunPolicy policy{.source = source, .chunk = 9, .stagger = 2};
      policy.depth = [](uint64_t step, size_t r) { return static_cast<int32_t>((step * 7 + r) % 9); };
      const std::vector<RunOutcome> drafted = RunAll(trunk, requests, policy);
      for (size_t r = 0; r < requests.size(); ++r) {
        EXPECT_EQ(drafted[r].tokens, plain[r].tokens) << name << ", " << DraftSourceName(source) << ", " << r;
        EXPECT_EQ(drafted[r].logprobs, plain[r].logprobs) << name;
      }
      if (source == DraftSource::kMtp && sampling.temperature == 0 && !sampling.penalises()) {
        // Its logits are the target's, and so is its mask.
        EXPECT_EQ(drafted[0].accepted, drafted[0].drafted) << name;
        EXPECT_GT(drafted[0].drafted, 20);
      }
    }
  }
  // The other rule of acceptance draws from the rest of what the mask leaves.
  Sampling rejecting{.temperature = 1.0f, .seed = 4, .acceptance = AcceptanceRule::kRejection};
  rejecting.constraint = schema;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    rejecting.seed = seed;
    const RunOutcome drafted = RunAll(trunk, {{f.Prompt(), 60, rejecting}}, Always(DraftSource::kMtp, 3))[0];
    EXPECT_TRUE(Fixture::Obeys(*schema, drafted));
    EXPECT_GT(drafted.accepted, 0);
  }
}

// After preemption the generated tokens come back as rows of a prompt; the constraint still begins behind the
// real one.
TEST(Constraint, GeneratedTokensThatAreRunAgainCount) {
  Fixture f("int4-wide-experts");
  const auto cluster = f.Start({.ranks = 1});
  LocalTrunk& trunk = cluster->trunk();
  Sampling sampling{.temperature = 0.8f, .seed = 3};
  sampling.constraint = f.Compile(ConstraintSpec::Kind::kRegex, "(?:ab[0-9]c){3,30}");
  const std::vector<TokenId> prompt = f.Prompt();
  const RunOutcome whole = RunAll(trunk, {{prompt, 30, sampling}}, RunPolicy{})[0];
  for (const size_t kept : {size_t{1}, size_t{7}, size_t{19}}) {
    SequenceRows rows{
        .sequence = SequenceId(77), .slot = 0, .pages = {0}, .first_position = 0, .tokens = prompt};
    rows.tokens.insert(rows.tokens.end(), whole.tokens.begin(),
                       whole.tokens.begin() + static_cast<int64_t>(kept));
    rows.sampled_rows = 1;
    rows.prompt_tokens = static_cast<int64_t>(prompt.size());
    rows.sampling = sampling;
    const auto result = trunk.Run({.step = StepId(1), .sequences = {rows}});
    ASSERT_TRUE(result.ok());
    ASSERT_TRUE(result->sequences[0].status.ok()) << result->sequences[0].status;
    EXPECT_EQ(result->sequences[0].rows[0].token, whole.tokens[kept]);
    trunk.Release(rows.sequence);
  }
}

TEST(Constraint, NothingLeftToDrawEndsTheRequestWithASentence) {
  Fixture f("int4-wide-experts");
  const auto cluster = f.Start({.ranks = 1});
  Sampling sampling{.temperature = 0};
  sampling.constraint = f.Compile(ConstraintSpec::Kind::kRegex, "[0-9]{5}");
  auto adjustments = std::make_shared<LogitAdjustments>();
  adjustments->allowed = {(*f.tokenizer->Encode("x"))[0]};
  sampling.adjustments = adjustments;
  const auto outcome =
      testing::RunRequests(cluster->trunk(), std::vector<RunRequest>{{f.Prompt(), 5, sampling}}, RunPolicy{});
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(outcome.status().message()).find("no token"), std::string::npos) << outcome.status();
}

TEST(Constraint, TextsThatEndAreWhatWasAskedFor) {
  Fixture f("hybrid-int4-fp8-bf16");
  const auto cluster = f.Start({.ranks = 1});
  int ended = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Sampling sampling{.temperature = 1.2f, .seed = seed};
    sampling.constraint = f.Compile(ConstraintSpec::Kind::kRegex, "[ab]{2}(?:é|\u4e2d)\\d{1,3}");
    const RunOutcome outcome = RunAll(cluster->trunk(), {{f.Prompt(), 20, sampling}}, RunPolicy{})[0];
    const std::optional<std::string> text = f.Text(outcome);
    if (!text) continue;
    ++ended;
    EXPECT_EQ(text->substr(0, 2).find_first_not_of("ab"), std::string::npos) << *text;
    EXPECT_TRUE(text->find("\u00e9") == 2 || text->find("\u4e2d") == 2) << *text;
    const std::string digits = text->substr(text->find("\u00e9") == 2 ? 4 : 5);
    EXPECT_TRUE(digits.size() >= 1 && digits.size() <= 3 &&
                digits.find_first_not_of("0123456789") == std::string::npos)
        << *text;
  }
  EXPECT_EQ(ended, 12);
}

}  // namespace
}  // namespace paceline
