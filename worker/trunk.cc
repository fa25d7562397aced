// Running steps on the head.
#include "worker/trunk.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/placement_shape.h"
#include "model/sampler.h"

namespace paceline {

LocalTrunk::LocalTrunk(TrunkOptions options)
    : options_(std::move(options)), table_(*options_.table), pool_(options_.threads) {}

absl::StatusOr<std::unique_ptr<LocalTrunk>> LocalTrunk::Load(const Checkpoint& checkpoint,
                                                             const Placement& placement,
                                                             const PeerSource* peers, TrunkOptions options) {
  auto trunk = std::unique_ptr<LocalTrunk>(new LocalTrunk(std::move(options)));
  const TrunkOptions& o = trunk->options_;
  const ModelConfig& config = trunk->config_ = checkpoint.config();
  trunk->placement_ = trunk->assigned_ = placement;
  trunk->peers_ = peers;
  ASSIGN_OR_RETURN(trunk->decoder_, Decoder::Load(checkpoint, trunk->table_, {}));
  ASSIGN_OR_RETURN(trunk->experts_, ExpertStore::Load(checkpoint, placement, RankId(0), trunk->table_,
                                                      trunk->pool_, o.progress));
  ASSIGN_OR_RETURN(const HeadFormat head_format, ResolveHeadFormat(checkpoint, o.lm_head));
  const RowRange head_rows = placement.head_rows().empty() ? RowRange{} : placement.head_rows()[0];
  ASSIGN_OR_RETURN(trunk->head_, LmHead::Load(checkpoint, head_format, head_rows, trunk->table_));
  trunk->caches_ = std::make_unique<Caches>(config, o.kv_dtype, o.slots, o.pages);
  trunk->states_.Add(&trunk->caches_->kv_state());
  trunk->states_.Add(&trunk->caches_->gdn_state());
  if (peers != nullptr) {
    trunk->exchange_ =
        MakeExchange({.head = o.head_id, .timeout = o.exchange_timeout, .yield = o.yield, .on_wait = {}});
  }

  TrunkInfo& info = trunk->info_;
  const std::string& directory = checkpoint.directory();
  const size_t end = directory.find_last_not_of('/');
  const size_t slash = directory.find_last_of('/', end);
  info.model = directory.substr(slash == std::string::npos ? 0 : slash + 1,
                                end - (slash == std::string::npos ? 0 : slash + 1) + 1);
  info.fingerprint = o.fingerprint;
  info.vocab = config.vocab;
  info.context = config.context;
  info.slots = o.slots;
  info.pages = o.pages;
  info.has_mtp = config.mtp_layers > 0 && checkpoint.missing_mtp().empty();
  info.lm_head = head_format == HeadFormat::kInt8 ? "int8" : "stored";
  info.layers = placement.layers();
  return trunk;
}

void LocalTrunk::RefreshPeers() {
  if (peers_ == nullptr || peers_->version() == peers_version_) return;
  PeerSnapshot snapshot = peers_->Peers();
  peers_version_ = snapshot.version;
  degraded_ = snapshot.degraded;
  placement_ = assigned_;
  placement_.set_epoch(snapshot.epoch);
  // While a replica's holder is lost, another holder answers for it.
  for (const Exchange::Peer& peer : snapshot.peers) {
    if (peer.link == nullptr || !peer.lost.ok()) placement_.DropReplicas(peer.rank);
  }
  exchange_->SetPeers(snapshot.epoch, std::move(snapshot.peers));
}

absl::StatusOr<StepResult> LocalTrunk::Run(const StepPlan& plan) {
  RefreshPeers();
  RETURN_IF_ERROR(degraded_);
  for (const SequenceRows& s : plan.sequences) {
    if (s.first_position == 0) states_.Open(s.sequence, s.slot);
    CHECK_EQ(states_.slot(s.sequence), s.slot);
    states_.Extend(s.sequence, s.first_position, static_cast<int32_t>(s.tokens.size()), false);
  }
  absl::StatusOr<StepResult> result = RunRows(plan);
  for (const SequenceRows& s : plan.sequences) {
    if (result.ok()) {
      states_.Commit(s.sequence, s.first_position + static_cast<int64_t>(s.tokens.size()));
    } else {
      states_.Close(s.sequence);  // given up
    }
  }
  return result;
}

absl::StatusOr<StepResult> LocalTrunk::RunRows(const StepPlan& plan) {
  workspace_.Reset();
  Batch batch;
  std::vector<TokenId> tokens;      // [rows]
  std::vector<int32_t> first_row;   // [sequences]
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending
  for (const SequenceRows& s : plan.sequences) {
    CHECK(!s.tokens.empty());
    CHECK_LT(s.slot, options_.slots);
    const int32_t n = static_cast<int32_t>(s.tokens.size());
    CHECK_LE(s.first_position + n, static_cast<int64_t>(s.pages.size()) * kPagePositions);
    first_row.push_back(batch.rows);
    batch.runs.push_back({batch.rows, n, s.first_position, s.pages.data()});
    batch.slots.push_back(s.slot);
    tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    const int32_t wanted = s.targets.empty() ? s.sampled_rows : n;
    for (int32_t i = n - wanted; i < n; ++i) logit_rows.push_back(batch.rows + i);
    batch.rows += n;
  }
  if (batch.rows == 0) return StepResult{};
  FillRotary(config_.rope_theta, config_.rotary_dims, batch);

  const StepContext context{table_, pool_, workspace_, options_.contract, batch, meter_};
  const int64_t hidden_size = config_.hidden;
  float* hidden = workspace_.Take<float>(batch.rows * hidden_size);  // [rows, hidden]
  std::vector<uint8_t> row_errors(batch.rows);
  RETURN_IF_ERROR(decoder_->Forward(context, tokens, *caches_, *experts_, placement_, exchange_.get(),
                                    plan.step, plan.probe_workers, hidden, row_errors.data()));
  if (exchange_ != nullptr) {
    for (const LayerShape& layer : placement_.layers()) exchanged_layers_ += layer.experts > 0 ? 1 : 0;
  }

  // Logits of the wanted rows only, in pieces that bound memory: a prompt scored whole has many.
  StepResult result;
  result.sequences.resize(plan.sequences.size());
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& s = plan.sequences[i];
    SequenceResult& out = result.sequences[i];
    out.sequence = s.sequence;
    const auto rows_begin = row_errors.begin() + first_row[i];
    if (std::any_of(rows_begin, rows_begin + static_cast<int64_t>(s.tokens.size()),
                    [](uint8_t e) { return e != 0; })) {
      out.status = Error(errors::kNonFinite,
                         "an expert's output left the numbers it may have (not finite, or 2^22 and more); "
                         "this request ends, others go on");
    }
    if (const auto kept = kept_.find(s.sequence); kept != kept_.end()) {
      const float* begin = hidden + first_row[i] * hidden_size;
      kept->second.insert(kept->second.end(), begin,
                          begin + static_cast<int64_t>(s.tokens.size()) * hidden_size);
    }
  }
  const int64_t logit_block = std::min<int64_t>(kBlockRows, static_cast<int64_t>(logit_rows.size()));
  float* rows_in = workspace_.Take<float>(logit_block * hidden_size);   // [<= kBlockRows, hidden]
  float* logits = workspace_.Take<float>(logit_block * config_.vocab);  // [<= kBlockRows, vocab]
  StageLap lap(meter_);
  size_t sequence = 0;
  for (size_t first = 0; first < logit_rows.size(); first += kBlockRows) {
    const size_t n = std::min<size_t>(kBlockRows, logit_rows.size() - first);
    for (size_t r = 0; r < n; ++r)
      std::copy_n(hidden + logit_rows[first + r] * hidden_size, hidden_size, rows_in + r * hidden_size);
    RETURN_IF_ERROR(head_->Forward(context, rows_in, static_cast<int32_t>(n), placement_, exchange_.get(),
                                   plan.step, logits));
    lap.Lap(Stage::kHead, head_->bytes());
    for (size_t r = 0; r < n; ++r) {
      const int32_t row = logit_rows[first + r];
      while (sequence + 1 < first_row.size() && row >= first_row[sequence + 1]) ++sequence;
      SequenceResult& out = result.sequences[sequence];
      if (!out.status.ok()) continue;
      out.status = FillResult(context, plan.sequences[sequence], row - first_row[sequence],
                              logits + static_cast<int64_t>(r) * config_.vocab, out);
    }
  }
  lap.Lap(Stage::kOther, 0);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (!plan.sequences[i].hash_logits) continue;
    if (const auto hash = hashes_.find(plan.sequences[i].sequence); hash != hashes_.end()) {
      result.sequences[i].logits_hash = hash->second.Hex().substr(0, 16);
    }
  }
  return result;
}

