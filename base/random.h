// Randomness is a function, not a stream (docs/NUMERICS.md, Randomness): the same key gives the same number
// on any node, in any batch, before or after a replay.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace paceline {

// What a draw is for. Draft and target draws share kSample, so that a draft sees the target's noise; under
// rejection sampling every draw must be independent of the others at its position and has its own purpose.
enum class RandomPurpose : uint32_t {
  kSample = 1,
  kSeed = 2,
  kSynth = 3,
  kSimulatedLink = 4,
  kDraft = 5,     // rejection sampling: the draft
  kAccept = 6,    // rejection sampling: whether it stays
  kResidual = 7,  // rejection sampling: what stands in its place
  kAssume = 8,    // forced acceptance of a bench
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 uniform bits of (seed, choice, purpose, position, token).
uint64_t RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position, uint32_t token);

// The same of kRandomLanes tokens at once.
inline constexpr size_t kRandomLanes = 32;
void RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position,
                std::span<const uint32_t, kRandomLanes> tokens, std::span<uint64_t, kRandomLanes> bits);

// The number in (0, 1) that 64 bits stand for: 52 bits and a half, exact in fp64.
constexpr double UniformOf(uint64_t bits) { return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52; }

}  // namespace paceline
