// Where a step's time and bytes go, by stage. Filled when a meter is given, free when not. Bytes are those a
// step must read: weights once per pass, recurrent state, keys and values; activations are not counted.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace paceline {

enum class Stage {
  kAttention,
  kDeltaNet,
  kRouter,
  kExperts,
  kSharedExpert,
  kExchange,
  kDense,
  kHead,
  kSample,
  kDraft,
  kOther,
  kCount
};
constexpr const char* StageName(Stage stage) {
  constexpr const char* kNames[] = {"attention",     "delta_net", "router", "experts",
                                    "shared_expert", "exchange",  "dense",  "head",
                                    "sample",        "draft",     "other"};
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

 private:
  StageMeter* const meter_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace paceline
