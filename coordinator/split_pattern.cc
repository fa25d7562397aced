#include "coordinator/split_pattern.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "coordinator/code_point_set.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

// A class is some 10 KB of ranges; real patterns hold a dozen. PCRE2 would refuse larger ones anyway.
constexpr size_t kMaxRewrittenBytes = 4 << 20;
constexpr size_t kMaxGroupDepth = 200;
constexpr char32_t kLineFeed = 0x0A;

std::string Literal(char32_t c) { return absl::StrFormat("\\x{%x}", static_cast<uint32_t>(c)); }

bool IsAsciiLetterOrDigit(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

class Rewriter {
 public:
  explicit Rewriter(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    if (ValidUtf8Prefix(pattern_) != pattern_.size()) return Refuse("text that is not UTF-8");
    if (Take("(?i)")) ignore_case_.back() = true;
    while (at_ < pattern_.size()) {
      RETURN_IF_ERROR(Element());
      if (out_.size() > kMaxRewrittenBytes) return Refuse("so many character classes");
    }
    if (ignore_case_.size() != 1) return Refuse("a group that is not closed");
    return std::move(out_);
  }

 private:
  absl::Status Refuse(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("the pattern has ",
                                                   absl::string_view(what.data(), what.size()),
                                                   " before byte ", at_, ", which is not supported"));
  }

  bool Take(std::string_view token) {
    if (pattern_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  char32_t Next() {
    const Utf8Unit unit = ReadUtf8(pattern_.substr(at_));
    at_ += unit.length;
    return unit.code_point;
  }

  absl::Status Element() {
    const char32_t c = Next();
    // Only characters that follow one another at once can match a single one by case folding ("ss" and
    // U+00DF).
    if (c != '\\') {
      switch (c) {
        case '(':
          literals_.clear();
          return OpenGroup();
        case ')':
          literals_.clear();
          if (ignore_case_.size() == 1) return Refuse("')' without '('");
          ignore_case_.pop_back();
          out_ += ')';
          return absl::OkStatus();
        case '|':
          literals_.clear();
          out_ += '|';
          return absl::OkStatus();
        case '.':
          literals_.clear();
          out_ += "[^\\n]";
          return absl::OkStatus();
        case '^':
          literals_.clear();
          out_ += "(?m:^)";
          return absl::OkStatus();
        case '$':
          literals_.clear();
          out_ += "(?m:$)";
          return absl::OkStatus();
        case '*':
        case '+':
        case '?':
          literals_.clear();
          out_ += static_cast<char>(c);
          // A second sign means the same to both engines: possessive or lazy.
          if (Take("+")) {
            out_ += '+';
          } else if (Take("?")) {
            out_ += '?';
          }
          return absl::OkStatus();
        case '{':
          return Interval();
        case '[':
          literals_.clear();
          return Class();
        default:
          return AddLiteral(c);
      }
    }
    if (at_ == pattern_.size()) return Refuse("a backslash at its end");
    ASSIGN_OR_RETURN(const Escape escape, ReadEscape());
    if (escape.is_set) {
      literals_.clear();
      out_ += escape.set.ToPcre();
      return absl::OkStatus();
    }
    if (escape.anchor != 0) {
      literals_.clear();
      out_ += '\\';
      out_ += escape.anchor;
      return absl::OkStatus();
    }
    return AddLiteral(escape.code_point);
  }

  absl::Status OpenGroup() {
    bool ignore_case = ignore_case_.back();
    if (!Take("?")) {
      out_ += "(?:";  // nothing can refer to a capture
    } else if (Take(":")) {
      out_ += "(?:";
    } else if (Take("i:")) {
      ignore_case = true;
      out_ += "(?:";
    } else if (Take("-i:")) {
      ignore_case = false;
      out_ += "(?:";
    } else {
      bool known = false;
      for (std::string_view kind : {"=", "!", ">", "<=", "<!"}) {
        if (!known && Take(kind)) {
          known = true;
          absl::StrAppend(&out_, "(?", absl::string_view(kind.data(), kind.size()));
        }
      }
      if (!known) {
        const std::string_view shown = pattern_.substr(at_, 1);
        return Refuse(absl::StrCat("a group '(?", absl::string_view(shown.data(), shown.size()), "'"));
      }
    }
    ignore_case_.push_back(ignore_case);
    if (ignore_case_.size() > kMaxGroupDepth) return Refuse("so many groups in one another");
    return absl::OkStatus();
  }

  // {n}, {n,}, {,m}, {n,m}; any other brace is a plain character.
  absl::Status Interval() {
    size_t end = at_;
    const auto number = [&]() -> std::optional<int> {
      int value = 0;
      const size_t begin = end;
      while (end < pattern_.size() && end - begin < 6 && pattern_[end] >= '0' && pattern_[end] <= '9') {
        value = value * 10 + (pattern_[end++] - '0');
      }
      return end == begin ? std::nullopt : std::optional<int>(value);
    };
    const std::optional<int> low = number();
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    std::optional<int> high = low;
    if (comma) {
      ++end;
      high = number();
    }
    if ((!low && !high) || end >= pattern_.size() || pattern_[end] != '}') return AddLiteral('{');
    at_ = end + 1;
    literals_.clear();
    if (low && high && *low > *high) return Refuse("an interval whose bounds are exchanged");
    const char next = at_ < pattern_.size() ? pattern_[at_] : '\0';
    if (next == '+' || (next == '?' && !comma)) return Refuse("a sign behind an interval");
    absl::StrAppend(&out_, "{", low.value_or(0));
    if (comma) absl::StrAppend(&out_, ",", high ? absl::StrCat(*high) : "");
    out_ += '}';
    if (Take("?")) out_ += '?';
    return absl::OkStatus();
  }

  struct Escape {
    bool is_set = false;
    CodePointSet set;
    char anchor = 0;
    char32_t code_point = 0;
  };

  // Behind a backslash.
  absl::StatusOr<Escape> ReadEscape() {
    Escape escape;
    const char32_t c = Next();
    switch (c) {
      case 'n':
        escape.code_point = kLineFeed;
        return escape;
      case 't':
        escape.code_point = 0x09;
        return escape;
      case 'r':
        escape.code_point = 0x0D;
        return escape;
      case 'f':
        escape.code_point = 0x0C;
        return escape;
      case 'v':
        escape.code_point = 0x0B;
        return escape;
      case 'a':
        escape.code_point = 0x07;
        return escape;
      case 'e':
        escape.code_point = 0x1B;
        return escape;
      case 'A':
      case 'z':
        escape.anchor = static_cast<char>(c);
        return escape;
      case 's':
      case 'S':
        escape.is_set = true;
        escape.set = CodePointSet(kSpaceRanges);
        if (c == 'S') escape.set.Invert();
        return escape;
      case 'd':
      case 'D':
        escape.is_set = true;
        CodePointSet::ForProperty("Nd", &escape.set);
        if (c == 'D') escape.set.Invert();
        return escape;
      case 'p':
      case 'P':
        return Property(c == 'P');
      case 'x':
        if (Take("{")) return CodePoint(8, "}");
        return CodePoint(2, "");
      case 'u':
        return CodePoint(4, "");
      default:
        break;
    }
    if (IsAsciiLetterOrDigit(c))
      return Refuse(absl::StrCat("'\\", std::string(1, static_cast<char>(c)), "'"));
    escape.code_point = c;
    return escape;
  }

  absl::StatusOr<Escape> Property(bool negated) {
    const size_t end = pattern_.find('}', at_);
    if (!Take("{") || end == std::string_view::npos) return Refuse("'\\p' without a name in braces");
    if (Take("^")) negated = !negated;
    const std::string_view name = pattern_.substr(at_, end - at_);
    Escape escape;
    escape.is_set = true;
    if (!CodePointSet::ForProperty(name, &escape.set)) {
      return Refuse(absl::StrCat("the property '",
                                 absl::string_view(name.data(), std::min<size_t>(name.size(), 40)), "'"));
    }
    if (negated) escape.set.Invert();
    at_ = end + 1;
    return escape;
  }

  // `digits` hexadecimal digits, or up to so many where a terminator ends them.
  absl::StatusOr<Escape> CodePoint(size_t digits, std::string_view terminator) {
    Escape escape;
    size_t count = 0;
    uint64_t value = 0;
    while (count < digits && at_ < pattern_.size() && IsAsciiLetterOrDigit(pattern_[at_]) &&
           (pattern_[at_] <= '9' || (pattern_[at_] | 0x20) <= 'f')) {
      const char d = pattern_[at_++];
      value = value * 16 + (d <= '9' ? d - '0' : (d | 0x20) - 'a' + 10);
      ++count;
    }
    const bool complete = terminator.empty() ? count == digits : count > 0 && Take(terminator);
    // A lone byte above 0x7F would be a part of a character.
    if (!complete || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF) ||
        (digits == 2 && value > 0x7F)) {
      return Refuse("a number that is no code point");
    }
    escape.code_point = static_cast<char32_t>(value);
    return escape;
  }

  absl::Status AddLiteral(char32_t c) {
    if (!ignore_case_.back()) {
      literals_.clear();
      out_ += Literal(c);
      return absl::OkStatus();
    }
    if (CodePointSet(kFoldsToSeveral).Contains(c)) {
      return Refuse("a character that is several when case is ignored");
    }
    const CodePointSet matches = CaseClass(c);
    literals_.push_back(matches);
    for (const CaseExpansion& expansion : kCaseExpansions) {
      const size_t length = expansion.text[2] != 0 ? 3 : 2;
      if (literals_.size() < length) continue;
      bool same = true;
      for (size_t i = 0; i < length && same; ++i) {
        same = literals_[literals_.size() - length + i].Contains(expansion.text[i]);
      }
      if (same) return Refuse("characters that one character matches when case is ignored");
    }
    out_ += matches.ToPcre();
    return absl::OkStatus();
  }

  // Behind '['.
  absl::Status Class() {
    CodePointSet set;
    const bool negated = Take("^");
    for (bool first = true;; first = false) {
      if (at_ == pattern_.size()) return Refuse("a character class that is not closed");
      if (!first && Take("]")) break;
      if (pattern_.substr(at_, 1) == "[") return Refuse("a character class inside another");
      if (pattern_.substr(at_, 2) == "&&") return Refuse("'&&' in a character class");
      ASSIGN_OR_RETURN(const Escape low, ClassItem());
      if (low.is_set) {
        set.Add(low.set);
        continue;
      }
      char32_t last = low.code_point;
      if (pattern_.substr(at_, 1) == "-" && pattern_.substr(at_, 2) != "-]") {
        ++at_;
        if (at_ == pattern_.size()) return Refuse("a character class that is not closed");
        if (pattern_.substr(at_, 1) == "[") return Refuse("a character class inside another");
        ASSIGN_OR_RETURN(const Escape high, ClassItem());
        if (high.is_set || high.code_point < low.code_point) return Refuse("a range without an end");
        last = high.code_point;
      }
      set.Add(low.code_point, last);
    }
    if (ignore_case_.back()) {
      if (set.Intersects(CodePointSet(kFoldsToSeveral))) {
        return Refuse("a character that is several when case is ignored");
      }
      set.CloseOverCase();
    }
    if (negated) set.Invert();
    out_ += set.ToPcre();
    return absl::OkStatus();
  }

  absl::StatusOr<Escape> ClassItem() {
    Escape item;
    item.code_point = Next();
    if (item.code_point != '\\') return item;
    if (at_ == pattern_.size()) return Refuse("a backslash at its end");
    if (Take("b")) {
      item.code_point = 0x08;
      return item;
    }
    ASSIGN_OR_RETURN(item, ReadEscape());
    if (item.anchor != 0) return Refuse("an anchor in a character class");
    return item;
  }

  const std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
  std::vector<bool> ignore_case_{false};  // one per open group, the whole pattern first
  std::vector<CodePointSet>
      literals_;  // what each character of the run before matches; while case is ignored
};

}  // namespace

absl::StatusOr<std::string> RewriteSplitPattern(std::string_view pattern) { return Rewriter(pattern).Run(); }

}  // namespace paceline
