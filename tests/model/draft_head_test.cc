// The draft head: rows chosen are the whole head's rows, in every stored format; INT4 made at load.
#include "model/draft_head.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/plain_decode.h"
#include "model/int4_weights.h"
#include "tests/model/checkpoint_files.h"
#include "tests/testing/golden_case.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::PlainValue;
using kernels::WeightFormat;

class DraftHeadTest : public ::testing::Test {
 protected:
  std::unique_ptr<DraftHead> Load(const Checkpoint& checkpoint, DraftHeadFormat format,
                                  const std::vector<TokenId>& vocabulary,
                                  const std::vector<bool>& has_token = {}) {
    return *DraftHead::Load(checkpoint, format, vocabulary, has_token, table_, pool_);
  }
  std::vector<float> Logits(const DraftHead& head, const std::vector<float>& x) {
    std::vector<float> y(static_cast<size_t>(head.size()));
    head.Forward(context_, x.data(), 1, y.data());
    return y;
  }

  const kernels::KernelTable& table_ = kernels::ReferenceKernels();
  ThreadPool pool_{2};
  kernels::Workspace workspace_;
  Batch none_;
  StepContext context_{table_, pool_, workspace_, kernels::ActivationContract::kInt16, none_};
};

TEST_F(DraftHeadTest, ChosenRowsAreTheWholeHeadsRowsInEveryFormat) {
  std::mt19937 random(3);
  for (const testing::GoldenCase& c : testing::GoldenCases()) {
    const auto checkpoint = *Checkpoint::Open(c.directory);
    const int64_t vocab = checkpoint->config().vocab;
    std::vector<float> x(static_cast<size_t>(checkpoint->config().hidden));
    for (float& v : x) v = static_cast<float>(static_cast<int32_t>(random() % 2001) - 1000) / 500.0f;
    std::vector<TokenId> few;
    for (TokenId id = 0; id < vocab; ++id) {
      if (random() % 3 == 0) few.push_back(id);
    }
    std::vector<bool> has_token(static_cast<size_t>(vocab) - 1, true);
    has_token[static_cast<size_t>(few[1])] = false;
    for (const DraftHeadFormat format :
         {DraftHeadFormat::kStored, DraftHeadFormat::kInt8, DraftHeadFormat::kInt4}) {
      const auto whole = Load(*checkpoint, format, {});
      EXPECT_EQ(whole->size(), vocab);
      EXPECT_TRUE(whole->ids().empty());
      const std::vector<float> all = Logits(*whole, x);
      const auto some = Load(*checkpoint, format, few, has_token);
      const std::vector<float> part = Logits(*some, x);
      const int64_t without = few.back() == vocab - 1 ? 2 : 1;  // the last id has no token either
      ASSERT_EQ(some->size(), static_cast<int64_t>(few.size()) - without) << c.name;
      for (int64_t i = 0; i < some->size(); ++i) {
        EXPECT_NE(some->id(i), few[1]);
        // FP8 rows are gathered as fp32: another order of the same sum.
        const float want = all[static_cast<size_t>(some->id(i))];
        if (format == DraftHeadFormat::kStored && whole->weights() == WeightFormat::kFp8Block128) {
          EXPECT_NEAR(part[static_cast<size_t>(i)], want, 1e-3) << c.name;
        } else {
          EXPECT_EQ(part[static_cast<size_t>(i)], want) << c.name << " row " << some->id(i);
        }
      }
    }
  }
}

