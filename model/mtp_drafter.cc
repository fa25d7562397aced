// Catch-up rows and draft chains.
#include "model/mtp_drafter.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "model/sampler.h"

namespace paceline {

MtpDrafter::MtpDrafter(const Embedding& embedding, MtpDrafterOptions options)
    : embedding_(embedding), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<MtpDrafter>> MtpDrafter::Load(const Checkpoint& checkpoint,
                                                             const kernels::KernelTable& table,
                                                             ThreadPool& pool, const Embedding& embedding,
                                                             MtpDrafterOptions options) {
  Loader loader(checkpoint);
  ASSIGN_OR_RETURN(std::unique_ptr<MtpDrafter> drafter, Add(loader, table, embedding, std::move(options)));
  RETURN_IF_ERROR(loader.Run(pool, {}));
  return drafter;
}

absl::StatusOr<std::unique_ptr<MtpDrafter>> MtpDrafter::Add(Loader& loader, const kernels::KernelTable& table,
                                                            const Embedding& embedding,
                                                            MtpDrafterOptions options) {
  const Checkpoint& checkpoint = loader.checkpoint();
  auto drafter = std::unique_ptr<MtpDrafter>(new MtpDrafter(embedding, std::move(options)));
  const MtpDrafterOptions& o = drafter->options_;
  ASSIGN_OR_RETURN(drafter->layer_, MtpLayer::Add(loader, table, o.format));
  DraftHeadFormat head = o.int4_head.value_or(
      checkpoint.config().vocab > kLargeHeadRows ? DraftHeadFormat::kInt4 : DraftHeadFormat::kStored);
  drafter->contract_ = kernels::ActivationContract::kInt8;
  if (o.format == MtpFormat::kStored) {
    ASSIGN_OR_RETURN(const HeadFormat format, ResolveHeadFormat(checkpoint, o.lm_head));
    head = format == HeadFormat::kInt8 ? DraftHeadFormat::kInt8 : DraftHeadFormat::kStored;
    drafter->contract_ = o.contract;
  }
  ASSIGN_OR_RETURN(drafter->head_, DraftHead::Add(loader, head, o.vocabulary, o.has_token, table));
  drafter->width_ = checkpoint.config().hidden;
  drafter->kv_ = KvLayer(AttentionShapeOf(checkpoint.config()), o.kv_dtype, o.pages);
  return drafter;
}

void MtpDrafter::Commit(const DraftContext& context, const CommittedRows& rows) {
  if (rows.tokens.empty()) return;
  CHECK(rows.hidden != nullptr);
  if (rows.first_position == 0) {
    sequences_[rows.sequence] = Sequence();
  }
  const auto found = sequences_.find(rows.sequence);
  if (found == sequences_.end()) return;
  Sequence& s = found->second;
  if (s.stored + s.rows(width_) != rows.first_position) {
    sequences_.erase(found);
    return;
  }
  if (rows.first_position > 0) {
    if (s.guessed_from == rows.tokens[0]) {
      // The last draft wrote this slot already; then it was the only row that waited.
      CHECK(s.next.empty());
      s.hidden.clear();
      ++s.stored;
    } else {
      s.next.push_back(rows.tokens[0]);
    }
  }
  s.guessed_from = -1;
  // Piece by piece, so that a long chunk of a prompt is never held whole.
  const int64_t count = static_cast<int64_t>(rows.tokens.size());
  for (int64_t first = 0; first < count; first += kBlockRows) {
    const int64_t end = std::min<int64_t>(count, first + kBlockRows);
    if (first > 0) s.next.push_back(rows.tokens[first]);
    s.hidden.insert(s.hidden.end(), rows.hidden + first * width_, rows.hidden + end * width_);
    s.next.insert(s.next.end(), rows.tokens.begin() + first + 1, rows.tokens.begin() + end);
    if (s.rows(width_) > kBlockRows) StoreKnown(context, s, rows.pages);
  }
}

void MtpDrafter::StoreKnown(const DraftContext& context, Sequence& s, std::span<const int32_t> pages) {
  const kernels::Workspace::Scope scope(context.workspace);
  const int64_t known = static_cast<int64_t>(s.next.size());
  CHECK_LE(s.stored + known, static_cast<int64_t>(pages.size()) * kPagePositions);
  for (int64_t first = 0; first < known; first += kBlockRows) {
    const int32_t rows = static_cast<int32_t>(std::min<int64_t>(kBlockRows, known - first));
    batch_.rows = rows;
    batch_.runs.assign(1, {0, rows, s.stored + first, pages.data()});
    const ModelConfig& config = layer_->config();
    FillRotary(config.rope_theta, config.rotary_dims, batch_);
    const StepContext step{context.table, context.pool, context.workspace, contract_, batch_};
    const absl::Status status =
        layer_->Forward(step, embedding_, s.hidden.data() + first * width_,
                        std::span<const TokenId>(s.next).subspan(first, rows), kv_, {}, {});
    CHECK(status.ok());  // keys and values alone cannot fail
  }
  s.hidden.erase(s.hidden.begin(), s.hidden.begin() + known * width_);
  s.next.clear();
  s.stored += known;
}

void MtpDrafter::Keep(const DraftContext& context, SequenceId sequence, int32_t snapshot, const float* hidden,
                      std::span<const int32_t> pages) {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) {
    snapshots_.erase(snapshot);
    return;
  }
  StoreKnown(context, found->second, pages);
  snapshots_[snapshot].assign(hidden, hidden + width_);
}

