// The head's view of its workers and its hold on them: the join service, the data links, heartbeats, epochs.
// The trunk takes a snapshot of the peers between two steps; the coordinator and `status` read the facts.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/cluster.h"
#include "base/placement.h"
#include "transport/exchange.h"
#include "transport/link.h"
#include "worker/join.h"
#include "worker/membership.h"
#include "worker/peers.h"

namespace paceline {

class NodeServer;

struct ClusterConfig {
  Placement placement;  // of every rank, the head counted
  ContractOptions contract;
  std::string model_digest;
  KnownAnswer known_answer;  // empty: none is compared
  NodeFacts head;            // rank 0, as `status` shows it

  std::string link = "tcp";        // "loopback": workers are threads of this process
  bool listen = true;              // false: nobody outside this process may join
  std::string host = "127.0.0.1";  // of the join port and of the data links
  int join_port = 0;               // 0: any free one
  bool insecure_links = false;     // plain connections off this machine are allowed
  bool yield = false;              // compute threads on this machine outnumber its cores
  Duration heartbeat_interval = std::chrono::milliseconds(100);
  Duration heartbeat_timeout = std::chrono::milliseconds(900);
  bool failures_are_fatal = false;  // a worker that cannot load ends WaitReady with its error

  // Around every worker link on the head's side (--simulate-link); empty: none.
  std::function<std::unique_ptr<Link>(std::unique_ptr<Link>, RankId)> wrap_link;
  std::function<void(const std::string& line)> log;  // for people; empty: dropped
  std::function<void(const std::string& worker, LoadProgress)> on_progress;
};

// Thread-safe.
class Cluster final : public ClusterView, public PeerSource, public JoinHost {
 public:
  // Listens and starts its threads. NET-002: a port is taken; NET-003: plain links off this machine; NET-007.
  static absl::StatusOr<std::unique_ptr<Cluster>> Start(ClusterConfig config);
  ~Cluster() override;

  // "127.0.0.1:7400", or "-" when nobody may join from outside.
  const std::string& join_address() const { return join_address_; }
  uint32_t head_id() const { return head_id_; }
  // The table every rank's share comes from; its epoch is the one of the newest snapshot.
  Placement placement() const;

  // Until every place is taken and loaded. DeadlineExceeded (NET-005) says who is missing; Cancelled when
  // `stop` turned true; the worker's own error when failures are fatal.
  absl::Status WaitReady(TimePoint deadline, const std::function<bool()>& stop);
  // Ends WaitReady with `why`: a local worker exited, say.
  void Fail(const absl::Status& why);

  // PeerSource: for the trunk.
  uint64_t version() const override { return version_.load(std::memory_order_acquire); }
  PeerSnapshot Peers() const override;
  // Called after every change of membership, on a thread of the cluster, without its lock.
  void SetOnChange(std::function<void()> on_change);

  ClusterFacts Facts() const override;
  void SetHeadFacts(const NodeFacts& head);

  // The owner is about to end its local workers: their loss is no news.
  void ExpectLosses();
  // Ends every membership and stops listening. The destructor does it too.
  void Shutdown();

  // JoinHost: for the join service and for loopback workers.
  JoinTerms terms() const override;
  Admission Join(const JoinHello& hello, std::shared_ptr<MemberChannel> channel) override;
  void OnProgress(uint64_t member, LoadProgress progress) override;
  void OnLoaded(uint64_t member, LoadedFacts facts) override;
  void OnFailed(uint64_t member, const absl::Status& why) override;
  void OnHeartbeat(uint64_t member, uint64_t progress, Epoch epoch) override;
  void OnGone(uint64_t member, const std::string& why) override;
  void OnLink(const std::string& token, std::unique_ptr<Link> link) override;

 private:
  explicit Cluster(ClusterConfig config);
  absl::Status Listen();
  struct PendingLink;
  void AcceptLinks();
  absl::StatusOr<bool> Introduce(PendingLink& pending);
  void WatchHeartbeats();
  void Settle(RankId rank, std::unique_lock<std::mutex>& lock);
  void Lose(RankId rank, const std::string& why, std::unique_lock<std::mutex>& lock);
  void Publish();
  void Changed(std::unique_lock<std::mutex>& lock);
  void Log(const std::string& line) const;

  const ClusterConfig config_;
  const uint32_t head_id_;
  std::string join_address_ = "-";
  std::string link_address_;
  std::unique_ptr<LinkListener> listener_;
  std::unique_ptr<NodeServer> server_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Membership membership_;
  NodeFacts head_;
  PeerSnapshot snapshot_;
  std::string degraded_;
  absl::Status fatal_;
  std::function<void()> on_change_;
  bool stopping_ = false;
  bool losses_expected_ = false;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> version_{0};

  std::thread accept_thread_;
  std::thread watch_thread_;
};

}  // namespace paceline
