// Gated DeltaNet. NUMERICS, Gated DeltaNet. Six launches, each wide in what is independent: the convolution
// by channel, norms of queries and keys by head, gates by sequence, products of keys by pair of rows, then
// the recurrence, where a lane owns one column of a head's state from the first row of the run to the last,
// and at the end what later steps read. Nothing that an earlier launch of this step or an earlier step left
// is overwritten before its last reader is through.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

// Memory of a GdnBlock and of a GdnState (kernels/kernels.h), on the device.
struct DeltaBlock {
  float *state, *k, *u, *c;
};
struct DeltaRun {
  DeltaBlock block, next;
  float* window;  // [kGdnWindow, channels]
  int64_t first_position;
  int32_t first_row, rows;

  // The block that the row's position belongs to.
  PACELINE_HOST_DEVICE int32_t border() const {
    return kGdnBlock - static_cast<int32_t>(first_position % kGdnBlock);
  }
};
struct DeltaShape {
  int32_t key_heads, value_heads, key_dim, value_dim, taps;
  PACELINE_HOST_DEVICE int64_t keys() const { return int64_t{key_heads} * key_dim; }
  PACELINE_HOST_DEVICE int64_t channels() const { return 2 * keys() + int64_t{value_heads} * value_dim; }
};
// What all launches of one call share.
struct DeltaStep {
  DeltaShape shape;
  const float *conv, *decay, *dt_bias;  // as GdnWeights
  const float* qkv;                     // [rows, channels]
  const float *b, *a;                   // [rows, value_heads]
  const DeltaRun* runs;                 // [run_count]
  const int32_t* run_of;                // [rows]
  int64_t rows;
  int32_t run_count;
  float* mixed;  // [rows, channels]: q, k and v behind the convolution
  float* beta;   // [rows, value_heads]
  float* c;      // [rows, value_heads], cumulative since the row's border
  float* dots;   // [rows, key_heads, 2, kGdnBlock]: k_i k_j and q_i k_j
  float* out;    // [rows, value_heads, value_dim]
};

// A thread per row and channel. Rows of this run stand in qkv, earlier ones in the window.
struct DeltaConvolve {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * a.shape.channels(), kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t channels = a.shape.channels();
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= a.rows * channels) return;
    const int64_t row = i / channels, channel = i % channels;
    const DeltaRun& run = a.runs[a.run_of[row]];
    const int64_t index = row - run.first_row, position = run.first_position + index;
    float sum = 0;
    for (int32_t j = 0; j < a.shape.taps; ++j) {
      const int32_t back = a.shape.taps - 1 - j;
      const float x = back <= index
                          ? a.qkv[i - back * channels]
                          : run.window[(position + kGdnWindow - back) % kGdnWindow * channels + channel];
      sum = std::fma(a.conv[channel * a.shape.taps + j], x, sum);
    }
    a.mixed[i] = Silu(sum);
  }
};

// Half a warp per row and head of the queries, then of the keys.
struct DeltaNormalise {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * 2 * a.shape.key_heads, kThreads / kHalf)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t heads = int64_t{2} * a.shape.key_heads, dim = a.shape.key_dim;
    const int64_t own = BlockX() * (kThreads / kHalf) + ThreadIndex() / kHalf;
    const int64_t item = own < a.rows * heads ? own : 0;
    float* x = a.mixed + item / heads * a.shape.channels() + item % heads * dim;
    const float sum = DotOfLanes(x, x, dim);
    if (own >= a.rows * heads) return;
    const float scale = item % heads < a.shape.key_heads ? 1.0f / std::sqrt(static_cast<float>(dim)) : 1.0f;
    const float r = ReciprocalSqrt(sum + 1e-6f);
    for (int64_t i = ThreadIndex() % kHalf; i < dim; i += kHalf) x[i] = (x[i] * r) * scale;
  }
};

