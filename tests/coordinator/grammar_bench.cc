// What constraints cost: grammar_bench [MODEL_DIR] prints one JSON object a line. Without a model the
// vocabulary is made up, with as many tokens as Qwen3.5's and the mixture of such vocabularies: words with
// and without a space in front, other scripts, code, white space. Nothing of docs/PERFORMANCE.md is measured
// any other way.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <random>
#include <set>
#include <string>

#include "base/constraint.h"
#include "coordinator/grammar/constraint.h"
#include "coordinator/utf8.h"
#include "model/sampler.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {
namespace {

constexpr int64_t kFlagshipVocabulary = 248'320;

using Random = std::mt19937;

std::string Letters(Random& random, char32_t first, int count, int min, int max) {
  std::string text;
  for (int n = min + static_cast<int>(random() % static_cast<uint32_t>(max - min + 1)); n > 0; --n)
    AppendUtf8(first + random() % static_cast<uint32_t>(count), &text);
  return text;
}

// Words of syllables share their beginnings as real ones do.
std::string Word(Random& random) {
  static constexpr const char* kSyllables[] = {
      "an", "be", "con", "de",  "er",   "fi", "gra", "ing", "ion", "lo", "ment", "na", "or",  "pre", "re",
      "st", "ti", "ul",  "ver", "tion", "s",  "ed",  "ly",  "al",  "ic", "th",   "wa", "ous", "me",  "co"};
  std::string word;
  for (uint32_t n = 1 + random() % 4; n > 0; --n) word += kSyllables[random() % std::size(kSyllables)];
  switch (random() % 8) {
    case 0:
      word[0] = static_cast<char>(word[0] - 32);
      break;
    case 1:
      for (char& c : word) c = static_cast<char>(c - 32);
      break;
    case 2:
      word.append("_").append(Letters(random, 'a', 26, 1, 4));
      break;
    default:
      break;
  }
  return word;
}

FakeTokenizer MadeUp() {
  Random random(1);
  std::vector<std::string> tokens;
  std::set<std::string> seen;
  const auto add = [&](std::string token) {
    if (seen.insert(token).second) tokens.push_back(std::move(token));
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (size_t n = 1; n <= 128; ++n) {
    add(std::string(n, ' '));
    if (n <= 32) add(std::string(n, '\t'));
    if (n <= 32) add(std::string("\n").append(n, ' '));
    if (n <= 64) add(std::string(n, '-'));
  }
  const std::string signs = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\n \\";
  for (int n = 0; n < 9000; ++n) {
    std::string token;
    for (uint32_t k = 2 + random() % 4; k > 0; --k) token += signs[random() % signs.size()];
    add(token);
  }
  while (static_cast<int64_t>(tokens.size()) < kFlagshipVocabulary - 33) {
    const uint32_t kind = random() % 100;
    if (kind < 60) {
      add(std::string(random() % 2 == 0 ? " " : "").append(Word(random)));
    } else if (kind < 78) {
      add(Letters(random, 0x4e00, 6000, 1, 4));
    } else if (kind < 88) {
      add(std::string(random() % 2 == 0 ? " " : "").append(Letters(random, 0x430, 32, 2, 9)));
    } else if (kind < 93) {
      add(Letters(random, 0x621, 40, 2, 7));
    } else if (kind < 97) {
      add(Letters(random, 0xac00, 3000, 1, 4));
    } else {
      add(Letters(random, 0xe01, 50, 2, 8));
    }
  }
  for (int n = 0; n < 33; ++n)
    tokens.push_back(std::string("<|special ").append(std::to_string(n)).append("|>"));
  std::vector<TokenId> special;
  for (auto id = static_cast<TokenId>(tokens.size()) - 33; id < static_cast<TokenId>(tokens.size()); ++id)
    special.push_back(id);
  return FakeTokenizer(std::move(tokens), std::move(special));
}

double Microseconds(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

nlohmann::json Times(std::vector<double> us) {
  if (us.empty()) return nullptr;
  std::sort(us.begin(), us.end());
  double sum = 0;
  for (const double t : us) sum += t;
  return {{"rows", us.size()},
          {"mean_us", sum / static_cast<double>(us.size())},
          {"median_us", us[us.size() / 2]},
          {"p99_us", us[us.size() * 99 / 100]},
          {"max_us", us.back()}};
}

struct Walk {
  std::vector<double> mask_us, accept_us, apply_us;
};

// Texts of random tokens, every mask measured as the trunk asks for it.
Walk Follow(const Constraint& constraint, const Tokenizer& tokenizer, uint32_t seed, int rows) {
  Random random(seed);
  Walk walk;
  std::vector<float> logits(static_cast<size_t>(tokenizer.size()), 1.0f);
  auto matcher = constraint.Start();
  int64_t bytes = 0;
  for (int row = 0; row < rows; ++row) {
    auto begin = std::chrono::steady_clock::now();
    const std::span<const uint64_t> mask = matcher->Allowed();
    walk.mask_us.push_back(Microseconds(begin));
    begin = std::chrono::steady_clock::now();
    MaskLogits(logits, {}, mask);
    walk.apply_us.push_back(Microseconds(begin));
    std::vector<TokenId> ids, brackets;
    for (size_t w = 0; w < mask.size(); ++w) {
      for (uint64_t word = mask[w]; word != 0; word &= word - 1) {
        const auto id = static_cast<TokenId>(w * 64 + static_cast<size_t>(__builtin_ctzll(word)));
        const std::string_view text = tokenizer.TokenBytes(id);
        ids.push_back(id);
        if (text == "\"" || text == "}" || text == "]" || text == "\",") brackets.push_back(id);
      }
    }
    // Strings of some words, not of thousands.
    const std::vector<TokenId>& from = !brackets.empty() && random() % 4 == 0 ? brackets : ids;
    const TokenId chosen = from[random() % from.size()];
    begin = std::chrono::steady_clock::now();
    matcher->Accept(chosen);
    walk.accept_us.push_back(Microseconds(begin));
    bytes += static_cast<int64_t>(tokenizer.TokenBytes(chosen).size());
    if (tokenizer.IsSpecial(chosen) || bytes > 4000) {
      matcher = constraint.Start();
      bytes = 0;
    }
  }
  return walk;
}

constexpr char kPerson[] = R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer",
"minimum":0,"maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"type":"string"},
"maxItems":8},"address":{"type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"},
"country":{"enum":["de","fr","it","us"]}},"required":["street","city","country"]}},
"required":["name","age","address"]})";
constexpr char kLengths[] =
    R"({"type":"object","properties":{"title":{"type":"string","minLength":10,"maxLength":80},
