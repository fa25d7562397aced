// The keys that open the APIs, by name: who holds one may ask. They come from a file, never from the command
// line, where every process of the machine could read them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline {

// Thread-safe.
class ApiKeys {
 public:
  // No keys: everybody may ask.
  ApiKeys() = default;
  // One key a line, `NAME KEY` or the key alone (its name is then key-1, key-2, ..); # begins a comment.
  // CFG-002 names file and line: a key of fewer than 8 characters, a name or a key that stands there twice,
  // or a file without keys.
  static absl::StatusOr<ApiKeys> Load(const std::string& path);
  static absl::StatusOr<ApiKeys> Parse(std::string_view text, const std::string& file);

  bool empty() const { return keys_.empty(); }
  size_t size() const { return keys_.size(); }

  // The name of the key that a call shows: in its `authorization` header or metadata as `Bearer KEY`, or as
  // `Basic` with the key as password (browsers); or as it stands in `x_api_key` (Anthropic's clients), which
  // comes first. nullptr where it shows none that is known. Takes the same time for every key of a length,
  // known or not.
  const std::string* NameOf(std::string_view authorization, std::string_view x_api_key) const;

 private:
  struct Key {
    std::string name;
    std::string digest;  // SHA-256 in hex: what is compared has one length and says nothing about the key
  };
  std::vector<Key> keys_;
};

}  // namespace paceline
