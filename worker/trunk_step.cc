// One step of the trunk: draft, run the layers, read the logits, verify, commit.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/status.h"
#include "model/sampler.h"
#include "worker/trunk.h"

namespace paceline {
namespace {

// Rows of a sequence whose logits are wanted: its last ones.
int32_t WantedRows(const SequenceRows& s, size_t drafts) {
  if (!s.targets.empty()) return static_cast<int32_t>(s.tokens.size());
  return s.sampled_rows + static_cast<int32_t>(drafts);
}

StepPhase PhaseOf(Stage stage) {
  switch (stage) {
    case Stage::kNorms:
    case Stage::kAttentionProjections:
    case Stage::kAttention:
    case Stage::kDeltaNetProjections:
    case Stage::kDeltaNet:
      return StepPhase::kAttention;
    case Stage::kRouter:
    case Stage::kExchangeSend:
      return StepPhase::kDispatch;
    case Stage::kExperts:
    case Stage::kSharedExpert:
    case Stage::kDense:
      return StepPhase::kExpert;
    case Stage::kExchangeWait:
      return StepPhase::kCombine;
    case Stage::kHead:
    case Stage::kSampling:
      return StepPhase::kHead;
    case Stage::kDraft:
      return StepPhase::kDraft;
    case Stage::kOther:
    case Stage::kCount:
      break;
  }
  return StepPhase::kOther;
}

// What `after` has booked and `before` had not; of `total` seconds, the rest is nobody's.
PhaseSeconds PhasesBetween(const StageMeter& before, const StageMeter& after, double total) {
  PhaseSeconds phases{};
  for (int s = 0; s < static_cast<int>(Stage::kCount); ++s) {
    const auto stage = static_cast<Stage>(s);
    const double spent = after.at(stage).seconds - before.at(stage).seconds;
    phases[static_cast<size_t>(PhaseOf(stage))] += spent;
    total -= spent;
  }
  phases[static_cast<size_t>(StepPhase::kOther)] += std::max(0.0, total);
  return phases;
}

void Shorten(DraftResult& draft, size_t count) {
  if (draft.tokens.size() > count) draft.tokens.resize(count);
  if (draft.distributions.size() > count) draft.distributions.resize(count);
}

// A draft that ends the text is its last, and one that the constraint does not allow is none: rows behind
// either would be run for nothing.
void CutDraft(const SequenceRows& s, ConstraintMatcher* matcher, DraftResult& draft) {
  if (s.stops != nullptr) {
    const auto stop =
        std::find_first_of(draft.tokens.begin(), draft.tokens.end(), s.stops->begin(), s.stops->end());
    if (stop != draft.tokens.end()) Shorten(draft, static_cast<size_t>(stop - draft.tokens.begin()) + 1);
  }
  if (matcher == nullptr) return;
  size_t allowed = 0;
  while (allowed < draft.tokens.size() && matcher->Accept(draft.tokens[allowed])) ++allowed;
  matcher->Rollback(static_cast<int32_t>(allowed));
  Shorten(draft, allowed);
}

}  // namespace

absl::StatusOr<StepResult> LocalTrunk::Run(const StepPlan& plan) {
  pool_.StayOnFirst();
  for (const SequenceId sequence : plan.suspended) Suspend(sequence);
  RefreshPeers();
  RETURN_IF_ERROR(degraded_);
  workspace_.Reset();
  const TimePoint begin = Clock::Real().Now();
  const StageMeter before = *meter_;
  StageLap lap(meter_);
  Admit(plan);
  Step step;
  lap.Skip();
  const int64_t draft_bytes = MakeDrafts(plan, step);
  if (!drafters_.empty()) lap.Lap(Stage::kDraft, draft_bytes);
  const TimePoint drafted = Clock::Real().Now();
  Assemble(plan, step);
  if (step.batch.rows == 0) return StepResult{};

  StepResult result;
  result.sequences.resize(plan.sequences.size());
  Extend(plan, step);
  if (absl::Status ran = RunRows(plan, step, result); !ran.ok()) {
    GiveUp(plan);
    return ran;
  }
  Commit(plan, step, result);
  KeepStates(plan, result);
  const TimePoint committed = Clock::Real().Now();
  InformDrafters(plan, step, result);
  const TimePoint end = Clock::Real().Now();
  result.draft_s = Seconds(drafted - begin + (end - committed));
  result.run_s = Seconds(committed - drafted);
  result.phase_s = PhasesBetween(before, *meter_, Seconds(end - begin));
  return result;
}

// Makes room for sequences that begin, and brings every sampler up to the tokens of the plan.
void LocalTrunk::Admit(const StepPlan& plan) {
  for (const SequenceRows& s : plan.sequences) {
    CHECK(!s.tokens.empty());
    CHECK_LT(s.slot, options_.slots);
    CHECK_LE(s.first_position + static_cast<int64_t>(s.tokens.size()) + s.draft_depth,
             static_cast<int64_t>(s.pages.size()) * kPagePositions);
    if (s.first_position == 0) {
      states_.Open(s.sequence, s.slot);
      samplers_.at(s.sequence).Reset(s.prompt_tokens, s.sampling.constraint);
    } else if (s.restore >= 0) {
      Restore(s);
    }
    CHECK_EQ(states_.slot(s.sequence), s.slot);
    SamplerState& sampler = samplers_.at(s.sequence);
    sampler.Truncate(s.first_position);
    sampler.Append(s.tokens);
  }
}

void LocalTrunk::Restore(const SequenceRows& rows) {
  CHECK_EQ(static_cast<int64_t>(rows.prefix.size()), rows.first_position);
  CHECK_EQ(rows.first_position % kPagePositions, 0);
  states_.OpenAt(rows.sequence, rows.slot, rows.first_position);
  caches_->gdn_state().Restore(rows.sequence, rows.first_position, rows.restore, pool_);
  SamplerState& sampler = samplers_.at(rows.sequence);
  sampler.Reset(rows.prompt_tokens, rows.sampling.constraint);
  sampler.Append(rows.prefix);
  const DraftContext context{table_, pool_, workspace_};
  for (const auto& drafter : drafters_) drafter->Restore(context, rows.sequence, rows.restore, rows.prefix);
}

// Returns the weights read for them, in bytes.
int64_t LocalTrunk::MakeDrafts(const StepPlan& plan, Step& step) {
  int64_t draft_bytes = 0;
  step.drafts.resize(plan.sequences.size());
  const DraftContext context{table_, pool_, workspace_};
  for (const auto& drafter : drafters_) {
    std::vector<DraftRequest> requests;
    std::vector<size_t> who;  // [requests] index of the sequence
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const SequenceRows& s = plan.sequences[i];
      if (s.drafter != drafter->source() || s.draft_depth == 0) continue;
      CHECK_EQ(s.tokens.size(), 1u);
      CHECK_EQ(s.sampled_rows, 1);
      CHECK_LE(s.draft_depth, kMaxDraft);
      const SamplerState& sampler = samplers_.at(s.sequence);
      requests.push_back({s.sequence, s.tokens[0], s.first_position, s.draft_depth, s.pages, &s.sampling,
                          &sampler, sampler.matcher()});
      who.push_back(i);
    }
    if (requests.empty()) continue;
    std::vector<DraftResult> results(requests.size());
    // Without drafts the rows are plain ones: slower, and the same text.
    if (!drafter->Draft(context, requests, results).ok()) continue;
    for (size_t r = 0; r < requests.size(); ++r) {
      CHECK_LE(static_cast<int32_t>(results[r].tokens.size()), requests[r].depth);
      CutDraft(plan.sequences[who[r]], requests[r].matcher, results[r]);
      draft_bytes += drafter->bytes_per_draft() * static_cast<int64_t>(results[r].tokens.size());
      step.drafts[who[r]] = std::move(results[r]);
    }
  }
  return draft_bytes;
}

