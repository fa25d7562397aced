// What a step costs: seconds by sequences and rows, measured, never modelled. A start-up measurement gives
// the shape; every step that runs corrects it. Two tables make a step's price: running its rows, and
// drafting.
//
// An estimate is seed(batch, rows) x level x shape(batch, rows). The level is how fast machines and links are
// now against the start, the same for all steps: load that comes and goes must not make depths in use look
// worse than depths that are not. The shape corrects the seeds where steps were seen to differ from them, and
// is known the less the longer ago that was. Seeds are interpolated between measured points, shapes between
// observed ones, so a cliff in the curve is found and kept where it is.
#pragma once

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
  explicit CostTable(Kind kind) : kind_(kind) {}

  // A measured point; several of one (batch, rows): the last counts. 1 <= batch <= rows, seconds > 0.
  void Seed(int32_t batch, int32_t rows, double seconds);
  // One step's observation. Single outliers change nothing.
  void Observe(int32_t batch, int32_t rows, double seconds);
  // Above 0. Without seeds and observations: a guess in units of its own.
  double Estimate(int32_t batch, int32_t rows) const;
  // As little as it may well be: somewhat below the estimate where the shape is not known well. Who chooses
  // by this tries what has not been tried for long, as often as that could pay.
  double Hopeful(int32_t batch, int32_t rows) const;
  // Whether it was observed itself, lately enough.
  bool Known(int32_t batch, int32_t rows) const;
  bool empty() const { return seeds_.empty() && cells_.empty(); }

 private:
  // Of natural logarithms.
  struct Cell {
    double shape = 0;
    double variance = 0;       // when last observed
    int64_t observed = 0;      // now_ then
    int64_t observations = 0;  // that counted
    int32_t surprises = 0;     // in a row: observations too slow to be believed
  };
  using Curve = std::map<int32_t, double>;  // rows -> seconds
  using Cells = std::map<int32_t, Cell>;    // CellOf ->

  static int32_t CellOf(int32_t batch, int32_t rows);
  double Guess(double batch, double rows) const;
  double Along(int32_t batch, const Curve& curve, double rows) const;
  double SeedAt(int32_t batch, double rows) const;
  double ShapeAt(int32_t batch, int32_t rows) const;
  double Unknown() const;
  const Cell* Find(int32_t batch, int32_t rows) const;
  double VarianceAt(int32_t batch, int32_t rows) const;
  double Aged(const Cell& cell) const;

  const Kind kind_;
  std::map<int32_t, Curve> seeds_;  // batch ->
  std::map<int32_t, Cells> cells_;  // batch ->
  int64_t now_ = 0;                 // observations
  // Of natural logarithms, as are the variances.
  double level_ = 0;
  double level_variance_ = 0.04;  // the start may have been measured in other weather
  double noise_ = 0.0025;         // variance of steps of one kind
};

}  // namespace paceline
