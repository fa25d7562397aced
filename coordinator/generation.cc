// Pulling a generation.
#include "coordinator/generation.h"

#include <chrono>

#include "base/status.h"

namespace paceline {
namespace {

// A step takes as long as it takes; the wait only has to wake now and then. The trunk's own deadlines end a
// dead step.
constexpr Duration kLook = std::chrono::seconds(1);

}  // namespace

std::vector<TokenId> GenerationResult::token_ids() const {
  std::vector<TokenId> ids;
  for (const GeneratedToken& token : tokens) ids.push_back(token.id);
  return ids;
}

void GenerationQueue::Put(Event event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  changed_.notify_one();
}

std::optional<GenerationQueue::Event> GenerationQueue::Next(TimePoint deadline) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline, [this] { return !events_.empty(); });
  if (events_.empty()) return std::nullopt;
  std::optional<Event> event(std::move(events_.front()));
  events_.pop_front();
  return event;
}

absl::StatusOr<GenerationResult> RunGeneration(Engine& engine, GenerateRequest request,
                                               const std::function<bool(const GeneratedToken&)>& on_tokens) {
  auto queue = std::make_shared<GenerationQueue>();
  ASSIGN_OR_RETURN(const std::shared_ptr<GenerationTicket> ticket, engine.Submit(std::move(request), queue));
  GenerationResult result;
  for (;;) {
    std::optional<GenerationQueue::Event> event = queue->Next(Clock::Real().Now() + kLook);
    if (!event) continue;
    if (GenerationStarted* started = std::get_if<GenerationStarted>(&*event)) {
      result.started = std::move(*started);
    } else if (auto* tokens = std::get_if<std::vector<GeneratedToken>>(&*event)) {
      for (GeneratedToken& token : *tokens) {
        if (on_tokens && !on_tokens(token)) ticket->Cancel();
        result.text += token.text;
        result.tokens.push_back(std::move(token));
      }
    } else {
      result.end = std::get<GenerationEnd>(*std::move(event));
      if (!result.end.status.ok()) return result.end.status;
      return result;
    }
  }
}

}  // namespace paceline
