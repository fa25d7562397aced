// One frame is one message of a link: a header of 64 bytes and a payload, all little-endian
// (docs/PROTOCOL.md).
//
//   offset size  field
//        0    4  magic, "PLX1": the digit is the version
//        4    1  operation: 1 experts, 2 experts_result, 3 matmul_rows, 4 matmul_result, 5 error,
//                6 probe, 7 probe_result
//        5    1  row format: 1 int16g128, 2 fp32, 3 int8g128; 0 where no rows travel, and in experts_result
//        6    2  zero
//        8    4  epoch of the placement table
//       12    4  head that speaks
//       16    8  step
//       24    4  layer, or the matrix of matmul_rows
//       28    4  part: the leaves of one rank, numbered by the head; all ones: an error nobody can place
//       32    4  block of rows within the step and layer
//       36    4  first row: lowest index in the block (experts) or index in the matmul's x
//       40    4  rows, 1 to 64; 0 in an error, a probe and its result
//       44    4  width: hidden, or the matmul's inputs (request) or outputs (answer); of a probe and its
//                result the bytes of the result's payload; 0 in an error
//       48    4  routes; 0 but in experts
//       52    4  payload length in bytes
//       56    4  CRC-32C of the payload
//       60    4  CRC-32C of bytes 0 to 59
//
// Payloads (pad8: zero bytes up to a multiple of 8)
//   experts         rows x u8 index in the block, ascending, pad8; routes x 16 bytes; then the rows:
//     int16g128     rows x width i16 codes, then rows x ceil(width / 128) f32 scales
//     int8g128      the same with i8 codes, -127 to 127
//     fp32          rows x width f32
//     route         u32 expert, u16 first group, u16 groups, f32 router weight,
//                   u16 position in this frame's rows, u16 zero
//   experts_result  rows x u8 index, pad8; rows x u8 bytes per sum (4 to 8), pad8;
//                   rows x u8 error flag (0 or 1), pad8;
//                   then per row width integers of that many bytes, two's complement
//   matmul_rows     rows x width f32
//   matmul_result   rows x width f32
//   error           u32 status code (absl::StatusCode), then a sentence of at most 4,096 bytes
//   probe           any bytes, 1,048,576 at most
//   probe_result    any bytes, as many as the probe asks for
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/exchange.h"
#include "transport/link.h"

namespace paceline {

enum class Operation : uint8_t {
  kExperts = 1,
  kExpertsResult = 2,
  kMatmulRows = 3,
  kMatmulResult = 4,
  kError = 5,
  kProbe = 6,  // answered at once: how far the other end is
  kProbeResult = 7,
};
const char* OperationName(Operation operation);

inline constexpr int64_t kFrameHeaderBytes = 64;
inline constexpr int64_t kRouteBytes = 16;
inline constexpr int64_t kMaxFramePayload = kMaxMessageBytes - kFrameHeaderBytes;
inline constexpr int32_t kMaxFrameWidth = 1 << 20;
inline constexpr int32_t kMaxFrameRoutes = 1 << 20;
inline constexpr int64_t kMaxErrorText = 4096;
inline constexpr int32_t kMaxProbeBytes = 1 << 20;
// The part of an error that answers a frame whose header could not be read.
inline constexpr uint32_t kNoPart = 0xFFFFFFFF;

// What an answer is matched by.
struct FrameKey {
  uint32_t epoch = 0;
  uint32_t head = 0;
  uint64_t step = 0;
  int32_t layer = 0;
  uint32_t part = 0;
  int32_t block = 0;
  friend bool operator==(const FrameKey&, const FrameKey&) = default;
};

struct FrameHeader {
  Operation operation = Operation::kError;
  uint8_t row_format = 0;
  FrameKey key;
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t width = 0;
  int32_t routes = 0;
};

// A frame whose header, length and checksums are right. The payload is a view of the message.
struct Frame {
  FrameHeader header;
  Bytes payload;
};

// DataLoss (NET-004) names the field, what was expected and what came. `key`, if given, is set as soon as the
// header's checksum is right, so that even a refused frame can be answered.
absl::StatusOr<Frame> DecodeFrame(Bytes message, FrameKey* key = nullptr);

// The payloads, copied into storage that is reused from frame to frame (a message need not be aligned).
struct ExpertsRequest {
  std::vector<uint8_t> indices;  // [rows], in the block, ascending
  std::vector<Route> routes;     // `row` is a position in `indices`
  std::vector<int16_t> codes;    // [rows, hidden] of formats with codes
  std::vector<float> scales;     // [rows, ceil(hidden / 128)] of formats with codes
  std::vector<float> values;     // [rows, hidden] of kFloat32
  RowBlock block;                // the rows above
};
// DataLoss (NET-004) for each of these.
absl::Status DecodeExperts(const Frame& frame, ExpertsRequest& into);

// Views of the frame's message.
struct ExpertsResult {
  std::span<const std::byte> indices;     // [rows]
  std::span<const std::byte> sum_bytes;   // [rows]
  std::span<const std::byte> row_errors;  // [rows]
  std::span<const std::byte> packed;      // the rows of sums, one after another
};
absl::StatusOr<ExpertsResult> DecodeExpertsResult(const Frame& frame);

// Copies [rows, width] of matmul_rows or matmul_result.
void CopyMatmulValues(const Frame& frame, std::vector<float>& values);

// The status an error frame carries.
absl::Status DecodeError(const Frame& frame, absl::Status& said);

// Builds frames as lists of parts for Link::Send: the caller's rows are sent from where they lie. Reused, so
// that a steady stream of frames allocates nothing. Parts are valid until the next call or until the caller's
// memory changes.
class FrameBuilder {
 public:
  // `routes` name rows of `block`; only rows with a route are carried, listed in indices(). InvalidArgument:
  // a route that no frame can carry.
  absl::Status Experts(const FrameKey& key, const RowBlock& block, std::span<const Route> routes);
  // sums [rows, hidden] and row_errors [rows] of the rows that `request` carried.
  void ExpertsResult(const FrameKey& key, std::span<const uint8_t> indices, int32_t hidden, ExpertSums sums);
  void Matmul(Operation operation, const FrameKey& key, int32_t first_row, const float* values, int32_t rows,
              int32_t width);
  void Error(const FrameKey& key, const absl::Status& status);
  // `payload` of a probe, which asks for `result_bytes`.
  void Probe(const FrameKey& key, Bytes payload, int32_t result_bytes);
  void ProbeResult(const FrameKey& key, Bytes payload);

  std::span<const Bytes> parts() const { return parts_; }
  std::span<const uint8_t> indices() const { return indices_; }  // of the last Experts

 private:
  void Finish(const FrameHeader& header);  // writes the header for parts_[1..]

  std::array<std::byte, kFrameHeaderBytes> header_{};
  std::vector<std::byte> head_of_payload_;  // lists and routes
  std::vector<std::byte> packed_;           // rows of sums
  std::vector<int8_t> narrow_;              // [rows, hidden], codes of kInt8Group128
  std::vector<uint8_t> indices_;
  std::vector<Bytes> parts_;
};

}  // namespace paceline
