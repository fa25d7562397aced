// Random words for measurements, made where they are needed.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

// word = (hash & keep) | set: `keep` and `set` make codes, or floats of a bounded size, of it.
struct FillRandom {
  struct Args {
    uint32_t* words;  // [count]
    int64_t count;
    uint32_t seed, keep, set, unused;
  };
  static constexpr int32_t kThreads = 256;
  static constexpr int64_t kWords = 64;  // of a thread
  static Grid Blocks(const Args& a) { return {Parts(a.count, kThreads * kWords)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    for (int64_t i = 0; i < kWords; ++i) {
      const int64_t at = (BlockX() * kWords + i) * kThreads + ThreadIndex();
      if (at >= a.count) return;
      // The finaliser of MurmurHash3 (Appleby), over place and seed.
      uint32_t x = static_cast<uint32_t>(at) * 0x9E3779B9u ^ static_cast<uint32_t>(at >> 32) ^ a.seed;
      x = (x ^ x >> 16) * 0x85EBCA6Bu;
      x = (x ^ x >> 13) * 0xC2B2AE35u;
      a.words[at] = ((x ^ x >> 16) & a.keep) | a.set;
    }
  }
};

}  // namespace paceline::kernels::cuda
