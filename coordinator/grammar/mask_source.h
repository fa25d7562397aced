// A grammar over a vocabulary: which tokens may follow where. What depends on a node alone is worked out
// once, for all stacks; what a mask needs beyond that are the tokens that leave their rule, and the few that
// are very long. Masks are remembered by configuration.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/grammar/grammar.h"
#include "coordinator/grammar/machine.h"
#include "coordinator/grammar/token_trie.h"

namespace paceline {

// [MaskWords(vocab)], as base/constraint.h.
using TokenMask = std::vector<uint64_t>;

// What one compiled grammar may remember, in bytes.
struct MaskLimits {
  int64_t machine = 24 << 20;
  int64_t masks = 16 << 20;
  int64_t classes = 32 << 20;  // by Prepare; twice as much may come together later
};

// Thread-safe.
class MaskSource {
 public:
  // Where one text stands, and where it stood before. Its owner may drop configurations from both ends and
  // put negative numbers between them; the last one is current.
  struct Cursor {
    std::shared_ptr<Machine> machine;
    std::vector<Machine::Config> configs;
  };

  // `tokens` outlives the source.
  MaskSource(Grammar grammar, std::shared_ptr<const TokenBytes> tokens, MaskLimits limits = {});

  // Works out what most masks will ask for, on the thread that compiles. InvalidArgument when the grammar is
  // too ambiguous for that.
  absl::Status Prepare();

  Cursor Start();
  // Goes on by `bytes`; false, and nothing moves, where the grammar does not allow them.
  bool Advance(Cursor& cursor, std::string_view bytes);
  bool CanEnd(Cursor& cursor);
  // What may follow.
  std::shared_ptr<const TokenMask> Mask(Cursor& cursor);

  const TokenBytes& tokens() const { return *tokens_; }

  struct Statistics {
    int64_t nodes = 0;
    int64_t classes = 0;
    int64_t known_classes = 0;  // worked out
    int64_t configs = 0;
    int64_t masks_made = 0;
    int64_t bytes = 0;
  };
  Statistics statistics() const;

 private:
  // Tokens that can be told from a node and the rules it calls, whatever stands below on the stack.
  struct ClassMask {
    bool known = false;
    TokenMask dense;  // or, where few tokens are allowed,
    std::vector<TokenId> few;
    std::vector<uint32_t> leaves;  // nodes of the tree at which the rule may end and tokens go on
    int64_t behind = 0;            // nodes of the tree below those
    int64_t looks = 0;             // nodes of the tree that were looked at for all this
  };

  // Machines forget everything where memory runs out; `configs` are what must be carried over.
  void Renew(std::shared_ptr<Machine>& machine, std::span<Machine::Config> configs);
  // Brings a cursor to the machine of today.
  void Refresh(Cursor& cursor);
  const ClassMask& MaskOf(int32_t node);
  std::shared_ptr<const TokenMask> MakeMask(Machine::Config config);
  // Sets the bits of the tokens that starts_[start] allows among nodes [begin, end) of `trie`, all of them
  // below one node of that depth.
  void Walk(const TokenTrie& trie, uint32_t begin, uint32_t end, int32_t depth, size_t start, uint64_t* mask);

  const Grammar grammar_;
  const std::shared_ptr<const TokenBytes> tokens_;
  const MaskLimits limits_;
  std::vector<int32_t> class_of_;  // [nodes]
  mutable std::mutex mutex_;       // guards everything below
  std::vector<ClassMask> classes_;
  int64_t class_bytes_ = 0;
  std::shared_ptr<Machine> alone_;  // runs nodes without their callers, for classes_
  std::shared_ptr<Machine> machine_;
  int64_t max_bytes_;                                    // of machine_
  std::vector<std::shared_ptr<const TokenMask>> masks_;  // [configs of machine_], null where unknown
  std::deque<Machine::Config> made_;                     // masks in the order they were made
  std::vector<Machine::Config> path_;                    // of a walk: [depth]
  std::vector<Machine::Config> starts_;                  // of the walks for one mask
  int64_t masks_made_ = 0;
};

}  // namespace paceline
