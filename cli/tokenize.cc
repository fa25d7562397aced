// `tokenize`: text to ids, or ids to text and the pieces a stream would emit; and how often each id comes.
#include <cstdio>

#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/draft_vocabulary.h"
#include "cli/files.h"
#include "coordinator/tokenizer.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

absl::Status Decode(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<TokenId> ids, ReadTokensJson(options.decode_json));
  nlohmann::ordered_json out;
  std::vector<std::string> pieces;
  std::string text;
  StreamDecoder decoder(tokenizer);
  for (const TokenId id : ids) pieces.push_back(decoder.Next(id));
  if (!pieces.empty()) pieces.back() += decoder.Flush();
  for (const std::string& piece : pieces) text += piece;
  if (!options.json) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return absl::OkStatus();
  }
  out["text"] = text;
  out["pieces"] = pieces;
  std::printf("%s\n", out.dump().c_str());
  return absl::OkStatus();
}

absl::Status Encode(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  std::string text;
  if (options.text) {
    text = *options.text;
  } else {
    ASSIGN_OR_RETURN(text, ReadWholeFile(options.text_file));
  }
  ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer.Encode(text, options.parse_special));
  if (!options.counts.empty()) {
    RETURN_IF_ERROR(WriteWholeFile(options.counts, CountsToJson(ids)));
    // Ids of a whole corpus would only fill the terminal.
    if (!options.json) return absl::OkStatus();
  }
  if (options.json) {
    std::printf("{\"token_ids\":%s}\n", TokensToJson(ids).c_str());
    return absl::OkStatus();
  }
  for (const TokenId id : ids) std::printf("%d\n", id);
  return absl::OkStatus();
}

absl::Status Tokenize(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(options.model));
  return options.decode_json.empty() ? Encode(*tokenizer, options) : Decode(*tokenizer, options);
}

}  // namespace

int Run(const TokenizeOptions& options) {
  const absl::Status done = Tokenize(options);
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
