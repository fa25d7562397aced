// Python's str methods on UTF-8. Positions are code points where a caller sees them. Bytes that form no code
// point count as one each and belong to no class. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/jinja/value.h"

namespace paceline::jinja {

// str.isspace of one character; U+001C..U+001F are among them.
bool IsSpace(char32_t c);

enum class Side { kLeft, kRight, kBoth };
// Without white space at its ends.
std::string_view Strip(std::string_view text, Side side = Side::kBoth);
// Without any of `characters` at its ends.
std::string_view Strip(std::string_view text, std::string_view characters, Side side);

// str.split and str.rsplit; `limit` < 0: no limit. The first: runs of white space separate, ends are dropped;
// the second: `separator` is not empty.
std::vector<std::string_view> SplitSpace(std::string_view text, int64_t limit, bool from_right);
std::vector<std::string_view> SplitAt(std::string_view text, std::string_view separator, int64_t limit,
                                      bool from_right);
// Lines by Python's list of separators (\n, \r\n, \v, \f, U+001C.., U+0085, U+2028, U+2029).
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string CaseFold(std::string_view text);
std::string Capitalize(std::string_view text);
std::string Title(std::string_view text);  // str.title: a letter behind a letter is small
std::string SwapCase(std::string_view text);

bool IsUpper(std::string_view text);
bool IsLower(std::string_view text);
enum class CharacterClass { kAlpha, kAlnum, kDecimal, kDigit, kNumeric, kSpace, kPrintable };
// Whether every character is of the class and there is one. An empty text is printable.
bool AllOf(std::string_view text, CharacterClass of);

// At most `limit` of them where that is not negative.
std::string Replace(std::string_view text, std::string_view old_text, std::string_view new_text,
                    int64_t limit);
// Non-overlapping occurrences.
int64_t Count(std::string_view text, std::string_view needle);

// The byte at which code point `index` starts, 0..length.
size_t ByteOf(const TextObject& text, int64_t index);
// text[start:stop:step] with indices that are inside already.
std::string SliceText(const TextObject& text, int64_t start, int64_t step, int64_t count);
int64_t PointsIn(std::string_view text);

// What repr() gives: quoted, with escapes for what does not print.
std::string Repr(std::string_view text);
// & < > " ' as HTML entities, as markupsafe writes them.
std::string EscapeHtml(std::string_view text);
// Words of \w.
int64_t CountWords(std::string_view text);

}  // namespace paceline::jinja
