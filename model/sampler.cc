// Sampling: temperature, top-k, top-p, min-p, then argmax of log p + Gumbel.
#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "kernels/scalar_math.h"

namespace paceline {
namespace {

struct Scored {
  TokenId token;
  float logit;
};

bool Higher(const Scored& a, const Scored& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

}  // namespace

double GumbelNoise(uint64_t seed, uint32_t choice, int64_t position, TokenId token) {
  const uint64_t bits = RandomBits(seed, choice, RandomPurpose::kSample, static_cast<uint64_t>(position),
                                   static_cast<uint32_t>(token));
  // 52 bits and a half: exact in fp64, never 0 and never 1.
  const double uniform = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
  return -kernels::Log64(-kernels::Log64(uniform));
}

absl::StatusOr<TokenId> SampleToken(const kernels::KernelTable& table, ThreadPool& pool,
                                    std::span<const float> logits, const Sampling& sampling,
                                    int64_t position) {
  const int64_t best = table.arg_max(pool, logits.data(), static_cast<int64_t>(logits.size()));
  if (best < 0 || !std::isfinite(logits[best])) {
    return Error(errors::kNonFinite,
                 "the logits of a row are not numbers, so no token can be drawn; the model's weights or this "
                 "request's state are damaged");
  }
  if (sampling.temperature == 0.0f || sampling.top_k == 1) return static_cast<TokenId>(best);

  std::vector<Scored> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > -std::numeric_limits<float>::infinity())
      candidates.push_back({static_cast<TokenId>(i), logits[i]});
  }
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + sampling.top_k - 1, candidates.end(), Higher);
    candidates.resize(sampling.top_k);
  }
  const double temperature = static_cast<double>(sampling.temperature);
  const double top = static_cast<double>(logits[best]) / temperature;
  const auto weight = [&](const Scored& s) {
    return kernels::Exp64(static_cast<double>(s.logit) / temperature - top);
  };
  if (sampling.top_p < 1.0f) {
    std::sort(candidates.begin(), candidates.end(), Higher);
    double total = 0;
    for (const Scored& s : candidates) total += weight(s);
    // The token that crosses the bound stays; the most likely one always does.
    double sum = 0;
    size_t keep = 0;
    while (keep < candidates.size()) {
      sum += weight(candidates[keep++]);
      if (sum >= static_cast<double>(sampling.top_p) * total) break;
    }
    candidates.resize(keep);
  }
  if (sampling.min_p > 0.0f) {
    std::erase_if(candidates,
                  [&](const Scored& s) { return weight(s) < static_cast<double>(sampling.min_p); });
  }
  TokenId drawn = static_cast<TokenId>(best);
  double highest = -std::numeric_limits<double>::infinity();
  for (const Scored& s : candidates) {
    const double score = static_cast<double>(s.logit) / temperature +
                         GumbelNoise(sampling.seed, sampling.choice, position, s.token);
    if (score > highest || (score == highest && s.token < drawn)) {
      highest = score;
      drawn = s.token;
    }
  }
  return drawn;
}

std::vector<Candidate> TopCandidates(std::span<const float> logits, float log_sum_exp, int32_t count) {
  std::vector<Scored> heap;  // the worst of the best in front
  const size_t keep = std::min<size_t>(std::max(count, 0), logits.size());
  if (keep == 0) return {};
  for (size_t i = 0; i < logits.size(); ++i) {
    const Scored s{static_cast<TokenId>(i), logits[i]};
    if (heap.size() < keep) {
      heap.push_back(s);
      std::push_heap(heap.begin(), heap.end(), Higher);
    } else if (Higher(s, heap.front())) {
      std::pop_heap(heap.begin(), heap.end(), Higher);
      heap.back() = s;
      std::push_heap(heap.begin(), heap.end(), Higher);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), Higher);
  std::vector<Candidate> top;
  for (const Scored& s : heap) top.push_back({s.token, s.logit - log_sum_exp});
  return top;
}

}  // namespace paceline
