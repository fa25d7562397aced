// What a planner must know of a checkpoint's layers.
#pragma once

#include <vector>

#include "base/placement.h"
#include "model/checkpoint.h"

namespace paceline {

// One entry per trunk layer; a dense layer has experts 0. Bytes are those of expert 0, spread over its
// columns.
std::vector<LayerShape> PlacementShape(const Checkpoint& checkpoint);

}  // namespace paceline
