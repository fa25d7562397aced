// POST /v1/messages and /v1/messages/count_tokens: Anthropic's API over the same chat. Reference of its
// shapes: https://docs.anthropic.com/en/api/messages.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/chat_template.h"
#include "coordinator/http/completions.h"
#include "coordinator/http/fields.h"

namespace paceline {

absl::StatusOr<ReadRequest> ReadMessages(Fields& fields, const ServedModel& model,
                                         const ChatTemplate* chat_template, const std::string& request_id,
                                         bool strict);

// The prompt that these messages make, in tokens.
absl::StatusOr<int64_t> CountMessageTokens(Fields& fields, const ServedModel& model,
                                           const ChatTemplate* chat_template);

// How Anthropic's clients call the validator's fields.
FieldNames AnthropicNames();

}  // namespace paceline
