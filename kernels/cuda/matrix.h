// A weight matrix on the device, and what 16 of its outputs are for a few rows. Outputs come in tiles of 16.
//
//   INT4   [tiles][pairs of chunks][32 lanes][16 bytes]   chunk: 32 inputs; word 2c and 2c + 1 of a lane's
//   vector
//          belong to chunk c of the pair. Lane 4g + t: byte i of word 2c holds input 8t + i of outputs g (low
//          nibble) and g + 8 (high), word 2c + 1 inputs 8t + 4 + i. So one mask and one shift make operands.
//   INT8   [tiles][chunks][32 lanes][16 bytes]   words: inputs 8t .. of output g, of g + 8, inputs 8t + 4 ..
//   of g,
//          of g + 8
//   float  [tiles][inputs / E][16 outputs][E elements], E elements in 16 bytes
//
// The last tile, pair and vector are filled up with zeros. The products' operand k of lane t is input 8t + ..
// on both sides (codes.h), so that a lane's eight inputs stand together.
//
// A sum over inputs is a chain of fma over terms (NUMERICS: Integer linears, Float linears): integer terms
// are the overlaps of weight and activation groups, float ones the blocks of 128. Terms are independent, so
// the warps of a thread block share them and leave (term, factor) in shared memory; one thread per output and
// row then runs the chain in order.
#pragma once

#include "kernels/cuda/codes.h"
#include "kernels/weights.h"

namespace paceline::kernels::cuda {

inline constexpr int32_t kTile = 16;          // outputs
inline constexpr int32_t kTileThreads = 256;  // of a thread block that works on a tile
inline constexpr int32_t kWarps = kTileThreads / kWarp;
inline constexpr int32_t kSweep = 24;  // terms between two barriers

enum class ScaleFormat : uint8_t { kF32, kF16, kBF16 };  // the narrowest that holds every scale exactly

struct Term {
  int32_t first, count;      // inputs of the slice
  int32_t group;             // of the weights, relative to the slice
  int32_t activation_group;  // relative to the slice
};

struct Matrix {
  WeightFormat format;
  ScaleFormat scale_format;
  bool even;  // integer: every term is whole chunks (but for the end of the last), so products of bytes serve
  bool regular;  // integer: term t is inputs 128t to 128t + 127 and has a scale of its own
  int32_t zero;  // of every code when zeros is null: 8 or 0
  int64_t outputs, inputs;
  int64_t tile_bytes;
  int32_t groups;  // scales per output
  int32_t terms;   // integer
  const uint8_t* data;
  const void* scales;         // integer: [tiles][groups][16]
  const uint8_t* zeros;       // [tiles][groups][16], or null
  const Term* term;           // ascending
  const int32_t* first_term;  // [activation groups + 1]
  const float* block_scales;  // FP8: [row blocks][column blocks]
  int64_t column_blocks;

