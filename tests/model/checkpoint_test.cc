// Every format decoded against its definition, slices against the whole, and what a census accepts and
// refuses.
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/placement_shape.h"
#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;
using testing::Bytes;
using testing::Folder;
using testing::RawTensor;
using testing::SmallConfig;
using testing::SmallTensors;
using testing::Tensors;

constexpr char kGate[] = "model.layers.1.mlp.experts.2.gate_proj";
constexpr char kDown[] = "model.layers.1.mlp.experts.2.down_proj";
constexpr char kQuery[] = "model.layers.1.self_attn.q_proj";

std::unique_ptr<Checkpoint> OpenOk(const Folder& folder, const nlohmann::json& config,
                                   const Tensors& tensors) {
  folder.WriteModel(config, tensors);
  auto opened = Checkpoint::Open(folder.path());
  EXPECT_TRUE(opened.ok()) << opened.status();
  return opened.ok() ? *std::move(opened) : nullptr;
}

std::string OpenError(const nlohmann::json& config, const Tensors& tensors) {
  const Folder folder;
  folder.WriteModel(config, tensors);
  const auto opened = Checkpoint::Open(folder.path());
  return opened.ok() ? "opened" : std::string(opened.status().message());
}

// binary16 and bfloat16 by their definitions, bit field by bit field.
double Half(uint16_t bits) {
  const double sign = bits >> 15 ? -1 : 1;
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}
double E4m3(uint8_t code) {
  const double sign = code >> 7 ? -1 : 1;
  const int exponent = code >> 3 & 15, fraction = code & 7;
  return sign * (exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10));
}

// Element [n, k] of a linear layer that was read, from the header comments of kernels/weights.h.
double Value(const PlainLinear& w, int64_t n, int64_t k) {
  const auto at = static_cast<size_t>(n * w.inputs + k);
  switch (w.format) {
    case WeightFormat::kF32: {
      float value;
      std::memcpy(&value, w.data.data() + 4 * at, 4);
      return value;
    }
    case WeightFormat::kF16:
    case WeightFormat::kBF16: {
      uint16_t bits;
      std::memcpy(&bits, w.data.data() + 2 * at, 2);
      return w.format == WeightFormat::kF16 ? Half(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
    }
    case WeightFormat::kFp8Block128: {
      const int64_t row = (w.first_output + n) / 128 - w.first_output / 128;
      const int64_t column = (w.first_input + k) / 128 - w.first_input / 128;
      return E4m3(w.data[at]) * w.scales[static_cast<size_t>(row * w.column_blocks() + column)];
    }
    case WeightFormat::kInt4: {
      const int64_t g = (w.first_input + k) / w.group - w.first_input / w.group;
      const auto scale = static_cast<size_t>(n * w.groups() + g);
      return (w.data[at] - (w.zeros.empty() ? 8 : w.zeros[scale])) * double{w.scales[scale]};
    }
    case WeightFormat::kInt8:
      return static_cast<int8_t>(w.data[at]) * double{w.scales[static_cast<size_t>(n)]};
  }
  return 0;
}

// A GPTQ layer of pseudo-random codes, and its values computed while it is made.
struct Gptq {
  std::vector<double> values;  // [outputs, inputs]
  static Gptq Make(Tensors& tensors, const std::string& name, int64_t n, int64_t k, int64_t group,
                   bool symmetric, bool v2, const std::string& scale_dtype,
                   const std::vector<int32_t>& g_idx = {}) {
    const int64_t groups = (k + group - 1) / group;
    std::vector<uint32_t> words(static_cast<size_t>(k / 8 * n)), zeros(static_cast<size_t>(groups * n / 8));
    std::vector<float> scales(static_cast<size_t>(groups * n));
    std::vector<uint16_t> half_scales(scales.size());
    Gptq out;
    uint32_t state = 77;
    const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
    std::vector<uint32_t> zero(scales.size());
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(g * n + i);
        zero[at] = symmetric ? 8 : next() & 15;
        const uint32_t stored = v2 ? zero[at] : (zero[at] + 15) & 15;
        zeros[static_cast<size_t>(g * (n / 8) + i / 8)] |= stored << (4 * (i % 8));
        // Five bits of mantissa: the same number in F32, F16 and BF16.
        scales[at] = std::ldexp(static_cast<float>(32 + (next() & 31)), -12);
        const uint32_t bits = std::bit_cast<uint32_t>(scales[at]);
        half_scales[at] = scale_dtype == "BF16"
                              ? static_cast<uint16_t>(bits >> 16)
                              : static_cast<uint16_t>(((bits >> 23) - 112) << 10 | (bits >> 13 & 1023));
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const uint32_t code = next() & 15;
        words[static_cast<size_t>(j / 8 * n + i)] |= code << (4 * (j % 8));
        const int64_t g = g_idx.empty() ? j / group : g_idx[static_cast<size_t>(j)];
        const auto at = static_cast<size_t>(g * n + i);
        out.values.push_back((static_cast<double>(code) - zero[at]) * scales[at]);
      }
    }
    tensors.erase(name + ".weight");
    tensors[name + ".qweight"] = {"I32", {k / 8, n}, Bytes(words)};
    tensors[name + ".qzeros"] = {"I32", {groups, n / 8}, Bytes(zeros)};
    tensors[name + ".scales"] = {
        scale_dtype, {groups, n}, scale_dtype == "F32" ? Bytes(scales) : Bytes(half_scales)};
    if (!g_idx.empty()) tensors[name + ".g_idx"] = {"I32", {k}, Bytes(g_idx)};
    return out;
  }
};