// A thread per run and value head.
struct DeltaGates {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = 64;
  static Grid Blocks(const Args& a) { return {Parts(int64_t{a.run_count} * a.shape.value_heads, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int32_t heads = a.shape.value_heads;
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= int64_t{a.run_count} * heads) return;
    const DeltaRun& run = a.runs[i / heads];
    const int64_t head = i % heads;
    float c = 0;
    for (int32_t r = 0; r < run.rows; ++r) {
      const int64_t at = (run.first_position + r) % kGdnBlock;
      const int64_t to = (int64_t{run.first_row} + r) * heads + head;
      a.beta[to] = Sigmoid(a.b[to]);
      const float g = -(a.decay[head] * Softplus(a.a[to] + a.dt_bias[head]));
      if (r == 0 && at > 0) c = run.block.c[(at - 1) * heads + head];
      c = at == 0 ? g : c + g;
      a.c[to] = c;
    }
  }
};

// The key of index `at` in the block of `run`'s row `index`, whether it came with this step or an earlier
// one.
PACELINE_DEVICE const float* BlockKey(const DeltaStep& a, const DeltaRun& run, int32_t index, int32_t at,
                                      int64_t key_head) {
  const int32_t row =
      index - static_cast<int32_t>((run.first_position + index) % kGdnBlock) + at;  // in the run, or in front
  return row >= 0 ? a.mixed + (int64_t{run.first_row} + row) * a.shape.channels() + a.shape.keys() +
                        key_head * a.shape.key_dim
                  : run.block.k + at * a.shape.keys() + key_head * a.shape.key_dim;
}

// Half a warp per row, key head and index of the block up to the row's own.
struct DeltaDots {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) {
    return {Parts(a.rows * a.shape.key_heads * kGdnBlock, kThreads / kHalf)};
  }
  static PACELINE_DEVICE void Run(const Args& a) {
    // Whole blocks of threads share a row and a head; 32 pairs are a multiple of what a block takes.
    const int64_t item = BlockX() * (kThreads / kHalf) + ThreadIndex() / kHalf;
    const int32_t j = static_cast<int32_t>(item % kGdnBlock);
    const int64_t head = item / kGdnBlock % a.shape.key_heads, row = item / kGdnBlock / a.shape.key_heads;
    const DeltaRun& run = a.runs[a.run_of[row]];
    const int32_t index = static_cast<int32_t>(row - run.first_row);
    const int32_t at = static_cast<int32_t>((run.first_position + index) % kGdnBlock);
    if (j - ThreadIndex() % kWarp / kHalf > at) return;  // both halves of the warp are behind the row
    const float* q = a.mixed + row * a.shape.channels() + head * a.shape.key_dim;
    const float* k = q + a.shape.keys();
    const float* other = BlockKey(a, run, index, j < at ? j : at, head);
    const float keys = DotOfLanes(k, other, a.shape.key_dim);
    const float queries = DotOfLanes(q, other, a.shape.key_dim);
    if (ThreadIndex() % kHalf != 0 || j > at) return;
    float* to = a.dots + (row * a.shape.key_heads + head) * 2 * kGdnBlock;
    to[j] = keys;
    to[kGdnBlock + j] = queries;
  }
};

