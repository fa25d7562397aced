// POST /v1/responses: the stateless part of OpenAI's Responses API. Nothing is stored, so nothing can be
// continued by id: a client sends the whole conversation each time.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/chat_template.h"
#include "coordinator/http/completions.h"
#include "coordinator/http/fields.h"

namespace paceline {

absl::StatusOr<ReadRequest> ReadResponse(Fields& fields, const ServedModel& model,
                                         const ChatTemplate* chat_template, bool strict);

}  // namespace paceline
