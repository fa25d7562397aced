// Texts of a constraint without a model: grammar_sample MODEL_DIR reads one JSON object a line,
//   {"kind": "json_schema" | "json_object" | "regex" | "ebnf" | "choice", "text": "..", "choices": [".."],
//    "count": 20, "seed": 1, "check": ["..", ..]}
// and answers each with {"error": ".."} or {"samples": [".."], "checks": [true, ..]}: texts drawn token by
// token from the masks, and for each text of "check" whether it is one of the constraint's.
#include <cstdio>
#include <iostream>
#include <random>
#include <string>

#include "coordinator/grammar/constraint.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

// Texts that come to no end by themselves are hurried along once they are this long.
constexpr size_t kLong = 400;
constexpr size_t kMost = 6000;  // bytes

std::vector<TokenId> Ids(std::span<const uint64_t> mask) {
  std::vector<TokenId> ids;
  for (size_t w = 0; w < mask.size(); ++w) {
    for (size_t bit = 0; bit < 64; ++bit) {
      if (mask[w] >> bit & 1) ids.push_back(static_cast<TokenId>(w * 64 + bit));
    }
  }
  return ids;
}

std::string Sample(const Constraint& constraint, const Tokenizer& tokenizer, TokenId stop,
                   std::mt19937& random) {
  const auto matcher = constraint.Start();
  std::string text;
  for (;;) {
    const std::vector<TokenId> ids = Ids(matcher->Allowed());
    if (ids.empty()) return text + "<nothing may follow>";
    // What ends a text would else be one of thousands.
    const bool may_stop = std::find(ids.begin(), ids.end(), stop) != ids.end();
    if (may_stop && (text.size() > kLong || random() % 4 == 0)) return text;
    TokenId chosen = ids[random() % ids.size()];
    if (text.size() > kLong || random() % 3 == 0) {
      // What brackets and quotes close comes to an end. Where all of them may come a string is open.
      TokenId quote = -1, bracket = -1;
      int closing = 0;
      for (const TokenId id : ids) {
        const std::string_view bytes = tokenizer.TokenBytes(id);
        if (bytes == "\"") quote = id;
        if (bytes == "}" || bytes == "]") bracket = id;
        closing += bytes == "\"" || bytes == "}" || bytes == "]" ? 1 : 0;
      }
      if (bracket >= 0 && closing < 3) chosen = bracket;
      if (quote >= 0 && (closing == 3 || bracket < 0)) chosen = quote;
    }
    if (chosen == stop) return text;
    if (!matcher->Accept(chosen)) return text + "<a token of the mask was refused>";
    text += tokenizer.TokenBytes(chosen);
    if (text.size() > kMost) return text + "<no end>";
  }
}

bool Accepts(const Constraint& constraint, const Tokenizer& tokenizer, TokenId stop,
             const std::string& text) {
  const auto ids = tokenizer.Encode(text, /*parse_special=*/false);
  if (!ids.ok()) return false;
  const auto matcher = constraint.Start();
  for (const TokenId id : *ids) {
    if (!matcher->Accept(id)) return false;
  }
  return matcher->Accept(stop);
}

ConstraintSpec SpecOf(const nlohmann::json& line) {
  ConstraintSpec spec;
  spec.text = line.value("text", "");
  spec.choices = line.value("choices", std::vector<std::string>());
  spec.after = "";
  for (const auto kind :
       {ConstraintSpec::Kind::kJsonSchema, ConstraintSpec::Kind::kJsonObject, ConstraintSpec::Kind::kRegex,
        ConstraintSpec::Kind::kEbnf, ConstraintSpec::Kind::kChoice}) {
    if (ConstraintField(kind) == "constraint." + line.at("kind").get<std::string>()) spec.kind = kind;
  }
  return spec;
}

int Run(const char* directory) {
  const auto tokenizer = Tokenizer::Load(directory);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  const Tokenizer& words = **tokenizer;
  TokenId stop = 0;
  while (!words.IsSpecial(stop)) ++stop;
  ConstraintCompiler compiler(&words, words.size());
  std::string text;
  while (std::getline(std::cin, text)) {
    const nlohmann::json line = nlohmann::json::parse(text);
    const auto constraint = compiler.Compile(SpecOf(line), {}, std::vector<TokenId>{stop});
    nlohmann::json answer;
    if (!constraint.ok()) {
      answer["error"] = std::string(constraint.status().message());
    } else {
      std::mt19937 random(line.value("seed", 1u));
      answer["samples"] = nlohmann::json::array();
      for (int i = 0; i < line.value("count", 0); ++i)
        answer["samples"].push_back(Sample(**constraint, words, stop, random));
      answer["checks"] = nlohmann::json::array();
      for (const std::string& check : line.value("check", std::vector<std::string>()))
        answer["checks"].push_back(Accepts(**constraint, words, stop, check));
    }
    std::cout << answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace paceline

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: grammar_sample MODEL_DIR\n";
    return 2;
  }
  return paceline::Run(argv[1]);
}
