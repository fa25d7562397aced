// Linears, activation codes and experts of the reference backend. NUMERICS: Activations, Integer linears,
// Float linears, Exact sum.
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/plain_decode.h"
#include "kernels/reference/reference.h"

namespace paceline::kernels::reference {

absl::StatusOr<std::unique_ptr<Linear>> PackLinear(PlainLinear plain) {
  OwnElements(plain);
  auto linear = std::make_unique<PlainLinearWeights>();
  linear->outputs = plain.outputs;
  linear->inputs = plain.inputs;
  linear->format = plain.format;
  linear->bytes = static_cast<int64_t>(plain.data.size() + 4 * plain.scales.size() + plain.zeros.size());
  linear->plain = std::move(plain);
  return linear;
}

absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain) {
  auto expert = std::make_unique<PlainExpertWeights>();
  expert->Describe(plain);
  for (PlainLinear* w : {&plain.gate, &plain.up, &plain.down}) {
    OwnElements(*w);
    expert->bytes += static_cast<int64_t>(w->data.size() + 4 * w->scales.size() + w->zeros.size());
  }
  expert->plain = std::move(plain);
  return expert;
}

namespace {

class PlainPacker final : public LinearPacker {
 public:
  explicit PlainPacker(const PlainLinear& form) : plain_(form) {
    plain_.data.resize(static_cast<size_t>(form.outputs * form.inputs * ElementBytes(form.format)));
  }
  void Add(const PlainLinear& part) override {
    PlainLinear own = part;
    OwnElements(own);
    const int64_t size = ElementBytes(plain_.format);
    const int64_t n0 = part.first_output - plain_.first_output;
    const int64_t k0 = part.first_input - plain_.first_input;
    CHECK(part.format == plain_.format);
    CHECK(n0 >= 0 && n0 + part.outputs <= plain_.outputs && k0 >= 0 && k0 + part.inputs <= plain_.inputs);
    for (int64_t n = 0; n < part.outputs; ++n) {
      std::memcpy(plain_.data.data() + ((n0 + n) * plain_.inputs + k0) * size, RowOf(own, n),
                  static_cast<size_t>(part.inputs * size));
    }
  }
  std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) override {
    plain_.scales = std::move(scales);
    plain_.zeros = std::move(zeros);
    return *PackLinear(std::move(plain_));
  }

 private:
  PlainLinear plain_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(const PlainLinear& form) {
  return std::make_unique<PlainPacker>(form);
}

void Quantise(ThreadPool&, const float* x, int32_t rows, int64_t width, ActivationContract contract,
              int16_t* codes, float* scales) {
  const float top = TopCode(contract);
  const int64_t groups = ActivationGroups(width);
  for (int32_t row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = row * width + g * kActivationGroup;
      const int64_t end = row * width + std::min(width, (g + 1) * kActivationGroup);
      float largest = 0;
      bool finite = true;
      for (int64_t i = begin; i < end; ++i) {
        finite = finite && std::isfinite(x[i]);
        largest = std::max(largest, std::fabs(x[i]));
      }
      const bool zero = !finite || largest < kSmallestMax;
      const float scale = !finite ? std::nanf("") : zero ? 0.0f : largest / top;
      for (int64_t i = begin; i < end; ++i) {
        codes[i] = zero ? int16_t{0} : static_cast<int16_t>(std::nearbyint(x[i] / scale));
      }
      scales[row * groups + g] = scale;
    }
  }
}

float IntegerOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const int16_t* codes,
                    const float* scales) {
  float total = 0;
  int64_t k = begin;
  while (k < end) {
    // A term: the overlap of one weight group and one activation group.
    const int64_t weight_group = WeightGroup(w, k);
    const int64_t weight_end = (w.first_input / w.group + weight_group + 1) * w.group - w.first_input;
    const int64_t activation_group = k / kActivationGroup;
    const int64_t stop = std::min({end, weight_end, (activation_group + 1) * kActivationGroup});
    int32_t term = 0;
    for (; k < stop; ++k) term += CentredCode(w, n, k) * codes[k];
    total = std::fma(static_cast<float>(term),
                     w.scales[n * w.groups() + weight_group] * scales[activation_group], total);
  }
  return total;
}

float FloatOutput(const PlainLinear& w, int64_t n, int64_t begin, int64_t end, const float* x) {
  float total = 0;
  for (int64_t k = begin; k < end;) {
    const int64_t stop = std::min(end, (k / kActivationGroup + 1) * kActivationGroup);
    const float scale = BlockScale(w, n, k);
    float block = 0;
    for (; k < stop; ++k) block = std::fma(StoredValue(w, n, k), x[k], block);
    total = std::fma(block, scale, total);
  }
  return total;
}

