// The in-process cluster of tests.
#include "tests/testing/local_cluster.h"

#include <algorithm>
#include <numeric>

#include "base/status.h"
#include "coordinator/planner.h"
#include "model/placement_shape.h"

namespace paceline::testing {

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(const Checkpoint& checkpoint,
                                                                  const LocalClusterOptions& options) {
  auto cluster = std::make_unique<LocalCluster>();
  ASSIGN_OR_RETURN(cluster->placement_,
                   PlanPlacement(options.placement, PlacementShape(checkpoint), options.ranks));
  if (options.head_split)
    cluster->placement_.set_head_rows(SplitHeadRows(checkpoint.config().vocab, options.ranks));
  ASSIGN_OR_RETURN(const kernels::KernelTable* head_table,
                   kernels::SelectKernels(options.head_backend, options.head_isa));
  ASSIGN_OR_RETURN(const kernels::KernelTable* worker_table,
                   kernels::SelectKernels(options.worker_backend, options.worker_isa));
  if (options.table != nullptr) head_table = worker_table = options.table;
  for (int32_t rank = 1; rank < options.ranks; ++rank) {
    std::unique_ptr<Link> head_end, worker_end;
    if (options.link == "loopback") {
      std::tie(head_end, worker_end) = LoopbackPair();
    } else {
      ASSIGN_OR_RETURN(const std::unique_ptr<LinkListener> listener,
                       ListenLink(options.link, "127.0.0.1", 0));
      absl::StatusOr<std::unique_ptr<Link>> dialled = absl::UnknownError("");
      std::thread dial([&] {
        dialled =
            ConnectLink(options.link, listener->address(), Clock::Real().Now() + std::chrono::seconds(20));
      });
      absl::StatusOr<std::unique_ptr<Link>> accepted =
          listener->Accept(Clock::Real().Now() + std::chrono::seconds(20));
      dial.join();
      RETURN_IF_ERROR(accepted.status());
      RETURN_IF_ERROR(dialled.status());
      head_end = *std::move(accepted);
      worker_end = *std::move(dialled);
    }
    if (options.simulate.has_value()) {
      SimulationOptions simulate = *options.simulate;
      simulate.seed += static_cast<uint64_t>(rank);
      head_end = WrapSimulated(std::move(head_end), simulate, Clock::Real());
    }
    ASSIGN_OR_RETURN(std::unique_ptr<ExpertServer> server,
                     ExpertServer::Load(checkpoint, cluster->placement_, RankId(rank),
                                        {.table = worker_table,
                                         .threads = options.threads,
                                         .contract = options.contract,
                                         .lm_head = options.lm_head}));
    cluster->links_.push_back(std::move(head_end));
    cluster->workers_.emplace_back(
        [&stop = cluster->stop_, server = std::move(server), link = std::move(worker_end)] {
          // Ends with the link or with `stop`; either way the test's own expectations say whether that was
          // right.
          (void)ServeExchange(*link, *server, {.epoch = Epoch(0), .head = 0, .yield = true, .stop = [&stop] {
                                                 return stop.load();
                                               }});
        });
  }
  TrunkOptions trunk;
  trunk.table = head_table;
  trunk.threads = options.threads;
  trunk.yield = true;
  trunk.contract = options.contract;
  trunk.kv_dtype = options.kv_dtype;
  trunk.lm_head = options.lm_head;
  trunk.slots = options.slots;
  trunk.pages = options.pages;
  trunk.snapshots = options.snapshots;
  trunk.has_token = options.has_token;
  trunk.drafting = options.drafting;
  ASSIGN_OR_RETURN(cluster->trunk_, LocalTrunk::Load(checkpoint, cluster->placement_,
                                                     options.ranks > 1 ? cluster.get() : nullptr, trunk));
  return cluster;
}

LocalCluster::~LocalCluster() {
  stop_.store(true);
  trunk_.reset();
  for (const auto& link : links_) {
    if (link != nullptr) link->Abort(absl::CancelledError("the test is over"));
  }
  links_.clear();
  for (std::thread& t : workers_) t.join();
}

PeerSnapshot LocalCluster::Peers() const {
  PeerSnapshot snapshot{.version = version_, .epoch = Epoch(0), .peers = {}, .degraded = {}};
  for (size_t i = 0; i < links_.size(); ++i) {
    snapshot.peers.push_back(
        {RankId(static_cast<int32_t>(i) + 1), "worker-" + std::to_string(i + 1), links_[i],
         links_[i] == nullptr ? absl::UnavailableError("its process ended") : absl::OkStatus()});
  }
  return snapshot;
}

void LocalCluster::Kill(RankId rank) {
  links_.at(rank.value() - 1)->Abort(absl::UnavailableError("its process ended"));
}

void LocalCluster::Forget(RankId rank) {
  links_.at(rank.value() - 1).reset();
  ++version_;
}

namespace {

std::vector<int32_t> PagesFor(int64_t positions, int32_t first) {
  std::vector<int32_t> pages((positions + kPagePositions - 1) / kPagePositions);
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

}  // namespace

absl::StatusOr<Scores> ScoreText(LocalTrunk& trunk, const std::vector<TokenId>& tokens, int32_t chunk,
                                 int32_t top, SequenceId sequence, bool release) {
  Scores scores;
  const int64_t n = static_cast<int64_t>(tokens.size());
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t end = std::min<int64_t>(n, first + chunk);
    SequenceRows rows{.sequence = sequence,
                      .slot = 0,
                      .pages = PagesFor(n, 0),
                      .first_position = first,
                      .tokens = {tokens.begin() + first, tokens.begin() + end}};
    for (int64_t i = first; i < end; ++i) rows.targets.push_back(i + 1 < n ? tokens[i + 1] : -1);
    rows.top = top;
    rows.hash_logits = true;
    StepPlan plan{.step = StepId(static_cast<uint64_t>(first) + 1), .sequences = {std::move(rows)}};
    ASSIGN_OR_RETURN(StepResult result, trunk.Run(plan));
    RETURN_IF_ERROR(result.sequences[0].status);
    for (RowResult& r : result.sequences[0].rows) scores.rows.push_back(std::move(r));
    scores.logits_hash = result.sequences[0].logits_hash;
  }
  if (release) trunk.Release(sequence);
  return scores;
}

absl::StatusOr<std::vector<std::string>> HashStaggered(LocalTrunk& trunk, const std::vector<TokenId>& tokens,
                                                       int32_t chunk, int32_t batch) {
  std::vector<std::string> hashes(batch);
  const int64_t n = static_cast<int64_t>(tokens.size());
  const int32_t pages = static_cast<int32_t>((n + kPagePositions - 1) / kPagePositions);
  std::vector<int64_t> done(batch, 0);
  for (uint64_t step = 0; done.back() < n; ++step) {
    StepPlan plan{.step = StepId(step + 1)};
    std::vector<int32_t> who;
    for (int32_t b = 0; b < batch && b <= static_cast<int32_t>(step); ++b) {
      if (done[b] == n) continue;
      const int64_t end = std::min<int64_t>(n, done[b] + chunk);
      SequenceRows rows{.sequence = SequenceId(100 + static_cast<uint64_t>(b)),
                        .slot = b,
                        .pages = PagesFor(n, b * pages),
                        .first_position = done[b],
                        .tokens = {tokens.begin() + done[b], tokens.begin() + end}};
      rows.targets.assign(rows.tokens.size(), -1);
      rows.hash_logits = true;
      plan.sequences.push_back(std::move(rows));
      done[b] = end;
      who.push_back(b);
    }
    ASSIGN_OR_RETURN(const StepResult result, trunk.Run(plan));
    for (size_t i = 0; i < who.size(); ++i) {
      RETURN_IF_ERROR(result.sequences[i].status);
      hashes[who[i]] = result.sequences[i].logits_hash;
    }
  }
  for (int32_t b = 0; b < batch; ++b) trunk.Release(SequenceId(100 + static_cast<uint64_t>(b)));
  return hashes;
}

absl::StatusOr<std::vector<TokenId>> Continue(LocalTrunk& trunk, const std::vector<TokenId>& prompt,
                                              int32_t count, const std::vector<TokenId>& ends, int32_t chunk,
                                              const Sampling& sampling, SequenceId sequence) {
  std::vector<TokenId> out;
  std::vector<TokenId> next = prompt;
  int64_t position = 0;
  const std::vector<int32_t> pages = PagesFor(static_cast<int64_t>(prompt.size()) + count, 0);
  uint64_t step = 1000;
  while (true) {
    const int64_t n = std::min<int64_t>(chunk, static_cast<int64_t>(next.size()));
    SequenceRows rows{.sequence = sequence,
                      .slot = 1,
                      .pages = pages,
                      .first_position = position,
                      .tokens = {next.begin(), next.begin() + n}};
    next.erase(next.begin(), next.begin() + n);
    position += n;
    rows.sampled_rows = next.empty() ? 1 : 0;
    rows.sampling = sampling;
    StepPlan plan{.step = StepId(++step), .sequences = {std::move(rows)}};
    ASSIGN_OR_RETURN(const StepResult result, trunk.Run(plan));
    RETURN_IF_ERROR(result.sequences[0].status);
    if (!next.empty()) continue;
    const TokenId token = result.sequences[0].rows.at(0).token;
    out.push_back(token);
    if (static_cast<int32_t>(out.size()) == count || std::find(ends.begin(), ends.end(), token) != ends.end())
      return out;
    next = {token};
  }
}

}  // namespace paceline::testing
