#include "coordinator/grammar/constraint.h"

#include <algorithm>
#include <list>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/grammar/ebnf.h"
#include "coordinator/grammar/json_schema.h"
#include "coordinator/grammar/json_text.h"
#include "coordinator/grammar/matcher.h"
#include "coordinator/grammar/regex.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

constexpr size_t kMaxText = 256 << 10;  // bytes of a schema or a grammar, and of all choices together
constexpr size_t kMaxRegex = 16 << 10;
constexpr size_t kMaxChoices = 4096;
constexpr size_t kMaxMarker = 64;   // bytes
constexpr size_t kRemembered = 16;  // compiled grammars; each may come to some tens of MB
// Templates put line breaks between the end of thinking and the answer, and so do models.
constexpr int32_t kLineBreaksBehindMarker = 2;

constexpr char kThink[] = "<think>";
constexpr char kEndOfThinking[] = "</think>";

absl::Status CheckSize(const ConstraintSpec& spec) {
  const bool regex = spec.kind == ConstraintSpec::Kind::kRegex;
  const size_t most = regex ? kMaxRegex : kMaxText;
  size_t bytes = spec.text.size();
  for (const std::string& choice : spec.choices) bytes += choice.size();
  if (bytes > most)
    return absl::InvalidArgumentError(absl::StrCat("expected at most ", most, " bytes, got ", bytes));
  if (spec.after && spec.after->size() > kMaxMarker) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected at most ", kMaxMarker, " bytes in 'after', got ", spec.after->size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Expression> ReadChoices(const std::vector<std::string>& choices) {
  if (choices.empty() || choices.size() > kMaxChoices)
    return absl::InvalidArgumentError(
        absl::StrCat("expected 1 to ", kMaxChoices, " options, got ", choices.size()));
  std::vector<Expression> made;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (const size_t valid = ValidUtf8Prefix(choices[i]); valid != choices[i].size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("option ", i, " is not UTF-8: byte ", valid, " belongs to no character"));
    }
    made.push_back(Literal(choices[i]));
  }
  return ChoiceOf(std::move(made));
}

absl::StatusOr<Grammar> ReadGrammar(const ConstraintSpec& spec, bool delayed) {
  GrammarBuilder builder;
  int32_t root = -1;
  switch (spec.kind) {
    case ConstraintSpec::Kind::kNone:
      return absl::InvalidArgumentError("asks for nothing");
    case ConstraintSpec::Kind::kJsonSchema: {
      ASSIGN_OR_RETURN(root, ParseJsonSchema(spec.text, builder));
      break;
    }
    case ConstraintSpec::Kind::kJsonObject:
      root = builder.AddRule("root");
      builder.Define(root, JsonText(builder).AnyObject());
      break;
    case ConstraintSpec::Kind::kRegex: {
      ASSIGN_OR_RETURN(Expression whole, ParseRegex(spec.text, RegexMatch::kWhole));
      root = builder.AddRule("root");
      builder.Define(root, std::move(whole));
      break;
    }
    case ConstraintSpec::Kind::kEbnf: {
      ASSIGN_OR_RETURN(root, ParseEbnf(spec.text, builder));
      break;
    }
    case ConstraintSpec::Kind::kChoice: {
      ASSIGN_OR_RETURN(Expression whole, ReadChoices(spec.choices));
      root = builder.AddRule("root");
      builder.Define(root, std::move(whole));
      break;
    }
  }
  if (delayed) {
    const int32_t inner = root;
    root = builder.AddRule("root behind line breaks");
    builder.Define(root, SequenceOf({RepeatOf(Literal("\n"), 0, kLineBreaksBehindMarker), CallOf(inner)}));
  }
  return builder.Build(root);
}

// All that decides what the grammar is.
std::string KeyOf(const ConstraintSpec& spec, bool delayed) {
  std::string key = absl::StrCat(static_cast<int>(spec.kind), delayed ? "+" : "-", spec.text);
  for (const std::string& choice : spec.choices) absl::StrAppend(&key, choice.size(), ":", choice);
  return key;
}

// The last few things made, the last used in front.
template <class Made>
class Recent {
 public:
  // Null when it is not here.
  std::shared_ptr<Made> Find(const std::string& key) {
    const auto at =
        std::find_if(all_.begin(), all_.end(), [&](const auto& entry) { return entry.first == key; });
    if (at == all_.end()) return nullptr;
    all_.splice(all_.begin(), all_, at);
    return at->second;
  }
  void Add(std::string key, std::shared_ptr<Made> made) {
    all_.emplace_front(std::move(key), std::move(made));
    if (all_.size() > kRemembered) all_.pop_back();
  }

