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
struct GenerateRequest;
struct PreparedChat;

// REQ-001 names the field as the client wrote it, from "chat." on. A Struct forgets the order of its members,
// so they get a fixed one: in tools the usual (type, function, name, description, parameters, ..), else the
// alphabet's. `chat.json` keeps its own.
absl::StatusOr<ChatRequest> ChatFromWire(const inference::v1::ChatInput& wire);

// The prompt of a chat; UNIMPLEMENTED (FEATURE_DISABLED) without a template, else as ChatFromWire and
// ChatTemplate::Apply say.
absl::StatusOr<ChatPrompt> PromptFromWire(const inference::v1::ChatInput& wire,
                                          const ChatTemplate* chat_template);

// The same as a request that may be constrained to a call (tool_choice); `request` holds its constraint.
absl::StatusOr<PreparedChat> ChatCallFromWire(const inference::v1::ChatInput& wire, GenerateRequest request,
                                              const ChatTemplate* chat_template);

}  // namespace paceline
