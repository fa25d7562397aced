// Encodes many texts in one process, for tests/coordinator/tokenizer_corpus.py.
//   tokenizer_dump FOLDER < requests > answers
// A request is a flag byte ('s': special tokens are parsed, 'p': they are plain text), the text's length in
// bytes as a little-endian uint32, and the text. The answer is one line: the ids, or "error: ...".
// `tokenizer_dump --nfc` answers with the normalised text in hexadecimal instead.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "coordinator/nfc.h"
#include "coordinator/tokenizer.h"

namespace {

bool ReadRequest(char* flag, std::string* text) {
  unsigned char head[5];
  if (std::fread(head, 1, sizeof(head), stdin) != sizeof(head)) return false;
  *flag = static_cast<char>(head[0]);
  text->resize(head[1] | head[2] << 8 | head[3] << 16 | static_cast<uint32_t>(head[4]) << 24);
  return std::fread(text->data(), 1, text->size(), stdin) == text->size();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenizer_dump FOLDER|--nfc\n");
    return 2;
  }
  const bool nfc = std::strcmp(argv[1], "--nfc") == 0;
  std::unique_ptr<paceline::Tokenizer> tokenizer;
  if (!nfc) {
    auto loaded = paceline::Tokenizer::Load(argv[1]);
    if (!loaded.ok()) {
      std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
      return 1;
    }
    tokenizer = *std::move(loaded);
  }
  char flag = 0;
  std::string text;
  while (ReadRequest(&flag, &text)) {
    if (nfc) {
      const auto composed = paceline::NormalizeNfc(text);
      if (!composed.ok()) return 1;
      for (const char c : *composed) std::printf("%02x", static_cast<unsigned char>(c));
    } else if (const auto ids = tokenizer->Encode(text, flag == 's'); ids.ok()) {
      for (const paceline::TokenId id : *ids) std::printf("%d ", id);
    } else {
      std::printf("error: %s", ids.status().ToString().c_str());
    }
    std::putchar('\n');
  }
  return 0;
}
