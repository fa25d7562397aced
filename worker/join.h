// What a worker and the head say to each other when the worker joins, as plain values: the gRPC service
// carries them between processes (worker/wire.h), the loopback workers of one process hand them over
// directly.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/placement.h"
#include "transport/exchange.h"
#include "worker/fingerprint.h"

namespace paceline {

// Revision of the node protocol, the frames and the link's first message together. Nodes of one cluster agree
// on it.
inline constexpr uint32_t kProtocolRevision = 2;

struct JoinTerms {
  uint32_t protocol = kProtocolRevision;
  ContractOptions contract;
};

// What a worker says of itself.
struct WorkerFacts {
  std::string name;
  int64_t pid = 0;
  uint64_t session = 0;  // random, drawn once per process: a member that redials is known by it
  std::string model_digest;
  std::string backend;
  std::string isa;
  std::string build;  // logged, never compared
  int64_t memory_bytes = 0;
  int32_t threads = 1;
  int32_t wanted_rank = 0;  // taken if free; 0: any
  std::string failure;      // why it cannot serve at all: the head says it and gives it no place
};

struct JoinHello {
  uint32_t protocol = kProtocolRevision;
  WorkerFacts facts;
  Fingerprints fingerprints;  // under the contract of the terms
  std::string known_answer;
  std::string address;  // set by the head: where the worker dialled from
};

// Groups [first_group, first_group + groups) of one expert.
struct HeldGroups {
  LayerId layer{0};
  ExpertId expert{0};
  int32_t first_group = 0;
  int32_t groups = 0;
  friend bool operator==(const HeldGroups&, const HeldGroups&) = default;
};

// A rank's share of the model and how to compute it: what a handler is made from. Two equal shares need one
// load.
struct Share {
  RankId rank{0};
  int32_t ranks = 1;
  ContractOptions contract;
  std::vector<HeldGroups> held;  // ascending by layer, expert, first group
  RowRange head_rows;            // of the LM head; count 0: none
  friend bool operator==(const Share&, const Share&) = default;
};

// The share of `rank` in `placement`.
Share ShareOf(const Placement& placement, RankId rank, const ContractOptions& contract);

// The table a worker loads by: its share, everything else on the head. `layers` are those of its own
// checkpoint; NET-004 when the share names a layer, expert or group they lack.
absl::StatusOr<Placement> PlacementOf(const Share& share, std::vector<LayerShape> layers);

// A worker's place: its share and the way to the head.
struct Assignment {
  Share share;
  Epoch epoch{0};
  uint32_t head = 0;  // every frame names it
  std::string link_kind;
  std::string link_address;
  std::string link_token;  // the first message on the data link
  bool yield = false;
  Duration heartbeat_interval{0};
  Duration heartbeat_timeout{0};
};

struct LoadProgress {
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};

// What a loaded worker holds.
struct LoadedFacts {
  int64_t experts = 0;
  int64_t leaves = 0;
  int64_t bytes = 0;
};

struct LoadedHandler {
  std::unique_ptr<ExpertHandler> handler;
  LoadedFacts facts;
};

// Loads a share and gives what answers for it. Called where threads may be born; LOAD-* as the checkpoint
// says.
using HandlerFactory = std::function<absl::StatusOr<LoadedHandler>(
    const Share& share, const std::function<void(LoadProgress)>& progress)>;

// Runs a known-answer vector under a contract and hashes what came out (at most 10 ms). The head compares.
using KnownAnswer = std::function<std::string(const ContractOptions&)>;

// The answer of a worker to the head's terms.
JoinHello MakeHello(const JoinTerms& terms, const WorkerFacts& facts, const KnownAnswer& known_answer);

// The way back to one worker. Thread-safe; outlives the worker's membership by doing nothing.
class MemberChannel {
 public:
  virtual ~MemberChannel() = default;
  virtual void AnnounceEpoch(Epoch epoch) = 0;
  // Ends the worker's stream: it is no member any more.
  virtual void Close() = 0;
};

// The head's side of joining, whoever carries the messages. Thread-safe.
class JoinHost {
 public:
  virtual ~JoinHost() = default;

  struct Admission {
    absl::Status status;     // NET-006 names every mismatch
    bool transient = false;  // a refusal that may be different in a moment
    uint64_t member = 0;     // one membership; a worker that comes back has another
    Assignment assignment;
  };
  virtual JoinTerms terms() const = 0;
  virtual Admission Join(const JoinHello& hello, std::shared_ptr<MemberChannel> channel) = 0;

  // Of one membership; ignored once it has ended.
  virtual void OnProgress(uint64_t member, LoadProgress progress) = 0;
  virtual void OnLoaded(uint64_t member, LoadedFacts facts) = 0;
  virtual void OnFailed(uint64_t member, const absl::Status& why) = 0;
  virtual void OnHeartbeat(uint64_t member, uint64_t progress, Epoch epoch) = 0;
  virtual void OnGone(uint64_t member, const std::string& why) = 0;
  // A data link whose first message was `token`.
  virtual void OnLink(const std::string& token, std::unique_ptr<Link> link) = 0;
};

}  // namespace paceline
