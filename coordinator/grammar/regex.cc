#include "coordinator/grammar/regex.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/grammar/text_cursor.h"

namespace paceline {
namespace {

constexpr int kMaxNesting = 100;
constexpr int32_t kMaxCount = 10'000;  // of a repetition; the size of the whole is bounded elsewhere

using Kind = Expression::Kind;

class RegexParser {
 public:
  explicit RegexParser(std::string_view pattern) : in_(pattern) {}

  absl::StatusOr<Expression> Parse() {
    ASSIGN_OR_RETURN(Expression whole, Alternatives(0));
    if (!in_.done()) return Wrong(in_.at(), "a ')' closes nothing");
    return whole;
  }

  absl::Status Wrong(size_t at, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("column ", in_.Column(at), ": ", what));
  }

 private:
  absl::StatusOr<Expression> Alternatives(int depth) {
    if (depth > kMaxNesting)
      return Wrong(in_.at(), absl::StrCat("groups are nested more than ", kMaxNesting, " deep"));
    std::vector<Expression> choices;
    do {
      std::vector<Expression> parts;
      while (!in_.done() && in_.Peek() != '|' && in_.Peek() != ')') {
        ASSIGN_OR_RETURN(Expression part, Quantified(depth));
        parts.push_back(std::move(part));
      }
      choices.push_back(SequenceOf(std::move(parts)));
    } while (in_.Take("|"));
    return choices.size() == 1 ? std::move(choices[0]) : ChoiceOf(std::move(choices));
  }

  absl::StatusOr<Expression> Quantified(int depth) {
    const size_t begin = in_.at();
    ASSIGN_OR_RETURN(Expression atom, Atom(depth));
    for (bool first = true;; first = false) {
      const size_t at = in_.at();
      int32_t min = 0, max = 0;
      if (in_.Take("*")) {
        max = kUnbounded;
      } else if (in_.Take("+")) {
        min = 1;
        max = kUnbounded;
      } else if (in_.Take("?")) {
        max = 1;
      } else if (in_.Peek() == '{') {
        ASSIGN_OR_RETURN(const bool counted, Counts(&min, &max));
        if (!counted) return atom;
      } else {
        return atom;
      }
      if (!first) return Wrong(at, "a repetition is repeated; put a group around the inner one");
      if (atom.kind == Kind::kTextBegin || atom.kind == Kind::kTextEnd)
        return Wrong(begin, "an anchor cannot be repeated");
      if (in_.Peek() == '+') return Wrong(in_.at(), "possessive repetition is not supported");
      in_.Take("?");  // lazy: the same texts
      atom = RepeatOf(std::move(atom), min, max);
    }
  }

  // False, and nothing is read, where the brace is a plain character.
  absl::StatusOr<bool> Counts(int32_t* min, int32_t* max) {
    const size_t begin = in_.at();
    in_.Take("{");
    *min = in_.Number(kMaxCount + 1);
    const bool comma = in_.Take(",");
    *max = comma ? in_.Number(kMaxCount + 1) : *min;
    if (!in_.Take("}") || (*min < 0 && *max < 0)) {
      return Wrong(begin, "expected {n}, {n,} or {n,m}; write \\{ for the character");
    }
    if (comma && *max < 0) *max = kUnbounded;
    *min = std::max(*min, 0);
    if (*min > kMaxCount || *max > kMaxCount)
      return Wrong(begin, absl::StrCat("expected counts of at most ", kMaxCount));
    if (*max != kUnbounded && *max < *min) return Wrong(begin, "the smaller count stands first");
    return true;
  }