void ExpectValues(const PlainLinear& read, const std::vector<double>& values, int64_t columns) {
  for (int64_t n = 0; n < read.outputs; ++n) {
    for (int64_t k = 0; k < read.inputs; ++k) {
      const int64_t at = (read.first_output + n) * columns + read.first_input + k;
      ASSERT_EQ(Value(read, n, k), values[static_cast<size_t>(at)]) << n << ", " << k;
    }
  }
}

nlohmann::json WithQuantisation(nlohmann::json quantisation) {
  nlohmann::json config = SmallConfig();
  config["quantization_config"] = std::move(quantisation);
  return config;
}

struct Int4Case {
  int64_t group;
  bool symmetric, v2;
  const char* scales;
};
class Int4 : public ::testing::TestWithParam<Int4Case> {};

TEST_P(Int4, DecodesAsDefined) {
  const Int4Case& c = GetParam();
  Tensors tensors = SmallTensors();
  const Gptq gate = Gptq::Make(tensors, kGate, 144, 256, c.group, c.symmetric, c.v2, c.scales);
  const Gptq down =
      Gptq::Make(tensors, kDown, 256, 144, c.group > 144 ? 144 : c.group, c.symmetric, c.v2, c.scales);
  const Folder folder;
  const auto checkpoint = OpenOk(folder,
                                 WithQuantisation({{"quant_method", "gptq"},
                                                   {"bits", 4},
                                                   {"group_size", c.group == 256 ? -1 : c.group},
                                                   {"checkpoint_format", c.v2 ? "gptq_v2" : "gptq"}}),
                                 tensors);
  ASSERT_NE(checkpoint, nullptr);
  const auto whole = checkpoint->ReadExpert("layers.1.mlp", 2);
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->gate.format, WeightFormat::kInt4);
  EXPECT_EQ(whole->up.format, WeightFormat::kBF16);
  EXPECT_EQ(whole->gate.group, c.group);
  EXPECT_EQ(whole->gate.zeros.empty(), c.symmetric);
  ExpectValues(whole->gate, gate.values, 256);
  ExpectValues(whole->down, down.values, 144);
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>(0, 128), {128, 144}}) {
    const auto part = checkpoint->ReadExpert("layers.1.mlp", 2, {begin, end});
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_EQ(part->gate.outputs, end - begin);
    EXPECT_EQ(part->down.first_input, begin);
    EXPECT_EQ(static_cast<int64_t>(part->down.scales.size()), part->down.groups() * 256);
    ExpectValues(part->gate, gate.values, 256);
    ExpectValues(part->down, down.values, 144);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, Int4,
    ::testing::Values(Int4Case{128, true, false, "F16"}, Int4Case{64, false, false, "BF16"},
                      Int4Case{32, false, true, "F32"}, Int4Case{128, true, true, "BF16"},
                      Int4Case{256, true, false, "F16"}, Int4Case{16, false, false, "F16"}));

TEST(CheckpointInt4, PackingFormatDecidesTheZeros) {
  for (const auto& [packing, v2] :
       {std::pair("auto_round:auto_gptq", false), {"auto_round", true}, {"auto_round:gptqmodel", true}}) {
    Tensors tensors = SmallTensors();
    const Gptq gate = Gptq::Make(tensors, kGate, 144, 256, 128, false, v2, "F16");
    const Folder folder;
    const auto checkpoint = OpenOk(
        folder, WithQuantisation({{"quant_method", "auto-round"}, {"bits", 4}, {"packing_format", packing}}),
        tensors);
    ExpectValues(checkpoint->ReadExpert("layers.1.mlp", 2)->gate, gate.values, 256);
  }
}

