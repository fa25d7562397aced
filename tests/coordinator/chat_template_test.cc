// From a request to a prompt: shapes, habits of templates, files.
#include "coordinator/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "coordinator/api_error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

// A folder of its own that goes with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "chat_template_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

ChatRequest Ask(std::string text) { return {{{"user", std::move(text)}}}; }

TEST(ChatTemplate, TheDemoModelsOwn) {
  const auto chat = ChatTemplate::Load(PACELINE_SOURCE_DIR "/deploy/demo-model");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatRequest request = Ask("Hi");
  auto prompt = (*chat)->Apply(request);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n");
  EXPECT_TRUE(prompt->starts_in_reasoning);
  request.template_kwargs["enable_thinking"] = false;
  prompt = (*chat)->Apply(request);
  EXPECT_EQ(prompt->text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_FALSE(prompt->starts_in_reasoning);
  request.add_generation_prompt = false;
  EXPECT_EQ((*chat)->Apply(request)->text, "<|im_start|>user\nHi<|im_end|>\n");
}

TEST(ChatMessages, AsJsonTheyAreReadBack) {
  const Json messages = Json::parse(R"([{"role":"system","content":[{"type":"text","text":"a"}]},
      {"role":"user","content":"b","name":"Nora"},
      {"role":"assistant","content":null,"reasoning_content":"c","tool_calls":[
        {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}}]},
      {"role":"tool","content":"d","tool_call_id":"call_1"}])");
  const auto read = ChatMessagesFromJson(messages);
  ASSERT_TRUE(read.ok()) << read.status();
  const Json written = ChatMessagesToJson(*read);
  // Members in whatever order.
  EXPECT_EQ(nlohmann::json::parse(written.dump()), nlohmann::json::parse(messages.dump()));
}

TEST(ChatTemplate, RefusalsNameTheFieldAndTheReason) {
  const auto chat = ChatTemplate::Load(PACELINE_SOURCE_DIR "/deploy/demo-model");
  ASSERT_TRUE(chat.ok());
  const auto late = (*chat)->Apply({{{"user", "a"}, {"system", "b"}}});
  EXPECT_THAT(
      Message(late.status()),
      HasSubstr("REQ-001: messages: the chat template refuses them: The system message must come first."));
  EXPECT_EQ(FactsOf(late.status()).field, "messages");
  EXPECT_EQ(FactsOf(late.status()).reason, reasons::kInvalidField);
  EXPECT_THAT(Message((*chat)->Apply({}).status()), HasSubstr("at least one message"));
  ChatRequest request = Ask("x");
  request.template_kwargs["messages"] = Json::array();
  EXPECT_EQ(FactsOf((*chat)->Apply(request).status()).field, "template_kwargs.messages");
  const auto broken = ChatTemplate::Create("{{ messages[0].content }}\n{{ nothing.at.all }}");
  ASSERT_TRUE(broken.ok());
  EXPECT_THAT(Message((*broken)->Apply(Ask("x")).status()),
              HasSubstr("'nothing' is undefined (line 2 of the template)"));
}

TEST(ChatTemplate, DeveloperIsSystemAndCallsAreObjects) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}[{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}|{{ "
      "c.function.name }}"
      "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v|tojson }}{% endfor %}{% endfor %}]{% "
      "endfor %}");
  ASSERT_TRUE(chat.ok());
  ChatMessage call{"assistant"};
  call.content = "";
  call.tool_calls = {{"1", "f", R"({"z": [1, 2], "a": {"y": null, "x": 1.50}})"}, {"2", "g", ""}};
  const auto prompt = (*chat)->Apply({{{"developer", "d"}, call}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text, R"([system:d][assistant:|f z=[1, 2] a={"y": null, "x": 1.5}|g])");
}

TEST(ChatTemplate, ATemplateThatJoinsTextGetsText) {
  // Arguments as text, missing content as none, parts joined.
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{% if m.tool_calls is defined %}{% if m.content is none %}(none){% endif %}"
      "{{ '<' + m.tool_calls[0].function.arguments + '>' }}{% else %}{{ m.content + '.' }}{% endif %}{% "
      "endfor %}");
  ASSERT_TRUE(chat.ok());
  ChatMessage call{"assistant"};
  call.tool_calls = {{"1", "f", R"({"a": 1})"}};
  const auto prompt = (*chat)->Apply({{{"user", std::vector<ContentPart>{{"a"}, {"b"}}}, call}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text, R"x(a
b.(none)<{"a": 1}>)x");
}

TEST(ChatTemplate, ATemplateThatPrintsNoneGetsAnEmptyText) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{{ m.content|trim }};{% for c in m.tool_calls or [] %}{{ "
      "c.function.arguments|tojson }}{% endfor %}{% endfor %}");
  ASSERT_TRUE(chat.ok());
  ChatMessage call{"assistant"};
  call.tool_calls = {{"1", "f", "{}"}};
  EXPECT_EQ((*chat)->Apply({{call}})->text, ";{}");
}

TEST(ChatTemplate, PartsStayPartsWhereTheTemplateReadsThem) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content "
      "%}({{ p.type }}:{{ p.text }}){% endfor %}{% endif %}{% endfor %}");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ((*chat)->Apply({{{"user", std::vector<ContentPart>{{"a"}, {"b"}}}, {"user", "c"}}})->text,
            "(text:a)(text:b)c");
}

