// Every frame that can arrive from a peer, requests and replies. The first byte says whether the checksums
// are made right first: without that no mutation gets past them. What is accepted as experts is built anew
// and must decode alike.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "transport/crc32c.h"
#include "transport/frame.h"
#include "transport/row_codec.h"

namespace paceline {
namespace {

void CheckExperts(const Frame& frame) {
  ExpertsRequest request;
  if (!DecodeExperts(frame, request).ok()) return;
  CHECK_EQ(request.indices.size(), static_cast<size_t>(request.block.rows));
  FrameBuilder builder;
  CHECK(builder.Experts(frame.header.key, request.block, request.routes).ok());
  std::vector<std::byte> again;
  for (const Bytes part : builder.parts()) again.insert(again.end(), part.begin(), part.end());
  const absl::StatusOr<Frame> back = DecodeFrame(again);
  CHECK(back.ok());
  ExpertsRequest twin;
  CHECK(DecodeExperts(*back, twin).ok());
  CHECK(twin.routes == request.routes || std::any_of(twin.routes.begin(), twin.routes.end(),
                                                     [](const Route& r) { return r.weight != r.weight; }));
  CHECK(twin.codes == request.codes);
}

void CheckResult(const Frame& frame) {
  const absl::StatusOr<ExpertsResult> result = DecodeExpertsResult(frame);
  if (!result.ok()) return;
  const int32_t hidden = frame.header.width;
  std::vector<int64_t> sums(static_cast<size_t>(hidden), INT64_MAX);
  const std::byte* packed = result->packed.data();
  for (const std::byte bytes : result->sum_bytes) {
    AddSums(packed, hidden, static_cast<int>(bytes), sums.data());
    packed += int64_t{static_cast<int>(bytes)} * hidden;
  }
  CHECK(packed == result->packed.data() + result->packed.size());
}

void Run(Bytes message) {
  const absl::StatusOr<Frame> frame = DecodeFrame(message);
  if (!frame.ok()) return;
  switch (frame->header.operation) {
    case Operation::kExperts:
      return CheckExperts(*frame);
    case Operation::kExpertsResult:
      return CheckResult(*frame);
    case Operation::kError: {
      absl::Status said;
      (void)DecodeError(*frame, said);
      return;
    }
    case Operation::kProbe:
    case Operation::kProbeResult:
      return;
    default: {
      std::vector<float> values;
      CopyMatmulValues(*frame, values);
    }
  }
}

}  // namespace
}  // namespace paceline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using paceline::Crc32c;
  if (size == 0) return 0;
  std::vector<std::byte> message(size - 1);
  if (size > 1) std::memcpy(message.data(), data + 1, size - 1);
  if ((data[0] & 1) != 0 && message.size() >= 64) {
    const uint32_t magic = 0x31584C50;
    std::memcpy(message.data(), &magic, 4);
    const auto length = static_cast<uint32_t>(message.size() - 64);
    std::memcpy(message.data() + 52, &length, 4);
    const uint32_t payload = Crc32c(0, std::span(message).subspan(64));
    std::memcpy(message.data() + 56, &payload, 4);
    const uint32_t header = Crc32c(0, std::span(message).first(60));
    std::memcpy(message.data() + 60, &header, 4);
  }
  paceline::Run(message);
  return 0;
}
