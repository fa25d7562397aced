// A compiled grammar as the trunk meets it: masks and matchers (base/constraint.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/constraint.h"
#include "coordinator/grammar/mask_source.h"

namespace paceline {

// Ids that end a text, ascending. They are allowed where the grammar may end, and nowhere else, whatever
// their bytes are.
using StopIds = std::vector<TokenId>;

// A text that the grammar describes from its first byte.
class GrammarConstraint final : public Constraint {
 public:
  GrammarConstraint(std::shared_ptr<MaskSource> source, StopIds stops);
  std::unique_ptr<ConstraintMatcher> Start() const override { return StartBehind(""); }
  // Some of the text, which the grammar allows, stands there already.
  std::unique_ptr<ConstraintMatcher> StartBehind(std::string_view bytes) const;
  // Whether a text may begin with these bytes.
  bool MayBegin(std::string_view bytes) const;

  MaskSource& source() const { return *source_; }
  const StopIds& stops() const { return stops_; }

 private:
  const std::shared_ptr<MaskSource> source_;
  const StopIds stops_;
};

// Anything up to the first `marker`, then what a grammar describes. In front of the marker a text does not
// end.
class DelayedConstraint final : public Constraint {
 public:
  // `tokenizer` outlives the constraint. The marker has at least one byte.
  DelayedConstraint(std::shared_ptr<const GrammarConstraint> behind, std::string marker,
                    const Tokenizer& tokenizer, int64_t vocab);
  std::unique_ptr<ConstraintMatcher> Start() const override;

  // Of the marker, after `state` bytes of it and one token more. Behind the marker's end: its size, and where
  // in the token that was.
  struct Reached {
    size_t state = 0;
    size_t used = 0;  // bytes of the token up to the end of the marker
  };
  Reached Read(size_t state, std::string_view bytes) const;
  // [state] every id that does not end the text, but for those that reach behind the marker in a wrong way.
  std::span<const uint64_t> Allowed(size_t state) const { return masks_[state]; }
  const GrammarConstraint& behind() const { return *behind_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const std::string& marker() const { return marker_; }
  int64_t vocab() const { return vocab_; }

 private:
  const std::shared_ptr<const GrammarConstraint> behind_;
  const std::string marker_;
  const Tokenizer& tokenizer_;
  const int64_t vocab_;
  std::vector<size_t> fallback_;  // [marker] longest border of its first n + 1 bytes
  std::vector<TokenMask> masks_;  // [states before the marker's end]
};

}  // namespace paceline
