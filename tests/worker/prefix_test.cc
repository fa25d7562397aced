// The prefix cache over real trunks: a request that goes on from a stored state gets the tokens, the
// log-probabilities, the hash of all logits and the drafts of one that ran from its first token; and so does
// one that had to stop and come back.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::LocalCluster;
using testing::LocalClusterOptions;

// A head in process: cluster, trunk and engine.
class Head {
 public:
  Head(const Checkpoint& checkpoint, LocalClusterOptions options) {
    options.head_backend = options.worker_backend = "cpu";
    auto cluster = LocalCluster::Start(checkpoint, options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    SchedulerOptions scheduling;
    scheduling.speculation.mode = DraftMode::kOff;  // but where a request asks
    engine_ = std::make_unique<Engine>(Engine::Parts{.trunk = &cluster_->trunk()}, GenerationDefaults{},
                                       scheduling);
    engine_->Start();
  }
  Engine& engine() { return *engine_; }
  LocalTrunk& trunk() { return cluster_->trunk(); }

 private:
  std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<Engine> engine_;
};

std::vector<TokenId> RandomText(int64_t vocab, size_t tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> text(tokens);
  for (TokenId& token : text) token = static_cast<TokenId>(random() % static_cast<uint32_t>(vocab));
  return text;
}

GenerateRequest Request(std::vector<TokenId> prompt, int64_t count, const Sampling& sampling, int64_t depth) {
  GenerateRequest request;
  request.input = std::move(prompt);
  request.stopping.max_tokens = count;
  request.stopping.ignore_eos = true;
  request.sampling.temperature = sampling.temperature;
  request.sampling.seed = sampling.seed;
  request.sampling.repetition_penalty = sampling.repetition_penalty;
  request.sampling.frequency_penalty = sampling.frequency_penalty;
  request.speculation.mode = depth > 0 ? DraftMode::kFixed : DraftMode::kOff;
  request.speculation.max_draft_tokens = depth;
  request.logprobs = true;
  request.hash_logits = true;
  return request;
}

struct Answer {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  std::string hash;
  int64_t drafted = 0, accepted = 0;
  std::vector<bool> guessed;  // [tokens] a drafter had it
  int64_t cached = 0;

