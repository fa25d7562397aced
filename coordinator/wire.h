// Between the messages of paceline.inference.v1 and plain types.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/output_parser.h"
#include "coordinator/request.h"

namespace paceline::inference::v1 {
class Completed;
class Finished;
class GenerateRequest;
class Started;
class Token;
class Usage;
}  // namespace paceline::inference::v1

namespace paceline {

class ChatTemplate;

// How the caller wants the answer shaped.
struct ResponseShape {
  bool text = true;
  bool bytes = false;
  bool usage = false;                         // in every message of tokens
  int32_t interval_tokens = 1;                // tokens per stream message
  Duration resume_window = Duration::zero();  // a stream without a reader goes on so long
  std::optional<OutputParserOptions> parser;  // takes answers apart; but for its id_seed
  bool parallel_calls = true;                 // else a tool call behind the first is not told
};

struct WireRequest {
  GenerateRequest request;
  int32_t choices = 1;  // answers to the prompt
  ResponseShape shape;
};

// REQ-001 names a field that cannot be; Unimplemented (FEATURE_DISABLED) one that this model cannot serve.
// `chat_template` makes a prompt of chat input; null: the model has none.
absl::StatusOr<WireRequest> RequestFromWire(const inference::v1::GenerateRequest& wire,
                                            const ChatTemplate* chat_template = nullptr);
void RequestToWire(const GenerateRequest& request, inference::v1::GenerateRequest* wire);

void PromptTokenToWire(const PromptToken& token, const ResponseShape& shape, inference::v1::Token* wire);
void UsageToWire(const Usage& usage, inference::v1::Usage* wire);
void TokenToWire(const GeneratedToken& token, const ResponseShape& shape, inference::v1::Token* wire);
GeneratedToken TokenFromWire(const inference::v1::Token& wire);

void StartedToWire(const GenerationStarted& started, inference::v1::Started* wire);

// Reason and match. The end of a generation is two messages: one per output, and one for the whole.
void FinishedToWire(const GenerationEnd& end, inference::v1::Finished* wire);
void FinishedFromWire(const inference::v1::Finished& wire, GenerationEnd* end);
void CompletedToWire(const GenerationEnd& end, inference::v1::Completed* wire);
void CompletedFromWire(const inference::v1::Completed& wire, GenerationEnd* end);

}  // namespace paceline
