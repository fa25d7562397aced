// Error facts as status payloads.
#include "coordinator/api_error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline {
namespace {

constexpr char kReasonUrl[] = "paceline/reason";
constexpr char kFieldUrl[] = "paceline/field";
constexpr char kMetadataUrl[] = "paceline/metadata/";  // followed by the key

absl::string_view Absl(std::string_view text) { return absl::string_view(text.data(), text.size()); }

std::string ReasonOfCode(const absl::Status& status) {
  const std::string_view code = CodeOf(std::string_view(status.message().data(), status.message().size()));
  if (code == errors::kRequestField.id) return reasons::kInvalidField;
  if (code == errors::kContextLength.id) return reasons::kContextLength;
  if (code == errors::kQueueFull.id) return reasons::kQueueFull;
  if (code == errors::kNonFinite.id) return reasons::kNonFinite;
  if (code == errors::kNodeLost.id || code == errors::kUnreachable.id || code == errors::kTimeout.id)
    return reasons::kNodeLost;
  if (status.code() == absl::StatusCode::kUnimplemented) return reasons::kFeatureDisabled;
  return reasons::kInternal;
}

}  // namespace

absl::Status WithReason(absl::Status status, std::string_view reason) {
  status.SetPayload(kReasonUrl, absl::Cord(Absl(reason)));
  return status;
}

absl::Status WithField(absl::Status status, std::string_view field) {
  status.SetPayload(kFieldUrl, absl::Cord(Absl(field)));
  return status;
}

absl::Status WithMetadata(absl::Status status, std::string_view key, std::string_view value) {
  status.SetPayload(absl::StrCat(kMetadataUrl, Absl(key)), absl::Cord(Absl(value)));
  return status;
}

absl::Status FieldError(std::string_view field, std::string_view sentence) {
  return WithField(Error(errors::kRequestField, absl::StrCat(Absl(field), ": ", Absl(sentence))), field);
}

absl::Status UnknownRequest(std::string_view request_id) {
  return WithField(
      WithReason(absl::NotFoundError(absl::StrCat("request_id: nothing is known of ", Absl(request_id),
                                                  "; it has ended, or never was")),
                 reasons::kRequestNotFound),
      "request_id");
}

ErrorFacts FactsOf(const absl::Status& status) {
  ErrorFacts facts;
  status.ForEachPayload([&facts](absl::string_view url, const absl::Cord& value) {
    const std::string text(value);
    if (url == kReasonUrl) facts.reason = text;
    if (url == kFieldUrl) facts.field = text;
    const absl::string_view prefix = kMetadataUrl;
    if (url.size() > prefix.size() && url.substr(0, prefix.size()) == prefix) {
      facts.metadata[std::string(url.substr(prefix.size()))] = text;
    }
  });
  if (facts.reason.empty() && !status.ok()) facts.reason = ReasonOfCode(status);
  return facts;
}

}  // namespace paceline
