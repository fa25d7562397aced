#include "coordinator/tokenizer.h"

#include <array>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/added_tokens.h"
#include "coordinator/bpe.h"
#include "coordinator/byte_alphabet.h"
#include "coordinator/nfc.h"
#include "coordinator/pretokenizer.h"
#include "coordinator/tokenizer_json.h"
#include "coordinator/tokenizer_parts.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

constexpr int64_t kMaxTokenId = 1 << 22;      // largest published vocabularies are near 2^18
constexpr int64_t kMaxFileBytes = 512 << 20;  // likewise 20 MB
constexpr char32_t kReplacement = 0xFFFD;

absl::Status Bad(absl::string_view part, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(part, ": ", what));
}

// Two bytes of an encoded surrogate at the end of a stream. They can become nothing, yet they wait for the
// third: the goldens were made by CPython's incremental decoder, which holds them back.
bool IsHalfSurrogate(std::string_view text) {
  return text.size() == 2 && static_cast<uint8_t>(text[0]) == 0xED &&
         (static_cast<uint8_t>(text[1]) & 0xE0) == 0xA0;
}

// A token in a message: not longer than a line takes.
std::string Shown(std::string_view token) {
  constexpr size_t kMost = 60;
  size_t length = std::min(token.size(), kMost);
  while (length < token.size() && length > 0 && (static_cast<uint8_t>(token[length]) & 0xC0) == 0x80)
    --length;
  return absl::StrCat("'", absl::string_view(token.data(), length), length < token.size() ? "...'" : "'");
}

// id -> bytes, in one block.
class TokenTable {
 public:
  bool Has(TokenId id) const { return id >= 0 && id < size() && slots_[id].length >= 0; }
  int64_t size() const { return static_cast<int64_t>(slots_.size()); }
  std::string_view Bytes(TokenId id) const {
    if (!Has(id)) return {};
    return std::string_view(bytes_).substr(slots_[id].begin, slots_[id].length);
  }
  // `written` in the byte alphabet, or, with a character that is not of it, as it stands (as the package
  // decodes). True when it was of the alphabet.
  bool Add(TokenId id, std::string_view written) {
    if (id >= size()) slots_.resize(id + 1);
    const size_t begin = bytes_.size();
    const bool mapped = AppendAlphabetBytes(written, &bytes_);
    if (!mapped) bytes_ += written;
    slots_[id] = {begin, static_cast<int64_t>(bytes_.size() - begin)};
    return mapped;
  }

 private:
  struct Slot {
    size_t begin = 0;
    int64_t length = -1;  // bytes; -1: no such token
  };
  std::vector<Slot> slots_;
  std::string bytes_;
};

using Ids = absl::flat_hash_map<absl::string_view, TokenId>;

class BpeTokenizer final : public Tokenizer {
 public:
  // Errors as in tokenizer_json.h: without a code.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const TokenizerFile& file);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text, bool parse_special) const override;
  std::string_view TokenBytes(TokenId id) const override { return table_.Bytes(id); }
  bool HasToken(TokenId id) const override { return table_.Has(id); }
  bool IsSpecial(TokenId id) const override { return id >= 0 && id < table_.size() && special_[id]; }
  bool IsAdded(TokenId id) const override { return id >= 0 && id < table_.size() && added_[id]; }
  int64_t size() const override { return table_.size(); }
  std::span<const TokenId> ByRank() const override { return ranked_; }

 private:
  absl::Status ReadVocabulary(const TokenizerFile& file, const ModelOptions& options);
  absl::Status ReadAdded(const TokenizerFile& file, Ids ids);

