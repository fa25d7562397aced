// Every tensor that a configuration calls for, looked up among those that are there; and none left over.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "model/config.h"
#include "model/linear_source.h"
#include "model/quantisation.h"
#include "model/tensor_store.h"

namespace paceline {

struct ExpertSource {
  LinearSource gate, up, down;
};

// Keys are logical names (model/checkpoint.h).
struct Census {
  absl::flat_hash_map<std::string, LinearSource> linears;
  absl::flat_hash_map<std::string, StoredTensor> vectors;
  absl::flat_hash_map<std::string, std::vector<ExpertSource>> experts;
  std::string missing_mtp;  // full name of the first one when only some are there
  bool mtp = false;         // a whole MTP layer
  std::vector<std::string> warnings;
};

// `store` must outlive the result. LOAD-004 (missing, unexpected, mis-shaped, wrong dtype: the tensor, its
// file, the configuration's fields), LOAD-005 (g_idx out of range), LOAD-007 (bits, group size).
absl::StatusOr<Census> TakeCensus(const ModelConfig& config, const QuantisationHints& hints,
                                  const TensorStore& store);

}  // namespace paceline
