#include "coordinator/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/split_pattern.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;  // backtracking steps of one match
constexpr uint32_t kHeapLimitKib = 64 << 10;  // of one match by the interpreter
constexpr size_t kJitStackStart = 32 << 10;   // bytes
constexpr size_t kJitStackMax = 4 << 20;      // bytes

struct FreeCode {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeContext {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

std::string PcreMessage(int code) {
  PCRE2_UCHAR buffer[256];
  if (pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0) return absl::StrCat("PCRE2 error ", code);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Pretokenizer::Pattern {
  std::unique_ptr<pcre2_code, FreeCode> code;
};

// Runs one pattern.
class Pretokenizer::Session::Matcher {
 public:
  explicit Matcher(const Pattern& pattern)
      : code_(pattern.code.get()),
        context_(pcre2_match_context_create(nullptr)),
        data_(pcre2_match_data_create(1, nullptr)),
        stack_(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)) {
    if (context_ == nullptr) return;
    pcre2_set_match_limit(context_.get(), kMatchLimit);
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
    if (stack_ != nullptr) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  // True with the bounds of the first match at or behind `from`.
  absl::StatusOr<bool> Find(std::string_view text, size_t from, size_t* begin, size_t* end) {
    if (context_ == nullptr || data_ == nullptr || stack_ == nullptr) {
      return absl::ResourceExhaustedError("no memory to split the text");
    }
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int rc = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
    // The interpreter keeps its backtracking on the heap, of which it may have more.
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
      rc = pcre2_match(code_, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data_.get(),
                       context_.get());
    }
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the split pattern of tokenizer.json cannot cut this text at byte ", from, ": ", PcreMessage(rc)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
    *begin = bounds[0];
    *end = bounds[1];
    return true;
  }

 private:
  const pcre2_code* code_;
  std::unique_ptr<pcre2_match_context, FreeContext> context_;
  std::unique_ptr<pcre2_match_data, FreeContext> data_;
  std::unique_ptr<pcre2_jit_stack, FreeContext> stack_;
};

Pretokenizer::Pretokenizer() = default;
Pretokenizer::~Pretokenizer() = default;

absl::StatusOr<std::unique_ptr<Pretokenizer>> Pretokenizer::Create(const std::vector<std::string>& patterns) {
  std::unique_ptr<Pretokenizer> result(new Pretokenizer);
  for (const std::string& source : patterns) {
    ASSIGN_OR_RETURN(const std::string rewritten, RewriteSplitPattern(source));
    std::unique_ptr<pcre2_compile_context, FreeContext> context(pcre2_compile_context_create(nullptr));
    if (context == nullptr) return absl::ResourceExhaustedError("no memory to compile the pattern");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE at = 0;
    auto pattern = std::make_unique<Pattern>();
    pattern->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                                      PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &at, context.get()));
    if (pattern->code == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("the pattern is not usable: ", PcreMessage(error)));
    }
    // Without JIT (a kernel that forbids it) the interpreter does the same, slower.
    pcre2_jit_compile(pattern->code.get(), PCRE2_JIT_COMPLETE);
    result->patterns_.push_back(std::move(pattern));
  }
  return result;
}

Pretokenizer::Session::Session(const Pretokenizer& pretokenizer) {
  matchers_.reserve(pretokenizer.patterns_.size());
  for (const auto& pattern : pretokenizer.patterns_) matchers_.emplace_back(*pattern);
}

Pretokenizer::Session::~Session() = default;

absl::Status Pretokenizer::Session::Split(std::string_view text,
                                          const std::function<void(std::string_view)>& piece) {
  return SplitFrom(0, text, piece);
}

absl::Status Pretokenizer::Session::SplitFrom(size_t level, std::string_view text,
                                              const std::function<void(std::string_view)>& piece) {
  if (text.empty()) return absl::OkStatus();
  if (level == matchers_.size()) {
    piece(text);
    return absl::OkStatus();
  }
  // Behaviour Isolated: every match is a piece, and so is what lies between two. An empty match cuts, too.
  size_t done = 0;
  size_t from = 0;
  while (from <= text.size()) {
    size_t begin = 0, end = 0;
    ASSIGN_OR_RETURN(const bool found, matchers_[level].Find(text, from, &begin, &end));
    if (!found) break;
    RETURN_IF_ERROR(SplitFrom(level + 1, text.substr(done, begin - done), piece));
    RETURN_IF_ERROR(SplitFrom(level + 1, text.substr(begin, end - begin), piece));
    done = end;
    if (end > begin) {
      from = end;
    } else if (end == text.size()) {
      break;
    } else {
      from = end + ReadUtf8(text.substr(end)).length;
    }
  }
  return SplitFrom(level + 1, text.substr(done), piece);
}

}  // namespace paceline
