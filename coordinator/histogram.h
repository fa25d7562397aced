// Values counted between fixed bounds, as Prometheus keeps them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace paceline {

struct Histogram {
  // `limits` ascend and live as long as the program.
  explicit Histogram(std::span<const double> limits) : bounds(limits), counts(limits.size() + 1) {}

  void Observe(double value, int64_t times = 1) {
    const auto bound = std::lower_bound(bounds.begin(), bounds.end(), value);
    counts[static_cast<size_t>(bound - bounds.begin())] += times;
    sum += value * static_cast<double>(times);
  }
  int64_t count() const {
    int64_t all = 0;
    for (const int64_t n : counts) all += n;
    return all;
  }

  std::span<const double> bounds;
  std::vector<int64_t> counts;  // [bounds + 1] up to bounds[i] and above bounds[i - 1]; the last is open
  double sum = 0;
};

}  // namespace paceline
