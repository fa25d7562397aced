// The LM head: INT8 within the error its scales allow, row ranges that are the whole, and the exchange around
// them.
#include "model/head.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/plain_decode.h"
#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

class HeadTest : public ::testing::Test {
 protected:
  static constexpr int32_t kRows = 70;  // more than one block of the exchange

  void SetUp() override {
    checkpoint_ =
        *Checkpoint::Open(absl::StrCat(PACELINE_SOURCE_DIR, "/tests/goldens/cases/hybrid-int4-fp8-bf16"));
    hidden_ = checkpoint_->config().hidden;
    vocab_ = checkpoint_->config().vocab;
    std::mt19937 random(4);
    x_.resize(static_cast<size_t>(kRows * hidden_));
    for (float& v : x_) v = static_cast<float>(static_cast<int32_t>(random() % 6001) - 3000) / 1000.0f;
  }
  std::unique_ptr<LmHead> Load(HeadFormat format, RowRange range) {
    return *LmHead::Load(*checkpoint_, format, range, table_);
  }
  std::vector<float> Held(const LmHead& head) {  // [kRows, held]
    std::vector<float> y(static_cast<size_t>(kRows * head.held()));
    head.ForwardHeld(context_, x_.data(), kRows, y.data(), head.held());
    return y;
  }

  const kernels::KernelTable& table_ = kernels::ReferenceKernels();
  ThreadPool pool_{1};
  kernels::Workspace workspace_;
  Batch none_;
  StepContext context_{table_, pool_, workspace_, kernels::ActivationContract::kInt16, none_};
  std::unique_ptr<Checkpoint> checkpoint_;
  int64_t hidden_ = 0, vocab_ = 0;
  std::vector<float> x_;  // [kRows, hidden]
};

TEST_F(HeadTest, AutoKeepsASmallHead) {
  EXPECT_EQ(*ResolveHeadFormat(*checkpoint_, HeadFormat::kAuto), HeadFormat::kStored);
  EXPECT_EQ(*ResolveHeadFormat(*checkpoint_, HeadFormat::kStored), HeadFormat::kStored);
  EXPECT_EQ(*ResolveHeadFormat(*checkpoint_, HeadFormat::kInt8), HeadFormat::kInt8);
}

TEST_F(HeadTest, AHeadOfEightBitsStaysAsStored) {
  testing::Tensors tensors = testing::SmallTensors();
  const std::vector<int64_t> shape = tensors.at("lm_head.weight").shape;
  tensors["lm_head.weight"] = {"F8_E4M3", shape,
                               std::string(static_cast<size_t>(shape[0] * shape[1]), '\x38')};
  const std::vector<int64_t> blocks = {(shape[0] + 127) / 128, (shape[1] + 127) / 128};
  tensors["lm_head.weight_scale_inv"] = testing::F32(blocks, 3);
  const testing::Folder folder;
  folder.WriteModel(testing::SmallConfig(), tensors);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const HeadFormat asked : {HeadFormat::kAuto, HeadFormat::kStored, HeadFormat::kInt8}) {
    const auto format = ResolveHeadFormat(**checkpoint, asked);
    ASSERT_TRUE(format.ok()) << format.status();
    EXPECT_EQ(*format, HeadFormat::kStored);
    EXPECT_TRUE(LmHead::Load(**checkpoint, *format, {}, table_).ok());
  }
}

// Half a step of the row's scale per weight, half a step of the group's scale per input, and the rounding of
// 256 sums.
TEST_F(HeadTest, Int8IsAsCloseAsItsScalesAllow) {
  const std::vector<float> exact = Held(*Load(HeadFormat::kStored, {})),
                           coarse = Held(*Load(HeadFormat::kInt8, {}));
  const kernels::PlainLinear stored = *checkpoint_->ReadLinear("lm_head");
  double furthest = 0;
  for (int64_t n = 0; n < vocab_; ++n) {
    double largest = 0, weights = 0;
    for (int64_t k = 0; k < hidden_; ++k) {
      const double w = std::fabs(static_cast<double>(kernels::PlainValue(stored, n, k)));
      largest = std::max(largest, w);
      weights += w;
    }
    const double scale = largest / 127;
    for (int32_t r = 0; r < kRows; ++r) {
      double inputs = 0, top = 0;
      for (int64_t k = 0; k < hidden_; ++k) {
        const double x = std::fabs(static_cast<double>(x_[static_cast<size_t>(r * hidden_ + k)]));
        inputs += x;
        top = std::max(top, x);
      }
      const double bound = scale / 2 * inputs +
                           (weights + scale / 2 * static_cast<double>(hidden_)) * top / 32639 / 2 +
                           weights * top * 256 * 0x1p-24;
      const double error = std::fabs(static_cast<double>(exact[static_cast<size_t>(r * vocab_ + n)]) -
                                     static_cast<double>(coarse[static_cast<size_t>(r * vocab_ + n)]));
      ASSERT_LE(error, bound) << "row " << r << " output " << n;
      furthest = std::max(furthest, error / bound);
    }
  }
  EXPECT_GT(furthest, 0.01);  // it is another arithmetic, not the same head
}

