// Packing for native float math: the layout of pack.cc, and a mark at the matrices whose arithmetic differs.
#include "base/status.h"
#include "kernels/cpu/packed.h"

namespace paceline::kernels::cpu {
namespace {

void Mark(Matrix& m) { m.native = HasNativeMath(m.format); }

}  // namespace

absl::StatusOr<std::unique_ptr<Linear>> PackNativeLinear(PlainLinear plain) {
  const bool portable = plain.portable;
  ASSIGN_OR_RETURN(std::unique_ptr<Linear> linear, PackLinear(std::move(plain)));
  if (!portable) Mark(static_cast<PackedLinear&>(*linear).matrix.view);
  return linear;
}

absl::StatusOr<std::unique_ptr<Expert>> PackNativeExpert(PlainExpert plain) {
  ASSIGN_OR_RETURN(std::unique_ptr<Expert> expert, PackExpert(std::move(plain)));
  auto& packed = static_cast<PackedExpert&>(*expert);
  for (PackedMatrix* matrix : {&packed.gate, &packed.up, &packed.down}) Mark(matrix->view);
  return expert;
}

}  // namespace paceline::kernels::cpu
