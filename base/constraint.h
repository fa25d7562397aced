// What a text may be: a grammar, a schema or a list of choices, compiled to token masks. The coordinator
// compiles it from the request and the tokenizer; the trunk asks it for the ids each drawn row may have. No
// tensor and no text crosses this line.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/ids.h"

namespace paceline {

// Words of a mask over `vocab` ids: id is bit id % 64 of word id / 64.
constexpr int64_t MaskWords(int64_t vocab) { return (vocab + 63) / 64; }

// Tokens that a matcher can take back at least: more than a step drafts.
inline constexpr int32_t kConstraintRollback = 16;

// How far one text has come. Owned by one thread; its constraint outlives it.
class ConstraintMatcher {
 public:
  virtual ~ConstraintMatcher() = default;
  // The ids that may come next, [MaskWords(vocab)], valid until the next call of anything; empty where every
  // id may. A text that is complete allows the ids that end it. No bit at all where nothing in the vocabulary
  // goes on: then no text can come of this.
  virtual std::span<const uint64_t> Allowed() = 0;
  // Moves on by one token. False, and nothing moves, when it is not allowed.
  virtual bool Accept(TokenId token) = 0;
  // Takes back the last `tokens` accepted ones, no more than kConstraintRollback.
  virtual void Rollback(int32_t tokens) = 0;
  // As far as this one, on its own from here.
  virtual std::unique_ptr<ConstraintMatcher> Clone() const = 0;
};

// A compiled constraint. Immutable, thread-safe, shared by the requests that ask for the same.
class Constraint {
 public:
  virtual ~Constraint() = default;
  virtual std::unique_ptr<ConstraintMatcher> Start() const = 0;
};

}  // namespace paceline
