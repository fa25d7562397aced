// Opening order: what can be refused cheaply first, then sockets; workers and weights at Load.
#include "cli/head.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/processors.h"
#include "base/status.h"
#include "cli/console.h"
#include "cli/files.h"
#include "transport/simulated_link.h"
#include "worker/known_answer.h"

namespace paceline::cli {
namespace {

// Where a local worker dials: a head that listens everywhere is reached over loopback.
std::string LocalAddress(const std::string& join_address) {
  if (join_address.rfind("0.0.0.0:", 0) == 0) return absl::StrCat("127.0.0.1:", join_address.substr(8));
  return join_address;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Head>> Head::Open(HeadConfig config) {
  std::unique_ptr<Head> head(new Head());
  head->config_ = std::move(config);
  RETURN_IF_ERROR(head->Start());
  return head;
}

Head::~Head() {
  trunk_.reset();
  if (cluster_) cluster_->ExpectLosses();
  processes_.reset();
  threads_.reset();
  cluster_.reset();
}

absl::Status Head::Start() {
  const HeadOptions& options = config_.options;
  const int ranks_here = 1 + options.cluster.local_workers;
  ASSIGN_OR_RETURN(compute_, ResolveCompute(options.compute, ranks_here));
  ASSIGN_OR_RETURN(compute_.table, TableFor(compute_, options.options.float_math));
  RETURN_IF_ERROR(CheckLink(options.cluster.link));
  SimulationOptions simulation;
  if (!options.cluster.simulate_link.empty()) {
    ASSIGN_OR_RETURN(simulation, ParseSimulation(options.cluster.simulate_link));
  }
  known_answer_ = RunKnownAnswers(*compute_.table);
  RETURN_IF_ERROR(CheckKnownAnswers(*compute_.table, known_answer_));
  ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options.model));
  for (const std::string& warning : checkpoint_->warnings())
    StdErr().Line(absl::StrCat("warning: ", warning));
  ASSIGN_OR_RETURN(contract_, ResolveContract(*checkpoint_, compute_, options.options));
  ASSIGN_OR_RETURN(placement_, PlaceModel(*checkpoint_, options.cluster, config_.nodes));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(options.model);
  tokenizer_status_ = tokenizer.status();
  if (tokenizer.ok()) tokenizer_ = *std::move(tokenizer);
  ASSIGN_OR_RETURN(drafting_, ResolveDrafting(options.drafting, *checkpoint_, tokenizer_.get()));
  if (!drafting_.refusal.empty()) StdErr().Line(absl::StrCat("warning: ", drafting_.refusal));

