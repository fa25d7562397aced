// Keys and values into their pages, and attention over them in blocks of 256 positions: one kernel makes (m,
// l, o) of every block of every row, a second merges them in the order of positions. NUMERICS, Attention.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

// The KV pages of one layer: [pages, kv_heads, kAttentionBlock, head_dim] of BF16 or fp32.
struct Pages {
  int32_t bf16 = 1;  // 0: fp32
  void *k = nullptr, *v = nullptr;
};
// A row of the step: where it stands in its sequence, and its sequence's pages.
struct RowPlace {
  int64_t position = 0;
  const int32_t* pages = nullptr;
};

PACELINE_DEVICE float LoadKv(int32_t bf16, const void* pages, int64_t at) {
  return bf16 != 0 ? FromBf16(static_cast<const uint16_t*>(pages)[at]) : static_cast<const float*>(pages)[at];
}
PACELINE_DEVICE void StoreKv(int32_t bf16, void* pages, int64_t at, float x) {
  if (bf16 != 0) {
    static_cast<uint16_t*>(pages)[at] = ToBf16(x);
  } else {
    static_cast<float*>(pages)[at] = x;
  }
}

struct WriteKv {
  struct Args {
    Pages kv;
    const RowPlace* places;  // [rows]
    const float *k, *v;      // [rows, kv_heads, head_dim]
    int64_t rows;
    int32_t kv_heads, head_dim;
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * a.kv_heads * a.head_dim, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= a.rows * a.kv_heads * a.head_dim) return;
    const int64_t row = i / a.head_dim / a.kv_heads, head = i / a.head_dim % a.kv_heads;
    const RowPlace& place = a.places[row];
    const int64_t page = place.pages[place.position / kAttentionBlock];
    const int64_t at =
        ((page * a.kv_heads + head) * kAttentionBlock + place.position % kAttentionBlock) * a.head_dim +
        i % a.head_dim;
    StoreKv(a.kv.bf16, a.kv.k, at, a.k[i]);
    StoreKv(a.kv.bf16, a.kv.v, at, a.v[i]);
  }
};

// One thread block per row, group of query heads that share a KV head, and block of positions. Half a warp
// scores a position for all heads of the group; then a thread owns one dim of the values for all of them.
struct AttentionBlocks {
  static constexpr int32_t kHeads = 4;  // query heads of a group, or fewer
  struct Args {
    Pages kv;
    const RowPlace* places;  // [rows]
    const float* q;          // [rows, heads, head_dim]
    int64_t rows;
    int32_t heads, kv_heads, head_dim;
    int64_t blocks;  // of positions, the most that a row has
    float* m;        // [rows, heads, blocks]
    float* l;        // [rows, heads, blocks]
    float* o;        // [rows, heads, blocks, head_dim]
    PACELINE_HOST_DEVICE int32_t groups() const {
      return kv_heads * static_cast<int32_t>(Parts(heads / kv_heads, kHeads));
    }
  };
  static constexpr int32_t kThreads = 256;
  // Positions of a block times heads, and one query.
  static Grid Blocks(const Args& a) {
    return {a.rows * a.groups(), static_cast<int32_t>(a.blocks),
            static_cast<int32_t>((kAttentionBlock + a.head_dim) * kHeads * 4)};
  }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int32_t dim = a.head_dim, shared_heads = a.heads / a.kv_heads;
    const int32_t per_kv_head = a.groups() / a.kv_heads;
    const int64_t row = BlockX() / a.groups(), group = BlockX() % a.groups();
    const int32_t kv_head = static_cast<int32_t>(group / per_kv_head);
    const int32_t first_head = static_cast<int32_t>(group % per_kv_head) * kHeads;
    const int32_t count = static_cast<int32_t>(Least(kHeads, shared_heads - first_head));
    const int64_t head = int64_t{kv_head} * shared_heads + first_head;
    const RowPlace& place = a.places[row];
    const int64_t begin = BlockY() * kAttentionBlock;
    const int64_t positions = Least(kAttentionBlock, place.position + 1 - begin);
    if (positions <= 0) return;  // the whole block of threads
    const int64_t page = (int64_t{place.pages[BlockY()]} * a.kv_heads + kv_head) * kAttentionBlock * dim;

