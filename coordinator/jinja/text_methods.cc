// The methods of Python's str that templates may call.
#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/str_cat.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/text.h"

namespace paceline::jinja {
namespace {

Value Same(Runtime& runtime, const Value& self, std::string_view text) {
  return runtime.NewText(std::string(text), self.text_object().markup);
}

// Without arguments: a text made of the text.
template <std::string (*function)(std::string_view)>
Value Map(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "method", arguments, {});
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  return Same(runtime, self, function(self.text()));
}

template <bool (*function)(std::string_view)>
Value Ask(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "method", arguments, {});
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  return Value::Bool(function(self.text()));
}

template <CharacterClass of>
bool All(std::string_view text) {
  return AllOf(text, of);
}

bool AsciiOnly(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

template <Side side>
Value StripMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "strip", arguments, {"/chars"});
  if (!bound) return {};
  if (bound.Given(0) == nullptr) return Same(runtime, self, Strip(self.text(), side));
  const std::string_view characters = bound.Text(0, "");
  return bound ? Same(runtime, self, Strip(self.text(), characters, side)) : Value();
}

Value Pieces(Runtime& runtime, const Value& self, const std::vector<std::string_view>& pieces) {
  std::vector<Value> items;
  items.reserve(pieces.size());
  for (const std::string_view piece : pieces) items.push_back(Same(runtime, self, piece));
  return runtime.NewList(std::move(items));
}

template <bool from_right>
Value SplitMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "split", arguments, {"sep", "maxsplit"});
  if (!bound) return {};
  const int64_t limit = bound.Int(1, -1);
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  if (bound.Given(0) == nullptr) return Pieces(runtime, self, SplitSpace(self.text(), limit, from_right));
  const std::string_view separator = bound.Text(0, "");
  if (!bound) return {};
  if (separator.empty()) return runtime.Fail("empty separator");
  return Pieces(runtime, self, SplitAt(self.text(), separator, limit, from_right));
}

Value SplitLinesMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "splitlines", arguments, {"keepends"});
  if (!bound || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  return Pieces(runtime, self, SplitLines(self.text(), bound.Truth(0, false)));
}

template <bool from_right>
Value PartitionMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "partition", arguments, {"/sep"}, 1);
  if (!bound) return {};
  const std::string_view separator = bound.Text(0, "");
  if (!bound) return {};
  if (separator.empty()) return runtime.Fail("empty separator");
  const std::vector<std::string_view> parts = SplitAt(self.text(), separator, 1, from_right);
  std::vector<Value> items;
  if (parts.size() == 2) {
    items = {Same(runtime, self, parts[0]), Same(runtime, self, separator), Same(runtime, self, parts[1])};
  } else if (from_right) {
    items = {Value::Text(""), Value::Text(""), self};
  } else {
    items = {self, Value::Text(""), Value::Text("")};
  }
  return runtime.NewTuple(std::move(items));
}

// Nothing, not even an empty text, is found behind the end.
bool StartsBehindEnd(const Value& self, const Bound& bound) {
  return bound[1] != nullptr && bound[1]->is_integral() && bound[1]->integer() > self.text_object().length;
}

// self[start:end] for the methods that take bounds.
std::optional<Value> Part(Runtime& runtime, const Value& self, const Bound& bound) {
  if (bound[1] == nullptr && bound[2] == nullptr) return self;
  const auto at = [&](size_t i) { return bound[i] == nullptr ? Value::None() : *bound[i]; };
  Value part = runtime.GetSlice(self, at(1), at(2), Value::None());
  if (runtime.failed()) return std::nullopt;
  return part;
}

