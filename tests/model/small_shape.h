// A synthetic model that a test can write, load and run: every layer kind of the family at widths where the
// padding of packed matrices hardly counts (16 experts of 64 outputs' room are the worst).
#pragma once

#include "model/synth_plan.h"

namespace paceline::testing {

inline constexpr synth::ModelShape kSmallShape = {.name = "small",
                                                  .hidden = 512,
                                                  .heads = 8,
                                                  .value_heads = 64,
                                                  .experts = 16,
                                                  .top_k = 2,
                                                  .columns = 256,
                                                  .layers = 4,
                                                  .vocab = 8192};

}  // namespace paceline::testing
