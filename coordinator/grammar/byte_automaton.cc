// Thompson's construction, with code points cut into ranges of UTF-8 bytes.
#include "coordinator/grammar/byte_automaton.h"

#include <algorithm>
#include <string>

#include "coordinator/utf8.h"

namespace paceline {

int32_t AutomatonWriter::NewNode() {
  out_.nodes.emplace_back();
  return static_cast<int32_t>(out_.nodes.size()) - 1;
}

bool AutomatonWriter::Write(const Expression& expression, int32_t from, int32_t to) {
  if (full()) return false;
  switch (expression.kind) {
    case Expression::Kind::kBytes: {
      int32_t at = from;
      for (const char c : expression.bytes) {
        const int32_t next = NewNode();
        const auto byte = static_cast<uint8_t>(c);
        out_.nodes[static_cast<size_t>(at)].edges.push_back({byte, byte, next});
        at = next;
      }
      Free(at, to);
      break;
    }
    case Expression::Kind::kCodePoints:
      WriteCodePoints(expression.set, from, to);
      break;
    case Expression::Kind::kSequence: {
      int32_t at = from;
      for (const Expression& part : expression.parts) {
        const int32_t next = NewNode();
        if (!Write(part, at, next)) return false;
        at = next;
      }
      Free(at, to);
      break;
    }
    case Expression::Kind::kChoice:
      for (const Expression& part : expression.parts) {
        if (!Write(part, from, to)) return false;
      }
      break;
    case Expression::Kind::kRepeat:
      return WriteRepeat(expression, from, to);
    case Expression::Kind::kMembers:
      return WriteMembers(expression, from, to);
    case Expression::Kind::kRule:
      out_.nodes[static_cast<size_t>(from)].calls.push_back({expression.rule, to});
      break;
    case Expression::Kind::kTextBegin:
    case Expression::Kind::kTextEnd:
      Free(from, to);
      break;
  }
  return !full();
}

bool AutomatonWriter::WriteRepeat(const Expression& expression, int32_t from, int32_t to) {
  const Expression& part = expression.parts[0];
  int32_t at = from;
  for (int32_t i = 0; i < expression.min; ++i) {
    const int32_t next = NewNode();
    if (!Write(part, at, next)) return false;
    at = next;
  }
  if (expression.max == kUnbounded) {
    // A node of its own: nothing else may come round the loop.
    const int32_t loop = NewNode();
    const int32_t end = NewNode();
    Free(at, loop);
    if (!Write(part, loop, end)) return false;
    Free(end, loop);
    Free(loop, to);
    return !full();
  }
  for (int32_t i = expression.min; i < expression.max; ++i) {
    const int32_t next = NewNode();
    Free(at, to);
    if (!Write(part, at, next)) return false;
    at = next;
  }
  Free(at, to);
  return !full();
}

// Two nodes in front of every part, for a list that is still empty and for one that is not; so each part is
// written once, whatever is left out around it.
bool AutomatonWriter::WriteMembers(const Expression& expression, int32_t from, int32_t to) {
  const Expression& separator = expression.parts[0];
  int32_t empty = NewNode(), some = NewNode();
  Free(from, empty);
  for (size_t i = 1; i < expression.parts.size(); ++i) {
    const int32_t before = NewNode(), next_empty = NewNode(), next_some = NewNode();
    Free(empty, before);
    if (!Write(separator, some, before) || !Write(expression.parts[i], before, next_some)) return false;
    if (!expression.required[i - 1]) {
      Free(empty, next_empty);
      Free(some, next_some);
    }
    if (expression.repeat_last && i + 1 == expression.parts.size()) Free(next_some, some);
    empty = next_empty;
    some = next_some;
  }
  Free(empty, to);
  Free(some, to);
  return !full();
}

void AutomatonWriter::WriteCodePoints(const CodePointSet& set, int32_t from, int32_t to) {
  Tails tails;
  // UTF-8 holds no surrogates; lengths change at the other borders.
  constexpr std::pair<char32_t, char32_t> kPieces[] = {
      {0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
  for (const CodePointRange& range : set.ranges()) {
    for (const auto& [low, high] : kPieces) {
      const char32_t first = std::max(range.first, low), last = std::min(range.last, high);
      if (first <= last) WriteUtf8(first, last, from, to, tails);
    }
  }
}

// `first` and `last` have the same number of bytes. A range whose ends share all bytes but whole last ones is
// one chain of byte ranges; any other is cut in two.
void AutomatonWriter::WriteUtf8(char32_t first, char32_t last, int32_t from, int32_t to, Tails& tails) {
  for (int bits = 6; bits <= 18 && last > 0x7F; bits += 6) {
    const char32_t mask = (char32_t{1} << bits) - 1;
    if ((first & ~mask) == (last & ~mask)) continue;
    char32_t cut = 0;  // the first of the second part
    if ((first & mask) != 0) {
      cut = (first | mask) + 1;
    } else if ((last & mask) != mask) {
      cut = last & ~mask;
    } else {
      continue;
    }
    WriteUtf8(first, cut - 1, from, to, tails);
    WriteUtf8(cut, last, from, to, tails);
    return;
  }
  std::string low, high;
  AppendUtf8(first, &low);
  AppendUtf8(last, &high);
  std::vector<std::pair<uint8_t, uint8_t>> chain;  // from the back
  int32_t target = to;
  for (size_t i = low.size() - 1; i > 0; --i) {
    chain.emplace_back(static_cast<uint8_t>(low[i]), static_cast<uint8_t>(high[i]));
    const auto [tail, fresh] = tails.try_emplace(chain, 0);
    if (fresh) {
      const int32_t node = NewNode();
      out_.nodes[static_cast<size_t>(node)].edges.push_back(
          {chain.back().first, chain.back().second, target});
      tail->second = node;
    }
    target = tail->second;
  }
  out_.nodes[static_cast<size_t>(from)].edges.push_back(
      {static_cast<uint8_t>(low[0]), static_cast<uint8_t>(high[0]), target});
}

}  // namespace paceline
