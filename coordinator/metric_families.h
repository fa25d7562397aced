// Metric families on their way to a scrape: samples by label in Prometheus' text format.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

namespace paceline {

enum class MetricType { kCounter, kGauge, kHistogram };
using MetricLabels = std::map<std::string, std::string>;

class MetricFamilies {
 public:
  MetricFamilies();
  ~MetricFamilies();
  MetricFamilies(const MetricFamilies&) = delete;
  MetricFamilies& operator=(const MetricFamilies&) = delete;

  // Samples that follow belong to this family.
  void Begin(const std::string& name, const std::string& help, MetricType type);
  // Of a counter or a gauge.
  void Add(double value, const MetricLabels& labels);
  // Of a histogram: `counts` by bucket, not cumulative; `bounds` has one fewer, the last bucket is open.
  void AddHistogram(std::span<const int64_t> counts, std::span<const double> bounds, double sum,
                    const MetricLabels& labels);
  // Text format 0.0.4.
  std::string Text() const;

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace paceline
