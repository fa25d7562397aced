// Sampling: adjustments, then temperature, top-k, top-p, min-p, then argmax of log p + Gumbel.
#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "kernels/scalar_math.h"
#include "model/gumbel.h"

namespace paceline {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct Scored {
  int32_t index;  // of the row; ascending with the token, so ties fall the same way
  float logit;
};

bool Higher(const Scored& a, const Scored& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.index < b.index;
}

absl::Status NotNumbers() {
  return Error(errors::kNonFinite,
               "the logits of a row are not numbers, so no token can be drawn; the model's weights or this "
               "request's state are damaged");
}

// Logits of the whole vocabulary, or of some of its ids.
template <class Float>
struct Row {
  std::span<Float> logits;
  std::span<const TokenId> ids;  // [logits] ascending; empty: the index is the id

  TokenId Id(size_t index) const { return ids.empty() ? static_cast<TokenId>(index) : ids[index]; }
  // Null when the row has no such id.
  Float* Find(TokenId id) const {
    if (ids.empty()) return id >= 0 && static_cast<size_t>(id) < logits.size() ? &logits[id] : nullptr;
    const auto at = std::lower_bound(ids.begin(), ids.end(), id);
    return at != ids.end() && *at == id ? &logits[at - ids.begin()] : nullptr;
  }
};

float Penalised(float logit, const Sampling& sampling, const SamplerState::Count& count) {
  logit = logit > 0 ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
  if (count.generated == 0) return logit;
  logit = logit - sampling.presence_penalty;
  return logit - sampling.frequency_penalty * static_cast<float>(count.generated);
}

// `ahead`: drafts behind the text, which count as generated.
void Adjust(const Row<float>& row, const Sampling& sampling, const SamplerState& state,
            std::span<const TokenId> ahead) {
  if (sampling.adjustments != nullptr) {
    const std::vector<TokenId>& allowed = sampling.adjustments->allowed;
    if (!allowed.empty()) {
      auto next = allowed.begin();
      for (size_t i = 0; i < row.logits.size(); ++i) {
        const TokenId id = row.Id(i);
        while (next != allowed.end() && *next < id) ++next;
        if (next != allowed.end() && *next == id) continue;
        // A NaN must still be seen by the sampler.
        if (!std::isnan(row.logits[i])) row.logits[i] = kMinusInfinity;
      }
    }
    for (const auto& [id, bias] : sampling.adjustments->bias) {
      if (float* logit = row.Find(id)) *logit = *logit + bias;
    }
  }
  if (!sampling.penalises()) return;
  const auto is_ahead = [&](TokenId id) { return std::find(ahead.begin(), ahead.end(), id) != ahead.end(); };
  for (const auto& [id, count] : state.counts()) {
    if (is_ahead(id)) continue;
    if (float* logit = row.Find(id)) *logit = Penalised(*logit, sampling, count);
  }
  for (size_t i = 0; i < ahead.size(); ++i) {
    const TokenId id = ahead[i];
    const std::span<const TokenId> before = ahead.first(i);
    float* const logit = row.Find(id);
    if (logit == nullptr || std::find(before.begin(), before.end(), id) != before.end()) continue;
    const auto text = state.counts().find(id);
    SamplerState::Count count = text == state.counts().end() ? SamplerState::Count{} : text->second;
    count.generated += static_cast<int32_t>(std::count(ahead.begin(), ahead.end(), id));
    *logit = Penalised(*logit, sampling, count);
  }
}

// Every logit but a NaN becomes minus infinity: that must still be seen by the sampler.
void RuleOut(std::span<float> logits) {
  for (float& logit : logits) logit = std::isnan(logit) ? logit : kMinusInfinity;
}

// The `count` highest logits, in no order; `out` is emptied first. Ids at minus infinity are none.
void Highest(std::span<const float> logits, size_t count, std::vector<Scored>& out) {
  out.clear();
  // A heap of few rejects nearly everyone by one comparison; of many it is slower than one selection.
  const bool few = count < logits.size() / 16;
  for (size_t i = 0; i < logits.size(); ++i) {
    const Scored s{static_cast<int32_t>(i), logits[i]};
    if (!few || out.size() < count) {
      if (s.logit == kMinusInfinity) continue;
      out.push_back(s);
      if (few) std::push_heap(out.begin(), out.end(), Higher);
    } else if (s.logit > out.front().logit) {  // on a tie the lower id, which is inside, stays
      std::pop_heap(out.begin(), out.end(), Higher);
      out.back() = s;
      std::push_heap(out.begin(), out.end(), Higher);
    }
  }
  if (out.size() > count) {
    std::nth_element(out.begin(), out.begin() + (count - 1), out.end(), Higher);
    out.resize(count);
  }
}

// Candidates that top-k, top-p and min-p leave, and their weights relative to the likeliest.
class Candidates {
 public:
  Candidates(const Row<const float>& row, int64_t best, const Sampling& sampling)
      : temperature_(static_cast<double>(sampling.temperature)),
        top_(static_cast<double>(row.logits[best]) / temperature_),
        kept_(Scratch()) {
    Highest(row.logits, sampling.top_k > 0 ? sampling.top_k : row.logits.size(), kept_);
    if (sampling.top_p < 1.0f) KeepTopP(static_cast<double>(sampling.top_p));
    if (sampling.min_p > 0.0f) {
      std::erase_if(kept_, [&](const Scored& s) { return Weight(s) < static_cast<double>(sampling.min_p); });
    }
    if (kept_.empty()) kept_.push_back({static_cast<int32_t>(best), row.logits[best]});
  }

