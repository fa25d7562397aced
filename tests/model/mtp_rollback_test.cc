// Keys and values of the MTP layer after drafts that came to nothing: bit for bit those of a twin that never
// drafted, for every depth and every number of drafts that were right. The twin is the layer itself, run over
// the target's hidden states alone, one row at a time.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "model/mtp_drafter.h"
#include "tests/model/mtp_feed.h"
#include "tests/model/target.h"
#include "tests/testing/kv_bytes.h"

namespace paceline {
namespace {

using testing::Feed;
using testing::kPages;
using testing::Target;

constexpr int64_t kText = 300;  // over a border of KV pages

struct Case {
  MtpFormat format;
  kernels::KvDtype kv_dtype;
};

class MtpRollback : public ::testing::TestWithParam<Case> {
 protected:
  MtpRollback() : target_(PACELINE_SOURCE_DIR "/deploy/demo-model", testing::FastKernels()) {
    std::mt19937 bits(3);
    const auto vocab = static_cast<uint32_t>(target_.checkpoint().config().vocab);
    for (int64_t i = 0; i < kText; ++i) text_.push_back(static_cast<TokenId>(bits() % vocab));
    hidden_ = target_.Run(text_).normed;
    drafter_ = testing::Load(target_, {.format = GetParam().format, .kv_dtype = GetParam().kv_dtype});
    RunTwin();
  }

  // Keys, then values, of slot `j` in these pages.
  std::string Slot(const KvLayer& layer, const std::vector<int32_t>& pages, int64_t j) const {
    const ModelConfig& config = target_.checkpoint().config();
    return testing::KvBytes(AttentionShapeOf(config), layer.view(),
                            pages[static_cast<size_t>(j / kernels::kAttentionBlock)],
                            j % kernels::kAttentionBlock);
  }

  // Every slot that the drafter calls the text's is the twin's.
  void ExpectTwin(SequenceId id, const std::vector<int32_t>& pages) const {
    const int64_t stored = drafter_->stored(id);
    for (int64_t j = 0; j < stored; ++j)
      ASSERT_TRUE(Slot(drafter_->kv(), pages, j) == twin_[static_cast<size_t>(j)])
          << "slot " << j << " of " << stored;
  }

  Target target_;
  std::vector<TokenId> text_;
  std::vector<float> hidden_;  // [text, hidden]
  std::unique_ptr<MtpDrafter> drafter_;
  std::vector<std::string> twin_;  // [text - 1]

 private:
  void RunTwin() {
    const ModelConfig& config = target_.checkpoint().config();
    auto layer = MtpLayer::Load(target_.checkpoint(), target_.table, target_.pool, GetParam().format);
    ASSERT_TRUE(layer.ok()) << layer.status();
    const auto contract = GetParam().format == MtpFormat::kInt4 ? kernels::ActivationContract::kInt8
                                                                : kernels::ActivationContract::kInt16;
    const std::vector<int32_t> pages = {0, 1};
    const KvLayer kv(AttentionShapeOf(config), GetParam().kv_dtype, 2);
    for (int64_t j = 0; j + 1 < kText; ++j) {
      Batch batch;
      batch.rows = 1;
      batch.runs = {{0, 1, j, pages.data()}};
      FillRotary(config.rope_theta, config.rotary_dims, batch);
      const StepContext context{target_.table, target_.pool, target_.workspace, contract, batch};
      ASSERT_TRUE((*layer)
                      ->Forward(context, target_.embedding(), hidden_.data() + j * config.hidden,
                                {&text_[static_cast<size_t>(j) + 1], 1}, kv, {}, {})
                      .ok());
      twin_.push_back(Slot(kv, pages, j));
    }
  }
};

TEST_P(MtpRollback, EveryDepthAndEveryNumberOfRightDrafts) {
  int64_t compared = 0;
  for (int32_t depth = 1; depth <= kMaxDraft; ++depth) {
    for (int32_t right = 0; right <= depth; ++right) {
      SCOPED_TRACE(::testing::Message() << right << " of " << depth << " right");
      const std::vector<int32_t> pages = {5, 2, 9};
      Feed feed(target_, *drafter_, 1, text_, hidden_, pages);
      feed.Commit(40);
      while (feed.left() > right + 1) {
        feed.Draft(depth);
        // A chain behind a token that was not drawn after all: its slot must be written again.
        if (feed.position() % 3 == 0)
          feed.DraftBehind((text_[static_cast<size_t>(feed.position())] + 1) % 7, depth);
        ExpectTwin(SequenceId(1), pages);
        feed.Commit(right + 1);
        ExpectTwin(SequenceId(1), pages);
        if (HasFatalFailure()) return;
        compared += drafter_->stored(SequenceId(1));
      }
      EXPECT_GT(drafter_->stored(SequenceId(1)), kText - 2 * (kMaxDraft + 2));
      drafter_->Close(SequenceId(1));
    }
  }
  EXPECT_GT(compared, 100'000);
}

// Sequences that draft, rest and catch up in any order, side by side in the same calls' cache.
TEST_P(MtpRollback, SequencesSideBySide) {
  std::mt19937 bits(8);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint32_t>(n)); };
  const std::vector<std::vector<int32_t>> pages = {{5, 2}, {0, 11}, {7, 1}};
  std::vector<Feed> feeds;
  for (int32_t s = 0; s < 3; ++s)
    feeds.emplace_back(target_, *drafter_, s + 1, text_, hidden_, pages[static_cast<size_t>(s)]);
  for (bool going = true; going;) {
    going = false;
    for (size_t s = 0; s < feeds.size(); ++s) {
      Feed& feed = feeds[s];
      if (feed.left() < 2) continue;
      going = true;
      if (feed.position() > 0 && below(4) != 0) feed.Draft(1 + static_cast<int32_t>(below(kMaxDraft)));
      feed.Commit(1 + below(std::min<int64_t>(feed.left() - 1, below(6) == 0 ? 120 : kMaxDraft + 1)));
      for (size_t other = 0; other < feeds.size(); ++other) {
        if (feeds[other].position() > 0) ExpectTwin(SequenceId(other + 1), pages[other]);
      }
      if (HasFatalFailure()) return;
    }
  }
}

using kernels::KvDtype;
INSTANTIATE_TEST_SUITE_P(Formats, MtpRollback,
                         ::testing::Values(Case{MtpFormat::kInt4, KvDtype::kBF16},
                                           Case{MtpFormat::kStored, KvDtype::kBF16},
                                           Case{MtpFormat::kInt4, KvDtype::kInt4},
                                           Case{MtpFormat::kStored, KvDtype::kInt8}),
                         [](const auto& info) {
                           const bool codes = info.param.kv_dtype != KvDtype::kBF16;
                           return std::string(info.param.format == MtpFormat::kInt4 ? "int4" : "stored") +
                                  (codes ? "_kv_codes" : "");
                         });

}  // namespace
}  // namespace paceline
