// The fixed inputs, and the digests that the reference backend gave.
#include "kernels/known_answers.h"

#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "base/sha256.h"
#include "kernels/scalar_math.h"

namespace paceline::kernels {
namespace {

uint64_t Draw(uint32_t stream, int64_t i) {
  return RandomBits(20261121, stream, RandomPurpose::kSynth, static_cast<uint64_t>(i), 0);
}

// Multiples of 2^-22 in [-1, 1).
std::vector<float> Uniform(uint32_t stream, int64_t count, float scale = 1.0f) {
  std::vector<float> out(count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t whole = static_cast<int32_t>(Draw(stream, i) >> 41) - (1 << 22);
    out[i] = static_cast<float>(whole) * 0x1p-22f * scale;
  }
  return out;
}

PlainLinear Weights(uint32_t stream, WeightFormat format, int64_t outputs, int64_t inputs, int64_t group,
                    bool zeros) {
  PlainLinear w;
  w.format = format;
  w.outputs = outputs;
  w.inputs = inputs;
  const int64_t count = outputs * inputs;
  if (IsInteger(format) || format == WeightFormat::kFp8Block128) {
    w.group = IsInteger(format) ? group : 0;
    w.data.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t bits = Draw(stream, i);
      w.data[i] = format == WeightFormat::kInt4 ? static_cast<uint8_t>(bits % 16)
                  : format == WeightFormat::kInt8
                      ? static_cast<uint8_t>(static_cast<int>(bits % 255) - 127)
                      : static_cast<uint8_t>((bits % 2 << 7) | (bits >> 1) % 0x60);
    }
    const int64_t scales = IsInteger(format) ? outputs * w.groups() : w.row_blocks() * w.column_blocks();
    w.scales.resize(scales);
    for (int64_t i = 0; i < scales; ++i)
      w.scales[i] = static_cast<float>(1 + Draw(stream + 1, i) % 2047) * 0x1p-17f;
    if (zeros) {
      w.zeros.resize(scales);
      for (int64_t i = 0; i < scales; ++i) w.zeros[i] = static_cast<uint8_t>(Draw(stream + 2, i) % 16);
    }
    return w;
  }
  const std::vector<float> values = Uniform(stream, count, 0.125f);
  const int64_t size = format == WeightFormat::kF32 ? 4 : 2;
  w.data.resize(count * size);
  for (int64_t i = 0; i < count; ++i) {
    // F16: any sign and mantissa, exponents 2^-15 to 2^-3, subnormals among them.
    const uint64_t bits = Draw(stream, i);
    const uint16_t half = format == WeightFormat::kBF16
                              ? ToBf16(values[i])
                              : static_cast<uint16_t>((bits & 0x8000) | (bits >> 16) % (13 << 10));
    if (size == 4) {
      std::memcpy(w.data.data() + 4 * i, &values[i], 4);
    } else {
      std::memcpy(w.data.data() + 2 * i, &half, 2);
    }
  }
  return w;
}

template <class T>
void Add(Sha256& hash, const std::vector<T>& values) {
  hash.Add(values.data(), values.size() * sizeof(T));
}

void AddExperts(Sha256& hash, const KernelTable& t, ThreadPool& pool, std::vector<PlainExpert> plain) {
  constexpr int32_t kRows = 5;
  const int64_t hidden = plain[0].gate.inputs;
  const std::vector<float> x = Uniform(1, kRows * hidden);
  std::vector<int16_t> codes(x.size());
  std::vector<float> scales(kRows * ActivationGroups(hidden));
  t.quantise(pool, x.data(), kRows, hidden, ActivationContract::kInt16, codes.data(), scales.data());
  const std::vector<int32_t> rows = {0, 1, 2, 4};
  const std::vector<float> weights = Uniform(2, 4);
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<ExpertTask> tasks;
  for (PlainExpert& p : plain) {
    auto packed = t.pack_expert(std::move(p));
    CHECK(packed.ok());
    experts.push_back(*std::move(packed));
    tasks.push_back(
        {experts.back().get(), experts.back()->first_group, experts.back()->groups, rows, weights});
  }
  Workspace workspace;
  std::vector<int64_t> sums(x.size());
  std::vector<uint8_t> errors(kRows);
  t.experts(pool, workspace, {kRows, hidden, x.data(), codes.data(), scales.data()}, tasks,
            ActivationContract::kInt16, sums.data(), errors.data());
  Add(hash, codes);
  Add(hash, scales);
  Add(hash, sums);
  Add(hash, errors);
}

PlainExpert MakeExpert(uint32_t stream, WeightFormat format, int64_t group, bool zeros) {
  constexpr int64_t kHidden = 136, kColumns = 144;
  return {Weights(stream, format, kColumns, kHidden, group, zeros),
          Weights(stream + 3, format, kColumns, kHidden, group, zeros),
          Weights(stream + 6, format, kHidden, kColumns, group == kHidden ? kColumns : group, zeros)};
}

void AddLinears(Sha256& hash, const KernelTable& t, ThreadPool& pool) {
  constexpr int64_t kOutputs = 70, kInputs = 200;
  const std::vector<float> x = Uniform(30, 3 * kInputs);
  std::vector<int16_t> codes(x.size());
  std::vector<float> scales(3 * ActivationGroups(kInputs));
  t.quantise(pool, x.data(), 3, kInputs, ActivationContract::kInt16, codes.data(), scales.data());
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8}) {
    auto linear = t.pack_linear(Weights(31, format, kOutputs, kInputs, kInputs, false));
    CHECK(linear.ok());
    std::vector<float> y(3 * kOutputs);
    t.linear(pool, **linear, {3, kInputs, x.data(), codes.data(), scales.data()}, y.data(), kOutputs);
    Add(hash, y);
  }
}

