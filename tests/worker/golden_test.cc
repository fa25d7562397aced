// The trunk against the official implementation, in process: log-probabilities within the case's bound,
// greedy continuation token for token, drafts of the MTP layer. The binary is judged again by
// tests/goldens/check.py.
#include <cmath>

#include "gtest/gtest.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::GoldenPrompt;
using testing::LocalCluster;
using testing::LocalClusterOptions;

class GoldenTest : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    auto checkpoint = Checkpoint::Open(GetParam().directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto cluster = LocalCluster::Start(*checkpoint_, LocalClusterOptions{});
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<LocalCluster> cluster_;  // one rank, reference backend
};

TEST_P(GoldenTest, ReferenceBackendMatchesTheOfficialImplementation) {
  const GoldenCase& c = GetParam();
  LocalTrunk& trunk = cluster_->trunk();
  for (const GoldenPrompt& p : c.prompts) {
    std::vector<TokenId> text = p.prompt;
    text.insert(text.end(), p.continuation.begin(), p.continuation.end());
    const auto scores = testing::ScoreText(trunk, text, 64, 5, SequenceId(1));
    ASSERT_TRUE(scores.ok()) << scores.status();
    double worst = 0;
    for (size_t i = 0; i + 1 < text.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(scores->rows[i].logprob) -
                                        static_cast<double>(p.logprobs[i + 1])));
    }
    EXPECT_LT(worst, c.bf16_logprob_bound) << c.name << " with a prompt of " << p.prompt.size();
    const auto continued = testing::Continue(trunk, p.prompt, static_cast<int32_t>(p.continuation.size()),
                                             c.ends, 64, {.temperature = 0.0f});
    ASSERT_TRUE(continued.ok()) << continued.status();
    EXPECT_EQ(*continued, p.continuation) << c.name;
  }
}

TEST_P(GoldenTest, DraftsAreThoseOfTheMtpLayer) {
  const GoldenCase& c = GetParam();
  LocalTrunk& trunk = cluster_->trunk();
  for (const GoldenPrompt& p : c.prompts) {
    std::vector<TokenId> text = p.prompt;
    text.insert(text.end(), p.continuation.begin(), p.continuation.end());
    if (p.drafts.empty()) {
      EXPECT_FALSE(trunk.info().has_mtp) << c.name;
      continue;
    }
    trunk.KeepHidden(SequenceId(1));
    ASSERT_TRUE(testing::ScoreText(trunk, text, 17, 0, SequenceId(1), /*release=*/false).ok());
    const auto drafts = trunk.Drafts(*checkpoint_, SequenceId(1), text, 4);
    ASSERT_TRUE(drafts.ok()) << drafts.status();
    trunk.Release(SequenceId(1));
    ASSERT_EQ(drafts->size(), p.drafts.size());
    for (size_t i = 0; i < p.drafts.size(); ++i) {
      const std::vector<TokenId> got((*drafts)[i].begin(), (*drafts)[i].begin() + p.drafts_sure[i]);
      const std::vector<TokenId> want(p.drafts[i].begin(), p.drafts[i].begin() + p.drafts_sure[i]);
      EXPECT_EQ(got, want) << c.name << " drafts after position " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest, ::testing::ValuesIn(testing::GoldenCases()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& ch : name) ch = ch == '-' ? '_' : ch;
                           return name;
                         });

}  // namespace
}  // namespace paceline
