// Conversions. A placement travels as runs of experts with equal groups: 48 entries for the flagship's
// contiguous split.
#include "worker/wire.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxFailureBytes = 4096;
constexpr int32_t kMaxRanks = 4096;
constexpr int32_t kMaxLayers = 4096;
constexpr int32_t kMaxExperts = 1 << 16;
constexpr int32_t kMaxGroups = 1 << 16;
constexpr size_t kMaxHeld = size_t{1} << 24;  // (layer, expert) entries a welcome may unfold to

void ToWire(const ContractOptions& contract, node::v1::Contract* out) {
  out->set_activations(contract.activations);
  out->set_float_math(contract.float_math);
  out->set_lm_head(contract.lm_head);
  out->set_kv_dtype(contract.kv_dtype);
}

ContractOptions FromWire(const node::v1::Contract& contract) {
  return {contract.activations(), contract.float_math(), contract.lm_head(), contract.kv_dtype()};
}

absl::Status OutOfRange(const char* field, int64_t value) {
  return Error(errors::kFrame, absl::StrCat("the head's welcome has ", field, " ", value,
                                            ", which is out of range; are head and worker of one release?"));
}

}  // namespace

void ToWire(const JoinTerms& terms, node::v1::Terms* out) {
  out->set_protocol(terms.protocol);
  ToWire(terms.contract, out->mutable_contract());
}

JoinTerms FromWire(const node::v1::Terms& terms) { return {terms.protocol(), FromWire(terms.contract())}; }

void ToWire(const JoinHello& hello, node::v1::Hello* out) {
  const WorkerFacts& facts = hello.facts;
  out->set_protocol(hello.protocol);
  out->set_name(facts.name);
  out->set_pid(facts.pid);
  out->set_session(facts.session);
  out->set_model_digest(facts.model_digest);
  out->mutable_fingerprints()->set_integer_experts(hello.fingerprints.integer_experts);
  out->mutable_fingerprints()->set_float_experts(hello.fingerprints.float_experts);
  out->mutable_fingerprints()->set_trunk(hello.fingerprints.trunk);
  out->set_known_answer(hello.known_answer);
  out->set_backend(facts.backend);
  out->set_isa(facts.isa);
  out->set_build(facts.build);
  out->set_memory_bytes(facts.memory_bytes);
  out->set_threads(facts.threads);
  out->set_wanted_rank(facts.wanted_rank);
  out->set_failure(facts.failure);
}

absl::StatusOr<JoinHello> FromWire(const node::v1::Hello& hello) {
  const std::string& name = hello.name();
  const bool printable =
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > ' ' && c != 127; });
  if (name.empty() || name.size() > kMaxNameBytes || !printable) {
    return Error(errors::kFrame,
                 absl::StrCat("a worker's name must have 1 to ", kMaxNameBytes,
                              " bytes without spaces or control characters; pass another --name"));
  }
  JoinHello out;
  out.protocol = hello.protocol();
  out.facts.name = name;
  out.facts.pid = hello.pid();
  out.facts.session = hello.session();
  out.facts.model_digest = hello.model_digest();
  out.facts.backend = hello.backend();
  out.facts.isa = hello.isa();
  out.facts.build = hello.build();
  out.facts.memory_bytes = hello.memory_bytes();
  out.facts.threads = hello.threads();
  out.facts.wanted_rank = hello.wanted_rank();
  out.facts.failure = hello.failure().substr(0, kMaxFailureBytes);
  out.fingerprints = {hello.fingerprints().integer_experts(), hello.fingerprints().float_experts(),
                      hello.fingerprints().trunk()};
  out.known_answer = hello.known_answer();
  return out;
}

