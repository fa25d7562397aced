// The members of one JSON object, read by name. The first that is not what it should be is remembered, so a
// reader asks for all of them in a row and looks at the status once. null counts as absent everywhere:
// clients send their unset options so.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "coordinator/chat.h"

namespace paceline {

class Fields {
 public:
  // `object` outlives the reader. `path` stands in front of every name in errors ("stream_options."). What is
  // no object is an error named `path`.
  explicit Fields(const Json& object, std::string path = "");

  std::optional<bool> Bool(const char* name);
  std::optional<int64_t> Whole(const char* name);
  std::optional<double> Number(const char* name);
  std::optional<float> Float(const char* name);
  std::optional<std::string> Text(const char* name);
  // A string, or an array of strings.
  std::vector<std::string> Texts(const char* name);
  std::vector<TokenId> Ids(const char* name);
  // Null where absent.
  const Json* Array(const char* name);
  const Json* Object(const char* name);
  const Json* Any(const char* name);
  // Says that the reader knows the name and does without it.
  void Ignore(const char* name) { known_.insert(name); }

  // REQ-001 about a member. The first error stays.
  void Refuse(const std::string& name, const std::string& sentence);
  void Fail(const absl::Status& status);
  const absl::Status& status() const { return status_; }
  // Members nobody asked for.
  std::vector<std::string> Unknown() const;

 private:
  const Json* Find(const char* name);
  void Expected(const char* name, const char* what, const Json& got);

  const Json& object_;
  const std::string path_;
  absl::Status status_;
  std::set<std::string> known_;
};

// A request's body as JSON. REQ-001 about `body`: not JSON, too deep, or objects with so many members that
// reading them in order would take long.
absl::StatusOr<Json> ParseBody(std::string_view text);

// What a JSON value is, for people: "a string".
const char* KindOf(const Json& value);

}  // namespace paceline