  absl::StatusOr<Expression> Atom(int depth) {
    const size_t begin = in_.at();
    switch (in_.Peek()) {
      case '(':
        return Group(depth);
      case '[':
        return Class();
      case '\\':
        return Escape();
      case '.': {
        in_.Take(".");
        CodePointSet line = AllCodePoints();
        return OneOf(Without(std::move(line), U'\n'));
      }
      case '^':
      case '$': {
        Expression anchor;
        anchor.kind = in_.Take("^") ? Kind::kTextBegin : Kind::kTextEnd;
        in_.Take("$");
        anchor.at = static_cast<int64_t>(begin);
        return anchor;
      }
      case '*':
      case '+':
      case '?':
        return Wrong(begin, "a repetition stands behind nothing");
      case '{':
        return Wrong(begin, "a repetition stands behind nothing; write \\{ for the character");
      default: {
        const char32_t c = in_.Next();
        std::string bytes;
        AppendUtf8(c, &bytes);
        return Literal(std::move(bytes));
      }
    }
  }

  static CodePointSet Without(CodePointSet set, char32_t c) {
    set.Invert();
    set.Add(c, c);
    set.Invert();
    return set;
  }

  absl::StatusOr<Expression> Group(int depth) {
    const size_t begin = in_.at();
    in_.Take("(");
    if (in_.Peek() == '?') {
      const bool named = (in_.Take("?P<") || in_.Take("?<")) && in_.Peek() != '=' && in_.Peek() != '!';
      if (named) {
        while (!in_.done() && in_.Peek() != '>') in_.Next();
        if (!in_.Take(">")) return Wrong(begin, "the name of a group does not end");
      } else if (!in_.Take("?:")) {
        return Wrong(begin,
                     "of groups that begin with (? only (?: .. ), (?<name> .. ) and (?P<name> .. ) are "
                     "supported; looking ahead or behind, flags and conditions are not");
      }
    }
    ASSIGN_OR_RETURN(Expression inner, Alternatives(depth + 1));
    if (!in_.Take(")")) return Wrong(begin, "the group does not end");
    return inner;
  }

  // What stands for one character or class behind a backslash, in a class and outside. Nothing for others.
  absl::StatusOr<std::optional<CodePointSet>> EscapedSet() {
    const size_t begin = in_.at();
    in_.Take("\\");
    if (in_.done()) return Wrong(begin, "nothing stands behind the backslash");
    CodePointSet set;
    const auto one = [&set](char32_t c) {
      set.Add(c, c);
      return set;
    };
    if (ShorthandClass(in_.Peek(), &set)) {
      in_.Next();
      return set;
    }
    const char c = in_.Peek();
    switch (c) {
      case 'n':
        in_.Next();
        return one('\n');
      case 't':
        in_.Next();
        return one('\t');
      case 'r':
        in_.Next();
        return one('\r');
      case 'f':
        in_.Next();
        return one('\f');
      case 'v':
        in_.Next();
        return one('\v');
      case 'x':
      case 'u': {
        in_.Next();
        int64_t value = -1;
        if (in_.Take("{")) {
          value = 0;
          int digits = 0;
          for (int64_t digit = in_.Hex(1); digit >= 0; digit = in_.Hex(1), ++digits)
            value = std::min<int64_t>(value * 16 + digit, 0x110000);
          if (digits == 0 || !in_.Take("}")) return Wrong(begin, "expected hexadecimal digits and a '}'");
        } else {
          value = in_.Hex(c == 'x' ? 2 : 4);
          if (value < 0)
            return Wrong(begin, c == 'x' ? "expected \\x and two hexadecimal digits"
                                         : "expected \\u and four hexadecimal digits");
        }
        if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
          return Wrong(begin, "is no code point that a text may hold");
        return one(static_cast<char32_t>(value));
      }
      case 'p':
      case 'P': {
        in_.Next();
        std::string name;
        if (in_.Take("{")) {
          while (!in_.done() && in_.Peek() != '}') AppendUtf8(in_.Next(), &name);
          if (!in_.Take("}")) return Wrong(begin, "the property's name does not end");
        } else if (!in_.done()) {
          AppendUtf8(in_.Next(), &name);
        }
        if (!CodePointSet::ForProperty(name, &set))
          return Wrong(begin, "expected a general category, such as \\p{L} or \\p{Nd}");
        if (c == 'P') set.Invert();
        return set;
      }
      default:
        break;
    }
    const bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (letter) {
      in_.GoTo(begin);
      return std::optional<CodePointSet>();
    }
    return one(in_.Next());
  }

