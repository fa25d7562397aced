// From a template's source to tokens, with Jinja's white space rules as Transformers sets them: a newline
// behind a block tag goes (trim_blocks), white space in front of one that begins its line goes
// (lstrip_blocks), "-" strips to the neighbouring text, "+" keeps it. One newline at the end of the source is
// dropped, \r\n and \r become \n.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::jinja {

struct Token {
  enum class Kind : uint8_t {
    kData,  // text between tags
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kText,  // a string literal, escapes resolved
    kInteger,
    kFloat,
    kOperator,  // one of + - / // * % ** ~ [ ] ( ) { } == != > >= < <= = . : | , ;
    kEnd,
  };
  Kind kind = Kind::kEnd;
  int32_t line = 1;
  std::string text = {};  // as written; of kText and kData: what it stands for
  int64_t integer = 0;
  double number = 0;

  bool Is(Kind which, std::string_view what) const { return kind == which && text == what; }
  bool IsName(std::string_view name) const { return Is(Kind::kName, name); }
  bool IsOperator(std::string_view sign) const { return Is(Kind::kOperator, sign); }
};

// What stands where a template is wrong: "line 3: ..".
absl::Status TemplateError(int32_t line, std::string_view sentence);

// The last token is kEnd. InvalidArgument names the line.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace paceline::jinja
