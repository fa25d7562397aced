// The automaton an expression is first written as, with edges that eat nothing. For grammar.cc alone.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "coordinator/grammar/expression.h"
#include "coordinator/grammar/grammar.h"

namespace paceline {

struct ByteAutomaton {
  struct Node {
    std::vector<Grammar::Edge> edges;
    std::vector<Grammar::Call> calls;
    std::vector<int32_t> free;  // targets that cost nothing
  };
  std::vector<Node> nodes;
};

// Writes expressions into an automaton. Stops, and says so, when it has more nodes than allowed.
class AutomatonWriter {
 public:
  AutomatonWriter(ByteAutomaton* out, int64_t max_nodes) : out_(*out), max_nodes_(max_nodes) {}

  // False when the automaton would become too large.
  bool Write(const Expression& expression, int32_t from, int32_t to);
  int32_t NewNode();
  bool full() const { return static_cast<int64_t>(out_.nodes.size()) > max_nodes_; }

 private:
  // Tails of UTF-8 sequences that end in one node, by the bytes they still eat.
  using Tails = std::map<std::vector<std::pair<uint8_t, uint8_t>>, int32_t>;

  bool WriteRepeat(const Expression& expression, int32_t from, int32_t to);
  bool WriteMembers(const Expression& expression, int32_t from, int32_t to);
  void WriteCodePoints(const CodePointSet& set, int32_t from, int32_t to);
  void WriteUtf8(char32_t first, char32_t last, int32_t from, int32_t to, Tails& tails);
  void Free(int32_t from, int32_t to) { out_.nodes[static_cast<size_t>(from)].free.push_back(to); }

  ByteAutomaton& out_;
  const int64_t max_nodes_;
};

}  // namespace paceline
