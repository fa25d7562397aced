// The control messages of an nccl link: there and back, and what is refused.
#include "transport/nccl_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

constexpr NcclControlKind kKinds[] = {
    NcclControlKind::kHello, NcclControlKind::kFirst,   NcclControlKind::kMake, NcclControlKind::kAnnounce,
    NcclControlKind::kFlush, NcclControlKind::kFlushed, NcclControlKind::kEnd};

NcclControl Sample(NcclControlKind kind) {
  static constexpr char kText[] = "who or why";
  NcclControl control;
  control.kind = kind;
  control.epoch = 7;
  control.version = 22809;
  control.gpu.fill(0xAB);
  control.down.bytes.fill('d');
  control.up.bytes.fill('u');
  control.number = 11;
  control.bytes = 6240;
  control.received = 10;
  control.rest = std::as_bytes(std::span(kText, sizeof(kText)));
  return control;
}

TEST(NcclControlTest, EveryKindComesBackAsItWas) {
  for (const NcclControlKind kind : kKinds) {
    const std::vector<std::byte> message = EncodeNcclControl(Sample(kind));
    const absl::StatusOr<NcclControl> back = DecodeNcclControl(message);
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(back->kind, kind);
    EXPECT_EQ(back->epoch, 7u);
    EXPECT_EQ(EncodeNcclControl(*back), message) << static_cast<int>(kind);
  }
  const auto make = *DecodeNcclControl(EncodeNcclControl(Sample(NcclControlKind::kMake)));
  EXPECT_EQ(make.down.bytes[127], 'd');
  EXPECT_EQ(make.up.bytes[0], 'u');
}

TEST(NcclControlTest, TheBytesAreThoseOfTheProtocol) {
  NcclControl announce = Sample(NcclControlKind::kAnnounce);
  announce.number = 0x0102;
  const std::vector<std::byte> message = EncodeNcclControl(announce);
  const unsigned char expected[] = {4,    0,    0, 0, 7, 0, 0, 0, 2,  1, 0, 0, 0, 0, 0, 0,
                                    0x60, 0x18, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0};
  ASSERT_EQ(message.size(), sizeof(expected));
  EXPECT_EQ(std::memcmp(message.data(), expected, sizeof(expected)), 0);
}

TEST(NcclControlTest, WrongLengthsKindsAndNumbersAreRefusedByName) {
  const auto refusal = [](std::vector<std::byte> message) {
    const absl::Status status = DecodeNcclControl(message).status();
    EXPECT_EQ(CodeOf(std::string(status.message())), "NET-004") << status;
    return std::string(status.message());
  };
  for (const NcclControlKind kind : kKinds) {
    std::vector<std::byte> message = EncodeNcclControl(Sample(kind));
    message.resize(7);
    EXPECT_THAT(refusal(message), HasSubstr("8 bytes or more"));
    message.resize(8);
    EXPECT_THAT(refusal(message), HasSubstr("expected")) << static_cast<int>(kind);
    message.resize(5000);
    EXPECT_THAT(refusal(message), HasSubstr("expected")) << static_cast<int>(kind);
  }
  std::vector<std::byte> message = EncodeNcclControl(Sample(NcclControlKind::kHello));
  message[8] = std::byte{'X'};
  EXPECT_THAT(refusal(message), HasSubstr("PLN1"));
  message[0] = std::byte{9};
  EXPECT_THAT(refusal(message), HasSubstr("kind: expected 1 to 7, got 9"));
  NcclControl announce = Sample(NcclControlKind::kAnnounce);
  announce.bytes = uint64_t{kMaxMessageBytes} + 1;
  EXPECT_THAT(refusal(EncodeNcclControl(announce)), HasSubstr("bytes: expected 1 to"));
  announce = Sample(NcclControlKind::kAnnounce);
  announce.received = ~uint64_t{0};
  EXPECT_THAT(refusal(EncodeNcclControl(announce)), HasSubstr("number of messages"));
}

}  // namespace
}  // namespace paceline