template <bool front>
Value AffixMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const char* const name = front ? "startswith" : "endswith";
  const Bound bound(runtime, name, arguments, {"/affix", "/start", "/end"}, 1);
  if (!bound) return {};
  const std::optional<Value> part = Part(runtime, self, bound);
  if (!part) return {};
  const auto has = [&](const Value& affix) {
    return front ? part->text().starts_with(affix.text()) : part->text().ends_with(affix.text());
  };
  const Value& affix = *bound[0];
  if (StartsBehindEnd(self, bound)) return Value::Bool(false);
  if (affix.is_text()) return Value::Bool(has(affix));
  if (affix.is_sequence() && affix.sequence().tuple()) {
    for (const Value& one : affix.sequence().items) {
      if (!one.is_text()) {
        return runtime.Fail(absl::StrCat("tuple for ", name, " must only contain str, not ", TypeName(one)));
      }
      if (has(one)) return Value::Bool(true);
    }
    return Value::Bool(false);
  }
  return runtime.Fail(absl::StrCat(name, " first arg must be str or a tuple of str, not ", TypeName(affix)));
}

enum class Find { kFind, kRightFind, kIndex, kRightIndex };
template <Find how>
Value FindMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "find", arguments, {"/sub", "/start", "/end"}, 1);
  if (!bound) return {};
  const std::string_view needle = bound.Text(0, "");
  const std::optional<Value> part = bound ? Part(runtime, self, bound) : std::nullopt;
  if (!part || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  const bool right = how == Find::kRightFind || how == Find::kRightIndex;
  const std::string_view text = part->text();
  int64_t start = bound[1] == nullptr || bound[1]->is_none() ? 0 : bound[1]->integer();
  if (start < 0) start = std::max<int64_t>(0, start + self.text_object().length);
  const size_t at = start > self.text_object().length ? std::string_view::npos
                    : right                           ? text.rfind(needle)
                                                      : text.find(needle);
  if (at != std::string_view::npos) return Value::Int(start + PointsIn(text.substr(0, at)));
  if (how == Find::kIndex || how == Find::kRightIndex) return runtime.Fail("substring not found");
  return Value::Int(-1);
}

Value CountMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "count", arguments, {"/sub", "/start", "/end"}, 1);
  if (!bound) return {};
  const std::string_view needle = bound.Text(0, "");
  const std::optional<Value> part = bound ? Part(runtime, self, bound) : std::nullopt;
  if (!part || !runtime.Spend(static_cast<int64_t>(self.text().size()) / 16)) return {};
  return Value::Int(StartsBehindEnd(self, bound) ? 0 : Count(part->text(), needle));
}

Value ReplaceMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "replace", arguments, {"/old", "/new", "/count"}, 2);
  if (!bound) return {};
  const std::string_view old_text = bound.Text(0, ""), new_text = bound.Text(1, "");
  const int64_t limit = bound.Int(2, -1);
  if (!bound) return {};
  const int64_t places = Count(self.text(), old_text);
  const std::string put = self.text_object().markup && !bound[1]->text_object().markup
                              ? EscapeHtml(new_text)
                              : std::string(new_text);
  if (!runtime.Spend(static_cast<int64_t>(self.text().size()) / 16,
                     places * static_cast<int64_t>(put.size())))
    return {};
  return Same(runtime, self, Replace(self.text(), old_text, put, limit));
}

Value JoinMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Bound bound(runtime, "join", arguments, {"/iterable"}, 1);
  if (!bound) return {};
  const auto items = runtime.Iterate(*bound[0]);
  if (!items) return {};
  std::string out;
  for (size_t i = 0; i < items->size(); ++i) {
    const Value& item = (*items)[i];
    if (!item.is_text()) {
      return runtime.Fail(
          absl::StrCat("sequence item ", i, ": expected str instance, ", TypeName(item), " found"));
    }
    if (i > 0) out += self.text();
    out += self.text_object().markup && !item.text_object().markup ? EscapeHtml(item.text()) : item.text();
    if (!runtime.Spend(1, static_cast<int64_t>(item.text().size() + self.text().size()))) return {};
  }
  return runtime.NewText(std::move(out), self.text_object().markup);
}

