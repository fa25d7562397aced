#include "coordinator/http/fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "coordinator/api_error.h"

namespace paceline {
namespace {

// A whole number, also one written 5.0.
std::optional<int64_t> AsWhole(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t n = value.get<uint64_t>();
    // Seeds use all 64 bits; whoever wants less checks the range.
    return static_cast<int64_t>(n);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double x = value.get<double>();
  constexpr double kLimit = 9.0e15;  // beyond it fp64 skips whole numbers
  if (x != std::floor(x) || std::abs(x) > kLimit) return std::nullopt;
  return static_cast<int64_t>(x);
}

// An object that keeps its order looks through all its members for every new one: squares of members, summed.
constexpr int64_t kMaxWork = int64_t{1} << 27;  // a tenth of a second

int64_t ReadingWork(std::string_view text) {
  int64_t work = 0;
  std::vector<int64_t> members;  // of the containers around
  bool quoted = false;
  for (size_t i = 0; i < text.size() && work <= kMaxWork; ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      members.push_back(0);
    } else if (c == ':' && !members.empty()) {
      work += ++members.back();
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    }
  }
  return work;
}

}  // namespace

absl::StatusOr<Json> ParseBody(std::string_view text) {
  if (ReadingWork(text) > kMaxWork)
    return FieldError("body", "its objects have too many members; send fewer");
  return ParseJson(text, "body");
}

const char* KindOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::object:
      return "an object";
    default:
      return "a number";
  }
}

Fields::Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (object_.is_object()) return;
  const std::string name = path_.empty() ? "body" : path_.substr(0, path_.size() - 1);
  status_ = FieldError(name, absl::StrCat("expected an object, got ", KindOf(object_)));
}

const Json* Fields::Find(const char* name) {
  known_.insert(name);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void Fields::Fail(const absl::Status& status) {
  if (status_.ok()) status_ = status;
}

void Fields::Refuse(const std::string& name, const std::string& sentence) {
  Fail(FieldError(path_ + name, sentence));
}

void Fields::Expected(const char* name, const char* what, const Json& got) {
  Refuse(name, absl::StrCat("expected ", what, ", got ", KindOf(got)));
}

std::optional<bool> Fields::Bool(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  Expected(name, "true or false", *value);
  return std::nullopt;
}

std::optional<int64_t> Fields::Whole(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> whole = AsWhole(*value);
  if (!whole) Expected(name, "a whole number", *value);
  return whole;
}

std::optional<double> Fields::Number(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  Expected(name, "a number", *value);
  return std::nullopt;
}

std::optional<float> Fields::Float(const char* name) {
  const std::optional<double> number = Number(name);
  if (!number) return std::nullopt;
  // What fp32 cannot hold is refused by the validator, as every number that is not finite.
  if (std::abs(*number) > std::numeric_limits<float>::max()) return std::numeric_limits<float>::infinity();
  return static_cast<float>(*number);
}

std::optional<std::string> Fields::Text(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  Expected(name, "a string", *value);
  return std::nullopt;
}

std::vector<std::string> Fields::Texts(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> texts;
  if (!value->is_array()) Expected(name, "a string or an array of strings", *value);
  for (size_t i = 0; value->is_array() && i < value->size(); ++i) {
    const Json& entry = (*value)[i];
    if (!entry.is_string()) {
      Refuse(absl::StrCat(name, "[", i, "]"), absl::StrCat("expected a string, got ", KindOf(entry)));
      return {};
    }
    texts.push_back(entry.get<std::string>());
  }
  return texts;
}

std::vector<TokenId> Fields::Ids(const char* name) {
  const Json* value = Array(name);
  std::vector<TokenId> ids;
  for (size_t i = 0; value != nullptr && i < value->size(); ++i) {
    const std::optional<int64_t> id = AsWhole((*value)[i]);
    if (!id || *id < 0 || *id > std::numeric_limits<TokenId>::max()) {
      Refuse(absl::StrCat(name, "[", i, "]"), "expected a token id");
      return {};
    }
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

const Json* Fields::Array(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr || value->is_array()) return value;
  Expected(name, "an array", *value);
  return nullptr;
}

const Json* Fields::Object(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr || value->is_object()) return value;
  Expected(name, "an object", *value);
  return nullptr;
}

const Json* Fields::Any(const char* name) { return Find(name); }

std::vector<std::string> Fields::Unknown() const {
  std::vector<std::string> unknown;
  if (!object_.is_object()) return unknown;
  for (const auto& [name, value] : object_.items()) {
    if (known_.count(name) == 0) unknown.push_back(path_ + name);
  }
  return unknown;
}

}  // namespace paceline
