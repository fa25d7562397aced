// Rules to automata: written freely, then made deterministic, rid of what can never end, and ordered.
#include "coordinator/grammar/grammar.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/grammar/byte_automaton.h"

namespace paceline {
namespace {

using Nodes = std::vector<int32_t>;  // ascending

// Nodes looked at to make a grammar's rules deterministic, and again for a rule that is left as it was
// written: some tenths of a second. Counted repetitions inside each other come to more.
constexpr int64_t kDeterminiserWork = 20'000'000;
constexpr int64_t kSinglesWork = 1'000'000;

struct RuleAutomaton {
  ByteAutomaton automaton;
  int32_t start = 0, end = 0;
};

// Whether `to` can be reached from `from` without a byte, given which rules may derive the empty text.
bool ReachesFreely(const RuleAutomaton& rule, const std::vector<bool>& nullable) {
  std::vector<bool> seen(rule.automaton.nodes.size());
  Nodes left = {rule.start};
  while (!left.empty()) {
    const auto at = static_cast<size_t>(left.back());
    left.pop_back();
    if (seen[at]) continue;
    seen[at] = true;
    for (const int32_t next : rule.automaton.nodes[at].free) left.push_back(next);
    for (const Grammar::Call& call : rule.automaton.nodes[at].calls) {
      if (nullable[static_cast<size_t>(call.rule)]) left.push_back(call.target);
    }
  }
  return seen[static_cast<size_t>(rule.end)];
}

// A call of a rule that may derive the empty text may also be passed over; called, it eats something.
void PassOverNullable(std::vector<RuleAutomaton>& rules) {
  std::vector<std::vector<size_t>> callers(rules.size());
  std::vector<size_t> left;  // rules that may derive the empty text for all that is known
  for (size_t r = 0; r < rules.size(); ++r) {
    for (const ByteAutomaton::Node& node : rules[r].automaton.nodes) {
      for (const Grammar::Call& call : node.calls) callers[static_cast<size_t>(call.rule)].push_back(r);
    }
    left.push_back(r);
  }
  std::vector<bool> nullable(rules.size());
  while (!left.empty()) {
    const size_t r = left.back();
    left.pop_back();
    if (nullable[r] || !ReachesFreely(rules[r], nullable)) continue;
    nullable[r] = true;
    std::vector<size_t>& again = callers[r];
    std::sort(again.begin(), again.end());
    again.erase(std::unique(again.begin(), again.end()), again.end());
    left.insert(left.end(), again.begin(), again.end());
  }
  for (RuleAutomaton& rule : rules) {
    for (ByteAutomaton::Node& node : rule.automaton.nodes) {
      for (const Grammar::Call& call : node.calls) {
        if (nullable[static_cast<size_t>(call.rule)]) node.free.push_back(call.target);
      }
    }
  }
}

// Subset construction of one rule, appended to a grammar. `work`: nodes that all rules together may look at.
class Determiniser {
 public:
  Determiniser(const RuleAutomaton& rule, Grammar* out, int64_t* work)
      : rule_(rule), out_(*out), work_(*work) {}

  // The start node, or -1 when the grammar becomes too large.
  int32_t Run() {
    const size_t first = out_.nodes.size();
    // Twice the nodes, and then some, is what expressions that people write come to.
    const int32_t start = Sets(first, first + 2 * rule_.automaton.nodes.size() + 4096);
    if (start >= 0) return start;
    out_.nodes.resize(first);
    return Singles();
  }

 private:
  Nodes Closure(const Nodes& from) {
    ++stamp_;
    seen_.resize(rule_.automaton.nodes.size());
    Nodes left = from, out;
    while (!left.empty()) {
      const int32_t at = left.back();
      left.pop_back();
      --work_;
      if (seen_[static_cast<size_t>(at)] == stamp_) continue;
      seen_[static_cast<size_t>(at)] = stamp_;
      const ByteAutomaton::Node& node = rule_.automaton.nodes[static_cast<size_t>(at)];
      // A node that only passes on is nothing to remember.
      if (!node.edges.empty() || !node.calls.empty() || at == rule_.end) out.push_back(at);
      left.insert(left.end(), node.free.begin(), node.free.end());
    }
    std::sort(out.begin(), out.end());
    return out;
  }

  int32_t Intern(const Nodes& set) {
    const auto [at, fresh] = ids_.try_emplace(set, static_cast<int32_t>(out_.nodes.size()));
    if (fresh) {
      out_.nodes.emplace_back();
      out_.nodes.back().final = std::binary_search(set.begin(), set.end(), rule_.end);
      sets_.push_back(set);
    }
    return at->second;
  }

