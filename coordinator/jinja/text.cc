#include "coordinator/jinja/text.h"

#include <algorithm>
#include <cstdio>

#include "coordinator/utf8.h"
#include "unicode/ucasemap.h"
#include "unicode/uchar.h"

namespace paceline::jinja {
namespace {

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The last character of `text`, which is not empty: its length in bytes and its code point.
Utf8Unit LastUnit(std::string_view text) {
  for (size_t back = 1; back <= 4 && back <= text.size(); ++back) {
    if ((static_cast<unsigned char>(text[text.size() - back]) & 0xC0) == 0x80) continue;
    const Utf8Unit unit = ReadUtf8(text.substr(text.size() - back));
    if (unit.length == back) return unit;
    break;
  }
  return {Utf8Kind::kBroken, 1, 0};
}

template <class In>
std::string_view StripIf(std::string_view text, Side side, const In& in) {
  if (side != Side::kRight) {
    while (!text.empty()) {
      const Utf8Unit unit = ReadUtf8(text);
      if (!in(unit, text.substr(0, unit.length))) break;
      text.remove_prefix(unit.length);
    }
  }
  if (side != Side::kLeft) {
    while (!text.empty()) {
      const Utf8Unit unit = LastUnit(text);
      if (!in(unit, text.substr(text.size() - unit.length))) break;
      text.remove_suffix(unit.length);
    }
  }
  return text;
}

bool IsSpaceUnit(const Utf8Unit& unit) { return unit.kind == Utf8Kind::kValid && IsSpace(unit.code_point); }

// One of ICU's case maps over UTF-8. Broken bytes become U+FFFD, as the tokenizer would make them.
enum class CaseMap { kUpper, kLower, kFold, kCapitalize };
std::string MapCase(std::string_view text, CaseMap how) {
  UErrorCode status = U_ZERO_ERROR;
  // Without a locale's own rules; as title case, the whole string is one word that begins at its first
  // character.
  UCaseMap* map = ucasemap_open("", U_TITLECASE_WHOLE_STRING | U_TITLECASE_NO_BREAK_ADJUSTMENT, &status);
  std::string out(text.size() + 16, '\0');
  const auto run = [&] {
    status = U_ZERO_ERROR;
    char* const to = out.data();
    const auto room = static_cast<int32_t>(out.size());
    const auto size = static_cast<int32_t>(text.size());
    switch (how) {
      case CaseMap::kUpper:
        return ucasemap_utf8ToUpper(map, to, room, text.data(), size, &status);
      case CaseMap::kLower:
        return ucasemap_utf8ToLower(map, to, room, text.data(), size, &status);
      case CaseMap::kFold:
        return ucasemap_utf8FoldCase(map, to, room, text.data(), size, &status);
      case CaseMap::kCapitalize:
        return ucasemap_utf8ToTitle(map, to, room, text.data(), size, &status);
    }
    return 0;
  };
  int32_t size = run();
  if (status == U_BUFFER_OVERFLOW_ERROR) {
    out.resize(static_cast<size_t>(size));
    size = run();
  }
  ucasemap_close(map);
  if (U_FAILURE(status)) return std::string(text);
  out.resize(static_cast<size_t>(size));
  return out;
}

char AsciiUpper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
char AsciiLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

UChar32 Point(const Utf8Unit& unit) {
  return unit.kind == Utf8Kind::kValid ? static_cast<UChar32>(unit.code_point) : 0xFFFD;
}

bool InClass(UChar32 c, CharacterClass of) {
  const auto numeric = [&] { return u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE); };
  switch (of) {
    case CharacterClass::kAlpha:
      return u_isalpha(c);
    case CharacterClass::kAlnum:
      return u_isalpha(c) || numeric() != U_NT_NONE;
    case CharacterClass::kDecimal:
      return numeric() == U_NT_DECIMAL;
    case CharacterClass::kDigit:
      return numeric() == U_NT_DECIMAL || numeric() == U_NT_DIGIT;
    case CharacterClass::kNumeric:
      return numeric() != U_NT_NONE;
    case CharacterClass::kSpace:
      return IsSpace(static_cast<char32_t>(c));
    case CharacterClass::kPrintable:
      // Everything but what Unicode calls "other" or "separator", the space aside.
      return c == ' ' || ((1u << u_charType(c)) & (U_GC_C_MASK | U_GC_Z_MASK)) == 0;
  }
  return false;
}

bool IsLineEnd(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

void AppendEscape(char32_t c, std::string* out) {
  char buffer[16];
  const char* const format = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(buffer, sizeof(buffer), format, static_cast<unsigned>(c));
  *out += buffer;
}

}  // namespace

bool IsSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string_view Strip(std::string_view text, Side side) {
  return StripIf(text, side, [](const Utf8Unit& unit, std::string_view) { return IsSpaceUnit(unit); });
}

std::string_view Strip(std::string_view text, std::string_view characters, Side side) {
  return StripIf(text, side, [&](const Utf8Unit&, std::string_view bytes) {
    return characters.find(bytes) != std::string_view::npos;
  });
}

std::vector<std::string_view> SplitSpace(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  const auto word_end = [&] {
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Unit unit = ReadUtf8(text.substr(end));
      if (IsSpaceUnit(unit)) break;
      end += unit.length;
    }
    return end;
  };
  const auto word_start = [&] {
    size_t start = text.size();
    while (start > 0) {
      const Utf8Unit unit = LastUnit(text.substr(0, start));
      if (IsSpaceUnit(unit)) break;
      start -= unit.length;
    }
    return start;
  };
  while (true) {
    text = Strip(text, from_right ? Side::kRight : Side::kLeft);
    if (text.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    if (from_right) {
      const size_t start = word_start();
      parts.push_back(text.substr(start));
      text = text.substr(0, start);
    } else {
      const size_t end = word_end();
      parts.push_back(text.substr(0, end));
      text.remove_prefix(end);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitAt(std::string_view text, std::string_view separator, int64_t limit,
                                      bool from_right) {
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(at + separator.size()) : text.substr(0, at));
    text = from_right ? text.substr(0, at) : text.substr(at + separator.size());
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const size_t end = i;
    i += unit.length;
    if (unit.kind != Utf8Kind::kValid || !IsLineEnd(unit.code_point)) continue;
    if (unit.code_point == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(start, (keep_ends ? i : end) - start));
    start = i;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

std::string Upper(std::string_view text) {
  if (!IsAscii(text)) return MapCase(text, CaseMap::kUpper);
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), AsciiUpper);
  return out;
}

std::string Lower(std::string_view text) {
  if (!IsAscii(text)) return MapCase(text, CaseMap::kLower);
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), AsciiLower);
  return out;
}