// A warp per run, value head and 32 columns of its state. Lane j makes what belongs to index j of the block.
struct DeltaSolve {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args& a) {
    return {int64_t{a.run_count} * a.shape.value_heads * Parts(a.shape.value_dim, kWarp), 1,
            (2 + kGdnBlock) * kWarp * 4};
  }
  static PACELINE_DEVICE void Run(const Args& a) {
    const DeltaShape& shape = a.shape;
    const int32_t tiles = static_cast<int32_t>(Parts(shape.value_dim, kWarp));
    const int32_t heads = shape.value_heads, dv = shape.value_dim, dk = shape.key_dim;
    const DeltaRun& run = a.runs[BlockX() / tiles / heads];
    const int64_t head = BlockX() / tiles % heads, key_head = head / (heads / shape.key_heads);
    const int32_t lane = ThreadIndex();
    const int32_t column = static_cast<int32_t>(BlockX() % tiles) * kWarp + lane;
    const bool there = column < dv;
    const int32_t n = there ? column : 0;  // a lane without a column follows column 0, for nothing
    const int64_t u_stride = int64_t{heads} * dv;
    float* of_keys = SharedMemory<float>();   // [kGdnBlock], -(share * dot(k_i, k_j))
    float* of_queries = of_keys + kGdnBlock;  // [kGdnBlock], share * dot(q_i, k_j)

    const DeltaBlock* block = &run.block;
    int32_t at = static_cast<int32_t>(run.first_position % kGdnBlock);
    float c_lane = lane < at ? block->c[int64_t{lane} * heads + head] : 0.0f;
    for (int32_t index = 0; index < run.rows; ++index) {
      const int64_t row = int64_t{run.first_row} + index;
      const float* q = a.mixed + row * shape.channels() + key_head * dk;
      const float* k = q + shape.keys();
      const float* S = block->state + head * dk * dv + n;
      const float c_i = a.c[row * heads + head], beta = a.beta[row * heads + head];
      if (lane == at) c_lane = c_i;
      const float share = Exp(c_i - c_lane);
      const float* dots = a.dots + (row * shape.key_heads + key_head) * 2 * kGdnBlock;
      WarpBarrier();  // the last row's are read
      if (lane <= at) {
        of_keys[lane] = -(share * dots[lane]);
        of_queries[lane] = share * dots[kGdnBlock + lane];
      }
      WarpBarrier();
      float sk = 0, sq = 0;
      constexpr int32_t kAhead = 16;  // values of the state on their way
      int32_t d = 0;
      for (; d + kAhead <= dk; d += kAhead) {
        float s[kAhead];
        PACELINE_UNROLL
        for (int32_t i = 0; i < kAhead; ++i) s[i] = S[int64_t{d + i} * dv];
        PACELINE_UNROLL
        for (int32_t i = 0; i < kAhead; ++i) {
          sk = std::fma(s[i], k[d + i], sk);
          sq = std::fma(s[i], q[d + i], sq);
        }
      }
      for (; d < dk; ++d) {
        sk = std::fma(S[int64_t{d} * dv], k[d], sk);
        sq = std::fma(S[int64_t{d} * dv], q[d], sq);
      }
      const float decay = Exp(c_i);
      const float v = a.mixed[row * shape.channels() + 2 * shape.keys() + head * dv + n];
      float u = std::fma(-decay, sk, v), o = decay * sq;
      const float* earlier = block->u + head * dv + n;
      for (int32_t j = 0; j < at; ++j) {
        const float other = earlier[j * u_stride];
        u = std::fma(of_keys[j], other, u);
        o = std::fma(of_queries[j], other, o);
      }
      u = beta * u;
      o = std::fma(of_queries[at], u, o);
      if (there) {
        block->u[at * u_stride + head * dv + n] = u;
        a.out[(row * heads + head) * dv + n] = o;
      }
      if (++at < kGdnBlock) continue;
      Fold(a, run, *block, index, head, key_head, n, there, c_lane);
      block = &run.next;
      at = 0;
    }
  }

 private:
  // The border: the next block's state of one column. c_lane: of index `lane`.
  static PACELINE_DEVICE void Fold(const DeltaStep& a, const DeltaRun& run, const DeltaBlock& block,
                                   int32_t index, int64_t head, int64_t key_head, int32_t n, bool there,
                                   float c_lane) {
    const int32_t dk = a.shape.key_dim, dv = a.shape.value_dim;
    const int64_t u_stride = int64_t{a.shape.value_heads} * dv;
    const int32_t lane = ThreadIndex();
    const float c_n = ShuffleFrom(c_lane, kGdnBlock - 1);
    const float decay = Exp(c_n);
    float* shares = SharedMemory<float>() + kGdnBlock;   // [kGdnBlock], where the queries' were
    float* weights = SharedMemory<float>() + 2 * kWarp;  // [kGdnBlock][32 key dims]
    WarpBarrier();
    shares[lane] = Exp(c_n - c_lane);
    float u[kGdnBlock];
    PACELINE_UNROLL
    for (int32_t j = 0; j < kGdnBlock; ++j) u[j] = block.u[j * u_stride + head * dv + n];
    const float* from = block.state + head * dk * dv + n;
    float* to = run.next.state + head * dk * dv + n;
    for (int32_t first = 0; first < dk; first += kWarp) {
      const int32_t count = static_cast<int32_t>(Least(kWarp, dk - first));
      WarpBarrier();
      for (int32_t j = 0; lane < count && j < kGdnBlock; ++j)
        weights[j * kWarp + lane] = shares[j] * BlockKey(a, run, index, j, key_head)[first + lane];
      WarpBarrier();
      for (int32_t d = 0; d < count; ++d) {
        float s = decay * from[int64_t{first + d} * dv];
        PACELINE_UNROLL
        for (int32_t j = 0; j < kGdnBlock; ++j) s = std::fma(weights[j * kWarp + d], u[j], s);
        if (there) to[int64_t{first + d} * dv] = s;
      }
    }
  }
};

