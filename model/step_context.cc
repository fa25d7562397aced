// Rotary angles and activation codes.
#include "model/step_context.h"

#include "kernels/scalar_math.h"

namespace paceline {

void FillRotary(double theta, int32_t rotary_dims, Batch& batch) {
  const int32_t half = rotary_dims / 2;
  batch.rotary_half = half;
  batch.cos.resize(static_cast<size_t>(batch.rows) * half);
  batch.sin.resize(static_cast<size_t>(batch.rows) * half);
  if (half == 0) return;
  const double log_theta = kernels::Log64(theta);
  for (int32_t i = 0; i < half; ++i) {
    // The official implementation keeps frequency and angle in fp32: so do we, or long contexts drift apart.
    const float frequency = static_cast<float>(kernels::Exp64(-(2.0 * i / rotary_dims) * log_theta));
    for (const kernels::RowRun& run : batch.runs) {
      for (int32_t r = 0; r < run.rows; ++r) {
        const float angle = static_cast<float>(run.first_position + r) * frequency;
        const kernels::SinCos value = kernels::SinCos64(static_cast<double>(angle));
        const size_t at = static_cast<size_t>(run.first_row + r) * half + i;
        batch.cos[at] = static_cast<float>(value.cos);
        batch.sin[at] = static_cast<float>(value.sin);
      }
    }
  }
}

kernels::Activations Activate(const StepContext& context, const float* x, int32_t rows, int64_t width,
                              std::initializer_list<const kernels::Linear*> consumers) {
  kernels::Activations a{.rows = rows,
                         .width = width,
                         .values = x,
                         .codes = nullptr,
                         .scales = nullptr,
                         .contract = context.contract};
  bool integer = false;
  for (const kernels::Linear* w : consumers)
    integer = integer || (w != nullptr && kernels::IsInteger(w->format));
  if (integer) {
    int16_t* codes = context.workspace.Take<int16_t>(rows * width);
    float* scales = context.workspace.Take<float>(rows * kernels::ActivationGroups(width));
    context.table.quantise(context.pool, x, rows, width, context.contract, codes, scales);
    a.codes = codes;
    a.scales = scales;
  }
  return a;
}

}  // namespace paceline
