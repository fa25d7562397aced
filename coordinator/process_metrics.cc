#include "coordinator/process_metrics.h"

namespace paceline {

void AddProcessMetrics(const ProcessFacts& process, const MetricLabels& own, MetricFamilies& families) {
  const auto add = [&](const char* name, const char* help, MetricType type, double value,
                       const MetricLabels& labels) {
    families.Begin(name, help, type);
    families.Add(value, labels);
  };
  const auto count = [](int64_t value) { return static_cast<double>(value); };
  add("process_cpu_seconds_total", "Processor time of all threads.", MetricType::kCounter, process.cpu_s, {});
  add("process_start_time_seconds", "When the process started, since 1970.", MetricType::kGauge,
      process.start_time_s, {});
  add("process_resident_memory_bytes", "Memory of the process.", MetricType::kGauge,
      count(process.resident_bytes), {});
  add("process_virtual_memory_bytes", "Address space of the process.", MetricType::kGauge,
      count(process.virtual_bytes), {});
  add("process_open_fds", "Files and sockets the process has open.", MetricType::kGauge,
      count(process.open_files), {});
  add("paceline_process_anonymous_memory_bytes", "Memory of the process that is not a file's.",
      MetricType::kGauge, count(process.anonymous_bytes), own);
  add("paceline_process_threads", "Threads of the process.", MetricType::kGauge, count(process.threads), own);
}

}  // namespace paceline
