// The formats that whole heads and layers come in, in loops; the rest value by value.
#include "model/widen_row.h"

#include <cstring>

#include "kernels/plain_decode.h"

namespace paceline {

using kernels::PlainLinear;
using kernels::WeightFormat;

void WidenRow(const PlainLinear& w, int64_t n, float* out) {
  switch (w.format) {
    case WeightFormat::kF32:
      std::memcpy(out, RowOf(w, n), static_cast<size_t>(w.inputs) * 4);
      return;
    case WeightFormat::kBF16: {
      const uint8_t* from = RowOf(w, n);
      for (int64_t k = 0; k < w.inputs; ++k) {
        uint16_t bits;
        std::memcpy(&bits, from + 2 * k, 2);
        out[k] = kernels::FromBf16(bits);
      }
      return;
    }
    default:
      for (int64_t k = 0; k < w.inputs; ++k) out[k] = kernels::PlainValue(w, n, k);
  }
}

}  // namespace paceline
