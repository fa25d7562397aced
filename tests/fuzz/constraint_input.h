// What the fuzz targets of structured output do with their input: compile it, and follow whatever came of it
// for a few tokens, each of them one the mask allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "coordinator/grammar/constraint.h"
#include "tests/coordinator/fake_tokenizer.h"

namespace paceline {

inline int FuzzConstraint(ConstraintSpec::Kind kind, const uint8_t* data, size_t size) {
  static const FakeTokenizer& tokenizer = *[] {
    std::vector<std::string> tokens = {"<end>"};
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* word : {"{\"", "\":", "\",", "\"}", "null", "12", "ab", "  ", "\n  ", "\u00e9"})
      tokens.emplace_back(word);
    return new FakeTokenizer(std::move(tokens), {0});
  }();
  ConstraintCompiler compiler(&tokenizer, tokenizer.size());
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto constraint =
      compiler.Compile({.kind = kind, .text = text, .after = ""}, {}, std::vector<TokenId>{0});
  if (!constraint.ok()) {
    CHECK(constraint.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK(!constraint.status().message().empty());
    return 0;
  }
  const auto matcher = (*constraint)->Start();
  for (size_t step = 0; step < 24; ++step) {
    const std::span<const uint64_t> mask = matcher->Allowed();
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < tokenizer.size(); ++id) {
      if (mask[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1) allowed.push_back(id);
    }
    // Every byte is a token, so only a grammar that can be read in too many ways at once leaves nothing.
    if (allowed.empty()) return 0;
    const TokenId chosen = allowed[(step * 31 + size) % allowed.size()];
    CHECK(matcher->Accept(chosen));
    if (step % 7 == 6) matcher->Rollback(3);
  }
  return 0;
}

}  // namespace paceline
