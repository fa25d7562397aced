// Codes, linears and experts of every instruction set of this machine against the reference, bit for bit.
#include <gtest/gtest.h>

#include "tests/kernels/kernel_cases.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kF32,         WeightFormat::kF16,  WeightFormat::kBF16,
                                     WeightFormat::kFp8Block128, WeightFormat::kInt4, WeightFormat::kInt8};

struct Rows {
  int32_t rows;
  int64_t width;
  std::vector<float> values;
  std::vector<int16_t> codes;
  std::vector<float> scales;
  ActivationContract contract;
  Rows(int32_t rows_, int64_t width_, uint32_t seed, Values kind, ActivationContract contract_)
      : rows(rows_), width(width_), values(RandomValues(rows_ * width_, seed, kind)), contract(contract_) {
    codes.resize(values.size());
    scales.resize(rows * ActivationGroups(width));
    ThreadPool pool(1);
    ReferenceKernels().quantise(pool, values.data(), rows, width, contract, codes.data(), scales.data());
  }
  Activations view() const { return {rows, width, values.data(), codes.data(), scales.data(), contract}; }
};

std::vector<LinearCase> LinearCases() {
  std::vector<LinearCase> cases;
  for (int64_t inputs : {1, 40, 96, 128, 272, 300, 3072}) {
    for (int64_t outputs : {1, 5, 17, 64, 65, 200}) {
      if (inputs == 3072 && outputs > 65) continue;
      for (WeightFormat format : kFormats) {
        if (!IsInteger(format)) {
          cases.push_back({format, outputs, inputs});
        } else if (format == WeightFormat::kInt8) {
          cases.push_back({format, outputs, inputs, -1, false, outputs != 17});
        } else {
          for (int64_t group : {32, 64, 128, -1})
            cases.push_back({format, outputs, inputs, group, (outputs + inputs) % 2 == 0, outputs != 17});
        }
      }
    }
  }
  for (WeightFormat format : kFormats) {
    for (int64_t group : {64, 128, 512, -1})
      cases.push_back({format, 130, 272, IsInteger(format) ? group : 0, group == 64, true, 256, 128});
  }
  return cases;
}

TEST(Linear, EveryInstructionSetHasTheReferenceBits) {
  ASSERT_FALSE(TestableTables().empty());
  uint32_t seed = 1;
  for (const LinearCase& c : LinearCases()) {
    ++seed;
    const PlainLinear plain = MakeLinear(c, seed);
    auto expected_linear = *ReferenceKernels().pack_linear(plain);
    // Every tile size and its rests; large layers with fewer rows.
    const int32_t rows = static_cast<int32_t>(1 + seed % (c.outputs * c.inputs > 20000 ? 9 : 23));
    const Rows x(rows, c.inputs, seed, seed % 2 == 0 ? Values::kHard : Values::kOrdinary,
                 seed % 5 == 0 ? ActivationContract::kInt8 : ActivationContract::kInt16);
    const int64_t stride = c.outputs + 3;
    std::vector<float> expected(rows * stride, 7.0f);
    ThreadPool one(1);
    ReferenceKernels().linear(one, *expected_linear, x.view(), expected.data(), stride);
    for (const KernelTable* table : TestableTables()) {
      auto linear = *table->pack_linear(plain);
      for (int threads : ThreadCounts()) {
        ThreadPool pool(threads);
        std::vector<float> y(rows * stride, 7.0f);
        table->linear(pool, *linear, x.view(), y.data(), stride);
        std::string where;
        ASSERT_TRUE(SameBits(expected, y, &where))
            << table->name << " " << WeightFormatName(c.format) << " " << c.outputs << "x" << c.inputs
            << " group " << c.group << ": " << where;
      }
      // A row alone has the bits that it has among others.
      for (int32_t row : {0, rows - 1}) {
        Activations alone = x.view();
        alone.rows = 1;
        alone.values += row * c.inputs;
        alone.codes += row * c.inputs;
        alone.scales += row * ActivationGroups(c.inputs);
        std::vector<float> y(stride, 7.0f);
        table->linear(one, *linear, alone, y.data(), stride);
        std::string where;
        ASSERT_TRUE(
            SameBits({expected.begin() + row * stride, expected.begin() + (row + 1) * stride}, y, &where))
            << table->name << " row alone: " << where;
      }
    }
  }
}

