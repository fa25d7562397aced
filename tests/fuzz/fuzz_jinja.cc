// A chat template as an attacker would write it, with a conversation as context: it ends within its limits
// and what it prints is text. Bytes behind a zero byte are the context, as JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "coordinator/jinja/template.h"
#include "coordinator/utf8.h"

namespace {

using paceline::Json;
using paceline::jinja::Value;

const std::vector<std::pair<std::string, Value>>& Conversation() {
  static const auto* const context = [] {
    const Json json = Json::parse(
        R"({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2.5]}}}],
      "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "é"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": true}}}]}],
      "s": "a,b c", "n": 3, "f": 1.5, "add_generation_prompt": true})");
    auto* made = new std::vector<std::pair<std::string, Value>>;
    for (const auto& [name, value] : json.items()) made->emplace_back(name, Value::FromJson(value));
    return made;
  }();
  return *context;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const auto parsed = paceline::jinja::Template::Parse(input.substr(0, zero));
  if (!parsed.ok()) return 0;
  paceline::jinja::RenderOptions options;
  options.limits = {.steps = 20'000, .bytes = 4 << 20, .output = 64 << 10, .depth = 400};
  options.now = [] { return int64_t{1'700'000'000}; };
  std::vector<std::pair<std::string, Value>> context = Conversation();
  if (zero != std::string_view::npos) {
    if (const auto json = paceline::ParseJson(input.substr(zero + 1), "context");
        json.ok() && json->is_object()) {
      for (const auto& [name, value] : json->items()) context.emplace_back(name, Value::FromJson(value));
    }
  }
  const auto rendered = (*parsed)->Render(context, options);
  CHECK(rendered.ok == rendered.sentence.empty() || rendered.raised);
  CHECK(rendered.text.size() <= 64 << 10);
  CHECK(paceline::ValidUtf8Prefix(rendered.text) == rendered.text.size());
  return 0;
}
