// Reads that the compiler cannot drop, over pages that every thread has touched.
#include "kernels/cpu/bandwidth.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>

namespace paceline::kernels::cpu {
namespace {

constexpr int64_t kPart = int64_t{4} << 20;  // bytes, two huge pages
constexpr int64_t kAhead = 4096;             // bytes between a prefetch and its read
constexpr int kPasses = 5;

template <bool prefetch>
uint64_t ReadPart(const uint8_t* p) {
  __m256i sum[4] = {};
  for (int64_t i = 0; i < kPart; i += 128) {
    if (prefetch) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + kAhead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(p + i + kAhead + 64), _MM_HINT_T0);
    }
    for (int j = 0; j < 4; ++j) {
      const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j));
      sum[j] = _mm256_xor_si256(sum[j], v);
    }
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0) ^ _mm256_extract_epi64(all, 3));
}

template <bool prefetch>
double Median(ThreadPool& pool, const uint8_t* memory, int64_t parts) {
  std::array<double, kPasses> seconds;
  std::atomic<uint64_t> sink{0};
  for (double& s : seconds) {
    const auto start = std::chrono::steady_clock::now();
    pool.Run(parts, [&](int64_t part) {
      sink.fetch_xor(ReadPart<prefetch>(memory + part * kPart), std::memory_order_relaxed);
    });
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kPasses / 2];
}

}  // namespace

double MeasureReadBandwidth(ThreadPool& pool, int64_t bytes) {
  const int64_t parts = std::max<int64_t>(1, bytes / kPart);
  const int64_t mapped = parts * kPart;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, mapped, MADV_HUGEPAGE);
  uint8_t* data = static_cast<uint8_t*>(memory);
  pool.Run(parts,
           [&](int64_t part) { std::memset(data + part * kPart, static_cast<int>(part % 251), kPart); });
  const double plain = Median<false>(pool, data, parts);
  const double prefetched = Median<true>(pool, data, parts);
  munmap(memory, mapped);
  return static_cast<double>(mapped) / std::min(plain, prefetched) / 1e9;
}

}  // namespace paceline::kernels::cpu
