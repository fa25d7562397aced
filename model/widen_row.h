// One row of a stored matrix as fp32: what formats made at load are made from.
#pragma once

#include "kernels/weights.h"

namespace paceline {

// Row n of `w`, of any format: out [w.inputs].
void WidenRow(const kernels::PlainLinear& w, int64_t n, float* out);

}  // namespace paceline