  PACELINE_HOST_DEVICE bool integer() const {
    return format == WeightFormat::kInt4 || format == WeightFormat::kInt8;
  }
  PACELINE_HOST_DEVICE int64_t tiles() const { return (outputs + kTile - 1) / kTile; }
  PACELINE_HOST_DEVICE int32_t chain() const {
    return integer() ? terms : static_cast<int32_t>(ActivationGroups(inputs));
  }
};

// The rows in front of a matrix; integer matrices read codes, the others values.
struct Inputs {
  Codes codes;
  const float* values;  // [rows, stride]
  int64_t stride;
  int64_t width;
};

// What a kernel is made for, so that its loops have fixed bounds.
enum class Kind : int32_t {
  kInt4,  // even INT4
  kInt8,  // even INT8
  kAny,   // whatever the matrix says
};

// One term of one output and row, and its factor in the chain.
struct Link {
  float term, factor;
};

PACELINE_DEVICE float ScaleAt(const Matrix& m, int64_t at) {
  if (m.scale_format == ScaleFormat::kF16) return FromF16(static_cast<const uint16_t*>(m.scales)[at]);
  if (m.scale_format == ScaleFormat::kBF16) return FromBf16(static_cast<const uint16_t*>(m.scales)[at]);
  return static_cast<const float*>(m.scales)[at];
}
PACELINE_DEVICE Term TermAt(const Matrix& m, int32_t t) {
  if (!m.regular) return m.term[t];
  constexpr int32_t kGroup = static_cast<int32_t>(kActivationGroup);
  return {t * kGroup, static_cast<int32_t>(Least(kGroup, m.inputs - int64_t{t} * kGroup)), t, t};
}
PACELINE_DEVICE int32_t ZeroAt(const Matrix& m, int64_t at) {
  return m.zeros == nullptr ? m.zero : m.zeros[at];
}

// ---------------------------------------------------------------- products of bytes

// Operand A of chunk `half` of a pair.
PACELINE_DEVICE void Int4Operand(const Vec4& pair, int32_t half, uint32_t (&a)[4]) {
  const uint32_t low = pair.word[2 * half], high = pair.word[2 * half + 1];
  a[0] = low & 0x0F0F0F0Fu;
  a[1] = low >> 4 & 0x0F0F0F0Fu;
  a[2] = high & 0x0F0F0F0Fu;
  a[3] = high >> 4 & 0x0F0F0F0Fu;
}

// The vectors of a term of at most four chunks, by one lane: INT4 two, INT8 four.
template <Kind kKind>
inline constexpr int32_t kTermVectors = kKind == Kind::kInt4 ? 2 : 4;

template <Kind kKind>
PACELINE_DEVICE void LoadTerm(const Matrix& m, int64_t tile, const Term& term,
                              Vec4 (&w)[kTermVectors<kKind>]) {
  const int32_t lane = ThreadIndex() % kWarp;
  constexpr int32_t kChunks = kKind == Kind::kInt4 ? 2 : 1;  // of a vector
  const int32_t first = term.first / static_cast<int32_t>(kChunk);
  const int32_t end = static_cast<int32_t>(Parts(term.first + term.count, kChunk));
  const Vec4* from = reinterpret_cast<const Vec4*>(m.data + tile * m.tile_bytes) + lane;
  PACELINE_UNROLL
  for (int32_t i = 0; i < kTermVectors<kKind>; ++i) {
    const int32_t vector = first / kChunks + i;
    if (vector * kChunks < end) w[i] = LoadOnce(from + int64_t{vector} * kWarp);
  }
}

// How the 8 columns of a product are used: with two planes 4 rows, each its low and its high plane; with one
// plane 8 rows.
template <int32_t kPlanes>
inline constexpr int32_t kColumnRows = 8 / kPlanes;

// Operand B of a chunk: rows[i] of the codes for the i-th row of the product, none for i >= count.
template <int32_t kPlanes>
PACELINE_DEVICE void CodesOperand(const Codes& codes, int64_t row, bool there, int64_t chunk,
                                  uint32_t (&b)[2]) {
  const int32_t lane = ThreadIndex() % kWarp, column = lane / 4;
  b[0] = b[1] = 0;
  if (!there) return;
  const int32_t plane = kPlanes == 2 ? column % 2 : 0;
  const uint8_t* from = codes.bytes + ((row * codes.chunks + chunk) * kPlanes + plane) * kChunk;
  const Vec2 two = *reinterpret_cast<const Vec2*>(from + lane % 4 * 8);
  b[0] = two.word[0];
  b[1] = two.word[1];
}

// The rows that a lane's parts of a product belong to: it reads the codes of one (`operand`) and owns sums of
// kPlanes == 2 ? 1 : 2 (`owned`).
template <int32_t kPlanes>
struct LaneRows {
  static constexpr int32_t kOwned = kPlanes == 2 ? 1 : 2;
  int64_t operand = 0;
  bool operand_there = false;
  int64_t owned[kOwned] = {};
  bool owned_there[kOwned] = {};
};
// Rows [first, first + 8 / kPlanes) of `rows` (null: the identity), of which there are `count`.
template <int32_t kPlanes>
PACELINE_DEVICE LaneRows<kPlanes> RowsOfLane(const int32_t* rows, int64_t first, int64_t count) {
  const int32_t lane = ThreadIndex() % kWarp;
  LaneRows<kPlanes> out;
  const int64_t own = first + lane / 4 / kPlanes;
  out.operand_there = own < count;
  if (out.operand_there) out.operand = rows == nullptr ? own : rows[own];
  PACELINE_UNROLL
  for (int32_t i = 0; i < LaneRows<kPlanes>::kOwned; ++i) {
    const int64_t owned = first + (kPlanes == 2 ? lane % 4 : lane % 4 * 2 + i);
    out.owned_there[i] = owned < count;
    if (out.owned_there[i]) out.owned[i] = rows == nullptr ? owned : rows[owned];
  }
  return out;
}

// Sum of (q - z) q_a over the term, of outputs g and g + 8 (g = lane / 4) and the owned rows. `code_chunk`:
// where the slice's chunk 0 stands in the codes.
template <Kind kKind, int32_t kPlanes>
PACELINE_DEVICE void MultiplyTerm(const Matrix& m, int64_t tile, const Term& term,
                                  const Vec4 (&w)[kTermVectors<kKind>], const Codes& codes,
                                  int64_t code_chunk, const LaneRows<kPlanes>& rows,
                                  int32_t (&sums)[2][LaneRows<kPlanes>::kOwned]) {
  const int32_t first = term.first / static_cast<int32_t>(kChunk);
  const int32_t end = static_cast<int32_t>(Parts(term.first + term.count, kChunk));
  int32_t c[4] = {};
  PACELINE_UNROLL
  for (int32_t i = 0; i < 4; ++i) {
    const int32_t chunk = (kKind == Kind::kInt4 ? first / 2 * 2 : first) + i;
    if (chunk < first || chunk >= end) continue;  // the same for the whole warp
    uint32_t a[4], b[2];
    if (kKind == Kind::kInt4) {
      Int4Operand(w[i / 2], i % 2, a);
    } else {
      PACELINE_UNROLL
      for (int32_t j = 0; j < 4; ++j) a[j] = w[i % kTermVectors<kKind>].word[j];
    }
    CodesOperand<kPlanes>(codes, rows.operand, rows.operand_there, code_chunk + chunk, b);
    MultiplyBytes(c, a, b);
  }
  const int64_t at = (tile * m.groups + term.group) * kTile + ThreadIndex() % kWarp / 4;
  const int32_t zeros[2] = {ZeroAt(m, at), ZeroAt(m, at + 8)};
  PACELINE_UNROLL
  for (int32_t i = 0; i < LaneRows<kPlanes>::kOwned; ++i) {
    int32_t codes_sum = 0;  // of the row's codes in this term
    if (kKind == Kind::kInt4 && rows.owned_there[i]) {
      for (int32_t chunk = first; chunk < end; ++chunk)
        codes_sum += codes.sums[rows.owned[i] * codes.chunks + code_chunk + chunk];
    }
    PACELINE_UNROLL
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t product = kPlanes == 2 ? c[2 * half] + 256 * c[2 * half + 1] : c[2 * half + i];
      sums[half][i] = product - zeros[half] * codes_sum;
    }
  }
}