TEST(CheckpointInt4, GroupIndexMonotoneIsDroppedShuffledIsDequantised) {
  std::vector<int32_t> monotone(256), shuffled(256);
  for (int32_t k = 0; k < 256; ++k) {
    monotone[static_cast<size_t>(k)] = k / 64;
    shuffled[static_cast<size_t>(k)] = k * 7 % 256 / 64;
  }
  Tensors tensors = SmallTensors();
  const Gptq gate = Gptq::Make(tensors, kGate, 144, 256, 64, false, false, "F16", monotone);
  const Gptq query = Gptq::Make(tensors, kQuery, 64, 256, 64, false, false, "BF16", shuffled);
  const Folder folder;
  const auto checkpoint = OpenOk(folder, SmallConfig(), tensors);
  ASSERT_NE(checkpoint, nullptr);
  EXPECT_EQ(checkpoint->DescribeExpert("layers.1.mlp", 2, "gate_proj")->format, WeightFormat::kInt4);
  EXPECT_EQ(checkpoint->DescribeLinear("layers.1.self_attn.q_proj")->format, WeightFormat::kF32);
  ExpectValues(checkpoint->ReadExpert("layers.1.mlp", 2)->gate, gate.values, 256);
  ExpectValues(*checkpoint->ReadLinear("layers.1.self_attn.q_proj"), query.values, 256);
  ExpectValues(*checkpoint->ReadLinear("layers.1.self_attn.q_proj", {8, 40}, {128, 256}), query.values, 256);
  ASSERT_EQ(checkpoint->warnings().size(), 1u);
  EXPECT_NE(checkpoint->warnings()[0].find("q_proj.g_idx"), std::string::npos);
}

TEST(CheckpointInt4, ContradictionsAreNamed) {
  Tensors tensors = SmallTensors();
  Gptq::Make(tensors, kGate, 144, 256, 128, true, false, "F16");
  EXPECT_NE(OpenError(WithQuantisation({{"quant_method", "gptq"}, {"bits", 8}}), tensors)
                .find("quantization_config.bits"),
            std::string::npos);
  EXPECT_NE(OpenError(WithQuantisation({{"quant_method", "awq"}, {"bits", 4}}), tensors).find("AWQ"),
            std::string::npos);
  for (const char* part : {".scales", ".qzeros", ".qweight"}) {
    Tensors less = tensors;
    less.erase(std::string(kGate) + part);
    EXPECT_NE(OpenError(SmallConfig(), less).find(std::string(kGate) + part), std::string::npos) << part;
  }
  Tensors narrow = tensors;
  narrow[std::string(kGate) + ".qweight"] = {"I32", {16, 144}, std::string(16 * 144 * 4, '\0')};
  EXPECT_NE(OpenError(SmallConfig(), narrow).find(std::string(kGate) + ".qweight"), std::string::npos);
  Tensors both = tensors;
  both[std::string(kGate) + ".weight"] = testing::Bf16({144, 256}, 1);
  EXPECT_NE(OpenError(SmallConfig(), both).find("two forms"), std::string::npos);
  Tensors odd = SmallTensors();
  Gptq::Make(odd, kGate, 144, 256, 96, true, false, "F16");
  EXPECT_NE(OpenError(WithQuantisation({{"group_size", 96}}), odd).find("group"), std::string::npos);
}