// `row` is the row's index inside the sequence's rows. The logits are masked in place once they have been
// reported.
absl::Status LocalTrunk::FillResult(const StepContext& context, const SequenceRows& rows, int32_t row,
                                    float* logits, SequenceResult& result) {
  const int64_t vocab = config_.vocab;
  const bool scoring = !rows.targets.empty();
  if (rows.hash_logits) hashes_[rows.sequence].Add(logits, static_cast<size_t>(vocab) * sizeof(float));
  RowResult out;
  const bool want_logprobs = rows.logprobs || rows.top > 0 || scoring;
  float lse = 0;
  if (want_logprobs) {
    lse = table_.log_sum_exp(context.pool, logits, vocab);
    if (!std::isfinite(lse)) {
      return Error(
          errors::kNonFinite,
          "the logits of a row are not numbers; the model's weights or this request's state are damaged");
    }
    out.top = TopCandidates({logits, static_cast<size_t>(vocab)}, lse, rows.top);
  }
  if (scoring) {
    out.token = rows.targets[row];
    out.logprob = out.token < 0 ? 0.0f : logits[out.token] - lse;
  } else {
    // A token the tokenizer lacks is never drawn.
    if (!options_.has_token.empty()) {
      for (int64_t id = 0; id < vocab; ++id) {
        if (static_cast<size_t>(id) < options_.has_token.size() && options_.has_token[id]) continue;
        // A NaN must still be seen by the sampler.
        if (!std::isnan(logits[id])) logits[id] = -std::numeric_limits<float>::infinity();
      }
    }
    ASSIGN_OR_RETURN(out.token, SampleToken(table_, context.pool, {logits, static_cast<size_t>(vocab)},
                                            rows.sampling, rows.first_position + row + 1));
    if (rows.logprobs) out.logprob = logits[out.token] - lse;
  }
  result.rows.push_back(std::move(out));
  return absl::OkStatus();
}

