// POST /v1/chat/completions: messages through the model's own template, and its text taken apart again into
// content, reasoning and tool calls.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/chat.h"
#include "coordinator/chat_template.h"
#include "coordinator/http/completions.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/tool_choice.h"
#include "coordinator/output_parser.h"

namespace paceline {

// A chat as every chat-like API has it, ready for the engine.
struct PreparedChat {
  GenerateRequest request;
  OutputParserOptions parser;  // of every output, but for id_seed
};

// Renders the template and lets the tool choice constrain the text. `request` holds the knobs. REQ-001.
absl::StatusOr<PreparedChat> PrepareChat(ChatRequest chat, const ToolChoice& choice, GenerateRequest request,
                                         const ChatTemplate* chat_template);

absl::StatusOr<ReadRequest> ReadChatCompletion(Fields& fields, const ServedModel& model,
                                               const ChatTemplate* chat_template, bool strict);

}  // namespace paceline
