// Philox4x32-10 against the known answers of its authors, and the layout of the counter. NUMERICS,
// Randomness.
#include "base/random.h"

#include <gtest/gtest.h>

#include <set>

namespace paceline {
namespace {

using Counter = std::array<uint32_t, 4>;
using Key = std::array<uint32_t, 2>;

// Random123, kat_vectors: "philox4x32 10".
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox(Counter{0, 0, 0, 0}, Key{0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(Counter{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, Key{0xffffffff, 0xffffffff}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox(Counter{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, Key{0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits, PutsEveryPartOfTheKeyWhereTheSpecificationSays) {
  const uint64_t seed = 0x0123456789abcdef, position = 0xfedc'89ab'4567;
  const uint32_t choice = 0xdeadbeef, token = 151935;
  const Counter out = Philox({token, 0x89ab4567, 0xfedc | 3u << 16, choice}, {0x89abcdef, 0x01234567});
  EXPECT_EQ(RandomBits(seed, choice, RandomPurpose::kSynth, position, token),
            uint64_t{out[1]} << 32 | out[0]);
}

TEST(RandomBits, EveryPartOfTheKeyCounts) {
  const std::set<uint64_t> seen = {
      RandomBits(1, 0, RandomPurpose::kSample, 0, 0),
      RandomBits(uint64_t{1} << 32, 0, RandomPurpose::kSample, 0, 0),
      RandomBits(1, 1, RandomPurpose::kSample, 0, 0),
      RandomBits(1, 0, RandomPurpose::kSeed, 0, 0),
      RandomBits(1, 0, RandomPurpose::kSample, 1, 0),
      RandomBits(1, 0, RandomPurpose::kSample, uint64_t{1} << 32, 0),
      RandomBits(1, 0, RandomPurpose::kSample, 0, 1),
  };
  EXPECT_EQ(seen.size(), 7u);
}

TEST(RandomBits, ManyTokensAtOnceAreEachByItself) {
  std::array<uint32_t, kRandomLanes> tokens;
  std::array<uint64_t, kRandomLanes> bits;
  for (uint64_t round = 0; round < 50; ++round) {
    const uint64_t seed = 0x9E3779B97F4A7C15 * (round + 1), position = seed >> 17;
    for (size_t i = 0; i < kRandomLanes; ++i) tokens[i] = static_cast<uint32_t>(seed >> i) * 7;
    RandomBits(seed, 3, RandomPurpose::kAccept, position, tokens, bits);
    for (size_t i = 0; i < kRandomLanes; ++i)
      ASSERT_EQ(bits[i], RandomBits(seed, 3, RandomPurpose::kAccept, position, tokens[i])) << i;
  }
}

TEST(UniformOf, IsNeverZeroAndNeverOne) {
  EXPECT_EQ(UniformOf(0), 0x1p-53);
  EXPECT_EQ(UniformOf(~uint64_t{0}), 1 - 0x1p-53);
  EXPECT_EQ(UniformOf(uint64_t{1} << 63), 0.5 + 0x1p-53);
}

}  // namespace
}  // namespace paceline
