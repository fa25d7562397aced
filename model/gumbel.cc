// A score costs two logarithms in fp64, and a vocabulary has a quarter of a million ids. Nearly all of them
// are seen to lose without: by their logit alone, or by an upper bound of their noise read off its random
// bits. Who is left is scored by the formula, so the winner is that of the formula for every id.
#include "model/gumbel.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "kernels/scalar_math.h"

namespace paceline {
namespace {

constexpr size_t kLanes = kRandomLanes;
constexpr int64_t kPart = 8192;      // ids per thread and turn
constexpr int64_t kMostParts = 128;  // longer rows get longer parts

// u <= 1 - 2^-53, so no noise is above 53 ln 2 = 36.74.
constexpr float kMostNoise = 36.75f;
// Rounding in the bounds below, and the little by which the noise, itself a rounded number, may exceed the
// exact one; both are far smaller.
constexpr float kSlack = 0.01f;

// At least the noise of `bits`, without a logarithm: -ln(-ln u) <= -ln(1 - u) since -ln u >= 1 - u, and
// 1 - u >= v / 2^31 with v the upper 31 bits of ~bits. The bits of a float, read as an integer, are its log2
// in units of 2^-23, with a chord where the logarithm bends: never above it.
float NoiseBound(uint64_t bits) {
  const int32_t v = static_cast<int32_t>(~static_cast<uint32_t>(bits >> 32) >> 1);
  const int32_t log2 = std::bit_cast<int32_t>(static_cast<float>(v));
  constexpr float kLn2 = 0x1.62e43p-1f;
  return (158.0f - static_cast<float>(log2) * 0x1p-23f) * kLn2;
}

class ArgMax {
 public:
  ArgMax(std::span<const float> logits, std::span<const TokenId> ids, int64_t best, const Sampling& sampling,
         int64_t position)
      : logits_(logits),
        ids_(ids),
        sampling_(sampling),
        position_(position),
        temperature_(static_cast<double>(sampling.temperature)),
        min_p_(static_cast<double>(sampling.min_p)),
        top_(static_cast<double>(logits[best]) / temperature_),
        index_(best) {
    if (min_p_ > 0) lowest_ = top_ + kernels::Log64(min_p_);
    Consider(best, GumbelNoise(sampling.seed, sampling.choice, position, Id(best)));
  }

  void Scan(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) {
      if (end - i >= static_cast<int64_t>(kLanes)) {
        Group(&logits_[i], i, kLanes);
      } else {
        std::array<float, kLanes> tail;
        tail.fill(-std::numeric_limits<float>::infinity());
        std::copy(logits_.begin() + i, logits_.begin() + end, tail.begin());
        Group(tail.data(), i, end - i);
      }
    }
  }

  int64_t index() const { return index_; }

 private:
  TokenId Id(int64_t index) const { return ids_.empty() ? static_cast<TokenId>(index) : ids_[index]; }

  void Take(double score, int64_t index) {
    if (score < score_ || (score == score_ && index > index_)) return;
    score_ = score;
    index_ = index;
    // The bounds hold for sane numbers only; where they do not, nobody is passed over.
    const bool sane = std::abs(score_) < 1e6 && temperature_ > 1e-6 && temperature_ < 1e6;
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    const float high = static_cast<float>(score_);
    high_ = sane ? high - std::abs(high) * 0x1p-20f - kSlack : kMinusInfinity;
    const float low = static_cast<float>(lowest_);
    const bool sane_low = sane && std::abs(lowest_) < 1e6;
    floor_ =
        std::max(high_ - kMostNoise, sane_low ? low - std::abs(low) * 0x1p-20f - kSlack : kMinusInfinity) *
        sampling_.temperature;
  }

  void Consider(int64_t index, double noise) {
    const double scaled = static_cast<double>(logits_[index]) / temperature_;
    if (min_p_ > 0 && kernels::Exp64(scaled - top_) < min_p_) return;
    Take(scaled + noise, index);
  }

  // `logits` [kLanes], of which `count` are there, from index `first` on.
  void Group(const float* logits, int64_t first, int64_t count) {
    bool near = false;
    for (size_t i = 0; i < kLanes; ++i) near |= logits[i] >= floor_;
    if (!near) return;
    std::array<uint32_t, kLanes> tokens;
    for (size_t i = 0; i < kLanes; ++i) tokens[i] = static_cast<uint32_t>(first + static_cast<int64_t>(i));
    if (!ids_.empty()) std::copy_n(ids_.begin() + first, count, tokens.begin());
    std::array<uint64_t, kLanes> bits;
    RandomBits(sampling_.seed, sampling_.choice, RandomPurpose::kSample, static_cast<uint64_t>(position_),
               tokens, bits);
    const float temperature = sampling_.temperature;
    const float high = high_;
    std::array<uint32_t, kLanes> may_win;
    uint32_t any = 0;
    for (size_t i = 0; i < kLanes; ++i) {
      may_win[i] = logits[i] >= (high - NoiseBound(bits[i])) * temperature;
      any |= may_win[i];
    }
    if (any == 0) return;
    for (int64_t i = 0; i < count; ++i) {
      if (may_win[i] && logits[i] > -std::numeric_limits<float>::infinity())
        Consider(first + i, -kernels::Log64(-kernels::Log64(UniformOf(bits[i]))));
    }
  }

  const std::span<const float> logits_;
  const std::span<const TokenId> ids_;
  const Sampling& sampling_;
  const int64_t position_;
  const double temperature_;
  const double min_p_;
  const double top_;                                          // of logit / temperature
  double lowest_ = -std::numeric_limits<double>::infinity();  // logit / temperature below it fails min-p
  double score_ = -std::numeric_limits<double>::infinity();   // the highest so far
  int64_t index_;                                             // whose it is
  float high_ = -std::numeric_limits<float>::infinity();      // a little below score_
  float floor_ = -std::numeric_limits<float>::infinity();     // logits below it lose with any noise
};

}  // namespace

double GumbelNoise(uint64_t seed, uint32_t choice, int64_t position, TokenId token) {
  const uint64_t bits = RandomBits(seed, choice, RandomPurpose::kSample, static_cast<uint64_t>(position),
                                   static_cast<uint32_t>(token));
  return -kernels::Log64(-kernels::Log64(UniformOf(bits)));
}

int64_t GumbelArgMax(ThreadPool* pool, std::span<const float> logits, std::span<const TokenId> ids,
                     int64_t best, const Sampling& sampling, int64_t position) {
  ArgMax whole(logits, ids, best, sampling, position);
  const int64_t count = static_cast<int64_t>(logits.size());
  const int64_t parts = std::clamp<int64_t>(count / kPart, 1, kMostParts);
  if (pool == nullptr || parts == 1) {
    whole.Scan(0, count);
    return whole.index();
  }
  // An order of scores has one winner, however the row is cut.
  std::array<int64_t, kMostParts> winners;
  pool->Run(parts, [&](int64_t part) {
    ArgMax share = whole;
    share.Scan(count * part / parts, count * (part + 1) / parts);
    winners[part] = share.index();
  });
  for (int64_t part = 0; part < parts; ++part) whole.Scan(winners[part], winners[part] + 1);
  return whole.index();
}

}  // namespace paceline
