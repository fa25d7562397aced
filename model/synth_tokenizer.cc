// A tokenizer that needs no training: one token per byte, and the added tokens of the Qwen3.5 family.
#include "model/synth_plan.h"
#include "nlohmann/json.hpp"

namespace paceline::synth {
namespace {

using Json = nlohmann::json;

struct Added {
  const char* text;
  bool special;
};
constexpr Added kAdded[] = {{"<|endoftext|>", true},    {"<|im_start|>", true},      {"<|im_end|>", true},
                            {"<|vision_start|>", true}, {"<|vision_end|>", true},    {"<|image_pad|>", true},
                            {"<|video_pad|>", true},    {"<tool_call>", false},      {"</tool_call>", false},
                            {"<tool_response>", false}, {"</tool_response>", false}, {"<think>", false},
                            {"</think>", false}};

// The byte-to-character alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest moves up to
// 256.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

Json AddedFields(const Added& added) {
  return {{"content", added.text}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false},       {"normalized", false},  {"special", added.special}};
}

}  // namespace

Json MakeTokenizer() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[ByteCharacter(byte)] = byte;
  Json added = Json::array();
  int64_t id = kEndOfText;
  for (const Added& token : kAdded) {
    Json fields = AddedFields(token);
    fields["id"] = id++;
    added.push_back(std::move(fields));
  }
  constexpr char kPattern[] =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kPattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}}},
          {"post_processor", nullptr},
          {"decoder",
           {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

Json MakeTokenizerConfig() {
  Json added = Json::object();
  int64_t id = kEndOfText;
  for (const Added& token : kAdded) added[std::to_string(id++)] = AddedFields(token);
  return {{"tokenizer_class", "Qwen2Tokenizer"},
          {"added_tokens_decoder", added},
          {"add_bos_token", false},
          {"add_prefix_space", false},
          {"bos_token", nullptr},
          {"eos_token", "<|im_end|>"},
          {"pad_token", "<|endoftext|>"},
          {"unk_token", nullptr},
          {"clean_up_tokenization_spaces", false},
          {"model_max_length", 262144},
          {"chat_template",
           "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
           "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"}};
}

Json MakeGenerationConfig() {
  return {{"bos_token_id", kEndOfText},
          {"pad_token_id", kEndOfText},
          {"eos_token_id", {kEndOfTurn, kEndOfText}},
          {"do_sample", true},
          {"temperature", 0.6},
          {"top_k", 20},
          {"top_p", 0.95}};
}

}  // namespace paceline::synth
