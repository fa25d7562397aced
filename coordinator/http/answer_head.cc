#include "coordinator/http/answer_head.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/sampling_defaults.h"

namespace paceline {
namespace {

Json BytesOf(std::string_view bytes) {
  Json array = Json::array();
  for (const char c : bytes) array.push_back(static_cast<unsigned char>(c));
  return array;
}

Json Entry(const Tokenizer* tokenizer, TokenId id, float logprob) {
  return {{"token", TokenText(tokenizer, id)},
          {"logprob", logprob},
          {"bytes", tokenizer == nullptr ? Json(nullptr) : BytesOf(tokenizer->TokenBytes(id))}};
}

}  // namespace

std::string RandomHex() {
  return absl::StrFormat("%016x%08x", RandomSeed(), static_cast<uint32_t>(RandomSeed()));
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

AnswerHead AnswerHead::Make(const std::string& prefix, const std::string& object, const std::string& model,
                            const std::string& fingerprint) {
  AnswerHead head;
  head.id = prefix + RandomHex();
  head.object = object;
  head.created = UnixSeconds();
  head.model = model;
  head.fingerprint = "fp_" + fingerprint.substr(0, 12);
  return head;
}

Json AnswerHead::Members() const {
  return {{"id", id},
          {"object", object},
          {"created", created},
          {"model", model},
          {"system_fingerprint", fingerprint}};
}

const char* FinishReasonWord(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
    case FinishReason::kTimeLimit:
    case FinishReason::kCancelled:
      break;
  }
  return "length";
}

Json StopReason(const StopMatch& match) {
  if (match.stop_string) return *match.stop_string;
  if (match.stop_token) return *match.stop_token;
  return nullptr;
}

std::string TokenText(const Tokenizer* tokenizer, TokenId id) {
  if (tokenizer == nullptr) return absl::StrCat("token_id:", id);
  return tokenizer->Decode(std::span<const TokenId>(&id, 1));
}

Json LogprobEntry(const Tokenizer* tokenizer, const GeneratedToken& token) {
  Json entry = Entry(tokenizer, token.id, token.logprob.value_or(0.0f));
  entry["top_logprobs"] = Json::array();
  for (const Candidate& candidate : token.top)
    entry["top_logprobs"].push_back(Entry(tokenizer, candidate.token, candidate.logprob));
  return entry;
}

Json PromptLogprobs(const Tokenizer* tokenizer, const std::vector<PromptToken>& tokens) {
  Json list = Json::array();
  for (const PromptToken& token : tokens) {
    if (!token.logprob) {
      list.push_back(nullptr);
      continue;
    }
    Json entry = Json::object();
    const auto add = [&](TokenId id, float logprob, int32_t rank) {
      entry[std::to_string(id)] = {
          {"logprob", logprob}, {"rank", rank}, {"decoded_token", TokenText(tokenizer, id)}};
    };
    add(token.id, *token.logprob, token.rank);
    int32_t rank = 0;
    for (const Candidate& candidate : token.top) {
      ++rank;
      if (candidate.token != token.id) add(candidate.token, candidate.logprob, rank);
    }
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace paceline
