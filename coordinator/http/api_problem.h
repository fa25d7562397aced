// What went wrong, as HTTP clients know it: a status code, a type and a code that programs branch on, a
// sentence, and whether asking again may help. OpenAI's and Anthropic's bodies are two ways to write it down.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "coordinator/chat.h"
#include "coordinator/http/message.h"

namespace paceline {

struct ApiProblem {
  int status = 500;
  std::string type = "server_error";  // OpenAI's: "invalid_request_error", ..
  std::string code;                   // "context_length_exceeded"; empty: null
  std::string param;                  // the field at fault; empty: null
  std::string message;
  std::optional<bool> retry;              // whether the same request may succeed later; absent: by status
  std::optional<int32_t> retry_after_ms;  // when
};

// By reason and code of a status of ours (coordinator/api_error.h).
ApiProblem ProblemOf(const absl::Status& status);
// By HTTP status, for what has no status of ours: a route that is not there, a body that is too large.
ApiProblem ProblemOf(int http_status, std::string message);

// {"error": {"message", "type", "param", "code"}}, all four always there.
Json OpenAiErrorJson(const ApiProblem& problem);
HttpAnswer OpenAiError(const ApiProblem& problem);

// {"type": "error", "error": {"type", "message"}, "request_id"}.
Json AnthropicErrorJson(const ApiProblem& problem, const std::string& request_id);
HttpAnswer AnthropicError(ApiProblem problem, const std::string& request_id);

// A field of GenerateRequest as the validator calls it -> as this API's clients do. The longest entry that
// the field begins with counts; names without one stay, without their group ("sampling.top_p" is "top_p").
using FieldNames = std::map<std::string, std::string>;
absl::Status RenameField(const absl::Status& status, const FieldNames& names);

HttpAnswer JsonAnswer(int status, const Json& body);

// JSON text on one line. Bytes that are no UTF-8 become U+FFFD.
std::string Dump(const Json& json);

}  // namespace paceline
