// Where a step's time and bytes go, by stage. Filled when a meter is given, free when not. Bytes are those a
// step must read: weights once per pass, recurrent state, keys and values; activations are not counted.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace paceline {

// Fine enough that a stage is one kind of work: what reads weights stands apart from what reads state, and
// either from what reads nothing.
enum class Stage {
  kNorms,  // embedding rows, norms and residual sums, the sum over experts among them
  kAttentionProjections,
  kAttention,  // head norms, rotation, storing keys and values, scores and sums, the output gate
  kDeltaNetProjections,
  kDeltaNet,  // convolution, state and blocks, the gated norm
  kRouter,    // codes of the rows, logits, top-k, routes by rank
  kExperts,
  kSharedExpert,
  kExchangeSend,
  kExchangeWait,
  kDense,
  kHead,
  kSampling,
  kDraft,
  kOther,  // what a step begins and ends with: its plan, angles, commit
  kCount
};
constexpr const char* StageName(Stage stage) {
  constexpr const char* kNames[] = {"norms",         "attention_projections",
                                    "attention",     "delta_net_projections",
                                    "delta_net",     "router",
                                    "experts",       "shared_expert",
                                    "exchange_send", "exchange_wait",
                                    "dense",         "head",
                                    "sampling",      "draft",
                                    "other"};
  static_assert(std::size(kNames) == static_cast<size_t>(Stage::kCount));
  return kNames[static_cast<int>(stage)];
}

// Owned by the step thread.
class StageMeter {
 public:
  struct Entry {
    double seconds = 0;
    int64_t bytes = 0;
  };
  void Add(Stage stage, double seconds, int64_t bytes) {
    Entry& e = entries_[static_cast<size_t>(stage)];
    e.seconds += seconds;
    e.bytes += bytes;
  }
  const Entry& at(Stage stage) const { return entries_[static_cast<size_t>(stage)]; }
  void Reset() { entries_ = {}; }

 private:
  std::array<Entry, static_cast<size_t>(Stage::kCount)> entries_;
};

// Times the stages of a stretch one after another: each Lap() books the time since the one before.
class StageLap {
 public:
  explicit StageLap(StageMeter* meter) : meter_(meter) {
    if (meter_ != nullptr) last_ = std::chrono::steady_clock::now();
  }
  void Lap(Stage stage, int64_t bytes) {
    if (meter_ == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    meter_->Add(stage, std::chrono::duration<double>(now - last_).count(), bytes);
    last_ = now;
  }
  // What ran since the last lap has booked itself.
  void Skip() {
    if (meter_ != nullptr) last_ = std::chrono::steady_clock::now();
  }

 private:
  StageMeter* const meter_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace paceline