// ---------------------------------------------------------------- plain sums

// Sum of (q - z) q_a over a term of any shape: one output and row by one thread. `column`: the codes' input 0
// of the slice.
PACELINE_DEVICE int32_t PlainTerm(const Matrix& m, int64_t tile, int32_t output, const Term& term,
                                  const Codes& codes, int64_t row, int64_t column) {
  const int32_t zero = ZeroAt(m, (tile * m.groups + term.group) * kTile + output);
  const uint8_t* data = m.data + tile * m.tile_bytes;
  const int32_t lane = output % 8 * 4;
  int32_t sum = 0;
  for (int64_t k = term.first; k < term.first + term.count; ++k) {
    const int64_t chunk = k / kChunk, t = k % kChunk / 8, i = k % 8;
    int32_t code;
    if (m.format == WeightFormat::kInt4) {
      const int64_t at = ((chunk / 2 * kWarp + lane + t) * 4 + chunk % 2 * 2 + i / 4) * 4 + i % 4;
      code = (output < 8 ? data[at] : data[at] >> 4) & 15;
    } else {
      const int64_t at = ((chunk * kWarp + lane + t) * 4 + i / 4 * 2 + output / 8) * 4 + i % 4;
      code = static_cast<int8_t>(data[at]);
    }
    const int64_t input = column + k;
    const uint8_t* bytes =
        codes.bytes + (row * codes.chunks + input / kChunk) * codes.planes * kChunk + input % kChunk;
    int32_t activation = static_cast<int8_t>(bytes[0]);
    if (codes.planes == 2) activation += 256 * static_cast<int8_t>(bytes[kChunk]);
    sum += (code - zero) * activation;
  }
  return sum;
}

