#include "coordinator/tokenizer_json.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace paceline {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;  // of objects and arrays in one another; real files reach 7

// Receives the parser's events. Every method returns false to stop it, with `error_` saying why.
class Reader {
 public:
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  explicit Reader(TokenizerFile* file) : file_(file) {}
  const std::string& error() const { return error_; }

  bool null() { return Value("null", json(nullptr)); }
  bool boolean(bool value) { return Value("a boolean", json(value)); }
  bool number_integer(number_integer_t value) { return Value("a negative number", json(value)); }
  bool number_unsigned(number_unsigned_t value) {
    if (mode_ != Mode::kVocab) return Value("a number", json(value));
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<int64_t>::max())) {
      return Fail("model.vocab", "holds an id that is too large");
    }
    file_->vocab.emplace_back(std::move(key_), static_cast<int64_t>(value));
    return true;
  }
  bool number_float(number_float_t value, const string_t&) {
    return Value("a number that is no id", json(value));
  }
  bool binary(binary_t&) { return Fail("the file", "is not JSON"); }

  bool string(string_t& value) {
    if (mode_ == Mode::kMergePair) {
      if (merge_parts_ == 2) return Fail(MergeName(), "has more than two parts");
      (merge_parts_++ == 0 ? merge_.first : merge_.second) = std::move(value);
      return true;
    }
    if (mode_ != Mode::kMerges) return Value("a string", json(std::move(value)));
    if (value.starts_with("#version")) return true;  // the first line of a merges.txt, carried over
    const size_t space = value.find(' ');
    if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) {
      return Fail(MergeName(), "is not two tokens with one space between them");
    }
    file_->merges.emplace_back(value.substr(0, space), value.substr(space + 1));
    return true;
  }

  bool start_object(size_t) {
    if (mode_ == Mode::kTree && InModel("vocab")) {
      if (!Claim(&vocab_seen_, "model.vocab")) return false;
      mode_ = Mode::kVocab;
      return true;
    }
    return Open(json::object());
  }
  bool key(string_t& value) {
    key_ = std::move(value);
    return true;
  }
  bool end_object() { return Close(); }

  bool start_array(size_t) {
    if (mode_ == Mode::kTree && InModel("merges")) {
      if (!Claim(&merges_seen_, "model.merges")) return false;
      mode_ = Mode::kMerges;
      return true;
    }
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kMergePair;
      merge_parts_ = 0;
      return true;
    }
    return Open(json::array());
  }
  bool end_array() {
    if (mode_ == Mode::kMergePair) {
      if (merge_parts_ != 2) return Fail(MergeName(), "has fewer than two parts");
      file_->merges.push_back(std::move(merge_));
      mode_ = Mode::kMerges;
      return true;
    }
    return Close();
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& exception) {
    // 406: a number that no type holds.
    return Fail("the file", absl::StrCat(exception.id == 406 ? "holds a number out of range"
                                                             : "is not valid JSON in UTF-8",
                                         " at byte ", position));
  }

  absl::Status Check() const {
    if (!error_.empty()) return absl::InvalidArgumentError(error_);
    if (!file_->rest.is_object()) return absl::InvalidArgumentError("the file: is not a JSON object");
    if (!vocab_seen_) return absl::InvalidArgumentError("model.vocab: is missing or not an object");
    if (!merges_seen_) return absl::InvalidArgumentError("model.merges: is missing or not an array");
    return absl::OkStatus();
  }

 private:
  enum class Mode : uint8_t { kTree, kVocab, kMerges, kMergePair };

  bool Fail(std::string_view part, std::string_view what) {
    error_ = absl::StrCat(absl::string_view(part.data(), part.size()), ": ",
                          absl::string_view(what.data(), what.size()));
    return false;
  }

  std::string MergeName() const { return absl::StrCat("model.merges[", file_->merges.size(), "]"); }

  bool InModel(std::string_view name) const {
    return open_.size() == 2 && open_key_ == "model" && key_ == name;
  }

  bool Claim(bool* seen, std::string_view part) {
    if (*seen) return Fail(part, "stands twice");
    return *seen = true;
  }

  // Puts `value` where the tree stands; null when the key stands twice.
  json* Place(json value) {
    if (open_.empty()) {
      file_->rest = std::move(value);
      return &file_->rest;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    const auto [it, added] = parent.emplace(key_, std::move(value));
    if (!added) Fail(key_, "stands twice in one object");
    return added ? &*it : nullptr;
  }

  bool Value(std::string_view kind, json value) {
    switch (mode_) {
      case Mode::kVocab:
        return Fail("model.vocab", absl::StrCat("holds ", std::string(kind), " where an id was expected"));
      case Mode::kMerges:
      case Mode::kMergePair:
        return Fail(MergeName(), absl::StrCat("is ", std::string(kind)));
      case Mode::kTree:
        break;
    }
    return Place(std::move(value)) != nullptr;
  }

  bool Open(json empty) {
    if (mode_ != Mode::kTree) return Value(empty.is_array() ? "an array" : "an object", json());
    if (open_.size() == kMaxDepth)
      return Fail("the file", absl::StrCat("is nested more than ", kMaxDepth, " deep"));
    if (open_.size() == 1) open_key_ = key_;
    json* placed = Place(std::move(empty));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    return true;
  }

  bool Close() {
    if (mode_ == Mode::kTree) {
      open_.pop_back();
    } else {
      mode_ = Mode::kTree;
    }
    return true;
  }

  TokenizerFile* file_;
  Mode mode_ = Mode::kTree;
  std::vector<json*> open_;  // from the root to where the tree stands; a node does not move while it is open
  std::string open_key_;     // the key below the root under which it stands
  std::string key_;
  std::pair<std::string, std::string> merge_;
  int merge_parts_ = 0;
  bool vocab_seen_ = false, merges_seen_ = false;
  std::string error_;
};

}  // namespace

absl::StatusOr<TokenizerFile> ReadTokenizerFile(std::string_view text) {
  TokenizerFile file;
  Reader reader(&file);
  json::sax_parse(text.begin(), text.end(), &reader);
  if (absl::Status status = reader.Check(); !status.ok()) return status;
  return file;
}

}  // namespace paceline
