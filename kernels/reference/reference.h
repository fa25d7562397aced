// The reference backend: plain loops that a person can check against docs/NUMERICS.md line by line. Never
// optimised; it judges the others. One declaration per entry of the table.
#pragma once

#include "kernels/kernels.h"

namespace paceline::kernels::reference {

struct PlainLinearWeights final : Linear {
  PlainLinear plain;
  FloatMath math = FloatMath::kPortable;
};
struct PlainExpertWeights final : Expert {
  PlainExpert plain;
  FloatMath math = FloatMath::kPortable;
};

absl::StatusOr<std::unique_ptr<Linear>> PackLinear(PlainLinear plain);
absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain);
absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(const PlainLinear& form);
absl::StatusOr<std::unique_ptr<Linear>> PackNativeLinear(PlainLinear plain);
absl::StatusOr<std::unique_ptr<Expert>> PackNativeExpert(PlainExpert plain);
absl::StatusOr<std::unique_ptr<LinearPacker>> StartNativeLinear(const PlainLinear& form);

// NUMERICS, Row sums: element i goes to lane i mod 16 by `add(lane, i)`; lanes are then added in a tree of 8,
// 4, 2, 1.
template <class Add>
float LaneSum(int64_t count, const Add& add) {
  float lanes[16] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i % 16] = add(lanes[i % 16], i);
  for (int step = 8; step >= 1; step /= 2) {
    for (int i = 0; i < step; ++i) lanes[i] = lanes[i] + lanes[i + step];
  }
  return lanes[0];
}
float Dot(const float* a, const float* b, int64_t count);
float SumOfSquares(const float* x, int64_t count);

// One output of a linear over inputs [begin, end) of the slice: the ordinary linear when the range is
// everything, one leaf when it is one group of a down projection.
float IntegerOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const int16_t* codes,
                    const float* scales);
float FloatOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const float* x);
// NUMERICS, Native float linears: only for formats that HasNativeMath.
float NativeOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const float* x);
// The one of the two that `math` and the format call for.
float FloatOutput(FloatMath math, const PlainLinear& w, int64_t n, int64_t begin, int64_t end,
                  const float* x);

void Quantise(ThreadPool&, const float* x, int32_t rows, int64_t width, ActivationContract contract,
              int16_t* codes, float* scales);
void LinearForward(ThreadPool&, const Linear& w, const Activations& x, float* y, int64_t stride);
void Experts(ThreadPool&, Workspace&, const Activations& x, std::span<const ExpertTask> tasks,
             ActivationContract contract, int64_t* sums, uint8_t* row_errors);
void RmsNorm(ThreadPool&, const float* x, int32_t rows, int64_t width, const float* w, float plus, float eps,
             float* y);
void Add(ThreadPool&, float* h, const float* y, int64_t count);
void AddBias(ThreadPool&, float* x, int32_t rows, int64_t width, const float* bias);
void SiluMul(ThreadPool&, const float* gate, const float* up, int64_t count, float* out);
void HeadNormRope(ThreadPool&, const float* x, int64_t row_stride, int64_t head_stride, int32_t rows,
                  int32_t heads, int32_t head_dim, const float* w, float plus, float eps, const float* cos,
                  const float* sin, int32_t half, float* out);
void WriteKv(ThreadPool&, const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
             const float* k, const float* v);
void Attention(ThreadPool&, Workspace&, const AttentionShape& shape, const KvPages& kv,
               std::span<const RowRun> runs, const float* q, float* out);
// The two of them for dtypes in codes, and the rotation of 4-bit ones.
void WriteKvCodes(const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
                  const float* k, const float* v);
void AttentionOverCodes(const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
                        const float* q, float* out);
void RotateHead(float* x, int64_t dim);
void SigmoidGate(ThreadPool&, const float* gate, int64_t row_stride, int64_t head_stride, int32_t rows,
                 int32_t heads, int32_t head_dim, float* out);
void GatedDeltaNet(ThreadPool&, Workspace&, const GdnShape& shape, const GdnWeights& weights,
                   const float* qkv, const float* b, const float* a, std::span<const RowRun> runs,
                   std::span<const GdnState> states, float* out);
void GatedNorm(ThreadPool&, const float* x, const float* z, int32_t rows, int32_t heads, int32_t dim,
               const float* w, float eps, float* out);
void Route(ThreadPool&, const float* logits, int32_t rows, int32_t experts, int32_t top_k, bool renormalise,
           int32_t* ids, float* weights);
void Combine(ThreadPool&, const int64_t* sums, const float* shared, const float* gate, int32_t rows,
             int64_t hidden, float* h);
float LogSumExp(ThreadPool&, const float* logits, int64_t count);
int64_t ArgMax(ThreadPool&, const float* logits, int64_t count);

}  // namespace paceline::kernels::reference
