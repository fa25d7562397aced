#include "coordinator/added_tokens.h"

#include <algorithm>

#include "coordinator/code_point_set.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

uint64_t Edge(int node, char byte) { return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte); }

bool IsSpace(char32_t c) {
  static const CodePointSet spaces(kSpaceRanges);
  return spaces.Contains(c);
}

bool IsWord(char32_t c) {
  static const CodePointSet words(kWordRanges);
  return words.Contains(c);
}

// Where the code point begins that ends before `end` > 0.
size_t PreviousCodePoint(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool WordBefore(std::string_view text, size_t at) {
  return at > 0 && IsWord(ReadUtf8(text.substr(PreviousCodePoint(text, at))).code_point);
}

bool WordFrom(std::string_view text, size_t at) {
  return at < text.size() && IsWord(ReadUtf8(text.substr(at)).code_point);
}

size_t SpacesBackTo(std::string_view text, size_t at) {
  while (at > 0) {
    const size_t before = PreviousCodePoint(text, at);
    if (!IsSpace(ReadUtf8(text.substr(before)).code_point)) break;
    at = before;
  }
  return at;
}

size_t SpacesOnTo(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Unit unit = ReadUtf8(text.substr(at));
    if (!IsSpace(unit.code_point)) break;
    at += unit.length;
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_{-1} {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (content.empty()) continue;
    starts_[static_cast<uint8_t>(content[0])] = true;
    int node = 0;
    for (char byte : content) {
      auto [it, added] = edges_.try_emplace(Edge(node, byte), static_cast<int>(token_at_.size()));
      if (added) token_at_.push_back(-1);
      node = it->second;
    }
    if (token_at_[node] < 0) token_at_[node] = static_cast<int>(i);
  }
}

int AddedTokenMatcher::LongestAt(std::string_view text, size_t at) const {
  int node = 0, found = -1;
  for (; at < text.size(); ++at) {
    auto it = edges_.find(Edge(node, text[at]));
    if (it == edges_.end()) break;
    node = it->second;
    if (token_at_[node] >= 0) found = token_at_[node];
  }
  return found;
}

void AddedTokenMatcher::Split(std::string_view text, bool skip_special, std::vector<TextSpan>* spans) const {
  size_t done = 0;  // everything before belongs to a span
  for (size_t at = 0; at < text.size();) {
    const int index = starts_[static_cast<uint8_t>(text[at])] ? LongestAt(text, at) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = at, end = at + token.content.size();
    // Whether it counts or not, the search goes on behind it.
    at = end;
    if (skip_special && token.special) continue;
    if (token.single_word && (WordBefore(text, begin) || WordFrom(text, end))) continue;
    if (token.lstrip) begin = std::max(SpacesBackTo(text, begin), done);
    if (token.rstrip) end = SpacesOnTo(text, end);
    if (begin > done) spans->push_back({-1, text.substr(done, begin - done)});
    spans->push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) spans->push_back({-1, text.substr(done)});
}

}  // namespace paceline
