// The MTP layer as a drafter: one chain per sequence, all of it on the head. Its KV cache holds, for every
// committed position j, what (h_j, t_(j+1)) gives, from the target's own hidden states; rows a chain wrote
// with its own output are overwritten before the next chain reads them. Keys and values are all that
// committed positions leave behind, so only the last row of a catch-up runs attention and experts. Formulas:
// docs/ARCHITECTURE.md, Drafting. Draft arithmetic is outside the token contract.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "model/caches.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/draft_head.h"
#include "model/drafter.h"
#include "model/head.h"
#include "model/mtp.h"

namespace paceline {

struct MtpDrafterOptions {
  MtpFormat format = MtpFormat::kInt4;
  HiddenTap tap = HiddenTap::kPostNorm;  // which the layer sees, and which of its own it feeds back
  kernels::ActivationContract contract = kernels::ActivationContract::kInt16;  // of kStored
  HeadFormat lm_head = HeadFormat::kAuto;                                      // of kStored
  // Of kInt4. Absent: a head of more than kLargeHeadRows rows becomes INT4 (a tenth of a draft's time less
  // than INT8, and on the demo model at most 0.6 points of acceptance on text that makes sense); a smaller
  // one stays as it is stored, since it costs little.
  std::optional<DraftHeadFormat> int4_head = {};
  // Ids the draft head keeps, ascending; empty: all. A draft is never another id.
  std::vector<TokenId> vocabulary;
  std::vector<bool> has_token;  // as TrunkOptions: ids that may be drawn; empty: all
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  int32_t pages = 0;  // the trunk's; page ids are shared with it
};

class MtpDrafter final : public Drafter {
 public:
  // `embedding` is the trunk's and outlives the drafter. FailedPrecondition (LOAD-004) names the first
  // missing mtp.* tensor.
  static absl::StatusOr<std::unique_ptr<MtpDrafter>> Load(const Checkpoint& checkpoint,
                                                          const kernels::KernelTable& table, ThreadPool& pool,
                                                          const Embedding& embedding,
                                                          MtpDrafterOptions options);
  // The same as jobs of a load; the drafter is whole when the loader has run.
  static absl::StatusOr<std::unique_ptr<MtpDrafter>> Add(Loader& loader, const kernels::KernelTable& table,
                                                         const Embedding& embedding,
                                                         MtpDrafterOptions options);

  DraftSource source() const override { return DraftSource::kMtp; }
  HiddenTap tap() const override { return options_.tap; }
  // Rows that do not start where the last ones ended end the sequence's drafts, until it starts afresh.
  void Commit(const DraftContext& context, const CommittedRows& rows) override;
  absl::Status Draft(const DraftContext& context, std::span<const DraftRequest> requests,
                     std::span<DraftResult> drafts) override;
  DraftOffer Offer(SequenceId sequence, TokenId last_token) const override;
  // A page's last slot depends on the token behind the page, so each text that goes on from a shared page
  // writes it again: the last one wins, which costs the others a little acceptance in one slot of 256.
  void Keep(const DraftContext& context, SequenceId sequence, int32_t snapshot, const float* hidden,
            std::span<const int32_t> pages) override;
  void Restore(const DraftContext& context, SequenceId sequence, int32_t snapshot,
               std::span<const TokenId> tokens) override;
  void Close(SequenceId sequence) override { sequences_.erase(sequence); }
  int64_t bytes_per_draft() const override { return layer_->bytes_per_row() + head_->bytes(); }

  int64_t weight_bytes() const { return layer_->weight_bytes() + head_->bytes(); }
  const DraftHead& head() const { return *head_; }
  // Slots below it hold the committed text's keys and values, whatever was drafted since. The sequence drafts
  // (CHECKed).
  int64_t stored(SequenceId sequence) const;
  const KvLayer& kv() const { return kv_; }  // by the trunk's page ids
  int64_t open_sequences() const { return static_cast<int64_t>(sequences_.size()); }

 private:
  // Committed positions whose keys and values wait, at most 2 * kBlockRows: the token behind the last is not
  // known yet, the others are kept so that one pass over the weights serves several.
  struct Sequence {
    int64_t stored = 0;         // KV slots below are those of the committed text
    std::vector<float> hidden;  // [rows, hidden] of positions stored, stored + 1, ..
    std::vector<TokenId> next;  // [rows - 1], the token behind each
    TokenId guessed_from = -1;  // slot of the last row was written with this token behind it
    int64_t rows(int64_t width) const { return static_cast<int64_t>(hidden.size()) / width; }
  };
  // One row that a chain goes on from.
  struct Chain {
    size_t request = 0;
    int64_t slot = 0;  // KV slot of its next row
  };

  MtpDrafter(const Embedding& embedding, MtpDrafterOptions options);
  // Keys and values of every waiting position whose next token is known.
  void StoreKnown(const DraftContext& context, Sequence& sequence, std::span<const int32_t> pages);
  // Runs batch_ and appends to every chain's draft; chains that ended are taken out of chains_, and from_ has
  // what the others feed back.
  absl::Status Guess(const DraftContext& context, std::span<const DraftRequest> requests,
                     std::span<DraftResult> drafts);
  // Appends the token that these logits [draft vocabulary] give and the request's constraint allows; false
  // when there is none.
  bool Choose(const DraftContext& context, const DraftRequest& request, std::span<float> logits,
              DraftResult& draft) const;
  bool Draw(const DraftContext& context, const DraftRequest& request, std::span<float> logits,
            DraftResult& draft) const;

  const Embedding& embedding_;
  const MtpDrafterOptions options_;
  kernels::ActivationContract contract_;
  int64_t width_ = 0;  // hidden
  std::unique_ptr<MtpLayer> layer_;
  std::unique_ptr<DraftHead> head_;
  KvLayer kv_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  std::unordered_map<int32_t, std::vector<float>> snapshots_;  // [hidden] by snapshot

  // Of the call at hand.
  Batch batch_;
  std::vector<float> from_;      // [batch rows, hidden]
  std::vector<TokenId> tokens_;  // [batch rows], behind each
  std::vector<int32_t> wanted_;  // [chains]
  std::vector<Chain> chains_;
  std::vector<uint8_t> row_errors_;  // [chains]
};

}  // namespace paceline
