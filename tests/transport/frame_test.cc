#include "transport/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "base/error.h"
#include "transport/crc32c.h"
#include "transport/row_codec.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;
using Message = std::vector<std::byte>;

Message Join(const FrameBuilder& builder) {
  Message all;
  for (const Bytes part : builder.parts()) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Writes the checksums again, so that a test reaches the checks behind them.
void Reseal(Message& m) {
  const uint32_t payload = Crc32c(0, std::span(m).subspan(64));
  std::memcpy(m.data() + 56, &payload, 4);
  const uint32_t header = Crc32c(0, std::span(m).first(60));
  std::memcpy(m.data() + 60, &header, 4);
}

template <class T>
Message With(Message m, size_t offset, T value) {
  std::memcpy(m.data() + offset, &value, sizeof(T));
  Reseal(m);
  return m;
}

const FrameKey kKey{.epoch = 3, .head = 1, .step = 1ull << 40, .layer = 5, .part = 77, .block = 2};

struct Fixture {
  int32_t hidden = 300;
  std::vector<int16_t> codes = std::vector<int16_t>(64 * 300);
  std::vector<float> scales = std::vector<float>(64 * 3);
  std::vector<float> values = std::vector<float>(64 * 300);
  std::vector<Route> routes = {
      {.row = 40, .expert = 9, .first_group = 2, .groups = 3, .weight = 0.5f},
      {.row = 3, .expert = 1, .first_group = 0, .groups = 8, .weight = -1.0f},
      {.row = 4, .expert = 9, .first_group = 65535, .groups = 65535, .weight = 2.0f},
      {.row = 40, .expert = 2147483647, .first_group = 1, .groups = 1, .weight = 0.25f}};
  Fixture() {
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<int16_t>(i * 7);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 3;
  }
  RowBlock block(RowFormat format) const {
    return {.format = format,
            .rows = 64,
            .hidden = hidden,
            .codes = codes.data(),
            .scales = scales.data(),
            .values = values.data()};
  }
  Message experts(RowFormat format = RowFormat::kInt16Group128) const {
    FrameBuilder builder;
    EXPECT_TRUE(builder.Experts(kKey, block(format), routes).ok());
    return Join(builder);
  }
  Message result() const {
    std::vector<int64_t> sums(3 * 300, 1);
    sums[300] = std::numeric_limits<int64_t>::min();
    const uint8_t errors[] = {0, 1, 0};
    const uint8_t rows[] = {3, 4, 40};
    FrameBuilder builder;
    builder.ExpertsResult(kKey, rows, 300, {.sums = sums.data(), .row_errors = const_cast<uint8_t*>(errors)});
    return Join(builder);
  }
  Message matmul() const {
    FrameBuilder builder;
    builder.Matmul(Operation::kMatmulRows, kKey, 64, values.data(), 3, 100);
    return Join(builder);
  }
  Message error() const {
    FrameBuilder builder;
    builder.Error(kKey, Error(errors::kFrame, "no such leaf"));
    return Join(builder);
  }
  static Message probe() {
    const Message payload(5, std::byte{9});
    FrameBuilder builder;
    builder.Probe(kKey, payload, 7);
    return Join(builder);
  }
  static Message probe_result() {
    const Message payload(7, std::byte{9});
    FrameBuilder builder;
    builder.ProbeResult(kKey, payload);
    return Join(builder);
  }
};

absl::Status Said(Bytes message) {
  absl::Status said;
  EXPECT_TRUE(DecodeError(*DecodeFrame(message), said).ok());
  return said;
}

// Everything a receiver would do with these bytes.
absl::Status Read(Bytes message) {
  const absl::StatusOr<Frame> frame = DecodeFrame(message);
  if (!frame.ok()) return frame.status();
  switch (frame->header.operation) {
    case Operation::kExperts: {
      ExpertsRequest request;
      return DecodeExperts(*frame, request);
    }
    case Operation::kExpertsResult:
      return DecodeExpertsResult(*frame).status();
    case Operation::kError: {
      absl::Status said;
      return DecodeError(*frame, said);
    }
    case Operation::kProbe:
    case Operation::kProbeResult:
      return absl::OkStatus();
    default: {
      std::vector<float> values;
      CopyMatmulValues(*frame, values);
      return absl::OkStatus();
    }
  }
}

TEST(FrameTest, ExpertsComeBackWithOnlyTheRowsThatHaveRoutes) {
  const Fixture f;
  for (const RowFormat format : {RowFormat::kInt16Group128, RowFormat::kFloat32, RowFormat::kInt8Group128}) {
    const Message message = f.experts(format);
    const absl::StatusOr<Frame> frame = DecodeFrame(message);
    ASSERT_TRUE(frame.ok()) << frame.status();
    EXPECT_EQ(frame->header.key, kKey);
    EXPECT_EQ(frame->header.first_row, 3);
    EXPECT_EQ(static_cast<int64_t>(message.size()), 64 + 8 + 4 * 16 + 3 * RowBytes(format, f.hidden));
    ExpertsRequest request;
    ASSERT_TRUE(DecodeExperts(*frame, request).ok());
    EXPECT_THAT(request.indices, ::testing::ElementsAre(3, 4, 40));
    EXPECT_EQ(request.block.rows, 3);
    EXPECT_EQ(request.block.hidden, 300);
    std::vector<Route> back = request.routes;
    for (Route& route : back) route.row = request.indices[static_cast<size_t>(route.row)];
    EXPECT_EQ(back, f.routes);
    for (size_t i = 0; i < 3; ++i) {
      const size_t from = request.indices[i];
      for (size_t k = 0; k < 300; ++k) {
        if (format == RowFormat::kFloat32) {
          ASSERT_EQ(request.block.values[i * 300 + k], f.values[from * 300 + k]);
        } else {
          const int16_t sent = f.codes[from * 300 + k];
          ASSERT_EQ(request.block.codes[i * 300 + k],
                    format == RowFormat::kInt8Group128 ? static_cast<int8_t>(sent) : sent);
          ASSERT_EQ(request.block.scales[i * 3 + k / 128], f.scales[from * 3 + k / 128]);
        }
      }
    }
  }
}

TEST(FrameTest, ResultsTakeTheNarrowestWidthPerRow) {
  const Fixture f;
  const Message message = f.result();
  EXPECT_EQ(message.size(), 64u + 24 + 300 * (4 + 8 + 4));
  const absl::StatusOr<Frame> frame = DecodeFrame(message);
  ASSERT_TRUE(frame.ok()) << frame.status();
  const absl::StatusOr<ExpertsResult> result = DecodeExpertsResult(*frame);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->row_errors[1], std::byte{1});
  std::vector<int64_t> row(300);
  AddSums(result->packed.data() + 1200, 300, 8, row.data());
  EXPECT_EQ(row[0], std::numeric_limits<int64_t>::min());
  EXPECT_EQ(row[299], 1);
}

