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

}  // namespace paceline
