// Admission, loss and return of workers, as rules over one table.
#include "worker/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline {
namespace {

std::string OrNone(const std::string& text) { return text.empty() ? "none" : text; }

std::string Difference(const std::string& what, const std::string& head, const std::string& worker) {
  return absl::StrCat(what, ": the head has ", OrNone(head), ", the worker ", OrNone(worker));
}

bool Holds(const Place& place) { return place.member != 0 && place.state != NodeState::kLost; }

}  // namespace

absl::Status Compare(const Standard& head, const JoinHello& hello) {
  std::vector<std::string> differences;
  std::string advice;
  const auto compare = [&](const std::string& what, const std::string& ours, const std::string& theirs,
                           const char* hint) {
    if (ours == theirs) return;
    differences.push_back(Difference(what, ours, theirs));
    if (advice.empty()) advice = hint;
  };
  constexpr char kRelease[] = "install the same release of paceline on both";
  compare("protocol revision", absl::StrCat(head.terms.protocol), absl::StrCat(hello.protocol), kRelease);
  compare("model digest", head.model_digest, hello.facts.model_digest,
          "give both the same files: config.json, every *.safetensors");
  // Another revision of the node protocol may describe its arithmetic in other words: no more can be said of
  // it.
  if (head.terms.protocol == hello.protocol) {
    const ContractOptions& contract = head.terms.contract;
    compare(absl::StrCat("arithmetic of integer experts (", DescribeIntegerExperts(contract), ")"),
            head.fingerprints.integer_experts, hello.fingerprints.integer_experts, kRelease);
    compare(absl::StrCat("arithmetic of float experts (", DescribeFloatExperts(contract), ")"),
            head.fingerprints.float_experts, hello.fingerprints.float_experts, kRelease);
    compare(absl::StrCat("arithmetic of the trunk (", DescribeTrunk(contract), ")"), head.fingerprints.trunk,
            hello.fingerprints.trunk, kRelease);
    compare(
        "known-answer run", head.known_answer, hello.known_answer,
        "run the worker with --backend reference to see whether its backend or its machine computes wrongly");
  }
  if (differences.empty()) return absl::OkStatus();
  return Error(errors::kJoinRefused,
               absl::StrCat("worker ", hello.facts.name, " cannot join: ", absl::StrJoin(differences, "; "),
                            ". To repair it, ", advice));
}

Membership::Membership(Standard standard, Placement placement)
    : standard_(std::move(standard)), placement_(std::move(placement)) {
  CHECK_GE(placement_.ranks(), 1);
  placement_.set_epoch(epoch_);
  places_.resize(static_cast<size_t>(placement_.ranks() - 1));
}

Membership::Decision Membership::Decide(const JoinHello& hello) const {
  Decision decision;
  if (!hello.facts.failure.empty()) {
    decision.status = Error(errors::kJoinRefused, absl::StrCat("worker ", hello.facts.name,
                                                               " cannot serve: ", hello.facts.failure));
    return decision;
  }
  decision.status = Compare(standard_, hello);
  if (!decision.status.ok()) return decision;

  for (int32_t rank = 1; rank < ranks(); ++rank) {
    const Place& held = place(RankId(rank));
    if (!Holds(held) || held.hello.facts.name != hello.facts.name) continue;
    if (held.hello.facts.session == hello.facts.session) {
      // The same process dials again before its old connection was missed here.
      decision.rank = RankId(rank);
      decision.supersedes = held.member;
      return decision;
    }
    decision.transient = true;
    decision.status =
        Error(errors::kJoinRefused, absl::StrCat("a live worker is already called ", hello.facts.name,
                                                 " (pid ", held.hello.facts.pid, ", ", held.hello.address,
                                                 "); give this one another --name"));
    return decision;
  }

  const RankId wanted(hello.facts.wanted_rank);
  if (wanted > RankId(0) && wanted < RankId(ranks()) && !Holds(place(wanted))) {
    decision.rank = wanted;
    return decision;
  }
  // A place of its own name first, then one nobody has had, then any lost worker's.
  RankId fresh{0}, lost{0};
  for (int32_t rank = 1; rank < ranks(); ++rank) {
    const Place& candidate = place(RankId(rank));
    if (candidate.member == 0) {
      if (fresh == RankId(0)) fresh = RankId(rank);
    } else if (candidate.state == NodeState::kLost) {
      if (candidate.hello.facts.name == hello.facts.name) {
        decision.rank = RankId(rank);
        return decision;
      }
      if (lost == RankId(0)) lost = RankId(rank);
    }
  }
  decision.rank = fresh != RankId(0) ? fresh : lost;
  if (decision.rank == RankId(0)) {
    decision.transient = true;
    decision.status =
        Error(errors::kJoinRefused,
              absl::StrCat("worker ", hello.facts.name, " cannot join: the cluster has all its ", ranks(),
                           ranks() == 1 ? " node (the head)" : " nodes (the head counted)",
                           " and none is lost; start the head with a larger --nodes"));
  }
  return decision;
}

