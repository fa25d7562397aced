// Synthetic checkpoints: their tensors are those of the real model, and their numbers are sane and
// repeatable. Weights of gigabytes are left as holes of a sparse file; only the generator's pieces are looked
// at.
#include "model/synth.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "model/checkpoint.h"
#include "model/float_bits.h"
#include "model/placement_shape.h"
#include "model/synth_plan.h"
#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

using synth::Fill;
using synth::FillTensor;
using synth::PlannedTensor;
using testing::Folder;

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSparse(const Folder& folder, const SynthOptions& options) {
  const synth::ModelShape& shape = *synth::FindShape(options.like);
  nlohmann::json header;
  int64_t offset = 0;
  for (const PlannedTensor& tensor : synth::PlanTensors(shape, options)) {
    header[tensor.name] = {{"dtype", DtypeName(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  folder.Write("config.json", synth::MakeConfig(shape, options).dump());
  folder.Write("generation_config.json", synth::MakeGenerationConfig().dump());
  const std::string front = testing::WithHeader(header.dump(), "");
  folder.Write("model.safetensors", front);
  std::filesystem::resize_file(folder.path() + "/model.safetensors",
                               front.size() + static_cast<uintmax_t>(offset));
  return Checkpoint::Open(folder.path());
}

TEST(Synth, EveryModelAndFormatOpens) {
  for (const char* like : {"Qwen3.5-122B-A10B", "Qwen3.5-35B-A3B", "Qwen3.5-397B-A17B"}) {
    for (const char* format : {"hybrid", "int4", "bf16"}) {
      SCOPED_TRACE(std::string(like) + " " + format);
      const Folder folder;
      const auto opened = OpenSparse(
          folder, {.directory = folder.path(), .like = like, .layers = 5, .format = format, .mtp = true});
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_EQ((*opened)->config().layers.size(), 5u);
      EXPECT_EQ((*opened)->config().mtp_layers, 1);
      EXPECT_TRUE((*opened)->warnings().empty());
      EXPECT_EQ((*opened)->config().eos_tokens, (std::vector<int32_t>{synth::kEndOfTurn, synth::kEndOfText}));
    }
  }
}

TEST(Synth, TheWholeInt4FlagshipHasThePublishedTensors) {
  const SynthOptions options{.directory = "", .like = "Qwen3.5-122B-A10B", .format = "int4", .mtp = true};
  const auto plan = synth::PlanTensors(*synth::FindShape(options.like), options);
  EXPECT_EQ(plan.size(), 112901u - 333u);  // the published count, without the vision tower
  const Folder folder;
  const auto opened = OpenSparse(folder, options);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const LayerShape shape = PlacementShape(**opened)[47];
  EXPECT_EQ(shape.experts, 256);
  EXPECT_EQ(shape.groups, 8);
  EXPECT_EQ(shape.leaf_bytes, 4902912 / 8);
  EXPECT_EQ((*opened)->DescribeLinear("layers.0.linear_attn.in_proj_a")->format,
            kernels::WeightFormat::kInt4);
  EXPECT_EQ((*opened)->DescribeLinear("layers.0.mlp.shared_expert.up_proj")->format,
            kernels::WeightFormat::kBF16);
}

// Elements, or bytes, of the tensors whose name contains any of `parts`.
int64_t Sum(const std::vector<PlannedTensor>& plan, const std::vector<std::string>& parts, bool bytes) {
  int64_t sum = 0;
  for (const PlannedTensor& tensor : plan) {
    if (std::none_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return tensor.name.find(part) != std::string::npos; })) {
      continue;
    }
    int64_t count = 1;
    for (const int64_t dim : tensor.shape) count *= dim;
    sum += bytes ? tensor.bytes() : count;
  }
  return sum;
}
const std::vector<std::string> kText = {"model.language_model.", "lm_head"};
const std::vector<std::string> kAttention = {"q_proj", "k_proj", "v_proj", "o_proj"};
const std::vector<std::string> kDeltaNet = {"in_proj_qkv", "in_proj_z", "linear_attn.out_proj"};

// The published parameter counts of the three models.
TEST(Synth, EveryModelHasThePublishedParameters) {
  struct Counts {
    const char* like;
    int64_t experts, delta_net, gates, small, attention, shared, shared_gates, routers, norms, embedding, mtp;
  };
  for (const Counts& want :
       {Counts{"Qwen3.5-35B-A3B", 32'212'254'720, 1'006'632'960, 3'932'160, 988'800, 272'629'760, 125'829'120,
               81'920, 20'971'520, 171'008, 508'559'360, 845'000'000},
        Counts{"Qwen3.5-122B-A10B", 115'964'116'992, 3'170'893'824, 14'155'776, 1'778'688, 943'718'400,
               452'984'832, 147'456, 37'748'736, 304'128, 762'839'040, 2'524'000'000},
        Counts{"Qwen3.5-397B-A17B", 386'547'056'640, 5'284'823'040, 23'592'960, 2'223'360, 1'572'864'000,
               754'974'720, 245'760, 125'829'120, 503'296, 1'017'118'720, 6'596'000'000}}) {
    SCOPED_TRACE(want.like);
    const auto plan = synth::PlanTensors(*synth::FindShape(want.like),
                                         {.directory = "", .like = want.like, .format = "bf16"});
    const auto sum = [&](const std::vector<std::string>& parts) { return Sum(plan, parts, false); };
    EXPECT_EQ(sum({"mlp.experts."}), want.experts);
    EXPECT_EQ(sum(kDeltaNet), want.delta_net);
    EXPECT_EQ(sum({"in_proj_a", "in_proj_b"}), want.gates);
    EXPECT_EQ(sum({"conv1d", "A_log", "dt_bias", "linear_attn.norm"}), want.small);
    EXPECT_EQ(sum(kAttention), want.attention);
    EXPECT_EQ(sum({"shared_expert."}), want.shared);
    EXPECT_EQ(sum({"shared_expert_gate"}), want.shared_gates);
    EXPECT_EQ(sum({"mlp.gate."}), want.routers);
    EXPECT_EQ(sum({"layernorm", "language_model.norm", "q_norm", "k_norm"}), want.norms);
    EXPECT_EQ(sum({"embed_tokens"}), want.embedding);
    EXPECT_EQ(sum({"lm_head"}), want.embedding);
    EXPECT_EQ(sum(kText), want.experts + want.delta_net + want.gates + want.small + want.attention +
                              want.shared + want.shared_gates + want.routers + want.norms +
                              2 * want.embedding);
    EXPECT_EQ(sum({"mtp."}), 0);
    const auto with_mtp = synth::PlanTensors(
        *synth::FindShape(want.like), {.directory = "", .like = want.like, .format = "bf16", .mtp = true});
    EXPECT_NEAR(static_cast<double>(Sum(with_mtp, {"mtp."}, false)), static_cast<double>(want.mtp), 1e6);
  }
}

// Gigabytes of the 122B, by part and format.
TEST(Synth, TheFormatsOfTheFlagshipHaveTheirSizes) {
  const auto gigabytes = [](const char* format, const std::vector<std::string>& parts) {
    const SynthOptions options{.directory = "", .like = "Qwen3.5-122B-A10B", .format = format, .mtp = true};
    return static_cast<double>(
               Sum(synth::PlanTensors(*synth::FindShape(options.like), options), parts, true)) /
           1e9;
  };
  const std::vector<std::string> mixers = {"linear_attn.", "self_attn."};
  const std::vector<std::string> experts = {"language_model.layers.0.mlp.experts."};
  // What the published INT4 checkpoint is made of, without its vision tower.
  EXPECT_NEAR(48 * gigabytes("int4", experts), 60.25, 0.01);
  EXPECT_NEAR(gigabytes("int4", {"shared_expert."}), 0.91 + 0.019, 0.01);  // the MTP layer's among them
  EXPECT_NEAR(gigabytes("int4", {"mlp.gate.weight"}), 0.08, 0.01);
  EXPECT_NEAR(gigabytes("int4", {"embed_tokens", "lm_head"}), 3.05, 0.01);
  EXPECT_NEAR(gigabytes("int4", {"mtp."}), 5.05, 0.01);
  EXPECT_NEAR(gigabytes("int4", {"."}), 72.4 - 0.9, 0.1);
  EXPECT_NEAR(gigabytes("hybrid", {"."}), 73.0, 0.5);
  EXPECT_NEAR(gigabytes("bf16", {"."}), 2 * (122.11 + 2.524), 0.1);
  // The hybrid keeps the experts, and gives every other projection one byte a weight.
  EXPECT_EQ(gigabytes("hybrid", experts), gigabytes("int4", experts));
  EXPECT_NEAR(gigabytes("hybrid", {"language_model.layers.0.linear_attn.in_proj_qkv",
                                   "language_model.layers.0.linear_attn.in_proj_z",
                                   "language_model.layers.0.linear_attn.out_proj"}),
              3'170'893'824 / 36e9, 1e-4);
  EXPECT_NEAR(gigabytes("hybrid", {"language_model.layers.0.mlp.shared_expert."}), 452'984'832 / 48e9, 1e-5);
  EXPECT_NEAR(gigabytes("hybrid", mixers) - gigabytes("hybrid", {"mtp.layers.0.self_attn."}), 4.15, 0.01);
  EXPECT_NEAR(gigabytes("int4", mixers) - gigabytes("int4", {"mtp.layers.0.self_attn."}), 2.15, 0.02);
}

TEST(Synth, PiecesEqualTheWholeAndSeedsDiffer) {
  for (const Fill fill : {Fill::kUniform, Fill::kWords, Fill::kE4m3, Fill::kZeros8}) {
    const PlannedTensor tensor{"t", Dtype::kBF16, {512}, fill, 0.5f, 1.0f};
    std::vector<uint8_t> whole(1024), pieces(1024), other(1024);
    FillTensor(tensor, 1, 0, 1024, whole.data());
    FillTensor(tensor, 1, 0, 200, pieces.data());
    FillTensor(tensor, 1, 200, 824, pieces.data() + 200);
    FillTensor(tensor, 2, 0, 1024, other.data());
    EXPECT_EQ(whole, pieces);
    EXPECT_EQ(whole == other, fill == Fill::kZeros8);
  }
}

TEST(Synth, ValuesHaveTheirSizes) {
  constexpr int64_t kCount = 1 << 16;
  std::vector<uint16_t> bits(kCount);
  FillTensor({"w", Dtype::kBF16, {kCount}, Fill::kUniform, 0, std::sqrt(3.0f)}, 1, 0, 2 * kCount,
             reinterpret_cast<uint8_t*>(bits.data()));
  double sum = 0, squares = 0;
  for (const uint16_t b : bits) {
    sum += Bf16ToFloat(b);
    squares += Bf16ToFloat(b) * Bf16ToFloat(b);
  }
  EXPECT_NEAR(sum / kCount, 0, 0.02);
  EXPECT_NEAR(squares / kCount, 1, 0.02);
  FillTensor({"s", Dtype::kF16, {kCount}, Fill::kUniform, 0.004f, 0.0008f}, 1, 0, 2 * kCount,
             reinterpret_cast<uint8_t*>(bits.data()));
  for (const uint16_t b : bits) {
    EXPECT_GE(HalfToFloat(b), 0.0031f);
    EXPECT_LE(HalfToFloat(b), 0.0049f);
  }
  std::vector<uint8_t> codes(kCount);
  FillTensor({"f", Dtype::kF8E4M3, {kCount}, Fill::kE4m3, 0, 0}, 1, 0, kCount, codes.data());
  EXPECT_EQ(std::count_if(codes.begin(), codes.end(), IsE4m3Nan), 0);
}

TEST(Synth, TheTokenizerHasEveryByteOnce) {
  const nlohmann::json tokenizer = synth::MakeTokenizer();
  const nlohmann::json& vocab = tokenizer["model"]["vocab"];
  EXPECT_EQ(vocab.size(), 256u);
  EXPECT_EQ(vocab["A"], 65);
  EXPECT_EQ(vocab["\u0120"], 32);
  EXPECT_EQ(vocab["\u010a"], 10);
  EXPECT_EQ(vocab["\u0143"], 173);
  EXPECT_EQ(tokenizer["added_tokens"][0]["id"], synth::kEndOfText);
  EXPECT_EQ(tokenizer["added_tokens"][2]["content"], "<|im_end|>");
}

TEST(Synth, WrongOptionsAreNamed) {
  const auto message = [](SynthOptions options) { return std::string(WriteSynthetic(options).message()); };
  EXPECT_NE(message({.directory = "/x", .like = "Qwen9"}).find("CFG-002: --like Qwen9"), std::string::npos);
  EXPECT_NE(message({.directory = "/x", .like = "Qwen3.5-35B-A3B", .format = "q2"}).find("--format q2"),
            std::string::npos);
  EXPECT_NE(message({.directory = "/x", .like = "Qwen3.5-35B-A3B", .layers = 41}).find("--layers 41"),
            std::string::npos);
  EXPECT_NE(
      message({.directory = "/proc/nowhere/x", .like = "Qwen3.5-35B-A3B", .layers = 1}).find("/proc/nowhere"),
      std::string::npos);
}

}  // namespace
}  // namespace paceline
