// Moore's refinement, stopped after as many rounds as bytes matter: what a counted repetition may still do a
// hundred characters later makes no difference to a token of twenty.
#include "coordinator/grammar/node_classes.h"

#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace paceline {

std::vector<int32_t> NodeClasses(const Grammar& grammar, int32_t bytes) {
  std::vector<int32_t> classes(grammar.nodes.size(), 0);
  size_t count = grammar.nodes.empty() ? 0 : 1;
  // One round more: the last byte may lead to a node where the rule ends.
  for (int32_t round = 0; round <= bytes; ++round) {
    absl::flat_hash_map<std::string, int32_t> seen;
    std::vector<int32_t> finer(grammar.nodes.size());
    std::string signature;
    const auto add = [&signature](int32_t value) {
      signature.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    for (size_t i = 0; i < grammar.nodes.size(); ++i) {
      const Grammar::Node& node = grammar.nodes[i];
      signature.clear();
      add(classes[i]);
      add(node.final ? 1 : 0);
      add(static_cast<int32_t>(node.edges.size()));
      for (const Grammar::Edge& edge : node.edges) {
        add(edge.low << 8 | edge.high);
        add(classes[static_cast<size_t>(edge.target)]);
      }
      for (const Grammar::Call& call : node.calls) {
        add(call.rule);
        add(classes[static_cast<size_t>(call.target)]);
      }
      finer[i] = seen.try_emplace(signature, static_cast<int32_t>(seen.size())).first->second;
    }
    classes = std::move(finer);
    if (seen.size() == count) break;
    count = seen.size();
  }
  return classes;
}

}  // namespace paceline
