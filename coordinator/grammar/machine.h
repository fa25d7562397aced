// Runs a grammar over bytes: where a text may stand after them, as one number. Configurations, and the
// stacks in them, are made once and remembered with every step that was taken between them, so a step taken
// before is one look into a table.
//
// A configuration is a set of threads (node, stack). A stack is the set of places its rule may return to,
// each with the stack below it: rules called at the same byte by several threads share one, so the threads of
// an ambiguous grammar grow with the text and not with the ways to read it. This is Earley's algorithm with
// its sets of origins made into values (compare Tomita's graph-structured stacks).
//
// Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "coordinator/grammar/grammar.h"

namespace paceline {

class Machine {
 public:
  using Config = int32_t;
  using Stack = int32_t;
  static constexpr Config kDead = 0;          // no text goes on from here
  static constexpr Stack kBottom = 0;         // below the rule that was started
  static constexpr size_t kMaxThreads = 512;  // a configuration of more is dead: too ambiguous to follow

  struct Thread {
    int32_t node = 0;
    Stack stack = kBottom;
    auto operator<=>(const Thread&) const = default;
  };

  // `grammar` outlives the machine.
  explicit Machine(const Grammar& grammar);

  Config Start();
  // At `node` of some rule, as if nothing were known of its callers.
  Config At(int32_t node);
  // Where a rule with this stack returns to; kDead when nowhere but to the bottom.
  Config Returned(Stack stack);
  // The configurations of another machine of the same grammar, in this one's numbers; negative ones stay.
  void Adopt(const Machine& other, std::span<Config> configs);

  Config Next(Config config, uint8_t byte) {
    const Config next = rows_[static_cast<size_t>(config) * row_ + kind_[byte]];
    return next != kUnknown ? next : Step(config, byte);
  }
  // Whether the rule that was started may end here.
  bool can_end(Config config) const { return configs_[static_cast<size_t>(config)].can_end; }
  // The threads that bytes led to; those of the rules they call are not among them.
  std::span<const Thread> threads(Config config) const {
    return configs_[static_cast<size_t>(config)].threads;
  }
  size_t configs() const { return configs_.size(); }
  int64_t bytes() const { return bytes_; }  // roughly, of everything remembered
  int64_t work() const { return work_; }    // edges looked at, by machines adopted from too

 private:
  static constexpr Config kUnknown = -1;
  struct Place {  // to return to
    int32_t node = 0;
    Stack stack = kBottom;
    auto operator<=>(const Place&) const = default;
  };
  static constexpr Place kNowhere{-1, -1};  // the bottom itself
  struct State {
    bool can_end = false;
    std::vector<Thread> threads;
    std::vector<Thread> called;  // threads at the starts of rules that they call
  };
  using Places = std::vector<Place>;  // ascending

  const Grammar::Node& node(int32_t index) const { return grammar_.nodes[static_cast<size_t>(index)]; }
  Config Step(Config config, uint8_t byte);
  // Threads as bytes led to them, in any order; rules that may end return.
  Config Make(std::vector<Thread> threads, bool can_end);
  void CallRules(State& state);
  void OpenRow(const State& state);
  Stack Intern(Places places);

  const Grammar& grammar_;
  std::array<uint8_t, 256> kind_;  // bytes of one kind are never told apart
  size_t row_ = 0;                 // kinds
  std::vector<State> configs_;
  std::vector<Config> rows_;  // [configs, kinds] where each byte leads
  std::map<std::pair<bool, std::vector<Thread>>, Config> known_;
  std::vector<Places> stacks_;
  std::map<Places, Stack> known_stacks_;
  std::map<int32_t, std::pair<int32_t, Places>> pending_;  // order -> rule, places; of CallRules
  int64_t bytes_ = 0;
  int64_t work_ = 0;
};

}  // namespace paceline
