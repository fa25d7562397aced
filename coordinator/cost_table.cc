// Interpolated seeds, and a filter over what steps show.
#include "coordinator/cost_table.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"

namespace paceline {
namespace {

// Standard deviations of logarithms, so of relative errors.
// What is unknown of a cell before it is observed, where the start has measured the curve and where not.
constexpr double kUnsure = 0.07, kGuessing = 0.3;
// How much a cell may change between two observations while others are made: after a thousand it is nearly
// as unsure as at first.
constexpr double kFade = 0.001, kMostFaded = 0.1;
// What is enough to judge other cells by this one: so many observations, the last not longer ago than so
// many.
constexpr int64_t kKnown = 3, kStale = 1000;
// How many deviations hope takes off.
constexpr double kHope = 0.3;
// How much all steps become slower or faster from one to the next.
constexpr double kDrift = 0.01;
// A cell is never known better.
constexpr double kSure = 0.003;
// How steps of one kind differ, within which bounds it is learnt.
constexpr double kLeastNoise = 0.02, kMostNoise = 0.25;
constexpr double kNoiseRate = 0.02;
// An observation so many deviations too slow counts only as the last of so many of its cell in a row: what
// delays a step comes and goes. None is ever too fast without being so.
constexpr double kSurprise = 3.0;
constexpr int32_t kConfirmed = 4;

constexpr double Square(double x) { return x * x; }

}  // namespace

// Nothing measured: a row more costs a tenth of a step of one row, and drafting grows with its depth. Its
// only use is to begin somewhere.
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

double CostTable::ShapeAt(int32_t batch, int32_t rows) const {
  if (cells_.empty()) return 0.0;
  auto curve = cells_.lower_bound(batch);
  if (curve == cells_.end() || (curve->first != batch && curve != cells_.begin() &&
                                batch - std::prev(curve)->first <= curve->first - batch)) {
    curve = std::prev(curve);
  }
  const Cells& cells = curve->second;
  const auto scaled = static_cast<int32_t>(int64_t{rows} * curve->first / batch);
  const auto above = cells.lower_bound(scaled);
  if (above == cells.begin()) return above->second.shape;
  const auto low = std::prev(above);
  if (above == cells.end()) return low->second.shape;
  const double share =
      static_cast<double>(scaled - low->first) / static_cast<double>(above->first - low->first);
  return low->second.shape + share * (above->second.shape - low->second.shape);
}

double CostTable::Unknown() const { return Square(seeds_.empty() ? kGuessing : kUnsure); }

double CostTable::VarianceAt(int32_t batch, int32_t rows) const {
  const Cell* cell = Find(batch, rows);
  return cell == nullptr ? Unknown() : Aged(*cell);
}

const CostTable::Cell* CostTable::Find(int32_t batch, int32_t rows) const {
  const auto curve = cells_.find(batch);
  if (curve == cells_.end()) return nullptr;
  const auto found = curve->second.find(CellOf(batch, rows));
  return found == curve->second.end() ? nullptr : &found->second;
}

double CostTable::Aged(const Cell& cell) const {
  const double most = std::max(cell.variance, Square(kMostFaded));
  return std::min(most, cell.variance + static_cast<double>(now_ - cell.observed) * Square(kFade));
}

// A Kalman filter of two numbers per observation, the level and the cell, taken for independent: whichever is
// less certain moves more. So a machine or a link that slows down moves the level under a cell well known,
// and with it all depths alike; a cell that is new, or long not seen, takes the difference upon itself.
void CostTable::Observe(int32_t batch, int32_t rows, double seconds) {
  CHECK_GE(batch, 1);
  CHECK_GE(rows, batch);
  if (!(seconds > 0) || !std::isfinite(seconds)) return;
  const double seen = std::log(seconds / SeedAt(batch, rows));
  if (seeds_.empty() && cells_.empty()) level_ = seen;  // in units of its own until now
  ++now_;
  const double inherited = ShapeAt(batch, rows);
  const auto [found, fresh] = cells_[batch].try_emplace(CellOf(batch, rows));
  Cell& cell = found->second;
  if (fresh) cell = {.shape = inherited, .variance = Unknown(), .observed = now_};
  cell.variance = Aged(cell);
  cell.observed = now_;
  level_variance_ += Square(kDrift);
  const double off = seen - level_ - cell.shape;
  double spread = level_variance_ + cell.variance + noise_;
  if (Square(off) > Square(kSurprise) * spread) {
    if (off > 0 && ++cell.surprises < kConfirmed) return;
    (cell.variance > level_variance_ ? cell.variance : level_variance_) += Square(off);
    spread += Square(off);
    cell.surprises = 0;
  } else {
    cell.surprises = 0;
    noise_ =
        std::clamp(noise_ + kNoiseRate * (Square(off) - spread), Square(kLeastNoise), Square(kMostNoise));
  }
  ++cell.observations;
  level_ += level_variance_ / spread * off;
  cell.shape += cell.variance / spread * off;
  level_variance_ *= 1.0 - level_variance_ / spread;
  cell.variance = std::max(Square(kSure), cell.variance * (1.0 - cell.variance / spread));
}

double CostTable::Estimate(int32_t batch, int32_t rows) const {
  return SeedAt(batch, rows) * std::exp(level_ + ShapeAt(batch, rows));
}

bool CostTable::Known(int32_t batch, int32_t rows) const {
  const Cell* cell = Find(batch, rows);
  return cell != nullptr && cell->observations >= kKnown && now_ - cell->observed < kStale;
}

double CostTable::Hopeful(int32_t batch, int32_t rows) const {
  return Estimate(batch, rows) * std::exp(-kHope * std::sqrt(VarianceAt(batch, rows)));
}

}  // namespace paceline