std::string CaseFold(std::string_view text) {
  return IsAscii(text) ? Lower(text) : MapCase(text, CaseMap::kFold);
}

std::string Capitalize(std::string_view text) {
  if (!IsAscii(text)) return MapCase(text, CaseMap::kCapitalize);
  std::string out = Lower(text);
  if (!out.empty()) out[0] = AsciiUpper(out[0]);
  return out;
}

std::string Title(std::string_view text) {
  std::string out;
  bool inside = false;  // behind a character that has case
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const std::string_view bytes = text.substr(i, unit.length);
    out += inside ? Lower(bytes) : Capitalize(bytes);
    inside = u_hasBinaryProperty(Point(unit), UCHAR_CASED);
    i += unit.length;
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const std::string_view bytes = text.substr(i, unit.length);
    if (u_hasBinaryProperty(Point(unit), UCHAR_UPPERCASE)) {
      out += Lower(bytes);
    } else {
      out += u_hasBinaryProperty(Point(unit), UCHAR_LOWERCASE) ? Upper(bytes) : std::string(bytes);
    }
    i += unit.length;
  }
  return out;
}

namespace {

// Cased characters all of one case, and one at least.
bool OneCase(std::string_view text, UProperty wanted, UProperty other) {
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const UChar32 c = Point(unit);
    if (u_hasBinaryProperty(c, other) || u_charType(c) == U_TITLECASE_LETTER) return false;
    found |= u_hasBinaryProperty(c, wanted) != 0;
    i += unit.length;
  }
  return found;
}

}  // namespace

