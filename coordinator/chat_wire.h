// Between the chat messages of paceline.inference.v1 and plain types.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/chat.h"

namespace paceline::inference::v1 {
class ChatInput;
}  // namespace paceline::inference::v1

namespace paceline {

class ChatTemplate;
struct ChatPrompt;

// REQ-001 names the field as the client wrote it, from "chat." on. A Struct forgets the order of its members,
// so they get a fixed one: in tools the usual (type, function, name, description, parameters, ..), else the
// alphabet's. `chat.json` keeps its own.
absl::StatusOr<ChatRequest> ChatFromWire(const inference::v1::ChatInput& wire);

// The prompt of a chat; UNIMPLEMENTED (FEATURE_DISABLED) without a template, else as ChatFromWire and
// ChatTemplate::Apply say.
absl::StatusOr<ChatPrompt> PromptFromWire(const inference::v1::ChatInput& wire,
                                          const ChatTemplate* chat_template);

}  // namespace paceline