float FloatOutput(FloatMath math, const PlainLinear& w, int64_t n, int64_t begin, int64_t end,
                  const float* x) {
  return math == FloatMath::kNative && HasNativeMath(w.format) ? NativeOutput(w, n, begin, end, x)
                                                               : FloatOutput(w, n, begin, end, x);
}

void LinearForward(ThreadPool&, const Linear& linear, const Activations& x, float* y, int64_t stride) {
  const PlainLinear& w = static_cast<const PlainLinearWeights&>(linear).plain;
  const FloatMath math = static_cast<const PlainLinearWeights&>(linear).math;
  CHECK_EQ(w.inputs, x.width);
  const int64_t groups = ActivationGroups(x.width);
  for (int32_t row = 0; row < x.rows; ++row) {
    for (int64_t n = 0; n < w.outputs; ++n) {
      y[row * stride + n] =
          IsInteger(w.format)
              ? IntegerOutput(w, n, 0, w.inputs, x.codes + row * x.width, x.scales + row * groups)
              : FloatOutput(math, w, n, 0, w.inputs, x.values + row * x.width);
    }
  }
}

void Experts(ThreadPool& pool, Workspace&, const Activations& x, std::span<const ExpertTask> tasks,
             ActivationContract contract, int64_t* sums, uint8_t* row_errors) {
  const int64_t hidden = x.width;
  std::vector<int16_t> codes(hidden);  // [hidden]
  std::vector<float> scales(ActivationGroups(hidden));
  for (const ExpertTask& task : tasks) {
    const PlainExpert& expert = static_cast<const PlainExpertWeights&>(*task.expert).plain;
    const FloatMath math = static_cast<const PlainExpertWeights&>(*task.expert).math;
    CHECK_GE(task.first_group, task.expert->first_group);
    CHECK_LE(task.first_group + task.groups, task.expert->first_group + task.expert->groups);
    std::vector<float> middle(expert.down.inputs);          // [columns of the slice]
    std::vector<int16_t> middle_codes(expert.down.inputs);  // [columns of the slice]
    std::vector<float> middle_scales(ActivationGroups(expert.down.inputs));
    for (size_t i = 0; i < task.rows.size(); ++i) {
      const int32_t row = task.rows[i];
      const float weight = task.weights[i];
      const int16_t* row_codes = x.codes == nullptr ? nullptr : x.codes + row * hidden;
      const float* row_scales = x.scales == nullptr ? nullptr : x.scales + row * ActivationGroups(hidden);
      if (row_codes == nullptr && (IsInteger(expert.gate.format) || IsInteger(expert.up.format))) {
        Quantise(pool, x.values + row * hidden, 1, hidden, contract, codes.data(), scales.data());
        row_codes = codes.data();
        row_scales = scales.data();
      }
      const auto project = [&](const PlainLinear& w, int64_t n) {
        return IsInteger(w.format) ? IntegerOutput(w, n, 0, hidden, row_codes, row_scales)
                                   : FloatOutput(math, w, n, 0, hidden, x.values + row * hidden);
      };
      for (int32_t group = task.first_group; group < task.first_group + task.groups; ++group) {
        const int64_t begin = int64_t{group} * kActivationGroup - expert.down.first_input;
        const int64_t end = std::min(begin + kActivationGroup, expert.down.inputs);
        for (int64_t n = begin; n < end; ++n)
          middle[n] = Silu(project(expert.gate, n)) * project(expert.up, n);
        if (IsInteger(expert.down.format)) {
          float& scale = middle_scales[begin / kActivationGroup];
          Quantise(pool, &middle[begin], 1, end - begin, contract, &middle_codes[begin], &scale);
          scale = scale * weight;
        } else {
          for (int64_t n = begin; n < end; ++n) middle[n] = middle[n] * weight;
        }
        for (int64_t n = 0; n < hidden; ++n) {
          const float leaf =
              IsInteger(expert.down.format)
                  ? IntegerOutput(expert.down, n, begin, end, middle_codes.data(), middle_scales.data())
                  : FloatOutput(math, expert.down, n, begin, end, middle.data());
          if (!(std::fabs(leaf) < kLeafLimit)) {
            row_errors[row] = 1;
            continue;
          }
          sums[row * hidden + n] += std::llrint(static_cast<double>(leaf) * 0x1p32);
        }
      }
    }
  }
}

void Combine(ThreadPool&, const int64_t* sums, const float* shared, const float* gate, int32_t rows,
             int64_t hidden, float* h) {
  for (int32_t row = 0; row < rows; ++row) {
    for (int64_t n = 0; n < hidden; ++n) {
      const int64_t i = row * hidden + n;
      const float routed = static_cast<float>(sums[i]) * 0x1p-32f;
      float add = routed;
      if (shared != nullptr) add = routed + (gate == nullptr ? shared[i] : shared[i] * Sigmoid(gate[row]));
      h[i] = h[i] + add;
    }
  }
}

}  // namespace paceline::kernels::reference
