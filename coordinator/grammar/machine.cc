#include "coordinator/grammar/machine.h"

#include <algorithm>
#include <set>

#include "base/check.h"

namespace paceline {

Machine::Machine(const Grammar& grammar) : grammar_(grammar) {
  std::array<bool, 257> begins{};  // a byte that some edge tells from the one before it
  for (const Grammar::Node& n : grammar_.nodes) {
    for (const Grammar::Edge& edge : n.edges) begins[edge.low] = begins[edge.high + 1u] = true;
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && begins[byte]) ++row_;
    kind_[byte] = static_cast<uint8_t>(row_);
  }
  ++row_;
  configs_.emplace_back();
  rows_.resize(row_, kDead);
  known_[{false, {}}] = kDead;
  stacks_.push_back({kNowhere});
  known_stacks_[stacks_.back()] = kBottom;
}

Machine::Config Machine::Start() { return At(grammar_.starts[static_cast<size_t>(grammar_.root)]); }

Machine::Config Machine::At(int32_t index) { return Make({{index, kBottom}}, false); }

Machine::Config Machine::Returned(Stack stack) {
  std::vector<Thread> threads;
  for (const Place& place : stacks_[static_cast<size_t>(stack)]) {
    if (place != kNowhere) threads.push_back({place.node, place.stack});
  }
  return threads.empty() ? kDead : Make(std::move(threads), false);
}

void Machine::Adopt(const Machine& other, std::span<Config> configs) {
  CHECK(&grammar_ == &other.grammar_);
  work_ += other.work_;
  std::set<Stack> needed;
  for (const Config config : configs) {
    if (config < 0) continue;
    for (const Thread& thread : other.threads(config)) needed.insert(thread.stack);
  }
  // A stack is made after those below it, so it has the higher number.
  for (auto at = needed.rbegin(); at != needed.rend(); ++at) {
    for (const Place& place : other.stacks_[static_cast<size_t>(*at)]) {
      if (place != kNowhere) needed.insert(place.stack);
    }
  }
  std::map<Stack, Stack> mine;
  for (const Stack stack : needed) {
    Places places = other.stacks_[static_cast<size_t>(stack)];
    for (Place& place : places) {
      if (place != kNowhere) place.stack = mine.at(place.stack);
    }
    mine[stack] = Intern(std::move(places));
  }
  for (Config& config : configs) {
    if (config < 0) continue;
    const std::span<const Thread> from = other.threads(config);
    std::vector<Thread> threads(from.begin(), from.end());
    for (Thread& thread : threads) thread.stack = mine.at(thread.stack);
    config = Make(std::move(threads), other.can_end(config));
  }
}

Machine::Config Machine::Step(Config config, uint8_t byte) {
  std::vector<Thread> next;
  const State& state = configs_[static_cast<size_t>(config)];
  for (const std::vector<Thread>* threads : {&state.threads, &state.called}) {
    for (const Thread& thread : *threads) {
      work_ += static_cast<int64_t>(node(thread.node).edges.size()) + 1;
      for (const Grammar::Edge& edge : node(thread.node).edges) {
        if (edge.low > byte) break;
        if (byte <= edge.high) next.push_back({edge.target, thread.stack});
      }
    }
  }
  const Config made = Make(std::move(next), false);
  rows_[static_cast<size_t>(config) * row_ + kind_[byte]] = made;
  return made;
}

Machine::Config Machine::Make(std::vector<Thread> threads, bool can_end) {
  std::sort(threads.begin(), threads.end());
  threads.erase(std::unique(threads.begin(), threads.end()), threads.end());
  // Rules that may end here return, and the place may be one where its own rule ends.
  std::vector<Thread> ending;
  const auto note = [&](const Thread& thread) {
    if (node(thread.node).final) ending.push_back(thread);
  };
  for (const Thread& thread : threads) note(thread);
  while (!ending.empty()) {
    const Stack stack = ending.back().stack;
    ending.pop_back();
    for (const Place& place : stacks_[static_cast<size_t>(stack)]) {
      if (place == kNowhere) {
        can_end = true;
        continue;
      }
      const Thread back{place.node, place.stack};
      const auto at = std::lower_bound(threads.begin(), threads.end(), back);
      if (at != threads.end() && *at == back) continue;
      threads.insert(at, back);
      note(back);
    }
    if (threads.size() > kMaxThreads) return kDead;
  }
  work_ += static_cast<int64_t>(threads.size());
  std::erase_if(threads, [&](const Thread& thread) {
    return node(thread.node).edges.empty() && node(thread.node).calls.empty();
  });
  const auto [at, fresh] = known_.try_emplace({can_end, threads}, static_cast<Config>(configs_.size()));
  if (!fresh) return at->second;
  const Config made = at->second;
  State state;
  state.can_end = can_end;
  state.threads = std::move(threads);
  CallRules(state);
  OpenRow(state);
  bytes_ += static_cast<int64_t>(row_ * sizeof(Config) + 2 * sizeof(State) + 160 +
                                 (2 * state.threads.size() + state.called.size()) * sizeof(Thread));
  configs_.push_back(std::move(state));
  return made;
}

void Machine::OpenRow(const State& state) {
  const size_t begin = rows_.size();
  rows_.resize(begin + row_, kDead);
  for (const std::vector<Thread>* threads : {&state.threads, &state.called}) {
    for (const Thread& thread : *threads) {
      for (const Grammar::Edge& edge : node(thread.node).edges) {
        std::fill(rows_.begin() + static_cast<int64_t>(begin) + kind_[edge.low],
                  rows_.begin() + static_cast<int64_t>(begin) + kind_[edge.high] + 1, kUnknown);
      }
    }
  }
}

// In the order of the rules: all who call a rule here are known before it is started.
void Machine::CallRules(State& state) {
  pending_.clear();
  const auto call_from = [this](const Thread& thread) {
    for (const Grammar::Call& call : node(thread.node).calls) {
      auto& [rule, places] = pending_[grammar_.order[static_cast<size_t>(call.rule)]];
      rule = call.rule;
      if (node(call.target).last()) {
        // A call at the end of a rule returns to where that rule does, so lists do not pile up.
        const Places& below = stacks_[static_cast<size_t>(thread.stack)];
        places.insert(places.end(), below.begin(), below.end());
      } else {
        places.push_back({call.target, thread.stack});
      }
    }
  };
  for (const Thread& thread : state.threads) call_from(thread);
  while (!pending_.empty()) {
    auto [rule, places] = std::move(pending_.begin()->second);
    pending_.erase(pending_.begin());
    const Thread thread{grammar_.starts[static_cast<size_t>(rule)], Intern(std::move(places))};
    state.called.push_back(thread);
    call_from(thread);
  }
  work_ += static_cast<int64_t>(state.called.size());
}

Machine::Stack Machine::Intern(Places places) {
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  const auto [at, fresh] = known_stacks_.try_emplace(places, static_cast<Stack>(stacks_.size()));
  if (fresh) {
    bytes_ += static_cast<int64_t>(2 * places.size() * sizeof(Place) + 160);
    stacks_.push_back(std::move(places));
  }
  return at->second;
}

}  // namespace paceline