void LocalTrunk::Release(SequenceId sequence) {
  hashes_.erase(sequence);
  kept_.erase(sequence);
  states_.Close(sequence);
}

ExchangeCounters LocalTrunk::counters() const {
  ExchangeCounters c;
  if (exchange_ != nullptr) {
    c.layers = exchanged_layers_;
    c.bytes = exchange_->bytes();
    c.seconds = exchange_->wait_seconds();
  }
  return c;
}

absl::StatusOr<std::vector<std::vector<TokenId>>> LocalTrunk::Drafts(const Checkpoint& checkpoint,
                                                                     SequenceId sequence,
                                                                     std::span<const TokenId> tokens,
                                                                     int32_t depth) {
  const auto kept = kept_.find(sequence);
  CHECK(kept != kept_.end());
  CHECK_EQ(static_cast<int64_t>(kept->second.size()), static_cast<int64_t>(tokens.size()) * config_.hidden);
  ASSIGN_OR_RETURN(const std::unique_ptr<MtpLayer> mtp, MtpLayer::Load(checkpoint, table_, pool_));
  const LmHead* head = head_.get();
  std::unique_ptr<LmHead> whole;
  if (head->held() != config_.vocab) {
    // Drafting is local to the head: with --head-split the whole head is read for it.
    ASSIGN_OR_RETURN(const HeadFormat format, ResolveHeadFormat(checkpoint, options_.lm_head));
    ASSIGN_OR_RETURN(whole, LmHead::Load(checkpoint, format, {}, table_));
    head = whole.get();
  }
  workspace_.Reset();
  return mtp->DraftChains(table_, pool_, workspace_, options_.contract, decoder_->embedding(), *head,
                          options_.kv_dtype, kept->second.data(), tokens, depth);
}

LocalTrunk::Bytes LocalTrunk::bytes() const {
  Bytes b;
  for (const LayerWeights& layer : decoder_->layers())
    b.dense += layer.mixer_bytes + layer.feed_forward_bytes;
  b.head = head_->bytes();
  b.experts = experts_->bytes();
  for (const LayerShape& layer : placement_.layers())
    b.all_experts += int64_t{layer.experts} * layer.groups * layer.leaf_bytes;
  return b;
}

}  // namespace paceline
