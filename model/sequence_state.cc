// One commit and one rollback for all kinds of sequence state.
#include "model/sequence_state.h"

#include "base/check.h"

namespace paceline {

void StateRegistry::Open(SequenceId sequence, int32_t slot) {
  cursors_[sequence] = {};
  for (StateKind* kind : kinds_) kind->Open(sequence, slot);
}

void StateRegistry::Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) {
  Cursor& cursor = cursors_.at(sequence);
  CHECK_EQ(cursor.extended, cursor.committed);
  CHECK_EQ(first, cursor.committed);
  cursor.extended = first + rows;
  for (StateKind* kind : kinds_) kind->Extend(sequence, first, rows, speculative);
}

void StateRegistry::Commit(SequenceId sequence, int64_t position) {
  Cursor& cursor = cursors_.at(sequence);
  CHECK_GE(position, cursor.committed);
  CHECK_LE(position, cursor.extended);
  for (StateKind* kind : kinds_) kind->Commit(sequence, position);
  cursor.committed = cursor.extended = position;
}

void StateRegistry::Rollback(SequenceId sequence) {
  const Cursor& cursor = cursors_.at(sequence);
  if (cursor.extended > cursor.committed) Commit(sequence, cursor.committed);
}

void StateRegistry::Close(SequenceId sequence) {
  if (cursors_.erase(sequence) == 0) return;
  for (StateKind* kind : kinds_) kind->Close(sequence);
}

}  // namespace paceline