  double Weight(const Scored& s) const {
    return kernels::Exp64(static_cast<double>(s.logit) / temperature_ - top_);
  }
  std::vector<Scored>& kept() { return kept_; }

 private:
  // One set of candidates lives at a time; a row must not pay for two megabytes of fresh pages.
  static std::vector<Scored>& Scratch() {
    static thread_local std::vector<Scored> scratch;
    return scratch;
  }

  void KeepTopP(double top_p) {
    const size_t count = kept_.size();
    double rough = 0;  // the total but for the order of its terms
    for (const Scored& s : kept_) rough += Weight(s);
    // Both sums are within count * 2^-53 of the true one: 2^27 terms fit this margin.
    const double margin = rough * 0x1p-25;
    size_t sorted = 0, keep = 0;
    double sum = 0;
    while (keep < count) {
      if (keep == sorted) {
        // Nearly always the bound is crossed early, so sort no more than what is asked for.
        const size_t until = std::min(count, sorted == 0 ? 128 : sorted * 32);
        if (until < count)
          std::nth_element(kept_.begin() + sorted, kept_.begin() + until - 1, kept_.end(), Higher);
        std::sort(kept_.begin() + sorted, kept_.begin() + until, Higher);
        sorted = until;
      }
      sum += Weight(kept_[keep++]);
      if (std::abs(sum - top_p * rough) <= margin) return KeepTopPExactly(top_p);
      // The token that crosses the bound stays; the most likely one always does.
      if (sum >= top_p * rough) break;
    }
    kept_.resize(keep);
  }

  // The definition: the total is added up in the order of the candidates.
  void KeepTopPExactly(double top_p) {
    std::sort(kept_.begin(), kept_.end(), Higher);
    double total = 0;
    for (const Scored& s : kept_) total += Weight(s);
    double sum = 0;
    size_t keep = 0;
    while (keep < kept_.size()) {
      sum += Weight(kept_[keep++]);
      if (sum >= top_p * total) break;
    }
    kept_.resize(keep);
  }

  const double temperature_;
  const double top_;
  std::vector<Scored>& kept_;
};

// Index of the row.
int64_t Draw(ThreadPool* pool, const Row<const float>& row, int64_t best, const Sampling& sampling,
             int64_t position) {
  if (sampling.temperature == 0.0f || sampling.top_k == 1) return best;
  if (sampling.top_k <= 0 && sampling.top_p >= 1.0f)
    return GumbelArgMax(pool, row.logits, row.ids, best, sampling, position);
  Candidates candidates(row, best, sampling);
  int64_t drawn = best;
  double highest = -std::numeric_limits<double>::infinity();
  for (const Scored& s : candidates.kept()) {
    const double score = static_cast<double>(s.logit) / static_cast<double>(sampling.temperature) +
                         GumbelNoise(sampling.seed, sampling.choice, position, row.Id(s.index));
    if (score > highest || (score == highest && s.index < drawn)) {
      highest = score;
      drawn = s.index;
    }
  }
  return drawn;
}

// The `most` likeliest candidates, renormalised.
SparseDistribution Distribution(const Row<const float>& row, int64_t best, const Sampling& sampling,
                                size_t most) {
  if (sampling.temperature == 0.0f) return {{{row.Id(best), 1.0}}};
  Candidates candidates(row, best, sampling);
  std::vector<Scored>& kept = candidates.kept();
  if (kept.size() > most) {
    std::nth_element(kept.begin(), kept.begin() + (most - 1), kept.end(), Higher);
    kept.resize(most);
  }
  std::sort(kept.begin(), kept.end(), [](const Scored& a, const Scored& b) { return a.index < b.index; });
  SparseDistribution out;
  out.entries.reserve(kept.size());
  double total = 0;
  for (const Scored& s : kept) {
    const double weight = candidates.Weight(s);
    total += weight;
    out.entries.push_back({row.Id(s.index), weight});
  }
  for (SparseDistribution::Entry& e : out.entries) e.probability = e.probability / total;
  return out;
}

// arg_max of a drafter's row, which has no kernel table at hand: -1 as there.
int64_t Best(std::span<const float> logits) {
  int64_t best = -1;
  float largest = kMinusInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) return -1;
    if (logits[i] > largest) {
      largest = logits[i];
      best = static_cast<int64_t>(i);
    }
  }
  return best;
}

}  // namespace

