// Native float math: the tile code and the reference's plain loops have the same bits, a row has its own, and
// the result is as near to the exact one as the portable contract's, give or take a few of its roundings.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/plain_decode.h"
#include "tests/kernels/kernel_cases.h"

namespace paceline::kernels {
namespace {

using W = WeightFormat;

std::vector<const KernelTable*> NativeTables() {
  std::vector<const KernelTable*> tables;
  for (const KernelTable* table : cpu::Testable()) {
    if (table->native != nullptr) tables.push_back(table->native);
  }
  return tables;
}
const KernelTable& Judge() { return *ReferenceKernels().native; }

std::vector<float> Multiply(const KernelTable& table, const PlainLinear& plain, const std::vector<float>& x,
                            int32_t rows, int threads) {
  auto linear = *table.pack_linear(plain);
  ThreadPool pool(threads);
  std::vector<float> y(rows * plain.outputs);
  const Activations in{.rows = rows, .width = plain.inputs, .values = x.data()};
  table.linear(pool, *linear, in, y.data(), plain.outputs);
  return y;
}

// BF16 with every exponent that a checkpoint and a tile can meet, subnormals too.
PlainLinear HardBf16(int64_t outputs, int64_t inputs, uint32_t seed) {
  PlainLinear w = MakeLinear({W::kBF16, outputs, inputs}, seed);
  std::mt19937 bits(seed);
  for (int64_t i = 0; i < outputs * inputs; ++i) {
    static constexpr uint16_t kOdd[] = {0x0001, 0x807F, 0x0080, 0x8080, 0x0000, 0x8000, 0x7E00, 0x0100};
    if (bits() % 5 != 0) continue;
    const uint16_t odd = kOdd[bits() % std::size(kOdd)];
    std::memcpy(w.data.data() + 2 * i, &odd, 2);
  }
  return w;
}

TEST(Native, TheTilesHaveTheReferenceBits) {
  ASSERT_FALSE(NativeTables().empty());
  const std::vector<LinearCase> cases = {
      {W::kBF16, 64, 128},
      {W::kBF16, 65, 300},
      {W::kBF16, 1, 1},
      {W::kBF16, 17, 31},
      {W::kBF16, 70, 161},
      {W::kFp8Block128, 64, 256},
      {W::kFp8Block128, 130, 40},
      {W::kFp8Block128, 5, 417},
      {W::kFp8Block128, 200, 135, 0, false, false, 128, 128},
      {W::kF16, 20, 130},
      {W::kF32, 20, 130},
      {W::kInt4, 20, 256, 128},
  };
  uint32_t seed = 40;
  for (const LinearCase& c : cases) {
    ++seed;
    const PlainLinear plain = MakeLinear(c, seed);
    if (IsInteger(c.format)) continue;
    constexpr int32_t kMost = 70;
    for (const Values kind : {Values::kOrdinary, Values::kHard}) {
      const std::vector<float> x = RandomValues(kMost * c.inputs, seed, kind);
      const std::vector<float> expected = Multiply(Judge(), plain, x, kMost, 1);
      for (const KernelTable* table : NativeTables()) {
        for (const int32_t rows : {1, 2, 3, 7, 8, 9, 16, 23, 64, 70}) {
          std::string where;
          ASSERT_TRUE(SameBits({expected.begin(), expected.begin() + rows * c.outputs},
                               Multiply(*table, plain, x, rows, 1 + rows % 3), &where))
              << table->name << " " << WeightFormatName(c.format) << " " << c.outputs << "x" << c.inputs
              << ", " << rows << " rows: " << where;
        }
      }
    }
  }
}

// Subnormal weights, products and sums: the tile unit takes and gives zeros for them.
TEST(Native, SubnormalsAreFlushedAsTheTileUnitDoes) {
  const PlainLinear plain = HardBf16(48, 290, 7);
  std::vector<float> x = RandomValues(9 * 290, 8);
  std::mt19937 bits(9);
  for (float& v : x) {
    const int scale = static_cast<int>(bits() % 4);
    v *= scale == 0 ? 0x1p-126f : scale == 1 ? 0x1p-120f : scale == 2 ? 0x1p-5f : 0x1p-131f;
  }
  const std::vector<float> expected = Multiply(Judge(), plain, x, 9, 1);
  for (const KernelTable* table : NativeTables()) {
    std::string where;
    EXPECT_TRUE(SameBits(expected, Multiply(*table, plain, x, 9, 1), &where)) << table->name << ": " << where;
  }
  std::string where;
  EXPECT_FALSE(SameBits(expected, Multiply(ReferenceKernels(), plain, x, 9, 1), &where));
}

TEST(Native, ExpertsHaveTheReferenceBits) {
  for (const W format : {W::kBF16, W::kFp8Block128}) {
    constexpr int64_t kHidden = 200, kColumns = 300;
    constexpr int32_t kRows = 11;
    PlainExpert plain{MakeLinear({format, kColumns, kHidden}, 1), MakeLinear({format, kColumns, kHidden}, 2),
                      MakeLinear({format, kHidden, kColumns}, 3)};
    const std::vector<float> x = RandomValues(kRows * kHidden, 4), weights = RandomValues(kRows, 5);
    std::vector<int32_t> rows;
    for (int32_t r = 0; r < kRows; ++r) rows.push_back(r == 4 ? 10 : r == 10 ? 4 : r);
    const auto run = [&](const KernelTable& table, int threads) {
      auto expert = *table.pack_expert(plain);
      const std::vector<ExpertTask> tasks = {{expert.get(), 0, 3, rows, weights}};
      std::vector<int64_t> sums(kRows * kHidden);
      std::vector<uint8_t> errors(kRows);
      ThreadPool pool(threads);
      Workspace workspace;
      table.experts(pool, workspace, {.rows = kRows, .width = kHidden, .values = x.data()}, tasks,
                    ActivationContract::kInt16, sums.data(), errors.data());
      EXPECT_EQ(errors, std::vector<uint8_t>(kRows, 0));
      return sums;
    };
    const std::vector<int64_t> expected = run(Judge(), 1);
    EXPECT_NE(expected, run(ReferenceKernels(), 1));
    for (const KernelTable* table : NativeTables()) {
      EXPECT_EQ(run(*table, 1), expected) << table->name;
      EXPECT_EQ(run(*table, 3), expected) << table->name;
    }
  }
}

// The error of a sum of n products, of which chains of 64 and block sums round, against |w| |x|: two terms of
// an input leave 2^-16 of it at most, fp32 chains some 2^-24 each.
TEST(Native, TheErrorIsThatOfTwoTerms) {
  for (const W format : {W::kBF16, W::kFp8Block128}) {
    const PlainLinear plain = MakeLinear({format, 32, 1024}, 11);
    const std::vector<float> x = RandomValues(1024, 12);
    const std::vector<float> native = Multiply(Judge(), plain, x, 1, 1);
    const std::vector<float> portable = Multiply(ReferenceKernels(), plain, x, 1, 1);
    for (int64_t n = 0; n < 32; ++n) {
      double exact = 0, norm = 0;
      for (int64_t k = 0; k < 1024; ++k) {
        const double weight =
            static_cast<double>(StoredValue(plain, n, k)) * static_cast<double>(BlockScale(plain, n, k));
        exact += weight * static_cast<double>(x[k]);
        norm += weight * weight * static_cast<double>(x[k]) * static_cast<double>(x[k]);
      }
      // Rounding errors of the terms are independent: they add as norms do.
      EXPECT_LT(std::fabs(static_cast<double>(native[n]) - exact), 0x1p-16 * std::sqrt(norm));
      EXPECT_LT(std::fabs(static_cast<double>(portable[n]) - exact), 0x1p-16 * std::sqrt(norm));
    }
  }
}

TEST(Native, APortableLinearStaysPortable) {
  PlainLinear plain = MakeLinear({W::kBF16, 40, 300}, 21);
  const std::vector<float> x = RandomValues(5 * 300, 22);
  std::string where;
  EXPECT_FALSE(
      SameBits(Multiply(ReferenceKernels(), plain, x, 5, 1), Multiply(Judge(), plain, x, 5, 1), &where));
  plain.portable = true;
  const std::vector<float> expected = Multiply(ReferenceKernels(), plain, x, 5, 1);
  EXPECT_TRUE(SameBits(expected, Multiply(Judge(), plain, x, 5, 1), &where)) << where;
  for (const KernelTable* table : NativeTables())
    EXPECT_TRUE(SameBits(expected, Multiply(*table, plain, x, 5, 1), &where)) << table->name << ": " << where;
}

}  // namespace
}  // namespace paceline::kernels