// Integer layers with every number of rows up to 40, in both contracts: whole tiles, low ones, more than one
// sweep; groups that fill a tile of 64 inputs, half of one, one and a half, and what is left at the end;
// panels alone and in fours.
TEST(Linear, IntegerLayersHaveTheReferenceBitsForEveryNumberOfRows) {
  using W = WeightFormat;
  const std::vector<LinearCase> cases = {
      {W::kInt4, 20, 384, 128, true},
      {W::kInt4, 16, 328, 128, false},
      {W::kInt4, 33, 200, 64, true, false},
      {W::kInt4, 17, 264, 32, true},
      {W::kInt4, 16, 296, 96, true},
      {W::kInt4, 5, 100, -1, false},
      {W::kInt4, 18, 256, 512, true, true, 384},
      {W::kInt4, 80, 328, 64, true},
      {W::kInt4, 130, 264, 128, false},
      {W::kInt8, 70, 200, 128},
      {W::kInt8, 20, 384, -1},
      {W::kInt8, 17, 328, 128},
      {W::kInt8, 33, 136, 64, false, false},
      {W::kInt8, 16, 72, 8},
      {W::kInt8, 3, 300, -1, false, true, 128},
  };
  constexpr int32_t kMost = 40;
  uint32_t seed = 900;
  for (const LinearCase& c : cases) {
    const PlainLinear plain = MakeLinear(c, ++seed);
    auto expected_linear = *ReferenceKernels().pack_linear(plain);
    for (const ActivationContract contract : {ActivationContract::kInt16, ActivationContract::kInt8}) {
      for (const int32_t most : {kMost, 150}) {
        const Rows x(most, c.inputs, seed, most == kMost ? Values::kOrdinary : Values::kHard, contract);
        std::vector<float> expected(most * c.outputs);
        ThreadPool one(1), two(2);
        ReferenceKernels().linear(one, *expected_linear, x.view(), expected.data(), c.outputs);
        for (const KernelTable* table : TestableTables()) {
          auto linear = *table->pack_linear(plain);
          for (int32_t rows = most == kMost ? 1 : most; rows <= most; ++rows) {
            Activations some = x.view();
            some.rows = rows;
            std::vector<float> y(rows * c.outputs);
            table->linear(rows % 2 == 0 ? one : two, *linear, some, y.data(), c.outputs);
            std::string where;
            ASSERT_TRUE(SameBits({expected.begin(), expected.begin() + rows * c.outputs}, y, &where))
                << table->name << " " << WeightFormatName(c.format) << " " << c.outputs << "x" << c.inputs
                << " group " << c.group << ", " << rows << " rows of top " << TopCode(contract) << ": "
                << where;
          }
        }
      }
    }
  }
}

// Every product as large as it can be, of one sign: what a narrower sum on the way would not hold.
TEST(Linear, TheLargestProductsFit) {
  for (const WeightFormat format : {WeightFormat::kInt4, WeightFormat::kInt8}) {
    for (const float sign : {1.0f, -1.0f}) {
      PlainLinear plain = MakeLinear({format, 17, 256, 128, format == WeightFormat::kInt4}, 3);
      std::fill(plain.data.begin(), plain.data.end(), format == WeightFormat::kInt4 ? 15 : 127);
      std::fill(plain.zeros.begin(), plain.zeros.end(), 0);
      auto expected_linear = *ReferenceKernels().pack_linear(plain);
      for (const ActivationContract contract : {ActivationContract::kInt16, ActivationContract::kInt8}) {
        Rows x(20, 256, 1, Values::kOrdinary, contract);
        ThreadPool pool(1);
        std::fill(x.values.begin(), x.values.end(), sign * 3.0f);
        ReferenceKernels().quantise(pool, x.values.data(), x.rows, x.width, contract, x.codes.data(),
                                    x.scales.data());
        std::vector<float> expected(20 * 17);
        ReferenceKernels().linear(pool, *expected_linear, x.view(), expected.data(), 17);
        for (const KernelTable* table : TestableTables()) {
          auto linear = *table->pack_linear(plain);
          std::vector<float> y(20 * 17);
          table->linear(pool, *linear, x.view(), y.data(), 17);
          std::string where;
          EXPECT_TRUE(SameBits(expected, y, &where))
              << table->name << " " << WeightFormatName(format) << " " << TopCode(contract) << ": " << where;
        }
      }
    }
  }
}

