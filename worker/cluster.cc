// Threads and connections around Membership. Callbacks and messages to workers go out without the lock.
#include "worker/cluster.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/interfaces.h"
#include "worker/node_service.h"

namespace paceline {
namespace {

constexpr Duration kTick = std::chrono::milliseconds(50);      // of the heartbeat watch
constexpr Duration kTokenPatience = std::chrono::seconds(10);  // for the first message on a data link
constexpr char kForeignToken[] = "its token belongs to no worker that is joining";

uint64_t Draw64() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

uint32_t DrawHeadId() {
  const uint32_t id = static_cast<uint32_t>(Draw64());
  return id == 0 ? 1 : id;
}

Standard StandardOf(const ClusterConfig& config) {
  Standard standard;
  standard.terms.contract = config.contract;
  standard.model_digest = config.model_digest;
  standard.fingerprints = FingerprintsOf(config.contract);
  if (config.known_answer) standard.known_answer = config.known_answer(config.contract);
  return standard;
}

}  // namespace

// A data link on its way into the cluster: it names its membership, then it is made whole.
struct Cluster::PendingLink {
  std::unique_ptr<Link> link;
  TimePoint deadline;  // of what is awaited
  std::string token;   // empty: not named yet
};

Cluster::Cluster(ClusterConfig config)
    : config_(std::move(config)),
      head_id_(DrawHeadId()),
      membership_(StandardOf(config_), config_.placement),
      head_(config_.head) {
  head_.head = true;
  if (head_.fingerprint.empty()) head_.fingerprint = ClusterFingerprint(membership_.standard().fingerprints);
  head_.experts = config_.placement.ExpertsOf(RankId(0));
  head_.leaves = config_.placement.LeavesOf(RankId(0));
  Publish();
}

Cluster::~Cluster() { Shutdown(); }

absl::StatusOr<std::unique_ptr<Cluster>> Cluster::Start(ClusterConfig config) {
  std::unique_ptr<Cluster> cluster(new Cluster(std::move(config)));
  RETURN_IF_ERROR(cluster->Listen());
  return cluster;
}

absl::Status Cluster::Listen() {
  if (!config_.listen) return absl::OkStatus();
  if (!config_.insecure_links && config_.host != "localhost" && !IsLoopbackAddress(config_.host)) {
    return Error(errors::kInsecureLink,
                 absl::StrCat("joins and activations would travel unencrypted over ", config_.host,
                              ": on a network that only trusted machines reach, pass --insecure-links; "
                              "otherwise listen on 127.0.0.1"));
  }
  if (config_.link != "loopback") {
    ASSIGN_OR_RETURN(listener_, ListenLink(config_.link, config_.host, 0));
    link_address_ = listener_->address();
    accept_thread_ = std::thread([this] { AcceptLinks(); });
  }
  ASSIGN_OR_RETURN(server_, NodeServer::Start(config_.host, config_.join_port, *this));
  join_address_ = absl::StrCat(config_.host, ":", server_->port());
  watch_thread_ = std::thread([this] { WatchHeartbeats(); });
  return absl::OkStatus();
}

void Cluster::ExpectLosses() {
  const std::lock_guard<std::mutex> lock(mutex_);
  losses_expected_ = true;
  on_change_ = nullptr;
}

void Cluster::Shutdown() {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    stop_ = true;
    on_change_ = nullptr;
    for (int32_t rank = 1; rank < membership_.ranks(); ++rank) {
      const Place& place = membership_.place(RankId(rank));
      if (place.link) place.link->Abort(Error(errors::kNodeLost, "the head is shutting down"));
    }
  }
  changed_.notify_all();
  if (server_) server_->Shutdown();
  if (watch_thread_.joinable()) watch_thread_.join();
  if (accept_thread_.joinable()) accept_thread_.join();
}

void Cluster::Log(const std::string& line) const {
  if (config_.log) config_.log(line);
}

Placement Cluster::placement() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return membership_.placement();
}

absl::Status Cluster::WaitReady(TimePoint deadline, const std::function<bool()>& stop) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (!fatal_.ok()) return fatal_;
    if (membership_.AllReady() && membership_.AllAcknowledged()) return absl::OkStatus();
    if (stopping_ || (stop && stop())) return absl::CancelledError("stopped while waiting for workers");
    const TimePoint now = Clock::Real().Now();
    if (now >= deadline) {
      return Error(errors::kTimeout, absl::StrCat(membership_.Summary(),
                                                  "; look at the workers' own messages, and "
                                                  "whether they dial ",
                                                  join_address_));
    }
    // A signal handler can only set a flag, so `stop` is looked at now and then.
    changed_.wait_for(lock, std::min<Duration>(deadline - now, kTick));
  }
}

