// The control messages of an nccl link, which whoever reaches its port can send. What is accepted must say
// the same when it is written again.
#include <algorithm>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "transport/nccl_control.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto message = std::as_bytes(std::span(data, size));
  const auto control = paceline::DecodeNcclControl(message);
  if (!control.ok()) return 0;
  const std::vector<std::byte> again = paceline::EncodeNcclControl(*control);
  CHECK_EQ(again.size(), message.size());
  CHECK(std::equal(again.begin(), again.end(), message.begin()));
  return 0;
}
