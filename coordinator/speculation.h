// Speculation as requests, operators and statistics name it. Who guesses how far is decided by
// speculation_controller.h; what a draft is stands in base/step.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/step.h"

namespace paceline {

enum class DraftMode : uint8_t {
  kAuto,   // the controller chooses source and depth, step by step
  kOff,    // plain decoding
  kFixed,  // always the same depth, as far as a drafter offers it
};

// Which drafters may be chosen, where loaded.
enum class DrafterPreference : uint8_t { kAuto, kMtp, kSuffix };

constexpr bool MayDraft(DrafterPreference preference, DraftSource source) {
  switch (preference) {
    case DrafterPreference::kMtp:
      return source == DraftSource::kMtp;
    case DrafterPreference::kSuffix:
      return source == DraftSource::kSuffix;
    case DrafterPreference::kAuto:
      return source != DraftSource::kNone;
  }
  return false;
}

// The server's own choice: `--draft auto|off|K` and `--drafter auto|mtp|suffix`.
struct SpeculationPolicy {
  DraftMode mode = DraftMode::kAuto;  // of requests that do not say
  int32_t depth = kMaxDraft;          // kFixed: drafts per step, else at most; 1..kMaxDraft
  DrafterPreference drafter = DrafterPreference::kAuto;
  bool calibrate = true;  // measure the cost of steps before the first request of kAuto, if anything drafts
};

// What a request may say; absent: the policy.
struct SpeculationOptions {
  std::optional<DraftMode> mode = {};
  std::optional<int64_t> max_draft_tokens = {};  // kFixed: the depth; else a cap
  AcceptanceRule acceptance = AcceptanceRule::kCoupled;
};

// A request's share after defaults.
struct DraftChoice {
  DraftMode mode = DraftMode::kOff;
  int32_t depth = 0;  // kFixed: the depth; kAuto: at most
};

// Counts of verify steps: steps of a sequence in which at least one draft was verified.
struct SourceStats {
  int64_t steps = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;                                   // and emitted: drafts behind a stop are not counted
  std::array<int64_t, kMaxDraft + 1> histogram{};         // [drafts accepted in a step]
  std::array<int64_t, kMaxDraft> drafted_per_position{};  // [position in the draft]
  std::array<int64_t, kMaxDraft> accepted_per_position{};  // the same

  // A verify step of `verified` drafts of which the first `taken` were accepted.
  void Count(int32_t verified, int32_t taken) {
    ++steps;
    drafted += verified;
    accepted += taken;
    ++histogram[static_cast<size_t>(taken)];
    for (int32_t i = 0; i < verified; ++i) ++drafted_per_position[static_cast<size_t>(i)];
    for (int32_t i = 0; i < taken; ++i) ++accepted_per_position[static_cast<size_t>(i)];
  }
};

// Index into arrays by source; kNone has the first place.
inline constexpr size_t kDraftSources = 3;
constexpr size_t IndexOf(DraftSource source) { return static_cast<size_t>(source); }

}  // namespace paceline
