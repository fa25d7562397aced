// Shapes: OpenAI's streaming chunks (platform.openai.com/docs/api-reference/chat-streaming), llama-server's
// `timings`, vLLM's `metrics.speculative_decoding` (docs/API.md says what ours has).
#include "cli/openai_answer.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline::cli {
namespace {

using nlohmann::json;

constexpr size_t kMostRefusal = 64 << 10;
constexpr size_t kShownRefusal = 200;

// The member, or null where there is none or `object` is no object.
const json& Member(const json& object, const char* name) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

std::string_view Text(const json& value) {
  return value.is_string() ? std::string_view(value.get_ref<const std::string&>()) : std::string_view();
}

void ReadCount(const json& value, std::optional<int64_t>* count) {
  if (value.is_number_integer()) *count = value.get<int64_t>();
}

}  // namespace

OpenAiError ReadOpenAiError(int status, std::string_view body) {
  OpenAiError out;
  out.status = status;
  const json whole = json::parse(body, nullptr, /*allow_exceptions=*/false);
  const json& error = Member(whole, "error");
  const json& inner = error.is_object() ? error : whole;  // vLLM's older errors have no wrapping
  out.code = Text(Member(inner, "code"));
  if (out.code.empty()) out.code = Text(Member(inner, "type"));
  out.message = error.is_string() ? Text(error) : Text(Member(inner, "message"));
  if (out.message.empty()) out.message = body.substr(0, kShownRefusal);
  return out;
}

void OpenAiAnswer::OnBody(std::string_view bytes, TimePoint at) {
  if (http_status_ != 200) {
    if (refused_.size() < kMostRefusal) refused_.append(bytes);
    return;
  }
  for (const std::string& data : events_.Feed(bytes)) TakeFrame(data, at);
}

void OpenAiAnswer::OnEnd(const absl::Status& status, TimePoint at) {
  if (http_status_ != 200 && http_status_ != 0) error_ = ReadOpenAiError(http_status_, refused_);
  if (status.ok() && !error_ && !finished_) {
    return OnDone(Error(errors::kUnreachable,
                        "the stream ended before its answer did; is this an endpoint that streams?"),
                  at);
  }
  OnDone(error_ ? absl::OkStatus() : status, at);
}

void OpenAiAnswer::TakeFrame(const std::string& data, TimePoint at) {
  if (data == "[DONE]") {
    finished_ = true;
    return;
  }
  const json frame = json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (Member(frame, "error").is_object() || Member(frame, "error").is_string()) {
    error_ = ReadOpenAiError(http_status_, data);
    return;
  }
  TakeCounts(frame);
  const json& choices = Member(frame, "choices");
  if (!choices.is_array() || choices.empty()) return;
  const json& choice = choices.front();
  const json& delta = Member(choice, "delta");
  if (const json& reason = Member(choice, "finish_reason"); reason.is_string()) {
    finish_reason_ = Text(reason);
    finished_ = true;
  }
  std::string_view content = Text(Member(delta, "content"));
  if (content.empty()) content = Text(Member(choice, "text"));
  std::string_view reasoning = Text(Member(delta, "reasoning_content"));
  if (reasoning.empty()) reasoning = Text(Member(delta, "reasoning"));
  if (!content.empty() || !reasoning.empty()) OnText(content, reasoning, at);
}

void OpenAiAnswer::TakeCounts(const json& frame) {
  const json& usage = Member(frame, "usage");
  ReadCount(Member(usage, "prompt_tokens"), &counts_.prompt_tokens);
  ReadCount(Member(usage, "completion_tokens"), &counts_.output_tokens);
  ReadCount(Member(Member(usage, "prompt_tokens_details"), "cached_tokens"), &counts_.cached_tokens);
  const json& timings = Member(frame, "timings");
  ReadCount(Member(timings, "draft_n"), &counts_.drafted);
  ReadCount(Member(timings, "draft_n_accepted"), &counts_.accepted);
  if (!counts_.cached_tokens) ReadCount(Member(timings, "cache_n"), &counts_.cached_tokens);
  ReadCount(Member(Member(Member(frame, "metrics"), "speculative_decoding"), "num_decode_steps"),
            &counts_.steps);
}

}  // namespace paceline::cli
