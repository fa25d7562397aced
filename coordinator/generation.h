// A generation pulled instead of pushed: for the command line, and for everyone who wants the whole answer.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/request.h"

namespace paceline {

// Everything a generation came to.
struct GenerationResult {
  GenerationStarted started;
  std::vector<GeneratedToken> tokens;
  std::string text;
  GenerationEnd end;

  std::vector<TokenId> token_ids() const;
};

// Holds events until someone asks. At most one event per generated token waits, so the context bounds its
// size. Thread-safe: the engine fills, one caller drains.
class GenerationQueue final : public GenerationSink {
 public:
  using Event = std::variant<GenerationStarted, std::vector<GeneratedToken>, GenerationEnd>;

  // The next event; nothing when `deadline` (steady clock) passes first. After a GenerationEnd nothing more
  // comes.
  std::optional<Event> Next(TimePoint deadline);

  void OnStarted(const GenerationStarted& started) override { Put(started); }
  void OnTokens(std::vector<GeneratedToken> tokens) override { Put(std::move(tokens)); }
  void OnFinished(const GenerationEnd& end) override { Put(end); }

 private:
  void Put(Event event);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> events_;  // guarded by mutex_
};

// Runs one request to its end. `on_tokens`, where given, sees tokens as they come and may return false to
// cancel. The status is Submit's, or the one the generation ended with.
absl::StatusOr<GenerationResult> RunGeneration(
    Engine& engine, GenerateRequest request,
    const std::function<bool(const GeneratedToken&)>& on_tokens = nullptr);

}  // namespace paceline