// Keys, decays and inputs that later steps read: a thread per run, index of the block and element.
struct DeltaStore {
  using Args = DeltaStep;
  static constexpr int32_t kThreads = 256;
  static PACELINE_HOST_DEVICE int64_t Width(const Args& a) {
    return a.shape.keys() + a.shape.value_heads + a.shape.channels();
  }
  static Grid Blocks(const Args& a) { return {Parts(a.run_count * kGdnBlock * Width(a), kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t width = Width(a), keys = a.shape.keys(), heads = a.shape.value_heads;
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= a.run_count * kGdnBlock * width) return;
    const DeltaRun& run = a.runs[i / width / kGdnBlock];
    const int32_t at = static_cast<int32_t>(i / width % kGdnBlock);
    const int64_t element = i % width;
    if (element >= keys + heads) {
      StoreInput(a, run, at, element - keys - heads);
      return;
    }
    // The last row of this index behind the first border, and the one in front of it.
    const int32_t border = run.border(), first = kGdnBlock - border;
    const int32_t end = static_cast<int32_t>((run.first_position + run.rows - 1) % kGdnBlock);
    const int32_t last = run.rows - 1 - (end - at + kGdnBlock) % kGdnBlock;
    const int32_t front = at >= first && at - first < run.rows ? at - first : -1;
    const auto store = [&](const DeltaBlock& block, int32_t row) {
      const int64_t from = int64_t{run.first_row} + row;
      if (element < keys) {
        block.k[at * keys + element] = a.mixed[from * a.shape.channels() + keys + element];
      } else {
        block.c[at * heads + element - keys] = a.c[from * heads + element - keys];
      }
    };
    const bool behind = last >= border;
    // In this order: where both are one memory, the later row stays.
    if (front >= 0) store(run.block, front);
    if (behind) store(run.next, last);
  }

 private:
  // `slot` of the window: the last of this run's rows that belongs there.
  static PACELINE_DEVICE void StoreInput(const DeltaStep& a, const DeltaRun& run, int32_t slot,
                                         int64_t channel) {
    if (slot >= kGdnWindow) return;
    const int32_t end = static_cast<int32_t>((run.first_position + run.rows - 1) % kGdnWindow);
    const int32_t row = run.rows - 1 - (end - slot + kGdnWindow) % kGdnWindow;
    if (row < 0) return;
    const int64_t channels = a.shape.channels();
    run.window[slot * channels + channel] = a.qkv[(int64_t{run.first_row} + row) * channels + channel];
  }
};

}  // namespace paceline::kernels::cuda