TEST(FrameTest, MatmulAndErrorComeBack) {
  const Fixture f;
  const Message matmul = f.matmul();
  const absl::StatusOr<Frame> frame = DecodeFrame(matmul);
  ASSERT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->header.first_row, 64);
  std::vector<float> values;
  CopyMatmulValues(*frame, values);
  EXPECT_EQ(values, std::vector<float>(f.values.begin(), f.values.begin() + 300));

  const Message error = f.error();
  EXPECT_EQ(Said(error), Error(errors::kFrame, "no such leaf"));
}

TEST(FrameTest, ProbesComeBackWithTheirBytes) {
  const Message probe = Fixture::probe();
  const absl::StatusOr<Frame> asked = DecodeFrame(probe);
  ASSERT_TRUE(asked.ok()) << asked.status();
  EXPECT_EQ(asked->header.operation, Operation::kProbe);
  EXPECT_EQ(asked->header.width, 7);
  EXPECT_EQ(asked->payload.size(), 5u);
  const Message result = Fixture::probe_result();
  const absl::StatusOr<Frame> answered = DecodeFrame(result);
  ASSERT_TRUE(answered.ok()) << answered.status();
  EXPECT_EQ(answered->header.operation, Operation::kProbeResult);
  EXPECT_EQ(answered->header.key, kKey);
  EXPECT_EQ(answered->header.width, 7);
  EXPECT_EQ(answered->payload.size(), 7u);
}

