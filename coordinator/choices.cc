// Joining ends.
#include "coordinator/choices.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include "base/status.h"
#include "coordinator/sampling_defaults.h"

namespace paceline {
namespace {

void AddTo(std::vector<int64_t>* sum, const std::vector<int64_t>& counts) {
  sum->resize(std::max(sum->size(), counts.size()));
  for (size_t i = 0; i < counts.size(); ++i) (*sum)[i] += counts[i];
}

void AddTo(SpeculationStats* sum, const SpeculationStats& one) {
  if (one.drafted > sum->drafted) sum->method = one.method;
  sum->decode_steps += one.decode_steps;
  sum->steps += one.steps;
  sum->drafted += one.drafted;
  sum->accepted += one.accepted;
  AddTo(&sum->acceptance_histogram, one.acceptance_histogram);
  AddTo(&sum->drafted_per_position, one.drafted_per_position);
  AddTo(&sum->accepted_per_position, one.accepted_per_position);
  for (const SpeculationStats::Source& source : one.sources) {
    const auto same = std::find_if(sum->sources.begin(), sum->sources.end(),
                                   [&](const auto& s) { return s.name == source.name; });
    if (same == sum->sources.end()) {
      sum->sources.push_back(source);
      continue;
    }
    same->steps += source.steps;
    same->drafted += source.drafted;
    same->accepted += source.accepted;
  }
}

bool EndedWell(const GenerationEnd& end) { return end.status.ok() && end.reason != FinishReason::kCancelled; }

// What the answers have in common. The engine's thread ends them, the caller's seals their number.
struct Join {
  std::shared_ptr<ChoicesSink> sink;
  std::shared_ptr<GenerationTicket> ticket = std::make_shared<GenerationTicket>();
  bool started = false;  // the engine thread's
  std::mutex mutex;      // guards what follows
  int32_t open = 0;
  bool sealed = false;
  std::optional<GenerationEnd> sum, failure;

  void Add(const GenerationEnd& end) {
    if (!EndedWell(end)) {
      if (!failure) failure = end;
    } else if (!sum) {
      sum = end;
    } else {
      sum->usage.completion_tokens += end.usage.completion_tokens;
      AddTo(&sum->speculation, end.speculation);
      sum->timings.decode_s = std::max(sum->timings.decode_s, end.timings.decode_s);
      for (size_t phase = 0; phase < kStepPhases; ++phase) {
        double& longest = sum->timings.phase_s[phase];  // their steps are mostly the same ones
        longest = std::max(longest, end.timings.phase_s[phase]);
      }
    }
  }
  // Once every answer has ended and no more are to come.
  void EndIfDone(std::unique_lock<std::mutex> lock) {
    if (!sealed || open > 0) return;
    const GenerationEnd& end = failure ? *failure : *sum;
    lock.unlock();  // nobody writes behind the last end
    sink->OnEnd(end);
  }
};

class OneChoice final : public GenerationSink {
 public:
  OneChoice(std::shared_ptr<Join> join, uint32_t index) : join_(std::move(join)), index_(index) {}

  void OnStarted(const GenerationStarted& started) override {
    if (!std::exchange(join_->started, true)) join_->sink->OnStarted(started);
  }
  void OnPrompt(std::vector<PromptToken> tokens) override { join_->sink->OnPrompt(std::move(tokens)); }
  void OnTokens(std::vector<GeneratedToken> tokens) override {
    join_->sink->OnTokens(index_, std::move(tokens));
  }
  void OnFinished(const GenerationEnd& end) override {
    if (EndedWell(end)) {
      join_->sink->OnChoice(index_, end);
    } else {
      join_->ticket->Cancel();
    }
    std::unique_lock lock(join_->mutex);
    join_->Add(end);
    --join_->open;
    join_->EndIfDone(std::move(lock));
  }

 private:
  const std::shared_ptr<Join> join_;
  const uint32_t index_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<GenerationTicket>> SubmitChoices(Engine& engine, GenerateRequest request,
                                                                int32_t count,
                                                                std::shared_ptr<ChoicesSink> sink) {
  const auto join = std::make_shared<Join>();
  join->sink = std::move(sink);
  // One seed for all, which each of them reports.
  if (count > 1 && !request.sampling.seed) request.sampling.seed = RandomSeed();
  absl::Status refused;
  for (int32_t index = 0; index < count && refused.ok(); ++index) {
    request.sampling.choice = static_cast<uint32_t>(index);
    if (index > 0) request.prompt_top.reset();  // they have one prompt
    {
      const std::lock_guard lock(join->mutex);
      ++join->open;
    }
    refused = engine.Submit(request, std::make_shared<OneChoice>(join, request.sampling.choice), join->ticket)
                  .status();
    if (refused.ok()) continue;
    if (index == 0) return refused;
    join->ticket->Cancel();
  }
  std::unique_lock lock(join->mutex);
  if (!refused.ok()) {
    --join->open;
    join->failure.emplace();
    join->failure->status = refused;
  }
  join->sealed = true;
  join->EndIfDone(std::move(lock));
  return join->ticket;
}

}  // namespace paceline
