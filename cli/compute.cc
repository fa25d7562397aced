// Words of flags become the model's own types here.
#include "cli/compute.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/processors.h"
#include "base/status.h"
#include "cli/console.h"
#include "coordinator/planner.h"
#include "model/placement_shape.h"
#include "worker/expert_server.h"
#include "worker/fingerprint.h"
#include "worker/local_workers.h"

namespace paceline::cli {
namespace {

// What pages and snapshots take at most of the machine's memory, one part in so many.
constexpr int64_t kCacheShare = 8;
constexpr int64_t kSnapshotShare = 32;
constexpr int32_t kMinPages = 16;

HeadFormat HeadFormatOf(const std::string& word) {
  if (word == "stored") return HeadFormat::kStored;
  return word == "int8" ? HeadFormat::kInt8 : HeadFormat::kAuto;
}

kernels::ActivationContract ActivationsOf(const ContractOptions& contract) {
  return contract.activations == "int8" ? kernels::ActivationContract::kInt8
                                        : kernels::ActivationContract::kInt16;
}

kernels::KvDtype KvDtypeOf(const ContractOptions& contract) {
  if (contract.kv_dtype == "int8") return kernels::KvDtype::kInt8;
  if (contract.kv_dtype == "int4") return kernels::KvDtype::kInt4;
  return contract.kv_dtype == "fp32" ? kernels::KvDtype::kF32 : kernels::KvDtype::kBF16;
}

// As many as asked for; else for all slots' whole contexts, or for what memory allows.
int32_t PagesFor(const TrunkRequest& request) {
  if (request.pages > 0) return request.pages;
  const ModelConfig& config = request.checkpoint->config();
  const int64_t page_bytes = std::max<int64_t>(1, KvPageBytes(config, KvDtypeOf(request.contract)));
  int64_t pages = request.kv_bytes / page_bytes;
  if (request.kv_bytes < 0) {
    const int64_t wanted = request.slots * ((config.context + kPagePositions - 1) / kPagePositions);
    pages = std::min(wanted, std::max<int64_t>(kMinPages, MachineMemory() / kCacheShare / page_bytes));
  }
  return static_cast<int32_t>(std::clamp<int64_t>(pages, 1, std::numeric_limits<int32_t>::max()));
}

// Never more than pages: a state belongs to one.
int32_t SnapshotsFor(const TrunkRequest& request, int32_t pages) {
  const int64_t bytes =
      request.snapshot_bytes < 0 ? MachineMemory() / kSnapshotShare : request.snapshot_bytes;
  return static_cast<int32_t>(std::min<int64_t>(pages, bytes / SnapshotBytes(request.checkpoint->config())));
}

absl::StatusOr<std::vector<int>> ListOf(const std::string& pin) {
  if (pin == "auto") return ProcessorsHere();
  return ParseProcessors(pin);
}

// What loading had to do without, once for all loads of this process.
void SayNotes(const LoadReport& report) {
  for (const std::string& note : report.notes) StdErr().Once(absl::StrCat("note: ", note));
}

}  // namespace

absl::StatusOr<std::vector<int>> ProcessorsOf(const std::string& pin, int threads, int process) {
  if (pin == "off") return std::vector<int>();
  ASSIGN_OR_RETURN(const std::vector<int> all, ListOf(pin));
  const int needed = threads * (process + 1);
  if (needed > static_cast<int>(all.size())) {
    return Error(errors::kOption,
                 absl::StrCat("--pin ", pin, ": ", process + 1, " processes of ", threads,
                              " compute threads need ", needed, " processors and have ", all.size(), " (",
                              ProcessorsText(all), "); lower --threads or leave --pin out"));
  }
  return std::vector<int>(all.begin() + needed - threads, all.begin() + needed);
}

absl::StatusOr<Compute> ResolveCompute(const ComputeOptions& options, int ranks_here) {
  Compute compute;
  ASSIGN_OR_RETURN(compute.table, kernels::SelectKernels(options.backend, options.isa));
  compute.threads = options.threads > 0 ? options.threads : ThreadsPerRank(ranks_here);
  compute.yield = compute.threads * ranks_here > CoresHere();
  compute.load_io = LoadIoOf(options.load_io);
  ASSIGN_OR_RETURN(compute.processors, ProcessorsOf(options.pin, compute.threads, 0));
  return compute;
}

absl::StatusOr<const kernels::KernelTable*> TableFor(const Compute& compute, const std::string& float_math) {
  if (float_math != "native" || compute.table->float_math == kernels::FloatMath::kNative)
    return compute.table;
  if (compute.table->native != nullptr) return compute.table->native;
  return Error(errors::kDevice,
               absl::StrCat("--float-math native needs the matrix units of AMX, and backend ",
                            std::string(compute.table->name),
                            " has none; leave the flag out for the portable contract, which is as exact, or "
                            "compute native bits slowly with --isa amx-emulated"));
}

absl::StatusOr<ContractOptions> ResolveContract(const Checkpoint& checkpoint, const Compute& compute,
                                                const ModelOptions& options) {
  ContractOptions contract;
  contract.activations = options.activations;
  contract.float_math = options.float_math;
  contract.kv_dtype = options.kv_dtype;
  RETURN_IF_ERROR(kernels::CheckKvDtype(*compute.table, KvDtypeOf(contract), checkpoint.config().head_dim));
  ASSIGN_OR_RETURN(const HeadFormat head, ResolveHeadFormat(checkpoint, HeadFormatOf(options.lm_head)));
  contract.lm_head = head == HeadFormat::kInt8 ? "int8" : "stored";
  return contract;
}

HandlerFactory ExpertFactory(const Checkpoint& checkpoint, const Compute& compute) {
  return [&checkpoint, compute](
             const Share& share,
             const std::function<void(LoadProgress)>& progress) -> absl::StatusOr<LoadedHandler> {
    ASSIGN_OR_RETURN(const Placement placement, PlacementOf(share, PlacementShape(checkpoint)));
    ExpertServerOptions options;
    ASSIGN_OR_RETURN(options.table, TableFor(compute, share.contract.float_math));
    options.threads = compute.threads;
    options.processors = compute.processors;
    options.contract = ActivationsOf(share.contract);
    options.lm_head = HeadFormatOf(share.contract.lm_head);
    options.load.io = compute.load_io;
    options.progress = [&progress](int64_t done, int64_t total) { progress({done, total}); };
    ASSIGN_OR_RETURN(std::unique_ptr<ExpertServer> server,
                     ExpertServer::Load(checkpoint, placement, share.rank, options));
    SayNotes(server->load_report());
    LoadedHandler loaded;
    loaded.facts = {server->experts(), server->leaves(), server->bytes()};
    loaded.handler = std::move(server);
    return loaded;
  };
}

absl::StatusOr<Placement> PlaceModel(const Checkpoint& checkpoint, const ClusterOptions& options, int nodes) {
  ASSIGN_OR_RETURN(Placement placement, PlanPlacement(options.placement, PlacementShape(checkpoint), nodes));
  if (options.head_split && nodes > 1)
    placement.set_head_rows(SplitHeadRows(checkpoint.config().vocab, nodes));
  return placement;
}

absl::StatusOr<std::unique_ptr<LocalTrunk>> LoadTrunk(const TrunkRequest& request) {
  TrunkOptions options;
  options.table = request.compute.table;
  options.threads = request.compute.threads;
  options.processors = request.compute.processors;
  options.yield = request.compute.yield;
  options.contract = ActivationsOf(request.contract);
  options.kv_dtype = KvDtypeOf(request.contract);
  options.lm_head = HeadFormatOf(request.contract.lm_head);
  options.slots = request.slots;
  options.pages = PagesFor(request);
  options.snapshots = SnapshotsFor(request, options.pages);
  options.head_id = request.head_id;
  options.has_token = request.has_token;
  options.fingerprint = ClusterFingerprint(FingerprintsOf(request.contract));
  options.drafting = request.drafting;
  options.load.io = request.compute.load_io;
  options.progress = request.progress;
  ASSIGN_OR_RETURN(std::unique_ptr<LocalTrunk> trunk, LocalTrunk::Load(*request.checkpoint, request.placement,
                                                                       request.peers, std::move(options)));
  SayNotes(trunk->load_report());
  return trunk;
}

TrunkInfo InfoBeforeLoading(const TrunkRequest& request, const std::string& name) {
  const ModelConfig& config = request.checkpoint->config();
  TrunkInfo info;
  info.model = name;
  info.fingerprint = ClusterFingerprint(FingerprintsOf(request.contract));
  info.vocab = config.vocab;
  info.context = config.context;
  info.slots = request.slots;
  info.pages = PagesFor(request);
  info.snapshots = SnapshotsFor(request, info.pages);
  info.has_mtp = config.mtp_layers > 0 && request.checkpoint->missing_mtp().empty();
  if (request.drafting.mtp) {
    info.drafters.push_back(DraftSource::kMtp);
    info.mtp_format = request.drafting.format == MtpFormat::kStored ? "stored" : "int4";
  }
  if (request.drafting.suffix) info.drafters.push_back(DraftSource::kSuffix);
  info.draft_refusal = request.draft_refusal;
  info.lm_head = request.contract.lm_head;
  info.layers = request.placement.layers();
  return info;
}

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  }
  return "unknown processor";
}

std::string BuildText() { return absl::StrCat("paceline ", PACELINE_VERSION, " compiler ", __VERSION__); }

int64_t MachineMemory() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace paceline::cli
