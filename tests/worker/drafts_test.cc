// Drafting from checkpoints whose MTP layer is not whole, and the INT8 head under the trunk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "tests/model/checkpoint_files.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using ::testing::HasSubstr;
using testing::LocalCluster;
using testing::LocalClusterOptions;

GoldenCase CaseOf(const std::string& name) {
  for (const GoldenCase& c : testing::GoldenCases()) {
    if (c.name == name) return c;
  }
  ADD_FAILURE() << "no case " << name;
  return {};
}

std::vector<TokenId> TextOf(const GoldenCase& c) {
  std::vector<TokenId> text = c.prompts.back().prompt;
  text.insert(text.end(), c.prompts.back().continuation.begin(), c.prompts.back().continuation.end());
  return text;
}

// The case's folder with some tensors left out.
class Thinned {
 public:
  Thinned(const GoldenCase& c, const std::function<bool(const std::string&)>& leaves_out) {
    for (const auto& entry : std::filesystem::directory_iterator(c.directory)) {
      if (entry.path().filename() != "model.safetensors")
        std::filesystem::copy_file(entry.path(),
                                   std::filesystem::path(folder_.path()) / entry.path().filename());
    }
    testing::Tensors tensors = testing::ReadTensors(c.directory + "/model.safetensors");
    left_out = std::erase_if(tensors, [&](const auto& item) { return leaves_out(item.first); });
    folder_.Write("model.safetensors", testing::Safetensors(tensors));
  }
  const std::string& path() const { return folder_.path(); }
  size_t left_out = 0;

 private:
  testing::Folder folder_;
};

absl::Status DraftStatus(const Checkpoint& checkpoint, const std::vector<TokenId>& text, std::string* hash) {
  auto cluster = LocalCluster::Start(checkpoint, {});
  if (!cluster.ok()) return cluster.status();
  LocalTrunk& trunk = (*cluster)->trunk();
  trunk.KeepHidden(SequenceId(1));
  const auto scores = testing::ScoreText(trunk, text, 20, 0, SequenceId(1), /*release=*/false);
  EXPECT_TRUE(scores.ok()) << scores.status();
  *hash = scores->logits_hash;
  EXPECT_FALSE(trunk.info().has_mtp);
  return trunk.Drafts(checkpoint, SequenceId(1), text, 2).status();
}

TEST(Drafts, AMissingTensorIsNamedAndTheModelRunsWithout) {
  const GoldenCase c = CaseOf("mtp-equals-target");
  const std::vector<TokenId> text = TextOf(c);
  const auto whole = Checkpoint::Open(c.directory);
  ASSERT_TRUE(whole.ok()) << whole.status();
  auto cluster = LocalCluster::Start(**whole, {});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  const std::string want = testing::ScoreText((*cluster)->trunk(), text, 64, 0)->logits_hash;

  for (const char* name : {"mtp.norm.weight", "mtp.fc.weight", "mtp.layers.0.self_attn.k_norm.weight"}) {
    const Thinned thinned(c, [&](const std::string& tensor) { return tensor == name; });
    ASSERT_EQ(thinned.left_out, 1u) << name;
    const auto checkpoint = Checkpoint::Open(thinned.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_FALSE((*checkpoint)->warnings().empty());
    std::string hash;
    const absl::Status status = DraftStatus(**checkpoint, text, &hash);
    EXPECT_EQ(CodeOf(std::string(status.message())), "LOAD-004") << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_EQ(hash, want);
  }
  const Thinned none(c, [](const std::string& tensor) { return tensor.rfind("mtp.", 0) == 0; });
  EXPECT_GT(none.left_out, 5u);
  const auto checkpoint = Checkpoint::Open(none.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::string hash;
  EXPECT_THAT(std::string(DraftStatus(**checkpoint, text, &hash).message()),
              HasSubstr("holds no mtp.* tensors"));
  EXPECT_EQ(hash, want);
}

TEST(Drafts, DepthAndLengthAtTheirEnds) {
  const GoldenCase c = CaseOf("mtp-equals-target");
  const auto checkpoint = Checkpoint::Open(c.directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto cluster = LocalCluster::Start(**checkpoint, {});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  LocalTrunk& trunk = (*cluster)->trunk();
  const std::vector<TokenId> text = TextOf(c);
  const auto drafts = [&](size_t count, int32_t depth) {
    const std::vector<TokenId> part(text.begin(), text.begin() + static_cast<int64_t>(count));
    trunk.KeepHidden(SequenceId(1));
    EXPECT_TRUE(testing::ScoreText(trunk, part, 64, 0, SequenceId(1), /*release=*/false).ok());
    const auto chains = trunk.Drafts(**checkpoint, SequenceId(1), part, depth);
    EXPECT_TRUE(chains.ok()) << chains.status();
    trunk.Release(SequenceId(1));
    return *chains;
  };
  EXPECT_TRUE(drafts(1, 3).empty());
  EXPECT_EQ(drafts(2, 3).size(), 1u);
  EXPECT_EQ(drafts(9, 0), std::vector<std::vector<TokenId>>(8));
  // A chain is a function of the text before it: depth and what follows do not change its beginning. 66 and
  // more are two blocks of rows.
  const auto whole = drafts(100, 4), shorter = drafts(70, 2);
  ASSERT_EQ(whole.size(), 99u);
  for (size_t i = 0; i < shorter.size(); ++i) {
    ASSERT_EQ(shorter[i].size(), 2u);
    ASSERT_EQ(whole[i].size(), 4u);
    EXPECT_TRUE(std::equal(shorter[i].begin(), shorter[i].end(), whole[i].begin())) << i;
  }
}

// The stored head's favourite is the INT8 head's in nearly every row, and ranks that share the INT8 head have
// its bits.
TEST(Int8Head, AgreesWithTheStoredHeadAndIsOneArithmeticOverRanks) {
  const GoldenCase c = CaseOf("hybrid-int4-fp8-bf16");
  const auto checkpoint = Checkpoint::Open(c.directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::vector<TokenId> text = TextOf(c);
  const auto score = [&](const LocalClusterOptions& options, const char* name) {
    auto cluster = LocalCluster::Start(**checkpoint, options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    EXPECT_EQ((*cluster)->trunk().info().lm_head, name);
    return *testing::ScoreText((*cluster)->trunk(), text, 64, 1);
  };
  const testing::Scores stored = score({}, "stored");
  LocalClusterOptions options;
  options.lm_head = HeadFormat::kInt8;
  const testing::Scores int8 = score(options, "int8");
  EXPECT_NE(int8.logits_hash, stored.logits_hash);
  size_t agree = 0;
  double furthest = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    agree += int8.rows[i].top[0].token == stored.rows[i].top[0].token ? 1 : 0;
    furthest =
        std::max(furthest, std::fabs(static_cast<double>(int8.rows[i].logprob - stored.rows[i].logprob)));
  }
  EXPECT_GE(agree * 100, text.size() * 95);
  EXPECT_LT(furthest, 0.25);
  options.ranks = 3;
  options.head_split = true;
  EXPECT_EQ(score(options, "int8").logits_hash, int8.logits_hash);
  options.head_backend = options.worker_backend = "cpu";
  EXPECT_EQ(score(options, "int8").logits_hash, int8.logits_hash);
}

}  // namespace
}  // namespace paceline
