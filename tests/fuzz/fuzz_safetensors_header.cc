// The header of a safetensors file: 8 bytes of data size, then JSON. Whatever passes must keep the promises
// that readers rely on.
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/check.h"
#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  uint32_t data_bytes = 0;
  std::memcpy(&data_bytes, data, 4);
  const std::string_view header(reinterpret_cast<const char*>(data) + 4, size - 4);
  const auto entries = paceline::ParseSafetensorsHeader(header, data_bytes, "f");
  if (!entries.ok()) return 0;
  for (const paceline::TensorEntry& entry : *entries) {
    int64_t bytes = paceline::DtypeBytes(entry.dtype);
    for (const int64_t dim : entry.shape) bytes *= dim;
    CHECK_EQ(bytes, entry.bytes());
    CHECK_LE(0, entry.begin);
    CHECK_LE(entry.begin, entry.end);
    CHECK_LE(entry.end, int64_t{data_bytes});
  }
  return 0;
}
