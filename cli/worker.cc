// `worker`: a process that holds a share of the experts.
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/compute.h"
#include "cli/console.h"
#include "cli/files.h"
#include "cli/worker_metrics.h"
#include "worker/known_answer.h"
#include "worker/node_client.h"

namespace paceline::cli {
namespace {

// For a head to answer that only has to hear that this worker cannot serve.
constexpr Duration kReportPatience = std::chrono::seconds(3);

absl::Status Work(const WorkerOptions& options, const std::string& name) {
  ASSIGN_OR_RETURN(const Compute compute, ResolveCompute(options.compute, 1));
  WorkerCounters counters;
  std::unique_ptr<WorkerMetricsPage> page;
  if (const std::optional<int64_t> port = DecimalNumber(options.metrics_port)) {
    const WorkerIdentity identity{name, FolderName(options.model), PACELINE_VERSION,
                                  std::string(compute.table->name)};
    ASSIGN_OR_RETURN(
        page, WorkerMetricsPage::Start(options.metrics_host, static_cast<int>(*port), identity, counters));
    StdErr().Line(
        absl::StrCat(name, ": metrics at http://", options.metrics_host, ":", page->port(), "/metrics"));
  }
  absl::StatusOr<std::unique_ptr<Checkpoint>> opened = Checkpoint::Open(options.model);
  WorkerConfig config;
  config.counters = &counters;
  config.join = options.join;
  config.facts.name = name;
  config.facts.pid = getpid();
  config.facts.backend = std::string(compute.table->name);
  config.facts.isa = options.compute.isa;
  config.facts.build = BuildText();
  config.facts.memory_bytes = MachineMemory();
  config.facts.threads = compute.threads;
  config.facts.wanted_rank = options.rank;
  config.known_answer = [&compute](const ContractOptions& contract) {
    const absl::StatusOr<const kernels::KernelTable*> table = TableFor(compute, contract.float_math);
    return table.ok() ? RunKnownAnswers(**table) : std::string(table.status().message());
  };
  config.dial_patience = std::chrono::seconds(options.dial_timeout_s);
  config.rejoin_patience = std::chrono::seconds(options.rejoin_timeout_s);
  config.stop = StopRequested;
  config.log = [&name](const std::string& line) { StdErr().Line(absl::StrCat(name, ": ", line)); };
  if (!opened.ok()) {
    // Whoever looks at the head must see why a worker is missing.
    config.facts.failure = std::string(opened.status().message());
    config.dial_patience = std::min(config.dial_patience, kReportPatience);
    RunWorker(std::move(config)).IgnoreError();
    return opened.status();
  }
  config.facts.model_digest = (*opened)->digest();
  config.factory = ExpertFactory(**opened, compute);
  return RunWorker(std::move(config));
}

}  // namespace

int Run(const WorkerOptions& options) {
  const std::string name = options.name.empty() ? absl::StrCat(HostName(), "-", getpid()) : options.name;
  const absl::Status ended = Work(options, name);
  if (ended.ok()) return 0;
  StdErr().Line(absl::StrCat(name, ": error: ", std::string(ended.message())));
  return ExitStatus(ended);
}

}  // namespace paceline::cli
