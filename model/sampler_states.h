// Sampler state of every open sequence, behind the interface of all sequence state.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "model/sampler_state.h"
#include "model/sequence_state.h"

namespace paceline {

// Rows below a commit's position have run, and the token behind the last of them has been drawn: those are
// the tokens a state keeps, position + 1 of them. Rolling back thus keeps the token that the rows started
// from.
class SamplerStates final : public StateKind {
 public:
  // The state counts every token as generated until its Reset says how many are prompt.
  void Open(SequenceId sequence, int32_t slot) override;
  void Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) override;
  void Commit(SequenceId sequence, int64_t position) override;
  void Close(SequenceId sequence) override;

  // Of a sequence that is open (CHECKed); stays where it is until Close.
  SamplerState& at(SequenceId sequence);

 private:
  std::unordered_map<SequenceId, SamplerState> states_;
};

}  // namespace paceline
