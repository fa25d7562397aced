// One commit and one rollback for all kinds of sequence state.
#include "model/sequence_state.h"

#include "base/check.h"
#include "base/step.h"

namespace paceline {

const StateRegistry::Cursor& StateRegistry::At(SequenceId sequence) const {
  const auto cursor = cursors_.find(sequence);
  CHECK(cursor != cursors_.end());
  return cursor->second;
}

void StateRegistry::OpenAt(SequenceId sequence, int32_t slot, int64_t position) {
  cursors_[sequence] = {.slot = slot, .committed = position, .extended = position};
  for (StateKind* kind : kinds_) kind->Open(sequence, slot);
}

void StateRegistry::Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) {
  Cursor& cursor = At(sequence);
  CHECK_EQ(cursor.extended, cursor.committed);
  CHECK_EQ(first, cursor.committed);
  CHECK_GT(rows, 0);
  if (speculative) CHECK_LE(rows, kMaxDraft + 1);
  cursor.extended = first + rows;
  cursor.speculative = speculative;
  for (StateKind* kind : kinds_) kind->Extend(sequence, first, rows, speculative);
}

void StateRegistry::Commit(SequenceId sequence, int64_t position) {
  Cursor& cursor = At(sequence);
  CHECK_GE(position, cursor.speculative ? cursor.committed : cursor.extended);
  CHECK_LE(position, cursor.extended);
  for (StateKind* kind : kinds_) kind->Commit(sequence, position);
  cursor.committed = cursor.extended = position;
}

void StateRegistry::Rollback(SequenceId sequence) {
  const Cursor& cursor = At(sequence);
  if (cursor.extended > cursor.committed) Commit(sequence, cursor.committed);
}

void StateRegistry::Close(SequenceId sequence) {
  if (cursors_.erase(sequence) == 0) return;
  for (StateKind* kind : kinds_) kind->Close(sequence);
}

}  // namespace paceline