void LocalTrunk::Assemble(const StepPlan& plan, Step& step) {
  Batch& batch = step.batch;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    const std::vector<TokenId>& drafts = step.drafts[i].tokens;
    const int32_t rows = static_cast<int32_t>(s.tokens.size() + drafts.size());
    step.first_row.push_back(batch.rows);
    batch.runs.push_back({batch.rows, rows, s.first_position, s.pages.data()});
    batch.slots.push_back(s.slot);
    step.tokens.insert(step.tokens.end(), s.tokens.begin(), s.tokens.end());
    step.tokens.insert(step.tokens.end(), drafts.begin(), drafts.end());
    for (int32_t r = rows - WantedRows(s, drafts.size()); r < rows; ++r)
      step.logit_rows.push_back(batch.rows + r);
    step.verifications.emplace_back(
        Verification::Options{.sampling = &s.sampling,
                              .state = &samplers_.at(s.sequence),
                              .drafts = drafts,
                              .distributions = step.drafts[i].distributions,
                              .position = s.first_position + static_cast<int64_t>(s.tokens.size()),
                              .assume_acceptance = options_.drafting.assume_acceptance});
    batch.rows += rows;
  }
  FillRotary(config_.rope_theta, config_.rotary_dims, batch);
  step.row_errors.resize(static_cast<size_t>(batch.rows));
}

