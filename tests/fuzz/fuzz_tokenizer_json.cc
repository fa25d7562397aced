// tokenizer.json as an attacker would write it, and a short text through whatever was accepted.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "coordinator/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = paceline::Tokenizer::Parse(input, "tokenizer.json");
  if (!tokenizer.ok()) return 0;
  for (const bool special : {true, false}) {
    const auto ids = (*tokenizer)->Encode("It's <a> e\u0301\u180E  tool 12\n\n", special);
    if (!ids.ok()) continue;
    for (const paceline::TokenId id : *ids) CHECK((*tokenizer)->HasToken(id));
    (*tokenizer)->Decode(*ids);
  }
  // The input is also text: not UTF-8 for the most part.
  if (const auto ids = (*tokenizer)->Encode(input.substr(0, 200)); ids.ok()) (*tokenizer)->Decode(*ids);
  return 0;
}
