#include "coordinator/grammar/ebnf.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/grammar/regex.h"
#include "coordinator/grammar/text_cursor.h"

namespace paceline {
namespace {

constexpr int kMaxNesting = 100;
constexpr int32_t kMaxCount = 10'000;
constexpr size_t kMaxRules = 10'000;
// A rule that calls no others and is this small stands in place of its calls: what may follow a token is
// then known without looking back at who called.
constexpr size_t kInlineParts = 24;
constexpr int kInlineRounds = 4;
constexpr int64_t kMaxInlined = 20'000;  // parts

size_t PartsOf(const Expression& e) {
  size_t parts = 1 + e.bytes.size() / 8;
  for (const Expression& part : e.parts) parts += PartsOf(part);
  return e.kind == Expression::Kind::kRepeat && e.max != kUnbounded
             ? parts * static_cast<size_t>(std::max(1, e.max))
             : parts;
}

bool Calls(const Expression& e) {
  return e.kind == Expression::Kind::kRule || std::any_of(e.parts.begin(), e.parts.end(), Calls);
}

class EbnfParser {
 public:
  EbnfParser(std::string_view text, GrammarBuilder& builder) : in_(text), builder_(builder) {}

  absl::StatusOr<int32_t> Parse() {
    SkipSpace();
    while (!in_.done()) {
      const size_t at = in_.at();
      const std::string name = Name();
      if (name.empty()) return Wrong(at, "expected the name of a rule");
      SkipSpace();
      if (!in_.Take("::=")) return Wrong(in_.at(), absl::StrCat("expected ::= behind '", name, "'"));
      ASSIGN_OR_RETURN(const size_t rule, RuleOf(name, at));
      if (rules_[rule].defined) return Wrong(at, absl::StrCat("the rule '", name, "' stands twice"));
      rules_[rule].defined = true;
      SkipSpace();
      ASSIGN_OR_RETURN(rules_[rule].expression, Alternatives(0));
      if (!in_.done() && !AtRule()) return Wrong(in_.at(), "expected the next rule");
    }
    for (const Rule& rule : rules_) {
      if (!rule.defined) return Wrong(rule.at, absl::StrCat("the rule '", rule.name, "' is not defined"));
    }
    const auto root = names_.find("root");
    if (root == names_.end())
      return absl::InvalidArgumentError("has no rule 'root', which is where a text begins");
    PutSmallRulesInPlace();
    for (Rule& rule : rules_) builder_.Define(rule.number, std::move(rule.expression));
    return rules_[root->second].number;
  }

 private:
  struct Rule {
    std::string name;
    size_t at = 0;
    int32_t number = 0;
    bool defined = false;
    Expression expression;
  };

  absl::Status Wrong(size_t at, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(in_.Where(at), ": ", what));
  }

  void SkipSpace() {
    for (;;) {
      const char c = in_.Peek();
      if (c == '#') {
        while (!in_.done() && in_.Peek() != '\n') in_.Next();
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        in_.Next();
      } else {
        return;
      }
    }
  }

  std::string Name() {
    std::string name;
    for (char c = in_.Peek();; c = in_.Peek()) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
      const bool inner = (c >= '0' && c <= '9') || c == '-';
      if (!letter && !(inner && !name.empty())) return name;
      name.push_back(c);
      in_.Next();
    }
  }

  // Whether a new rule begins here. Line ends mean nothing: only this ends a rule.
  bool AtRule() {
    const size_t at = in_.at();
    const bool named = !Name().empty();
    SkipSpace();
    const bool begins = named && in_.Take("::=");
    in_.GoTo(at);
    return begins;
  }

  absl::StatusOr<size_t> RuleOf(const std::string& name, size_t at) {
    const auto [found, fresh] = names_.try_emplace(name, rules_.size());
    if (fresh) {
      if (rules_.size() == kMaxRules)
        return Wrong(at, absl::StrCat("there are more than ", kMaxRules, " rules"));
      rules_.push_back({name, at, builder_.AddRule(name), false, {}});
    }
    return found->second;
  }