  absl::StatusOr<Expression> Escape() {
    const size_t begin = in_.at();
    ASSIGN_OR_RETURN(std::optional<CodePointSet> set, EscapedSet());
    if (set) return OneOf(*std::move(set));
    const char c = in_.Peek(1);
    if (c >= '1' && c <= '9') return Wrong(begin, "references back to a group are not supported");
    if (c == 'b' || c == 'B') return Wrong(begin, "word boundaries are not supported");
    return Wrong(begin, absl::StrCat("the escape \\", std::string(1, c), " is not supported"));
  }

  absl::StatusOr<Expression> Class() {
    const size_t begin = in_.at();
    in_.Take("[");
    const bool inverted = in_.Take("^");
    CodePointSet set;
    for (bool first = true; first || in_.Peek() != ']'; first = false) {
      if (in_.done()) return Wrong(begin, "the class does not end");
      if (first && in_.Peek() == ']') return Wrong(in_.at(), "an empty class, or a ']' to be written \\]");
      if (in_.Peek() == '[' && in_.Peek(1) == ':') return Wrong(in_.at(), "POSIX classes are not supported");
      const size_t at = in_.at();
      ASSIGN_OR_RETURN(CodePointSet low, ClassItem());
      if (in_.Peek() == '-' && in_.Peek(1) != ']' && in_.Peek(1) != '\0') {
        in_.Take("-");
        ASSIGN_OR_RETURN(const CodePointSet high, ClassItem());
        const auto single = [](const CodePointSet& s) {
          return s.ranges().size() == 1 && s.ranges()[0].first == s.ranges()[0].last;
        };
        if (!single(low) || !single(high) || high.ranges()[0].first < low.ranges()[0].first)
          return Wrong(at, "is no range of characters");
        set.Add(low.ranges()[0].first, high.ranges()[0].first);
      } else {
        set.Add(low);
      }
    }
    in_.Take("]");
    if (inverted) set.Invert();
    return OneOf(std::move(set));
  }

  absl::StatusOr<CodePointSet> ClassItem() {
    const size_t begin = in_.at();
    if (in_.Peek() == '\\') {
      if (in_.Peek(1) == 'b') {  // a backspace, in a class
        in_.Take("\\b");
        CodePointSet set;
        set.Add('\b', '\b');
        return set;
      }
      ASSIGN_OR_RETURN(std::optional<CodePointSet> set, EscapedSet());
      if (!set)
        return Wrong(begin, absl::StrCat("the escape \\", std::string(1, in_.Peek(1)), " is not supported"));
      return *std::move(set);
    }
    CodePointSet set;
    const char32_t c = in_.Next();
    set.Add(c, c);
    return set;
  }