void Cluster::Fail(const absl::Status& why) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (fatal_.ok()) fatal_ = why;
  Changed(lock);
}

PeerSnapshot Cluster::Peers() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return snapshot_;
}

void Cluster::SetOnChange(std::function<void()> on_change) {
  const std::lock_guard<std::mutex> lock(mutex_);
  on_change_ = std::move(on_change);
}

void Cluster::SetHeadFacts(const NodeFacts& head) {
  const std::lock_guard<std::mutex> lock(mutex_);
  head_ = head;
  head_.head = true;
}

ClusterFacts Cluster::Facts() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  ClusterFacts facts;
  facts.epoch = snapshot_.epoch;
  facts.degraded = degraded_;
  facts.nodes.push_back(head_);
  for (int32_t rank = 1; rank < membership_.ranks(); ++rank) {
    const Place& place = membership_.place(RankId(rank));
    if (place.member == 0) continue;
    NodeFacts node;
    node.name = place.hello.facts.name;
    node.pid = place.hello.facts.pid;
    node.address = place.hello.address;
    node.state = place.state;
    node.experts = place.loaded.experts;
    node.leaves = place.loaded.leaves;
    node.bytes = place.loaded.bytes;
    node.backend = place.hello.facts.backend;
    node.fingerprint = ClusterFingerprint(place.hello.fingerprints);
    node.rank = rank;
    node.silence_s = Seconds(place.silence);
    node.interface = place.interface;
    node.load_bytes = place.progress.done_bytes;
    node.load_total = place.progress.total_bytes;
    facts.nodes.push_back(std::move(node));
  }
  return facts;
}

JoinTerms Cluster::terms() const { return membership_.standard().terms; }

JoinHost::Admission Cluster::Join(const JoinHello& hello, std::shared_ptr<MemberChannel> channel) {
  Admission admission;
  // Threads of this process have no address.
  const std::string interface = hello.address.empty() ? "none" : InterfaceTowards(hello.address);
  std::unique_lock<std::mutex> lock(mutex_);
  if (stopping_) {
    admission.status = Error(errors::kUnreachable, "the head is shutting down");
    return admission;
  }
  // Threads of this process hand over their links themselves; nobody else can reach a loopback link.
  if (config_.link == "loopback" && !hello.address.empty()) {
    admission.status =
        Error(errors::kJoinRefused,
              "this head runs with --link loopback: its workers are threads of its own process; start "
              "it with --link tcp to let other processes join");
    return admission;
  }
  Membership::Decision decision = membership_.Decide(hello);
  if (decision.status.ok() && decision.supersedes != 0) Lose(decision.rank, "it dialled again", lock);
  if (!decision.status.ok()) {
    lock.unlock();
    Log(absl::StrCat("refused: ", std::string(decision.status.message())));
    admission.status = decision.status;
    admission.transient = decision.transient;
    return admission;
  }
  const std::string token =
      absl::StrCat(absl::Hex(Draw64(), absl::kZeroPad16), absl::Hex(Draw64(), absl::kZeroPad16));
  Place& place = membership_.Take(decision.rank, hello, token, std::move(channel));
  place.interface = interface;
  admission.member = place.member;
  Assignment& assignment = admission.assignment;
  assignment.share = ShareOf(membership_.placement(), decision.rank, config_.contract);
  assignment.epoch = membership_.epoch();
  assignment.head = head_id_;
  assignment.link_kind = config_.link;
  assignment.link_address = link_address_;
  assignment.link_token = token;
  assignment.yield = config_.yield;
  assignment.heartbeat_interval = config_.heartbeat_interval;
  assignment.heartbeat_timeout = config_.heartbeat_timeout;
  Changed(lock);
  lock.unlock();
  Log(absl::StrCat("worker ", hello.facts.name, " joined as rank ", decision.rank.value(),
                   hello.address.empty() ? "" : " from ", hello.address, " (", hello.facts.backend, ", ",
                   hello.facts.threads, " threads, build ", hello.facts.build, ")"));
  return admission;
}

void Cluster::OnProgress(uint64_t member, LoadProgress progress) {
  std::string name;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const RankId rank = membership_.RankOf(member);
    if (rank == RankId(0)) return;
    Place& place = membership_.place(rank);
    if (place.state == NodeState::kJoining) place.state = NodeState::kLoading;
    place.progress = progress;
    place.silence = Duration(0);
    name = place.hello.facts.name;
  }
  if (config_.on_progress) config_.on_progress(name, progress);
}

