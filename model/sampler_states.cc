// Sampler state of every open sequence.
#include "model/sampler_states.h"

#include "base/check.h"

namespace paceline {

void SamplerStates::Open(SequenceId sequence, int32_t) { states_[sequence].Reset(0); }

// Tokens are appended as rows are judged.
void SamplerStates::Extend(SequenceId, int64_t, int32_t, bool) {}

void SamplerStates::Commit(SequenceId sequence, int64_t position) { at(sequence).Truncate(position + 1); }

void SamplerStates::Close(SequenceId sequence) { states_.erase(sequence); }

SamplerState& SamplerStates::at(SequenceId sequence) {
  const auto state = states_.find(sequence);
  CHECK(state != states_.end());
  return state->second;
}

}  // namespace paceline