 private:
  std::list<std::pair<std::string, std::shared_ptr<Made>>> all_;
};

}  // namespace

struct ConstraintCompiler::State {
  const Tokenizer* const tokenizer;
  const int64_t vocab;
  std::mutex mutex;                          // guards what follows; a compilation holds it
  std::shared_ptr<const TokenBytes> tokens;  // made when it is first needed
  Recent<MaskSource> sources;
  Recent<const DelayedConstraint> delayed;

  absl::StatusOr<std::shared_ptr<const Constraint>> Compile(const ConstraintSpec& spec,
                                                            const std::string& marker, StopIds stops);
  absl::StatusOr<std::shared_ptr<MaskSource>> SourceOf(const ConstraintSpec& spec, const std::string& key,
                                                       bool delayed_by_marker);
  // Whether the prompt ends in a block of thinking that has not been closed.
  bool IsThinking(std::span<const TokenId> prompt) const;
};

// One at a time: a second request for the same grammar finds it made, and requests together take one core.
absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::State::Compile(
    const ConstraintSpec& spec, const std::string& marker, StopIds stops) {
  const std::lock_guard lock(mutex);
  std::string key = KeyOf(spec, !marker.empty());
  ASSIGN_OR_RETURN(std::shared_ptr<MaskSource> source, SourceOf(spec, key, !marker.empty()));
  if (marker.empty()) return std::make_shared<const GrammarConstraint>(std::move(source), std::move(stops));
  absl::StrAppend(&key, "\n", absl::StrJoin(stops, ","), "\n", marker);
  if (auto known = delayed.Find(key); known != nullptr) return known;
  auto behind = std::make_shared<const GrammarConstraint>(std::move(source), std::move(stops));
  auto made = std::make_shared<const DelayedConstraint>(std::move(behind), marker, *tokenizer, vocab);
  delayed.Add(std::move(key), made);
  return made;
}

absl::StatusOr<std::shared_ptr<MaskSource>> ConstraintCompiler::State::SourceOf(const ConstraintSpec& spec,
                                                                                const std::string& key,
                                                                                bool delayed_by_marker) {
  if (auto known = sources.Find(key); known != nullptr) return known;
  ASSIGN_OR_RETURN(Grammar grammar, ReadGrammar(spec, delayed_by_marker));
  if (tokens == nullptr) tokens = std::make_shared<const TokenBytes>(*tokenizer, vocab);
  auto made = std::make_shared<MaskSource>(std::move(grammar), tokens);
  RETURN_IF_ERROR(made->Prepare());
  sources.Add(key, made);
  return made;
}

bool ConstraintCompiler::State::IsThinking(std::span<const TokenId> prompt) const {
  // Special tokens mark turns: a <think> in front of the last one is somebody's words.
  for (size_t i = prompt.size(); i-- > 0;) {
    const std::string_view bytes = tokenizer->TokenBytes(prompt[i]);
    if (tokenizer->IsAdded(prompt[i]) && bytes == kThink) return true;
    if (tokenizer->IsAdded(prompt[i]) && bytes == kEndOfThinking) return false;
    if (tokenizer->IsSpecial(prompt[i])) return false;
  }
  return false;
}

ConstraintCompiler::ConstraintCompiler(const Tokenizer* tokenizer, int64_t vocab)
    : state_(new State{tokenizer, vocab, {}, nullptr, {}, {}}) {}
ConstraintCompiler::~ConstraintCompiler() = default;

absl::StatusOr<std::shared_ptr<const Constraint>> ConstraintCompiler::Compile(
    const ConstraintSpec& spec, std::span<const TokenId> prompt, std::span<const TokenId> stops) {
  if (spec.kind == ConstraintSpec::Kind::kNone) return nullptr;
  if (state_->tokenizer == nullptr)
    return absl::InvalidArgumentError("this model has no tokenizer, so no text to constrain");
  RETURN_IF_ERROR(CheckSize(spec));
  std::string marker = spec.after.value_or("");
  if (!spec.after && state_->IsThinking(prompt)) marker = kEndOfThinking;
  StopIds ids(stops.begin(), stops.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  // Ids the model does not have end nothing.
  std::erase_if(ids, [&](TokenId id) { return id < 0 || id >= state_->vocab; });
  return state_->Compile(spec, marker, std::move(ids));
}

}  // namespace paceline
