// Who answers in `chat`: a running head over gRPC, a head in this process, or any server of the OpenAI API
// over HTTP. Used by one thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cli/chat_session.h"
#include "cli/options.h"

namespace paceline::cli {

class ChatModel {
 public:
  using OnText = std::function<void(bool reasoning, std::string_view text)>;

  virtual ~ChatModel() = default;
  virtual std::string name() const = 0;
  // Blocks until the answer is whole; `on_text` hears its pieces, complete code points each. A signal stops
  // it: what had come is the answer, with kCancelled. Else the model's or the connection's own errors.
  virtual absl::StatusOr<ChatAnswer> Ask(const ChatQuestion& question, const OnText& on_text) = 0;
};

// By what options.head.model says. For a directory this loads the model. NET-002 where nobody answers.
absl::StatusOr<std::unique_ptr<ChatModel>> OpenChatModel(const ChatOptions& options);
// The one over HTTP.
absl::StatusOr<std::unique_ptr<ChatModel>> OpenHttpChatModel(const ChatOptions& options);

}  // namespace paceline::cli
