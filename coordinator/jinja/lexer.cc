#include "coordinator/jinja/lexer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/jinja/number.h"
#include "coordinator/jinja/text.h"
#include "coordinator/utf8.h"

namespace paceline::jinja {
namespace {

std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  return out;
}

bool IsWordByte(char c) {
  return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)) {
    if (source_.ends_with('\n')) source_.pop_back();
  }

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(Root());
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Wrong(std::string_view sentence) const { return TemplateError(line_, sentence); }
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }

  void Add(Token::Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  // Moves on, counting lines.
  void Advance(size_t bytes) {
    line_ +=
        static_cast<int32_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                        source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
  }

  void SkipSpace() {
    const std::string_view rest = Rest();
    Advance(rest.size() - Strip(rest, Side::kLeft).size());
  }

  // Text up to the next tag, and the tag.
  absl::Status Root() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        Add(Token::Kind::kData, source_.substr(at_));
        Advance(source_.size() - at_);
        return absl::OkStatus();
      }
      const char next = source_[open + 1];
      if (next == '%' || next == '{' || next == '#') break;
      ++open;
    }
    const char tag = source_[open + 1];
    size_t after = open + 2;
    const char sign =
        after < source_.size() && (source_[after] == '-' || source_[after] == '+') ? source_[after] : ' ';
    if (sign != ' ') ++after;
    Data(std::string_view(source_).substr(at_, open - at_), sign, tag != '{');
    Advance(after - at_);
    switch (tag) {
      case '#':
        return Comment();
      case '%': {
        if (const size_t raw = RawTag("raw"); raw > 0) return Raw(raw);
        Add(Token::Kind::kBlockBegin, "");
        return Inside(true);
      }
      default:
        Add(Token::Kind::kVariableBegin, "");
        return Inside(false);
    }
  }

  // The text in front of a tag that begins with `sign`.
  void Data(std::string_view text, char sign, bool strips_line) {
    std::string_view kept = text;
    if (sign == '-') {
      kept = Strip(text, Side::kRight);
    } else if (sign != '+' && strips_line) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && Strip(text.substr(start)).empty()) kept = text.substr(0, start);
    }
    if (!kept.empty()) Add(Token::Kind::kData, std::string(kept));
    Advance(text.size());
  }

  // Bytes of `name` and the end of its tag at the cursor, behind the tag's beginning; 0 when it is another
  // tag. A raw tag keeps the newline behind it.
  size_t RawTag(std::string_view name) const {
    const std::string_view rest = Rest();
    std::string_view cursor = Strip(rest, Side::kLeft);
    if (!cursor.starts_with(name)) return 0;
    cursor = Strip(cursor.substr(name.size()), Side::kLeft);
    if (cursor.starts_with("%}")) return rest.size() - cursor.size() + 2;
    if (cursor.starts_with("-%}")) return rest.size() - Strip(cursor.substr(3), Side::kLeft).size();
    return 0;
  }

  absl::Status Raw(size_t tag) {
    const int32_t line = line_;
    Advance(tag);
    line_starting_ = source_[at_ - 1] == '\n';
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 1)) {
      size_t after = open + 2;
      const char sign =
          after < source_.size() && (source_[after] == '-' || source_[after] == '+') ? source_[after] : ' ';
      if (sign != ' ') ++after;
      std::string_view cursor = Strip(std::string_view(source_).substr(after), Side::kLeft);
      if (!cursor.starts_with("endraw")) continue;
      cursor = Strip(cursor.substr(6), Side::kLeft);
      size_t end = source_.size() - cursor.size();
      if (!EndOfTag(&end, "%}", true)) continue;
      Data(std::string_view(source_).substr(at_, open - at_), sign, true);
      Advance(end - at_);
      line_starting_ = source_[at_ - 1] == '\n';
      return absl::OkStatus();
    }
    line_ = line;
    return Wrong("Missing end of raw directive");
  }

  // Whether a tag ends at `*at`; moves it behind the end and what the end strips.
  bool EndOfTag(size_t* at, std::string_view end, bool block) const {
    const std::string_view rest = std::string_view(source_).substr(*at);
    if (block && rest.starts_with('+') && rest.substr(1).starts_with(end)) {
      *at += 1 + end.size();
      return true;
    }
    if (rest.starts_with('-') && rest.substr(1).starts_with(end)) {
      *at = source_.size() - Strip(rest.substr(1 + end.size()), Side::kLeft).size();
      return true;
    }
    if (!rest.starts_with(end)) return false;
    *at += end.size();
    if (block && *at < source_.size() && source_[*at] == '\n') ++*at;
    return true;
  }

  absl::Status Comment() {
    for (size_t end = at_; end < source_.size(); ++end) {
      const char c = source_[end];
      if (c != '#' && c != '-' && c != '+') continue;
      size_t after = end;
      if (!EndOfTag(&after, "#}", true)) continue;
      Advance(after - at_);
      line_starting_ = source_[at_ - 1] == '\n';
      return absl::OkStatus();
    }
    return Wrong("Missing end of comment tag");
  }

  // The tokens of a block or an expression.
  absl::Status Inside(bool block) {
    std::vector<char> open;  // brackets still to be closed: until then "}}" is two of them
    while (true) {
      SkipSpace();
      if (open.empty()) {
        size_t end = at_;
        if (EndOfTag(&end, block ? "%}" : "}}", block)) {
          Add(block ? Token::Kind::kBlockEnd : Token::Kind::kVariableEnd, "");
          Advance(end - at_);
          line_starting_ = source_[at_ - 1] == '\n';
          return absl::OkStatus();
        }
      }
      if (at_ >= source_.size()) {
        Add(Token::Kind::kEnd, "");
        return absl::OkStatus();
      }
      const char c = source_[at_];
      if (IsDigit(c)) {
        RETURN_IF_ERROR(Number());
      } else if (IsWordByte(c)) {
        RETURN_IF_ERROR(Name());
      } else if (c == '"' || c == '\'') {
        RETURN_IF_ERROR(Text());
      } else {
        RETURN_IF_ERROR(Sign(&open));
      }
    }
  }

  absl::Status Name() {
    size_t end = at_;
    while (end < source_.size() && IsWordByte(source_[end])) ++end;
    const std::string name = source_.substr(at_, end - at_);
    // Letters of any script; numbers of other scripts cannot begin a name and signs are in none.
    for (size_t i = 0; i < name.size();) {
      const size_t length = ReadUtf8(std::string_view(name).substr(i)).length;
      const std::string_view c = std::string_view(name).substr(i, length);
      if (length > 1 && !AllOf(c, i == 0 ? CharacterClass::kAlpha : CharacterClass::kAlnum)) {
        return Wrong("Invalid character in identifier");
      }
      i += length;
    }
    Add(Token::Kind::kName, name);
    Advance(name.size());
    return absl::OkStatus();
  }

  // Digits with single underscores between them, from `from`.
  size_t Digits(size_t from) const {
    size_t end = from;
    while (end < source_.size() &&
           (IsDigit(source_[end]) || (source_[end] == '_' && end > from && end + 1 < source_.size() &&
                                      IsDigit(source_[end + 1]) && IsDigit(source_[end - 1])))) {
      ++end;
    }
    return end;
  }

  absl::Status Number() {
    const bool behind_dot = at_ > 0 && source_[at_ - 1] == '.';  // x.1.2: two items, no float
    size_t end = Digits(at_);
    bool whole = true;
    if (!behind_dot) {
      size_t fraction = end;
      if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1]))
        fraction = Digits(end + 1);
      size_t exponent = fraction;
      if (fraction < source_.size() && (source_[fraction] | 32) == 'e') {
        size_t digits = fraction + 1;
        if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
        if (digits < source_.size() && IsDigit(source_[digits])) exponent = Digits(digits);
      }
      whole = exponent == end;
      end = exponent;
    }
    if (!whole) {
      const std::string text = source_.substr(at_, end - at_);
      const std::optional<double> value = ParseFloat(text);
      if (!value) return Wrong(absl::StrCat("cannot read the number ", text));
      Add(Token::Kind::kFloat, text);
      tokens_.back().number = *value;
      Advance(text.size());
      return absl::OkStatus();
    }
    if (source_[at_] == '0') {
      // 0x, 0o, 0b with digits of their own; else only zeros may follow a zero.
      const char mark = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 32) : ' ';
      const std::string_view digits = mark == 'x'   ? "0123456789abcdefABCDEF_"
                                      : mark == 'o' ? "01234567_"
                                      : mark == 'b' ? "01_"
                                                    : "";
      const size_t stop =
          digits.empty() ? 0 : std::min(source_.find_first_not_of(digits, at_ + 2), source_.size());
      if (stop > at_ + 2) {
        end = stop;
      } else {
        end = std::min(source_.find_first_not_of("0_", at_), source_.size());
      }
    }
    const std::string text = source_.substr(at_, end - at_);
    const std::optional<int64_t> value = ParseInt(text, 0);
    if (!value) return Wrong(absl::StrCat("the number ", text, " does not fit into 64 bits"));
    Add(Token::Kind::kInteger, text);
    tokens_.back().integer = *value;
    Advance(text.size());
    return absl::OkStatus();
  }

  absl::Status Text() {
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size())
      return Wrong(absl::StrCat("unexpected char '", std::string(1, quote), "': a string without end"));
    std::string out;
    const std::string_view body = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    for (size_t i = 0; i < body.size();) {
      if (body[i] != '\\') {
        out += body[i++];
        continue;
      }
      RETURN_IF_ERROR(Escape(body, &i, &out));
    }
    Add(Token::Kind::kText, std::move(out));
    Advance(end + 1 - at_);
    return absl::OkStatus();
  }

  // One escape of Python's strings at body[*i]; an unknown one stays as it is written.
  absl::Status Escape(std::string_view body, size_t* i, std::string* out) const {
    const char c = body[*i + 1];
    *i += 2;
    constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t simple = kFrom.find(c); simple != std::string_view::npos) {
      *out += kTo[simple];
      return absl::OkStatus();
    }
    if (c == '\n') return absl::OkStatus();
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    int base = 16;
    if (c >= '0' && c <= '7') {
      base = 8;
      --*i;
      while (digits < 3 && *i + digits < body.size() && body[*i + digits] >= '0' && body[*i + digits] <= '7')
        ++digits;
    }
    if (digits == 0) {
      if (c == 'N') return Wrong("\\N{..} in a string is not covered");
      *out += '\\';
      *out += c;
      return absl::OkStatus();
    }
    const std::string_view number = body.substr(std::min(*i, body.size()), digits);
    // -1: no number.
    const int64_t value = number.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos
                              ? ParseInt(number, base).value_or(-1)
                              : -1;
    if (number.size() != digits || value < 0)
      return Wrong(absl::StrCat("truncated \\", std::string(1, c), " escape in a string"));
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return Wrong("an escape in a string stands for no character");
    }
    AppendUtf8(static_cast<char32_t>(value), out);
    *i += digits;
    return absl::OkStatus();
  }

  absl::Status Sign(std::vector<char>* open) {
    constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    const std::string_view rest = Rest();
    for (const std::string_view sign : kTwo) {
      if (!rest.starts_with(sign)) continue;
      Add(Token::Kind::kOperator, std::string(sign));
      Advance(2);
      return absl::OkStatus();
    }
    const char c = rest[0];
    if (kOne.find(c) == std::string_view::npos) {
      return Wrong(
          absl::StrCat("unexpected char '", std::string(rest.substr(0, ReadUtf8(rest).length)), "'"));
    }
    if (c == '(' || c == '[' || c == '{') open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open->empty()) return Wrong(absl::StrCat("unexpected '", std::string(1, c), "'"));
      if (open->back() != c) {
        return Wrong(absl::StrCat("unexpected '", std::string(1, c), "', expected '",
                                  std::string(1, open->back()), "'"));
      }
      open->pop_back();
    }
    Add(Token::Kind::kOperator, std::string(1, c));
    Advance(1);
    return absl::OkStatus();
  }

  std::string source_;
  size_t at_ = 0;
  int32_t line_ = 1;
  bool line_starting_ = true;  // the cursor stands at the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status TemplateError(int32_t line, std::string_view sentence) {
  return absl::InvalidArgumentError(
      absl::StrCat("line ", line, ": ", absl::string_view(sentence.data(), sentence.size())));
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  if (const size_t valid = ValidUtf8Prefix(source); valid != source.size()) {
    return absl::InvalidArgumentError(absl::StrCat("byte ", valid, " is not UTF-8"));
  }
  return Lexer(source).Run();
}

}  // namespace paceline::jinja
