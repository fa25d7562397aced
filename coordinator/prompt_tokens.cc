// Scores beside their tokens.
#include "coordinator/prompt_tokens.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "coordinator/utf8.h"

namespace paceline {

std::vector<PromptToken> PromptTokens(const Tokenizer* tokenizer, std::span<const TokenId> ids,
                                      std::vector<RowResult> scores) {
  CHECK_EQ(scores.size() + 1, ids.size());
  std::vector<PromptToken> tokens(ids.size());
  std::string held;  // bytes of a character that is not complete
  for (size_t i = 0; i < ids.size(); ++i) {
    PromptToken& token = tokens[i];
    token.id = ids[i];
    if (tokenizer != nullptr) {
      token.bytes = std::string(tokenizer->TokenBytes(ids[i]));
      held += token.bytes;
      const size_t complete = ValidUtf8Prefix(held);
      token.text = held.substr(0, complete);
      held.erase(0, complete);
    }
    if (i == 0) continue;
    token.logprob = scores[i - 1].logprob;
    token.rank = scores[i - 1].rank;
    token.top = std::move(scores[i - 1].top);
  }
  return tokens;
}

}  // namespace paceline