    float* q = SharedMemory<float>();  // [kHeads][dim]
    float* scores = q + kHeads * dim;  // [kHeads][kAttentionBlock]
    for (int32_t i = ThreadIndex(); i < kHeads * dim; i += kThreads)
      q[i] = i < count * dim ? a.q[(row * a.heads + head) * dim + i] : 0.0f;
    BlockBarrier();

    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    constexpr int32_t kHalves = kThreads / kHalf;
    const int32_t lane = ThreadIndex() % kHalf;
    for (int64_t first = 0; first < positions; first += kHalves) {
      const int64_t own = first + ThreadIndex() / kHalf;
      const int64_t p = own < positions ? own : positions - 1;
      float sums[kHeads] = {};
      for (int32_t d = lane; d < dim; d += kHalf) {
        const float key = LoadKv(a.kv.bf16, a.kv.k, page + p * dim + d);
        PACELINE_UNROLL
        for (int32_t h = 0; h < kHeads; ++h) sums[h] = std::fma(q[h * dim + d], key, sums[h]);
      }
      PACELINE_UNROLL
      for (int32_t h = 0; h < kHeads; ++h) {
        const float score = SumOfLanes(sums[h]) * scale;
        if (lane == 0 && own < positions) scores[h * kAttentionBlock + p] = score;
      }
    }
    BlockBarrier();

    // Weights, one warp per head; their sum is one chain.
    const int32_t warp = ThreadIndex() / kWarp;
    if (warp < kHeads) {
      float* own = scores + warp * kAttentionBlock;
      float m = -Infinity();
      for (int64_t p = ThreadIndex() % kWarp; p < positions; p += kWarp) m = Larger(m, own[p]);
      PACELINE_UNROLL
      for (int32_t step = 16; step >= 1; step /= 2) m = Larger(m, ShuffleXor(m, step));
      for (int64_t p = ThreadIndex() % kWarp; p < positions; p += kWarp) own[p] = Exp(own[p] - m);
      WarpBarrier();
      if (ThreadIndex() % kWarp == 0 && warp < count) {
        float l = 0;
        for (int64_t p = 0; p < positions; ++p) l = l + own[p];
        const int64_t at = (row * a.heads + head + warp) * a.blocks + BlockY();
        a.m[at] = m;
        a.l[at] = l;
      }
    }
    BlockBarrier();

    for (int32_t d = ThreadIndex(); d < dim; d += kThreads) {
      float o[kHeads] = {};
      for (int64_t p = 0; p < positions; ++p) {
        const float value = LoadKv(a.kv.bf16, a.kv.v, page + p * dim + d);
        PACELINE_UNROLL
        for (int32_t h = 0; h < kHeads; ++h) o[h] = std::fma(scores[h * kAttentionBlock + p], value, o[h]);
      }
      for (int32_t h = 0; h < count; ++h)
        a.o[((row * a.heads + head + h) * a.blocks + BlockY()) * dim + d] = o[h];
    }
  }
};

// A warp per row and head; a lane owns dims.
struct AttentionMerge {
  struct Args {
    const RowPlace* places;  // [rows]
    const float *m, *l;      // [rows, heads, blocks]
    const float* o;          // [rows, heads, blocks, head_dim]
    int64_t rows, blocks;
    int32_t heads, head_dim;
    float* out;  // [rows, heads, head_dim]
  };
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {a.rows * a.heads}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t used = a.places[BlockX() / a.heads].position / kAttentionBlock + 1;
    const float *m_of = a.m + BlockX() * a.blocks, *l_of = a.l + BlockX() * a.blocks;
    for (int32_t d = ThreadIndex(); d < a.head_dim; d += kThreads) {
      const float* o_of = a.o + BlockX() * a.blocks * a.head_dim + d;
      float m = m_of[0], l = l_of[0], o = o_of[0];
      for (int64_t i = 1; i < used; ++i) {
        const float merged = Larger(m, m_of[i]);
        const float old = Exp(m - merged), add = Exp(m_of[i] - merged);
        l = std::fma(l_of[i], add, l * old);
        o = std::fma(o_of[i * a.head_dim], add, o * old);
        m = merged;
      }
      a.out[BlockX() * a.head_dim + d] = o / l;
    }
  }
};

}  // namespace paceline::kernels::cuda
