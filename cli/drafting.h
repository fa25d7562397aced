// From drafting flags to what the trunk loads and what the controller may do.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cli/options.h"
#include "coordinator/speculation.h"
#include "coordinator/tokenizer.h"
#include "model/checkpoint.h"
#include "worker/trunk.h"

namespace paceline::cli {

struct Drafting {
  DraftingOptions trunk;
  SpeculationPolicy policy;
  std::string refusal;  // why a model with an MTP layer will not draft, where nobody asked for it by number
};

// `--draft auto` comes to off without a whole MTP layer, unless `--drafter suffix` was said. A number is an
// order: LOAD-004 names the first missing mtp.* tensor, LOAD-007 says that there is no MTP layer at all where
// `--drafter mtp` wants it. CFG-002: the draft vocabulary. `tokenizer` may be null.
absl::StatusOr<Drafting> ResolveDrafting(const DraftingFlags& flags, const Checkpoint& checkpoint,
                                         const Tokenizer* tokenizer);

// The words of --draft as a request says them; its mode is always set.
SpeculationOptions SpeculationOf(const std::string& draft);

}  // namespace paceline::cli
