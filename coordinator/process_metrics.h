// The part of a scrape that every process has.
#pragma once

#include "base/process_facts.h"
#include "coordinator/metric_families.h"

namespace paceline {

// Under the names of Prometheus' client libraries, without labels, and under ours, with `own`, where they
// have none.
void AddProcessMetrics(const ProcessFacts& process, const MetricLabels& own, MetricFamilies& families);

}  // namespace paceline
