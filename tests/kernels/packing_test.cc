// One matrix on every road into a backend: whole, from elements that lie elsewhere, and part by part in any
// order. All of them compute the same bits.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/kernel_cases.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {
namespace {

std::vector<const KernelTable*> Tables() {
  std::vector<const KernelTable*> tables = AvailableTables();
  tables.push_back(&ReferenceKernels());
  return tables;
}

// The elements of a part, in memory of their own behind `off` bytes: borrowed ones need no alignment.
struct Elsewhere {
  PlainLinear part;
  std::vector<uint8_t> memory;
};

// Outputs [n0, n1) and inputs [k0, k1) of `w`; INT4 as GPTQ's words, with other words beside them.
Elsewhere Borrow(const PlainLinear& w, int64_t n0, int64_t n1, int64_t k0, int64_t k1) {
  Elsewhere out;
  PlainLinear& part = out.part;
  part.format = w.format;
  part.group = w.group;
  part.outputs = n1 - n0;
  part.inputs = k1 - k0;
  part.first_output = w.first_output + n0;
  part.first_input = w.first_input + k0;
  constexpr int64_t kOff = 3;
  const int64_t size = ElementBytes(w.format);
  if (w.format == WeightFormat::kInt4) {
    part.stride = 4 * (part.outputs + 5);
    out.memory.assign(static_cast<size_t>(kOff + (part.inputs + 7) / 8 * part.stride), 0xFF);
    for (int64_t r = 0; r < (part.inputs + 7) / 8; ++r) {
      for (int64_t n = 0; n < part.outputs; ++n) {
        uint32_t word = 0xFFFFFFFF;  // codes behind the last input are anything
        for (int64_t j = 0; j < 8 && 8 * r + j < part.inputs; ++j) {
          const uint32_t code = w.data[static_cast<size_t>((n0 + n) * w.inputs + k0 + 8 * r + j)];
          word = (word & ~(15u << (4 * j))) | code << (4 * j);
        }
        std::memcpy(out.memory.data() + kOff + r * part.stride + 4 * n, &word, 4);
      }
    }
  } else {
    part.stride = size * (part.inputs + 5);
    out.memory.assign(static_cast<size_t>(kOff + part.outputs * part.stride), 0x7F);
    for (int64_t n = 0; n < part.outputs; ++n) {
      std::memcpy(out.memory.data() + kOff + n * part.stride,
                  w.data.data() + ((n0 + n) * w.inputs + k0) * size, static_cast<size_t>(part.inputs * size));
    }
  }
  part.borrowed = out.memory.data() + kOff;
  return out;
}

class Packing : public ::testing::Test {
 protected:
  std::vector<float> Outputs(const KernelTable& table, const Linear& w) {
    const std::vector<float> x = RandomValues(3 * w.inputs, 9);
    std::vector<int16_t> codes(x.size());
    std::vector<float> scales(3 * ActivationGroups(w.inputs));
    table.quantise(pool_, x.data(), 3, w.inputs, ActivationContract::kInt16, codes.data(), scales.data());
    std::vector<float> y(3 * w.outputs);
    table.linear(pool_, w, {3, w.inputs, x.data(), codes.data(), scales.data()}, y.data(), w.outputs);
    return y;
  }
  ThreadPool pool_{2};
};

const LinearCase kCases[] = {
    {WeightFormat::kF32, 200, 264},
    {WeightFormat::kF16, 136, 384},
    {WeightFormat::kBF16, 333, 270},
    {WeightFormat::kFp8Block128, 300, 400},
    {WeightFormat::kInt4, 144, 512, 128},
    {WeightFormat::kInt4, 260, 320, 32, true},
    {WeightFormat::kInt4, 24, 136, 128, false, false},
    {WeightFormat::kInt4, 64, 148, -1, true},
    {WeightFormat::kInt8, 270, 269, -1},
    {WeightFormat::kFp8Block128, 130, 250, 0, false, true, 128, 128},
};

TEST_F(Packing, BorrowedElementsAreThoseOfTheirOwn) {
  uint32_t seed = 1;
  for (const LinearCase& c : kCases) {
    SCOPED_TRACE(testing::Message() << WeightFormatName(c.format) << " " << c.outputs << "x" << c.inputs);
    const PlainLinear plain = MakeLinear(c, seed++);
    Elsewhere elsewhere = Borrow(plain, 0, c.outputs, 0, c.inputs);
    elsewhere.part.scales = plain.scales;
    elsewhere.part.zeros = plain.zeros;
    PlainLinear owned = elsewhere.part;
    OwnElements(owned);
    EXPECT_EQ(owned.data, plain.data);
    EXPECT_EQ(owned.borrowed, nullptr);
    for (const KernelTable* table : Tables()) {
      const auto want = *table->pack_linear(plain);
      const auto got = *table->pack_linear(elsewhere.part);
      EXPECT_EQ(got->bytes, want->bytes) << table->name;
      EXPECT_EQ(Outputs(*table, *got), Outputs(*table, *want)) << table->name;
    }
  }
}

TEST_F(Packing, PartsInAnyOrderMakeTheWhole) {
  std::mt19937 bits(7);
  uint32_t seed = 40;
  for (const LinearCase& c : kCases) {
    SCOPED_TRACE(testing::Message() << WeightFormatName(c.format) << " " << c.outputs << "x" << c.inputs);
    const PlainLinear plain = MakeLinear(c, seed++);
    for (const KernelTable* table : Tables()) {
      const auto want = *table->pack_linear(plain);
      PlainLinear form = plain;
      form.data.clear();
      form.scales.clear();
      form.zeros.clear();
      auto packer = *table->start_linear(form);
      std::vector<Elsewhere> parts;
      for (int64_t n = 0; n < c.outputs; n += 128) {
        for (int64_t k = 0; k < c.inputs; k += 128)
          parts.push_back(Borrow(plain, n, std::min(c.outputs, n + 128), k, std::min(c.inputs, k + 128)));
      }
      std::shuffle(parts.begin(), parts.end(), bits);
      for (size_t i = 0; i < parts.size(); ++i) {
        if (i % 2 == 1) OwnElements(parts[i].part);
      }
      pool_.Run(static_cast<int64_t>(parts.size()), [&](int64_t i) { packer->Add(parts[i].part); });
      const auto got = packer->Finish(plain.scales, plain.zeros);
      EXPECT_EQ(got->bytes, want->bytes) << table->name;
      EXPECT_EQ(got->outputs, c.outputs);
      EXPECT_EQ(got->inputs, c.inputs);
      EXPECT_EQ(got->format, c.format);
      EXPECT_EQ(Outputs(*table, *got), Outputs(*table, *want)) << table->name;
    }
  }
}

TEST_F(Packing, E4m3NansAreFoundWhereverTheyStand) {
  for (const size_t count : {1u, 255u, 256u, 257u, 700u}) {
    std::vector<uint8_t> codes(count, 0x7E);
    EXPECT_FALSE(HasE4m3Nan(codes.data(), static_cast<int64_t>(count)));
    for (size_t i = 0; i < count; ++i) {
      codes[i] = i % 2 == 0 ? 0x7F : 0xFF;
      EXPECT_TRUE(HasE4m3Nan(codes.data(), static_cast<int64_t>(count))) << i;
      codes[i] = 0x80;
    }
  }
}

}  // namespace
}  // namespace paceline::kernels