Place& Membership::Take(RankId rank, const JoinHello& hello, std::string token,
                        std::shared_ptr<MemberChannel> channel) {
  Place& taken = place(rank);
  CHECK(!Holds(taken));
  const bool replaces = taken.member != 0;
  taken = Place{};
  taken.member = ++members_;
  taken.hello = hello;
  taken.token = std::move(token);
  taken.channel = std::move(channel);
  taken.acknowledged = epoch_;
  taken.replaces = replaces;
  return taken;
}

RankId Membership::RankOf(uint64_t member) const {
  for (int32_t rank = 1; rank < ranks(); ++rank) {
    const Place& candidate = place(RankId(rank));
    if (candidate.member == member && Holds(candidate)) return RankId(rank);
  }
  return RankId(0);
}

RankId Membership::RankOfToken(const std::string& token) const {
  for (int32_t rank = 1; rank < ranks(); ++rank) {
    const Place& candidate = place(RankId(rank));
    if (Holds(candidate) && candidate.link == nullptr && candidate.token == token) return RankId(rank);
  }
  return RankId(0);
}

bool Membership::Settle(RankId rank) {
  Place& settled = place(rank);
  if (!Holds(settled) || settled.state == NodeState::kReady || !settled.is_loaded ||
      settled.link == nullptr) {
    return false;
  }
  settled.state = NodeState::kReady;
  if (settled.replaces) {
    epoch_ = Epoch(epoch_.value() + 1);
    placement_.set_epoch(epoch_);
  }
  return true;
}

absl::Status Membership::Lose(RankId rank, const std::string& why) {
  Place& lost = place(rank);
  CHECK(Holds(lost));
  lost.state = NodeState::kLost;
  lost.lost = Error(errors::kNodeLost, absl::StrCat("worker ", lost.hello.facts.name, " (rank ", rank.value(),
                                                    lost.hello.address.empty() ? "" : ", ",
                                                    lost.hello.address, ") was lost: ", why));
  lost.link.reset();
  lost.channel.reset();
  return lost.lost;
}

bool Membership::AllReady() const {
  return std::all_of(places_.begin(), places_.end(), [](const Place& place) {
    return place.member != 0 && place.state == NodeState::kReady;
  });
}

bool Membership::AllAcknowledged() const {
  return std::all_of(places_.begin(), places_.end(), [this](const Place& place) {
    return place.member == 0 || place.state != NodeState::kReady || place.acknowledged >= epoch_;
  });
}

bool Membership::HasHolder(const std::vector<RankId>& holders) const {
  return std::any_of(holders.begin(), holders.end(), [this](RankId rank) {
    return rank == RankId(0) || (place(rank).member != 0 && place(rank).state == NodeState::kReady);
  });
}

std::string Membership::Degraded() const {
  if (AllReady()) return {};
  const auto sentence = [this](RankId rank, const std::string& what) {
    const Place& missing = place(rank);
    if (missing.member == 0) {
      return std::string(Error(errors::kNodeLost, absl::StrCat("no worker has joined as rank ", rank.value(),
                                                               " yet, and ", what))
                             .message());
    }
    if (missing.state == NodeState::kLost)
      return absl::StrCat(std::string(missing.lost.message()), "; ", what);
    return std::string(Error(errors::kNodeLost, absl::StrCat("worker ", missing.hello.facts.name,
                                                             " is still loading, and ", what))
                           .message());
  };
  for (size_t layer = 0; layer < placement_.layers().size(); ++layer) {
    for (int32_t expert = 0; expert < placement_.layers()[layer].experts; ++expert) {
      for (const Segment& segment :
           placement_.segments(LayerId(static_cast<int32_t>(layer)), ExpertId(expert))) {
        if (HasHolder(segment.holders)) continue;
        return sentence(segment.holders.front(),
                        absl::StrCat("nobody else holds expert ", expert, " of layer ", layer));
      }
    }
  }
  for (size_t rank = 1; rank < placement_.head_rows().size(); ++rank) {
    const RankId holder(static_cast<int32_t>(rank));
    if (placement_.head_rows()[rank].count == 0 || HasHolder({holder})) continue;
    return sentence(holder, "nobody else holds its rows of the LM head");
  }
  return {};
}

std::string Membership::Summary() const {
  int joined = 0, ready = 0;
  std::vector<std::string> waiting;
  for (const Place& place : places_) {
    if (!Holds(place)) continue;
    ++joined;
    if (place.state == NodeState::kReady) {
      ++ready;
    } else {
      waiting.push_back(place.hello.facts.name);
    }
  }
  std::string out = absl::StrCat(joined, " of ", places_.size(), " workers have joined, ", ready, " ready");
  if (!waiting.empty()) absl::StrAppend(&out, ", still loading: ", absl::StrJoin(waiting, ", "));
  return out;
}

}  // namespace paceline
