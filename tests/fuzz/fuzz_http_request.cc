// Bodies of every endpoint as an attacker would write them. The first byte chooses the endpoint. What is
// accepted is answered once with a short text, so that its format runs too.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "coordinator/chat_template.h"
#include "coordinator/http/chat_completions.h"
#include "coordinator/http/completions.h"
#include "coordinator/http/messages.h"
#include "coordinator/http/responses.h"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {
namespace {

void Answer(ReadRequest& read) {
  std::string out;
  for (size_t i = 0; i < read.requests.size(); ++i) {
    GenerationStarted started;
    started.prompt = {1, 2};
    read.format->Started(i, started, &out);
    for (const char* const text :
         {"hm</think>", "\n\n<tool_call>\n<function=f>\n", "<parameter=a>\n1\n", ""}) {
      GeneratedToken token;
      token.id = 1;
      token.text = text;
      read.format->Tokens(i, {token}, &out);
    }
    read.format->Ended(i, GenerationEnd(), &out);
  }
  read.format->Finish(&out);
  CHECK(!out.empty());
}

}  // namespace
}  // namespace paceline

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace paceline;
  static const FakeTokenizer tokenizer({"a", "b", " ", "\n"});
  static const auto chat_template =
      ChatTemplate::Create("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}{{ tools }}");
  CHECK(chat_template.ok());
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto body = ParseBody(text);
  if (!body.ok()) return 0;
  const ServedModel model{"fuzzed", "f00d", &tokenizer, {0}};
  const bool strict = data[0] & 0x80;
  Fields fields(*body);
  absl::StatusOr<ReadRequest> read = absl::InternalError("");
  switch (data[0] % 5) {
    case 0:
      read = ReadCompletion(fields, model, strict);
      break;
    case 1:
      read = ReadChatCompletion(fields, model, chat_template->get(), strict);
      break;
    case 2:
      read = ReadMessages(fields, model, chat_template->get(), "id", strict);
      break;
    case 3:
      read = ReadResponse(fields, model, chat_template->get(), strict);
      break;
    default:
      CountMessageTokens(fields, model, chat_template->get()).IgnoreError();
      return 0;
  }
  if (read.ok()) Answer(*read);
  return 0;
}
