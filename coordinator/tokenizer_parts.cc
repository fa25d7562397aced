#include "coordinator/tokenizer_parts.h"

#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/pretokenizer.h"

namespace paceline {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view part, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(part, ": ", what));
}

// The member, or null where it is absent or null itself.
const json* Member(const json& object, const char* name) {
  auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

// The "type" of a part, "" where it is no object or has none.
std::string TypeOf(const json& part) {
  const json* type = part.is_object() ? Member(part, "type") : nullptr;
  return type != nullptr && type->is_string() ? type->get_ref<const std::string&>() : "";
}

absl::StatusOr<bool> Flag(const json& object, const char* name, bool absent, absl::string_view part) {
  const json* flag = Member(object, name);
  if (flag == nullptr) return absent;
  if (!flag->is_boolean()) return Bad(absl::StrCat(part, ".", name), "is not true or false");
  return flag->get<bool>();
}

// The parts a Sequence holds under `list`, or the part itself.
absl::StatusOr<std::vector<const json*>> Flatten(const json& part, const char* list, absl::string_view name) {
  if (!part.is_object()) return Bad(name, "is not an object");
  if (TypeOf(part) != "Sequence") return std::vector<const json*>{&part};
  const json* items = Member(part, list);
  if (items == nullptr || !items->is_array())
    return Bad(name, absl::StrCat("is a Sequence without '", list, "'"));
  std::vector<const json*> out;
  for (const json& item : *items) out.push_back(&item);
  return out;
}

}  // namespace

absl::StatusOr<bool> ReadNormalizer(const json& rest) {
  const json* normalizer = Member(rest, "normalizer");
  if (normalizer == nullptr) return false;
  ASSIGN_OR_RETURN(const std::vector<const json*> items, Flatten(*normalizer, "normalizers", "normalizer"));
  for (const json* item : items) {
    if (TypeOf(*item) != "NFC") {
      return Bad("normalizer", absl::StrCat("'", TypeOf(*item), "' is not supported, only NFC is"));
    }
  }
  return !items.empty();
}

absl::StatusOr<std::vector<std::string>> ReadPretokenizer(const json& rest) {
  constexpr absl::string_view kPart = "pre_tokenizer";
  constexpr absl::string_view kExpected = "expected ByteLevel, or a Sequence of Split and ByteLevel";
  const json* pretokenizer = Member(rest, "pre_tokenizer");
  if (pretokenizer == nullptr) return Bad(kPart, absl::StrCat("is missing: ", kExpected));
  ASSIGN_OR_RETURN(const std::vector<const json*> items, Flatten(*pretokenizer, "pretokenizers", kPart));
  std::vector<std::string> patterns;
  for (size_t i = 0; i < items.size(); ++i) {
    const json& item = *items[i];
    const std::string type = TypeOf(item);
    const bool last = i + 1 == items.size();
    if (type == "ByteLevel" && last) {
      ASSIGN_OR_RETURN(const bool prefix, Flag(item, "add_prefix_space", true, kPart));
      if (prefix) return Bad(kPart, "ByteLevel with add_prefix_space is not supported");
      ASSIGN_OR_RETURN(const bool use_regex, Flag(item, "use_regex", true, kPart));
      if (use_regex) patterns.emplace_back(kByteLevelPattern.data(), kByteLevelPattern.size());
      return patterns;
    }
    if (type != "Split")
      return Bad(kPart, absl::StrCat("'", type, "' at place ", i, " is not supported: ", kExpected));
    const json* pattern = Member(item, "pattern");
    const json* regex = pattern != nullptr && pattern->is_object() ? Member(*pattern, "Regex") : nullptr;
    if (regex == nullptr || !regex->is_string())
      return Bad(kPart, "a Split without the pattern 'Regex' is not supported");
    const json* behavior = Member(item, "behavior");
    if (behavior == nullptr || !behavior->is_string() ||
        behavior->get_ref<const std::string&>() != "Isolated") {
      return Bad(kPart, "a Split whose behavior is not 'Isolated' is not supported");
    }
    ASSIGN_OR_RETURN(const bool invert, Flag(item, "invert", false, kPart));
    if (invert) return Bad(kPart, "a Split with 'invert' is not supported");
    patterns.push_back(regex->get_ref<const std::string&>());
  }
  return Bad(kPart, absl::StrCat("does not end in ByteLevel: ", kExpected));
}

absl::Status CheckDecoder(const json& rest) {
  const json* decoder = Member(rest, "decoder");
  if (decoder == nullptr) return Bad("decoder", "is missing: expected ByteLevel");
  ASSIGN_OR_RETURN(const std::vector<const json*> items, Flatten(*decoder, "decoders", "decoder"));
  if (items.size() != 1 || TypeOf(*items[0]) != "ByteLevel") {
    return Bad("decoder", absl::StrCat("'", TypeOf(*decoder), "' is not supported, only ByteLevel is"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelOptions> ReadModelOptions(const json& rest) {
  const json* model = Member(rest, "model");
  if (model == nullptr || !model->is_object()) return Bad("model", "is missing or not an object");
  if (Member(*model, "type") != nullptr && TypeOf(*model) != "BPE") {
    return Bad("model.type", absl::StrCat("'", TypeOf(*model), "' is not supported, only BPE is"));
  }
  if (const json* dropout = Member(*model, "dropout")) {
    if (!dropout->is_number() || dropout->get<double>() != 0.0)
      return Bad("model.dropout", "is not supported");
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json* text = Member(*model, name);
    if (text != nullptr && !(text->is_string() && text->get_ref<const std::string&>().empty())) {
      return Bad(absl::StrCat("model.", name), "is not supported");
    }
  }
  ModelOptions options;
  ASSIGN_OR_RETURN(options.ignore_merges, Flag(*model, "ignore_merges", false, "model"));
  ASSIGN_OR_RETURN(const bool byte_fallback, Flag(*model, "byte_fallback", false, "model"));
  options.needs_all_bytes = byte_fallback || Member(*model, "unk_token") != nullptr;
  return options;
}

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const json& rest) {
  std::vector<AddedToken> tokens;
  const json* list = Member(rest, "added_tokens");
  if (list == nullptr) return tokens;
  if (!list->is_array()) return Bad("added_tokens", "is not an array");
  for (const json& item : *list) {
    const std::string part = absl::StrCat("added_tokens[", tokens.size(), "]");
    if (!item.is_object()) return Bad(part, "is not an object");
    AddedToken token;
    const json* id = Member(item, "id");
    if (id == nullptr || !id->is_number_unsigned() ||
        id->get<uint64_t>() > std::numeric_limits<TokenId>::max()) {
      return Bad(absl::StrCat(part, ".id"), "is missing or not an id");
    }
    token.id = static_cast<TokenId>(id->get<uint64_t>());
    const json* content = Member(item, "content");
    if (content == nullptr || !content->is_string())
      return Bad(absl::StrCat(part, ".content"), "is missing or not a string");
    token.content = content->get_ref<const std::string&>();
    const std::pair<const char*, bool*> flags[] = {{"single_word", &token.single_word},
                                                   {"lstrip", &token.lstrip},
                                                   {"rstrip", &token.rstrip},
                                                   {"normalized", &token.normalized},
                                                   {"special", &token.special}};
    for (const auto& [name, flag] : flags) {
      if (Member(item, name) == nullptr) return Bad(absl::StrCat(part, ".", name), "is missing");
      ASSIGN_OR_RETURN(*flag, Flag(item, name, false, part));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace paceline