void LocalTrunk::Extend(const StepPlan& plan, const Step& step) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    const kernels::RowRun& run = step.batch.runs[i];
    // Few rows can be taken back, whether drafts or not: a step may fail.
    states_.Extend(s.sequence, run.first_position, run.rows, run.rows <= kMaxDraft + 1);
  }
}

// After a step that failed half-way: sequences that decode stand where they stood in front of it, those with
// more rows start again from their tokens, if at all. A hash of logits cannot be taken back.
void LocalTrunk::GiveUp(const StepPlan& plan) {
  for (const SequenceRows& s : plan.sequences) {
    if (states_.speculative(s.sequence) && !s.hash_logits) {
      states_.Rollback(s.sequence);
    } else {
      states_.Close(s.sequence);
    }
  }
}

absl::Status LocalTrunk::RunRows(const StepPlan& plan, Step& step, StepResult& result) {
  const StepContext context{table_,
                            pool_,
                            workspace_,
                            options_.contract,
                            step.batch,
                            meter_,
                            &result.distinct_experts,
                            &result.leaf_loads};
  RETURN_IF_ERROR(RunLayers(context, plan, step));
  return ReadLogits(context, plan, step, result);
}

absl::Status LocalTrunk::RunLayers(const StepContext& context, const StepPlan& plan, Step& step) {
  float* hidden = workspace_.Take<float>(step.batch.rows * config_.hidden);  // [rows, hidden]
  ASSIGN_OR_RETURN(step.residual,
                   decoder_->Forward(context, step.tokens, *caches_, *experts_, placement_, exchange_.get(),
                                     plan.step, plan.probe_workers, hidden, step.row_errors.data()));
  step.hidden = hidden;
  if (exchange_ != nullptr) {
    for (const LayerShape& layer : placement_.layers()) exchanged_layers_ += layer.experts > 0 ? 1 : 0;
  }
  return absl::OkStatus();
}

