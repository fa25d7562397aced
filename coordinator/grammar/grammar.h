// A grammar over bytes as the machine reads it: rules, each an automaton whose edges eat a byte or call a
// rule. A rule's automaton is deterministic, but for rules in which that would cost too many nodes; which
// rule to call may still be open.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/grammar/expression.h"

namespace paceline {

struct Grammar {
  struct Edge {
    uint8_t low = 0, high = 0;  // both included
    int32_t target = 0;
  };
  struct Call {
    int32_t rule = 0;
    int32_t target = 0;  // where the caller goes on
  };
  struct Node {
    std::vector<Edge> edges;  // by `low`
    std::vector<Call> calls;  // by `rule`
    bool final = false;       // the rule may end here
    // Nothing comes behind: whoever calls a rule and would return here need not be returned to.
    bool last() const { return final && edges.empty() && calls.empty(); }
  };
  std::vector<Node> nodes;
  std::vector<int32_t> starts;  // [rules] node
  // [rules] A rule that another calls before it eats a byte has the higher number: there is no left
  // recursion.
  std::vector<int32_t> order;
  int32_t root = 0;  // rule
};

// Collects rules and turns them into a Grammar.
class GrammarBuilder {
 public:
  // A rule to be defined later; `name` is for errors.
  int32_t AddRule(std::string name);
  void Define(int32_t rule, Expression expression);
  static constexpr int64_t kMaxNodes = 100'000;

  // InvalidArgument: the grammar comes to more than kMaxNodes or to too many ways between them, a rule calls
  // itself before it eats a byte, no text can satisfy it.
  absl::StatusOr<Grammar> Build(int32_t root) const;

 private:
  struct Rule {
    std::string name;
    Expression expression;
  };
  std::vector<Rule> rules_;
};

}  // namespace paceline
