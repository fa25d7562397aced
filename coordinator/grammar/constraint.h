// From what a request says its text must be (coordinator/grammar/spec.h) to the masks a trunk applies
// (base/constraint.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "base/constraint.h"
#include "base/ids.h"
#include "coordinator/grammar/spec.h"
#include "coordinator/tokenizer.h"

namespace paceline {

// Compiles constraints for one vocabulary and remembers the last few. Thread-safe; a compilation runs on the
// caller's thread.
class ConstraintCompiler {
 public:
  // `tokenizer` may be null: then every constraint is refused. It outlives the compiler and what it made.
  ConstraintCompiler(const Tokenizer* tokenizer, int64_t vocab);
  ~ConstraintCompiler();
  ConstraintCompiler(const ConstraintCompiler&) = delete;
  ConstraintCompiler& operator=(const ConstraintCompiler&) = delete;

  // Null for kNone. `prompt` decides where an absent `spec.after` lets the constraint begin; `stops` are the
  // ids that end the text, at least one: they are allowed exactly where the text may end, and nowhere else.
  // InvalidArgument, without a code: a sentence that names the keyword and its place in the schema, the
  // column of the expression or the line of the grammar, or the limit that was passed.
  absl::StatusOr<std::shared_ptr<const Constraint>> Compile(const ConstraintSpec& spec,
                                                            std::span<const TokenId> prompt,
                                                            std::span<const TokenId> stops);

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace paceline
