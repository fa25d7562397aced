// The filled table of the reference backend.
#include "kernels/reference/reference.h"

namespace paceline::kernels {

const KernelTable& ReferenceKernels() {
  namespace r = reference;
  static const KernelTable portable = {
      .name = "reference",
      .kv_codes = true,
      .pack_linear = r::PackLinear,
      .pack_expert = r::PackExpert,
      .start_linear = r::StartLinear,
      .quantise = r::Quantise,
      .linear = r::LinearForward,
      .experts = r::Experts,
      .rms_norm = r::RmsNorm,
      .add = r::Add,
      .add_bias = r::AddBias,
      .silu_mul = r::SiluMul,
      .head_norm_rope = r::HeadNormRope,
      .write_kv = r::WriteKv,
      .attention = r::Attention,
      .sigmoid_gate = r::SigmoidGate,
      .gated_delta_net = r::GatedDeltaNet,
      .gated_norm = r::GatedNorm,
      .route = r::Route,
      .combine = r::Combine,
      .log_sum_exp = r::LogSumExp,
      .arg_max = r::ArgMax,
  };
  static const KernelTable native = [] {
    KernelTable table = portable;
    table.name = "reference native";
    table.float_math = FloatMath::kNative;
    table.pack_linear = r::PackNativeLinear;
    table.pack_expert = r::PackNativeExpert;
    table.start_linear = r::StartNativeLinear;
    return table;
  }();
  static const KernelTable table = [] {
    KernelTable both = portable;
    both.native = &native;
    return both;
  }();
  return table;
}

}  // namespace paceline::kernels
