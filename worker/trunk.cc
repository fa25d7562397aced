// The head's trunk: what it is made of. Its steps: trunk_step.cc.
#include "worker/trunk.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "model/placement_shape.h"
#include "model/suffix_drafter.h"

namespace paceline {

LocalTrunk::LocalTrunk(TrunkOptions options)
    : options_(std::move(options)), table_(*options_.table), pool_(options_.threads, options_.processors) {}

absl::StatusOr<std::unique_ptr<LocalTrunk>> LocalTrunk::Load(const Checkpoint& checkpoint,
                                                             const Placement& placement,
                                                             const PeerSource* peers, TrunkOptions options) {
  auto trunk = std::unique_ptr<LocalTrunk>(new LocalTrunk(std::move(options)));
  const TrunkOptions& o = trunk->options_;
  const ModelConfig& config = trunk->config_ = checkpoint.config();
  trunk->placement_ = trunk->assigned_ = placement;
  trunk->peers_ = peers;
  Loader loader(checkpoint, o.load);
  ASSIGN_OR_RETURN(trunk->decoder_, Decoder::Add(loader, trunk->table_));
  trunk->experts_ = ExpertStore::Add(loader, placement, RankId(0), trunk->table_);
  ASSIGN_OR_RETURN(const HeadFormat head_format, ResolveHeadFormat(checkpoint, o.lm_head));
  const RowRange head_rows = placement.head_rows().empty() ? RowRange{} : placement.head_rows()[0];
  ASSIGN_OR_RETURN(trunk->head_, LmHead::Add(loader, head_format, head_rows, trunk->table_));
  RETURN_IF_ERROR(trunk->LoadWith(loader));
  trunk->caches_ = std::make_unique<Caches>(config, o.kv_dtype, o.slots, o.pages, o.snapshots);
  trunk->states_.Add(&trunk->caches_->gdn_state());
  trunk->states_.Add(&trunk->samplers_);
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
  info.snapshots = o.snapshots;
  info.has_mtp = config.mtp_layers > 0 && checkpoint.missing_mtp().empty();
  for (int64_t id = 0; id < config.vocab && !o.has_token.empty(); ++id) {
    const size_t at = static_cast<size_t>(id);
    if (at >= o.has_token.size() || !o.has_token[at])
      trunk->missing_tokens_.push_back(static_cast<TokenId>(id));
  }
  info.lm_head = head_format == HeadFormat::kInt8 ? "int8" : "stored";
  info.layers = placement.layers();
  return trunk;
}

absl::Status LocalTrunk::LoadWith(Loader& loader) {
  const DraftingOptions& drafting = options_.drafting;
  std::unique_ptr<MtpDrafter> mtp;
  absl::Status refused;
  const auto add = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(mtp, MtpDrafter::Add(loader, table_, decoder_->embedding(),
                                          {.format = drafting.format,
                                           .tap = drafting.tap,
                                           .contract = options_.contract,
                                           .lm_head = options_.lm_head,
                                           .vocabulary = drafting.vocabulary,
                                           .has_token = options_.has_token,
                                           .kv_dtype = options_.kv_dtype,
                                           .pages = options_.pages}));
    return absl::OkStatus();
  };
  // A drafting layer that cannot be had leaves a model that can run without.
  if (drafting.mtp) loader.Apart(&refused, add);
  if (drafting.required) RETURN_IF_ERROR(refused);
  RETURN_IF_ERROR(loader.Run(pool_, options_.progress));
  load_report_ = loader.report();
  if (drafting.required) RETURN_IF_ERROR(refused);
  extra_weight_bytes_ = decoder_->embedding().bytes();
  if (drafting.mtp && refused.ok()) {
    extra_weight_bytes_ += mtp->weight_bytes();
    drafters_.push_back(std::move(mtp));
    info_.mtp_format = drafting.format == MtpFormat::kInt4 ? "int4" : "stored";
  } else {
    info_.draft_refusal = std::string(refused.message());
  }
  if (drafting.suffix) drafters_.push_back(std::make_unique<SuffixDrafter>());
  for (const auto& drafter : drafters_) info_.drafters.push_back(drafter->source());
  return absl::OkStatus();
}

void LocalTrunk::SetDrafter(DraftSource source, std::unique_ptr<Drafter> drafter) {
  std::erase_if(drafters_, [&](const auto& d) { return d->source() == source; });
  std::erase(info_.drafters, source);
  if (drafter == nullptr) return;
  CHECK(drafter->source() == source);
  drafters_.push_back(std::move(drafter));
  info_.drafters.push_back(source);
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

void LocalTrunk::Suspend(SequenceId sequence) {
  for (const auto& drafter : drafters_) drafter->Close(sequence);
  states_.Close(sequence);
}

void LocalTrunk::Release(SequenceId sequence) {
  Suspend(sequence);
  hashes_.erase(sequence);
  kept_.erase(sequence);
}

ExchangeCounters LocalTrunk::counters() const {
  ExchangeCounters c;
  if (exchange_ != nullptr) {
    c.layers = exchanged_layers_;
    c.bytes = exchange_->bytes();
    c.seconds = exchange_->wait_seconds();
    c.peers = exchange_->peers();
  }
  return c;
}

absl::Status LocalTrunk::MeasureLinks(bool bandwidth) {
  RefreshPeers();
  return exchange_ == nullptr ? absl::OkStatus() : exchange_->MeasureLinks(bandwidth);
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

void LocalTrunk::FillKeysValues(std::span<const int32_t> pages, int64_t positions) {
  CHECK_EQ(positions % kPagePositions, 0);
  CHECK_LE(positions, static_cast<int64_t>(pages.size()) * kPagePositions);
  const kernels::AttentionShape shape = AttentionShapeOf(config_);
  // The same page of noise everywhere: it takes as long to read as any other.
  std::vector<float> noise(static_cast<size_t>(kPagePositions * shape.kv_heads * shape.head_dim));
  for (size_t i = 0; i < noise.size(); ++i)
    noise[i] = static_cast<float>(2 * UniformOf(RandomBits(1, 0, RandomPurpose::kSynth, i, 0)) - 1);
  for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
    if (config_.layers[layer].mixer == Mixer::kGatedDeltaNet) continue;
    for (int64_t first = 0; first < positions; first += kPagePositions) {
      const kernels::RowRun run{0, static_cast<int32_t>(kPagePositions), first, pages.data()};
      table_.write_kv(pool_, shape, caches_->kv(layer).view(), {&run, 1}, noise.data(), noise.data());
    }
  }
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
