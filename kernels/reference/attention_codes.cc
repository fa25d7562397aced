// Keys and values in codes, and attention over them. NUMERICS, Attention over codes.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/kv_codes.h"
#include "kernels/reference/reference.h"
#include "kernels/scalar_math.h"

namespace paceline::kernels::reference {

// Hadamard transforms of consecutive blocks, each divided by the root of its size: its own inverse.
void RotateHead(float* x, int64_t dim) {
  const int64_t block = KvRotation(dim);
  const float factor = 1.0f / std::sqrt(static_cast<float>(block));
  for (int64_t step = 1; step < block; step *= 2) {
    for (int64_t i = 0; i < dim; ++i) {
      if ((i & step) != 0) continue;
      const float a = x[i], b = x[i + step];
      x[i] = a + b;
      x[i + step] = a - b;
    }
  }
  for (int64_t i = 0; i < dim; ++i) x[i] = x[i] * factor;
}

namespace {

// Codes of one group, which is all of x, and what they are multiples of. NUMERICS, Activations.
float QuantiseAll(const float* x, int64_t count, float top, int16_t* codes) {
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) {
    finite = finite && std::isfinite(x[i]);
    largest = std::max(largest, std::fabs(x[i]));
  }
  std::fill(codes, codes + count, int16_t{0});
  if (!finite) return std::nanf("");
  if (largest < kSmallestMax) return 0.0f;
  const float scale = largest / top;
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<int16_t>(std::nearbyint(x[i] / scale));
  return scale;
}

// Indices into kKvLevels of one head vector. The scale gives y its own length along y: levels alone are
// shorter by their error, and every score would be 1 % too small.
float QuantiseRotated(const float* x, int64_t dim, int16_t* codes) {
  std::vector<float> y(x, x + dim);  // [head_dim]
  RotateHead(y.data(), dim);
  const float sum = SumOfSquares(y.data(), dim);
  std::fill(codes, codes + dim, int16_t{0});
  if (!std::isfinite(sum)) return std::nanf("");
  if (sum < kSmallestMax) return 0.0f;
  const float step = std::sqrt(sum / static_cast<float>(dim)) * (1.0f / kKvSigma);
  std::vector<float> levels(dim);  // [head_dim]
  for (int64_t i = 0; i < dim; ++i) {
    const float z = y[i] / step;
    int16_t index = 0;
    for (const float middle : kKvMiddles)
      index = static_cast<int16_t>(index + (middle < std::fabs(z) ? 1 : 0));
    codes[i] = static_cast<int16_t>(z < 0 ? 7 - index : 8 + index);
    levels[i] = kKvLevels[codes[i]];
  }
  return sum / Dot(y.data(), levels.data(), dim);
}

void Put(KvDtype dtype, uint8_t* codes, const KvPlace& place, int16_t code) {
  if (dtype == KvDtype::kInt8) {
    codes[place.byte] = static_cast<uint8_t>(code + kKvZero);
    return;
  }
  codes[place.byte] = static_cast<uint8_t>((codes[place.byte] & (0xF0 >> place.shift)) | code << place.shift);
}

int32_t Get(KvDtype dtype, const uint8_t* codes, const KvPlace& place) {
  if (dtype == KvDtype::kInt8) return codes[place.byte] - kKvZero;
  return kKvLevels[codes[place.byte] >> place.shift & 15];
}

// The codes of one page and head.
template <class Byte>
Byte* CodesAt(const AttentionShape& shape, KvDtype dtype, Byte* codes, int64_t page, int64_t head) {
  return codes + (page * shape.kv_heads + head) * kAttentionBlock *
                     (KvVectorBytes(dtype, shape.head_dim) - static_cast<int64_t>(sizeof(float)));
}
int64_t ScaleAt(const AttentionShape& shape, int64_t page, int64_t head, int64_t position) {
  return (page * shape.kv_heads + head) * kAttentionBlock + position % kAttentionBlock;
}

// One query against the keys and values of one head.
class Reader {
 public:
  Reader(const AttentionShape& shape, const KvPages& kv, const RowRun& run, int64_t kv_head)
      : shape_(shape), kv_(kv), run_(run), head_(kv_head) {}

  int32_t Key(int64_t position, int64_t d) const {
    return Get(kv_.dtype, CodesOf(kv_.k, position),
               KvPlaceOf(kv_.dtype, position % kAttentionBlock, d, shape_.head_dim));
  }
  int32_t Value(int64_t position, int64_t d) const {
    return Get(kv_.dtype, CodesOf(kv_.v, position),
               KvPlaceOf(kv_.dtype, d, position % kAttentionBlock, kAttentionBlock));
  }
  float KeyScale(int64_t position) const {
    return kv_.k_scales[ScaleAt(shape_, Page(position), head_, position)];
  }
  float ValueScale(int64_t position) const {
    return kv_.v_scales[ScaleAt(shape_, Page(position), head_, position)];
  }

 private:
  int64_t Page(int64_t position) const { return run_.pages[position / kAttentionBlock]; }
  const uint8_t* CodesOf(const void* codes, int64_t position) const {
    return CodesAt(shape_, kv_.dtype, static_cast<const uint8_t*>(codes), Page(position), head_);
  }

