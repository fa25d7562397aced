// A snapshot as metric families. docs/OPERATIONS.md, Metrics, lists them.
#include "coordinator/metrics.h"

#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace paceline {
namespace {

using Labels = std::map<std::string, std::string>;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

class Families {
 public:
  // `common` labels stand on every sample.
  explicit Families(Labels common) : common_(std::move(common)) {}

  // Samples that follow belong to this family.
  void Begin(const char* name, const char* help, MetricType type) {
    MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
  }
  void Add(double value, const Labels& labels = {}) {
    ClientMetric& metric = Sample(labels);
    (families_.back().type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  }
  // `counts` by bucket, not cumulative; `bounds` has one fewer: the last bucket is open.
  template <class Counts, class Bounds>
  void AddHistogram(const Counts& counts, const Bounds& bounds, double sum, const Labels& labels = {}) {
    ClientMetric& metric = Sample(labels);
    uint64_t seen = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      seen += static_cast<uint64_t>(counts[i]);
      const double bound =
          i < bounds.size() ? static_cast<double>(bounds[i]) : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({seen, bound});
    }
    metric.histogram.sample_count = seen;
    metric.histogram.sample_sum = sum;
  }
  std::string Text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  ClientMetric& Sample(const Labels& labels) {
    ClientMetric& metric = families_.back().metric.emplace_back();
    for (const Labels& part : {common_, labels}) {
      for (const auto& [name, value] : part) metric.label.push_back({name, value});
    }
    return metric;
  }