enum class Align { kLeft, kRight, kCenter };
template <Align align>
Value PadMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "just", arguments, {"/width", "/fillchar"}, 1);
  if (!bound) return {};
  const int64_t width = bound.Int(0, 0);
  const std::string_view fill = bound.Text(1, " ");
  if (!bound) return {};
  if (PointsIn(fill) != 1) return runtime.Fail("The fill character must be exactly one character long");
  const int64_t missing = width - self.text_object().length;
  if (missing <= 0) return self;
  if (missing > (int64_t{1} << 32) || !runtime.Spend(0, missing * static_cast<int64_t>(fill.size()))) {
    return runtime.Fail("a text is made too wide");
  }
  // Python puts the odd one to the left when the width is odd.
  const int64_t left = align == Align::kLeft    ? 0
                       : align == Align::kRight ? missing
                                                : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return Same(runtime, self, out);
}

Value ZeroFillMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, "zfill", arguments, {"/width"}, 1);
  const int64_t width = bound ? bound.Int(0, 0) : 0;
  if (!bound) return {};
  const int64_t missing = width - self.text_object().length;
  if (missing <= 0) return self;
  if (missing > (int64_t{1} << 32) || !runtime.Spend(0, missing))
    return runtime.Fail("a text is made too wide");
  const std::string& text = self.text();
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  return Same(runtime, self,
              text.substr(0, sign) + std::string(static_cast<size_t>(missing), '0') + text.substr(sign));
}

template <bool front>
Value RemoveAffixMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  Bound bound(runtime, front ? "removeprefix" : "removesuffix", arguments, {"/affix"}, 1);
  const std::string_view affix = bound ? bound.Text(0, "") : "";
  if (!bound) return {};
  std::string_view text = self.text();
  if (front && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!front && text.ends_with(affix)) text.remove_suffix(affix.size());
  return Same(runtime, self, text);
}

Value FormatMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  return Same(runtime, self, FormatBraces(runtime, self.text(), arguments));
}

}  // namespace

Builtin FindTextMethod(std::string_view name) {
  static const std::map<std::string_view, Builtin> methods = {
      {"capitalize", Map<Capitalize>},
      {"casefold", Map<CaseFold>},
      {"center", PadMethod<Align::kCenter>},
      {"count", CountMethod},
      {"endswith", AffixMethod<false>},
      {"find", FindMethod<Find::kFind>},
      {"format", FormatMethod},
      {"index", FindMethod<Find::kIndex>},
      {"isalnum", Ask<All<CharacterClass::kAlnum>>},
      {"isalpha", Ask<All<CharacterClass::kAlpha>>},
      {"isascii", Ask<AsciiOnly>},
      {"isdecimal", Ask<All<CharacterClass::kDecimal>>},
      {"isdigit", Ask<All<CharacterClass::kDigit>>},
      {"islower", Ask<IsLower>},
      {"isnumeric", Ask<All<CharacterClass::kNumeric>>},
      {"isprintable", Ask<All<CharacterClass::kPrintable>>},
      {"isspace", Ask<All<CharacterClass::kSpace>>},
      {"isupper", Ask<IsUpper>},
      {"join", JoinMethod},
      {"ljust", PadMethod<Align::kLeft>},
      {"lower", Map<Lower>},
      {"lstrip", StripMethod<Side::kLeft>},
      {"partition", PartitionMethod<false>},
      {"removeprefix", RemoveAffixMethod<true>},
      {"removesuffix", RemoveAffixMethod<false>},
      {"replace", ReplaceMethod},
      {"rfind", FindMethod<Find::kRightFind>},
      {"rindex", FindMethod<Find::kRightIndex>},
      {"rjust", PadMethod<Align::kRight>},
      {"rpartition", PartitionMethod<true>},
      {"rsplit", SplitMethod<true>},
      {"rstrip", StripMethod<Side::kRight>},
      {"split", SplitMethod<false>},
      {"splitlines", SplitLinesMethod},
      {"startswith", AffixMethod<true>},
      {"strip", StripMethod<Side::kBoth>},
      {"swapcase", Map<SwapCase>},
      {"title", Map<Title>},
      {"upper", Map<Upper>},
      {"zfill", ZeroFillMethod},
  };
  const auto found = methods.find(name);
  return found == methods.end() ? nullptr : found->second;
}

}  // namespace paceline::jinja
