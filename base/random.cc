// Philox4x32-10 and the layout of its counter.
#include "base/random.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

#if defined(__AVX2__)

// Four tokens per vector, a 32-bit word in every 64-bit lane: the product of two words is one instruction,
// and what it leaves in the upper half nobody reads. Compilers find this in plain loops too seldom.
void RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position,
                std::span<const uint32_t, kRandomLanes> tokens, std::span<uint64_t, kRandomLanes> bits) {
  constexpr size_t kWords = 4, kVectors = 2;  // two chains fill the registers and hide half the latency
  static_assert(kRandomLanes % (kWords * kVectors) == 0);
  const auto all = [](uint32_t word) { return _mm256_set1_epi64x(static_cast<int64_t>(uint64_t{word})); };
  const __m256i first_factor = all(0xD2511F53), second_factor = all(0xCD9E8D57), low = all(0xFFFFFFFF);
  for (size_t first = 0; first < kRandomLanes; first += kWords * kVectors) {
    __m256i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
      c0[v] = _mm256_cvtepu32_epi64(
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(&tokens[first + v * kWords])));
      c1[v] = all(static_cast<uint32_t>(position));
      c2[v] = all(static_cast<uint32_t>(position >> 32) | static_cast<uint32_t>(purpose) << 16);
      c3[v] = all(choice);
    }
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const __m256i keys0 = all(key0), keys1 = all(key1);
      for (size_t v = 0; v < kVectors; ++v) {
        const __m256i a = _mm256_mul_epu32(first_factor, c0[v]);
        const __m256i b = _mm256_mul_epu32(second_factor, c2[v]);
        c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(b, 32), c1[v]), keys0);
        c1[v] = b;
        c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(a, 32), c3[v]), keys1);
        c3[v] = a;
      }
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    for (size_t v = 0; v < kVectors; ++v) {
      const __m256i word = _mm256_or_si256(_mm256_slli_epi64(c1[v], 32), _mm256_and_si256(c0[v], low));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(&bits[first + v * kWords]), word);
    }
  }
}

#else

void RandomBits(uint64_t seed, uint32_t choice, RandomPurpose purpose, uint64_t position,
                std::span<const uint32_t, kRandomLanes> tokens, std::span<uint64_t, kRandomLanes> bits) {
  for (size_t i = 0; i < kRandomLanes; ++i) bits[i] = RandomBits(seed, choice, purpose, position, tokens[i]);
}

#endif

}  // namespace paceline