  const Labels common_;
  std::vector<MetricFamily> families_;
};

double Value(int64_t count) { return static_cast<double>(count); }

SourceStats Sum(const SpeculationCounters& speculation) {
  SourceStats sum;
  for (const SourceStats& source : speculation.sources) {
    sum.steps += source.steps;
    sum.drafted += source.drafted;
    sum.accepted += source.accepted;
    for (size_t i = 0; i < sum.accepted_per_position.size(); ++i)
      sum.accepted_per_position[i] += source.accepted_per_position[i];
  }
  return sum;
}

// Names, help and labels of vLLM's Prometheus client, which appends _total to counters.
std::string VllmText(const EngineStats& stats, const TrunkInfo& info) {
  Families families({{"engine", "0"}, {"model_name", info.model}});
  families.Begin("vllm:num_requests_running", "Requests in the running batch.", MetricType::Gauge);
  families.Add(stats.running);
  families.Begin("vllm:num_requests_waiting", "Requests that wait for a slot or for pages.",
                 MetricType::Gauge);
  families.Add(stats.waiting);
  families.Begin("vllm:kv_cache_usage_perc", "KV pages in use, 1 meaning all.", MetricType::Gauge);
  families.Add(stats.pages_total > 0 ? static_cast<double>(stats.pages_used) / stats.pages_total : 0.0);
  families.Begin("vllm:num_preemptions_total", "Times a running request had to give its place back.",
                 MetricType::Counter);
  families.Add(Value(stats.scheduling.preemptions));
  families.Begin("vllm:prefix_cache_queries_total", "Prompt tokens of requests that asked the prefix cache.",
                 MetricType::Counter);
  families.Add(Value(stats.scheduling.prefix_queries));
  families.Begin("vllm:prefix_cache_hits_total", "Of them found.", MetricType::Counter);
  families.Add(Value(stats.scheduling.prefix_hits));
  families.Begin("vllm:generation_tokens_total", "Tokens generated.", MetricType::Counter);
  families.Add(Value(stats.tokens));
  const SourceStats sum = Sum(stats.speculation);
  families.Begin("vllm:spec_decode_num_drafts_total", "Drafts: verify steps of a request.",
                 MetricType::Counter);
  families.Add(Value(sum.steps));
  families.Begin("vllm:spec_decode_num_draft_tokens_total", "Tokens drafted and verified.",
                 MetricType::Counter);
  families.Add(Value(sum.drafted));
  families.Begin("vllm:spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.",
                 MetricType::Counter);
  families.Add(Value(sum.accepted));
  families.Begin("vllm:spec_decode_num_accepted_tokens_per_pos_total",
                 "Drafted tokens that were right, by position in the draft.", MetricType::Counter);
  for (size_t i = 0; i < sum.accepted_per_position.size(); ++i)
    families.Add(Value(sum.accepted_per_position[i]), {{"position", std::to_string(i)}});
  return families.Text();
}

std::string OwnText(const EngineStats& stats, const TrunkInfo& info) {
  const SpeculationCounters& speculation = stats.speculation;
  Families families({{"model", info.model}});
  families.Begin("paceline_steps_total", "Steps of the trunk.", MetricType::Counter);
  families.Add(Value(stats.steps));
  families.Begin("paceline_rows_total", "Rows run: prompts, decoding and verified drafts.",
                 MetricType::Counter);
  families.Add(Value(stats.rows));
  families.Begin("paceline_generated_tokens_total", "Tokens generated.", MetricType::Counter);
  families.Add(Value(stats.tokens));
  families.Begin("paceline_preemptions_total", "Times a running request had to give its place back.",
                 MetricType::Counter);
  families.Add(Value(stats.scheduling.preemptions));
  families.Begin("paceline_prefix_cache_queries_total",
                 "Prompt tokens of requests that asked the prefix cache.", MetricType::Counter);
  families.Add(Value(stats.scheduling.prefix_queries));
  families.Begin("paceline_prefix_cache_hits_total", "Of them found.", MetricType::Counter);
  families.Add(Value(stats.scheduling.prefix_hits));
  families.Begin("paceline_kv_pages", "KV pages of 256 positions, by what they are to the running requests.",
                 MetricType::Gauge);
  families.Add(stats.pages_used, {{"state", "held"}});
  families.Add(stats.pages_total - stats.pages_used, {{"state", "free"}});
  families.Begin("paceline_prefix_cache_pages", "KV pages with text to go on from.", MetricType::Gauge);
  families.Add(stats.pages_cached);
  families.Begin("paceline_prefix_cache_snapshots", "States stored at page borders.", MetricType::Gauge);
  families.Add(stats.snapshots, {{"state", "used"}});
  families.Add(stats.snapshots_total - stats.snapshots, {{"state", "free"}});
  families.Begin("paceline_decode_steps_total",
                 "Steps that brought a request tokens, its prompt's last among them.", MetricType::Counter);
  families.Add(Value(speculation.decode_steps));

  const auto by_source = [&](const char* name, const char* help, int64_t SourceStats::* count) {
    families.Begin(name, help, MetricType::Counter);
    for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix}) {
      families.Add(Value(speculation.sources[IndexOf(source)].*count), {{"source", DraftSourceName(source)}});
    }
  };
  by_source("paceline_spec_decode_num_drafts_total", "Drafts: verify steps of a request.",
            &SourceStats::steps);
  by_source("paceline_spec_decode_num_draft_tokens_total", "Tokens drafted and verified.",
            &SourceStats::drafted);
  by_source("paceline_spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.",
            &SourceStats::accepted);
  families.Begin("paceline_spec_decode_num_accepted_tokens_per_pos_total",
                 "Drafted tokens that were right, by position in the draft.", MetricType::Counter);
  for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix}) {
    const auto& positions = speculation.sources[IndexOf(source)].accepted_per_position;
    for (size_t i = 0; i < positions.size(); ++i) {
      families.Add(Value(positions[i]),
                   {{"position", std::to_string(i)}, {"source", DraftSourceName(source)}});
    }
  }

  families.Begin("paceline_draft_depth",
                 "Drafts verified in a step that brought a request tokens; 0 is plain.",
                 MetricType::Histogram);
  std::array<int64_t, kMaxDraft + 2> depths{};  // the open bucket stays empty
  std::array<int32_t, kMaxDraft + 1> bounds{};
  int64_t drafts = 0;
  for (size_t k = 0; k < bounds.size(); ++k) {
    bounds[k] = static_cast<int32_t>(k);
    depths[k] = speculation.depths[k];
    drafts += static_cast<int64_t>(k) * depths[k];
  }
  families.AddHistogram(depths, bounds, Value(drafts));
  families.Begin("paceline_draft_seconds_total", "Time spent drafting.", MetricType::Counter);
  families.Add(speculation.draft_s);
  families.Begin("paceline_verify_seconds_total", "Time of steps with drafts, drafting aside.",
                 MetricType::Counter);
  families.Add(speculation.verify_s);

  if (!stats.distinct_experts.empty()) {
    families.Begin("paceline_distinct_experts", "Experts of a layer that the rows of a step visited.",
                   MetricType::Histogram);
    for (size_t layer = 0; layer < stats.distinct_experts.size(); ++layer) {
      const ExpertHistogram& histogram = stats.distinct_experts[layer];
      families.AddHistogram(histogram.counts, ExpertHistogram::kBounds, Value(histogram.sum),
                            {{"layer", std::to_string(layer)}});
    }
  }
  return families.Text();
}

}  // namespace

std::string MetricsText(const EngineStats& stats, const TrunkInfo& info) {
  return VllmText(stats, info) + OwnText(stats, info);
}

}  // namespace paceline