void MtpDrafter::Restore(const DraftContext& /*context*/, SequenceId sequence, int32_t snapshot,
                         std::span<const TokenId> tokens) {
  const auto kept = snapshots_.find(snapshot);
  if (kept == snapshots_.end()) return Close(sequence);
  Sequence fresh;
  fresh.stored = static_cast<int64_t>(tokens.size()) - 1;
  fresh.hidden = kept->second;
  sequences_[sequence] = std::move(fresh);
}

absl::Status MtpDrafter::Draft(const DraftContext& context, std::span<const DraftRequest> requests,
                               std::span<DraftResult> drafts) {
  CHECK_EQ(requests.size(), drafts.size());
  batch_.rows = 0;
  batch_.runs.clear();
  from_.clear();
  tokens_.clear();
  wanted_.clear();
  chains_.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    const DraftRequest& request = requests[i];
    drafts[i].tokens.clear();
    drafts[i].distributions.clear();
    const auto found = sequences_.find(request.sequence);
    if (found == sequences_.end() || request.depth <= 0) continue;
    Sequence& s = found->second;
    const int32_t rows = static_cast<int32_t>(s.rows(width_));
    if (rows == 0 || s.stored + rows != request.position) continue;
    CHECK_LE(request.position, static_cast<int64_t>(request.pages.size()) * kPagePositions);
    batch_.runs.push_back({batch_.rows, rows, s.stored, request.pages.data()});
    batch_.rows += rows;
    from_.insert(from_.end(), s.hidden.begin(), s.hidden.end());
    tokens_.insert(tokens_.end(), s.next.begin(), s.next.end());
    tokens_.push_back(request.last_token);
    wanted_.push_back(batch_.rows - 1);
    chains_.push_back({i, request.position});
    // Only the last row stays: the next commit says whether last_token was what came.
    s.hidden.erase(s.hidden.begin(), s.hidden.end() - width_);
    s.next.clear();
    s.stored = request.position - 1;
    s.guessed_from = request.last_token;
  }
  absl::Status guessed;
  while (!chains_.empty()) {
    guessed = Guess(context, requests, drafts);
    if (!guessed.ok()) {
      // Which slots were written is not known.
      for (const DraftRequest& request : requests) sequences_.erase(request.sequence);
      break;
    }
    // Each chain goes on from its own output.
    batch_.rows = static_cast<int32_t>(chains_.size());
    batch_.runs.clear();
    tokens_.clear();
    wanted_.clear();
    for (size_t c = 0; c < chains_.size(); ++c) {
      const int32_t row = static_cast<int32_t>(c);
      const DraftRequest& request = requests[chains_[c].request];
      batch_.runs.push_back({row, 1, chains_[c].slot++, request.pages.data()});
      tokens_.push_back(drafts[chains_[c].request].tokens.back());
      wanted_.push_back(row);
    }
  }
  // Choose moved each on by its drafts.
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].matcher != nullptr)
      requests[i].matcher->Rollback(static_cast<int32_t>(drafts[i].tokens.size()));
  }
  return guessed;
}