  TokenTable table_;
  std::vector<bool> special_;    // [size()]
  std::vector<bool> added_;      // [size()]
  std::vector<TokenId> ranked_;  // bytes, then results of merges
  bool nfc_ = false;
  AddedTokenMatcher raw_added_;         // matched in the text as it comes
  AddedTokenMatcher normalized_added_;  // matched in what is left, normalised
  std::unique_ptr<Pretokenizer> pretokenizer_;
  std::unique_ptr<Bpe> bpe_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(const TokenizerFile& file) {
  std::unique_ptr<BpeTokenizer> result(new BpeTokenizer);
  ASSIGN_OR_RETURN(const ModelOptions options, ReadModelOptions(file.rest));
  ASSIGN_OR_RETURN(result->nfc_, ReadNormalizer(file.rest));
  ASSIGN_OR_RETURN(const std::vector<std::string> patterns, ReadPretokenizer(file.rest));
  auto pretokenizer = Pretokenizer::Create(patterns);
  if (!pretokenizer.ok()) return Bad("pre_tokenizer", pretokenizer.status().message());
  result->pretokenizer_ = *std::move(pretokenizer);
  RETURN_IF_ERROR(CheckDecoder(file.rest));
  RETURN_IF_ERROR(result->ReadVocabulary(file, options));
  return result;
}

absl::Status BpeTokenizer::ReadVocabulary(const TokenizerFile& file, const ModelOptions& options) {
  Ids ids;
  ids.reserve(file.vocab.size());
  std::array<TokenId, 256> byte_tokens;
  byte_tokens.fill(-1);
  absl::flat_hash_map<std::string, TokenId> whole;
  for (const auto& [written, id] : file.vocab) {
    if (id >= kMaxTokenId) {
      return Bad("model.vocab",
                 absl::StrCat(Shown(written), " has id ", id, ", expected less than ", kMaxTokenId));
    }
    const auto token = static_cast<TokenId>(id);
    if (table_.Has(token))
      return Bad("model.vocab",
                 absl::StrCat("id ", id, " belongs to two tokens, ", Shown(written), " is the second"));
    if (!ids.emplace(written, token).second)
      return Bad("model.vocab", absl::StrCat(Shown(written), " stands twice"));
    if (!table_.Add(token, written)) continue;
    const std::string_view bytes = table_.Bytes(token);
    if (bytes.size() == 1) byte_tokens[static_cast<uint8_t>(bytes[0])] = token;
    if (options.ignore_merges && !bytes.empty()) whole.emplace(std::string(bytes), token);
  }
  for (int b = 0; options.needs_all_bytes && b < 256; ++b) {
    if (byte_tokens[b] < 0) {
      return Bad("model.vocab", absl::StrCat("has no token for byte ", b,
                                             "; unk_token and byte_fallback are not supported"));
    }
  }
  std::vector<Bpe::Merge> merges;
  merges.reserve(file.merges.size());
  std::string joined;
  for (const auto& [left, right] : file.merges) {
    joined.assign(left).append(right);
    Bpe::Merge merge;
    const std::pair<absl::string_view, TokenId*> parts[] = {
        {left, &merge.left}, {right, &merge.right}, {joined, &merge.result}};
    for (const auto& [written, id] : parts) {
      auto it = ids.find(written);
      if (it == ids.end()) {
        return Bad(absl::StrCat("model.merges[", merges.size(), "]"),
                   absl::StrCat(Shown({written.data(), written.size()}), " is not in model.vocab"));
      }
      *id = it->second;
    }
    merges.push_back(merge);
  }
  std::vector<bool> seen(static_cast<size_t>(table_.size()));
  const auto rank = [&](TokenId id) {
    if (id < 0 || seen[static_cast<size_t>(id)]) return;
    seen[static_cast<size_t>(id)] = true;
    ranked_.push_back(id);
  };
  for (const TokenId id : byte_tokens) rank(id);
  for (const Bpe::Merge& merge : merges) rank(merge.result);
  bpe_ = std::make_unique<Bpe>(byte_tokens, merges, std::move(whole));
  return ReadAdded(file, std::move(ids));
}

absl::Status BpeTokenizer::ReadAdded(const TokenizerFile& file, Ids ids) {
  ASSIGN_OR_RETURN(const std::vector<AddedToken> tokens, ReadAddedTokens(file.rest));
  const auto vocabulary = static_cast<int64_t>(file.vocab.size());
  std::vector<AddedToken> raw, normalized;
  std::vector<TokenId> specials, added;
  absl::flat_hash_map<absl::string_view, TokenId> seen;
  int64_t next = vocabulary;  // where the package goes on counting
  for (size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& token = tokens[i];
    const std::string part = absl::StrCat("added_tokens[", i, "]");
    if (token.content.empty()) continue;
    if (!seen.emplace(token.content, token.id).second)
      return Bad(part, absl::StrCat(Shown(token.content), " stands twice"));
    // The package numbers added tokens itself and passes over the file's id; a file in which the two differ
    // would mean one thing to it and another to its author.
    auto known = ids.find(token.content);
    const int64_t expected = known != ids.end() ? known->second : next;
    if (token.id != expected) {
      return Bad(
          absl::StrCat(part, ".id"),
          absl::StrCat(Shown(token.content), " has id ", token.id, ", expected ", expected,
                       known != ids.end() ? " as in model.vocab" : ", the next one behind the vocabulary"));
    }
    next = std::max(next, expected + 1);
    if (known == ids.end()) {
      if (expected >= kMaxTokenId)
        return Bad(part, absl::StrCat("has an id that is not less than ", kMaxTokenId));
      if (table_.Has(token.id))
        return Bad(absl::StrCat(part, ".id"), absl::StrCat(token.id, " belongs to another token already"));
    }
    if (token.special) specials.push_back(token.id);
    added.push_back(token.id);
    AddedToken matched = token;
    if (token.normalized && nfc_) {
      ASSIGN_OR_RETURN(matched.content, NormalizeNfc(token.content));
    }
    // Decoding shows what is matched, the normalised content, as in the package.
    if (known == ids.end()) table_.Add(token.id, matched.content);
    (token.normalized ? normalized : raw).push_back(std::move(matched));
  }
  special_.assign(table_.size(), false);
  for (TokenId id : specials) special_[id] = true;
  added_.assign(table_.size(), false);
  for (TokenId id : added) added_[id] = true;
  raw_added_ = AddedTokenMatcher(std::move(raw));
  normalized_added_ = AddedTokenMatcher(std::move(normalized));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TokenId>> BpeTokenizer::Encode(std::string_view text, bool parse_special) const {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return Error(errors::kRequestField,
                 absl::StrCat("the text is not UTF-8: byte ", valid, " belongs to no character"));
  }
  std::vector<TokenId> ids;
  Pretokenizer::Session session(*pretokenizer_);
  const auto merge = [&](std::string_view piece) { bpe_->Encode(piece, &ids); };
  std::vector<TextSpan> raw, normalized;
  raw_added_.Split(text, !parse_special, &raw);
  for (const TextSpan& span : raw) {
    if (span.id >= 0) {
      ids.push_back(span.id);
      continue;
    }
    std::string composed;
    std::string_view plain = span.text;
    if (nfc_) {
      ASSIGN_OR_RETURN(composed, NormalizeNfc(plain));
      plain = composed;
    }
    normalized.clear();
    normalized_added_.Split(plain, !parse_special, &normalized);
    for (const TextSpan& inner : normalized) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
      } else if (absl::Status status = session.Split(inner.text, merge); !status.ok()) {
        return Error(errors::kRequestField, std::string(status.message()));
      }
    }
  }
  return ids;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  std::ifstream in(path, std::ios::binary);
  if (!in)
    return Error(errors::kModelMissing,
                 absl::StrCat(path, " cannot be read: a model folder needs a tokenizer.json"));
  std::string text;
  std::array<char, 1 << 16> block;
  while (in.read(block.data(), block.size()) || in.gcount() > 0) {
    text.append(block.data(), in.gcount());
    if (static_cast<int64_t>(text.size()) > kMaxFileBytes) {
      return Error(errors::kTokenizer,
                   absl::StrCat(path, ": the file: is larger than ", kMaxFileBytes, " bytes"));
    }
  }
  if (in.bad()) return Error(errors::kModelMissing, absl::StrCat(path, " cannot be read to its end"));
  return Parse(text, path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Parse(std::string_view tokenizer_json,
                                                            const std::string& file_name) {
  const auto coded = [&](const absl::Status& status) {
    return Error(errors::kTokenizer, absl::StrCat(file_name, ": ", status.message()));
  };
  auto file = ReadTokenizerFile(tokenizer_json);
  if (!file.ok()) return coded(file.status());
  auto tokenizer = BpeTokenizer::Create(*file);
  if (!tokenizer.ok()) return coded(tokenizer.status());
  return tokenizer;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids) const {
  StreamDecoder decoder(*this);
  std::string text;
  for (TokenId id : ids) text += decoder.Next(id);
  return text + decoder.Flush();
}

std::string StreamDecoder::Next(TokenId id) {
  tail_ += tokenizer_.TokenBytes(id);
  std::string piece;
  std::string_view rest = tail_;
  while (!rest.empty()) {
    const Utf8Unit unit = ReadUtf8(rest);
    if (unit.kind == Utf8Kind::kUnfinished || IsHalfSurrogate(rest)) break;
    AppendUtf8(unit.kind == Utf8Kind::kValid ? unit.code_point : kReplacement, &piece);
    rest.remove_prefix(unit.length);
  }
  tail_ = std::string(rest);
  return piece;
}

std::string StreamDecoder::Flush() {
  std::string piece;
  for (std::string_view rest = tail_; !rest.empty();) {
    rest.remove_prefix(ReadUtf8(rest).length);
    AppendUtf8(kReplacement, &piece);
  }
  tail_.clear();
  return piece;
}

}  // namespace paceline
