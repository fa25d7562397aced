// Drafts from the sequence's own words: the longest end of the text that stood there before, and what
// followed it then. Costs no weights and no arithmetic; right where text repeats itself, as edits, code and
// tool loops do. The copy may run into itself, so a loop is followed for as long as asked.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/drafter.h"

namespace paceline {

struct SuffixDrafterOptions {
  int32_t min_match = 3;    // tokens that must agree, the last one drawn included
  int32_t max_match = 32;   // more are not counted
  int32_t candidates = 32;  // earlier places compared, the latest first
};

class SuffixDrafter final : public Drafter {
 public:
  explicit SuffixDrafter(SuffixDrafterOptions options = {}) : options_(options) {}

  DraftSource source() const override { return DraftSource::kSuffix; }
  HiddenTap tap() const override { return HiddenTap::kNone; }
  // Rows that do not start where the last ones ended end the sequence's drafts, until it starts afresh.
  void Commit(const DraftContext& context, const CommittedRows& rows) override;
  // Never fails. The drafts are certain: no distributions.
  absl::Status Draft(const DraftContext& context, std::span<const DraftRequest> requests,
                     std::span<DraftResult> drafts) override;
  DraftOffer Offer(SequenceId sequence, TokenId last_token) const override;
  void Restore(const DraftContext& context, SequenceId sequence, int32_t /*snapshot*/,
               std::span<const TokenId> tokens) override {
    Commit(context, {.sequence = sequence, .tokens = tokens, .pages = {}});
  }
  void Close(SequenceId sequence) override { sequences_.erase(sequence); }
  int64_t bytes_per_draft() const override { return 0; }

  int64_t open_sequences() const { return static_cast<int64_t>(sequences_.size()); }

 private:
  // Where every run of `gram` tokens ended, newest first. Hashes may collide: the tokens are compared.
  struct Index {
    explicit Index(int32_t of) : gram(of) {}
    int32_t gram;
    absl::flat_hash_map<uint64_t, int32_t> latest;  // hash -> position of the run's last token
    std::vector<int32_t> earlier;                   // [tokens], the position before, -1 when none
  };
  struct Sequence {
    std::vector<TokenId> tokens;
    std::vector<Index> indices;  // long runs first
  };
  struct Match {
    int64_t end = -1;  // position of the last token that agrees
    int32_t length = 0;
  };

  Match Find(const Sequence& sequence, TokenId last_token) const;

  const SuffixDrafterOptions options_;
  std::unordered_map<SequenceId, Sequence> sequences_;
};

}  // namespace paceline
