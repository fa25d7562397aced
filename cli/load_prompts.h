// The prompts of `bench serve`: those of a file, or prose of a given length. Request i of one book is the
// same whoever asks for it and when.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// The two endpoints take different things: messages, or a text (or its token ids).
enum class PromptForm : uint8_t { kMessages, kText };

// What prose is made of, as the server's tokenizer sees it.
struct Corpus {
  std::string text;
  std::vector<TokenId> ids;       // of `text`; empty where the server cannot say: lengths are then guessed
  std::vector<TokenId> salt_ids;  // of the salt
};

struct ProsePlan {
  PromptForm form = PromptForm::kMessages;
  int64_t tokens = 256;  // of a prompt, the shared part counted
  int64_t shared = 0;    // of them the same in all prompts, from the beginning
  std::string salt;      // begins every prompt: runs with different ones share no text
  uint64_t seed = 1;     // where in the corpus they begin
};

class PromptBook {
 public:
  // A prompt a line: plain text, a JSON string, or an object with `prompt` or `messages`. CFG-002 names the
  // line that is none, or whose messages do not suit the form; also for a file without prompts.
  static absl::StatusOr<PromptBook> Read(std::string_view lines, PromptForm form, const std::string& file);
  // Every prompt begins elsewhere in the corpus. With ids and kText it has exactly `tokens` tokens, else
  // about that.
  static PromptBook Prose(ProsePlan plan, Corpus corpus);

  // The member of request i that holds its prompt: {"messages": [..]} or {"prompt": ..}. Books that were read
  // begin again at their end.
  nlohmann::json Prompt(int64_t i) const;

 private:
  nlohmann::json FromIds(int64_t i) const;
  std::string FromText(int64_t i) const;

  std::vector<nlohmann::json> read_;
  ProsePlan plan_;
  Corpus corpus_;
  std::vector<size_t> words_;  // where words of the corpus begin
  double bytes_per_token_ = 4.5;
};

}  // namespace paceline::cli