TEST(Quantise, EveryInstructionSetHasTheReferenceBits) {
  for (int64_t width : {1, 5, 16, 40, 128, 129, 300, 3072}) {
    for (Values kind : {Values::kOrdinary, Values::kHard}) {
      for (ActivationContract contract : {ActivationContract::kInt16, ActivationContract::kInt8}) {
        Rows x(9, width, static_cast<uint32_t>(width), kind, contract);
        for (int64_t i = 0; i < width; ++i) x.values[3 * width + i] = i % 2 == 0 ? 1e-32f : -0.0f;
        ThreadPool pool(2);
        ReferenceKernels().quantise(pool, x.values.data(), 9, width, contract, x.codes.data(),
                                    x.scales.data());
        for (const KernelTable* table : TestableTables()) {
          std::vector<int16_t> codes(x.codes.size(), 99);
          std::vector<float> scales(x.scales.size());
          table->quantise(pool, x.values.data(), 9, width, contract, codes.data(), scales.data());
          std::string where;
          EXPECT_EQ(codes, x.codes) << table->name << " width " << width;
          EXPECT_TRUE(SameBits(x.scales, scales, &where)) << table->name << " " << where;
        }
      }
    }
  }
}

struct ExpertCase {
  WeightFormat gate, up, down;
  int64_t hidden, columns;
  int64_t group;
  int64_t first_column = 0;
  Values values = Values::kOrdinary;
  float down_gain = 1;  // of the down projection's scales
};

