// A worker's own metrics: a page at GET /metrics of a port of its own, where it was asked for one. The head's
// page (coordinator/metrics.h) has what concerns requests, and what the head sees of its workers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/process_facts.h"
#include "coordinator/http/server.h"
#include "worker/worker_counters.h"

namespace paceline::cli {

struct WorkerIdentity {
  std::string node;   // its name
  std::string model;  // the folder's
  std::string version;
  std::string backend;
};

// Text format 0.0.4.
std::string WorkerMetricsText(const WorkerIdentity& identity, const WorkerCounters& counters,
                              const ProcessFacts& process);

class WorkerMetricsPage {
 public:
  // Answers from here to the destructor, on threads of its own. Port 0 takes a free one. CFG-002 when the
  // address cannot be listened on. `counters` outlive the page.
  static absl::StatusOr<std::unique_ptr<WorkerMetricsPage>> Start(const std::string& host, int port,
                                                                  WorkerIdentity identity,
                                                                  const WorkerCounters& counters);
  int port() const { return port_; }

 private:
  WorkerMetricsPage(WorkerIdentity identity, const WorkerCounters& counters);
  HttpAnswer Answer(const HttpRequest& request) const;

  const WorkerIdentity identity_;
  const WorkerCounters& counters_;
  HttpServer server_;
  int port_ = 0;
};

}  // namespace paceline::cli
