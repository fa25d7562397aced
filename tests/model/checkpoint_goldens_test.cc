// The golden folders: every broken one is refused with the names it asks for, every sound one opens and reads
// whole.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/placement_shape.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> Folders(const std::string& kind) {
  std::vector<fs::path> out;
  for (const std::string& root :
       {std::string(PACELINE_SOURCE_DIR "/tests/goldens"), std::string(PACELINE_GOLDENS)}) {
    if (root.empty() || !fs::exists(fs::path(root) / kind)) continue;
    for (const auto& entry : fs::directory_iterator(fs::path(root) / kind)) out.push_back(entry.path());
  }
  return out;
}

// What a loader would read: every linear layer and every expert.
absl::Status ReadEverything(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  std::vector<std::string> linears = {"embed_tokens", "lm_head"};
  std::vector<std::string> mlps;
  const auto add = [&](const std::string& p, std::initializer_list<const char*> names) {
    for (const char* name : names) linears.push_back(p + name);
  };
  const auto layer = [&](const std::string& p, const LayerConfig& kind) {
    if (kind.mixer == Mixer::kGatedDeltaNet) {
      add(p + "linear_attn.", {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"});
    } else {
      add(p + "self_attn.", {"q_proj", "k_proj", "v_proj", "o_proj"});
    }
    if (kind.feed_forward == FeedForward::kDense) {
      add(p + "mlp.", {"gate_proj", "up_proj", "down_proj"});
      return;
    }
    mlps.push_back(p + "mlp");
    add(p + "mlp.", {"gate"});
    if (config.shared_columns > 0) {
      add(p + "mlp.", {"shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj",
                       "shared_expert_gate"});
    }
  };
  for (size_t i = 0; i < config.layers.size(); ++i)
    layer("layers." + std::to_string(i) + ".", config.layers[i]);
  if (config.mtp_layers > 0) {
    add("mtp.", {"fc"});
    layer("mtp.layers.0.", {});
  }
  for (const std::string& name : linears) {
    if (const auto read = checkpoint.ReadLinear(name); !read.ok()) return read.status();
  }
  for (const std::string& mlp : mlps) {
    for (int32_t e = 0; e < config.experts; ++e) {
      if (const auto read = checkpoint.ReadExpert(mlp, e); !read.ok()) return read.status();
    }
  }
  return absl::OkStatus();
}

TEST(CheckpointGoldens, BrokenFoldersAreRefusedByName) {
  const std::vector<fs::path> folders = Folders("bad");
  ASSERT_GE(folders.size(), 27u);
  for (const fs::path& folder : folders) {
    SCOPED_TRACE(folder.string());
    const auto opened = Checkpoint::Open(folder.string());
    const absl::Status status = opened.ok() ? ReadEverything(**opened) : opened.status();
    ASSERT_FALSE(status.ok());
    const std::string message(status.message());
    EXPECT_EQ(message.substr(0, 5), "LOAD-") << message;
    const auto expect = nlohmann::json::parse(std::ifstream(folder / "expect.json"));
    for (const auto& text : expect["contains"])
      EXPECT_NE(message.find(text.get<std::string>()), std::string::npos) << message;
    bool any = !expect.contains("any_of");
    for (const auto& text : expect.value("any_of", nlohmann::json::array())) {
      any |= message.find(text.get<std::string>()) != std::string::npos;
    }
    EXPECT_TRUE(any) << message;
    RecordProperty(folder.filename().string(), message);
    if (std::getenv("PACELINE_SHOW") != nullptr) std::printf("%s\n", message.c_str());
  }
}

TEST(CheckpointGoldens, SoundFoldersOpenAndReadWhole) {
  const std::vector<fs::path> folders = Folders("cases");
  ASSERT_GE(folders.size(), 8u);
  for (const fs::path& folder : folders) {
    SCOPED_TRACE(folder.string());
    const auto opened = Checkpoint::Open(folder.string());
    ASSERT_TRUE(opened.ok()) << opened.status();
    const Checkpoint& checkpoint = **opened;
    EXPECT_TRUE(ReadEverything(checkpoint).ok()) << ReadEverything(checkpoint);
    EXPECT_EQ(checkpoint.digest().size(), 64u);
    EXPECT_EQ(checkpoint.missing_mtp(), "");
    const auto again = Checkpoint::Open(folder.string());
    EXPECT_EQ(checkpoint.digest(), (*again)->digest());
    const auto expect = nlohmann::json::parse(std::ifstream(folder / "case.json"));
    EXPECT_FALSE(checkpoint.config().eos_tokens.empty());
    const std::vector<LayerShape> shapes = PlacementShape(checkpoint);
    ASSERT_EQ(shapes.size(), checkpoint.config().layers.size());
  }
}

TEST(CheckpointGoldens, TheDemoModelIsInt4WithItsMtpLayer) {
  const auto opened = Checkpoint::Open(PACELINE_SOURCE_DIR "/deploy/demo-model");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(ReadEverything(**opened).ok()) << ReadEverything(**opened);
  EXPECT_TRUE((*opened)->warnings().empty());
  EXPECT_EQ((*opened)->config().mtp_layers, 1);
  EXPECT_EQ((*opened)->DescribeLinear("mtp.fc")->format, kernels::WeightFormat::kInt4);
  EXPECT_EQ((*opened)->DescribeLinear("lm_head")->format, kernels::WeightFormat::kBF16);
  EXPECT_TRUE((*opened)->ReadExpert("layers.7.mlp", 15)->down.zeros.empty());
}

}  // namespace
}  // namespace paceline
