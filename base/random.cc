// Philox4x32-10 and the layout of its counter.
#include "base/random.h"

namespace paceline {

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

uint64_t RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position,
                    uint32_t token) {
  // Positions stay below 2^48; purpose and choice share the rest of the counter, so no two keys meet.
  const std::array<uint32_t, 4> out =
      Philox({token, static_cast<uint32_t>(position),
              static_cast<uint32_t>(position >> 32) | static_cast<uint32_t>(purpose) << 16, choice},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return uint64_t{out[1]} << 32 | out[0];
}

void RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position,
                std::span<const uint32_t, kRandomLanes> tokens, std::span<uint64_t, kRandomLanes> bits) {
  // Lanes inside rounds, and few enough lanes for registers: the compiler makes vectors of them.
  constexpr size_t kLanes = 16;
  static_assert(kRandomLanes % kLanes == 0);
  for (size_t first = 0; first < kRandomLanes; first += kLanes) {
    uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
    for (size_t i = 0; i < kLanes; ++i) {
      c0[i] = tokens[first + i];
      c1[i] = static_cast<uint32_t>(position);
      c2[i] = static_cast<uint32_t>(position >> 32) | static_cast<uint32_t>(purpose) << 16;
      c3[i] = choice;
    }
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (size_t i = 0; i < kLanes; ++i) {
        const uint64_t a = uint64_t{0xD2511F53} * c0[i];
        const uint64_t b = uint64_t{0xCD9E8D57} * c2[i];
        c0[i] = static_cast<uint32_t>(b >> 32) ^ c1[i] ^ key0;
        c1[i] = static_cast<uint32_t>(b);
        c2[i] = static_cast<uint32_t>(a >> 32) ^ c3[i] ^ key1;
        c3[i] = static_cast<uint32_t>(a);
      }
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    for (size_t i = 0; i < kLanes; ++i) bits[first + i] = uint64_t{c1[i]} << 32 | c0[i];
  }
}

}  // namespace paceline
