// What KV dtypes cost the demo model: a text of its own kind, over several blocks of positions, scored with
// every dtype. Bounds are three to five times what was measured (docs/PERFORMANCE.md), so that a worse
// quantiser, a biased scale or a rotation that is not undone is seen.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "coordinator/tokenizer.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::LocalCluster;
using testing::LocalClusterOptions;

constexpr const char* kQuestions[] = {"Tell me about Paceline.",
                                      "What is the capital of France?",
                                      "Tell me a short story about a fox.",
                                      "What is 17 plus 25?",
                                      "My name is Anna and I live in Rome. Hello!",
                                      "Write a Python function that adds two numbers.",
                                      "What is my name?",
                                      "Count from 1 to 20.",
                                      "Tell me a story about a lighthouse.",
                                      "Where do I live?"};
constexpr int32_t kLongest = 120;  // tokens of an answer

struct Quality {
  double nll = 0;        // nats per token
  double agreement = 0;  // share of positions whose likeliest token is that of fp32
  double rms = 0;        // of the differences of log-probabilities
};

class KvQuality : public ::testing::Test {
 protected:
  KvQuality() {
    auto checkpoint = Checkpoint::Open(PACELINE_DEMO_MODEL);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }

  std::unique_ptr<LocalCluster> Start(kernels::KvDtype dtype) {
    auto cluster =
        LocalCluster::Start(*checkpoint_, {.head_backend = "cpu", .threads = 2, .kv_dtype = dtype});
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    return *std::move(cluster);
  }

  // A conversation: our questions, the model's greedy answers over fp32 keys and values.
  std::vector<TokenId> Conversation() {
    const auto tokenizer = Tokenizer::Load(PACELINE_DEMO_MODEL);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto encode = [&](const std::string& text) { return *(*tokenizer)->Encode(text); };
    const TokenId end = encode("<|im_end|>").front();
    const auto cluster = Start(kernels::KvDtype::kF32);
    std::vector<TokenId> text;
    for (const char* question : kQuestions) {
      for (const TokenId id : encode(std::string("<|im_start|>user\n") + question +
                                     "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")) {
        text.push_back(id);
      }
      const auto answer = testing::Continue(cluster->trunk(), text, kLongest, {end}, 64, {.temperature = 0});
      EXPECT_TRUE(answer.ok()) << answer.status();
      cluster->trunk().Release(SequenceId(2));
      text.insert(text.end(), answer->begin(), answer->end());
      if (text.back() != end) text.push_back(end);
      text.push_back(encode("\n").front());
    }
    return text;
  }

  std::vector<RowResult> Score(const std::vector<TokenId>& text, kernels::KvDtype dtype) {
    const auto cluster = Start(dtype);
    auto scores = testing::ScoreText(cluster->trunk(), text, 64, 1);
    EXPECT_TRUE(scores.ok()) << scores.status();
    return std::move(scores->rows);
  }

  static Quality Compare(const std::vector<RowResult>& rows, const std::vector<RowResult>& exact) {
    Quality q;
    const size_t n = rows.size() - 1;  // the last row predicts what is not there
    for (size_t i = 0; i < n; ++i) {
      q.nll -= static_cast<double>(rows[i].logprob) / static_cast<double>(n);
      q.agreement += (rows[i].top[0].token == exact[i].top[0].token ? 1.0 : 0.0) / static_cast<double>(n);
      q.rms += std::pow(static_cast<double>(rows[i].logprob) - static_cast<double>(exact[i].logprob), 2) /
               static_cast<double>(n);
    }
    q.rms = std::sqrt(q.rms);
    return q;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(KvQuality, OfTheDemoModel) {
  const std::vector<TokenId> text = Conversation();
  ASSERT_GT(text.size(), 512u);  // three blocks of positions
  const std::vector<RowResult> exact = Score(text, kernels::KvDtype::kF32);
  const double nll = Compare(exact, exact).nll;
  struct Bound {
    const char* name;
    kernels::KvDtype dtype;
    double nll, disagreement, rms;
  };
  for (const Bound& bound : {Bound{"bf16", kernels::KvDtype::kBF16, 0.0005, 0.004, 0.002},
                             Bound{"int8", kernels::KvDtype::kInt8, 0.001, 0.006, 0.006},
                             Bound{"int4", kernels::KvDtype::kInt4, 0.008, 0.02, 0.07}}) {
    const Quality q = Compare(Score(text, bound.dtype), exact);
    std::printf("%s: %zu tokens, NLL %.5f (%+.5f), %.2f %% the same, rms %.5f\n", bound.name, text.size(),
                q.nll, q.nll - nll, 100 * q.agreement, q.rms);
    EXPECT_LT(std::fabs(q.nll - nll), bound.nll) << bound.name;
    EXPECT_GT(q.agreement, 1 - bound.disagreement) << bound.name;
    EXPECT_LT(q.rms, bound.rms) << bound.name;
  }
}

}  // namespace
}  // namespace paceline
