// Per-sequence state of every kind behind one commit and one rollback. A step extends a sequence by rows;
// afterwards some of them are text and the rest never were. Kinds that store by position (KV pages, windows)
// roll back by a cursor alone; others (Gated DeltaNet blocks across a border, sampler counts) undo what they
// did. Later kinds: pooled keys, n-gram history, grammars. A grammar needs nothing beyond StateKind: it keeps
// the parser's state in front of each row as rows are judged, and Commit goes back to the one at `position`.
//
// A step that fails half-way (a lost worker) leaves rows open. Only a speculative extension can be taken
// back, with Rollback; the trunk extends so whenever rows are few, drafts or not. Chunks of a prompt fold
// Gated DeltaNet blocks in place, layer by layer, which nothing undoes: sequences with such rows are given
// up: Close, and Open to start again from their tokens.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace paceline {

class StateKind {
 public:
  virtual ~StateKind() = default;
  // A fresh sequence, at position 0. Opening one that is open starts it again.
  virtual void Open(SequenceId sequence, int32_t slot) = 0;
  // Rows [first, first + rows) are about to run. When `speculative`, any tail of them may be taken back; then
  // there are at most kMaxDraft + 1.
  virtual void Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative) = 0;
  // Of the rows of the last Extend, those below `position` are text; the others never were. All are when it
  // was not speculative.
  virtual void Commit(SequenceId sequence, int64_t position) = 0;
  virtual void Close(SequenceId sequence) = 0;
};

class StateRegistry {
 public:
  // `kind` outlives the registry.
  void Add(StateKind* kind) { kinds_.push_back(kind); }

  void Open(SequenceId sequence, int32_t slot) { OpenAt(sequence, slot, 0); }
  // As Open, behind `position`; the caller brings every kind's state there before rows run.
  void OpenAt(SequenceId sequence, int32_t slot, int64_t position);
  // `first` is where the sequence's last commit ended (CHECKed), and its last extension was committed.
  void Extend(SequenceId sequence, int64_t first, int32_t rows, bool speculative);
  // CHECKs that `position` is the end of the rows when they were not speculative.
  void Commit(SequenceId sequence, int64_t position);
  // Takes back every row of the last Extend, which was speculative (CHECKed); nothing when there is none
  // open.
  void Rollback(SequenceId sequence);
  // Does nothing for a sequence that is not open.
  void Close(SequenceId sequence);

  bool open(SequenceId sequence) const { return cursors_.contains(sequence); }
  // Of a sequence that is open (CHECKed).
  int64_t committed(SequenceId sequence) const { return At(sequence).committed; }
  int32_t slot(SequenceId sequence) const { return At(sequence).slot; }
  // Whether the rows of its last Extend can be taken back.
  bool speculative(SequenceId sequence) const { return At(sequence).speculative; }

 private:
  struct Cursor {
    int32_t slot = 0;
    int64_t committed = 0;
    int64_t extended = 0;  // above committed while an extension is open
    bool speculative = false;
  };
  const Cursor& At(SequenceId sequence) const;
  Cursor& At(SequenceId sequence) { return const_cast<Cursor&>(std::as_const(*this).At(sequence)); }
  std::vector<StateKind*> kinds_;
  std::unordered_map<SequenceId, Cursor> cursors_;
};

}  // namespace paceline