bool IsUpper(std::string_view text) { return OneCase(text, UCHAR_UPPERCASE, UCHAR_LOWERCASE); }
bool IsLower(std::string_view text) { return OneCase(text, UCHAR_LOWERCASE, UCHAR_UPPERCASE); }

bool AllOf(std::string_view text, CharacterClass of) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    if (!InClass(Point(unit), of)) return false;
    i += unit.length;
  }
  return !text.empty() || of == CharacterClass::kPrintable;
}

std::string Replace(std::string_view text, std::string_view old_text, std::string_view new_text,
                    int64_t limit) {
  std::string out;
  const auto more = [&] { return limit < 0 || limit-- > 0; };
  if (old_text.empty()) {  // between all characters and at both ends
    size_t i = 0;
    while (more()) {
      out += new_text;
      if (i == text.size()) return out;
      const size_t length = ReadUtf8(text.substr(i)).length;
      out += text.substr(i, length);
      i += length;
    }
    return out += text.substr(i);
  }
  size_t from = 0;
  for (size_t at = text.find(old_text); at != std::string_view::npos && more();
       at = text.find(old_text, from)) {
    out += text.substr(from, at - from);
    out += new_text;
    from = at + old_text.size();
  }
  return out += text.substr(from);
}

int64_t Count(std::string_view text, std::string_view needle) {
  if (needle.empty()) return PointsIn(text) + 1;
  int64_t count = 0;
  for (size_t at = text.find(needle); at != std::string_view::npos;
       at = text.find(needle, at + needle.size()))
    ++count;
  return count;
}

size_t ByteOf(const TextObject& text, int64_t index) {
  if (text.ascii()) return static_cast<size_t>(index);
  size_t byte = 0;
  const std::string_view all = text.text;
  for (; index > 0; --index) byte += ReadUtf8(all.substr(byte)).length;
  return byte;
}

std::string SliceText(const TextObject& text, int64_t start, int64_t step, int64_t count) {
  std::string out;
  if (count <= 0) return out;
  const std::string_view all = text.text;
  if (step == 1) {
    const size_t from = ByteOf(text, start);
    if (text.ascii()) return std::string(all.substr(from, static_cast<size_t>(count)));
    size_t to = from;
    for (; count > 0; --count) to += ReadUtf8(all.substr(to)).length;
    return std::string(all.substr(from, to - from));
  }
  if (text.ascii()) {
    for (int64_t i = start; count > 0; --count, i += step) out += all[static_cast<size_t>(i)];
    return out;
  }
  std::vector<size_t> starts;  // [length + 1]
  starts.reserve(static_cast<size_t>(text.length) + 1);
  for (size_t byte = 0; byte < all.size(); byte += ReadUtf8(all.substr(byte)).length) starts.push_back(byte);
  starts.push_back(all.size());
  for (int64_t i = start; count > 0; --count, i += step) {
    const auto at = static_cast<size_t>(i);
    out += all.substr(starts[at], starts[at + 1] - starts[at]);
  }
  return out;
}

int64_t PointsIn(std::string_view text) {
  int64_t points = 0;
  for (size_t i = 0; i < text.size(); ++points) i += ReadUtf8(text.substr(i)).length;
  return points;
}

std::string Repr(std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const std::string_view bytes = text.substr(i, unit.length);
    i += unit.length;
    const char c = bytes[0];
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (unit.kind == Utf8Kind::kValid && !InClass(Point(unit), CharacterClass::kPrintable)) {
      AppendEscape(unit.code_point, &out);
    } else {
      out += bytes;
    }
  }
  return out += quote;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

int64_t CountWords(std::string_view text) {
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = ReadUtf8(text.substr(i));
    const bool word = unit.code_point == '_' || InClass(Point(unit), CharacterClass::kAlnum);
    words += word && !inside ? 1 : 0;
    inside = word;
    i += unit.length;
  }
  return words;
}

}  // namespace paceline::jinja
