// What all frames and bodies of one answer have in common, and the parts of logprobs that OpenAI's endpoints
// share.
#pragma once

#include <cstdint>
#include <string>

#include "coordinator/chat.h"
#include "coordinator/request.h"
#include "coordinator/tokenizer.h"

namespace paceline {

struct AnswerHead {
  std::string id;      // "chatcmpl-.."
  std::string object;  // "chat.completion.chunk"
  int64_t created = 0;
  std::string model;        // as the client called it
  std::string fingerprint;  // of the arithmetic

  // A new one: its own id with `prefix`, the time.
  static AnswerHead Make(const std::string& prefix, const std::string& object, const std::string& model,
                         const std::string& fingerprint);
  // The members by which a frame or a body begins.
  Json Members() const;
};

// 24 random hexadecimal digits.
std::string RandomHex();
// Seconds since 1970.
int64_t UnixSeconds();

// OpenAI's word.
const char* FinishReasonWord(FinishReason reason);
// vLLM's stop_reason: the string or the id that stopped the text; null for the end of text and for limits.
Json StopReason(const StopMatch& match);

// A token as logprobs show it: its own text, U+FFFD where its bytes are no whole character, and the bytes.
std::string TokenText(const Tokenizer* tokenizer, TokenId id);
// {"token", "logprob", "bytes", "top_logprobs"} with `top` candidates.
Json LogprobEntry(const Tokenizer* tokenizer, const GeneratedToken& token);
// vLLM's prompt_logprobs: null for the first token, then an object by token id, of the token itself and of
// the candidates, each with logprob, rank and decoded_token.
Json PromptLogprobs(const Tokenizer* tokenizer, const std::vector<PromptToken>& tokens);

}  // namespace paceline
