#include "coordinator/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/grammar/json_formats.h"
#include "coordinator/grammar/json_text.h"
#include "coordinator/grammar/regex.h"
#include "coordinator/utf8.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using Json = nlohmann::ordered_json;
using Names = std::set<std::string, std::less<>>;

constexpr int kMaxNesting = 64;        // of brackets in the schema's text
constexpr int64_t kMaxCount = 10'000;  // items and characters
constexpr int64_t kMaxInteger = 999'999'999'999'999'999;
constexpr double kMaxDecimal = 1e15;

// They say something to people, or about how values are kept.
const Names kAnnotations = {"$schema",  "$id",          "$comment",   "$defs",           "definitions",
                            "title",    "description",  "default",    "examples",        "example",
                            "readOnly", "writeOnly",    "deprecated", "contentEncoding", "contentMediaType",
                            "strict",   "discriminator"};
const Names kOfStrings = {"minLength", "maxLength", "pattern", "format"};
const Names kOfNumbers = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
const Names kOfArrays = {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"};
const Names kOfObjects = {"properties", "required", "additionalProperties"};

bool IsAnnotation(std::string_view key) { return key.starts_with("x-") || kAnnotations.contains(key); }

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// Brackets outside strings. The check needs no memory, so it comes before any parser.
bool NestsTooDeeply(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxNesting) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

absl::StatusOr<Json> Read(std::string_view text) {
  if (NestsTooDeeply(text))
    return absl::InvalidArgumentError(absl::StrCat("is nested more than ", kMaxNesting, " deep"));
  std::vector<Names> open;  // keys of the objects around
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second)
      twice = value.get<std::string>();
    return true;
  };
  Json schema = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (schema.is_discarded()) return absl::InvalidArgumentError("is not JSON");
  if (!twice.empty())
    return absl::InvalidArgumentError(absl::StrCat("has the key '", twice, "' twice in one object"));
  return schema;
}