  TextCursor in_;
};

Expression AnyText() { return RepeatOf(OneOf(AllCodePoints()), 0, kUnbounded); }

// Anchors say where a text begins and ends; elsewhere the search may have passed over anything. `begin` and
// `end`: nothing of the pattern stands in front of `e` or behind it.
absl::StatusOr<Expression> ResolveAnchors(const RegexParser& parser, Expression e, RegexMatch match,
                                          bool begin, bool end) {
  const bool search = match == RegexMatch::kSearch;
  if (e.kind == Kind::kTextBegin || e.kind == Kind::kTextEnd) e = SequenceOf({std::move(e)});
  if (e.kind == Kind::kChoice) {
    for (Expression& part : e.parts) {
      ASSIGN_OR_RETURN(part, ResolveAnchors(parser, std::move(part), match, begin, end));
    }
    return e;
  }
  if (e.kind != Kind::kSequence) {
    for (Expression& part : e.parts) {
      ASSIGN_OR_RETURN(part, ResolveAnchors(parser, std::move(part), match, false, false));
    }
    if (!search || !(begin || end)) return e;
    std::vector<Expression> parts;
    if (begin) parts.push_back(AnyText());
    parts.push_back(std::move(e));
    if (end) parts.push_back(AnyText());
    return SequenceOf(std::move(parts));
  }
  std::vector<Expression> parts = std::move(e.parts);
  bool anchored_begin = !begin, anchored_end = !end;
  size_t first = 0, last = parts.size();
  const auto misplaced = [&](const Expression& anchor) {
    return parser.Wrong(static_cast<size_t>(anchor.at),
                        anchor.kind == Kind::kTextBegin
                            ? "^ is supported at the beginning of the pattern or of one of its alternatives"
                            : "$ is supported at the end of the pattern or of one of its alternatives");
  };
  for (; first < last && parts[first].kind == Kind::kTextBegin; ++first) {
    if (!begin) return misplaced(parts[first]);
    anchored_begin = true;
  }
  for (; last > first && parts[last - 1].kind == Kind::kTextEnd; --last) {
    if (!end) return misplaced(parts[last - 1]);
    anchored_end = true;
  }
  std::vector<Expression> out;
  for (size_t i = first; i < last; ++i) {
    if (parts[i].kind == Kind::kTextBegin || parts[i].kind == Kind::kTextEnd) return misplaced(parts[i]);
    ASSIGN_OR_RETURN(Expression part,
                     ResolveAnchors(parser, std::move(parts[i]), match, i == first && !anchored_begin,
                                    i + 1 == last && !anchored_end));
    out.push_back(std::move(part));
  }
  if (first == last && search && !(anchored_begin && anchored_end)) {
    // Nothing but anchors: with both the empty text, else any.
    out.push_back(AnyText());
  }
  return SequenceOf(std::move(out));
}

}  // namespace

bool ShorthandClass(char letter, CodePointSet* set) {
  CodePointSet made;
  const auto add_ascii_word = [&made] {
    made.Add('0', '9');
    made.Add('A', 'Z');
    made.Add('a', 'z');
    made.Add('_', '_');
  };
  const auto add_property = [&made](const char* name) {
    CodePointSet property;
    CodePointSet::ForProperty(name, &property);
    made.Add(property);
  };
  switch (letter) {
    case 'd':
      made.Add('0', '9');
      break;
    case 'w':
      add_ascii_word();
      break;
    case 's':
      made.Add('\t', '\r');
      made.Add(' ', ' ');
      break;
    case 'D':
      add_property("N");
      break;
    case 'W':
      add_ascii_word();
      for (const char* name : {"L", "M", "N", "Pc"}) add_property(name);
      break;
    case 'S':
      add_property("Z");
      made.Add(0x1C, 0x20);
      made.Add('\t', '\r');
      made.Add(0x85, 0x85);
      made.Add(0xFEFF, 0xFEFF);
      break;
    default:
      return false;
  }
  if (letter < 'a') made.Invert();
  set->Add(made);
  return true;
}

absl::StatusOr<Expression> ParseRegex(std::string_view pattern, RegexMatch match) {
  if (const size_t valid = ValidUtf8Prefix(pattern); valid != pattern.size())
    return absl::InvalidArgumentError(absl::StrCat("is not UTF-8: byte ", valid, " belongs to no character"));
  if (pattern.find('\0') != std::string_view::npos)
    return absl::InvalidArgumentError("holds a NUL; write \\x00 for it");
  RegexParser parser(pattern);
  ASSIGN_OR_RETURN(Expression whole, parser.Parse());
  return ResolveAnchors(parser, std::move(whole), match, true, true);
}

}  // namespace paceline
