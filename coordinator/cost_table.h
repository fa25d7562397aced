// What a step costs: seconds by sequences and rows, measured, never modelled. A start-up measurement gives the
// shape; every step that runs corrects it. Two tables make a step's price: running its rows, and drafting.
//
// An estimate is seed(batch, rows) x correction(batch, rows). Seeds are interpolated between measured points,
// corrections between observed ones, so a cliff in the curve is found and kept where it is.
#pragma once

#include <array>
#include <cstdint>
#include <map>

namespace paceline {

// Use from one thread.
class CostTable {
 public:
  enum class Kind {
    kRows,   // rows are what costs: all of a step
    kDepth,  // rows per sequence are: drafting, one pass of all sequences per draft
  };
  static constexpr int64_t kRecent = 5;  // observations of which the median counts
  explicit CostTable(Kind kind) : kind_(kind) {}

  // A measured point; several of one (batch, rows): the last counts. 1 <= batch <= rows, seconds > 0.
  void Seed(int32_t batch, int32_t rows, double seconds);
  // One step's observation. Single outliers change nothing, and no observation moves an estimate far.
  void Observe(int32_t batch, int32_t rows, double seconds);
  // Above 0. Without seeds and observations: a guess in units of its own.
  double Estimate(int32_t batch, int32_t rows) const;
  bool empty() const { return seeds_.empty() && corrections_.empty(); }

 private:
  struct Correction {
    double factor = 1.0;
    int64_t observations = 0;
    std::array<double, kRecent> recent{};  // observed / seed, a ring
  };
  using Curve = std::map<int32_t, double>;            // rows -> seconds
  using Corrections = std::map<int32_t, Correction>;  // CellOf -> correction

  static int32_t CellOf(int32_t batch, int32_t rows);
  double Guess(double batch, double rows) const;
  double Along(int32_t batch, const Curve& curve, double rows) const;
  double SeedAt(int32_t batch, double rows) const;
  double CorrectionAt(int32_t batch, int32_t rows) const;

  const Kind kind_;
  std::map<int32_t, Curve> seeds_;              // batch ->
  std::map<int32_t, Corrections> corrections_;  // batch ->
};

}  // namespace paceline
