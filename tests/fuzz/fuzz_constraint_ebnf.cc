// A grammar as an attacker would write it.
#include "tests/fuzz/constraint_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return paceline::FuzzConstraint(paceline::ConstraintSpec::Kind::kEbnf, data, size);
}
