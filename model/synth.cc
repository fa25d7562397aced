// Filling and writing: shards of at most 5 GB, streamed in buffers of 8 MiB; config.json comes last and marks
// the end.
#include "model/synth.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/float_bits.h"
#include "model/synth_plan.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace synth {
namespace {

// One multiplication-xor mixer per element (the finaliser of MurmurHash3): vectorises, and any position can
// be computed alone.
inline uint32_t Mix(uint32_t index, uint32_t key) {
  uint32_t x = (index ^ key) * 0x9E3779B9u + key;
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ x >> 16;
}

uint32_t KeyOf(const std::string& name, uint64_t seed) {
  uint64_t key = seed * 0x9E3779B97F4A7C15ull + 0x1234567;
  for (const char c : name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return static_cast<uint32_t>(key ^ key >> 32);
}

// Nearest even, for positive normal binary16 numbers: scales of INT4 groups are nothing else.
uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) - (112u << 23);
  return static_cast<uint16_t>((bits + 0xfffu + (bits >> 13 & 1u)) >> 13);
}

template <class T, class Make>
void FillEach(int64_t first, int64_t count, uint32_t key, uint8_t* out, Make make) {
  const auto begin = static_cast<uint32_t>(first / static_cast<int64_t>(sizeof(T)));
  const auto n = static_cast<uint32_t>(count / static_cast<int64_t>(sizeof(T)));
  T* const to = reinterpret_cast<T*>(out);
  for (uint32_t i = 0; i < n; ++i) to[i] = make(Mix(begin + i, key));
}

}  // namespace

void FillTensor(const PlannedTensor& tensor, uint64_t seed, int64_t first, int64_t count, uint8_t* out) {
  const uint32_t key = KeyOf(tensor.name, seed);
  const float centre = tensor.centre;
  const float step = tensor.amplitude * 0x1p-31f;
  const auto value = [=](uint32_t bits) {
    return centre + static_cast<float>(static_cast<int32_t>(bits)) * step;
  };
  switch (tensor.fill) {
    case Fill::kZeros8:
      std::memset(out, 0x77, static_cast<size_t>(count));
      return;
    case Fill::kWords:
      FillEach<uint32_t>(first, count, key, out, [](uint32_t bits) { return bits; });
      return;
    case Fill::kE4m3:
      FillEach<uint32_t>(first, count, key, out, [](uint32_t bits) { return bits & 0xBFBFBFBFu; });
      return;
    case Fill::kUniform:
      break;
  }
  switch (tensor.dtype) {
    case Dtype::kF32:
      FillEach<float>(first, count, key, out, value);
      return;
    case Dtype::kF16:
      FillEach<uint16_t>(first, count, key, out, [&](uint32_t bits) { return FloatToHalf(value(bits)); });
      return;
    default:
      FillEach<uint16_t>(first, count, key, out, [&](uint32_t bits) { return FloatToBf16(value(bits)); });
  }
}

}  // namespace synth

