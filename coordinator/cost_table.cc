// Interpolated seeds, interpolated corrections.
#include "coordinator/cost_table.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"

namespace paceline {
namespace {

// How fast a cell follows what is observed, and how far one observation may pull it.
constexpr double kRate = 0.1;
// Less upwards, where a mistake would not be visited again.
constexpr double kMaxDown = 1.5, kMaxUp = 1.2;
// From so many observations on a cell is right, and what it sees further is drift that all cells share
// (a longer context, a slower network), not its own shape.
constexpr int64_t kMature = 8;

// Of the first few the least: what delays a step only ever adds.
double Typical(std::array<double, CostTable::kRecent> values, int64_t count) {
  if (count < CostTable::kRecent) return *std::min_element(values.begin(), values.begin() + count);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

// Nothing measured: a row more costs a tenth of a step of one row, and drafting grows with its depth. Its only
// use is to begin somewhere.
double CostTable::Guess(double batch, double rows) const {
  return kind_ == Kind::kRows ? 0.9 + 0.1 * rows : rows / batch;
}

// Straight lines between points; beyond the last one with the slope of the last piece, never downwards.
double CostTable::Along(int32_t batch, const Curve& curve, double at) const {
  if (curve.size() == 1) {
    const auto& [rows, seconds] = *curve.begin();
    return seconds * Guess(batch, at) / Guess(batch, rows);
  }
  const auto above = curve.lower_bound(static_cast<int32_t>(std::ceil(at)));
  if (above == curve.begin()) return above->second;
  const auto low = std::prev(above);
  if (above != curve.end()) {
    const double share = (at - low->first) / (above->first - low->first);
    return low->second + share * (above->second - low->second);
  }
  const auto before = std::prev(low);
  const double slope = (low->second - before->second) / (low->first - before->first);
  return low->second + std::max(0.0, slope) * (at - low->first);
}

void CostTable::Seed(int32_t batch, int32_t rows, double seconds) {
  CHECK_GE(batch, 1);
  CHECK_GE(rows, batch);
  CHECK(seconds > 0);
  seeds_[batch][rows] = seconds;
}

// Between two measured batches the rows per sequence are kept.
double CostTable::SeedAt(int32_t batch, double rows) const {
  if (seeds_.empty()) return Guess(batch, rows);
  const auto above = seeds_.lower_bound(batch);
  const auto at = [&](const auto& entry) {
    return Along(entry->first, entry->second, rows * entry->first / static_cast<double>(batch));
  };
  if (above != seeds_.end() && above->first == batch) return at(above);
  if (above == seeds_.begin()) return at(above);
  const auto low = std::prev(above);
  if (above == seeds_.end()) {
    // More sequences than were ever measured: by rows alone, along the widest curve.
    return kind_ == Kind::kRows ? Along(low->first, low->second, rows) : at(low);
  }
  const double share =
      static_cast<double>(batch - low->first) / static_cast<double>(above->first - low->first);
  return at(low) + share * (at(above) - at(low));
}

// Of many sequences, where few steps have exactly so many rows, neighbours share what they learn.
int32_t CostTable::CellOf(int32_t batch, int32_t rows) {
  const int32_t width = std::max(1, batch / 2);
  return batch + (rows - batch + width / 2) / width * width;
}

double CostTable::CorrectionAt(int32_t batch, int32_t rows) const {
  if (corrections_.empty()) return 1.0;
  auto curve = corrections_.lower_bound(batch);
  if (curve == corrections_.end() ||
      (curve->first != batch && curve != corrections_.begin() &&
       batch - std::prev(curve)->first <= curve->first - batch)) {
    curve = std::prev(curve);
  }
  const Corrections& cells = curve->second;
  const auto scaled = static_cast<int32_t>(int64_t{rows} * curve->first / batch);
  const auto above = cells.lower_bound(scaled);
  if (above == cells.begin()) return above->second.factor;
  const auto low = std::prev(above);
  if (above == cells.end()) return low->second.factor;
  const double share = static_cast<double>(scaled - low->first) / static_cast<double>(above->first - low->first);
  return low->second.factor + share * (above->second.factor - low->second.factor);
}

void CostTable::Observe(int32_t batch, int32_t rows, double seconds) {
  CHECK_GE(batch, 1);
  CHECK_GE(rows, batch);
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  const double seed = SeedAt(batch, rows);
  if (seeds_.empty() && corrections_.empty()) {
    corrections_[batch][CellOf(batch, rows)] = {seconds / seed, 1, {seconds / seed}};
    return;
  }
  const double inherited = CorrectionAt(batch, rows);
  const auto [found, fresh] = corrections_[batch].try_emplace(CellOf(batch, rows));
  Correction& cell = found->second;
  if (fresh) cell.factor = inherited;
  cell.recent[static_cast<size_t>(cell.observations % kRecent)] = seconds / seed;
  ++cell.observations;
  if (cell.observations == 1) return;  // one alone may be an outlier
  const double ratio = Typical(cell.recent, std::min<int64_t>(cell.observations, kRecent)) / cell.factor;
  const double pull = std::clamp(ratio, 1.0 / kMaxDown, kMaxUp) - 1.0;
  const double rate = std::max(kRate, 1.0 / static_cast<double>(cell.observations + 1));
  cell.factor *= 1.0 + rate * pull;
  if (cell.observations <= kMature) return;
  for (auto& [other_batch, cells] : corrections_) {
    for (auto& [other_rows, other] : cells) {
      if (&other != &cell) other.factor *= 1.0 + 0.5 * kRate * pull;
    }
  }
}

double CostTable::Estimate(int32_t batch, int32_t rows) const {
  return SeedAt(batch, rows) * CorrectionAt(batch, rows);
}

}  // namespace paceline