TEST(CheckpointFp8, BlocksAndRaggedEdges) {
  // 144 x 256: the second block row has 16 rows.
  std::vector<uint8_t> codes(144 * 256);
  for (size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<uint8_t>(i * 37 + i / 256);
    if ((codes[i] & 127) == 127) codes[i] = 0x7e;
  }
  const std::vector<float> scales = {0.5f, 0.25f, 3.0f, 0.001953125f};
  Tensors tensors = SmallTensors();
  tensors[std::string(kGate) + ".weight"] = {"F8_E4M3", {144, 256}, Bytes(codes)};
  tensors[std::string(kGate) + ".weight_scale_inv"] = {"F32", {2, 2}, Bytes(scales)};
  std::vector<double> values;
  for (int n = 0; n < 144; ++n) {
    for (int k = 0; k < 256; ++k)
      values.push_back(E4m3(codes[static_cast<size_t>(n * 256 + k)]) *
                       scales[static_cast<size_t>(n / 128 * 2 + k / 128)]);
  }
  const Folder folder;
  const auto checkpoint = OpenOk(folder, SmallConfig(), tensors);
  ASSERT_NE(checkpoint, nullptr);
  ExpectValues(checkpoint->ReadExpert("layers.1.mlp", 2)->gate, values, 256);
  const auto part = checkpoint->ReadExpert("layers.1.mlp", 2, {128, 144});
  EXPECT_EQ(part->gate.scales, (std::vector<float>{3.0f, 0.001953125f}));
  ExpectValues(part->gate, values, 256);

  Tensors nan = tensors;
  nan[std::string(kGate) + ".weight"].bytes[300] = '\x7f';
  const Folder bad;
  const auto opened = OpenOk(bad, SmallConfig(), nan);
  const auto read = opened->ReadExpert("layers.1.mlp", 2);
  ASSERT_FALSE(read.ok());
  EXPECT_NE(read.status().message().find("gate_proj.weight"), absl::string_view::npos);
  EXPECT_NE(read.status().message().find("[1, 44]"), absl::string_view::npos);
  tensors.erase(std::string(kGate) + ".weight_scale_inv");
  EXPECT_NE(OpenError(SmallConfig(), tensors).find("gate_proj.weight_scale_inv"), std::string::npos);
}

TEST(CheckpointFloat, EveryHalfIsExact) {
  Tensors tensors = SmallTensors();
  std::vector<uint16_t> bits(24 * 256);
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = static_cast<uint16_t>(i * 11);
    if ((bits[i] >> 10 & 31) == 31) bits[i] = 1;
  }
  tensors["lm_head.weight"] = {"F16", {24, 256}, Bytes(bits)};
  tensors["model.norm.weight"] = {"F16", {256}, Bytes(bits).substr(0, 512)};
  const Folder folder;
  const auto checkpoint = OpenOk(folder, SmallConfig(), tensors);
  const auto norm = checkpoint->ReadVector("norm.weight");
  ASSERT_TRUE(norm.ok());
  for (size_t i = 0; i < 256; ++i) EXPECT_EQ(double{(*norm)[i]}, Half(bits[i])) << bits[i];
  const auto rows = checkpoint->ReadLinear("lm_head", {5, 9});
  EXPECT_EQ(rows->data, std::vector<uint8_t>(reinterpret_cast<uint8_t*>(bits.data()) + 5 * 512,
                                             reinterpret_cast<uint8_t*>(bits.data()) + 9 * 512));
}

TEST(CheckpointFused, SameAsPerExpert) {
  const Tensors apart = SmallTensors();
  Tensors fused = apart;
  for (const std::string p :
       {"model.layers.0.mlp.experts.", "model.layers.1.mlp.experts.", "mtp.layers.0.mlp.experts."}) {
    RawTensor gate_up{"BF16", {4, 288, 256}, ""}, down{"BF16", {4, 256, 144}, ""};
    for (int e = 0; e < 4; ++e) {
      const std::string q = p + std::to_string(e) + ".";
      gate_up.bytes += apart.at(q + "gate_proj.weight").bytes + apart.at(q + "up_proj.weight").bytes;
      down.bytes += apart.at(q + "down_proj.weight").bytes;
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) fused.erase(q + part + ".weight");
    }
    fused[p + "gate_up_proj"] = gate_up;
    fused[p + "down_proj"] = down;
  }
  const Folder one, two;
  const auto a = OpenOk(one, SmallConfig(), apart);
  const auto b = OpenOk(two, SmallConfig(), fused);
  EXPECT_NE(a->digest(), b->digest());
  EXPECT_EQ(PlacementShape(*a), PlacementShape(*b));
  const LayerShape shape = PlacementShape(*a)[1];
  EXPECT_EQ(shape.experts, 4);
  EXPECT_EQ(shape.groups, 2);
  EXPECT_EQ(shape.leaf_bytes, 3 * 128 * 256 * 2);
  for (const std::string mlp : {"layers.0.mlp", "layers.1.mlp", "mtp.layers.0.mlp"}) {
    for (int e = 0; e < 4; ++e) {
      for (const Span64 span : {Span64{}, Span64{0, 128}, Span64{128, 144}}) {
        const auto x = a->ReadExpert(mlp, e, span);
        const auto y = b->ReadExpert(mlp, e, span);
        ASSERT_TRUE(x.ok() && y.ok());
        EXPECT_EQ(x->gate.data, y->gate.data);
        EXPECT_EQ(x->up.data, y->up.data);
        EXPECT_EQ(x->down.data, y->down.data);
        EXPECT_NE(x->gate.data, x->up.data);
      }
    }
  }
}