TEST(ChatTemplate, ContinuesTheLastMessage) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}</>{% endfor %}{% if add_generation_prompt "
      "%}<assistant>{% endif %}");
  ASSERT_TRUE(chat.ok());
  ChatRequest request = {{{"user", "go"}, {"assistant", "One, two "}}};
  request.continue_final_message = true;
  EXPECT_EQ((*chat)->Apply(request)->text, "<user>go</><assistant>One, two");
  request.messages.back().content = "";
  EXPECT_EQ(FactsOf((*chat)->Apply(request).status()).field, "continue_final_message");
}

TEST(ChatTemplate, FilesInTheOrderOfTransformers) {
  const Folder folder;
  EXPECT_EQ(*ChatTemplate::Load(folder.path()), nullptr);
  folder.Write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>", "special": true}, "eos_token": null, "chat_template": [)"
      R"({"name": "default", "template": "plain {{ bos_token }}{{ eos_token is defined }}"}, {"name": "tool_use", "template": "tools {{ tools|length }}"}]})");
  auto chat = ChatTemplate::Load(folder.path());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ((*chat)->Apply(Ask("x"))->text, "plain <s>False");
  ChatRequest with_tools = Ask("x");
  with_tools.tools = {ToolDefinition::Make("f", "does", Json::object())};
  EXPECT_EQ((*chat)->Apply(with_tools)->text, "tools 1");
  folder.Write("chat_template.json", R"({"chat_template": "json {{ bos_token }}"})");
  EXPECT_EQ((*ChatTemplate::Load(folder.path()).value()).Apply(Ask("x"))->text, "json <s>");
  folder.Write("chat_template.jinja", "jinja {{ bos_token }}{{ strftime_now('%Y') }}\n");
  EXPECT_EQ((*ChatTemplate::Load(folder.path(), {[] { return int64_t{86400 * 366}; }}).value())
                .Apply(Ask("x"))
                ->text,
            "jinja <s>1971");
  folder.Write("chat_template.jinja", "a\n{% if %}");
  EXPECT_THAT(Message(ChatTemplate::Load(folder.path()).status()),
              testing::AllOf(HasSubstr("LOAD-006"), HasSubstr("chat_template.jinja: line 2")));
}

TEST(ChatJson, ReadsWhatClientsSend) {
  const auto json =
      ParseJson(R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"input_text","text":"b"}]},
      {"role":"assistant","content":null,"reasoning":"r","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
      {"role":"tool","tool_call_id":"1","content":"ok","unknown":5}])",
                "body");
  ASSERT_TRUE(json.ok());
  const auto messages = ChatMessagesFromJson(*json);
  ASSERT_TRUE(messages.ok()) << messages.status();
  ASSERT_EQ(messages->size(), 3u);
  EXPECT_EQ(std::get<std::vector<ContentPart>>((*messages)[0].content)[1].text, "b");
  EXPECT_EQ((*messages)[1].content.index(), 0u);
  EXPECT_EQ((*messages)[1].reasoning_content, "r");
  EXPECT_EQ((*messages)[1].tool_calls[0].arguments, R"({"a":1})");
  EXPECT_EQ((*messages)[2].tool_call_id, "1");
}

TEST(ChatJson, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "messages"},
      {R"([1])", "messages[0]"},
      {R"([{"content":"x"}])", "messages[0].role"},
      {R"([{"role":"user","content":"x"},{"role":"robot","content":"x"}])", "messages[1].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":5}])", "messages[0].content"},
      {R"([{"role":"user","content":[{"type":"image_url"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"assistant","tool_calls":[{"function":{}}]}])", "messages[0].tool_calls[0].function.name"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}])",
       "messages[0].tool_calls[0].function.arguments"},
      {R"([{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[]"}}]}])",
       "messages[0].tool_calls[0].function.arguments"},
  };
  for (const auto& [text, field] : cases) {
    const auto messages = ChatMessagesFromJson(Json::parse(text));
    ASSERT_FALSE(messages.ok()) << text;
    EXPECT_EQ(FactsOf(messages.status()).field, field) << messages.status();
  }
  EXPECT_EQ(FactsOf(ToolsFromJson(Json::parse(R"([{"type":"function","function":{}}])")).status()).field,
            "tools[0].function.name");
  EXPECT_EQ(FactsOf(ToolsFromJson(Json::parse(R"([{"type":"retrieval"}])")).status()).field, "tools[0].type");
  EXPECT_THAT(Message(ParseJson("[1, 2", "body").status()), HasSubstr("byte 6"));
  EXPECT_FALSE(ParseJson(std::string(100'000, '['), "body").ok());
  EXPECT_TRUE(ParseJson("\"" + std::string(1000, '[') + "\"", "body").ok());
}

}  // namespace
}  // namespace paceline
