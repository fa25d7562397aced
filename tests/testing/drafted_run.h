// Several requests run on a trunk to their ends, with any drafter at any depth: what speculation tests
// compare against plain runs. Prompts go in chunks, so steps mix prefill, plain and verify rows.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/drafter.h"
#include "worker/trunk.h"

namespace paceline::testing {

struct RunRequest {
  std::vector<TokenId> prompt;
  int32_t count = 0;  // tokens to generate
  Sampling sampling;
};

struct RunPolicy {
  DraftSource source = DraftSource::kNone;
  // Depth wanted in a step by a request; clipped to what is left of it.
  std::function<int32_t(uint64_t step, size_t request)> depth = [](uint64_t, size_t) { return 0; };
  int32_t chunk = 64;    // prompt rows of a request in a step
  uint64_t stagger = 0;  // steps between the starts of two requests
};

struct RunOutcome {
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;  // [tokens]
  std::string logits_hash;
  int64_t steps = 0;  // that drew a token
  int64_t drafted = 0;
  int64_t accepted = 0;
  std::vector<int64_t> accepted_per_position = std::vector<int64_t>(kMaxDraft);
  std::vector<int64_t> drafted_per_position = std::vector<int64_t>(kMaxDraft);
};

// Slots and pages from 0 on. A request's status that is not ok ends the run.
absl::StatusOr<std::vector<RunOutcome>> RunRequests(LocalTrunk& trunk, std::span<const RunRequest> requests,
                                                    const RunPolicy& policy);

// A drafter that says what it is told to. Stands behind kSuffix.
class ScriptedDrafter final : public Drafter {
 public:
  using Script = std::function<std::vector<TokenId>(const DraftRequest&)>;
  explicit ScriptedDrafter(Script script) : script_(std::move(script)) {}

  // Every n-th call of Draft fails.
  void FailEvery(int64_t n) { fail_every_ = n; }

  DraftSource source() const override { return DraftSource::kSuffix; }
  HiddenTap tap() const override { return HiddenTap::kNone; }
  void Commit(const DraftContext& context, const CommittedRows& rows) override;
  absl::Status Draft(const DraftContext& context, std::span<const DraftRequest> requests,
                     std::span<DraftResult> drafts) override;
  DraftOffer Offer(SequenceId, TokenId) const override { return {source(), kMaxDraft, 1}; }
  void Close(SequenceId sequence) override { committed_.erase(sequence); }
  int64_t bytes_per_draft() const override { return 0; }

 private:
  Script script_;
  int64_t fail_every_ = 0;
  int64_t calls_ = 0;
  std::unordered_map<SequenceId, int64_t> committed_;  // positions, to see that commits are gapless
};

}  // namespace paceline::testing
