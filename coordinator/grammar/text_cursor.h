// Reading a pattern or a grammar code point by code point. For the parsers of this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "coordinator/utf8.h"

namespace paceline {

class TextCursor {
 public:
  explicit TextCursor(std::string_view text) : text_(text) {}

  bool done() const { return at_ >= text_.size(); }
  size_t at() const { return at_; }
  void GoTo(size_t at) { at_ = at; }
  // 0 behind the end; text with a NUL in it is refused before it is read.
  char Peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool Take(std::string_view what) {
    if (text_.substr(at_, what.size()) != what) return false;
    at_ += what.size();
    return true;
  }
  // The next code point; U+FFFD for bytes that are none.
  char32_t Next() {
    const Utf8Unit unit = ReadUtf8(text_.substr(at_));
    at_ += unit.length;
    return unit.kind == Utf8Kind::kValid ? unit.code_point : U'\uFFFD';
  }
  // Decimal digits; -1 without any, and no more than `most`.
  int32_t Number(int32_t most) {
    if (Peek() < '0' || Peek() > '9') return -1;
    int64_t value = 0;
    for (; Peek() >= '0' && Peek() <= '9'; ++at_)
      value = std::min<int64_t>(value * 10 + (Peek() - '0'), most);
    return static_cast<int32_t>(value);
  }
  // Exactly `digits` hexadecimal ones; -1, and nothing moves, otherwise.
  int64_t Hex(int digits) {
    int64_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const char c = Peek(static_cast<size_t>(i));
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    at_ += static_cast<size_t>(digits);
    return value;
  }
  // Code points in front of `at`, and one.
  int64_t Column(size_t at) const {
    int64_t column = 1;
    for (size_t i = 0; i < at && i < text_.size(); i += ReadUtf8(text_.substr(i)).length) ++column;
    return column;
  }
  // "line 3, column 7"
  std::string Where(size_t at) const {
    size_t line = 1, begin = 0;
    for (size_t i = 0; i < at && i < text_.size(); ++i) {
      if (text_[i] != '\n') continue;
      ++line;
      begin = i + 1;
    }
    return absl::StrCat("line ", line, ", column ", Column(at) - Column(begin) + 1);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace paceline
