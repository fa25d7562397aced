// Random checkpoints with a real model's shapes: what benches and smoke tests of large models run on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace paceline {

struct SynthOptions {
  std::string directory = "";     // made if absent
  std::string like = "";          // "Qwen3.5-122B-A10B", "Qwen3.5-35B-A3B", "Qwen3.5-397B-A17B"
  int32_t layers = 0;             // 0 = as many as the model has
  std::string format = "hybrid";  // "hybrid", "int4", "bf16" (docs/FORMATS.md, Synthetic checkpoints)
  bool mtp = false;
  uint64_t seed = 1;
  // Called now and then with bytes written so far and in all.
  std::function<void(int64_t done, int64_t total)> progress = nullptr;
};

// Writes the folder; the same options give the same bytes. A folder that already holds exactly this
// checkpoint is left as it is. CFG-002 (unknown model or format, layers out of range), LOAD-003 (the disk
// refuses or has too little room).
absl::Status WriteSynthetic(const SynthOptions& options);

}  // namespace paceline
