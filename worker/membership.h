// Who is in the cluster: one place per rank, taken, lost and taken again. A state machine without threads,
// clocks or connections; worker/cluster.h gives it those.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/cluster.h"
#include "base/ids.h"
#include "base/placement.h"
#include "worker/join.h"

namespace paceline {

// What the head compares a hello with.
struct Standard {
  JoinTerms terms;
  std::string model_digest;
  Fingerprints fingerprints;
  std::string known_answer;
};

// Ok, or NET-006 with every difference: what the head has, what the worker has.
absl::Status Compare(const Standard& head, const JoinHello& hello);

// One rank's place and whoever holds it.
struct Place {
  uint64_t member = 0;  // 0: nobody yet
  JoinHello hello;
  NodeState state = NodeState::kJoining;
  absl::Status lost;  // why, when lost
  LoadedFacts loaded;
  LoadProgress progress;
  std::string interface;  // of the head, on the way to it
  std::string token;
  std::shared_ptr<Link> link;
  std::shared_ptr<MemberChannel> channel;
  uint64_t served = 0;    // progress counter of the compute thread
  Epoch acknowledged{0};  // newest epoch whose frames the worker accepts
  Duration silence{0};    // since the last heartbeat
  bool is_loaded = false;
  bool replaces = false;  // took a lost worker's place
};

// Not thread-safe: the cluster holds its lock.
class Membership {
 public:
  // `placement` covers ranks 0..; rank 0 is the head and never a member.
  Membership(Standard standard, Placement placement);

  Epoch epoch() const { return epoch_; }
  const Placement& placement() const { return placement_; }
  const Standard& standard() const { return standard_; }
  int32_t ranks() const { return placement_.ranks(); }
  Place& place(RankId rank) { return places_[static_cast<size_t>(rank.value() - 1)]; }
  const Place& place(RankId rank) const { return places_[static_cast<size_t>(rank.value() - 1)]; }

  struct Decision {
    absl::Status status;
    bool transient = false;
    RankId rank{0};
    uint64_t supersedes = 0;  // the membership of the same process that must be ended first, or 0
  };
  // Where a worker would stand. Changes nothing.
  Decision Decide(const JoinHello& hello) const;
  // Takes the place. The rank must be free.
  Place& Take(RankId rank, const JoinHello& hello, std::string token, std::shared_ptr<MemberChannel> channel);

  // The rank of a membership, or 0 when it has ended.
  RankId RankOf(uint64_t member) const;
  RankId RankOfToken(const std::string& token) const;

  // True when the place became ready just now: loaded, and its data link is there. A replacement opens a new
  // epoch.
  bool Settle(RankId rank);
  // The member is lost; `why` is a clause ("its control connection ended"). Gives NET-001 with the worker's
  // name.
  absl::Status Lose(RankId rank, const std::string& why);

  bool AllReady() const;
  // Every ready member accepts frames of the current epoch.
  bool AllAcknowledged() const;
  // Empty when every expert and every row of the LM head has a ready holder; else the sentence for a caller,
  // NET-001.
  std::string Degraded() const;
  // "2 of 3 workers have joined, 1 is ready".
  std::string Summary() const;

 private:
  bool HasHolder(const std::vector<RankId>& holders) const;

  const Standard standard_;
  Placement placement_;
  std::vector<Place> places_;  // [ranks - 1]
  Epoch epoch_{1};
  uint64_t members_ = 0;  // memberships so far
};

}  // namespace paceline
