// Checkpoints written by tests: a small model of every tensor a family needs, whose parts a test replaces or
// breaks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace paceline::testing {

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using Tensors = std::map<std::string, RawTensor>;

// Little-endian bytes of any trivially copyable values.
template <class T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Deterministic values in [-1, 1) with few bits, so that every float format holds them exactly.
std::vector<float> Values(int64_t count, uint32_t seed);
RawTensor F32(std::vector<int64_t> shape, uint32_t seed);
RawTensor Bf16(std::vector<int64_t> shape, uint32_t seed);

// A qwen3_5_moe of two layers (DeltaNet, attention), hidden 256, four experts of 144 columns: configuration
// and tensors.
nlohmann::json SmallConfig();
Tensors SmallTensors(const std::string& prefix = "model.");

// A folder under the test's temporary directory, removed at the end of the test.
class Folder {
 public:
  Folder();
  ~Folder();
  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const;
  void WriteModel(const nlohmann::json& config, const Tensors& tensors) const;

 private:
  std::string path_;
};

// A well-formed safetensors file.
std::string Safetensors(const Tensors& tensors);
// The tensors of a well-formed one.
Tensors ReadTensors(const std::string& path);
// A file with this header, whatever it says.
std::string WithHeader(const std::string& header, const std::string& data);

}  // namespace paceline::testing
