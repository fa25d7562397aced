// A SAX reader that builds the document itself, because the library's own builder lets a repeated key win
// silently.
#include "model/json_guard.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using Json = nlohmann::json;

// The text around a mistake: a person looks for "rms_norm_eps": NaN, not for byte 1312.
std::string Excerpt(std::string_view text, size_t position) {
  const size_t begin = position > 40 ? position - 40 : 0;
  if (begin >= text.size()) return "";
  return absl::StrCat(", near: ", Printable(text.substr(begin, 48)));
}

class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

  bool null() override { return Put(nullptr) != nullptr; }
  bool boolean(bool value) override { return Put(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Put(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Put(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Put(value) != nullptr; }
  bool string(string_t& value) override { return Put(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) {
      problem_ = absl::StrCat("the key \"", Printable(name), "\" occurs twice in one object");
      return false;
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    problem_ = absl::StrCat("not valid JSON at byte ", position, Excerpt(text_, position));
    return false;
  }

  Json root;
  const std::string& problem() const { return problem_; }

 private:
  Json* Put(Json value) {
    if (open_.empty()) return &(root = std::move(value));
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool Open(Json value) {
    open_.push_back(Put(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::vector<Json*> open_;  // a child is always the last element of its parent, so these stay valid
  std::string key_;
  std::string problem_;
};

}  // namespace

std::string Printable(std::string_view name) {
  constexpr size_t kLongest = 300;
  std::string out;
  for (const char c : name.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&out, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      out += c;
    }
  }
  if (name.size() > kLongest) out += "...";
  return out;
}

absl::Status CheckNesting(std::string_view text, const ErrorCode& code, const std::string& what) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonNesting) {
        return Error(code,
                     absl::StrCat(what, ": nested deeper than ", kMaxJsonNesting, " levels at byte ", i));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseJson(std::string_view text, int64_t max_bytes, const ErrorCode& code,
                               const std::string& what) {
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return Error(code,
                 absl::StrCat(what, ": ", text.size(), " bytes of JSON; at most ", max_bytes, " are read"));
  }
  if (absl::Status status = CheckNesting(text, code, what); !status.ok()) return status;
  Builder builder(text);
  try {
    if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
      return Error(code, absl::StrCat(what, ": ", builder.problem()));
    }
  } catch (const std::exception& e) {
    return Error(code, absl::StrCat(what, ": not valid JSON: ", Printable(e.what())));
  }
  return std::move(builder.root);
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes, const ErrorCode& code) {
  struct stat facts{};
  if (::stat(path.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return Error(errors::kModelMissing, absl::StrCat(path, ": expected a file, but it is ",
                                                     errno == ENOENT ? "not there" : "not readable",
                                                     "; give the folder of a Hugging Face checkpoint"));
  }
  if (facts.st_size > max_bytes) {
    return Error(code, absl::StrCat(path, ": ", facts.st_size, " bytes; at most ", max_bytes, " are read"));
  }
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
  if (file == nullptr) {
    return Error(errors::kModelMissing, absl::StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  }
  std::string text(static_cast<size_t>(facts.st_size), '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  return text;
}

}  // namespace paceline