void ToWire(const Assignment& assignment, node::v1::Welcome* out) {
  const Share& share = assignment.share;
  out->set_rank(share.rank.value());
  out->set_ranks(share.ranks);
  out->set_epoch(assignment.epoch.value());
  out->set_head(assignment.head);
  out->set_link_kind(assignment.link_kind);
  out->set_link_address(assignment.link_address);
  out->set_link_token(assignment.link_token);
  out->set_yield(assignment.yield);
  ToWire(share.contract, out->mutable_contract());
  out->set_first_head_row(share.head_rows.first);
  out->set_head_rows(share.head_rows.count);
  using std::chrono::duration_cast;
  using std::chrono::milliseconds;
  out->set_heartbeat_interval_ms(
      static_cast<int32_t>(duration_cast<milliseconds>(assignment.heartbeat_interval).count()));
  out->set_heartbeat_timeout_ms(
      static_cast<int32_t>(duration_cast<milliseconds>(assignment.heartbeat_timeout).count()));
  node::v1::HeldRun* run = nullptr;
  for (const HeldGroups& held : share.held) {
    const bool extends = run != nullptr && run->layer() == held.layer.value() &&
                         run->first_expert() + run->experts() == held.expert.value() &&
                         run->first_group() == held.first_group && run->groups() == held.groups;
    if (extends) {
      run->set_experts(run->experts() + 1);
      continue;
    }
    run = out->add_held();
    run->set_layer(held.layer.value());
    run->set_first_expert(held.expert.value());
    run->set_experts(1);
    run->set_first_group(held.first_group);
    run->set_groups(held.groups);
  }
}

absl::StatusOr<Assignment> FromWire(const node::v1::Welcome& welcome) {
  if (welcome.ranks() < 2 || welcome.ranks() > kMaxRanks) return OutOfRange("ranks", welcome.ranks());
  if (welcome.rank() < 1 || welcome.rank() >= welcome.ranks()) return OutOfRange("rank", welcome.rank());
  if (welcome.heartbeat_interval_ms() < 1) {
    return OutOfRange("heartbeat_interval_ms", welcome.heartbeat_interval_ms());
  }
  if (welcome.first_head_row() < 0) return OutOfRange("first_head_row", welcome.first_head_row());
  if (welcome.head_rows() < 0) return OutOfRange("head_rows", welcome.head_rows());
  Assignment out;
  out.share.rank = RankId(welcome.rank());
  out.share.ranks = welcome.ranks();
  out.share.contract = FromWire(welcome.contract());
  out.share.head_rows = {welcome.first_head_row(), welcome.head_rows()};
  for (const node::v1::HeldRun& run : welcome.held()) {
    if (run.layer() < 0 || run.layer() >= kMaxLayers) return OutOfRange("held.layer", run.layer());
    if (run.experts() < 1 || run.experts() > kMaxExperts) return OutOfRange("held.experts", run.experts());
    if (run.first_expert() < 0 || run.first_expert() > kMaxExperts - run.experts()) {
      return OutOfRange("held.first_expert", run.first_expert());
    }
    if (run.groups() < 1 || run.groups() > kMaxGroups) return OutOfRange("held.groups", run.groups());
    if (run.first_group() < 0 || run.first_group() > kMaxGroups - run.groups()) {
      return OutOfRange("held.first_group", run.first_group());
    }
    if (out.share.held.size() + static_cast<size_t>(run.experts()) > kMaxHeld) {
      return OutOfRange("held entries", static_cast<int64_t>(out.share.held.size()));
    }
    for (int32_t i = 0; i < run.experts(); ++i) {
      out.share.held.push_back(
          {LayerId(run.layer()), ExpertId(run.first_expert() + i), run.first_group(), run.groups()});
    }
  }
  out.epoch = Epoch(welcome.epoch());
  out.head = welcome.head();
  out.link_kind = welcome.link_kind();
  out.link_address = welcome.link_address();
  out.link_token = welcome.link_token();
  out.yield = welcome.yield();
  out.heartbeat_interval = std::chrono::milliseconds(welcome.heartbeat_interval_ms());
  out.heartbeat_timeout = std::chrono::milliseconds(welcome.heartbeat_timeout_ms());
  return out;
}

absl::Status StatusFromWire(int status, const std::string& message) {
  if (status < 1 || status > 16) status = static_cast<int>(absl::StatusCode::kUnknown);
  return absl::Status(static_cast<absl::StatusCode>(status), message);
}

}  // namespace paceline
