// Choices among many logits: the router's experts, log-sum-exp and the largest of a vocabulary. NUMERICS:
// Router, Log-sum-exp.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

// A value and where it stands; of equal values the lower place is the better one.
struct Candidate {
  float value;
  int32_t id;  // -1: none
};
PACELINE_DEVICE Candidate Better(const Candidate& a, const Candidate& b) {
  if (b.id < 0) return a;
  if (a.id < 0 || b.value > a.value) return b;
  return b.value == a.value && b.id < a.id ? b : a;
}
PACELINE_DEVICE Candidate BestOfWarp(Candidate best) {
  PACELINE_UNROLL
  for (int32_t step = 16; step >= 1; step /= 2)
    best = Better(best, {ShuffleXor(best.value, step), ShuffleXor(best.id, step)});
  return best;
}

// Softmax and top-k of one row per warp. Shared memory: the probabilities of the warp's row.
struct Route {
  struct Args {
    const float* logits;  // [rows, experts]
    int64_t rows;
    int32_t experts, top_k;
    int32_t renormalise;
    int32_t* ids;    // [rows, top_k]
    float* weights;  // [rows, top_k]
  };
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args& a) { return {a.rows, 1, a.experts * 4}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int32_t lane = ThreadIndex();
    const float* logits = a.logits + BlockX() * a.experts;
    float* p = SharedMemory<float>();  // [experts]; a chosen one becomes -2, below every other key
    float largest = -Infinity();
    for (int32_t e = lane; e < a.experts; e += kWarp) largest = Larger(largest, logits[e]);
    PACELINE_UNROLL
    for (int32_t step = 16; step >= 1; step /= 2) largest = Larger(largest, ShuffleXor(largest, step));
    float sum = 0;
    for (int32_t e = lane % kHalf; e < a.experts; e += kHalf) {
      const float value = Exp(logits[e] - largest);
      sum = sum + value;
      if (lane < kHalf) p[e] = value;
    }
    sum = SumOfLanes(sum);
    WarpBarrier();
    for (int32_t e = lane; e < a.experts; e += kWarp) p[e] = p[e] / sum;
    WarpBarrier();
    int32_t* ids = a.ids + BlockX() * a.top_k;
    float* weights = a.weights + BlockX() * a.top_k;
    float total = 0;
    for (int32_t j = 0; j < a.top_k; ++j) {
      Candidate best{0, -1};
      for (int32_t e = lane; e < a.experts; e += kWarp) {
        if (p[e] == -2.0f) continue;
        best = Better(best, {IsNotANumber(p[e]) ? -1.0f : p[e], e});
      }
      best = BestOfWarp(best);
      const float chosen = p[best.id];
      total = total + chosen;
      WarpBarrier();  // all have read it
      if (lane == 0) {
        p[best.id] = -2.0f;
        ids[j] = best.id;
        weights[j] = chosen;
      }
      WarpBarrier();
    }
    for (int32_t j = lane; a.renormalise != 0 && j < a.top_k; j += kWarp) weights[j] = weights[j] / total;
  }
};

// Maximum and sum of exponentials of each block of the vocabulary: half a warp per block.
struct LogSumExpBlocks {
  struct Args {
    const float* logits;  // [count]
    int64_t count;
    float *m, *s;  // [blocks]
  };
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args& a) { return {Parts(a.count, 2 * kVocabBlock)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t block = 2 * BlockX() + ThreadIndex() / kHalf;
    const int64_t first = block * kVocabBlock, end = Least(a.count, first + kVocabBlock);
    const int32_t lane = ThreadIndex() % kHalf;
    float m = -Infinity();
    for (int64_t i = first + lane; i < end; i += kHalf) m = Larger(m, a.logits[i]);
    m = LargestOfLanes(m);
    float s = 0;
    for (int64_t i = first + lane; i < end; i += kHalf) s = s + Exp(a.logits[i] - m);
    s = SumOfLanes(s);
    if (lane != 0 || first >= a.count) return;
    a.m[block] = m;
    a.s[block] = s;
  }
};
struct LogSumExpMerge {
  struct Args {
    const float *m, *s;  // [blocks]
    int64_t blocks;
    float* result;
  };
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args&) { return {1}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    if (ThreadIndex() != 0) return;
    float m = a.m[0], s = a.s[0];
    for (int64_t i = 1; i < a.blocks; ++i) {
      const float merged = Larger(m, a.m[i]);
      s = std::fma(a.s[i], Exp(a.m[i] - merged), s * Exp(m - merged));
      m = merged;
    }
    *a.result = m + Log(s);
  }
};

// The best of every stretch of the vocabulary, then of the stretches.
struct ArgMaxBlocks {
  static constexpr int64_t kStretch = 4096;
  struct Args {
    const float* logits;  // [count]
    int64_t count;
    Candidate* best;  // [stretches]; id -1: no value above minus infinity, -2: a NaN
  };
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args& a) { return {Parts(a.count, kStretch)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t first = BlockX() * kStretch, end = Least(a.count, first + kStretch);
    Candidate best{0, -1};
    int32_t broken = 0;
    for (int64_t i = first + ThreadIndex(); i < end; i += kWarp) {
      const float x = a.logits[i];
      broken |= IsNotANumber(x) ? 1 : 0;
      if (x > -Infinity()) best = Better(best, {x, static_cast<int32_t>(i)});
    }
    best = BestOfWarp(best);
    PACELINE_UNROLL
    for (int32_t step = 16; step >= 1; step /= 2) broken |= ShuffleXor(broken, step);
    if (ThreadIndex() == 0) a.best[BlockX()] = broken != 0 ? Candidate{0, -2} : best;
  }
};
struct ArgMaxMerge {
  struct Args {
    const Candidate* best;  // [stretches]
    int64_t stretches;
    int64_t* result;
  };
  static constexpr int32_t kThreads = kWarp;
  static Grid Blocks(const Args&) { return {1}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    Candidate best{0, -1};
    int32_t broken = 0;
    for (int64_t i = ThreadIndex(); i < a.stretches; i += kWarp) {
      broken |= a.best[i].id == -2 ? 1 : 0;
      best = Better(best, a.best[i]);
    }
    best = BestOfWarp(best);
    PACELINE_UNROLL
    for (int32_t step = 16; step >= 1; step /= 2) broken |= ShuffleXor(broken, step);
    if (ThreadIndex() == 0) *a.result = broken != 0 ? -1 : best.id;
  }
};

}  // namespace paceline::kernels::cuda