  friend bool SameText(const Answer& a, const Answer& b) {
    return a.tokens == b.tokens && a.logprobs == b.logprobs && a.hash == b.hash;
  }
};

Answer Ask(Engine& engine, GenerateRequest request) {
  const auto result = RunGeneration(engine, std::move(request));
  EXPECT_TRUE(result.ok()) << result.status();
  Answer answer;
  if (!result.ok()) return answer;
  answer.tokens = result->token_ids();
  for (const GeneratedToken& token : result->tokens) {
    answer.logprobs.push_back(token.logprob.value_or(1));
    answer.guessed.push_back(token.drafted);
  }
  answer.hash = result->end.logits_hash;
  answer.drafted = result->end.speculation.drafted;
  answer.accepted = result->end.speculation.accepted;
  answer.cached = result->started.cached_tokens;
  return answer;
}

GenerateRequest Bypassing(GenerateRequest request) {
  request.cache.bypass = true;
  return request;
}

class PrefixGolden : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(PrefixGolden, AHitChangesNothing) {
  const auto checkpoint = Checkpoint::Open(GetParam().directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t vocab = (*checkpoint)->config().vocab;
  Head head(**checkpoint, {.ranks = 2, .slots = 4, .pages = 16, .snapshots = 8});
  const std::vector<TokenId> text = RandomText(vocab, 700, 5);
  const Sampling greedy{.temperature = 0};
  const Sampling seeded{
      .temperature = 0.9f, .seed = 3, .repetition_penalty = 1.2f, .frequency_penalty = 0.3f};
  for (const Sampling& sampling : {greedy, seeded}) {
    const Answer cold = Ask(head.engine(), Bypassing(Request(text, 20, sampling, 0)));
    EXPECT_EQ(cold.cached, 0);
    if (sampling.temperature == 0) Ask(head.engine(), Request(text, 1, sampling, 0));
    const Answer warm = Ask(head.engine(), Request(text, 20, sampling, 0));
    EXPECT_EQ(warm.cached, 512);
    EXPECT_TRUE(SameText(warm, cold)) << "temperature " << sampling.temperature;
  }
  // A text that leaves it after a page and a bit.
  std::vector<TokenId> branch(text.begin(), text.begin() + 300);
  for (const TokenId token : RandomText(vocab, 100, 6)) branch.push_back(token);
  const Answer cold = Ask(head.engine(), Bypassing(Request(branch, 20, seeded, 0)));
  const Answer warm = Ask(head.engine(), Request(branch, 20, seeded, 0));
  EXPECT_EQ(warm.cached, 256);
  EXPECT_TRUE(SameText(warm, cold));
  EXPECT_EQ(head.engine().stats().pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(All, PrefixGolden, ::testing::ValuesIn(testing::GoldenCases()), [](const auto& i) {
  std::string name = i.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

class PrefixDemo : public ::testing::TestWithParam<kernels::KvDtype> {
 protected:
  PrefixDemo() {
    auto checkpoint = Checkpoint::Open(PACELINE_DEMO_MODEL);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }
  LocalClusterOptions Options(int32_t ranks) {
    LocalClusterOptions options{.ranks = ranks, .slots = 6, .pages = 40, .snapshots = 16};
    options.drafting.mtp = options.drafting.suffix = true;
    options.kv_dtype = GetParam();
    return options;
  }
  std::unique_ptr<Checkpoint> checkpoint_;
};
INSTANTIATE_TEST_SUITE_P(KvDtypes, PrefixDemo,
                         ::testing::Values(kernels::KvDtype::kBF16, kernels::KvDtype::kInt8,
                                           kernels::KvDtype::kInt4),
                         [](const auto& info) {
                           if (info.param == kernels::KvDtype::kBF16) return "bf16";
                           return info.param == kernels::KvDtype::kInt8 ? "int8" : "int4";
                         });

// The MTP layer's keys and the hidden state at the border are there too: the drafts are those of a cold run,
// one by one.
TEST_P(PrefixDemo, DraftsGoOnAsIfNothingHadHappened) {
  for (const int32_t ranks : {1, 3}) {
    const Sampling sampling{.temperature = 0.7f, .seed = 9};
    std::vector<TokenId> prompt = RandomText(4000, 30, 1);
    std::vector<Answer> cold, warm;
    std::vector<std::vector<TokenId>> prompts;
    // Three turns of a conversation; then the same in a head that knows each turn's beginning.
    for (const bool cached : {false, true}) {
      Head head(*checkpoint_, Options(ranks));
      for (int turn = 0; turn < 3; ++turn) {
        GenerateRequest request = Request(cached ? prompts[turn] : prompt, 330, sampling, 3);
        if (!cached) prompts.push_back(prompt);
        const Answer answer = Ask(head.engine(), cached ? request : Bypassing(request));
        (cached ? warm : cold).push_back(answer);
        prompt.insert(prompt.end(), answer.tokens.begin(), answer.tokens.end());
        for (const TokenId token : RandomText(4000, 20, 2)) prompt.push_back(token);
      }
    }
    EXPECT_EQ(warm[0].cached, 0);
    EXPECT_EQ(warm[1].cached, 256);
    EXPECT_EQ(warm[2].cached, 512);
    for (size_t turn = 0; turn < 3; ++turn) {
      EXPECT_TRUE(SameText(warm[turn], cold[turn])) << ranks << " ranks, turn " << turn;
      EXPECT_EQ(warm[turn].drafted, cold[turn].drafted) << turn;
      EXPECT_EQ(warm[turn].guessed, cold[turn].guessed) << turn;
      EXPECT_GT(warm[turn].accepted, 0) << turn;
    }
  }
}

// Right behind a border the drafter looks hardest at what was restored: at the key that the hidden state in
// front of the border makes, and at keys that waited to be made when the text was left.
TEST_P(PrefixDemo, TheFirstDraftsBehindABorderAreThoseOfAColdRun) {
  Head head(*checkpoint_, Options(1));
  int64_t guessed = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const Sampling sampling{.temperature = 0.5f, .seed = seed};
    std::vector<TokenId> text = RandomText(4000, 10, seed);
    const Answer made = Ask(head.engine(), Bypassing(Request(text, 260, sampling, 0)));
    text.insert(text.end(), made.tokens.begin(), made.tokens.end());
    text.resize(257 + seed % 3);
    Ask(head.engine(), Request(text, 1, sampling, 0));
    const Answer cold = Ask(head.engine(), Bypassing(Request(text, 16, sampling, 4)));
    const Answer warm = Ask(head.engine(), Request(text, 16, sampling, 4));
    EXPECT_EQ(warm.cached, 256);
    EXPECT_TRUE(SameText(warm, cold)) << seed;
    EXPECT_EQ(warm.guessed, cold.guessed) << seed;
    EXPECT_EQ(warm.drafted, cold.drafted) << seed;
    guessed += warm.accepted;
  }
  EXPECT_GT(guessed, 12);
}

// Every border is passed by a plain row, by verified rows that end there, and by some that go on behind it.
TEST_P(PrefixDemo, AStateTakenAmidDraftsIsTheStateOfPlainRows) {
  const Sampling sampling{.temperature = 0};
  for (const int64_t depth : {0, 1, 2, 5, 8}) {
    Head head(*checkpoint_, Options(1));
    std::vector<TokenId> prompt = RandomText(4000, 245 + static_cast<size_t>(depth), 4);
    const Answer first = Ask(head.engine(), Request(prompt, 300, sampling, depth));
    prompt.insert(prompt.end(), first.tokens.begin(), first.tokens.end());
    const Answer cold = Ask(head.engine(), Bypassing(Request(prompt, 40, sampling, 0)));
    const Answer warm = Ask(head.engine(), Request(prompt, 40, sampling, 0));
    EXPECT_EQ(warm.cached, 512) << depth;
    EXPECT_TRUE(SameText(warm, cold)) << depth;
  }
}

// Few pages, slots and snapshots; many that want them.
TEST_P(PrefixDemo, UnderPressureEveryRequestGetsItsOwnText) {
  for (const int32_t ranks : {1, 2}) {
    LocalClusterOptions options = Options(ranks);
    options.slots = 4;
    options.pages = 7;
    options.snapshots = 3;
    std::vector<GenerateRequest> requests;
    const std::vector<TokenId> text = RandomText(4000, 600, 8);
    for (uint32_t r = 0; r < 12; ++r) {
      std::vector<TokenId> prompt(text.begin(), text.begin() + (r % 4) * 150);
      for (const TokenId token : RandomText(4000, 50 + r * 10, r)) prompt.push_back(token);
      const Sampling sampling{.temperature = r % 3 == 0 ? 0.0f : 0.8f,
                              .seed = r,
                              .repetition_penalty = r % 2 == 0 ? 1.0f : 1.2f,
                              .frequency_penalty = r % 2 == 0 ? 0.0f : 0.2f};
      requests.push_back(Request(std::move(prompt), 120 + r * 20, sampling, r % 4));
      requests.back().priority = static_cast<int32_t>(r / 8);
    }
    std::vector<Answer> alone(requests.size()), together(requests.size());
    Head head(*checkpoint_, options);
    for (size_t r = 0; r < requests.size(); ++r) alone[r] = Ask(head.engine(), Bypassing(requests[r]));
    const int64_t before = head.engine().stats().scheduling.preemptions;
    std::vector<std::thread> clients;
    for (size_t r = 0; r < requests.size(); ++r)
      clients.emplace_back([&, r] { together[r] = Ask(head.engine(), requests[r]); });
    for (std::thread& client : clients) client.join();
    for (size_t r = 0; r < requests.size(); ++r)
      EXPECT_TRUE(SameText(together[r], alone[r])) << ranks << " ranks, request " << r;
    EXPECT_GT(head.engine().stats().scheduling.preemptions, before);
    EXPECT_EQ(head.engine().stats().pages_used, 0);
  }
}

}  // namespace
}  // namespace paceline