  absl::StatusOr<Expression> Alternatives(int depth) {
    if (depth > kMaxNesting)
      return Wrong(in_.at(), absl::StrCat("groups are nested more than ", kMaxNesting, " deep"));
    std::vector<Expression> choices;
    do {
      SkipSpace();
      std::vector<Expression> parts;
      while (!in_.done() && in_.Peek() != '|' && in_.Peek() != ')' && !AtRule()) {
        ASSIGN_OR_RETURN(Expression part, Repeated(depth));
        parts.push_back(std::move(part));
        SkipSpace();
      }
      choices.push_back(SequenceOf(std::move(parts)));
    } while (in_.Take("|"));
    return choices.size() == 1 ? std::move(choices[0]) : ChoiceOf(std::move(choices));
  }

  absl::StatusOr<Expression> Repeated(int depth) {
    ASSIGN_OR_RETURN(Expression atom, Atom(depth));
    SkipSpace();
    const size_t at = in_.at();
    int32_t min = 0, max = kUnbounded;
    if (in_.Take("*")) {
    } else if (in_.Take("+")) {
      min = 1;
    } else if (in_.Take("?")) {
      max = 1;
    } else if (in_.Take("{")) {
      SkipSpace();
      min = in_.Number(kMaxCount + 1);
      SkipSpace();
      max = min;
      if (in_.Take(",")) {
        SkipSpace();
        max = in_.Number(kMaxCount + 1);
        SkipSpace();
        if (max < 0) max = kUnbounded;
      }
      if (!in_.Take("}") || min < 0) return Wrong(at, "expected {n}, {n,} or {n,m}");
      if (min > kMaxCount || max > kMaxCount)
        return Wrong(at, absl::StrCat("expected counts of at most ", kMaxCount));
      if (max != kUnbounded && max < min) return Wrong(at, "the smaller count stands first");
    } else {
      return atom;
    }
    SkipSpace();
    if (const char c = in_.Peek(); c == '*' || c == '+' || c == '?' || c == '{')
      return Wrong(in_.at(), "a repetition is repeated; put a group around the inner one");
    return RepeatOf(std::move(atom), min, max);
  }

  absl::StatusOr<Expression> Atom(int depth) {
    const size_t begin = in_.at();
    const char c = in_.Peek();
    if (c == '"' || c == '\'') return Quoted(c);
    if (c == '[') return Class();
    if (in_.Take(".")) return OneOf(AllCodePoints());
    if (in_.Take("(")) {
      ASSIGN_OR_RETURN(Expression inner, Alternatives(depth + 1));
      if (!in_.Take(")")) return Wrong(begin, "the group does not end");
      return inner;
    }
    const std::string name = Name();
    if (name.empty())
      return Wrong(begin,
                   "expected a literal in quotes, a class in brackets, a group, or the name of a rule");
    ASSIGN_OR_RETURN(const size_t rule, RuleOf(name, begin));
    return CallOf(rules_[rule].number);
  }

