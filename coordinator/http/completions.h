// POST /v1/completions: a text, or token ids, goes on. No template.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/chat.h"
#include "coordinator/http/fields.h"
#include "coordinator/http/knobs.h"
#include "coordinator/http/reply_format.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

// What the endpoints need to know of the model.
struct ServedModel {
  std::string name;
  std::string fingerprint;
  const Tokenizer* tokenizer = nullptr;  // may be null
  std::vector<TokenId> eos_token_ids = {};
};

// A request as an endpoint read it: what to run, and how to say what comes.
struct ReadRequest {
  std::vector<GenerateRequest> requests;
  std::unique_ptr<ReplyFormat> format;
  CallOptions call;
};

// `fields` is the body; `strict` refuses members that nobody knows. REQ-001 names the field.
absl::StatusOr<ReadRequest> ReadCompletion(Fields& fields, const ServedModel& model, bool strict);

// With `strict`: REQ-001 for members nobody asked for.
absl::Status CheckUnknown(const Fields& fields, bool strict);

}  // namespace paceline