void AddRows(Sha256& hash, const KernelTable& t, ThreadPool& pool) {
  const std::vector<float> x = Uniform(40, 600, 8.0f), y = Uniform(41, 600, 8.0f), w = Uniform(42, 200);
  std::vector<float> out(600);
  t.rms_norm(pool, x.data(), 3, 200, w.data(), 1.0f, 1e-6f, out.data());
  Add(hash, out);
  t.silu_mul(pool, x.data(), y.data(), 600, out.data());
  t.add(pool, out.data(), y.data(), 600);
  t.add_bias(pool, out.data(), 3, 200, w.data());
  Add(hash, out);
  t.head_norm_rope(pool, x.data(), 200, 40, 3, 5, 40, w.data(), 0.0f, 1e-6f, y.data(), y.data() + 30, 10,
                   out.data());
  t.sigmoid_gate(pool, y.data(), 200, 40, 3, 5, 40, out.data());
  Add(hash, out);
  t.gated_norm(pool, x.data(), y.data(), 3, 5, 40, w.data(), 1e-6f, out.data());
  Add(hash, out);
  std::vector<int32_t> ids(18);
  std::vector<float> weights(18);
  t.route(pool, x.data(), 3, 200, 6, true, ids.data(), weights.data());
  Add(hash, ids);
  Add(hash, weights);
  std::vector<int64_t> sums(600);
  for (int64_t i = 0; i < 600; ++i) sums[i] = static_cast<int64_t>(Draw(43, i)) >> (i % 60 + 2);
  t.combine(pool, sums.data(), x.data(), w.data(), 3, 200, out.data());
  Add(hash, out);
  const std::vector<float> logits = Uniform(44, 2500, 16.0f);
  Add(hash, std::vector<float>{t.log_sum_exp(pool, logits.data(), 2500)});
  Add(hash, std::vector<int64_t>{t.arg_max(pool, logits.data(), 2500)});
}

void AddAttention(Sha256& hash, const KernelTable& t, ThreadPool& pool) {
  const AttentionShape shape{4, 2, 40};
  constexpr int64_t kRows = 260;  // over the border of a block
  std::vector<uint16_t> k(2 * 2 * kAttentionBlock * 40), v(k.size());
  const int32_t pages[] = {1, 0};
  const std::vector<RowRun> all = {{0, kRows, 0, pages}}, last = {{0, 2, kRows - 2, pages}};
  const std::vector<float> keys = Uniform(50, kRows * 80, 2.0f), values = Uniform(51, kRows * 80),
                           q = Uniform(52, 2 * 160, 2.0f);
  const KvPages kv{KvDtype::kBF16, k.data(), v.data()};
  t.write_kv(pool, shape, kv, all, keys.data(), values.data());
  Workspace workspace;
  std::vector<float> out(q.size());
  t.attention(pool, workspace, shape, kv, last, q.data(), out.data());
  Add(hash, out);
}

