// Messages with their codes, and the way back from a message to an exit status.
#include "base/error.h"

#include "absl/strings/str_cat.h"

namespace paceline {
namespace {

constexpr const ErrorCode* kAll[] = {
    &errors::kModelMissing, &errors::kModelConfig,   &errors::kModelFile,        &errors::kModelTensor,
    &errors::kModelValues,  &errors::kTokenizer,     &errors::kModelUnsupported, &errors::kOutOfMemory,
    &errors::kRequestField, &errors::kContextLength, &errors::kNonFinite,        &errors::kQueueFull,
    &errors::kNodeLost,     &errors::kUnreachable,   &errors::kInsecureLink,     &errors::kFrame,
    &errors::kTimeout,      &errors::kJoinRefused,   &errors::kLinkAbsent,       &errors::kPlacement,
    &errors::kOption,       &errors::kDevice};

}  // namespace

absl::Status Error(const ErrorCode& code, std::string_view sentence) {
  return absl::Status(code.status,
                      absl::StrCat(code.id, ": ", absl::string_view(sentence.data(), sentence.size())));
}

std::string_view CodeOf(std::string_view message) {
  for (const ErrorCode* code : kAll) {
    const std::string_view id = code->id;
    if (message.size() > id.size() && message.substr(0, id.size()) == id && message[id.size()] == ':')
      return id;
  }
  return {};
}

int ExitStatus(const absl::Status& status) {
  if (status.ok()) return 0;
  const std::string_view message(status.message().data(), status.message().size());
  const std::string_view id = CodeOf(message);
  for (const ErrorCode* code : kAll) {
    if (id == code->id) return code->exit_status;
  }
  return 1;
}

}  // namespace paceline