TEST(Experts, EveryInstructionSetHasTheReferenceBits) {
  using W = WeightFormat;
  const std::vector<ExpertCase> cases = {
      {W::kInt4, W::kInt4, W::kInt4, 256, 256, 128},
      {W::kInt4, W::kInt4, W::kInt4, 272, 300, 32, 128},
      {W::kInt4, W::kInt4, W::kInt4, 200, 96, -1},
      {W::kInt4, W::kInt8, W::kBF16, 136, 272, 64, 256},
      {W::kF32, W::kBF16, W::kInt4, 65, 130, 64},
      {W::kFp8Block128, W::kFp8Block128, W::kFp8Block128, 256, 384, 0, 128},
      {W::kF16, W::kF16, W::kF16, 72, 40, 0},
      {W::kInt8, W::kInt8, W::kInt8, 320, 128, -1},
      {W::kInt4, W::kInt4, W::kInt4, 128, 256, 128, 0, Values::kHard},
      {W::kBF16, W::kBF16, W::kBF16, 128, 256, 0, 0, Values::kHard},
      // Leaves that may be too large and are not, some that are, and some below fixed point's unit.
      {W::kInt4, W::kInt4, W::kInt4, 128, 256, 128, 0, Values::kOrdinary, 0x1p8f},
      {W::kInt8, W::kInt8, W::kInt8, 128, 256, 128, 0, Values::kOrdinary, 0x1p22f},
      {W::kInt4, W::kInt4, W::kInt4, 128, 256, 128, 0, Values::kOrdinary, 0x1p28f},
      {W::kInt4, W::kInt4, W::kInt4, 128, 256, 128, 0, Values::kOrdinary, 0x1p-30f},
      {W::kInt4, W::kInt4, W::kInt4, 128, 256, 128, 0, Values::kOrdinary, 0x1p-110f},
  };
  uint32_t seed = 100;
  for (const ExpertCase& c : cases) {
    for (int32_t rows : {1, 2, 7, 19, 75}) {
      ++seed;
      const int experts = 3;
      std::vector<PlainExpert> plain(experts);
      for (int e = 0; e < experts; ++e) {
        const uint32_t s = seed * 16 + static_cast<uint32_t>(e) * 3;
        const auto group = [&](W f) { return IsInteger(f) ? c.group : 0; };
        plain[e].gate =
            MakeLinear({c.gate, c.columns, c.hidden, group(c.gate), e == 1, true, 0, c.first_column}, s);
        plain[e].up =
            MakeLinear({c.up, c.columns, c.hidden, group(c.up), e == 2, true, 0, c.first_column}, s + 1);
        plain[e].down =
            MakeLinear({c.down, c.hidden, c.columns, group(c.down), e == 1, e != 0, c.first_column}, s + 2);
        for (PlainLinear* w : {&plain[e].gate, &plain[e].up, &plain[e].down}) {
          if (w->format == W::kInt8) w->zeros.clear();
        }
        for (float& scale : plain[e].down.scales) scale *= c.down_gain;
      }
      const ActivationContract contract = rows == 7 ? ActivationContract::kInt8 : ActivationContract::kInt16;
      const Rows x(rows, c.hidden, seed, c.values, contract);
      std::vector<int32_t> all, even;
      for (int32_t r = 0; r < rows; ++r) (all.push_back(r), r % 2 == 0 ? even.push_back(r) : void());
      const std::vector<float> weights = RandomValues(rows, seed + 7);
      const int32_t first = static_cast<int32_t>(c.first_column / 128);
      const int32_t groups = static_cast<int32_t>(ActivationGroups(c.columns));
      const auto run = [&](const KernelTable& table, int threads, bool codes) {
        std::vector<std::unique_ptr<Expert>> packed;
        for (const PlainExpert& p : plain) packed.push_back(*table.pack_expert(p));
        const auto few = std::span(weights).first(even.size());
        std::vector<ExpertTask> tasks = {{packed[0].get(), first, groups, all, weights},
                                         {packed[1].get(), first, 1, even, few},
                                         {packed[2].get(), first + groups - 1, 1, all, weights},
                                         {packed[1].get(), first + groups - 1, 1, even, few}};
        Activations view = x.view();
        if (!codes) view.codes = nullptr, view.scales = nullptr;
        std::vector<int64_t> sums(rows * c.hidden, 5);
        std::vector<uint8_t> errors(rows, 0);
        ThreadPool pool(threads);
        Workspace workspace;
        table.experts(pool, workspace, view, tasks, contract, sums.data(), errors.data());
        return std::pair(sums, errors);
      };
      const auto expected = run(ReferenceKernels(), 1, true);
      for (const KernelTable* table : TestableTables()) {
        for (int threads : ThreadCounts()) {
          const auto got = run(*table, threads, threads != 2);
          ASSERT_EQ(got.second, expected.second) << table->name;
          ASSERT_TRUE(got.first == expected.first)
              << table->name << " " << WeightFormatName(c.gate) << " rows " << rows << " hidden " << c.hidden;
        }
      }
    }
  }
}

// The contract is sharp: a product rounded before its sum gives other bits.
TEST(Linear, AnUnfusedSumIsNoticed) {
  const LinearCase c{WeightFormat::kF32, 16, 128};
  const PlainLinear plain = MakeLinear(c, 5);
  const Rows x(1, 128, 6, Values::kOrdinary, ActivationContract::kInt16);
  ThreadPool pool(1);
  std::vector<float> y(16), unfused(16);
  for (const KernelTable* table : TestableTables()) {
    auto linear = *table->pack_linear(plain);
    table->linear(pool, *linear, x.view(), y.data(), 16);
    for (int n = 0; n < 16; ++n) {
      float sum = 0;
      for (int k = 0; k < 128; ++k) {
        float w;
        std::memcpy(&w, plain.data.data() + 4 * (n * 128 + k), 4);
        const volatile float product = w * x.values[k];
        sum = sum + product;
      }
      unfused[n] = sum;
    }
    std::string where;
    EXPECT_FALSE(SameBits(y, unfused, &where)) << table->name;
  }
}

}  // namespace
}  // namespace paceline::kernels
