// Native float linears in plain loops: what a tile unit computes, said with fp32 operations that know
// subnormals. NUMERICS, Native float linears. (Intel SDM volume 2, TDPBF16PS.)
#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "kernels/plain_decode.h"
#include "kernels/reference/reference.h"

namespace paceline::kernels::reference {
namespace {

constexpr int64_t kChunk = 32;  // inputs of one product of tiles

// A subnormal becomes a zero of its sign.
float Flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// fma with subnormals read and written as zeros. Whether a result is subnormal is decided after rounding it
// to 24 bits with an exponent without end, as the hardware does: from 2^-126 - 2^-151 on it counts as 2^-126.
float FlushingFma(float a, float b, float c) {
  constexpr double kLeast = 0x1p-126 - 0x1p-151;
  const float x = Flush(a), y = Flush(b), z = Flush(c);
  const float result = std::fma(x, y, z);
  // The exact result is sum + rest (Knuth's TwoSum): the product of two bf16 is exact in fp64.
  const double product = static_cast<double>(x) * static_cast<double>(y), other = static_cast<double>(z);
  const double sum = product + other, part = sum - product;
  const double rest = (product - (sum - part)) + (other - part);
  const bool below = std::fabs(sum) < kLeast || (std::fabs(sum) == kLeast && sum * rest < 0);
  return below && sum != 0 ? std::copysign(0.0f, static_cast<float>(std::copysign(1.0, sum))) : result;
}
float FlushingAdd(float a, float b) { return Flush(Flush(a) + Flush(b)); }

}  // namespace

float NativeOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const float* x) {
  float total = 0;
  for (int64_t k = begin; k < end;) {
    const int64_t stop = std::min(end, (k / kActivationGroup + 1) * kActivationGroup);
    const float scale = BlockScale(w, n, k);
    float high = 0, low = 0;  // sums over the block of both terms of the inputs
    for (; k < stop; k += kChunk) {
      float sums[2][2] = {};  // [high, low][inputs 0, 2, .. and 1, 3, ..]
      for (int64_t i = 0; i < kChunk; ++i) {
        const bool there = k + i < stop;
        const float weight = there ? StoredValue(w, n, k + i) : 0.0f;
        const float input = there ? x[k + i] : 0.0f;
        const float first = FromBf16(ToBf16(input));
        const float second = there ? FromBf16(ToBf16(input - first)) : 0.0f;
        sums[0][i % 2] = FlushingFma(first, weight, sums[0][i % 2]);
        sums[1][i % 2] = FlushingFma(second, weight, sums[1][i % 2]);
      }
      high = FlushingAdd(high, FlushingAdd(sums[0][0], sums[0][1]));
      low = FlushingAdd(low, FlushingAdd(sums[1][0], sums[1][1]));
    }
    k = stop;
    total = std::fma(high + low, scale, total);
  }
  return total;
}

namespace {

class NativePacker final : public LinearPacker {
 public:
  explicit NativePacker(std::unique_ptr<LinearPacker> parts) : parts_(std::move(parts)) {}
  void Add(const PlainLinear& part) override { parts_->Add(part); }
  std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) override {
    std::unique_ptr<Linear> linear = parts_->Finish(std::move(scales), std::move(zeros));
    static_cast<PlainLinearWeights&>(*linear).math = FloatMath::kNative;
    return linear;
  }

 private:
  const std::unique_ptr<LinearPacker> parts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearPacker>> StartNativeLinear(const PlainLinear& form) {
  ASSIGN_OR_RETURN(std::unique_ptr<LinearPacker> parts, StartLinear(form));
  if (form.portable) return parts;
  return std::make_unique<NativePacker>(std::move(parts));
}

absl::StatusOr<std::unique_ptr<Linear>> PackNativeLinear(PlainLinear plain) {
  const FloatMath math = plain.portable ? FloatMath::kPortable : FloatMath::kNative;
  ASSIGN_OR_RETURN(std::unique_ptr<Linear> linear, PackLinear(std::move(plain)));
  static_cast<PlainLinearWeights&>(*linear).math = math;
  return linear;
}

absl::StatusOr<std::unique_ptr<Expert>> PackNativeExpert(PlainExpert plain) {
  ASSIGN_OR_RETURN(std::unique_ptr<Expert> expert, PackExpert(std::move(plain)));
  static_cast<PlainExpertWeights&>(*expert).math = FloatMath::kNative;
  return expert;
}

}  // namespace paceline::kernels::reference