void AddDeltaNet(Sha256& hash, const KernelTable& t, ThreadPool& pool) {
  const GdnShape shape{1, 2, 24, 20, 4};
  constexpr int32_t kRows = 37;  // one border
  const std::vector<float> conv = Uniform(60, shape.channels() * 4), dt = Uniform(61, 2),
                           qkv = Uniform(62, kRows * shape.channels(), 2.0f), b = Uniform(63, kRows * 2),
                           a = Uniform(64, kRows * 2), decay = {0.5f, 1.25f};
  std::vector<float> state(2 * 24 * 20), k(kGdnBlock * 24), u(kGdnBlock * 40), c(kGdnBlock * 2),
      window(kGdnWindow * shape.channels());
  const std::vector<RowRun> runs = {{0, kRows, 0, nullptr}};
  const GdnBlock block{state.data(), k.data(), u.data(), c.data()};
  const std::vector<GdnState> states = {{block, block, window.data()}};
  Workspace workspace;
  std::vector<float> out(kRows * 40);
  t.gated_delta_net(pool, workspace, shape, {conv.data(), decay.data(), dt.data()}, qkv.data(), b.data(),
                    a.data(), runs, states, out.data());
  Add(hash, out);
  Add(hash, state);
}

}  // namespace

std::string_view ArithmeticClassName(ArithmeticClass arithmetic) {
  switch (arithmetic) {
    case ArithmeticClass::kIntegerExperts:
      return "integer experts";
    case ArithmeticClass::kFloatExperts:
      return "float experts";
    case ArithmeticClass::kTrunk:
      return "trunk";
  }
  return "?";
}

std::string KnownAnswers(const KernelTable& table, ArithmeticClass arithmetic) {
  ThreadPool pool(1);
  Sha256 hash;
  std::vector<PlainExpert> experts;
  switch (arithmetic) {
    case ArithmeticClass::kIntegerExperts:
      experts.push_back(MakeExpert(10, WeightFormat::kInt4, 128, false));
      experts.push_back(MakeExpert(11, WeightFormat::kInt4, 32, true));
      experts.push_back(MakeExpert(12, WeightFormat::kInt8, 136, false));
      AddExperts(hash, table, pool, std::move(experts));
      break;
    case ArithmeticClass::kFloatExperts:
      experts.push_back(MakeExpert(20, WeightFormat::kBF16, 0, false));
      experts.push_back(MakeExpert(21, WeightFormat::kF16, 0, false));
      experts.push_back(MakeExpert(22, WeightFormat::kF32, 0, false));
      experts.push_back(MakeExpert(23, WeightFormat::kFp8Block128, 0, false));
      AddExperts(hash, table, pool, std::move(experts));
      break;
    case ArithmeticClass::kTrunk:
      AddLinears(hash, table, pool);
      AddRows(hash, table, pool);
      AddAttention(hash, table, pool);
      AddDeltaNet(hash, table, pool);
      break;
  }
  return hash.Hex();
}

std::string_view ExpectedAnswers(ArithmeticClass arithmetic, FloatMath math) {
  const bool native = math == FloatMath::kNative;
  switch (arithmetic) {
    case ArithmeticClass::kIntegerExperts:
      return "657b95be08ebd24dfc310369f5c7bfc6e563b423f34d4e2666649c0395119f2a";
    case ArithmeticClass::kFloatExperts:
      return native ? "19b54691d3c509e8297d0fefec6b50dd6e49125522b0f16bf891c99bf8b342b6"
                    : "15c11aedbd725da6d8fa4c4a728078db4ea63bb91208f07410535b3ca72b142d";
    case ArithmeticClass::kTrunk:
      return native ? "aa45319d4c11afd7537e0540ee25184863b45671ed19099c637b5e1923067e64"
                    : "e8b0e4f0b29178245574052fed177e95a77e3966fc4aebefa1dc8f0c317f64b4";
  }
  return "";
}

}  // namespace paceline::kernels
