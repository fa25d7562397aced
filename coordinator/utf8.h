// Reading UTF-8: complete code points, broken bytes and unfinished tails told apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace paceline {

enum class Utf8Kind : uint8_t {
  kValid,
  kBroken,  // `length` bytes that can never become a code point: a maximal subpart (Unicode 15, section 3.9,
            // U+FFFD)
  kUnfinished,  // the text ends inside a code point that is right so far
};

struct Utf8Unit {
  Utf8Kind kind;
  uint8_t length;       // bytes, at least 1
  char32_t code_point;  // of kValid
};

// The unit at the front of `text`, which is not empty.
Utf8Unit ReadUtf8(std::string_view text);

// Where the first byte stands that belongs to no code point; text.size() when all is well.
size_t ValidUtf8Prefix(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);

}  // namespace paceline
