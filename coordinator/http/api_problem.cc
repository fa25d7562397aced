#include "coordinator/http/api_problem.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api_error.h"

namespace paceline {
namespace {

constexpr int32_t kBusyMs = 1000;      // a place may be free by then
constexpr int32_t kLoadingMs = 5000;   // loading takes seconds to minutes
constexpr int32_t kNodeLostMs = 2000;  // a worker that is started again needs about that

const char* TypeOf(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
    case 529:
      return "unavailable_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

const char* AnthropicTypeOf(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
    case 529:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "api_error";
  }
}

int HttpStatusOf(const absl::Status& status, const ErrorFacts& facts) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return facts.reason == reasons::kTimeLimit ? 408 : 504;
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kFailedPrecondition:
      return 501;
    default:
      return 500;
  }
}

std::string CodeOfReason(const std::string& reason) {
  if (reason == reasons::kInvalidField) return "invalid_value";
  if (reason == reasons::kQueueFull) return "rate_limit_exceeded";
  return absl::AsciiStrToLower(reason);
}

}  // namespace

ApiProblem ProblemOf(const absl::Status& status) {
  const ErrorFacts facts = FactsOf(status);
  ApiProblem problem;
  problem.status = HttpStatusOf(status, facts);
  problem.type = TypeOf(problem.status);
  problem.code = CodeOfReason(facts.reason);
  problem.param = facts.field;
  problem.message = std::string(status.message());
  if (problem.status == 429) problem.retry_after_ms = kBusyMs;
  if (problem.status == 503) {
    problem.retry_after_ms = facts.reason == reasons::kModelLoading ? kLoadingMs
                             : facts.reason == reasons::kNodeLost   ? kNodeLostMs
                                                                    : kBusyMs;
  }
  problem.retry = problem.retry_after_ms.has_value();
  return problem;
}

ApiProblem ProblemOf(int http_status, std::string message) {
  ApiProblem problem;
  problem.status = http_status;
  problem.type = TypeOf(http_status);
  problem.message = std::move(message);
  if (http_status == 429) problem.code = "rate_limit_exceeded";
  problem.retry = http_status == 429 || http_status == 503;
  if (*problem.retry) problem.retry_after_ms = kBusyMs;
  return problem;
}

Json OpenAiErrorJson(const ApiProblem& problem) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  return {{"error",
           {{"message", problem.message},
            {"type", problem.type},
            {"param", or_null(problem.param)},
            {"code", or_null(problem.code)}}}};
}

static void AddRetry(const ApiProblem& problem, HttpHeaders* headers) {
  if (problem.retry) headers->emplace_back("x-should-retry", *problem.retry ? "true" : "false");
  if (problem.retry_after_ms) {
    headers->emplace_back("retry-after-ms", std::to_string(*problem.retry_after_ms));
    headers->emplace_back("retry-after", std::to_string((*problem.retry_after_ms + 999) / 1000));
  }
}

HttpAnswer OpenAiError(const ApiProblem& problem) {
  HttpAnswer answer = JsonAnswer(problem.status, OpenAiErrorJson(problem));
  AddRetry(problem, &answer.headers);
  return answer;
}

Json AnthropicErrorJson(const ApiProblem& problem, const std::string& request_id) {
  return {{"type", "error"},
          {"error", {{"type", AnthropicTypeOf(problem.status)}, {"message", problem.message}}},
          {"request_id", request_id}};
}

HttpAnswer AnthropicError(ApiProblem problem, const std::string& request_id) {
  if (problem.status == 503) problem.status = 529;  // how that API says "overloaded"
  HttpAnswer answer = JsonAnswer(problem.status, AnthropicErrorJson(problem, request_id));
  AddRetry(problem, &answer.headers);
  return answer;
}

absl::Status RenameField(const absl::Status& status, const FieldNames& names) {
  const std::string field = FactsOf(status).field;
  if (field.empty()) return status;
  std::string name = field;
  size_t best = 0;
  for (const auto& [theirs, ours] : names) {
    if (theirs.size() > best && field.compare(0, theirs.size(), theirs) == 0) {
      best = theirs.size();
      name = ours + field.substr(theirs.size());
    }
  }
  if (best == 0) {
    for (const char* const group : {"sampling.", "stopping.", "response."}) {
      if (field.rfind(group, 0) == 0) name = field.substr(std::string(group).size());
    }
  }
  if (name == field) return status;
  // The sentence begins with the field, behind the error's code.
  std::string message(status.message());
  if (const size_t at = message.find(field); at != std::string::npos) message.replace(at, field.size(), name);
  absl::Status renamed(status.code(), message);
  status.ForEachPayload(
      [&renamed](absl::string_view url, const absl::Cord& value) { renamed.SetPayload(url, value); });
  return WithField(std::move(renamed), name);
}

HttpAnswer JsonAnswer(int status, const Json& body) {
  HttpAnswer answer;
  answer.status = status;
  answer.headers.emplace_back("content-type", "application/json");
  answer.body = Dump(body);
  return answer;
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace paceline
