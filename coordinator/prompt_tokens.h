// A prompt and what its rows said of it, as tokens for a client.
#pragma once

#include <span>
#include <vector>

#include "base/step.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

// `scores` [ids - 1]: of ids 1.., each from the row in front. `tokenizer` may be null: then there is no text.
std::vector<PromptToken> PromptTokens(const Tokenizer* tokenizer, std::span<const TokenId> ids,
                                      std::vector<RowResult> scores);

}  // namespace paceline
