// Headers: written and checked field by field. Every length is held against its bound before anything is
// sized by it.
#include "transport/frame.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "transport/crc32c.h"
#include "transport/row_codec.h"

namespace paceline {
namespace {

static_assert(std::endian::native == std::endian::little, "frames are little-endian and copied as they lie");

constexpr uint32_t kMagic = 0x31584C50;  // "PLX1"

template <class T>
T Get(Bytes bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <class T>
void Put(std::byte* bytes, size_t offset, T value) {
  std::memcpy(bytes + offset, &value, sizeof(T));
}

template <class Want, class Got>
absl::Status Refuse(const char* field, const Want& expected, const Got& came) {
  return Error(errors::kFrame, absl::StrCat("bad frame: ", field, ": expected ", expected, ", got ", came));
}

constexpr int64_t Pad8(int64_t bytes) { return (bytes + 7) & ~int64_t{7}; }

// Smallest and largest payload that the other fields allow.
struct PayloadRange {
  int64_t least = 0;
  int64_t most = 0;
};

PayloadRange PayloadOf(const FrameHeader& h) {
  const int64_t values = int64_t{4} * h.rows * h.width;
  switch (h.operation) {
    case Operation::kExperts: {
      const int64_t rows = h.rows * RowBytes(static_cast<RowFormat>(h.row_format), h.width);
      const int64_t all = Pad8(h.rows) + kRouteBytes * h.routes + rows;
      return {all, all};
    }
    case Operation::kExpertsResult: {
      const int64_t lists = 3 * Pad8(h.rows);
      const int64_t elements = int64_t{1} * h.rows * h.width;
      return {lists + kMinSumBytes * elements, lists + kMaxSumBytes * elements};
    }
    case Operation::kMatmulRows:
    case Operation::kMatmulResult:
      return {values, values};
    case Operation::kError:
      return {4, 4 + kMaxErrorText};
    case Operation::kProbe:
      return {0, kMaxProbeBytes};
    case Operation::kProbeResult:
      return {h.width, h.width};
  }
  return {};
}

absl::Status CheckFields(const FrameHeader& h, uint16_t reserved) {
  const auto operation = static_cast<int>(h.operation);
  if (operation < 1 || operation > 7) return Refuse("operation", "1 to 7", operation);
  if (reserved != 0) return Refuse("bytes 6 and 7", 0, reserved);
  const int format = h.row_format;
  switch (h.operation) {
    case Operation::kExperts:
      if (format < 1 || format > 3) return Refuse("row format", "1 to 3 in experts", format);
      break;
    case Operation::kMatmulRows:
    case Operation::kMatmulResult:
      if (format != 2) return Refuse("row format", absl::StrCat("2 in ", OperationName(h.operation)), format);
      break;
    default:
      if (format != 0) return Refuse("row format", absl::StrCat("0 in ", OperationName(h.operation)), format);
  }
  if (h.key.layer < 0) return Refuse("layer", "0 or more", h.key.layer);
  if (h.key.block < 0) return Refuse("block", "0 or more", h.key.block);
  if (h.first_row < 0) return Refuse("first row", "0 or more", h.first_row);
  if (h.operation == Operation::kError) {
    if (h.rows != 0) return Refuse("rows", "0 in error", h.rows);
    if (h.width != 0) return Refuse("width", "0 in error", h.width);
  } else if (h.operation == Operation::kProbe || h.operation == Operation::kProbeResult) {
    if (h.rows != 0) return Refuse("rows", absl::StrCat("0 in ", OperationName(h.operation)), h.rows);
    if (h.width < 0 || h.width > kMaxProbeBytes)
      return Refuse("width", absl::StrCat("0 to ", kMaxProbeBytes), h.width);
  } else {
    if (h.rows < 1 || h.rows > kBlockRows) return Refuse("rows", absl::StrCat("1 to ", kBlockRows), h.rows);
    if (h.width < 1 || h.width > kMaxFrameWidth)
      return Refuse("width", absl::StrCat("1 to ", kMaxFrameWidth), h.width);
  }
  if (h.operation == Operation::kExperts) {
    if (h.routes < h.rows || h.routes > kMaxFrameRoutes) {
      return Refuse("routes", absl::StrCat(h.rows, " to ", kMaxFrameRoutes, " for ", h.rows, " rows"),
                    h.routes);
    }
  } else if (h.routes != 0) {
    return Refuse("routes", absl::StrCat("0 in ", OperationName(h.operation)), h.routes);
  }
  return absl::OkStatus();
}

}  // namespace

const char* OperationName(Operation operation) {
  switch (operation) {
    case Operation::kExperts:
      return "experts";
    case Operation::kExpertsResult:
      return "experts_result";
    case Operation::kMatmulRows:
      return "matmul_rows";
    case Operation::kMatmulResult:
      return "matmul_result";
    case Operation::kError:
      return "error";
    case Operation::kProbe:
      return "probe";
    case Operation::kProbeResult:
      return "probe_result";
  }
  return "unknown operation";
}

absl::StatusOr<Frame> DecodeFrame(Bytes message, FrameKey* key) {
  const auto size = static_cast<int64_t>(message.size());
  if (size < kFrameHeaderBytes)
    return Refuse("length", absl::StrCat("at least ", kFrameHeaderBytes, " bytes"), size);
  const Bytes head = message.first(kFrameHeaderBytes);
  if (const auto magic = Get<uint32_t>(head, 0); magic != kMagic) {
    return Refuse("magic", "PLX1 (0x31584c50)", absl::StrCat("0x", absl::Hex(magic, absl::kZeroPad8)));
  }
  if (const uint32_t crc = Crc32c(0, head.first(60)); crc != Get<uint32_t>(head, 60)) {
    return Refuse("header checksum", crc, Get<uint32_t>(head, 60));
  }
  Frame frame;
  FrameHeader& h = frame.header;
  h.operation = static_cast<Operation>(Get<uint8_t>(head, 4));
  h.row_format = Get<uint8_t>(head, 5);
  h.key = {.epoch = Get<uint32_t>(head, 8),
           .head = Get<uint32_t>(head, 12),
           .step = Get<uint64_t>(head, 16),
           .layer = Get<int32_t>(head, 24),
           .part = Get<uint32_t>(head, 28),
           .block = Get<int32_t>(head, 32)};
  if (key != nullptr) *key = h.key;
  h.first_row = Get<int32_t>(head, 36);
  h.rows = Get<int32_t>(head, 40);
  h.width = Get<int32_t>(head, 44);
  h.routes = Get<int32_t>(head, 48);
  if (absl::Status bad = CheckFields(h, Get<uint16_t>(head, 6)); !bad.ok()) return bad;
  const int64_t payload = Get<uint32_t>(head, 52);
  const PayloadRange range = PayloadOf(h);
  if (payload < range.least || payload > range.most || payload > kMaxFramePayload) {
    return Refuse("payload length",
                  absl::StrCat(range.least, " to ", std::min(range.most, kMaxFramePayload), " bytes"),
                  payload);
  }
  if (payload != size - kFrameHeaderBytes) {
    return Refuse("message length", absl::StrCat(kFrameHeaderBytes + payload, " bytes"), size);
  }
  frame.payload = message.subspan(kFrameHeaderBytes);
  if (const uint32_t crc = Crc32c(0, frame.payload); crc != Get<uint32_t>(head, 56)) {
    return Refuse("payload checksum", crc, Get<uint32_t>(head, 56));
  }
  return frame;
}

void FrameBuilder::Finish(const FrameHeader& h) {
  uint32_t crc = 0;
  size_t payload = 0;
  for (const Bytes part : std::span(parts_).subspan(1)) {
    crc = Crc32c(crc, part);
    payload += part.size();
  }
  CHECK_LE(static_cast<int64_t>(payload), kMaxFramePayload);
  std::byte* out = header_.data();
  Put(out, 0, kMagic);
  Put(out, 4, static_cast<uint8_t>(h.operation));
  Put(out, 5, h.row_format);
  Put(out, 6, uint16_t{0});
  Put(out, 8, h.key.epoch);
  Put(out, 12, h.key.head);
  Put(out, 16, h.key.step);
  Put(out, 24, h.key.layer);
  Put(out, 28, h.key.part);
  Put(out, 32, h.key.block);
  Put(out, 36, h.first_row);
  Put(out, 40, h.rows);
  Put(out, 44, h.width);
  Put(out, 48, h.routes);
  Put(out, 52, static_cast<uint32_t>(payload));
  Put(out, 56, crc);
  Put(out, 60, Crc32c(0, Bytes(header_).first(60)));
  parts_[0] = header_;
}

}  // namespace paceline
