// Packing for native float math: the layout of pack.cc, and a mark at the matrices whose arithmetic differs.
#include "base/status.h"
#include "kernels/cpu/packed.h"

namespace paceline::kernels::cpu {
namespace {

void Mark(Matrix& m) { m.native = HasNativeMath(m.format); }

class NativePacker final : public LinearPacker {
 public:
  explicit NativePacker(std::unique_ptr<LinearPacker> parts) : parts_(std::move(parts)) {}
  void Add(const PlainLinear& part) override { parts_->Add(part); }
  std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) override {
    std::unique_ptr<Linear> linear = parts_->Finish(std::move(scales), std::move(zeros));
    Mark(static_cast<PackedLinear&>(*linear).matrix.view);
    return linear;
  }

 private:
  const std::unique_ptr<LinearPacker> parts_;
};

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

absl::StatusOr<std::unique_ptr<LinearPacker>> StartNativeLinear(const PlainLinear& form) {
  ASSIGN_OR_RETURN(std::unique_ptr<LinearPacker> parts, StartLinear(form));
  if (form.portable) return parts;
  return std::make_unique<NativePacker>(std::move(parts));
}

}  // namespace paceline::kernels::cpu
