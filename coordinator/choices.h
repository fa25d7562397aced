// Several answers to one prompt as one generation: each is a sequence with noise of its own under one seed,
// all of them share a ticket, and their ends come to one end.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/request.h"

namespace paceline {

// As GenerationSink, with the answer's index.
class ChoicesSink {
 public:
  virtual ~ChoicesSink() = default;
  virtual void OnStarted(const GenerationStarted& started) = 0;  // of the first that starts
  virtual void OnPrompt(std::vector<PromptToken>) {
  }  // as GenerationSink's; once, whatever the number of answers
  virtual void OnTokens(uint32_t index, std::vector<GeneratedToken> tokens) = 0;
  virtual void OnChoice(uint32_t index, const GenerationEnd& end) = 0;  // unless cancelled or failed
  // Last and once. Counts are sums, but the prompt is counted once; where one failed or was cancelled, all
  // are, and this is the first such end.
  virtual void OnEnd(const GenerationEnd& end) = 0;
};

// Submits `count` answers to the request. On an error `sink` has heard nothing and will not; errors are those
// of Engine::Submit for the first answer, and later ones come as the end. Thread-safe.
absl::StatusOr<std::shared_ptr<GenerationTicket>> SubmitChoices(Engine& engine, GenerateRequest request,
                                                                int32_t count,
                                                                std::shared_ptr<ChoicesSink> sink);

}  // namespace paceline