// A stored INT4 head: scales and zeros move with their rows.
TEST_F(DraftHeadTest, ChosenRowsOfAnInt4HeadKeepTheirScalesAndZeros) {
  constexpr int64_t kVocab = 1600, kHidden = 256;  // more than one piece of reading
  std::mt19937 random(5);
  std::vector<int32_t> words(kHidden / 8 * kVocab), zeros(2 * kVocab / 8);
  for (int32_t& word : words) word = static_cast<int32_t>(random());
  // The rows of the first piece have the usual zero, stored as 7; others lie around it.
  for (size_t i = 0; i < zeros.size(); ++i) {
    const bool usual = i % (kVocab / 8) < 1024 / 8;
    zeros[i] = usual ? 0x77777777 : static_cast<int32_t>(random() & 0x77777777u);
  }
  std::vector<float> scales(2 * kVocab);
  for (float& scale : scales) scale = static_cast<float>(1 + random() % 64) / 1024.0f;
  testing::Tensors tensors = testing::SmallTensors();
  tensors["model.embed_tokens.weight"] = testing::Bf16({kVocab, kHidden}, 3);
  tensors.erase("lm_head.weight");
  tensors["lm_head.qweight"] = {"I32", {kHidden / 8, kVocab}, testing::Bytes(words)};
  tensors["lm_head.qzeros"] = {"I32", {2, kVocab / 8}, testing::Bytes(zeros)};
  tensors["lm_head.scales"] = {"F32", {2, kVocab}, testing::Bytes(scales)};
  nlohmann::json config = testing::SmallConfig();
  config["vocab_size"] = kVocab;
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
  const testing::Folder folder;
  folder.WriteModel(config, tensors);
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::vector<float> x = testing::Values(kHidden, 9);
  const std::vector<float> all = Logits(*Load(**checkpoint, DraftHeadFormat::kStored, {}), x);
  std::vector<TokenId> few;
  for (TokenId id = 2; id < kVocab; id += 3) few.push_back(id);
  for (const DraftHeadFormat format : {DraftHeadFormat::kStored, DraftHeadFormat::kInt4}) {
    const auto some = Load(**checkpoint, format, few);
    const std::vector<float> part = Logits(*some, x);
    for (size_t i = 0; i < few.size(); ++i) ASSERT_EQ(part[i], all[few[i]]) << few[i];
  }
}

PlainLinear Floats(int64_t outputs, int64_t inputs, const std::vector<float>& values) {
  PlainLinear w;
  w.outputs = outputs;
  w.inputs = inputs;
  w.data.resize(values.size() * 4);
  std::memcpy(w.data.data(), values.data(), w.data.size());
  return w;
}

TEST(MakeInt4, KeepsWhatLiesOnAGrid) {
  std::mt19937 random(8);
  const int64_t outputs = 5, inputs = 300;
  std::vector<float> values;
  for (int64_t n = 0; n < outputs; ++n) {
    for (int64_t k = 0; k < inputs; ++k) {
      const float scale = 0x1p-9f * static_cast<float>(17 + n + k / 128);
      // Every group reaches 7.
      const int32_t code = k % 128 == 5 ? 7 : static_cast<int32_t>(random() % 15) - 7;
      values.push_back(static_cast<float>(code) * scale);
    }
  }
  PlainLinear w = Floats(outputs, inputs, values);
  MakeInt4(w);
  EXPECT_EQ(w.format, WeightFormat::kInt4);
  EXPECT_EQ(w.groups(), 3);
  for (int64_t n = 0; n < outputs; ++n) {
    for (int64_t k = 0; k < inputs; ++k)
      ASSERT_EQ(PlainValue(w, n, k), values[static_cast<size_t>(n * inputs + k)]) << n << " " << k;
  }
}

TEST(MakeInt4, IsNearerThanTheLargestWeightByItselfAllows) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(64 * 256);
  for (float& v : values) v = normal(random);
  PlainLinear w = Floats(64, 256, values);
  MakeInt4(w);
  double error = 0, naive = 0;
  for (int64_t n = 0; n < 64; ++n) {
    for (int64_t g = 0; g < 2; ++g) {
      float top = 0;
      for (int64_t k = 128 * g; k < 128 * g + 128; ++k) top = std::max(top, std::fabs(values[n * 256 + k]));
      const float scale = top / 7.0f;
      for (int64_t k = 128 * g; k < 128 * g + 128; ++k) {
        const double x = values[n * 256 + k];
        error += std::pow(PlainValue(w, n, k) - x, 2);
        naive += std::pow(std::nearbyint(x / scale) * scale - x, 2);
      }
    }
  }
  EXPECT_LT(error, 0.95 * naive);
  EXPECT_GT(error, 0.5 * naive);
}

TEST(MakeInt4, ZerosAndDamage) {
  std::vector<float> values(256, 0.0f);
  values[200] = std::numeric_limits<float>::infinity();
  PlainLinear w = Floats(1, 256, values);
  MakeInt4(w);
  EXPECT_EQ(PlainValue(w, 0, 3), 0.0f);
  EXPECT_TRUE(std::isnan(PlainValue(w, 0, 200)));
}

}  // namespace
}  // namespace paceline