  int32_t Sets(size_t first, size_t most) {
    const int32_t start = Intern(Closure({rule_.start}));
    for (size_t done = 0; done < sets_.size(); ++done) {
      if (out_.nodes.size() > most || out_.nodes.size() > GrammarBuilder::kMaxNodes || work_ < 0) return -1;
      std::array<Nodes, 256> targets;
      std::map<int32_t, Nodes> calls;
      for (const int32_t at : sets_[done]) {
        const ByteAutomaton::Node& node = rule_.automaton.nodes[static_cast<size_t>(at)];
        for (const Grammar::Edge& edge : node.edges) {
          work_ -= 1 + (edge.high - edge.low) / 8;
          for (int byte = edge.low; byte <= edge.high; ++byte)
            targets[static_cast<size_t>(byte)].push_back(edge.target);
        }
        for (const Grammar::Call& call : node.calls) calls[call.rule].push_back(call.target);
      }
      std::vector<Grammar::Edge> edges;
      for (int byte = 0; byte < 256;) {
        const Nodes& here = targets[static_cast<size_t>(byte)];
        int end = byte + 1;
        while (end < 256 && targets[static_cast<size_t>(end)] == here) ++end;
        if (!here.empty()) {
          const int32_t target = Intern(Closure(here));
          const auto low = static_cast<uint8_t>(byte), high = static_cast<uint8_t>(end - 1);
          if (!edges.empty() && edges.back().target == target && edges.back().high + 1 == low) {
            edges.back().high = high;
          } else {
            edges.push_back({low, high, target});
          }
        }
        byte = end;
      }
      std::vector<Grammar::Call> made;
      for (const auto& [rule, to] : calls) made.push_back({rule, Intern(Closure(to))});
      out_.nodes[first + done].edges = std::move(edges);
      out_.nodes[first + done].calls = std::move(made);
    }
    return start;
  }

  // As written, but for what costs nothing: several edges of a node may eat the same byte.
  int32_t Singles() {
    const size_t first = out_.nodes.size();
    if (first + rule_.automaton.nodes.size() > GrammarBuilder::kMaxNodes) return -1;
    work_ = std::max(work_, kSinglesWork);
    for (size_t i = 0; i < rule_.automaton.nodes.size(); ++i) {
      if (work_ < 0) return -1;
      Grammar::Node& made = out_.nodes.emplace_back();
      for (const int32_t at : Closure({static_cast<int32_t>(i)})) {
        made.final |= at == rule_.end;
        const ByteAutomaton::Node& node = rule_.automaton.nodes[static_cast<size_t>(at)];
        for (Grammar::Edge edge : node.edges) {
          edge.target += static_cast<int32_t>(first);
          made.edges.push_back(edge);
          --work_;
        }
        for (Grammar::Call call : node.calls) {
          call.target += static_cast<int32_t>(first);
          made.calls.push_back(call);
        }
      }
      std::sort(made.edges.begin(), made.edges.end(), [](const auto& a, const auto& b) {
        return std::tie(a.low, a.high, a.target) < std::tie(b.low, b.high, b.target);
      });
      std::sort(made.calls.begin(), made.calls.end(), [](const auto& a, const auto& b) {
        return std::tie(a.rule, a.target) < std::tie(b.rule, b.target);
      });
    }
    return static_cast<int32_t>(first) + rule_.start;
  }

