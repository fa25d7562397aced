// Facts that travel with a status besides its sentence: the reason programs branch on, the field that was
// wrong, and a few values by name. They ride as payloads of absl::Status, so they pass through code that
// knows nothing of them.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace paceline {

// Reasons (ErrorInfo.reason). A client may rely on them as on field numbers.
namespace reasons {
inline constexpr char kInvalidField[] = "INVALID_FIELD";
inline constexpr char kGrammarInvalid[] = "GRAMMAR_INVALID";
inline constexpr char kContextLength[] = "CONTEXT_LENGTH_EXCEEDED";
inline constexpr char kModelNotFound[] = "MODEL_NOT_FOUND";
inline constexpr char kRequestNotFound[] = "REQUEST_NOT_FOUND";
inline constexpr char kRequestIdReused[] = "REQUEST_ID_REUSED";
inline constexpr char kQueueFull[] = "QUEUE_FULL";
inline constexpr char kModelLoading[] = "MODEL_LOADING";
inline constexpr char kDraining[] = "DRAINING";
inline constexpr char kNodeLost[] = "NODE_LOST";
inline constexpr char kFeatureDisabled[] = "FEATURE_DISABLED";
inline constexpr char kNonFinite[] = "NON_FINITE";
inline constexpr char kTimeLimit[] = "TIME_LIMIT";
inline constexpr char kQueueTimeout[] = "QUEUE_TIMEOUT";
inline constexpr char kApiKeyInvalid[] = "API_KEY_INVALID";
inline constexpr char kInternal[] = "INTERNAL";
}  // namespace reasons

struct ErrorFacts {
  std::string reason;  // never empty for a status that is not ok (and not a plain cancellation)
  std::string field;   // path of the request field at fault, or empty
  std::map<std::string, std::string> metadata;
};

absl::Status WithReason(absl::Status status, std::string_view reason);
absl::Status WithField(absl::Status status, std::string_view field);
absl::Status WithMetadata(absl::Status status, std::string_view key, std::string_view value);

// REQ-001 about the request's field `field` ("sampling.top_p").
absl::Status FieldError(std::string_view field, std::string_view sentence);

// NotFound (REQUEST_NOT_FOUND) about an id under which nothing runs or waits.
absl::Status UnknownRequest(std::string_view request_id);

// What rides on `status`; where no reason was attached, the one that follows from its code.
ErrorFacts FactsOf(const absl::Status& status);

}  // namespace paceline