void Cluster::OnLoaded(uint64_t member, LoadedFacts facts) {
  std::unique_lock<std::mutex> lock(mutex_);
  const RankId rank = membership_.RankOf(member);
  if (rank == RankId(0)) return;
  Place& place = membership_.place(rank);
  place.loaded = facts;
  place.is_loaded = true;
  if (place.state == NodeState::kJoining) place.state = NodeState::kLoading;
  Settle(rank, lock);
}

void Cluster::OnLink(const std::string& token, std::unique_ptr<Link> link) {
  std::unique_lock<std::mutex> lock(mutex_);
  const RankId rank = membership_.RankOfToken(token);
  if (rank == RankId(0)) {
    const std::string from = link->Describe();
    lock.unlock();
    Log(absl::StrCat("closed a data link (", from, "): ", kForeignToken));
    return;
  }
  if (config_.wrap_link) link = config_.wrap_link(std::move(link), rank);
  membership_.place(rank).link = std::move(link);
  Settle(rank, lock);
}

void Cluster::OnHeartbeat(uint64_t member, uint64_t progress, Epoch epoch) {
  std::unique_lock<std::mutex> lock(mutex_);
  const RankId rank = membership_.RankOf(member);
  if (rank == RankId(0)) return;
  Place& place = membership_.place(rank);
  place.silence = Duration(0);
  place.served = progress;
  if (epoch <= place.acknowledged) return;
  place.acknowledged = epoch;
  if (snapshot_.epoch == membership_.epoch()) return;
  Publish();
  Changed(lock);
}

void Cluster::OnFailed(uint64_t member, const absl::Status& why) {
  std::unique_lock<std::mutex> lock(mutex_);
  const RankId rank = membership_.RankOf(member);
  if (rank == RankId(0)) return;
  const std::string name = membership_.place(rank).hello.facts.name;
  if (config_.failures_are_fatal && fatal_.ok()) fatal_ = why;
  lock.unlock();
  // The worker's own words, its name in front.
  Log(absl::StrCat("worker ", name, ": ", std::string(why.message())));
  lock.lock();
  if (membership_.RankOf(member) == rank) Lose(rank, std::string(why.message()), lock);
}

void Cluster::OnGone(uint64_t member, const std::string& why) {
  std::unique_lock<std::mutex> lock(mutex_);
  const RankId rank = membership_.RankOf(member);
  if (rank != RankId(0)) Lose(rank, why, lock);
}

void Cluster::Settle(RankId rank, std::unique_lock<std::mutex>& lock) {
  if (!membership_.Settle(rank)) return;
  const Place& place = membership_.place(rank);
  const std::string line =
      absl::StrCat("worker ", place.hello.facts.name, " is ready: ", place.loaded.experts, " experts, ",
                   place.loaded.leaves, " leaves, ", place.loaded.bytes, " bytes");
  std::vector<std::shared_ptr<MemberChannel>> channels;
  if (!membership_.AllAcknowledged()) {
    for (int32_t other = 1; other < membership_.ranks(); ++other) {
      const Place& told = membership_.place(RankId(other));
      if (told.channel) channels.push_back(told.channel);
    }
  }
  const Epoch epoch = membership_.epoch();
  Publish();
  Changed(lock);
  lock.unlock();
  for (const auto& channel : channels) channel->AnnounceEpoch(epoch);
  Log(line);
  lock.lock();
}

void Cluster::Lose(RankId rank, const std::string& why, std::unique_lock<std::mutex>& lock) {
  Place& place = membership_.place(rank);
  const std::shared_ptr<Link> link = place.link;
  const std::shared_ptr<MemberChannel> channel = place.channel;
  const absl::Status lost = membership_.Lose(rank, why);
  if (link) link->Abort(lost);
  Publish();
  Changed(lock);
  const bool quiet = stopping_ || losses_expected_;
  lock.unlock();
  if (channel) channel->Close();
  if (!quiet) Log(std::string(lost.message()));
  lock.lock();
}