// Logits of the wanted rows only, in pieces that bound memory: a prompt scored whole has many.
absl::Status LocalTrunk::ReadLogits(const StepContext& context, const StepPlan& plan, Step& step,
                                    StepResult& result) {
  const int64_t width = config_.hidden;
  const int64_t piece = std::min<int64_t>(kBlockRows, static_cast<int64_t>(step.logit_rows.size()));
  float* rows_in = workspace_.Take<float>(piece * width);         // [<= kBlockRows, hidden]
  float* logits = workspace_.Take<float>(piece * config_.vocab);  // [<= kBlockRows, vocab]
  StageLap lap(meter_);
  size_t sequence = 0;
  for (size_t first = 0; first < step.logit_rows.size(); first += kBlockRows) {
    const size_t n = std::min<size_t>(kBlockRows, step.logit_rows.size() - first);
    for (size_t r = 0; r < n; ++r)
      std::copy_n(step.hidden + step.logit_rows[first + r] * width, width, rows_in + r * width);
    RETURN_IF_ERROR(head_->Forward(context, rows_in, static_cast<int32_t>(n), placement_, exchange_.get(),
                                   plan.step, logits));
    lap.Lap(Stage::kHead, head_->bytes());
    for (size_t r = 0; r < n; ++r) {
      const int32_t row = step.logit_rows[first + r];
      while (sequence + 1 < step.first_row.size() && row >= step.first_row[sequence + 1]) ++sequence;
      SequenceResult& out = result.sequences[sequence];
      const int32_t begin = step.first_row[sequence];
      // A row behind a wrong draft is no text: neither its token nor its errors count.
      if (!out.status.ok() || step.verifications[sequence].done()) continue;
      out.status = CheckRowErrors(step, row, row + 1);  // Commit looks at all of them
      if (!out.status.ok()) continue;
      out.status = ReadRow(context, plan.sequences[sequence], row - begin, step.verifications[sequence],
                           logits + static_cast<int64_t>(r) * config_.vocab, out);
    }
    lap.Lap(Stage::kSampling, 0);
  }
  return absl::OkStatus();
}

// `row` is the row's index inside the sequence's rows. The logits are masked in place once they have been
// reported.
absl::Status LocalTrunk::ReadRow(const StepContext& context, const SequenceRows& rows, int32_t row,
                                 Verification& verification, float* logits, SequenceResult& result) {
  const kernels::Workspace::Scope scope(workspace_);
  const size_t vocab = static_cast<size_t>(config_.vocab);
  const bool scoring = !rows.targets.empty();
  RowResult out;
  if (rows.hash_logits) {
    Sha256& hash = hashes_[rows.sequence];
    hash.Add(logits, vocab * sizeof(float));
    if (rows.draft_depth > 0) out.logits_hash = hash.Hex().substr(0, 16);
  }
  const bool want_logprobs = rows.logprobs || rows.top > 0 || scoring;
  float lse = 0;
  if (want_logprobs) {
    lse = table_.log_sum_exp(context.pool, logits, config_.vocab);
    if (!std::isfinite(lse)) {
      return Error(
          errors::kNonFinite,
          "the logits of a row are not numbers; the model's weights or this request's state are damaged");
    }
    out.top = TopCandidates({logits, vocab}, lse, rows.top);
  }
  if (scoring) {
    out.token = rows.targets[row];
    if (out.token >= 0) {
      const float own = logits[out.token];
      out.logprob = own - lse;
      out.rank = 1 + static_cast<int32_t>(
                         std::count_if(logits, logits + vocab, [own](float other) { return other > own; }));
    }
    result.rows.push_back(std::move(out));
    return absl::OkStatus();
  }
  // [vocab], as the head gave them. Masks leave the logit of a token that may be drawn; penalties and bias
  // do not.
  const float* raw = logits;
  if (rows.logprobs && (rows.sampling.penalises() || rows.sampling.adjustments != nullptr)) {
    float* copy = workspace_.Take<float>(config_.vocab);
    std::copy_n(logits, vocab, copy);
    raw = copy;
  }
  // A token the tokenizer lacks is never drawn.
  for (const TokenId id : missing_tokens_) {
    // A NaN must still be seen by the sampler.
    if (!std::isnan(logits[id])) logits[id] = -std::numeric_limits<float>::infinity();
  }
  if (rows.sampled_rows > 1) {
    // Several rows drawn from given tokens: each by itself, no chain of drafts.
    CHECK(!rows.sampling.penalises() && rows.sampling.adjustments == nullptr &&
          rows.sampling.constraint == nullptr);
    ASSIGN_OR_RETURN(out.token, SampleToken(table_, context.pool, {logits, vocab}, rows.sampling,
                                            rows.first_position + row + 1));
  } else {
    ASSIGN_OR_RETURN(out.token, verification.Judge(table_, context.pool, {logits, vocab}));
  }
  if (rows.logprobs) out.logprob = raw[out.token] - lse;
  result.rows.push_back(std::move(out));
  return absl::OkStatus();
}

