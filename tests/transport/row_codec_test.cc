#include "transport/row_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"

namespace paceline {
namespace {

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(RowCodecTest, BytesOfARow) {
  EXPECT_EQ(RowBytes(RowFormat::kInt16Group128, 3072), 6240);
  EXPECT_EQ(RowBytes(RowFormat::kInt16Group128, 129), 2 * 129 + 4 * 2);
  EXPECT_EQ(RowBytes(RowFormat::kInt8Group128, 3072), 3168);
  EXPECT_EQ(RowBytes(RowFormat::kFloat32, 3072), 12288);
}

TEST(RowCodecTest, WidthBordersAreExact) {
  for (int bytes = 4; bytes < 8; ++bytes) {
    const int64_t border = int64_t{1} << (8 * bytes - 1);
    for (const int64_t fits : {border - 1, -border}) EXPECT_EQ(SumBytes(&fits, 1), bytes) << fits;
    for (const int64_t wider : {border, -border - 1}) EXPECT_EQ(SumBytes(&wider, 1), bytes + 1) << wider;
  }
  for (const int64_t value : {int64_t{0}, int64_t{-1}, int64_t{1}}) EXPECT_EQ(SumBytes(&value, 1), 4);
  for (const int64_t value : {kMin, kMax}) EXPECT_EQ(SumBytes(&value, 1), 8);
  const int64_t mixed[] = {0, -(int64_t{1} << 40), 5};
  EXPECT_EQ(SumBytes(mixed, 3), 6);
}

TEST(RowCodecTest, PackedSumsComeBackAndAddForEveryCount) {
  for (int bytes = 4; bytes <= 8; ++bytes) {
    for (int32_t count : {1, 2, 3, 4, 5, 31, 128, 3072}) {
      std::vector<int64_t> sums(static_cast<size_t>(count));
      const int shift = 64 - 8 * bytes;
      for (size_t i = 0; i < sums.size(); ++i) {
        sums[i] =
            static_cast<int64_t>(RandomBits(7, static_cast<uint32_t>(bytes), RandomPurpose::kSynth, i, 0)) >>
            shift;
      }
      sums.front() = kMin >> shift;
      sums.back() = kMax >> shift;
      // Exactly the row: a store past it would be seen by the sanitizer and by the guard.
      std::vector<std::byte> packed(static_cast<size_t>(count) * static_cast<size_t>(bytes) + 8,
                                    std::byte{0xA5});
      PackSums(sums.data(), count, bytes, packed.data());
      for (size_t i = packed.size() - 8; i < packed.size(); ++i) ASSERT_EQ(packed[i], std::byte{0xA5});
      packed.resize(packed.size() - 8);
      packed.shrink_to_fit();
      std::vector<int64_t> back(sums.size(), 0);
      AddSums(packed.data(), count, bytes, back.data());
      ASSERT_EQ(back, sums) << bytes << " bytes, " << count;
      std::vector<int64_t> twice(sums.size(), 3);
      AddSums(packed.data(), count, bytes, twice.data());
      for (size_t i = 0; i < sums.size(); ++i) {
        ASSERT_EQ(static_cast<uint64_t>(twice[i]), static_cast<uint64_t>(sums[i]) + 3);
      }
    }
  }
}

}  // namespace
}  // namespace paceline
