// 16 outputs of one or two matrices for a few rows, by one thread block, and the linear layer made of them.
// NUMERICS: Integer linears, Float linears.
#pragma once

#include "kernels/cuda/matrix.h"

namespace paceline::kernels::cuda {

// Links of a sweep: [matrices][kSweep][rows][16 outputs].
template <int32_t kRows>
PACELINE_DEVICE Link* LinkOf(Link* links, int32_t matrix, int32_t slot, int32_t row) {
  return links + ((matrix * kSweep + slot) * kRows + row) * kTile;
}
constexpr int32_t LinkBytes(int32_t matrices, int32_t rows) {
  return matrices * kSweep * rows * kTile * static_cast<int32_t>(sizeof(Link));
}

// Terms [begin, begin + kSweep) of even integer matrices by products of bytes: a warp takes every eighth
// term, and has the vectors of three of each matrix on their way before it multiplies.
template <Kind kKind, int32_t kPlanes, int32_t kRows, int32_t kMatrices>
PACELINE_DEVICE void FillByProducts(const Matrix (&m)[kMatrices], int64_t tile, const Inputs& x,
                                    const int32_t* rows, int64_t first, int64_t count, int32_t begin,
                                    Link* links) {
  constexpr int32_t kBatch = kKind == Kind::kInt4 ? 3 : 2;
  constexpr int32_t kOwned = LaneRows<kPlanes>::kOwned;
  const int32_t lane = ThreadIndex() % kWarp;
  for (int32_t t = begin + ThreadIndex() / kWarp; t < begin + kSweep; t += kBatch * kWarps) {
    Vec4 w[kMatrices][kBatch][kTermVectors<kKind>] = {};
    PACELINE_UNROLL
    for (int32_t i = 0; i < kBatch; ++i) {
      PACELINE_UNROLL
      for (int32_t j = 0; j < kMatrices; ++j) {
        const int32_t at = t + i * kWarps;
        if (at < m[j].terms && at < begin + kSweep) LoadTerm<kKind>(m[j], tile, TermAt(m[j], at), w[j][i]);
      }
    }
    PACELINE_UNROLL
    for (int32_t i = 0; i < kBatch; ++i) {
      PACELINE_UNROLL
      for (int32_t j = 0; j < kMatrices; ++j) {
        const int32_t at = t + i * kWarps;
        if (at >= m[j].terms || at >= begin + kSweep) continue;
        const Term term = TermAt(m[j], at);
        const int64_t scale_at = (tile * m[j].groups + term.group) * kTile + lane / 4;
        const float scales[2] = {ScaleAt(m[j], scale_at), ScaleAt(m[j], scale_at + 8)};
        PACELINE_UNROLL
        for (int32_t p = 0; p < kRows / kColumnRows<kPlanes>; ++p) {
          const int32_t ahead = p * kColumnRows<kPlanes>;
          const LaneRows<kPlanes> own = RowsOfLane<kPlanes>(rows, first + ahead, count);
          int32_t sums[2][kOwned];
          MultiplyTerm<kKind, kPlanes>(m[j], tile, term, w[j][i], x.codes, 0, own, sums);
          PACELINE_UNROLL
          for (int32_t o = 0; o < kOwned; ++o) {
            if (!own.owned_there[o]) continue;
            const float scale = x.codes.scales[own.owned[o] * (x.codes.chunks / 4) + term.activation_group];
            Link* to = LinkOf<kRows>(links, j, at - begin, ahead + lane % 4 * kOwned + o) + lane / 4;
            to[0] = {static_cast<float>(sums[0][o]), scales[0] * scale};
            to[8] = {static_cast<float>(sums[1][o]), scales[1] * scale};
          }
        }
      }
    }
  }
}

// The same for any matrix, by plain sums.
template <int32_t kRows>
PACELINE_DEVICE void FillPlainly(const Matrix& m, int64_t tile, const Inputs& x, const int32_t* rows,
                                 int64_t first, int64_t count, int32_t begin, Link* links) {
  const int32_t output = ThreadIndex() % kTile, end = static_cast<int32_t>(Least(m.chain(), begin + kSweep));
  const int32_t there = static_cast<int32_t>(Least(kRows, count - first));
  if (m.integer()) {
    for (int32_t i = ThreadIndex() / kTile; i < (end - begin) * there; i += kTileThreads / kTile) {
      const int32_t slot = i / there, r = i % there;
      const Term term = TermAt(m, begin + slot);
      const int64_t row = rows == nullptr ? first + r : rows[first + r];
      const int32_t sum = PlainTerm(m, tile, output, term, x.codes, row, 0);
      const float scale = ScaleAt(m, (tile * m.groups + term.group) * kTile + output) *
                          x.codes.scales[row * (x.codes.chunks / 4) + term.activation_group];
      LinkOf<kRows>(links, 0, slot, r)[output] = {static_cast<float>(sum), scale};
    }
    return;
  }
  const float* values[kRows];
  PACELINE_UNROLL
  for (int32_t r = 0; r < kRows; ++r) {
    const int64_t at = first + (r < there ? r : there - 1);
    values[r] = x.values + (rows == nullptr ? at : rows[at]) * x.stride;
  }
  for (int32_t block = begin + ThreadIndex() / kTile; block < end; block += kTileThreads / kTile) {
    float sums[kRows];
    FloatBlock<kRows>(m, tile, output, block * kActivationGroup, values, sums);
    const float scale = BlockScaleOf(m, tile, block);
    PACELINE_UNROLL
    for (int32_t r = 0; r < kRows; ++r) {
      if (r < there) LinkOf<kRows>(links, 0, block - begin, r)[output] = {sums[r], scale};
    }
  }
}

// Outputs [16 tile, 16 tile + 16) of rows rows[first] to rows[first + kRows - 1] (null: the identity; `count`
// are there). Thread t gets that of matrix t / (16 kRows), row t / 16 % kRows and output t % 16. Whole thread
// blocks.
template <Kind kKind, int32_t kPlanes, int32_t kRows, int32_t kMatrices>
PACELINE_DEVICE float TileSums(const Matrix (&m)[kMatrices], int64_t tile, const Inputs& x,
                               const int32_t* rows, int64_t first, int64_t count, Link* links) {
  static_assert(kMatrices * kRows * kTile <= kTileThreads);
  const int32_t matrix = ThreadIndex() / (kRows * kTile), row = ThreadIndex() / kTile % kRows;
  const bool mine = matrix < kMatrices && first + row < count;
  int32_t longest = 0;
  PACELINE_UNROLL
  for (int32_t j = 0; j < kMatrices; ++j) longest = m[j].chain() > longest ? m[j].chain() : longest;
  const int32_t chain = kMatrices == 1 || matrix == 0 ? m[0].chain() : m[kMatrices - 1].chain();
  float total = 0;
  for (int32_t begin = 0; begin < longest; begin += kSweep) {
    if constexpr (kKind == Kind::kAny) {
      PACELINE_UNROLL
      for (int32_t j = 0; j < kMatrices; ++j)
        FillPlainly<kRows>(m[j], tile, x, rows, first, count, begin, LinkOf<kRows>(links, j, 0, 0));
    } else {
      FillByProducts<kKind, kPlanes, kRows, kMatrices>(m, tile, x, rows, first, count, begin, links);
    }
    BlockBarrier();
    const int32_t terms = static_cast<int32_t>(Least(kSweep, chain - begin));
    for (int32_t i = 0; mine && i < terms; ++i) {
      const Link link = LinkOf<kRows>(links, matrix, i, row)[ThreadIndex() % kTile];
      total = std::fma(link.term, link.factor, total);
    }
    BlockBarrier();
  }
  return total;
}

struct LinearStep {
  Matrix m;
  Inputs x;
  int64_t rows;
  float* y;  // [rows, stride]
  int64_t stride;
};

// y = W x of all rows: a thread block per tile of outputs and kRows rows. Blocks that share a tile are
// neighbours, so that its weights come from memory once.
template <Kind kKind, int32_t kPlanes, int32_t kRows>
struct LinearTile {
  using Args = LinearStep;
  static constexpr int32_t kThreads = kTileThreads;
  static Grid Blocks(const Args& a) { return {a.m.tiles() * Parts(a.rows, kRows), 1, LinkBytes(1, kRows)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t passes = Parts(a.rows, kRows), tile = BlockX() / passes, first = BlockX() % passes * kRows;
    const Matrix m[1] = {a.m};
    const float total =
        TileSums<kKind, kPlanes, kRows, 1>(m, tile, a.x, nullptr, first, a.rows, SharedMemory<Link>());
    const int64_t row = first + ThreadIndex() / kTile, output = tile * kTile + ThreadIndex() % kTile;
    if (ThreadIndex() < kRows * kTile && row < a.rows && output < a.m.outputs)
      a.y[row * a.stride + output] = total;
  }
};

}  // namespace paceline::kernels::cuda
