// The byte alphabet of GPT-2: every byte has a printable character, in which vocabularies and merges are
// written. Printable Latin-1 bytes stand for themselves; the 68 others, in order, for U+0100 and up.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "coordinator/utf8.h"

namespace paceline {

inline constexpr int kAlphabetEnd = 0x144;  // one past the last character of the alphabet

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// [256] byte -> character
constexpr std::array<char32_t, 256> MakeByteCharacters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) characters[b] = StandsForItself(b) ? static_cast<char32_t>(b) : next++;
  return characters;
}
inline constexpr std::array<char32_t, 256> kByteCharacters = MakeByteCharacters();

// [kAlphabetEnd] character -> byte, -1 for what is not of the alphabet
constexpr std::array<int16_t, kAlphabetEnd> MakeCharacterBytes() {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (auto& b : bytes) b = -1;
  for (int b = 0; b < 256; ++b) bytes[kByteCharacters[b]] = static_cast<int16_t>(b);
  return bytes;
}
inline constexpr std::array<int16_t, kAlphabetEnd> kCharacterBytes = MakeCharacterBytes();

// Appends the bytes that `written` stands for. False, and nothing appended, when a character is not of the
// alphabet.
inline bool AppendAlphabetBytes(std::string_view written, std::string* out) {
  const size_t before = out->size();
  while (!written.empty()) {
    const Utf8Unit unit = ReadUtf8(written);
    if (unit.kind != Utf8Kind::kValid || unit.code_point >= kAlphabetEnd ||
        kCharacterBytes[unit.code_point] < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(kCharacterBytes[unit.code_point]));
    written.remove_prefix(unit.length);
  }
  return true;
}

}  // namespace paceline
