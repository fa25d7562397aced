// Layer shapes from the configuration, leaf sizes from the stored tensors.
#include "model/placement_shape.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace paceline {

std::vector<LayerShape> PlacementShape(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  std::vector<LayerShape> shapes(config.layers.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (config.layers[i].feed_forward != FeedForward::kMoe) continue;
    int64_t bytes = 0;
    for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
      const auto facts = checkpoint.DescribeExpert(absl::StrCat("layers.", i, ".mlp"), 0, projection);
      CHECK(facts.ok());  // the census found every expert of every MoE layer
      bytes += facts->stored_bytes;
    }
    const int64_t columns = std::min<int64_t>(kGroupColumns, config.expert_columns);
    shapes[i] = {config.experts, GroupsOf(config.expert_columns), bytes * columns / config.expert_columns,
                 config.expert_columns};
  }
  return shapes;
}

}  // namespace paceline
