// Keys are kept and compared as digests.
#include "coordinator/api_keys.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/sha256.h"
#include "coordinator/http/message.h"

namespace paceline {
namespace {

constexpr size_t kMinKeyBytes = 8;

std::string DigestOf(std::string_view key) {
  Sha256 hash;
  hash.Add(key);
  return hash.Hex();
}

bool SameInConstantTime(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;  // digests: never
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

// What follows `scheme` in an Authorization header, or "".
std::string_view Credentials(std::string_view header, std::string_view scheme) {
  if (header.size() <= scheme.size() || header[scheme.size()] != ' ') return {};
  const absl::string_view front(header.data(), scheme.size());
  if (!absl::EqualsIgnoreCase(front, absl::string_view(scheme.data(), scheme.size()))) return {};
  header.remove_prefix(scheme.size());
  while (!header.empty() && header.front() == ' ') header.remove_prefix(1);
  return header;
}

std::string ShownKey(std::string_view authorization, std::string_view x_api_key) {
  if (!x_api_key.empty()) return std::string(x_api_key);
  if (const std::string_view key = Credentials(authorization, "Bearer"); !key.empty())
    return std::string(key);
  std::string user_and_key;
  if (DecodeBase64(Credentials(authorization, "Basic"), &user_and_key)) {
    const size_t colon = user_and_key.find(':');
    if (colon != std::string::npos) return user_and_key.substr(colon + 1);
  }
  return {};
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    return Error(
        errors::kOption,
        absl::StrCat(path, ": the file of API keys cannot be read; check the path and its permissions"));
  }
  return Parse(text.str(), path);
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text, const std::string& file) {
  ApiKeys keys;
  int number = 0;
  for (const absl::string_view whole : absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    const auto fail = [&](const std::string& sentence) {
      return Error(errors::kOption, absl::StrCat(file, ", line ", number, ": ", sentence));
    };
    const absl::string_view line = absl::StripAsciiWhitespace(whole.substr(0, whole.find('#')));
    if (line.empty()) continue;
    const std::vector<std::string> words = absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    if (words.size() > 2) return fail("expected `NAME KEY` or a key alone");
    Key key;
    key.name = words.size() == 2 ? words[0] : absl::StrCat("key-", keys.size() + 1);
    if (words.back().size() < kMinKeyBytes) {
      return fail(absl::StrCat("a key needs at least ", kMinKeyBytes,
                               " characters; make one with `openssl rand -hex 24`"));
    }
    key.digest = DigestOf(words.back());
    for (const Key& other : keys.keys_) {
      if (other.name == key.name)
        return fail(absl::StrCat("the name ", key.name, " stands in the file twice"));
      if (other.digest == key.digest)
        return fail(absl::StrCat("the key is the same as that of ", other.name, "; make another"));
    }
    keys.keys_.push_back(std::move(key));
  }
  if (keys.empty()) {
    return Error(
        errors::kOption,
        absl::StrCat(file, ": holds no key; write one a line, `NAME KEY`, or leave --api-keys-file out"));
  }
  return keys;
}

const std::string* ApiKeys::NameOf(std::string_view authorization, std::string_view x_api_key) const {
  const std::string digest = DigestOf(ShownKey(authorization, x_api_key));
  const std::string* name = nullptr;
  for (const Key& key : keys_) {
    if (SameInConstantTime(key.digest, digest)) name = &key.name;
  }
  return name;
}

}  // namespace paceline