"text":{"type":"string","maxLength":1000}},"required":["title","text"]})";

std::string Wide() {
  nlohmann::ordered_json schema = {{"type", "object"}};
  for (int i = 0; i < 100; ++i) {
    const std::string name = std::string("field_").append(std::to_string(i));
    schema["properties"][name] = {{"type", i % 2 == 0 ? "string" : "number"}};
    schema["required"].push_back(name);
  }
  return schema.dump();
}

int Run(const Tokenizer& tokenizer) {
  TokenId stop = static_cast<TokenId>(tokenizer.size()) - 1;
  while (!tokenizer.IsSpecial(stop)) --stop;
  ConstraintCompiler compiler(&tokenizer, tokenizer.size());
  const auto compile = [&](const ConstraintSpec& spec, double* ms) {
    // Of this process: others on the machine would else be measured too.
    const std::clock_t begin = std::clock();
    auto made = compiler.Compile(spec, {}, std::vector<TokenId>{stop});
    *ms = 1000.0 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
    return made;
  };
  using Kind = ConstraintSpec::Kind;
  double first_ms = 0;
  (void)compile({.kind = Kind::kChoice, .choices = {"a"}, .after = ""}, &first_ms);
  std::printf(
      "%s\n",
      nlohmann::json{{"vocabulary", tokenizer.size()}, {"first_compile_cpu_ms", first_ms}}.dump().c_str());
  const std::vector<std::pair<std::string, ConstraintSpec>> specs = {
      {"json_object", {.kind = Kind::kJsonObject, .after = ""}},
      {"schema: person", {.kind = Kind::kJsonSchema, .text = kPerson, .after = ""}},
      {"schema: 100 properties", {.kind = Kind::kJsonSchema, .text = Wide(), .after = ""}},
      {"schema: lengths", {.kind = Kind::kJsonSchema, .text = kLengths, .after = ""}},
      {"regex", {.kind = Kind::kRegex, .text = "(?:[A-Z][a-z]+ ){1,20}\\d{4}-\\d{2}-\\d{2}", .after = ""}},
      {"choice of 4",
       {.kind = Kind::kChoice, .choices = {"positive", "negative", "neutral", "mixed"}, .after = ""}},
      {"ebnf: arithmetic",
       {.kind = Kind::kEbnf,
        .text = "root ::= term ([-+] term)*\nterm ::= factor ([*/] factor)*\nfactor ::= [0-9]+ | \"(\" root "
                "\")\"",
        .after = ""}}};
  for (const auto& [name, spec] : specs) {
    double ms = 0, again_ms = 0;
    const auto constraint = compile(spec, &ms);
    if (!constraint.ok()) {
      std::fprintf(stderr, "%s: %s\n", name.c_str(), std::string(constraint.status().message()).c_str());
      return 1;
    }
    (void)compile(spec, &again_ms);
    const Walk cold = Follow(**constraint, tokenizer, 1, 1000);
    const Walk warm = Follow(**constraint, tokenizer, 1, 1000);
    const Walk other = Follow(**constraint, tokenizer, 2, 1000);
    std::printf("%s\n", nlohmann::json{{"constraint", name},
                                       {"compile_cpu_ms", ms},
                                       {"known_again_cpu_ms", again_ms},
                                       {"mask_first_time", Times(cold.mask_us)},
                                       {"mask_again", Times(warm.mask_us)},
                                       {"mask_another_text", Times(other.mask_us)},
                                       {"accept", Times(other.accept_us)},
                                       {"apply", Times(other.apply_us)}}
                            .dump()
                            .c_str());
  }
  return 0;
}

}  // namespace
}  // namespace paceline

int main(int argc, char** argv) {
  if (argc > 1) {
    const auto tokenizer = paceline::Tokenizer::Load(argv[1]);
    if (tokenizer.ok()) return paceline::Run(**tokenizer);
    std::fprintf(stderr, "%s\n", std::string(tokenizer.status().message()).c_str());
    return 1;
  }
  return paceline::Run(paceline::MadeUp());
}