TEST(FrameTest, EveryTruncationAndEveryCorruptedByteIsRefused) {
  const Fixture f;
  for (const Message& good : {f.experts(), f.experts(RowFormat::kFloat32), f.result(), f.matmul(), f.error(),
                              Fixture::probe(), Fixture::probe_result()}) {
    ASSERT_TRUE(Read(good).ok());
    for (size_t size = 0; size < good.size(); ++size) {
      const absl::Status bad = Read(Bytes(good).first(size));
      ASSERT_EQ(CodeOf(std::string(bad.message())), "NET-004") << size << ": " << bad;
    }
    Message longer = good;
    longer.push_back(std::byte{0});
    ASSERT_FALSE(Read(longer).ok());
    for (size_t at = 0; at < good.size(); ++at) {
      for (const int flip : {1, 0x80, 0xFF}) {
        Message changed = good;
        changed[at] ^= static_cast<std::byte>(flip);
        const absl::Status bad = Read(changed);
        ASSERT_EQ(CodeOf(std::string(bad.message())), "NET-004") << "byte " << at << ": " << bad;
      }
    }
  }
}

TEST(FrameTest, FieldsOutOfRangeAreNamedBehindRightChecksums) {
  const Fixture f;
  const Message e = f.experts();
  const Message r = f.result();
  const Message m = f.matmul();
  const Message x = f.error();
  const Message p = Fixture::probe();
  const Message q = Fixture::probe_result();
  const struct {
    Message message;
    const char* names;
  } cases[] = {
      {With(e, 0, uint32_t{0x32584C50}), "magic"},
      {With(e, 4, uint8_t{0}), "operation"},
      {With(e, 4, uint8_t{8}), "operation"},
      {With(e, 5, uint8_t{4}), "row format"},
      {With(r, 5, uint8_t{1}), "row format"},
      {With(m, 5, uint8_t{1}), "row format"},
      {With(e, 6, uint16_t{1}), "bytes 6 and 7"},
      {With(e, 24, int32_t{-1}), "layer"},
      {With(e, 32, int32_t{-1}), "block"},
      {With(e, 36, int32_t{-1}), "first row"},
      {With(e, 36, int32_t{4}), "first row"},
      {With(e, 40, int32_t{0}), "rows"},
      {With(e, 40, int32_t{65}), "rows"},
      {With(e, 40, int32_t{-1}), "rows"},
      {With(x, 40, int32_t{1}), "rows"},
      {With(e, 44, int32_t{0}), "width"},
      {With(m, 44, int32_t{(1 << 20) + 1}), "width"},
      {With(x, 44, int32_t{1}), "width"},
      {With(p, 40, int32_t{1}), "rows"},
      {With(p, 44, int32_t{-1}), "width"},
      {With(p, 44, int32_t{(1 << 20) + 1}), "width"},
      {With(p, 48, int32_t{1}), "routes"},
      {With(q, 44, int32_t{6}), "payload length"},
      {With(e, 48, int32_t{2}), "routes"},
      {With(e, 48, int32_t{-1}), "routes"},
      {With(e, 48, int32_t{(1 << 20) + 1}), "routes"},
      {With(m, 48, int32_t{1}), "routes"},
      {With(e, 52, uint32_t{0}), "payload length"},
      {With(e, 52, uint32_t{0xFFFFFFFF}), "payload length"},
      {With(r, 52, uint32_t{5000}), "message length"},
      {With(e, 64, uint8_t{5}), "row index 1"},  // 5, 4, 40
      {With(e, 65, uint8_t{3}), "row index 1"},  // twice the same
      {With(e, 66, uint8_t{64}), "row index 2"},
      {With(e, 67, uint8_t{1}), "padding after the row list"},
      {With(e, 72, uint32_t{0x80000000}), "expert of route 0"},
      {With(e, 72 + 6, uint16_t{0}), "groups of route 0"},
      {With(e, 72 + 12, uint16_t{3}), "row of route 0"},
      {With(e, 72 + 14, uint16_t{1}), "last two bytes of route 0"},
      {With(e, 72 + 16 + 12, uint16_t{2}), "at least one for each of 3 rows"},
      {With(r, 64 + 8, uint8_t{3}), "bytes per sum of row 0"},
      {With(r, 64 + 8, uint8_t{9}), "bytes per sum of row 0"},
      {With(r, 64 + 8, uint8_t{5}), "rows of sums"},
      {With(r, 64 + 11, uint8_t{1}), "padding after the bytes per sum"},
      {With(r, 64 + 16, uint8_t{2}), "error flag of row 0"},
      {With(r, 64 + 19, uint8_t{1}), "padding after the error flags"},
      {With(x, 64, uint32_t{0}), "status code"},
      {With(x, 64, uint32_t{17}), "status code"},
  };
  for (const auto& c : cases) {
    const absl::Status bad = Read(c.message);
    EXPECT_EQ(CodeOf(std::string(bad.message())), "NET-004") << c.names << ": " << bad;
    EXPECT_THAT(std::string(bad.message()), HasSubstr(c.names));
    EXPECT_THAT(std::string(bad.message()), HasSubstr("expected"));
  }
}