namespace {

using synth::PlannedTensor;

constexpr int64_t kShardBytes = 5'000'000'000;
constexpr int64_t kBufferBytes = int64_t{8} << 20;

struct Shard {
  std::string file;
  std::string header;  // with its length in front
  std::vector<const PlannedTensor*> tensors;
  int64_t data_bytes = 0;
  int64_t bytes() const { return static_cast<int64_t>(header.size()) + data_bytes; }
};

std::string Header(const std::vector<const PlannedTensor*>& tensors) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  int64_t offset = 0;
  for (const PlannedTensor* tensor : tensors) {
    CHECK_EQ(tensor->bytes() % 8, 0);  // buffers are filled as 32-bit words
    absl::StrAppend(&text, ",\"", tensor->name, "\":{\"dtype\":\"", DtypeName(tensor->dtype),
                    "\",\"shape\":", ShapeText(tensor->shape), ",\"data_offsets\":[", offset, ",",
                    offset + tensor->bytes(), "]}");
    offset += tensor->bytes();
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text;
}

std::vector<Shard> MakeShards(const std::vector<PlannedTensor>& tensors) {
  std::vector<Shard> shards;
  for (const PlannedTensor& tensor : tensors) {
    if (shards.empty() || shards.back().data_bytes + tensor.bytes() > kShardBytes) shards.emplace_back();
    shards.back().tensors.push_back(&tensor);
    shards.back().data_bytes += tensor.bytes();
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    shards[i].header = Header(shards[i].tensors);
  }
  return shards;
}

absl::Status CannotWrite(const std::string& path, const std::string& why) {
  return Error(errors::kModelFile, absl::StrCat(path, ": cannot be written: ", why));
}

// Writes a whole file through one descriptor.
class Writer {
 public:
  explicit Writer(std::string path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)) {}
  ~Writer() {
    if (fd_ >= 0) ::close(fd_);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  absl::Status Write(const void* data, int64_t bytes) {
    const auto* from = static_cast<const char*>(data);
    if (fd_ < 0) return CannotWrite(path_, std::strerror(errno));
    while (bytes > 0) {
      const ssize_t wrote = ::write(fd_, from, static_cast<size_t>(bytes));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return CannotWrite(path_, std::strerror(errno));
      from += wrote;
      bytes -= wrote;
    }
    return absl::OkStatus();
  }
  absl::Status Close() {
    const int fd = std::exchange(fd_, -1);
    return fd >= 0 && ::close(fd) == 0 ? absl::OkStatus() : CannotWrite(path_, std::strerror(errno));
  }

 private:
  std::string path_;
  int fd_;
};

absl::Status WriteText(const std::string& path, const std::string& text) {
  Writer writer(path);
  RETURN_IF_ERROR(writer.Write(text.data(), static_cast<int64_t>(text.size())));
  return writer.Close();
}

// config.json is written last, so a folder with the right one and shards of the right size is whole.
bool AlreadyThere(const std::string& directory, const std::string& config, const std::vector<Shard>& shards) {
  std::ifstream in(directory + "/config.json", std::ios::binary);
  const std::string there((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (there != config) return false;
  return std::all_of(shards.begin(), shards.end(), [&](const Shard& shard) {
    std::error_code failure;
    const auto size = std::filesystem::file_size(directory + "/" + shard.file, failure);
    return !failure && size == static_cast<uintmax_t>(shard.bytes());
  });
}

// Files of another checkpoint in the same folder would be scanned with this one.
absl::Status Prepare(const std::string& directory, int64_t bytes) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) return CannotWrite(directory, failure.message());
  for (std::filesystem::directory_iterator it(directory, failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string name = it->path().filename().string();
    const bool ours = name.rfind("model-", 0) == 0 && it->path().extension() == ".safetensors";
    if (it->path().extension() == ".safetensors" && !ours) {
      return Error(errors::kOption,
                   absl::StrCat(directory, " holds ", name,
                                ", which is not a synthetic checkpoint's; give an empty folder"));
    }
    if (ours || name == "config.json") std::filesystem::remove(it->path(), failure);
  }
  if (failure) return CannotWrite(directory, failure.message());
  struct statvfs disk{};
  if (::statvfs(directory.c_str(), &disk) == 0) {
    const auto free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
    if (free < bytes)
      return CannotWrite(directory, absl::StrCat(bytes, " bytes are needed, ", free, " are free"));
  }
  return absl::OkStatus();
}

absl::Status WriteShard(const SynthOptions& options, const Shard& shard, int64_t total, int64_t& done) {
  Writer writer(absl::StrCat(options.directory, "/", shard.file));
  RETURN_IF_ERROR(writer.Write(shard.header.data(), static_cast<int64_t>(shard.header.size())));
  // Small tensors share a buffer, so that every write is large.
  std::vector<uint8_t> buffer(static_cast<size_t>(kBufferBytes));
  int64_t used = 0;
  const auto flush = [&]() -> absl::Status {
    RETURN_IF_ERROR(writer.Write(buffer.data(), used));
    done += used;
    used = 0;
    if (options.progress) options.progress(done, total);
    return absl::OkStatus();
  };
  for (const PlannedTensor* tensor : shard.tensors) {
    for (int64_t at = 0; at < tensor->bytes();) {
      const int64_t count = std::min(tensor->bytes() - at, kBufferBytes - used);
      synth::FillTensor(*tensor, options.seed, at, count, buffer.data() + used);
      at += count;
      used += count;
      if (used == kBufferBytes) RETURN_IF_ERROR(flush());
    }
  }
  RETURN_IF_ERROR(flush());
  return writer.Close();
}

}  // namespace

absl::Status WriteSynthetic(const SynthOptions& options) {
  const synth::ModelShape* shape = synth::FindShape(options.like);
  if (shape == nullptr) {
    return Error(errors::kOption,
                 absl::StrCat("--like ", options.like, ": known models are ", synth::KnownShapes()));
  }
  return synth::WriteShape(*shape, options);
}

absl::Status synth::WriteShape(const ModelShape& shape, const SynthOptions& options) {
  if (options.format != "hybrid" && options.format != "int4" && options.format != "bf16") {
    return Error(errors::kOption,
                 absl::StrCat("--format ", options.format, ": expected hybrid, int4 or bf16"));
  }
  if (options.layers < 0 || options.layers > shape.layers) {
    return Error(errors::kOption, absl::StrCat("--layers ", options.layers, ": ", options.like, " has ",
                                               shape.layers, " layers"));
  }
  const std::vector<PlannedTensor> tensors = PlanTensors(shape, options);
  const std::vector<Shard> shards = MakeShards(tensors);
  const std::string config = MakeConfig(shape, options).dump(1) + "\n";
  int64_t total = 0;
  nlohmann::json weight_map = nlohmann::json::object();
  for (const Shard& shard : shards) {
    total += shard.data_bytes;
    for (const PlannedTensor* tensor : shard.tensors) weight_map[tensor->name] = shard.file;
  }
  if (AlreadyThere(options.directory, config, shards)) return absl::OkStatus();
  RETURN_IF_ERROR(Prepare(options.directory, total));
  int64_t done = 0;
  for (const Shard& shard : shards) RETURN_IF_ERROR(WriteShard(options, shard, total, done));
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  const std::string stem = options.directory + "/";
  RETURN_IF_ERROR(WriteText(stem + "model.safetensors.index.json", index.dump() + "\n"));
  RETURN_IF_ERROR(WriteText(stem + "tokenizer.json", synth::MakeTokenizer().dump(1) + "\n"));
  RETURN_IF_ERROR(WriteText(stem + "tokenizer_config.json", synth::MakeTokenizerConfig().dump(1) + "\n"));
  RETURN_IF_ERROR(WriteText(stem + "generation_config.json", synth::MakeGenerationConfig().dump(1) + "\n"));
  return WriteText(stem + "config.json", config);
}

}  // namespace paceline
