// Randomness is a function, not a stream (docs/NUMERICS.md, Randomness): the same key gives the same number
// on any node, in any batch, before or after a replay.
#pragma once

#include <array>
#include <cstdint>

namespace paceline {

// What a draw is for. Draft and target draws share kSample, so that a draft sees the target's noise.
enum class RandomPurpose : uint32_t { kSample = 1, kSeed = 2, kSynth = 3, kSimulatedLink = 4 };

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 uniform bits of (seed, choice, purpose, position, token).
uint64_t RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position, uint32_t token);

}  // namespace paceline