template <WeightFormat kFormat>
inline constexpr int32_t kElements = kFormat == WeightFormat::kF32           ? 4
                                     : kFormat == WeightFormat::kFp8Block128 ? 16
                                                                             : 8;  // of a vector

template <WeightFormat kFormat>
PACELINE_DEVICE float Element(const Vec4& v, int32_t i) {
  if (kFormat == WeightFormat::kF32) return std::bit_cast<float>(v.word[i]);
  if (kFormat == WeightFormat::kFp8Block128)
    return FromE4M3(static_cast<uint8_t>(v.word[i / 4] >> (i % 4 * 8)));
  const uint16_t half = static_cast<uint16_t>(v.word[i / 2] >> (i % 2 * 16));
  return kFormat == WeightFormat::kBF16 ? FromBf16(half) : FromF16(half);
}

template <WeightFormat kFormat>
PACELINE_DEVICE float ElementAt(const uint8_t* vector, int64_t i) {
  if (kFormat == WeightFormat::kF32) return reinterpret_cast<const float*>(vector)[i];
  if (kFormat == WeightFormat::kFp8Block128) return FromE4M3(vector[i]);
  const uint16_t half = reinterpret_cast<const uint16_t*>(vector)[i];
  return kFormat == WeightFormat::kBF16 ? FromBf16(half) : FromF16(half);
}

// The chain of one block of 128 inputs from `first` on, without its scale: one output and kRows rows by one
// thread. x: the rows' inputs of the slice; rows behind the last read the last.
template <WeightFormat kFormat, int32_t kRows>
PACELINE_DEVICE void FloatBlock(const Matrix& m, int64_t tile, int32_t output, int64_t first,
                                const float* const (&x)[kRows], float (&sums)[kRows]) {
  constexpr int32_t kE = kElements<kFormat>;
  const Vec4* from = reinterpret_cast<const Vec4*>(m.data + tile * m.tile_bytes) + output;
  const int64_t end = Least(m.inputs, first + kActivationGroup);
  PACELINE_UNROLL
  for (int32_t r = 0; r < kRows; ++r) sums[r] = 0;
  constexpr int32_t kAhead = 4;  // vectors on their way
  int64_t k = first;
  for (; k + kAhead * kE <= end; k += kAhead * kE) {
    Vec4 v[kAhead];
    PACELINE_UNROLL
    for (int32_t i = 0; i < kAhead; ++i) v[i] = LoadOnce(from + (k / kE + i) * kTile);
    PACELINE_UNROLL
    for (int32_t i = 0; i < kAhead; ++i) {
      PACELINE_UNROLL
      for (int32_t e = 0; e < kE; ++e) {
        const float w = Element<kFormat>(v[i], e);
        PACELINE_UNROLL
        for (int32_t r = 0; r < kRows; ++r) sums[r] = std::fma(w, x[r][k + i * kE + e], sums[r]);
      }
    }
  }
  // The end of the matrix.
  for (; k < end; ++k) {
    const float w = ElementAt<kFormat>(reinterpret_cast<const uint8_t*>(from + k / kE * kTile), k % kE);
    PACELINE_UNROLL
    for (int32_t r = 0; r < kRows; ++r) sums[r] = std::fma(w, x[r][k], sums[r]);
  }
}
template <int32_t kRows>
PACELINE_DEVICE void FloatBlock(const Matrix& m, int64_t tile, int32_t output, int64_t first,
                                const float* const (&x)[kRows], float (&sums)[kRows]) {
  switch (m.format) {
    case WeightFormat::kF32:
      return FloatBlock<WeightFormat::kF32>(m, tile, output, first, x, sums);
    case WeightFormat::kF16:
      return FloatBlock<WeightFormat::kF16>(m, tile, output, first, x, sums);
    case WeightFormat::kBF16:
      return FloatBlock<WeightFormat::kBF16>(m, tile, output, first, x, sums);
    default:
      return FloatBlock<WeightFormat::kFp8Block128>(m, tile, output, first, x, sums);
  }
}
PACELINE_DEVICE float BlockScaleOf(const Matrix& m, int64_t tile, int64_t block) {
  return m.format == WeightFormat::kFp8Block128
             ? m.block_scales[tile * kTile / kActivationGroup * m.column_blocks + block]
             : 1.0f;
}

}  // namespace paceline::kernels::cuda
