// INT4 made at load, for weights that only guess: drafts are judged by the target, so a rounding here costs
// acceptance and never text.
#pragma once

#include "kernels/weights.h"
#include "model/linear_assembly.h"

namespace paceline {

// `w` as INT4, symmetric, groups of 128 inputs: per group the scale, among a few around max|w| / 7, whose
// rounded weights are nearest in squares; scales are FP16 where that holds them. A matrix that is INT4
// already stays. A NaN or infinity makes its group's scale NaN.
void MakeInt4(kernels::PlainLinear& w);
// The same as a rule of a load.
LinearRule Int4Rule();

}  // namespace paceline