// Rows that are text stay; the others never were.
void LocalTrunk::Commit(const StepPlan& plan, const Step& step, StepResult& result) {
  const int64_t width = config_.hidden;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    SequenceResult& out = result.sequences[i];
    out.sequence = s.sequence;
    out.drafted = static_cast<int32_t>(step.drafts[i].tokens.size());
    const int32_t begin = step.first_row[i];
    const int64_t rows =
        out.drafted > 0 ? static_cast<int64_t>(out.rows.size()) : static_cast<int64_t>(s.tokens.size());
    if (out.status.ok()) out.status = CheckRowErrors(step, begin, begin + static_cast<int32_t>(rows));
    states_.Commit(s.sequence, s.first_position + rows);
    const float* hidden = step.hidden + begin * width;
    if (const auto kept = kept_.find(s.sequence); kept != kept_.end())
      kept->second.insert(kept->second.end(), hidden, hidden + rows * width);
    if (const auto hash = hashes_.find(s.sequence); s.hash_logits && hash != hashes_.end())
      out.logits_hash = hash->second.Hex().substr(0, 16);
    if (!out.status.ok()) out.rows.clear();
  }
}

// States at page borders that the text has passed. After InformDrafters the snapshots are whole.
void LocalTrunk::KeepStates(const StepPlan& plan, StepResult& result) {
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    SequenceResult& out = result.sequences[i];
    if (s.keep < 0 || !out.status.ok() || states_.committed(s.sequence) < s.keep_position) continue;
    CHECK_EQ(s.keep_position % kPagePositions, 0);
    CHECK_GT(s.keep_position, s.first_position);
    caches_->gdn_state().Keep(s.sequence, s.keep_position, s.keep, pool_);
    out.kept = true;
  }
}

// Of a row of the step, where `drafter` wants it; null where it wants none.
const float* LocalTrunk::Tapped(const Drafter& drafter, const Step& step, int64_t row) const {
  if (drafter.tap() == HiddenTap::kNone) return nullptr;
  return (drafter.tap() == HiddenTap::kPostNorm ? step.hidden : step.residual) + row * config_.hidden;
}

// Drafters learn what became text, and say what they could do next.
void LocalTrunk::InformDrafters(const StepPlan& plan, const Step& step, StepResult& result) {
  StageLap lap(meter_);
  const DraftContext context{table_, pool_, workspace_};
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    SequenceResult& out = result.sequences[i];
    if (!out.status.ok()) continue;
    const size_t begin = static_cast<size_t>(step.first_row[i]);
    const size_t rows = out.drafted > 0 ? out.rows.size() : s.tokens.size();
    for (const auto& drafter : drafters_) {
      const float* tapped = Tapped(*drafter, step, static_cast<int64_t>(begin));  // [rows, hidden]
      drafter->Commit(context, {s.sequence, s.first_position, std::span(step.tokens).subspan(begin, rows),
                                tapped, s.pages});
      if (out.kept) {
        const int64_t last = static_cast<int64_t>(begin) + s.keep_position - s.first_position - 1;
        drafter->Keep(context, s.sequence, s.keep, Tapped(*drafter, step, last), s.pages);
      }
      // Behind a row that was scored the text goes on with what is there.
      if (!out.rows.empty() && s.targets.empty())
        out.offers.push_back(drafter->Offer(s.sequence, out.rows.back().token));
    }
  }
  if (!drafters_.empty()) lap.Lap(Stage::kDraft, 0);
}

absl::Status LocalTrunk::CheckRowErrors(const Step& step, int32_t first, int32_t end) {
  if (std::none_of(step.row_errors.begin() + first, step.row_errors.begin() + end,
                   [](uint8_t e) { return e != 0; })) {
    return absl::OkStatus();
  }
  return Error(errors::kNonFinite,
               "an expert's output left the numbers it may have (not finite, or 2^22 and more); this request "
               "ends, others go on");
}

}  // namespace paceline
