// The chat template of a checkpoint: from messages to the prompt, as Transformers' apply_chat_template does
// it. docs/TEMPLATES.md says what of Jinja is covered. Thread-safe after creation; a call touches nothing
// shared.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/chat.h"

namespace paceline {

struct ChatPrompt {
  std::string text;  // to be tokenised with special tokens recognised and nothing added
  // The prompt ends inside a thinking block: what the model writes first is reasoning (OutputParserOptions).
  bool starts_in_reasoning = false;
};

struct ChatTemplateOptions {
  // Templates may print the date (strftime_now). Seconds since 1970, UTC; absent: the system's clock.
  std::function<int64_t()> now = nullptr;
};

class ChatTemplate {
 public:
  // Looks for chat_template.jinja, then chat_template.json, then `chat_template` in tokenizer_config.json
  // (one template, or a list of named ones); special tokens come from tokenizer_config.json. Null where the
  // folder has no template. LOAD-006 names the file, and for a template its line.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& directory,
                                                            ChatTemplateOptions options = {});

  // One template by itself. `special_tokens`: variables such as bos_token.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(
      std::string_view source, std::map<std::string, std::string> special_tokens = {},
      ChatTemplateOptions options = {});

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // REQ-001 for whatever the template does not take, with its own words where it raised an exception, else
  // with the line of the template: roles in a wrong order, no messages, a prompt beyond the limits.
  // FactsOf(status).field is "messages" or the variable at fault.
  absl::StatusOr<ChatPrompt> Apply(const ChatRequest& request) const;

 private:
  struct Parts;
  explicit ChatTemplate(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace paceline
