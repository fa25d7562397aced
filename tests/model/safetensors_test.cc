// Headers that lie, files that end early, bytes that were flipped: always one error, never a crash.
#include "model/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include "model/checkpoint.h"
#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

using testing::Folder;
using testing::SmallConfig;
using testing::SmallTensors;

std::string ParseError(const std::string& header, int64_t data_bytes = 64) {
  const auto parsed = ParseSafetensorsHeader(header, data_bytes, "f.safetensors");
  if (parsed.ok()) return "parsed";
  const std::string message(parsed.status().message());
  EXPECT_EQ(message.find("LOAD-003: f.safetensors: "), 0u) << message;
  return message;
}

TEST(SafetensorsHeader, ReadsEntries) {
  const auto parsed = ParseSafetensorsHeader(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"shape":[0,7],"data_offsets":[5,5],"dtype":"U8"}}   )",
      16, "f");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), 3u);
  EXPECT_EQ(TypeText((*parsed)[0]), "BF16 [2, 3]");
  EXPECT_EQ((*parsed)[0].begin, 4);
  EXPECT_EQ((*parsed)[1].bytes(), 4);
}

TEST(SafetensorsHeader, RefusesByName) {
  const struct {
    const char* header;
    std::vector<const char*> contains;
  } cases[] = {
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       {"t [0, 8)", "u [4, 12)"}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       {"t ", "twice"}},
      {R"({"t":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", {"t ", "shape twice"}},
      {R"({"t":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}})", {"t ", "F4"}},
      {R"({"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", {"t ", "negative"}},
      {R"({"t":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", {"t ", "64 bits"}},
      {R"({"t":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,8]}})", {"t "}},
      {R"({"t":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})",
       {"t ", "18446744073709551615"}},
      {R"({"t":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", {"t ", "2.0"}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", {"t ", "data_offsets"}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[60,68]}})", {"t ", "64 bytes"}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", {"t "}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}})", {"t ", "3 data_offsets"}},
      {R"({"t":{"dtype":"F32","shape":[2]}})", {"t ", "lacks"}},
      {R"({"t":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", {"t "}},
      {R"({"t":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}})", {"t "}},
      {R"({"t":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", {"t ", "shape"}},
      {R"({"t":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", {"t "}},
      {R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":1}})", {"t ", "extra"}},
      {R"({"t":[1]})", {"t"}},
      {R"([1,2])", {"header"}},
      {"", {"JSON"}},
      {"{\"a\xff\":1}", {"JSON"}},
  };
  for (const auto& c : cases) {
    const std::string message = ParseError(c.header);
    for (const char* text : c.contains)
      EXPECT_NE(message.find(text), std::string::npos) << c.header << "\n" << message;
  }
  EXPECT_NE(ParseError(std::string(200000, '[')).find("nested"), std::string::npos);
}

TEST(SafetensorsFile, EveryTruncationIsAnError) {
  const Folder folder;
  testing::Tensors tensors = {{"a", testing::F32({3}, 1)}, {"b", testing::Bf16({2, 2}, 2)}};
  const std::string whole = testing::Safetensors(tensors);
  for (size_t bytes = 0; bytes < whole.size(); bytes += 8) {
    folder.Write("t.safetensors", whole.substr(0, bytes));
    const auto opened = SafetensorsFile::Open(folder.path() + "/t.safetensors");
    ASSERT_FALSE(opened.ok()) << bytes;
    EXPECT_NE(opened.status().message().find("t.safetensors"), absl::string_view::npos);
  }
  folder.Write("t.safetensors", whole);
  const auto opened = SafetensorsFile::Open(folder.path() + "/t.safetensors");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const TensorEntry& b = (*opened)->entries()[1];
  std::string bytes(8, '\0');
  ASSERT_TRUE((*opened)->Read(b, 0, 8, bytes.data()).ok());
  EXPECT_EQ(bytes, tensors["b"].bytes);
  // The file shrinks after it was opened.
  folder.Write("t.safetensors", whole.substr(0, whole.size() - 2));
  const absl::Status shrunk = (*opened)->Read(b, 0, 8, bytes.data());
  EXPECT_EQ(shrunk.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(shrunk.message().find("t.safetensors: b"), absl::string_view::npos) << shrunk;
}

TEST(SafetensorsFile, FlippedHeaderBytesNeverCrash) {
  const Folder folder;
  folder.WriteModel(SmallConfig(), SmallTensors());
  const std::string path = folder.path() + "/model.safetensors";
  const std::string whole = testing::Safetensors(SmallTensors());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, whole.data(), 8);
  uint32_t state = 5;
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string broken = whole;
    for (int flips = 0; flips <= round % 3; ++flips) {
      state = state * 1664525u + 1013904223u;
      broken[state % (header_bytes + 8)] ^= static_cast<char>(1 << (state >> 29));
    }
    folder.Write("model.safetensors", broken);
    refused += !Checkpoint::Open(folder.path()).ok();
  }
  EXPECT_GT(refused, 250);
}

TEST(SafetensorsFile, VisualTensorsPassTheSameChecks) {
  const Folder folder;
  folder.Write("config.json", SmallConfig().dump());
  folder.Write("model.safetensors", testing::Safetensors(SmallTensors()));
  folder.Write("extra.safetensors",
               testing::WithHeader(R"({"model.visual.x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
                                   "12345678"));
  const auto opened = Checkpoint::Open(folder.path());
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.status().message().find("model.visual.x"), absl::string_view::npos);
}

TEST(SafetensorsFile, PipesAndFoldersAreRefused) {
  const Folder folder;
  const std::string path = folder.path() + "/p.safetensors";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_FALSE(SafetensorsFile::Open(path).ok());
  EXPECT_FALSE(SafetensorsFile::Open(folder.path()).ok());
}

TEST(SafetensorsFile, TheIndexOnlyAddsRequirements) {
  const Folder folder;
  folder.WriteModel(SmallConfig(), SmallTensors());
  const auto message = [&](const std::string& index) {
    folder.Write("model.safetensors.index.json", index);
    const auto opened = Checkpoint::Open(folder.path());
    return opened.ok() ? std::string("opened") : std::string(opened.status().message());
  };
  EXPECT_EQ(message(R"({"weight_map":{"lm_head.weight":"model.safetensors"}})"), "opened");
  EXPECT_NE(message(R"({"weight_map":{"other.weight":"model.safetensors"}})").find("other.weight"),
            std::string::npos);
  EXPECT_NE(message(R"({"weight_map":{"lm_head.weight":"../x.safetensors"}})").find("../x.safetensors"),
            std::string::npos);
  EXPECT_NE(message(R"({"weight_map":[]})").find("weight_map"), std::string::npos);
  EXPECT_NE(message("{").find("index.json"), std::string::npos);
}

}  // namespace
}  // namespace paceline
