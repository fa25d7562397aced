// What an expert is, whoever packs it.
#include "base/check.h"
#include "kernels/kernels.h"

namespace paceline::kernels {

void Expert::Describe(const PlainExpert& plain) {
  CHECK_EQ(plain.gate.outputs, plain.down.inputs);
  CHECK_EQ(plain.up.outputs, plain.down.inputs);
  CHECK_EQ(plain.down.first_input % kActivationGroup, 0);
  hidden = plain.gate.inputs;
  columns = plain.down.inputs;
  first_group = static_cast<int32_t>(plain.down.first_input / kActivationGroup);
  groups = static_cast<int32_t>(ActivationGroups(plain.down.inputs));
  gate_format = plain.gate.format;
  up_format = plain.up.format;
  down_format = plain.down.format;
}

}  // namespace paceline::kernels