// A new epoch waits until every ready worker accepts its frames: control messages and frames travel on
// different roads. Loss never waits.
void Cluster::Publish() {
  const bool all_know = membership_.AllAcknowledged();
  PeerSnapshot next;
  next.version = snapshot_.version + 1;
  next.epoch = all_know ? membership_.epoch() : snapshot_.epoch;
  degraded_ = membership_.Degraded();
  for (int32_t rank = 1; rank < membership_.ranks(); ++rank) {
    const Place& place = membership_.place(RankId(rank));
    Exchange::Peer peer;
    peer.rank = RankId(rank);
    peer.name = place.hello.facts.name;
    const bool ready = place.member != 0 && place.state == NodeState::kReady;
    const bool in_old_epoch = !all_know && place.replaces && place.acknowledged < membership_.epoch();
    if (ready && !in_old_epoch) {
      peer.link = place.link;
    } else if (place.member != 0 && place.state == NodeState::kLost) {
      peer.lost = place.lost;
    } else {
      peer.lost = Error(errors::kNodeLost, place.member == 0
                                               ? absl::StrCat("no worker has joined as rank ", rank, " yet")
                                               : absl::StrCat("worker ", peer.name, " is still loading"));
    }
    next.peers.push_back(std::move(peer));
  }
  if (!all_know && degraded_.empty()) {
    degraded_ = std::string(
        Error(errors::kNodeLost, "a worker is coming back; not every worker knows it yet").message());
  }
  if (!degraded_.empty()) next.degraded = absl::UnavailableError(degraded_);
  snapshot_ = std::move(next);
  version_.store(snapshot_.version, std::memory_order_release);
}

// Tells waiters and the owner; the lock is held again on return.
void Cluster::Changed(std::unique_lock<std::mutex>& lock) {
  changed_.notify_all();
  const std::function<void()> on_change = on_change_;
  if (!on_change) return;
  lock.unlock();
  on_change();
  lock.lock();
}

void Cluster::AcceptLinks() {
  std::vector<PendingLink> pending;
  while (!stop_) {
    // A link that owes its first message is polled; without one, the listener alone is waited for.
    const Duration patience =
        pending.empty() ? Duration(std::chrono::milliseconds(100)) : Duration(std::chrono::milliseconds(5));
    absl::StatusOr<std::unique_ptr<Link>> accepted = listener_->Accept(Clock::Real().Now() + patience);
    const TimePoint now = Clock::Real().Now();
    if (accepted.ok()) {
      pending.push_back({*std::move(accepted), now + kTokenPatience});
    } else if (!absl::IsDeadlineExceeded(accepted.status())) {
      Fail(accepted.status());
      return;
    }
    for (size_t i = 0; i < pending.size();) {
      const absl::StatusOr<bool> whole = Introduce(pending[i]);
      if (whole.ok() && !*whole && now < pending[i].deadline) {
        ++i;
        continue;
      }
      PendingLink done = std::move(pending[i]);
      pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(i));
      if (whole.ok() && *whole) {
        OnLink(done.token, std::move(done.link));
        continue;
      }
      const std::string why = !whole.ok()          ? std::string(whole.status().message())
                              : done.token.empty() ? "it did not say which worker it is"
                                                   : "it was not made whole in time";
      Log(absl::StrCat("closed a data link (", done.link->Describe(), "): ", why));
    }
  }
}

// True when the link can be taken.
absl::StatusOr<bool> Cluster::Introduce(PendingLink& pending) {
  if (pending.token.empty()) {
    ASSIGN_OR_RETURN(const Bytes first, pending.link->TryReceive());
    if (first.empty()) return false;
    pending.token.assign(reinterpret_cast<const char*>(first.data()), first.size());
    pending.deadline = Clock::Real().Now() + LinkPatience(config_.link);
  }
  Epoch epoch{0};
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Nothing is made for somebody unknown, or for a membership that has ended meanwhile.
    if (membership_.RankOfToken(pending.token) == RankId(0)) return absl::UnauthenticatedError(kForeignToken);
    epoch = membership_.epoch();
  }
  return pending.link->Open(epoch);
}

// Silence is counted in this thread's own ticks: on a machine so busy that the watch itself is late, a worker
// is not declared lost for heartbeats that nobody had time to read.
void Cluster::WatchHeartbeats() {
  TimePoint last = Clock::Real().Now();
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, kTick);
    const TimePoint now = Clock::Real().Now();
    const Duration tick = std::min<Duration>(now - last, 2 * kTick);
    last = now;
    for (int32_t rank = 1; rank < membership_.ranks() && !stopping_; ++rank) {
      Place& place = membership_.place(RankId(rank));
      // Threads of this process send no heartbeats: they have no address.
      if (place.member == 0 || place.state == NodeState::kLost || place.hello.address.empty()) continue;
      place.silence += tick;
      if (place.silence <= config_.heartbeat_timeout) continue;
      const auto silent_ms = std::chrono::duration_cast<std::chrono::milliseconds>(place.silence).count();
      Lose(RankId(rank), absl::StrCat("no heartbeat for ", silent_ms, " ms"), lock);
    }
  }
}

}  // namespace paceline
