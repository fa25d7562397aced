// The streamed answer of an OpenAI-like server (ours, llama.cpp's, vLLM's) to /v1/chat/completions or
// /v1/completions, taken apart: pieces of text while they come, and in the end what was counted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/clock.h"
#include "cli/event_stream.h"
#include "cli/http_client.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {

// What an answer counts; absent where the server does not say.
struct OpenAiCounts {
  std::optional<int64_t> prompt_tokens;
  std::optional<int64_t> cached_tokens;  // of the prompt
  std::optional<int64_t> output_tokens;
  std::optional<int64_t> steps;    // that brought tokens: ours alone says it
  std::optional<int64_t> drafted;  // ours, and llama.cpp's with drafts
  std::optional<int64_t> accepted;
};

// A refusal or a failure, in the server's words.
struct OpenAiError {
  int status = 0;       // HTTP's; 200 for an error inside a stream
  std::string code;     // "rate_limit_exceeded"; empty where there is none
  std::string message;  // the body's start where it has none
};

// The error that a body or a frame holds.
OpenAiError ReadOpenAiError(int status, std::string_view body);

class OpenAiAnswer : public HttpListener {
 public:
  // One frame's text. Frames without any (a role, a token that completes no character) are not heard of.
  virtual void OnText(std::string_view content, std::string_view reasoning, TimePoint at) = 0;
  // Last and exactly once. `status` as HttpListener has it, and NET-002 for a stream that ended too early.
  // What the server itself refused is in error().
  virtual void OnDone(const absl::Status& status, TimePoint at) = 0;

  void OnStatus(int status) final { http_status_ = status; }
  void OnBody(std::string_view bytes, TimePoint at) final;
  void OnEnd(const absl::Status& status, TimePoint at) final;

  const OpenAiCounts& counts() const { return counts_; }
  const std::optional<OpenAiError>& error() const { return error_; }
  // "stop", "length"; empty when none came.
  const std::string& finish_reason() const { return finish_reason_; }

 private:
  void TakeFrame(const std::string& data, TimePoint at);
  void TakeCounts(const nlohmann::json& frame);

  int http_status_ = 0;
  std::string refused_;  // body of an answer that is no stream
  EventStream events_;
  OpenAiCounts counts_;
  std::optional<OpenAiError> error_;
  std::string finish_reason_;
  bool finished_ = false;  // [DONE], or a reason to finish
};

}  // namespace paceline::cli