  ClusterConfig cluster;
  cluster.placement = placement_;
  cluster.contract = contract_;
  cluster.model_digest = checkpoint_->digest();
  cluster.known_answer = [answer = known_answer_](const ContractOptions&) { return answer; };
  cluster.link = options.cluster.link;
  cluster.listen = config_.open_join || (options.cluster.local_workers > 0 && cluster.link != "loopback");
  cluster.host = config_.host;
  cluster.join_port = config_.join_port;
  cluster.insecure_links = options.cluster.insecure_links;
  cluster.yield = compute_.yield;
  cluster.heartbeat_timeout = std::chrono::milliseconds(options.cluster.heartbeat_timeout_ms);
  cluster.failures_are_fatal = config_.nodes == 1 + options.cluster.local_workers;
  if (!options.cluster.simulate_link.empty()) {
    cluster.wrap_link = [simulation](std::unique_ptr<Link> link, RankId rank) {
      SimulationOptions own = simulation;
      own.seed += static_cast<uint64_t>(rank.value());
      return WrapSimulated(std::move(link), own, Clock::Real());
    };
  }
  cluster.log = [](const std::string& line) { StdErr().Line(line); };
  cluster.on_progress = [](const std::string& worker, LoadProgress progress) {
    StdErr().Progress(worker, progress.done_bytes, progress.total_bytes);
  };
  ASSIGN_OR_RETURN(cluster_, Cluster::Start(std::move(cluster)));
  ShowHead(NodeState::kLoading);
  return absl::OkStatus();
}

absl::Status Head::StartLocalWorkers() {
  const ClusterOptions& options = config_.options.cluster;
  if (options.local_workers == 0) return absl::OkStatus();
  if (options.link == "loopback") {
    std::vector<WorkerFacts> workers;
    for (int i = 1; i <= options.local_workers; ++i) {
      WorkerFacts facts;
      facts.name = absl::StrCat("local-", i);
      facts.wanted_rank = i;
      facts.pid = getpid();
      facts.model_digest = checkpoint_->digest();
      facts.backend = std::string(compute_.table->name);
      facts.build = BuildText();
      facts.threads = compute_.threads;
      workers.push_back(std::move(facts));
    }
    Compute shared = compute_;
    shared.processors.clear();  // they are the head's
    threads_ = std::make_unique<LoopbackWorkers>(
        *cluster_, std::move(workers), [answer = known_answer_](const ContractOptions&) { return answer; },
        ExpertFactory(*checkpoint_, shared), compute_.yield,
        [this](const absl::Status& why) { cluster_->Fail(why); });
    return absl::OkStatus();
  }
  LocalWorkersConfig spawn;
  spawn.count = options.local_workers;
  spawn.join = LocalAddress(cluster_->join_address());
  spawn.model = config_.options.model;
  const ComputeOptions& compute = config_.options.compute;
  spawn.arguments = {"--backend", compute.backend, "--threads", absl::StrCat(compute_.threads)};
  spawn.arguments.insert(spawn.arguments.end(), {"--load-io", compute.load_io});
  // Children have this process's environment: a port in it can be had once.
  spawn.arguments.insert(spawn.arguments.end(), {"--metrics-port", "off"});
  if (!compute.isa.empty()) spawn.arguments.insert(spawn.arguments.end(), {"--isa", compute.isa});
  for (int i = 1; compute.pin != "off" && i <= options.local_workers; ++i) {
    ASSIGN_OR_RETURN(const std::vector<int> processors, ProcessorsOf(compute.pin, compute_.threads, i));
    spawn.own.push_back({"--pin", ProcessorsText(processors)});
  }
  ASSIGN_OR_RETURN(processes_, LocalWorkers::Spawn(spawn));
  return absl::OkStatus();
}

void Head::ShowHead(NodeState state) {
  NodeFacts facts;
  facts.name = HostName();
  facts.pid = getpid();
  facts.address = cluster_->join_address();
  facts.state = state;
  facts.experts = trunk_ ? trunk_->expert_count() : placement_.ExpertsOf(RankId(0));
  facts.leaves = trunk_ ? trunk_->expert_leaves() : placement_.LeavesOf(RankId(0));
  facts.bytes = trunk_ ? trunk_->bytes().experts : 0;
  facts.backend = std::string(compute_.table->name);
  facts.fingerprint = ClusterFingerprint(FingerprintsOf(contract_));
  cluster_->SetHeadFacts(facts);
}

TrunkRequest Head::MakeTrunkRequest() const {
  TrunkRequest request;
  request.checkpoint = checkpoint_.get();
  request.placement = placement_;
  request.peers = config_.nodes > 1 ? cluster_.get() : nullptr;
  request.head_id = cluster_->head_id();
  request.contract = contract_;
  request.compute = compute_;
  request.drafting = drafting_.trunk;
  request.draft_refusal = drafting_.refusal;
  request.slots = config_.slots;
  if (config_.serving) {
    request.pages = config_.serving->kv_pages;
    request.kv_bytes = BytesOf(config_.serving->kv_memory).value_or(-1);
    request.snapshot_bytes = BytesOf(config_.serving->prefix_cache).value_or(0);
  }
  return request;
}

absl::Status Head::Load(Duration patience) {
  RETURN_IF_ERROR(StartLocalWorkers());
  TrunkRequest request = MakeTrunkRequest();
  if (tokenizer_) {
    request.has_token.resize(static_cast<size_t>(checkpoint_->config().vocab));
    for (size_t id = 0; id < request.has_token.size(); ++id) {
      request.has_token[id] = tokenizer_->HasToken(static_cast<TokenId>(id));
    }
  }
  request.progress = [](int64_t done, int64_t total) { StdErr().Progress("head", done, total); };
  absl::StatusOr<std::unique_ptr<LocalTrunk>> trunk = LoadTrunk(request);
  if (!trunk.ok()) {
    StdErr().EndProgress();
    return trunk.status();
  }
  trunk_ = *std::move(trunk);
  ShowHead(NodeState::kReady);
  // A child that dies before it could say why is an error; one that said why has ended the wait by then.
  const auto stop = [this] { return StopRequested() || (processes_ && !processes_->Check().ok()); };
  const TimePoint now = Clock::Real().Now();
  const TimePoint deadline = patience < TimePoint::max() - now ? now + patience : TimePoint::max();
  absl::Status ready = cluster_->WaitReady(deadline, stop);
  StdErr().EndProgress();
  if (absl::IsCancelled(ready) && !StopRequested() && processes_) ready = processes_->Check();
  return ready;
}

SchedulerOptions Head::scheduling() const {
  SchedulerOptions options;
  options.prefill_chunk = config_.options.options.prefill_chunk;
  options.speculation = drafting_.policy;
  if (config_.serving) {
    options.max_waiting = config_.serving->max_waiting;
    options.max_waiting_per_key = config_.serving->max_waiting_per_key;
    options.queue_limit = std::chrono::seconds(config_.serving->queue_timeout_s);
  }
  return options;
}

Engine::Parts Head::EngineParts(Trunk* trunk) const {
  Engine::Parts parts;
  parts.trunk = trunk;
  parts.tokenizer = tokenizer_.get();
  parts.cluster = cluster_.get();
  parts.log = [](const std::string& line) { StdErr().Line(line); };
  return parts;
}

GenerationDefaults Head::defaults() const {
  const ModelConfig& config = checkpoint_->config();
  GenerationDefaults defaults;
  defaults.do_sample = config.do_sample;
  defaults.temperature = config.temperature;
  defaults.top_p = config.top_p;
  defaults.top_k = config.top_k_sampling;
  defaults.eos_token_ids = config.eos_tokens;
  return defaults;
}

std::string Head::model_name() const { return FolderName(config_.options.model); }

std::vector<int64_t> Head::LeavesPerNode() const {
  std::vector<int64_t> leaves;
  for (int32_t rank = 0; rank < placement_.ranks(); ++rank)
    leaves.push_back(placement_.LeavesOf(RankId(rank)));
  return leaves;
}

}  // namespace paceline::cli
