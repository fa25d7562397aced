// Cuts text into the pieces inside which BPE merges: the Split patterns of tokenizer.json, one after the
// other, run by PCRE2's JIT. Thread-safe after Create.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace paceline {

// The split of a ByteLevel pre-tokenizer that uses its own regex.
inline constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class Pretokenizer {
 public:
  // InvalidArgument, without a code, when a pattern is not supported.
  static absl::StatusOr<std::unique_ptr<Pretokenizer>> Create(const std::vector<std::string>& patterns);
  ~Pretokenizer();

  // What one thread needs to split: costs some microseconds to make, outlived by its Pretokenizer.
  class Session {
   public:
    explicit Session(const Pretokenizer& pretokenizer);
    ~Session();
    // Calls `piece` for every piece of `text` (UTF-8) in order; none is empty. ResourceExhausted when a
    // pattern needs more steps or memory for this text than PCRE2 is allowed; some pieces have been reported
    // by then.
    absl::Status Split(std::string_view text, const std::function<void(std::string_view)>& piece);

   private:
    class Matcher;

    absl::Status SplitFrom(size_t level, std::string_view text,
                           const std::function<void(std::string_view)>& piece);

    std::vector<Matcher> matchers_;  // one per pattern
  };

 private:
  struct Pattern;

  Pretokenizer();

  std::vector<std::unique_ptr<Pattern>> patterns_;
};

}  // namespace paceline
