// The one file that knows prometheus-cpp.
#include "coordinator/metric_families.h"

#include <limits>
#include <vector>

#include "base/check.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace paceline {
namespace {

prometheus::MetricType TypeOf(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

}  // namespace

struct MetricFamilies::Parts {
  prometheus::ClientMetric& Sample(const MetricLabels& labels) {
    CHECK(!families.empty());
    prometheus::ClientMetric& metric = families.back().metric.emplace_back();
    for (const auto& [name, value] : labels) metric.label.push_back({name, value});
    return metric;
  }

  std::vector<prometheus::MetricFamily> families;
};

MetricFamilies::MetricFamilies() : parts_(std::make_unique<Parts>()) {}
MetricFamilies::~MetricFamilies() = default;

void MetricFamilies::Begin(const std::string& name, const std::string& help, MetricType type) {
  prometheus::MetricFamily& family = parts_->families.emplace_back();
  family.name = name;
  family.help = help;
  family.type = TypeOf(type);
}

void MetricFamilies::Add(double value, const MetricLabels& labels) {
  prometheus::ClientMetric& metric = parts_->Sample(labels);
  const bool gauge = parts_->families.back().type == prometheus::MetricType::Gauge;
  (gauge ? metric.gauge.value : metric.counter.value) = value;
}

void MetricFamilies::AddHistogram(std::span<const int64_t> counts, std::span<const double> bounds, double sum,
                                  const MetricLabels& labels) {
  prometheus::ClientMetric& metric = parts_->Sample(labels);
  uint64_t seen = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    seen += static_cast<uint64_t>(counts[i]);
    metric.histogram.bucket.push_back(
        {seen, i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity()});
  }
  metric.histogram.sample_count = seen;
  metric.histogram.sample_sum = sum;
}

std::string MetricFamilies::Text() const { return prometheus::TextSerializer().Serialize(parts_->families); }

}  // namespace paceline