  // One character behind a backslash; `special` may follow one too.
  absl::StatusOr<char32_t> Escaped(std::string_view special) {
    const size_t begin = in_.at();
    in_.Take("\\");
    int64_t value = -1;
    if (in_.Take("n")) return U'\n';
    if (in_.Take("t")) return U'\t';
    if (in_.Take("r")) return U'\r';
    if (in_.Take("x")) {
      value = in_.Hex(2);
    } else if (in_.Take("u")) {
      value = in_.Hex(4);
    } else if (in_.Take("U")) {
      value = in_.Hex(8);
    } else if (!in_.done() && special.find(in_.Peek()) != std::string_view::npos) {
      return in_.Next();
    }
    if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      return Wrong(begin,
                   absl::StrCat("expected \\n, \\t, \\r, \\xHH, \\uHHHH, \\UHHHHHHHH or one of ",
                                absl::string_view(special.data(), special.size()), " behind a backslash"));
    }
    return static_cast<char32_t>(value);
  }

  absl::StatusOr<Expression> Quoted(char quote) {
    const size_t begin = in_.at();
    in_.Next();
    std::string bytes;
    while (in_.Peek() != quote) {
      if (in_.done() || in_.Peek() == '\n') return Wrong(begin, "the literal does not end on its line");
      char32_t c = 0;
      if (in_.Peek() == '\\') {
        ASSIGN_OR_RETURN(c, Escaped("\\\"'[]/"));
      } else {
        c = in_.Next();
      }
      AppendUtf8(c, &bytes);
    }
    in_.Next();
    return Literal(std::move(bytes));
  }

  absl::StatusOr<Expression> Class() {
    const size_t begin = in_.at();
    in_.Take("[");
    const bool inverted = in_.Take("^");
    CodePointSet set;
    while (in_.Peek() != ']') {
      if (in_.done() || in_.Peek() == '\n') return Wrong(begin, "the class does not end on its line");
      if (in_.Peek() == '\\' && ShorthandClass(in_.Peek(1), &set)) {
        in_.Next();
        in_.Next();
        continue;
      }
      const size_t at = in_.at();
      ASSIGN_OR_RETURN(const char32_t low, ClassCharacter());
      char32_t high = low;
      if (in_.Peek() == '-' && in_.Peek(1) != ']') {
        in_.Take("-");
        ASSIGN_OR_RETURN(high, ClassCharacter());
      }
      if (high < low) return Wrong(at, "is no range of characters");
      set.Add(low, high);
    }
    in_.Take("]");
    if (inverted) set.Invert();
    return OneOf(std::move(set));
  }

  absl::StatusOr<char32_t> ClassCharacter() {
    if (in_.Peek() == '\\') return Escaped("\\\"'[]-^/");
    return in_.Next();
  }

  void PutSmallRulesInPlace() {
    for (int round = 0; round < kInlineRounds; ++round) {
      std::map<int32_t, const Expression*> small;
      for (const Rule& rule : rules_) {
        if (!Calls(rule.expression) && PartsOf(rule.expression) <= kInlineParts)
          small[rule.number] = &rule.expression;
      }
      bool changed = false;
      std::vector<Expression> made;
      for (const Rule& rule : rules_) {
        Expression copy = rule.expression;
        changed |= Replace(copy, small);
        made.push_back(std::move(copy));
      }
      for (size_t r = 0; r < rules_.size(); ++r) rules_[r].expression = std::move(made[r]);
      if (!changed) return;
    }
  }

  bool Replace(Expression& e, const std::map<int32_t, const Expression*>& small) {
    if (e.kind == Expression::Kind::kRule) {
      const auto at = small.find(e.rule);
      if (at == small.end() || inlined_ > kMaxInlined) return false;
      e = Expression(*at->second);
      inlined_ += static_cast<int64_t>(PartsOf(e));
      return true;
    }
    bool changed = false;
    for (Expression& part : e.parts) changed |= Replace(part, small);
    return changed;
  }

  TextCursor in_;
  GrammarBuilder& builder_;
  std::vector<Rule> rules_;
  std::map<std::string, size_t> names_;
  int64_t inlined_ = 0;
};

}  // namespace

absl::StatusOr<int32_t> ParseEbnf(std::string_view text, GrammarBuilder& builder) {
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size())
    return absl::InvalidArgumentError(absl::StrCat("is not UTF-8: byte ", valid, " belongs to no character"));
  if (text.find('\0') != std::string_view::npos)
    return absl::InvalidArgumentError("holds a NUL; write \\x00 for it");
  return EbnfParser(text, builder).Parse();
}

}  // namespace paceline
