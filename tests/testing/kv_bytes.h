// What one position left in the KV pages of a layer, as bytes that can be compared.
#pragma once

#include <string>

#include "kernels/kv_codes.h"

namespace paceline::testing {

// Keys and values of all heads at `position` of page `page`. Of dtypes in codes: every code as a byte, and
// the scales.
inline std::string KvBytes(const kernels::AttentionShape& shape, const kernels::KvPages& kv, int64_t page,
                           int64_t position) {
  using kernels::kAttentionBlock;
  std::string out;
  const int64_t dim = shape.head_dim;
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    const int64_t first = (page * shape.kv_heads + head) * kAttentionBlock;  // vector
    for (const bool value : {false, true}) {
      const char* from = static_cast<const char*>(value ? kv.v : kv.k);
      if (!kernels::KvInCodes(kv.dtype)) {
        const int64_t row = kernels::KvVectorBytes(kv.dtype, dim);
        out.append(from + (first + position) * row, static_cast<size_t>(row));
        continue;
      }
      const float* scales = value ? kv.v_scales : kv.k_scales;
      out.append(reinterpret_cast<const char*>(scales + first + position), sizeof(float));
      from += first * (kernels::KvVectorBytes(kv.dtype, dim) - static_cast<int64_t>(sizeof(float)));
      for (int64_t d = 0; d < dim; ++d) {
        const kernels::KvPlace place = value ? kernels::KvPlaceOf(kv.dtype, d, position, kAttentionBlock)
                                             : kernels::KvPlaceOf(kv.dtype, position, d, dim);
        const int byte = static_cast<unsigned char>(from[place.byte]);
        out.push_back(
            static_cast<char>(kv.dtype == kernels::KvDtype::kInt4 ? byte >> place.shift & 15 : byte));
      }
    }
  }
  return out;
}

}  // namespace paceline::testing