absl::Status MtpDrafter::Guess(const DraftContext& context, std::span<const DraftRequest> requests,
                               std::span<DraftResult> drafts) {
  const kernels::Workspace::Scope scope(context.workspace);
  const ModelConfig& config = layer_->config();
  FillRotary(config.rope_theta, config.rotary_dims, batch_);
  const int64_t count = static_cast<int64_t>(chains_.size());
  float* normed = context.workspace.Take<float>(count * width_);         // [chains, hidden]
  float* residual = context.workspace.Take<float>(count * width_);       // [chains, hidden]
  float* logits = context.workspace.Take<float>(count * head_->size());  // [chains, draft vocabulary]
  row_errors_.assign(static_cast<size_t>(count), 0);
  const StepContext step{context.table, context.pool, context.workspace, contract_, batch_};
  RETURN_IF_ERROR(layer_->Forward(step, embedding_, from_.data(), tokens_, kv_, wanted_,
                                  {normed, residual, row_errors_.data()}));
  head_->Forward(step, normed, static_cast<int32_t>(count), logits);

  const float* own = options_.tap == HiddenTap::kPostNorm ? normed : residual;
  from_.resize(static_cast<size_t>(count * width_));
  size_t going = 0;
  for (size_t c = 0; c < chains_.size(); ++c) {
    const Chain chain = chains_[c];
    const DraftRequest& request = requests[chain.request];
    DraftResult& draft = drafts[chain.request];
    float* row = logits + static_cast<int64_t>(c) * head_->size();
    // Arithmetic that left the numbers ends a chain, not the step.
    if (row_errors_[c] != 0 || !Choose(context, request, {row, static_cast<size_t>(head_->size())}, draft))
      continue;
    if (static_cast<int32_t>(draft.tokens.size()) >= request.depth ||
        chain.slot >= static_cast<int64_t>(request.pages.size()) * kPagePositions) {
      continue;
    }
    std::copy_n(own + static_cast<int64_t>(c) * width_, width_, from_.data() + going * width_);
    chains_[going++] = chain;
  }
  chains_.resize(going);
  return absl::OkStatus();
}

bool MtpDrafter::Choose(const DraftContext& context, const DraftRequest& request, std::span<float> logits,
                        DraftResult& draft) const {
  if (request.matcher != nullptr) MaskLogits(logits, head_->ids(), request.matcher->Allowed());
  if (!Draw(context, request, logits, draft)) return false;
  if (request.matcher == nullptr || request.matcher->Accept(draft.tokens.back())) return true;
  draft.tokens.pop_back();
  draft.distributions.resize(std::min(draft.distributions.size(), draft.tokens.size()));
  return false;
}

bool MtpDrafter::Draw(const DraftContext& context, const DraftRequest& request, std::span<float> logits,
                      DraftResult& draft) const {
  const Sampling& sampling = *request.sampling;
  if (sampling.temperature <= 0.0f && !sampling.penalises() && sampling.adjustments == nullptr) {
    const int64_t best = context.table.arg_max(context.pool, logits.data(), head_->size());
    if (best >= 0) draft.tokens.push_back(head_->id(best));
    return best >= 0;
  }
  // The noise is the target's, so a draft and what the target draws agree more often than chance would have
  // them.
  const int64_t position = request.position + 1 + static_cast<int64_t>(draft.tokens.size());
  if (sampling.temperature <= 0.0f || sampling.acceptance == AcceptanceRule::kCoupled) {
    const absl::StatusOr<TokenId> token =
        SampleDraft(logits, head_->ids(), sampling, *request.sampler, position, draft.tokens);
    if (token.ok()) draft.tokens.push_back(*token);
    return token.ok();
  }
  absl::StatusOr<DraftDraw> draw =
      SampleDraftDistribution(logits, head_->ids(), sampling, *request.sampler, position, draft.tokens);
  if (!draw.ok() || draw->token < 0) return false;
  draft.tokens.push_back(draw->token);
  draft.distributions.push_back(std::move(draw->distribution));
  return true;
}

int64_t MtpDrafter::stored(SequenceId sequence) const {
  const auto found = sequences_.find(sequence);
  CHECK(found != sequences_.end());
  return found->second.stored;
}

DraftOffer MtpDrafter::Offer(SequenceId sequence, TokenId /*last_token*/) const {
  return {DraftSource::kMtp, sequences_.contains(sequence) ? kMaxDraft : 0, 0};
}

}  // namespace paceline
