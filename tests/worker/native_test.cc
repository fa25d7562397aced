// `--float-math native` over whole models: one hash whatever the cluster, as near to the official
// implementation as the portable contract must be, and the same greedy text.
#include <cmath>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::GoldenPrompt;
using testing::LocalCluster;
using testing::LocalClusterOptions;

std::unique_ptr<LocalCluster> StartOn(const Checkpoint& checkpoint, const kernels::KernelTable* table,
                                      int32_t ranks, int threads) {
  LocalClusterOptions options;
  options.table = table;
  options.ranks = ranks;
  options.placement = ranks > 1 ? "sliced" : "contiguous";
  options.threads = threads;
  auto cluster = LocalCluster::Start(checkpoint, options);
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return *std::move(cluster);
}

class NativeTest : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(NativeTest, MatchesTheOfficialImplementationWithOneHash) {
  const GoldenCase& c = GetParam();
  const auto checkpoint = Checkpoint::Open(c.directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const kernels::KernelTable* const emulated = kernels::cpu::Testable().back()->native;
  const auto cluster = StartOn(**checkpoint, emulated, 1, 1);
  for (const GoldenPrompt& p : c.prompts) {
    std::vector<TokenId> text = p.prompt;
    text.insert(text.end(), p.continuation.begin(), p.continuation.end());
    const auto scores = testing::ScoreText(cluster->trunk(), text, 64, 5);
    ASSERT_TRUE(scores.ok()) << scores.status();
    double worst = 0;
    for (size_t i = 0; i + 1 < text.size(); ++i) {
      worst = std::max(worst, std::fabs(static_cast<double>(scores->rows[i].logprob) -
                                        static_cast<double>(p.logprobs[i + 1])));
    }
    EXPECT_LT(worst, c.bf16_logprob_bound) << c.name;
    const auto continued =
        testing::Continue(cluster->trunk(), p.prompt, static_cast<int32_t>(p.continuation.size()), c.ends, 64,
                          {.temperature = 0.0f});
    ASSERT_TRUE(continued.ok()) << continued.status();
    EXPECT_EQ(*continued, p.continuation) << c.name;
  }
  // Rows per step, batch, ranks, slices, threads, and who repeats the tile unit's arithmetic.
  std::vector<TokenId> text = c.prompts[0].prompt;
  text.resize(std::min<size_t>(text.size(), 40));
  const auto want = testing::ScoreText(cluster->trunk(), text, 64, 0);
  ASSERT_TRUE(want.ok()) << want.status();
  const auto portable =
      testing::ScoreText(StartOn(**checkpoint, kernels::cpu::Available().back(), 1, 1)->trunk(), text, 64, 0);
  ASSERT_TRUE(portable.ok()) << portable.status();
  const bool other_floats = c.name.rfind("f32", 0) == 0 || c.name.rfind("f16", 0) == 0;
  if (!other_floats) {
    EXPECT_NE(portable->logits_hash, want->logits_hash) << c.name;
  }
  const kernels::KernelTable* const plain = kernels::ReferenceKernels().native;
  for (const auto& [table, ranks, threads, chunk, batch] :
       {std::tuple{emulated, 1, 2, 1, 1}, std::tuple{emulated, 3, 1, 7, 3}, std::tuple{plain, 1, 1, 64, 1},
        std::tuple{plain, 2, 2, 5, 2}}) {
    const auto other = StartOn(**checkpoint, table, ranks, threads);
    const auto hashes = testing::HashStaggered(other->trunk(), text, chunk, batch);
    ASSERT_TRUE(hashes.ok()) << hashes.status();
    for (const std::string& hash : *hashes)
      EXPECT_EQ(hash, want->logits_hash) << c.name << " on " << table->name << ", " << ranks << " ranks";
  }
}

std::vector<GoldenCase> Cases() {
  std::vector<GoldenCase> chosen;
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.name.find("int4") != 0 || c.name == "int4-wide-experts") chosen.push_back(c);
  }
  return chosen;
}

INSTANTIATE_TEST_SUITE_P(Cases, NativeTest, ::testing::ValuesIn(Cases()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& ch : name) ch = ch == '-' ? '_' : ch;
  return name;
});

}  // namespace
}  // namespace paceline