  const AttentionShape& shape_;
  const KvPages& kv_;
  const RowRun& run_;
  const int64_t head_;
};

// query and out [head_dim]; positions 0..last.
void AttendOne(const AttentionShape& shape, KvDtype dtype, const Reader& kv, int64_t last, const float* query,
               float* out) {
  const int64_t dim = shape.head_dim;
  std::vector<float> q(query, query + dim), o(dim), block_o(dim);  // [head_dim]
  std::vector<float> p(kAttentionBlock);                           // [positions of a block]
  std::vector<int16_t> q_codes(dim), p_codes(kAttentionBlock);
  if (dtype == KvDtype::kInt4) RotateHead(q.data(), dim);
  const float q_scale = QuantiseAll(q.data(), dim, TopCode(ActivationContract::kInt16), q_codes.data());
  const float factor = q_scale * (1.0f / std::sqrt(static_cast<float>(dim)));
  float m = 0, l = 0;
  for (int64_t begin = 0; begin <= last; begin += kAttentionBlock) {
    const int64_t seen = std::min(kAttentionBlock, last + 1 - begin);
    float block_m = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < seen; ++i) {
      int32_t sum = 0;
      for (int64_t d = 0; d < dim; ++d) sum += q_codes[d] * kv.Key(begin + i, d);
      p[i] = static_cast<float>(sum) * (kv.KeyScale(begin + i) * factor);
      block_m = std::max(block_m, p[i]);
    }
    float block_l = 0;
    for (int64_t i = 0; i < seen; ++i) {
      const float weight = Exp(p[i] - block_m);
      block_l = block_l + weight;
      p[i] = weight * kv.ValueScale(begin + i);
    }
    const float p_scale = QuantiseAll(p.data(), seen, TopCode(ActivationContract::kInt16), p_codes.data());
    for (int64_t d = 0; d < dim; ++d) {
      int32_t sum = 0;
      for (int64_t i = 0; i < seen; ++i) sum += p_codes[i] * kv.Value(begin + i, d);
      block_o[d] = static_cast<float>(sum) * p_scale;
    }
    if (begin == 0) {
      m = block_m;
      l = block_l;
      o = block_o;
      continue;
    }
    const float merged = std::max(m, block_m);
    const float old_share = Exp(m - merged), new_share = Exp(block_m - merged);
    l = std::fma(block_l, new_share, l * old_share);
    for (int64_t d = 0; d < dim; ++d) o[d] = std::fma(block_o[d], new_share, o[d] * old_share);
    m = merged;
  }
  for (int64_t d = 0; d < dim; ++d) out[d] = o[d] / l;
  if (dtype == KvDtype::kInt4) RotateHead(out, dim);
}

}  // namespace

void WriteKvCodes(const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
                  const float* k, const float* v) {
  const int64_t dim = shape.head_dim;
  CHECK(dim % kKvSmallestRotation == 0 && dim <= kKvLargestHead);
  std::vector<int16_t> codes(dim);
  const auto encode = [&](const float* x) {
    return kv.dtype == KvDtype::kInt4 ? QuantiseRotated(x, dim, codes.data())
                                      : QuantiseAll(x, dim, TopCode(ActivationContract::kInt8), codes.data());
  };
  for (const RowRun& run : runs) {
    for (int32_t i = 0; i < run.rows; ++i) {
      const int64_t position = run.first_position + i, in_page = position % kAttentionBlock;
      const int64_t page = run.pages[position / kAttentionBlock];
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        const int64_t from = (int64_t{run.first_row + i} * shape.kv_heads + head) * dim;
        const int64_t scale = ScaleAt(shape, page, head, position);
        uint8_t* keys = CodesAt(shape, kv.dtype, static_cast<uint8_t*>(kv.k), page, head);
        uint8_t* values = CodesAt(shape, kv.dtype, static_cast<uint8_t*>(kv.v), page, head);
        kv.k_scales[scale] = encode(k + from);
        for (int64_t d = 0; d < dim; ++d) Put(kv.dtype, keys, KvPlaceOf(kv.dtype, in_page, d, dim), codes[d]);
        kv.v_scales[scale] = encode(v + from);
        for (int64_t d = 0; d < dim; ++d)
          Put(kv.dtype, values, KvPlaceOf(kv.dtype, d, in_page, kAttentionBlock), codes[d]);
      }
    }
  }
}

void AttentionOverCodes(const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
                        const float* q, float* out) {
  for (const RowRun& run : runs) {
    for (int32_t i = 0; i < run.rows; ++i) {
      for (int32_t head = 0; head < shape.heads; ++head) {
        const int64_t at = (int64_t{run.first_row + i} * shape.heads + head) * shape.head_dim;
        AttendOne(shape, kv.dtype, Reader(shape, kv, run, head / (shape.heads / shape.kv_heads)),
                  run.first_position + i, q + at, out + at);
      }
    }
  }
}

}  // namespace paceline::kernels::reference
