#include "transport/crc32c.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace paceline {
namespace {

TEST(Crc32cTest, KnownAnswers) {  // RFC 3720, appendix B.4, and the customary check value
  const std::string digits = "123456789";
  EXPECT_EQ(Crc32c(0, std::as_bytes(std::span(digits))), 0xE3069283u);
  const std::vector<std::byte> zeros(32);
  EXPECT_EQ(Crc32c(0, zeros), 0x8A9136AAu);
  const std::vector<std::byte> ones(32, std::byte{0xFF});
  EXPECT_EQ(Crc32c(0, ones), 0x62A8AB43u);
}

TEST(Crc32cTest, EveryLengthAgreesWithTheTableAndSplitsAnywhere) {
  std::vector<std::byte> data(8000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * i + (i >> 3));
  for (size_t size = 0; size <= data.size(); size += size < 64 ? 1 : 61) {
    const std::span<const std::byte> whole = std::span(data).first(size);
    const uint32_t expected = internal::Crc32cPortable(0, whole);
    ASSERT_EQ(Crc32c(0, whole), expected) << size;
    ASSERT_EQ(Crc32c(Crc32c(0, whole.first(size / 3)), whole.subspan(size / 3)), expected) << size;
  }
}

}  // namespace
}  // namespace paceline