void MaskLogits(std::span<float> logits, std::span<const TokenId> ids, std::span<const uint64_t> allowed) {
  if (allowed.empty()) return;
  const auto has = [allowed](size_t id) { return allowed[id / 64] >> (id % 64) & 1; };
  if (!ids.empty()) {
    for (size_t i = 0; i < logits.size(); ++i) {
      if (!has(static_cast<size_t>(ids[i]))) RuleOut(logits.subspan(i, 1));
    }
    return;
  }
  // Mostly a whole word of 64 ids is allowed or is not.
  for (size_t first = 0; first < logits.size(); first += 64) {
    const uint64_t word = allowed[first / 64];
    const std::span<float> some = logits.subspan(first, std::min<size_t>(64, logits.size() - first));
    if (word == 0) {
      RuleOut(some);
    } else if (word != ~uint64_t{0}) {
      for (size_t i = 0; i < some.size(); ++i) {
        if ((word >> i & 1) == 0) RuleOut(some.subspan(i, 1));
      }
    }
  }
}

void AdjustLogits(std::span<float> logits, const Sampling& sampling, const SamplerState& state) {
  Adjust({logits, {}}, sampling, state, {});
}

absl::StatusOr<TokenId> SampleToken(const kernels::KernelTable& table, ThreadPool& pool,
                                    std::span<const float> logits, const Sampling& sampling,
                                    int64_t position) {
  const int64_t best = table.arg_max(pool, logits.data(), static_cast<int64_t>(logits.size()));
  if (best < 0 || !std::isfinite(logits[best])) return NotNumbers();
  return static_cast<TokenId>(Draw(&pool, {logits, {}}, best, sampling, position));
}

absl::StatusOr<SparseDistribution> TargetDistribution(const kernels::KernelTable& table, ThreadPool& pool,
                                                      std::span<const float> logits,
                                                      const Sampling& sampling) {
  const int64_t best = table.arg_max(pool, logits.data(), static_cast<int64_t>(logits.size()));
  if (best < 0 || !std::isfinite(logits[best])) return NotNumbers();
  return Distribution({logits, {}}, best, sampling, logits.size());
}

absl::StatusOr<TokenId> SampleDraft(std::span<float> logits, std::span<const TokenId> ids,
                                    const Sampling& sampling, const SamplerState& state, int64_t position,
                                    std::span<const TokenId> ahead) {
  CHECK(ids.empty() || ids.size() == logits.size());
  Adjust({logits, ids}, sampling, state, ahead);
  const int64_t best = Best(logits);
  if (best < 0 || !std::isfinite(logits[best])) return NotNumbers();
  const Row<const float> row{logits, ids};
  return row.Id(static_cast<size_t>(Draw(nullptr, row, best, sampling, position)));
}

absl::StatusOr<DraftDraw> SampleDraftDistribution(std::span<float> logits, std::span<const TokenId> ids,
                                                  const Sampling& sampling, const SamplerState& state,
                                                  int64_t position, std::span<const TokenId> ahead) {
  CHECK(ids.empty() || ids.size() == logits.size());
  Adjust({logits, ids}, sampling, state, ahead);
  const int64_t best = Best(logits);
  if (best < 0 || !std::isfinite(logits[best])) return NotNumbers();
  DraftDraw draw;
  draw.distribution = Distribution({logits, ids}, best, sampling, kDraftCandidates);
  draw.token = DrawFrom(draw.distribution, sampling, RandomPurpose::kDraft, position);
  return draw;
}

TokenId DrawFrom(const SparseDistribution& distribution, const Sampling& sampling, RandomPurpose purpose,
                 int64_t position) {
  const double uniform =
      UniformOf(RandomBits(sampling.seed, sampling.choice, purpose, static_cast<uint64_t>(position), 0));
  double total = 0;
  for (const SparseDistribution::Entry& e : distribution.entries) total += e.probability;
  double sum = 0;
  TokenId drawn = -1;
  for (const SparseDistribution::Entry& e : distribution.entries) {
    if (e.probability <= 0) continue;
    drawn = e.token;
    sum += e.probability;
    if (sum > uniform * total) break;
  }
  return drawn;
}

std::vector<Candidate> TopCandidates(std::span<const float> logits, float log_sum_exp, int32_t count) {
  std::vector<Scored> heap;  // the worst of the best in front
  const size_t keep = std::min<size_t>(std::max(count, 0), logits.size());
  if (keep == 0) return {};
  for (size_t i = 0; i < logits.size(); ++i) {
    const Scored s{static_cast<int32_t>(i), logits[i]};
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
  for (const Scored& s : heap) top.push_back({s.index, s.logit - log_sum_exp});
  return top;
}

}  // namespace paceline