TEST(CheckpointCensus, PrefixesTiesBiasesAndIgnoredTensors) {
  for (const std::string prefix : {"model.", "model.language_model.", "language_model.model."}) {
    Tensors tensors = SmallTensors(prefix);
    tensors["model.visual.pos_embed.weight"] = testing::Bf16({3, 5}, 1);
    tensors[prefix + "layers.1.self_attn.rotary_emb.inv_freq"] = testing::F32({8}, 1);
    const Folder folder;
    const auto checkpoint = OpenOk(folder, SmallConfig(), tensors);
    EXPECT_EQ(checkpoint->config().mtp_layers, 1);
    EXPECT_FALSE(checkpoint->Has("layers.1.self_attn.q_proj.bias"));
  }
  nlohmann::json tied = SmallConfig();
  tied["tie_word_embeddings"] = true;
  const Folder folder;
  const auto checkpoint = OpenOk(folder, tied, SmallTensors());
  EXPECT_EQ(checkpoint->ReadLinear("lm_head")->data, checkpoint->ReadLinear("embed_tokens")->data);
  Tensors biased = SmallTensors();
  biased[std::string(kQuery) + ".bias"] = testing::Bf16({64}, 3);
  EXPECT_NE(OpenError(SmallConfig(), biased).find("q_proj.bias"), std::string::npos);
  nlohmann::json bias = SmallConfig();
  bias["attention_bias"] = true;
  EXPECT_NE(OpenError(bias, biased).find("k_proj.bias"), std::string::npos);
}

TEST(CheckpointCensus, MtpAbsentPartialAndMisshaped) {
  Tensors none = SmallTensors();
  std::erase_if(none, [](const auto& item) { return item.first.starts_with("mtp."); });
  const Folder a;
  const auto without = OpenOk(a, SmallConfig(), none);
  EXPECT_EQ(without->config().mtp_layers, 0);
  EXPECT_EQ(without->missing_mtp(), "");
  EXPECT_EQ(without->warnings().size(), 1u);
  for (const std::string gone : {"mtp.norm.weight", "mtp.layers.0.mlp.experts.3.up_proj.weight",
                                 "mtp.layers.0.self_attn.k_proj.weight"}) {
    Tensors some = SmallTensors();
    some.erase(gone);
    const Folder b;
    const auto partial = OpenOk(b, SmallConfig(), some);
    ASSERT_NE(partial, nullptr);
    EXPECT_EQ(partial->missing_mtp(), gone);
    EXPECT_EQ(partial->config().mtp_layers, 0);
  }
  Tensors wrong = SmallTensors();
  wrong["mtp.fc.weight"] = testing::Bf16({256, 256}, 1);
  EXPECT_NE(OpenError(SmallConfig(), wrong).find("mtp.fc.weight"), std::string::npos);
}

TEST(CheckpointCensus, EveryTensorIsNeededAndChecked) {
  const Tensors all = SmallTensors();
  for (const auto& [name, tensor] : all) {
    if (name.starts_with("mtp.")) continue;
    Tensors less = all;
    less.erase(name);
    EXPECT_NE(OpenError(SmallConfig(), less).find(name), std::string::npos) << name;
    Tensors longer = all;
    longer[name].shape[0] += 1;
    longer[name].bytes.append(tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]), '\0');
    const std::string message = OpenError(SmallConfig(), longer);
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
  }
}

TEST(Int8Head, RowsAreExactToTheRule) {
  PlainLinear head;
  head.outputs = 4;
  head.inputs = 3;
  const std::vector<float> w = {
      1.0f, -2.0f, 0.5f, 0, 0, 0, 1e-44f, -1e-45f, 0, 2.0f, std::numeric_limits<float>::quiet_NaN(), 1.0f};
  head.data.resize(w.size() * 4);
  std::memcpy(head.data.data(), w.data(), head.data.size());
  const PlainLinear q = QuantiseRowsInt8(head);
  EXPECT_EQ(q.scales[0], 2.0f / 127.0f);
  EXPECT_EQ(static_cast<int8_t>(q.data[0]), 64);  // 63.5 to even
  EXPECT_EQ(static_cast<int8_t>(q.data[1]), -127);
  EXPECT_EQ(static_cast<int8_t>(q.data[2]), 32);  // 31.75
  EXPECT_EQ(q.scales[1], 0.0f);
  EXPECT_EQ(q.data[3], 0);
  EXPECT_EQ(q.scales[2], 0.0f);
  EXPECT_TRUE(std::isnan(q.scales[3]));
  EXPECT_EQ(q.group, 3);
}

}  // namespace
}  // namespace paceline