// One step of a JSON pointer, escaped.
std::string Step(std::string_view key) {
  std::string out = "/";
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

class SchemaReader {
 public:
  SchemaReader(const Json& schema, GrammarBuilder& builder)
      : root_(schema), builder_(builder), json_(builder) {}

  absl::StatusOr<int32_t> Run() {
    ASSIGN_OR_RETURN(const int32_t root, RuleAt("#", "#"));
    // Rules that are referred to are read one by one, not inside each other.
    while (!unread_.empty()) {
      const auto [rule, schema, path] = unread_.front();
      unread_.pop_front();
      ASSIGN_OR_RETURN(Expression made, Value(*schema, path));
      builder_.Define(rule, std::move(made));
    }
    return root;
  }

 private:
  struct Unread {
    int32_t rule;
    const Json* schema;
    std::string path;
  };

  static absl::Status Wrong(std::string_view path, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("at '", Absl(path), "': ", what));
  }
  static absl::Status Unsupported(std::string_view path, std::string_view key, absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("at '", Absl(path), Step(key), "': the keyword '", Absl(key), "' ", why));
  }

  // The rule of the schema that `pointer` names; `path` is where the reference stands.
  absl::StatusOr<int32_t> RuleAt(const std::string& pointer, std::string_view path) {
    if (const auto known = references_.find(pointer); known != references_.end()) return known->second;
    const Json* at = &root_;
    if (pointer.empty() || pointer[0] != '#')
      return Wrong(path, absl::StrCat("'", pointer,
                                      "' leads outside the schema; only references that begin "
                                      "with # are supported"));
    for (size_t i = 1; i < pointer.size();) {
      if (pointer[i] != '/')
        return Wrong(path, absl::StrCat("'", pointer, "' is no JSON pointer; expected #/.."));
      const size_t end = std::min(pointer.find('/', i + 1), pointer.size());
      std::string key;
      for (size_t k = i + 1; k < end; ++k) {
        const bool escape = pointer[k] == '~' && k + 1 < end;
        key += escape ? (pointer[++k] == '1' ? '/' : '~') : pointer[k];
      }
      const Json* next = nullptr;
      if (at->is_object()) {
        const auto found = at->find(key);
        if (found != at->end()) next = &*found;
      } else if (at->is_array() && !key.empty() && key.size() < 6 &&
                 key.find_first_not_of("0123456789") == std::string::npos) {
        const size_t index = std::stoul(key);
        if (index < at->size()) next = &(*at)[index];
      }
      if (next == nullptr) return Wrong(path, absl::StrCat("'", pointer, "' leads nowhere"));
      at = next;
      i = end;
    }
    const int32_t rule = builder_.AddRule(pointer);
    references_[pointer] = rule;
    unread_.push_back({rule, at, pointer});
    return rule;
  }

  absl::StatusOr<Expression> Value(const Json& schema, const std::string& path) {
    if (schema.is_boolean()) return schema.get<bool>() ? json_.AnyValue() : ChoiceOf({});
    if (!schema.is_object())
      return Wrong(path,
                   absl::StrCat("expected a schema (an object, true or false), got ", schema.type_name()));
    if (schema.contains("$ref")) return Reference(schema, path);
    if (schema.contains("enum") || schema.contains("const")) return Constants(schema, path);
    for (const char* key : {"anyOf", "oneOf", "allOf"}) {
      if (schema.contains(key)) return Alternatives(schema, key, path);
    }
    return Typed(schema, path);
  }

  absl::StatusOr<Expression> Reference(const Json& schema, const std::string& path) {
    RETURN_IF_ERROR(OnlyBeside(schema, path, "$ref", {}));
    if (!schema["$ref"].is_string()) return Unsupported(path, "$ref", "takes a string");
    ASSIGN_OR_RETURN(const int32_t rule, RuleAt(schema["$ref"].get<std::string>(), path + "/$ref"));
    return OrNull(schema, path, CallOf(rule));
  }

  absl::StatusOr<Expression> Constants(const Json& schema, const std::string& path) {
    const bool one = schema.contains("const");
    const char* key = one ? "const" : "enum";
    RETURN_IF_ERROR(OnlyBeside(schema, path, key, {"type"}));
    std::vector<Json> values;
    if (one) {
      values.push_back(schema["const"]);
    } else if (schema["enum"].is_array()) {
      values.assign(schema["enum"].begin(), schema["enum"].end());
    } else {
      return Unsupported(path, "enum", "takes an array");
    }
    std::optional<Names> types;
    if (schema.contains("type")) {
      ASSIGN_OR_RETURN(types, Types(schema, path));
    }
    std::vector<Expression> choices;
    for (const Json& value : values) {
      if (types && !IsOneOf(value, *types)) continue;
      choices.push_back(json_.Constant(value));
    }
    if (choices.empty()) return Unsupported(path, key, "leaves no value");
    return OrNull(schema, path, ChoiceOf(std::move(choices)));
  }

  static bool IsOneOf(const Json& value, const Names& types) {
    const auto is = [&types](const char* type) { return types.contains(type); };
    switch (value.type()) {
      case Json::value_t::null:
        return is("null");
      case Json::value_t::boolean:
        return is("boolean");
      case Json::value_t::string:
        return is("string");
      case Json::value_t::array:
        return is("array");
      case Json::value_t::object:
        return is("object");
      case Json::value_t::number_float:
        return is("number") || (is("integer") && std::trunc(value.get<double>()) == value.get<double>());
      default:
        return is("number") || is("integer");
    }
  }

  absl::StatusOr<Expression> Alternatives(const Json& schema, const char* key, const std::string& path) {
    RETURN_IF_ERROR(OnlyBeside(schema, path, key, {}));
    const Json& parts = schema[key];
    if (!parts.is_array() || parts.empty()) return Unsupported(path, key, "takes an array that is not empty");
    if (std::string_view(key) == "allOf" && parts.size() > 1)
      return Unsupported(path, key, "is supported with one schema in it; write the others into it");
    std::vector<Expression> choices;
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSIGN_OR_RETURN(Expression made, Value(parts[i], absl::StrCat(path, "/", key, "/", i)));
      choices.push_back(std::move(made));
    }
    return OrNull(schema, path, ChoiceOf(std::move(choices)));
  }

  // Every key but annotations, `key` itself and those of `allowed` is refused.
  static absl::Status OnlyBeside(const Json& schema, const std::string& path, std::string_view key,
                                 const Names& allowed) {
    for (const auto& [name, value] : schema.items()) {
      if (name == key || name == "nullable" || IsAnnotation(name) || allowed.contains(name)) continue;
      return Unsupported(path, name, absl::StrCat("is not supported beside '", Absl(key), "'"));
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<Expression> OrNull(const Json& schema, const std::string& path, Expression made) {
    const auto nullable = schema.find("nullable");
    if (nullable == schema.end()) return made;
    if (!nullable->is_boolean()) return Unsupported(path, "nullable", "takes true or false");
    if (!nullable->get<bool>()) return made;
    return ChoiceOf({std::move(made), Literal("null")});
  }

  static absl::StatusOr<Names> Types(const Json& schema, const std::string& path) {
    const Json& type = schema["type"];
    std::vector<Json> list;
    if (type.is_array()) {
      list.assign(type.begin(), type.end());
    } else {
      list.push_back(type);
    }
    Names types;
    const Names known = {"null", "boolean", "string", "number", "integer", "array", "object"};
    for (const Json& one : list) {
      if (!one.is_string() || !known.contains(one.get<std::string>())) {
        return Unsupported(path, "type",
                           absl::StrCat("takes ", absl::StrJoin(known, ", "), " or an array of them"));
      }
      types.insert(one.get<std::string>());
    }
    if (types.empty()) return Unsupported(path, "type", "takes at least one type");
    return types;
  }

  absl::StatusOr<Expression> Typed(const Json& schema, const std::string& path) {
    Names types;
    if (schema.contains("type")) {
      ASSIGN_OR_RETURN(types, Types(schema, path));
    }
    const bool inferred = types.empty();
    for (const auto& [name, value] : schema.items()) {
      if (name == "type" || name == "nullable" || IsAnnotation(name)) continue;
      const char* of = kOfStrings.contains(name)   ? "string"
                       : kOfNumbers.contains(name) ? "number"
                       : kOfArrays.contains(name)  ? "array"
                       : kOfObjects.contains(name) ? "object"
                                                   : nullptr;
      if (of == nullptr) return Unsupported(path, name, "is not supported");
      // A schema that says nothing of types speaks of those its keywords belong to.
      if (inferred) types.insert(of);
    }
    if (types.empty()) return OrNull(schema, path, json_.AnyValue());
    std::vector<Expression> choices;
    for (const std::string& type : types) {
      Expression made;
      if (type == "null") {
        made = Literal("null");
      } else if (type == "boolean") {
        made = ChoiceOf({Literal("true"), Literal("false")});
      } else if (type == "string") {
        ASSIGN_OR_RETURN(made, String(schema, path));
      } else if (type == "integer") {
        ASSIGN_OR_RETURN(made, Integer(schema, path));
      } else if (type == "number") {
        ASSIGN_OR_RETURN(made, Number(schema, path));
      } else if (type == "array") {
        ASSIGN_OR_RETURN(made, Array(schema, path));
      } else {
        ASSIGN_OR_RETURN(made, Object(schema, path));
      }
      choices.push_back(std::move(made));
    }
    Expression made = choices.size() == 1 ? std::move(choices[0]) : ChoiceOf(std::move(choices));
    return OrNull(schema, path, std::move(made));
  }

  // A whole number from 0 to kMaxCount, or absent.
  static absl::StatusOr<std::optional<int32_t>> Count(const Json& schema, const char* key,
                                                      const std::string& path) {
    const auto found = schema.find(key);
    if (found == schema.end()) return std::optional<int32_t>();
    const bool whole = found->is_number() && std::trunc(found->get<double>()) == found->get<double>();
    if (!whole || found->get<double>() < 0 || found->get<double>() > static_cast<double>(kMaxCount))
      return Unsupported(path, key, absl::StrCat("takes a whole number from 0 to ", kMaxCount));
    return std::optional<int32_t>(static_cast<int32_t>(found->get<double>()));
  }

  absl::StatusOr<Expression> String(const Json& schema, const std::string& path) {
    ASSIGN_OR_RETURN(const std::optional<int32_t> min, Count(schema, "minLength", path));
    ASSIGN_OR_RETURN(const std::optional<int32_t> max, Count(schema, "maxLength", path));
    for (const char* key : {"pattern", "format"}) {
      const auto found = schema.find(key);
      if (found == schema.end()) continue;
      if (!found->is_string()) return Unsupported(path, key, "takes a string");
      if (min || max) return Unsupported(path, key, "is not supported beside minLength or maxLength");
    }
    if (schema.contains("pattern")) {
      if (schema.contains("format")) return Unsupported(path, "pattern", "is not supported beside format");
      absl::StatusOr<Expression> content =
          ParseRegex(schema["pattern"].get_ref<const std::string&>(), RegexMatch::kSearch);
      if (!content.ok())
        return Wrong(path + "/pattern", absl::StrCat("the pattern's ", content.status().message()));
      return json_.StringOf(*content);
    }
    if (schema.contains("format")) {
      const std::string& format = schema["format"].get_ref<const std::string&>();
      const char* pattern = FormatPattern(format);
      if (pattern == nullptr) {
        return Wrong(path + "/format",
                     absl::StrCat("the format '", format, "' is not supported; known are ", KnownFormats()));
      }
      return ParseFormat(format, pattern);
    }
    if (min && max && *min > *max) return Unsupported(path, "minLength", "is above maxLength");
    return json_.AnyString(min.value_or(0), max.value_or(kUnbounded));
  }

  absl::StatusOr<Expression> ParseFormat(const std::string& format, const char* pattern) {
    const std::string name = absl::StrCat("format ", format);
    if (const auto known = references_.find(name); known != references_.end()) return CallOf(known->second);
    ASSIGN_OR_RETURN(const Expression content, ParseRegex(pattern, RegexMatch::kWhole));
    const int32_t rule = builder_.AddRule(name);
    references_[name] = rule;
    builder_.Define(rule, json_.StringOf(content));
    return CallOf(rule);
  }

  // The tighter of an inclusive and an exclusive bound; absent: none.
  struct Bound {
    Json value;
    bool strict = false;
  };
  static absl::StatusOr<std::optional<Bound>> BoundOf(const Json& schema, const char* inclusive,
                                                      const char* exclusive, bool low,
                                                      const std::string& path) {
    std::optional<Bound> bound;
    for (const char* key : {inclusive, exclusive}) {
      const auto found = schema.find(key);
      if (found == schema.end()) continue;
      if (!found->is_number()) return Unsupported(path, key, "takes a number");
      if (std::abs(found->get<double>()) >= static_cast<double>(kMaxInteger))
        return Unsupported(path, key, "takes a number of at most 18 digits");
      const bool strict = key == exclusive;
      if (bound) {
        const double have = bound->value.get<double>(), got = found->get<double>();
        if (low ? got < have : got > have) continue;
      }
      bound = Bound{*found, strict};
    }
    return bound;
  }

  absl::StatusOr<Expression> Integer(const Json& schema, const std::string& path) {
    ASSIGN_OR_RETURN(const auto low, BoundOf(schema, "minimum", "exclusiveMinimum", true, path));
    ASSIGN_OR_RETURN(const auto high, BoundOf(schema, "maximum", "exclusiveMaximum", false, path));
    if (!low && !high) return json_.AnyInteger();
    // 2.5 <= n is 3 <= n; 2 < n too.
    int64_t first = -kMaxInteger, last = kMaxInteger;
    if (low) {
      const bool whole = low->value.is_number_integer();
      const double value = low->value.get<double>();
      first = whole ? low->value.get<int64_t>() : static_cast<int64_t>(std::ceil(value));
      if (low->strict && (whole || std::ceil(value) == value)) ++first;
    }
    if (high) {
      const bool whole = high->value.is_number_integer();
      const double value = high->value.get<double>();
      last = whole ? high->value.get<int64_t>() : static_cast<int64_t>(std::floor(value));
      if (high->strict && (whole || std::floor(value) == value)) --last;
    }
    if (first > last) return Wrong(path, "no integer lies between minimum and maximum");
    return JsonText::IntegerBetween(first, last);
  }

  absl::StatusOr<Expression> Number(const Json& schema, const std::string& path) {
    ASSIGN_OR_RETURN(const auto low, BoundOf(schema, "minimum", "exclusiveMinimum", true, path));
    ASSIGN_OR_RETURN(const auto high, BoundOf(schema, "maximum", "exclusiveMaximum", false, path));
    if (!low && !high) return json_.AnyNumber();
    std::optional<DecimalBound> from, to;
    for (const auto& [bound, out] : {std::pair(&low, &from), std::pair(&high, &to)}) {
      if (!*bound) continue;
      const std::optional<std::string> digits = Decimal((*bound)->value.get<double>());
      if (!digits) {
        return Wrong(path,
                     absl::StrCat("a bound of a number takes at most 15 digits in front of the point and "
                                  "15 behind it, got ",
                                  (*bound)->value.dump()));
      }
      *out = DecimalBound{*digits, (*bound)->strict};
    }
    if (low && high) {
      const double a = low->value.get<double>(), b = high->value.get<double>();
      if (a > b || (a == b && (low->strict || high->strict)))
        return Wrong(path, "no number lies between minimum and maximum");
    }
    return JsonText::NumberBetween(from, to);
  }

  // The shortest decimal without an exponent that reads back as `value`.
  static std::optional<std::string> Decimal(double value) {
    if (!(std::abs(value) < kMaxDecimal)) return std::nullopt;
    for (int places = 0; places <= 15; ++places) {
      const std::string digits = absl::StrFormat("%.*f", places, value);
      if (std::strtod(digits.c_str(), nullptr) == value) return digits;
    }
    return std::nullopt;
  }

  absl::StatusOr<Expression> Array(const Json& schema, const std::string& path) {
    ASSIGN_OR_RETURN(const std::optional<int32_t> min_items, Count(schema, "minItems", path));
    ASSIGN_OR_RETURN(const std::optional<int32_t> max_items, Count(schema, "maxItems", path));
    const int32_t min = min_items.value_or(0), max = max_items.value_or(kUnbounded);
    if (max != kUnbounded && min > max) return Unsupported(path, "minItems", "is above maxItems");
    if (const auto unique = schema.find("uniqueItems"); unique != schema.end() && *unique != false)
      return Unsupported(path, "uniqueItems", "is supported with the value false");
    std::vector<Expression> prefix;
    if (const auto found = schema.find("prefixItems"); found != schema.end()) {
      if (!found->is_array()) return Unsupported(path, "prefixItems", "takes an array");
      for (size_t i = 0; i < found->size(); ++i) {
        ASSIGN_OR_RETURN(Expression made, Value((*found)[i], absl::StrCat(path, "/prefixItems/", i)));
        prefix.push_back(std::move(made));
      }
      if (prefix.size() > kMaxNesting)
        return Unsupported(path, "prefixItems", absl::StrCat("takes at most ", kMaxNesting, " schemas"));
    }
    const auto items = schema.find("items");
    if (items != schema.end() && items->is_array())
      return Unsupported(path, "items", "takes one schema; use prefixItems for a list of them");
    // Behind a prefix that says nothing of the rest there is no rest.
    Expression item = ChoiceOf({});
    if (items != schema.end()) {
      ASSIGN_OR_RETURN(item, Item(*items, path + "/items"));
    } else if (prefix.empty()) {
      item = json_.AnyValue();
    }
    const auto count = static_cast<int32_t>(prefix.size());
    // At most so many, of which at least so many, behind `count` others.
    const int32_t rest_min = std::max(min - count, 0);
    const int32_t rest_max = max == kUnbounded ? kUnbounded : std::max(max - count, 0);
    Expression tail;
    if (count > 0) {
      tail = RepeatOf(SequenceOf({json_.Comma(), item}), rest_min, rest_max);
    } else if (max == 0) {
      tail = Literal("");
    } else {
      tail = SequenceOf({item, RepeatOf(SequenceOf({json_.Comma(), item}), std::max(min - 1, 0),
                                        max == kUnbounded ? kUnbounded : max - 1)});
      if (min == 0) tail = OptionalOf(std::move(tail));
    }
    for (int32_t i = count - 1; i >= 0; --i) {
      if (max != kUnbounded && i >= max) {
        tail = Literal("");
        continue;
      }
      std::vector<Expression> parts;
      if (i > 0) parts.push_back(json_.Comma());
      parts.push_back(std::move(prefix[static_cast<size_t>(i)]));
      parts.push_back(std::move(tail));
      tail = SequenceOf(std::move(parts));
      if (i >= min) tail = OptionalOf(std::move(tail));
    }
    return json_.Enclosed('[', std::move(tail), ']');
  }

  // A schema that is written several times stands in a rule of its own.
  absl::StatusOr<Expression> Item(const Json& schema, const std::string& path) {
    ASSIGN_OR_RETURN(Expression made, Value(schema, path));
    if (made.kind == Expression::Kind::kRule || made.kind == Expression::Kind::kBytes) return made;
    const int32_t rule = builder_.AddRule(path);
    builder_.Define(rule, std::move(made));
    return CallOf(rule);
  }

  absl::StatusOr<Expression> Object(const Json& schema, const std::string& path) {
    Names required;
    if (const auto found = schema.find("required"); found != schema.end()) {
      if (!found->is_array()) return Unsupported(path, "required", "takes an array of names");
      for (const Json& name : *found) {
        if (!name.is_string()) return Unsupported(path, "required", "takes an array of names");
        required.insert(name.get<std::string>());
      }
    }
    // Whatever a schema with properties does not speak of stays out, unless it asks for it.
    const Json any = true;
    const Json* others = nullptr;
    if (const auto found = schema.find("additionalProperties"); found != schema.end()) {
      if (!found->is_boolean() && !found->is_object())
        return Unsupported(path, "additionalProperties", "takes a schema, true or false");
      if (*found != false) others = &*found;
    } else if (!schema.contains("properties")) {
      others = &any;
    }
    const std::string others_path = path + "/additionalProperties";
    Expression members;
    members.kind = Expression::Kind::kMembers;
    members.parts.push_back(json_.Comma());
    std::vector<std::string> names;
    const auto add = [&](const std::string& name, Expression value) {
      members.parts.push_back(json_.Member(Literal(JsonQuoted(name)), std::move(value)));
      members.required.push_back(required.contains(name));
      names.push_back(name);
    };
    if (const auto found = schema.find("properties"); found != schema.end()) {
      if (!found->is_object()) return Unsupported(path, "properties", "takes an object of schemas");
      for (const auto& [name, value] : found->items()) {
        ASSIGN_OR_RETURN(Expression made, Value(value, absl::StrCat(path, "/properties", Step(name))));
        add(name, std::move(made));
      }
    }
    for (const std::string& name : required) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      if (others == nullptr) {
        return Unsupported(path, "required",
                           absl::StrCat("asks for '", name, "', which is not among the properties"));
      }
      ASSIGN_OR_RETURN(Expression made, Value(*others, others_path));
      add(name, std::move(made));
    }
    if (names.empty() && others == &any) return json_.AnyObject();
    if (others != nullptr) {
      ASSIGN_OR_RETURN(Expression made, Value(*others, others_path));
      members.parts.push_back(json_.Member(json_.OtherKey(names), std::move(made)));
      members.required.push_back(false);
      members.repeat_last = true;
    }
    return json_.Enclosed('{', std::move(members), '}');
  }

  const Json& root_;
  GrammarBuilder& builder_;
  JsonText json_;
  std::map<std::string, int32_t> references_;  // JSON pointers, and formats
  std::deque<Unread> unread_;
};

}  // namespace

absl::StatusOr<int32_t> ParseJsonSchema(std::string_view text, GrammarBuilder& builder) {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size())
    return absl::InvalidArgumentError(absl::StrCat("is not UTF-8: byte ", valid, " belongs to no character"));
  ASSIGN_OR_RETURN(const Json schema, Read(text));
  return SchemaReader(schema, builder).Run();
}

}  // namespace paceline