TEST(FrameTest, AnnouncedSizesAreNeverAllocated) {
  // Rows and width that promise 256 MiB, in a message that has none of it.
  const Fixture f;
  Message m = With(With(f.matmul(), 40, int32_t{64}), 44, int32_t{1 << 20});
  EXPECT_FALSE(Read(With(m, 52, uint32_t{256u << 20})).ok());
  EXPECT_FALSE(Read(With(m, 52, uint32_t{(256u << 20) - 64})).ok());
}

TEST(FrameTest, RoutesThatFitNoFrameAreTheSendersError) {
  const Fixture f;
  FrameBuilder builder;
  for (const Route bad : {Route{.row = 64, .expert = 0, .first_group = 0, .groups = 1, .weight = 1},
                          Route{.row = -1, .expert = 0, .first_group = 0, .groups = 1, .weight = 1},
                          Route{.row = 0, .expert = -1, .first_group = 0, .groups = 1, .weight = 1},
                          Route{.row = 0, .expert = 0, .first_group = 65536, .groups = 1, .weight = 1},
                          Route{.row = 0, .expert = 0, .first_group = 0, .groups = 0, .weight = 1}}) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(builder.Experts(kKey, f.block(RowFormat::kFloat32), std::span(&bad, 1))));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(builder.Experts(kKey, f.block(RowFormat::kFloat32), {})));
}

TEST(FrameTest, AnErrorsSentenceIsCutAndHasNoControlCharacters) {
  FrameBuilder builder;
  builder.Error(kKey, absl::InternalError(std::string(10000, 'a') + "\n"));
  const Message cut = Join(builder);
  EXPECT_EQ(Said(cut).message().size(), 4096u);
  builder.Error(kKey, absl::InternalError("a\n\x1b[31mb"));
  const Message coloured = Join(builder);
  EXPECT_EQ(Said(coloured).message(), "a  [31mb");
}

}  // namespace
}  // namespace paceline
