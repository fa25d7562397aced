// What the compiled grammars are judged by: expressions read again and again from the beginning, with nothing
// remembered, made deterministic or shared. Slow.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/grammar/expression.h"
#include "coordinator/utf8.h"

namespace paceline {

class GrammarOracle {
 public:
  // Every part of every rule can be satisfied by some text, and no rule comes back to itself for nothing.
  explicit GrammarOracle(std::vector<Expression> rules) : rules_(std::move(rules)) {}

  struct Verdict {
    bool whole = false;   // a text of the grammar
    bool prefix = false;  // the beginning of one, or one
  };
  Verdict Judge(int32_t root, std::string_view text) {
    text_ = text;
    known_.clear();
    const Result result = Match(rules_[static_cast<size_t>(root)], 0);
    const bool whole = result.ends.contains(text.size());
    return {whole, whole || result.wants_more};
  }

 private:
  struct Result {
    std::set<size_t> ends;    // where a match that began here may end
    bool wants_more = false;  // a match could go on behind the end of the text
  };

  Result Match(const Expression& e, size_t at) {
    const auto key = std::pair(&e, at);
    if (const auto known = known_.find(key); known != known_.end()) return known->second;
    Result result = Read(e, at);
    known_[key] = result;
    return result;
  }

  void Bytes(std::string_view bytes, size_t at, Result& out) const {
    const std::string_view rest = text_.substr(at);
    if (rest.size() >= bytes.size()) {
      if (rest.substr(0, bytes.size()) == bytes) out.ends.insert(at + bytes.size());
    } else if (bytes.substr(0, rest.size()) == rest) {
      out.wants_more = true;
    }
  }

  // `part` behind each of `from`.
  std::set<size_t> Behind(const Expression& part, const std::set<size_t>& from, bool& wants_more) {
    std::set<size_t> ends;
    for (const size_t at : from) {
      const Result result = Match(part, at);
      ends.insert(result.ends.begin(), result.ends.end());
      wants_more |= result.wants_more;
    }
    return ends;
  }

  Result Read(const Expression& e, size_t at) {
    Result out;
    switch (e.kind) {
      case Expression::Kind::kBytes:
        Bytes(e.bytes, at, out);
        break;
      case Expression::Kind::kCodePoints:
        for (const CodePointRange& range : e.set.ranges()) {
          for (char32_t c = range.first; c <= range.last; ++c) {
            std::string bytes;
            AppendUtf8(c, &bytes);
            Bytes(bytes, at, out);
          }
        }
        break;
      case Expression::Kind::kSequence: {
        std::set<size_t> here = {at};
        for (const Expression& part : e.parts) here = Behind(part, here, out.wants_more);
        out.ends = here;
        break;
      }
      case Expression::Kind::kChoice:
        for (const Expression& part : e.parts) {
          const Result result = Match(part, at);
          out.ends.insert(result.ends.begin(), result.ends.end());
          out.wants_more |= result.wants_more;
        }
        break;
      case Expression::Kind::kRepeat: {
        std::set<size_t> here = {at};
        for (int32_t n = 0; !here.empty(); ++n) {
          if (n >= e.min) out.ends.insert(here.begin(), here.end());
          if (n == e.max) break;
          std::set<size_t> next = Behind(e.parts[0], here, out.wants_more);
          // Round and round over nothing new there is nothing to find.
          if (n >= e.min && next == here) break;
          if (e.max == kUnbounded && n > e.min + static_cast<int32_t>(text_.size())) break;
          here = std::move(next);
        }
        break;
      }
      case Expression::Kind::kMembers:
        Members(e, 1, {at}, true, out);
        break;
      case Expression::Kind::kRule:
        return Match(rules_[static_cast<size_t>(e.rule)], at);
      case Expression::Kind::kTextBegin:
      case Expression::Kind::kTextEnd:
        out.ends.insert(at);
        break;
    }
    return out;
  }

  // From part i on, all of `from` behind the same number of members: none yet, or some.
  void Members(const Expression& e, size_t i, const std::set<size_t>& from, bool none, Result& out) {
    if (from.empty()) return;
    if (i == e.parts.size()) {
      out.ends.insert(from.begin(), from.end());
      return;
    }
    if (!e.required[i - 1]) Members(e, i + 1, from, none, out);
    std::set<size_t> here = from;
    for (bool first = none;; first = false) {
      if (!first) here = Behind(e.parts[0], here, out.wants_more);
      here = Behind(e.parts[i], here, out.wants_more);
      Members(e, i + 1, here, false, out);
      if (here.empty() || !e.repeat_last || i + 1 < e.parts.size()) return;
    }
  }

  const std::vector<Expression> rules_;
  std::string_view text_;
  std::map<std::pair<const Expression*, size_t>, Result> known_;
};

}  // namespace paceline