TEST_F(HeadTest, RowRangesAreTheWhole) {
  for (const HeadFormat format : {HeadFormat::kStored, HeadFormat::kInt8}) {
    const std::vector<float> whole = Held(*Load(format, {}));
    for (const RowRange range :
         {RowRange{0, 1}, RowRange{0, 128}, RowRange{128, 128}, RowRange{256, vocab_ - 256}}) {
      const auto head = Load(format, range);
      ASSERT_EQ(head->held(), range.count);
      const std::vector<float> part = Held(*head);
      for (int32_t r = 0; r < kRows; ++r) {
        ASSERT_TRUE(std::equal(part.begin() + r * range.count, part.begin() + (r + 1) * range.count,
                               whole.begin() + r * vocab_ + range.first))
            << "row " << r << " from " << range.first;
      }
    }
  }
}

// The other ranks' rows, computed here.
class HeadExchange final : public Exchange {
 public:
  HeadExchange(std::vector<std::unique_ptr<LmHead>> heads, const StepContext& context)
      : heads_(std::move(heads)), context_(context) {}
  absl::Status SendMatmul(StepId, int32_t matrix, const float* x, int32_t rows, int32_t width,
                          std::span<const MatmulPart> parts) override {
    EXPECT_EQ(matrix, 0);
    EXPECT_LE(rows, kBlockRows);
    x_.assign(x, x + int64_t{rows} * width);
    rows_ = rows;
    parts_.assign(parts.begin(), parts.end());
    ++sent;
    return absl::OkStatus();
  }
  absl::Status ReceiveMatmul(StepId, int32_t, float* y, int64_t stride) override {
    if (sent == fail_at) return absl::UnavailableError("the answer failed");
    for (const MatmulPart& part : parts_) {
      const LmHead& head = *heads_.at(static_cast<size_t>(part.rank.value()));
      EXPECT_EQ(head.held(), part.outputs);
      head.ForwardHeld(context_, x_.data(), rows_, y + part.first, stride);
    }
    return absl::OkStatus();
  }
  absl::Status SendExperts(StepId, LayerId, int32_t, const RowBlock&, std::span<const Part>) override {
    return absl::UnimplementedError("no experts");
  }
  absl::Status ReceiveExperts(StepId, LayerId, int32_t, ExpertSums) override {
    return absl::UnimplementedError("no experts");
  }
  void SetPeers(Epoch, std::vector<Peer>) override {}
  absl::Status MeasureLinks(bool) override { return absl::OkStatus(); }
  int64_t bytes() const override { return 0; }
  double wait_seconds() const override { return 0; }

  int sent = 0, fail_at = -1;

 private:
  std::vector<std::unique_ptr<LmHead>> heads_;  // by rank, null where nothing is held
  const StepContext& context_;
  std::vector<float> x_;
  int32_t rows_ = 0;
  std::vector<MatmulPart> parts_;
};

TEST_F(HeadTest, RanksAndBlocksMoveNoBit) {
  // Rank 2 holds nothing, and in the second cut neither does the head.
  const std::vector<std::vector<RowRange>> cuts = {{{0, 128}, {128, 128}, {256, 0}, {256, vocab_ - 256}},
                                                   {{0, 0}, {0, 256}, {256, 0}, {256, vocab_ - 256}}};
  for (const HeadFormat format : {HeadFormat::kStored, HeadFormat::kInt8}) {
    const std::vector<float> want = Held(*Load(format, {}));
    for (const std::vector<RowRange>& ranges : cuts) {
      Placement placement(Epoch(0), 4, {});
      placement.set_head_rows(ranges);
      const auto exchange = [&] {
        std::vector<std::unique_ptr<LmHead>> heads;
        for (const RowRange& range : ranges)
          heads.push_back(range.count == 0 ? nullptr : Load(format, range));
        return HeadExchange(std::move(heads), context_);
      };
      const auto own = Load(format, ranges[0]);
      HeadExchange good = exchange(), bad = exchange();
      std::vector<float> logits(static_cast<size_t>(kRows * vocab_), -1.0f);
      ASSERT_TRUE(own->Forward(context_, x_.data(), kRows, placement, &good, StepId(1), logits.data()).ok());
      EXPECT_EQ(good.sent, 2);
      EXPECT_EQ(logits, want);
      bad.fail_at = 2;
      EXPECT_EQ(own->Forward(context_, x_.data(), kRows, placement, &bad, StepId(1), logits.data()).code(),
                absl::StatusCode::kUnavailable);
    }
  }
}

}  // namespace
}  // namespace paceline
