#include "cli/worker_metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/metric_families.h"
#include "coordinator/process_metrics.h"

namespace paceline::cli {
namespace {

constexpr char kPath[] = "/metrics";

double Value(const std::atomic<int64_t>& count) {
  return static_cast<double>(count.load(std::memory_order_relaxed));
}

HttpAnswer Text(int status, std::string body) {
  return {status, {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}}, std::move(body)};
}

// One request at a time is read; there are no bodies and no streams.
HttpLimits Limits() {
  HttpLimits limits;
  limits.body_bytes = 0;
  limits.connections = 64;
  return limits;
}

}  // namespace

std::string WorkerMetricsText(const WorkerIdentity& identity, const WorkerCounters& counters,
                              const ProcessFacts& process) {
  MetricFamilies families;
  const MetricLabels own = {{"model", identity.model}, {"node", identity.node}};
  const auto with = [&own](const MetricLabels& more) {
    MetricLabels labels = own;
    labels.insert(more.begin(), more.end());
    return labels;
  };
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    families.Begin(absl::StrCat("paceline_worker_", name), help, type);
    families.Add(value, own);
  };
  families.Begin("paceline_worker_info", "1; what is running.", MetricType::kGauge);
  families.Add(1, with({{"version", identity.version}, {"backend", identity.backend}}));
  add("serving", "1 while it is a member and its link is up.", MetricType::kGauge, counters.serving ? 1 : 0);
  add("memberships_total", "Times it began to serve a head.", MetricType::kCounter,
      Value(counters.memberships));
  add("rank", "Rank of its newest membership; 0 before the first.", MetricType::kGauge, counters.rank);
  add("epoch", "Newest epoch whose frames it accepts.", MetricType::kGauge, counters.epoch);
  add("experts", "(layer, expert) pairs of which it holds a part.", MetricType::kGauge,
      Value(counters.experts_held));
  add("leaves", "(layer, expert, group) triples it holds.", MetricType::kGauge, Value(counters.leaves_held));
  add("held_bytes", "Weights it holds.", MetricType::kGauge, Value(counters.bytes_held));
  add("load_bytes", "Weights read so far by the newest load.", MetricType::kGauge,
      Value(counters.load_bytes));
  add("load_total_bytes", "Weights that load has to read.", MetricType::kGauge, Value(counters.load_total));
  add("link_bytes_total", "Bytes on its links to heads, both directions, headers included.",
      MetricType::kCounter, Value(counters.link_bytes));
  const auto by_question = [&](const char* name, const char* help,
                               const std::atomic<int64_t> WorkerCounters::Question::* what, double unit) {
    families.Begin(absl::StrCat("paceline_worker_", name), help, MetricType::kCounter);
    families.Add(Value(counters.experts.*what) * unit, with({{"operation", "experts"}}));
    families.Add(Value(counters.matmul.*what) * unit, with({{"operation", "matmul_rows"}}));
  };
  by_question("frames_total", "Frames computed.", &WorkerCounters::Question::frames, 1);
  by_question("rows_total", "Rows in them.", &WorkerCounters::Question::rows, 1);
  by_question("compute_seconds_total", "Time spent computing them.", &WorkerCounters::Question::compute_ns,
              1e-9);
  AddProcessMetrics(process, own, families);
  return families.Text();
}

WorkerMetricsPage::WorkerMetricsPage(WorkerIdentity identity, const WorkerCounters& counters)
    : identity_(std::move(identity)),
      counters_(counters),
      server_(Limits(),
              {[](HttpRequest&) { return std::nullopt; }, [](const HttpRequest&) { return true; },
               [this](const HttpRequest& request, const std::shared_ptr<HttpResponse>& response) {
                 response->Send(Answer(request));
               },
               [](int status, const std::string& sentence) { return Text(status, sentence + "\n"); }}) {}

HttpAnswer WorkerMetricsPage::Answer(const HttpRequest& request) const {
  if (request.path != kPath) return Text(404, absl::StrCat("a worker has nothing but ", kPath, "\n"));
  if (request.method != "GET" && request.method != "HEAD") return Text(405, "expected GET\n");
  return Text(200, WorkerMetricsText(identity_, counters_, ReadProcessFacts()));
}

absl::StatusOr<std::unique_ptr<WorkerMetricsPage>> WorkerMetricsPage::Start(const std::string& host, int port,
                                                                            WorkerIdentity identity,
                                                                            const WorkerCounters& counters) {
  std::unique_ptr<WorkerMetricsPage> page(new WorkerMetricsPage(std::move(identity), counters));
  ASSIGN_OR_RETURN(page->port_, page->server_.Start(host, port, "--metrics-port or --metrics-host"));
  return page;
}

}  // namespace paceline::cli
