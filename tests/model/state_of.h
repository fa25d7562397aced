// A sampler in the middle of a sequence.
#pragma once

#include <vector>

#include "model/sampler_state.h"

namespace paceline::testing {

inline SamplerState StateOf(const std::vector<TokenId>& prompt, const std::vector<TokenId>& text) {
  SamplerState state;
  state.Reset(static_cast<int64_t>(prompt.size()));
  state.Append(prompt);
  state.Append(text);
  return state;
}

}  // namespace paceline::testing
