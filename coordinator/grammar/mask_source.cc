#include "coordinator/grammar/mask_source.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "base/constraint.h"
#include "coordinator/grammar/node_classes.h"

namespace paceline {
namespace {

// Of Prepare, some tenths of a second each: nodes of the vocabulary's tree, and edges of the grammar.
constexpr int64_t kMaxLooks = 60'000'000;
constexpr int64_t kMaxWork = 100'000'000;

void Set(uint64_t* mask, TokenId id) { mask[id / 64] |= uint64_t{1} << (id % 64); }

}  // namespace

MaskSource::MaskSource(Grammar grammar, std::shared_ptr<const TokenBytes> tokens, MaskLimits limits)
    : grammar_(std::move(grammar)), tokens_(std::move(tokens)), limits_(limits), max_bytes_(limits.machine) {
  class_of_ = NodeClasses(grammar_, tokens_->brief_bytes());
  const auto most = std::max_element(class_of_.begin(), class_of_.end());
  classes_.resize(most == class_of_.end() ? 0 : static_cast<size_t>(*most) + 1);
  path_.resize(static_cast<size_t>(std::max(tokens_->brief().depth(), tokens_->lengthy().depth())) + 1);
  machine_ = std::make_shared<Machine>(grammar_);
}

absl::Status MaskSource::Prepare() {
  const std::lock_guard lock(mutex_);
  int64_t looks = kMaxLooks, work = kMaxWork;
  for (size_t i = 0; i < grammar_.nodes.size() && looks > 0 && class_bytes_ < limits_.classes; ++i) {
    const Grammar::Node& node = grammar_.nodes[i];
    if (node.edges.empty() && node.calls.empty()) continue;
    if (classes_[static_cast<size_t>(class_of_[i])].known) continue;
    const int64_t before = alone_ == nullptr ? 0 : alone_->work();
    const ClassMask& made = MaskOf(static_cast<int32_t>(i));
    work -= alone_->work() - before;
    if (work < 0) {
      return absl::InvalidArgumentError(
          "takes too long to compile: its parts can be read in too many ways at once; make the alternatives "
          "begin differently, or say less with it");
    }
    looks -= made.looks + 500;  // an empty mask is not free either
  }
  alone_.reset();
  return absl::OkStatus();
}

void MaskSource::Renew(std::shared_ptr<Machine>& machine, std::span<Machine::Config> configs) {
  auto fresh = std::make_shared<Machine>(grammar_);
  fresh->Adopt(*machine, configs);
  if (machine == machine_) {
    masks_.clear();
    made_.clear();
    // A text may be so deeply nested that it alone takes more.
    max_bytes_ = limits_.machine + 2 * fresh->bytes();
  }
  machine = std::move(fresh);
}

void MaskSource::Refresh(Cursor& cursor) {
  if (machine_->bytes() > max_bytes_) Renew(machine_, {});
  if (cursor.machine == machine_) return;
  const int64_t before = machine_->bytes();
  machine_->Adopt(*cursor.machine, cursor.configs);
  cursor.machine = machine_;
  max_bytes_ = std::max(max_bytes_, limits_.machine + 2 * (machine_->bytes() - before));
}

MaskSource::Cursor MaskSource::Start() {
  const std::lock_guard lock(mutex_);
  return {machine_, {machine_->Start()}};
}

bool MaskSource::Advance(Cursor& cursor, std::string_view bytes) {
  const std::lock_guard lock(mutex_);
  Refresh(cursor);
  Machine::Config config = cursor.configs.back();
  for (const char c : bytes) {
    config = machine_->Next(config, static_cast<uint8_t>(c));
    if (config == Machine::kDead) return false;
  }
  cursor.configs.push_back(config);
  return true;
}

bool MaskSource::CanEnd(Cursor& cursor) {
  const std::lock_guard lock(mutex_);
  return cursor.machine->can_end(cursor.configs.back());
}

std::shared_ptr<const TokenMask> MaskSource::Mask(Cursor& cursor) {
  const std::lock_guard lock(mutex_);
  Refresh(cursor);
  auto index = static_cast<size_t>(cursor.configs.back());
  if (index < masks_.size() && masks_[index] != nullptr) return masks_[index];
  if (class_bytes_ > 2 * limits_.classes) {
    classes_.assign(classes_.size(), {});
    class_bytes_ = 0;
  }
  std::shared_ptr<const TokenMask> mask = MakeMask(cursor.configs.back());
  ++masks_made_;
  // Making it may have been too much for the machine.
  Refresh(cursor);
  index = static_cast<size_t>(cursor.configs.back());
  const int64_t mask_bytes = MaskWords(tokens_->vocab()) * 8;
  // Who still uses a mask that is forgotten here holds on to it.
  while (static_cast<int64_t>(made_.size() + 1) * mask_bytes > limits_.masks && !made_.empty()) {
    masks_[static_cast<size_t>(made_.front())] = nullptr;
    made_.pop_front();
  }
  if (index >= masks_.size()) masks_.resize(machine_->configs());
  masks_[index] = mask;
  made_.push_back(cursor.configs.back());
  return mask;
}

MaskSource::Statistics MaskSource::statistics() const {
  const std::lock_guard lock(mutex_);
  Statistics s;
  s.nodes = static_cast<int64_t>(grammar_.nodes.size());
  s.classes = static_cast<int64_t>(classes_.size());
  for (const ClassMask& made : classes_) s.known_classes += made.known ? 1 : 0;
  s.configs = static_cast<int64_t>(machine_->configs());
  s.masks_made = masks_made_;
  s.bytes =
      class_bytes_ + machine_->bytes() + static_cast<int64_t>(made_.size()) * MaskWords(tokens_->vocab()) * 8;
  return s;
}

const MaskSource::ClassMask& MaskSource::MaskOf(int32_t node) {
  ClassMask& made = classes_[static_cast<size_t>(class_of_[static_cast<size_t>(node)])];
  if (made.known) return made;
  made.known = true;
  if (alone_ == nullptr) alone_ = std::make_shared<Machine>(grammar_);
  const TokenTrie& trie = tokens_->brief();
  TokenMask mask(static_cast<size_t>(MaskWords(tokens_->vocab())));
  path_[0] = alone_->At(node);
  for (uint32_t i = 0; i < trie.size();) {
    const TokenTrie::Node& at = trie.node(i);
    ++made.looks;
    const Machine::Config next = alone_->Next(path_[at.depth - 1u], at.byte);
    if (next == Machine::kDead) {
      i = at.end;
      continue;
    }
    path_[at.depth] = next;
    for (const TokenId id : trie.tokens(i)) Set(mask.data(), id);
    if (at.end > i + 1 && alone_->can_end(next)) {
      made.leaves.push_back(i);
      made.behind += at.end - i - 1;
    }
    if (alone_->bytes() > limits_.machine) Renew(alone_, std::span(path_).first(at.depth + 1u));
    ++i;
  }
  int64_t count = 0;
  for (const uint64_t word : mask) count += std::popcount(word);
  if (count * 2 > static_cast<int64_t>(mask.size())) {
    made.dense = std::move(mask);
  } else {
    made.few.reserve(static_cast<size_t>(count));
    for (size_t w = 0; w < mask.size(); ++w) {
      for (uint64_t word = mask[w]; word != 0; word &= word - 1)
        made.few.push_back(static_cast<TokenId>(w * 64 + static_cast<size_t>(std::countr_zero(word))));
    }
  }
  class_bytes_ += static_cast<int64_t>(made.dense.size() * 8 + made.few.size() * 4 + made.leaves.size() * 4);
  return made;
}

void MaskSource::Walk(const TokenTrie& trie, uint32_t begin, uint32_t end, int32_t depth, size_t start,
                      uint64_t* mask) {
  path_[static_cast<size_t>(depth)] = starts_[start];
  for (uint32_t i = begin; i < end;) {
    const TokenTrie::Node& node = trie.node(i);
    const Machine::Config next = machine_->Next(path_[node.depth - 1u], node.byte);
    if (next == Machine::kDead) {
      i = node.end;
      continue;
    }
    path_[node.depth] = next;
    for (const TokenId id : trie.tokens(i)) Set(mask, id);
    ++i;
    if (machine_->bytes() > max_bytes_ + limits_.machine) {
      // Both the way to here and where other walks begin go along.
      std::vector<Machine::Config> all(path_.begin(), path_.begin() + node.depth + 1);
      all.insert(all.end(), starts_.begin(), starts_.end());
      Renew(machine_, all);
      std::copy(all.begin(), all.begin() + node.depth + 1, path_.begin());
      std::copy(all.begin() + node.depth + 1, all.end(), starts_.begin());
    }
  }
}

std::shared_ptr<const TokenMask> MaskSource::MakeMask(Machine::Config config) {
  auto mask = std::make_shared<TokenMask>(static_cast<size_t>(MaskWords(tokens_->vocab())));
  const std::span<const Machine::Thread> threads = machine_->threads(config);
  using Leaving = std::pair<const ClassMask*, Machine::Config>;  // and where to
  std::vector<Leaving> leaving;
  int64_t behind = 0;
  // The machine may move its threads when it makes others.
  for (const Machine::Thread thread : std::vector<Machine::Thread>(threads.begin(), threads.end())) {
    const ClassMask& known = MaskOf(thread.node);
    for (size_t w = 0; w < known.dense.size(); ++w) (*mask)[w] |= known.dense[w];
    for (const TokenId id : known.few) Set(mask->data(), id);
    if (known.leaves.empty()) continue;
    const Machine::Config back = machine_->Returned(thread.stack);
    if (back != Machine::kDead) leaving.emplace_back(&known, back);
  }
  std::sort(leaving.begin(), leaving.end());
  leaving.erase(std::unique(leaving.begin(), leaving.end()), leaving.end());
  starts_ = {config};
  for (const auto& [made, back] : leaving) {
    behind += made->behind;
    starts_.push_back(back);
  }
  const TokenTrie& brief = tokens_->brief();
  if (behind > brief.size()) {
    // Rules that may end nearly anywhere: the whole tree is less than its parts.
    Walk(brief, 0, brief.size(), 0, 0, mask->data());
  } else {
    for (size_t i = 0; i < leaving.size(); ++i) {
      for (const uint32_t leaf : leaving[i].first->leaves) {
        const TokenTrie::Node& node = brief.node(leaf);
        Walk(brief, leaf + 1, node.end, node.depth, i + 1, mask->data());
      }
    }
  }
  const TokenTrie& lengthy = tokens_->lengthy();
  Walk(lengthy, 0, lengthy.size(), 0, 0, mask->data());
  return mask;
}

}  // namespace paceline