  const RuleAutomaton& rule_;
  Grammar& out_;
  int64_t& work_;
  std::map<Nodes, int32_t> ids_;
  std::vector<Nodes> sets_;
  std::vector<int32_t> seen_;
  int32_t stamp_ = 0;
};

// Takes out every edge and call behind which no text can end. False when that is true of the root.
bool RemoveDeadEnds(Grammar& grammar) {
  const auto index = [](int32_t i) { return static_cast<size_t>(i); };
  const auto start_of = [&](int32_t rule) { return index(grammar.starts[index(rule)]); };
  std::vector<bool> ends(grammar.nodes.size());
  std::vector<std::vector<size_t>> behind(grammar.nodes.size());  // nodes that may end once this one may
  std::vector<size_t> left;
  for (size_t i = 0; i < grammar.nodes.size(); ++i) {
    for (const Grammar::Edge& edge : grammar.nodes[i].edges) behind[index(edge.target)].push_back(i);
    for (const Grammar::Call& call : grammar.nodes[i].calls) {
      behind[index(call.target)].push_back(i);
      behind[start_of(call.rule)].push_back(i);
    }
    if (grammar.nodes[i].final) left.push_back(i);
  }
  const auto goes_on = [&](const Grammar::Call& call) {
    return ends[start_of(call.rule)] && ends[index(call.target)];
  };
  while (!left.empty()) {
    const size_t at = left.back();
    left.pop_back();
    const Grammar::Node& node = grammar.nodes[at];
    if (ends[at] || !(node.final ||
                      std::any_of(node.edges.begin(), node.edges.end(),
                                  [&](const auto& edge) { return ends[index(edge.target)]; }) ||
                      std::any_of(node.calls.begin(), node.calls.end(), goes_on))) {
      continue;
    }
    ends[at] = true;
    left.insert(left.end(), behind[at].begin(), behind[at].end());
  }
  for (Grammar::Node& node : grammar.nodes) {
    std::erase_if(node.edges, [&](const auto& edge) { return !ends[index(edge.target)]; });
    std::erase_if(node.calls, [&](const auto& call) { return !goes_on(call); });
  }
  return ends[start_of(grammar.root)];
}

// Numbers the rules so that whoever is called before a byte was eaten comes later. A rule in a circle, or -1
// when there is none.
int32_t OrderRules(Grammar& grammar) {
  const size_t rules = grammar.starts.size();
  std::vector<int32_t> callers(rules);
  const auto first_calls = [&](size_t r) -> const std::vector<Grammar::Call>& {
    return grammar.nodes[static_cast<size_t>(grammar.starts[r])].calls;
  };
  for (size_t r = 0; r < rules; ++r) {
    for (const Grammar::Call& call : first_calls(r)) ++callers[static_cast<size_t>(call.rule)];
  }
  grammar.order.assign(rules, -1);
  std::vector<size_t> left;
  for (size_t r = 0; r < rules; ++r) {
    if (callers[r] == 0) left.push_back(r);
  }
  int32_t next = 0;
  while (!left.empty()) {
    const size_t r = left.back();
    left.pop_back();
    grammar.order[r] = next++;
    for (const Grammar::Call& call : first_calls(r)) {
      if (--callers[static_cast<size_t>(call.rule)] == 0) left.push_back(static_cast<size_t>(call.rule));
    }
  }
  const auto missing = std::find(grammar.order.begin(), grammar.order.end(), -1);
  if (missing == grammar.order.end()) return -1;
  // Every rule without a number is called by another such: going back often enough ends in a circle.
  std::vector<int32_t> caller(rules, -1);
  for (size_t r = 0; r < rules; ++r) {
    if (grammar.order[r] >= 0) continue;
    for (const Grammar::Call& call : first_calls(r))
      caller[static_cast<size_t>(call.rule)] = static_cast<int32_t>(r);
  }
  auto at = static_cast<int32_t>(missing - grammar.order.begin());
  for (size_t step = 0; step < rules; ++step) at = caller[static_cast<size_t>(at)];
  return at;
}

}  // namespace

int32_t GrammarBuilder::AddRule(std::string name) {
  rules_.push_back({std::move(name), {}});
  return static_cast<int32_t>(rules_.size()) - 1;
}

void GrammarBuilder::Define(int32_t rule, Expression expression) {
  rules_[static_cast<size_t>(rule)].expression = std::move(expression);
}

absl::StatusOr<Grammar> GrammarBuilder::Build(int32_t root) const {
  const absl::Status too_large = absl::InvalidArgumentError(absl::StrCat(
      "is too large: it comes to more than ", kMaxNodes,
      " states, or to too many ways between them; lower the bounds of its repetitions, or say less with it"));
  std::vector<RuleAutomaton> automata(rules_.size());
  int64_t left = kMaxNodes;
  for (size_t r = 0; r < rules_.size(); ++r) {
    AutomatonWriter writer(&automata[r].automaton, left);
    automata[r].start = writer.NewNode();
    automata[r].end = writer.NewNode();
    if (!writer.Write(rules_[r].expression, automata[r].start, automata[r].end)) return too_large;
    left -= static_cast<int64_t>(automata[r].automaton.nodes.size());
  }
  PassOverNullable(automata);
  Grammar grammar;
  grammar.root = root;
  int64_t work = kDeterminiserWork;
  for (const RuleAutomaton& automaton : automata) {
    const int32_t start = Determiniser(automaton, &grammar, &work).Run();
    if (start < 0) return too_large;
    grammar.starts.push_back(start);
  }
  if (const int32_t circle = OrderRules(grammar); circle >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the rule '", rules_[static_cast<size_t>(circle)].name,
                     "' comes back to itself before it has eaten a byte (left recursion); write the "
                     "repetition as ( .. )*"));
  }
  if (!RemoveDeadEnds(grammar))
    return absl::InvalidArgumentError("can be satisfied by no text; some part of it contradicts another");
  return grammar;
}

}  // namespace paceline
