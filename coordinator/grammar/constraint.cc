#include "coordinator/grammar/constraint.h"

namespace paceline {

struct ConstraintCompiler::State {};

ConstraintCompiler::ConstraintCompiler(const Tokenizer*, int64_t) : state_(std::make_unique<State>()) {}
ConstraintCompiler::~ConstraintCompiler() = default;

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::Compile(const ConstraintSpec& spec,
                                                                              std::span<const TokenId>,
                                                                              std::span<const TokenId>) {
  if (spec.kind == ConstraintSpec::Kind::kNone) return nullptr;
  return absl::UnimplementedError("this version does not have it; leave the field out");
}

}  // namespace paceline
