// Renders templates for jinja_oracle_test.py: one JSON object per line in, {"template": "..", "context":
// {..}}, one out: {"text": ".."} or {"error": "..", "line": n, "raised": bool}. With --chat FOLDER a line is
// a chat request instead, {"messages": [..], "tools": [..], "kwargs": {..}, ..}, for the template of the
// folder.
#include <iostream>
#include <string>

#include "absl/status/status.h"
#include "coordinator/chat_template.h"
#include "coordinator/jinja/template.h"

namespace paceline {
namespace {

// 2026-03-04 05:06:07 UTC, which the oracle shows as well.
int64_t FixedNow() { return 1772600767; }

Json Failed(const absl::Status& status) {
  return {{"error", std::string(status.message().data(), status.message().size())},
          {"line", 0},
          {"raised", false}};
}

Json RenderLine(const Json& line) {
  const auto parsed = jinja::Template::Parse(line["template"].get_ref<const std::string&>());
  if (!parsed.ok()) return Failed(parsed.status());
  std::vector<std::pair<std::string, jinja::Value>> context;
  for (const auto& [name, value] : line["context"].items())
    context.emplace_back(name, jinja::Value::FromJson(value));
  jinja::RenderOptions options;
  options.now = FixedNow;
  const jinja::Rendered rendered = (*parsed)->Render(context, options);
  if (rendered.ok) return {{"text", rendered.text}};
  return {{"error", rendered.sentence}, {"line", rendered.line}, {"raised", rendered.raised}};
}

Json ChatLine(const ChatTemplate& chat, const Json& line) {
  ChatRequest request;
  auto messages = ChatMessagesFromJson(line["messages"]);
  if (!messages.ok()) return Failed(messages.status());
  request.messages = *std::move(messages);
  if (line.contains("tools")) {
    auto tools = ToolsFromJson(line["tools"]);
    if (!tools.ok()) return Failed(tools.status());
    request.tools = *std::move(tools);
  }
  if (line.contains("kwargs")) request.template_kwargs = line["kwargs"];
  request.add_generation_prompt = line.value("add_generation_prompt", true);
  request.continue_final_message = line.value("continue_final_message", false);
  const auto prompt = chat.Apply(request);
  if (!prompt.ok()) return Failed(prompt.status());
  return {{"text", prompt->text}, {"reasoning", prompt->starts_in_reasoning}};
}

int Main(int argc, char** argv) {
  std::unique_ptr<ChatTemplate> chat;
  if (argc == 3 && std::string(argv[1]) == "--chat") {
    auto loaded = ChatTemplate::Load(argv[2], {FixedNow});
    if (!loaded.ok() || *loaded == nullptr) {
      std::cerr << (loaded.ok() ? "no template" : loaded.status().ToString()) << "\n";
      return 1;
    }
    chat = *std::move(loaded);
  }
  for (std::string text; std::getline(std::cin, text);) {
    const Json line = Json::parse(text);
    const Json answer = chat == nullptr ? RenderLine(line) : ChatLine(*chat, line);
    std::cout << answer.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace paceline

int main(int argc, char** argv) { return paceline::Main(argc, argv); }
