// Masks against the definition: a token may come next exactly when the text with it is the beginning of a
// text of the grammar. Random grammars over random small vocabularies, with memory for nearly nothing as well
// as for all.
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/constraint.h"
#include "coordinator/grammar/matcher.h"
#include "coordinator/grammar/node_classes.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/grammar_oracle.h"

namespace paceline {
namespace {

using Random = std::mt19937;

int32_t Below(Random& random, int32_t end) {
  return static_cast<int32_t>(random() % static_cast<uint32_t>(end));
}

const std::vector<char32_t> kLetters = {'a',       'b',       'c',       U'\u00e9',
                                        U'\u00ea', U'\u4e2d', U'\u4e2e', U'\U0001F600'};

CodePointSet RandomSet(Random& random) {
  CodePointSet set;
  for (int32_t n = 1 + Below(random, 4); n > 0; --n) {
    const char32_t c = kLetters[static_cast<size_t>(Below(random, static_cast<int32_t>(kLetters.size())))];
    set.Add(c, c + static_cast<char32_t>(Below(random, 3)));
  }
  return set;
}

std::string RandomText(Random& random, int32_t letters) {
  std::string text;
  for (; letters > 0; --letters)
    AppendUtf8(kLetters[static_cast<size_t>(Below(random, static_cast<int32_t>(kLetters.size())))], &text);
  return text;
}

// A call never stands alone: beside it there is always a way out, so every rule ends.
Expression RandomExpression(Random& random, int32_t rules, int depth) {
  switch (Below(random, depth > 0 ? 8 : 2)) {
    case 0:
      return Literal(RandomText(random, Below(random, 3)));
    case 1:
      return OneOf(RandomSet(random));
    case 2:
    case 3: {
      std::vector<Expression> parts;
      for (int32_t n = 1 + Below(random, 3); n > 0; --n)
        parts.push_back(RandomExpression(random, rules, depth - 1));
      return SequenceOf(std::move(parts));
    }
    case 4: {
      std::vector<Expression> parts;
      for (int32_t n = 2 + Below(random, 2); n > 0; --n)
        parts.push_back(RandomExpression(random, rules, depth - 1));
      return ChoiceOf(std::move(parts));
    }
    case 5: {
      const int32_t min = Below(random, 3);
      const int32_t max = Below(random, 3) == 0 ? kUnbounded : min + Below(random, 4);
      return RepeatOf(RandomExpression(random, rules, depth - 1), min, max);
    }
    case 6: {
      Expression e;
      e.kind = Expression::Kind::kMembers;
      e.parts.push_back(Literal("b"));
      for (int32_t n = 1 + Below(random, 3); n > 0; --n) {
        // No member is nothing: a list could not be told from a shorter one.
        e.parts.push_back(SequenceOf({OneOf(RandomSet(random)), RandomExpression(random, rules, 0)}));
        e.required.push_back(Below(random, 2) == 0);
      }
      e.repeat_last = Below(random, 2) == 0;
      return e;
    }
    default:
      return ChoiceOf({CallOf(Below(random, rules)), Literal(RandomText(random, 1))});
  }
}

struct Language {
  std::vector<Expression> rules;
  absl::StatusOr<Grammar> grammar = absl::UnknownError("");
};

Language RandomLanguage(Random& random) {
  Language made;
  GrammarBuilder builder;
  const int32_t rules = 1 + Below(random, 4);
  for (int32_t r = 0; r < rules; ++r) builder.AddRule(absl::StrCat("rule ", r));
  for (int32_t r = 0; r < rules; ++r) {
    made.rules.push_back(RandomExpression(random, rules, 4));
    builder.Define(r, made.rules.back());
  }
  made.grammar = builder.Build(0);
  return made;
}

// Bytes, pieces of letters, words, two ids of the same bytes, special ids, and two that end the text.
FakeTokenizer RandomVocabulary(Random& random, StopIds* stops) {
  std::vector<std::string> tokens = {"", "<special>", "<end>"};
  std::set<char> bytes;
  for (const char32_t c : kLetters) {
    for (char32_t d = c; d < c + 3; ++d) {
      std::string text;
      AppendUtf8(d, &text);
      bytes.insert(text.begin(), text.end());
    }
  }
  for (const char byte : bytes) tokens.emplace_back(1, byte);
  for (int n = 0; n < 120; ++n) {
    const std::string text = RandomText(random, 1 + Below(random, 5));
    const int32_t begin = Below(random, static_cast<int32_t>(text.size()));
    tokens.push_back(
        text.substr(static_cast<size_t>(begin),
                    static_cast<size_t>(1 + Below(random, static_cast<int32_t>(text.size()) - begin))));
  }
  // One that ends the text also has bytes that could stand in it.
  *stops = {2, static_cast<TokenId>(3 + Below(random, 5))};
  return FakeTokenizer(std::move(tokens), {1, 2});
}

bool HasBit(std::span<const uint64_t> mask, TokenId id) {
  return mask[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1;
}

struct Walker {
  GrammarOracle& oracle;
  const FakeTokenizer& tokenizer;
  const StopIds& stops;
  Random& random;
  int64_t compared = 0;

  bool Stops(TokenId id) const { return std::binary_search(stops.begin(), stops.end(), id); }
  bool May(const std::string& text, TokenId id) {
    if (Stops(id)) return oracle.Judge(0, text).whole;
    const std::string_view bytes = tokenizer.TokenBytes(id);
    if (bytes.empty() || tokenizer.IsSpecial(id)) return false;
    return oracle.Judge(0, text + std::string(bytes)).prefix;
  }

  // The ids of the mask, each of them compared.
  std::vector<TokenId> Compare(ConstraintMatcher& matcher, const std::string& text) {
    const std::span<const uint64_t> mask = matcher.Allowed();
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < tokenizer.size(); ++id) {
      const bool may = May(text, id);
      EXPECT_EQ(HasBit(mask, id), may) << "text '" << absl::CHexEscape(text) << "', token '"
                                       << absl::CHexEscape(std::string(tokenizer.TokenBytes(id))) << "'";
      if (may) allowed.push_back(id);
      ++compared;
    }
    return allowed;
  }

  void Walk(const Constraint& constraint, int steps) {
    auto matcher = constraint.Start();
    std::vector<std::string> texts = {""};
    for (int step = 0; step < steps && !::testing::Test::HasFailure(); ++step) {
      const std::vector<TokenId> allowed = Compare(*matcher, texts.back());
      const TokenId wrong = static_cast<TokenId>(Below(random, static_cast<int32_t>(tokenizer.size())));
      if (std::find(allowed.begin(), allowed.end(), wrong) == allowed.end()) {
        EXPECT_FALSE(matcher->Accept(wrong));
      }
      if (Below(random, 4) == 0) matcher = matcher->Clone();
      std::vector<TokenId> words;
      for (const TokenId id : allowed) {
        if (!Stops(id)) words.push_back(id);
      }
      if (words.empty() || Below(random, 5) == 0) {
        if (words.empty() && !allowed.empty()) {
          // Behind an id that ends the text only such ids stand.
          ASSERT_TRUE(matcher->Accept(allowed[0]));
          for (TokenId id = 0; id < tokenizer.size(); ++id)
            EXPECT_EQ(HasBit(matcher->Allowed(), id), Stops(id));
          matcher->Rollback(1);
        }
        const auto back = static_cast<int32_t>(
            std::min<size_t>(texts.size() - 1, static_cast<size_t>(Below(random, kConstraintRollback + 1))));
        matcher->Rollback(back);
        texts.resize(texts.size() - static_cast<size_t>(back));
        continue;
      }
      const TokenId chosen = words[static_cast<size_t>(Below(random, static_cast<int32_t>(words.size())))];
      ASSERT_TRUE(matcher->Accept(chosen));
      texts.push_back(texts.back() + std::string(tokenizer.TokenBytes(chosen)));
      if (texts.back().size() > 60) return;
    }
  }
};

TEST(GrammarMasks, AreTheDefinitionOnRandomGrammars) {
  Random random(5);
  int made = 0;
  int64_t compared = 0;
  for (int seed = 0; seed < 400 && !HasFailure(); ++seed) {
    Language language = RandomLanguage(random);
    if (!language.grammar.ok()) continue;  // left recursion
    ++made;
    SCOPED_TRACE(absl::StrCat("grammar ", seed));
    GrammarOracle oracle(language.rules);
    StopIds stops;
    const FakeTokenizer tokenizer = RandomVocabulary(random, &stops);
    const bool narrow = seed % 2 == 0;  // memory for little
    const auto tokens = std::make_shared<TokenBytes>(tokenizer, tokenizer.size(), seed % 3 == 0 ? 20 : 1024);
    const MaskLimits limits = narrow ? MaskLimits{3000, 200, 100} : MaskLimits{};
    auto source = std::make_shared<MaskSource>(*std::move(language.grammar), tokens, limits);
    if (seed % 4 < 2) {
      ASSERT_TRUE(source->Prepare().ok());
    }
    const GrammarConstraint constraint(source, stops);
    Walker walker{oracle, tokenizer, stops, random};
    for (int walk = 0; walk < 3; ++walk) walker.Walk(constraint, 12);
    compared += walker.compared;
  }
  EXPECT_GT(made, 200);
  EXPECT_GT(compared, 400'000);
}

// Two texts in turns over one source that forgets all the time.
TEST(GrammarMasks, ForgettingChangesNothing) {
  Random random(6);
  GrammarBuilder builder;
  const int32_t list = builder.AddRule("list");
  const std::vector<Expression> rules = {SequenceOf(
      {Literal("a"), RepeatOf(ChoiceOf({CallOf(list), OneOf('b', 'c'), Literal("\u00e9")}), 0, kUnbounded),
       ChoiceOf({Literal("b"), Literal("\u4e2d")})})};
  builder.Define(list, rules[0]);
  auto grammar = builder.Build(list);
  ASSERT_TRUE(grammar.ok());
  GrammarOracle oracle(rules);
  StopIds stops;
  const FakeTokenizer tokenizer = RandomVocabulary(random, &stops);
  const auto tokens = std::make_shared<TokenBytes>(tokenizer, tokenizer.size());
  auto source = std::make_shared<MaskSource>(*grammar, tokens, MaskLimits{2000, 50, 100});
  const GrammarConstraint constraint(source, stops);
  Walker walker{oracle, tokenizer, stops, random};
  std::vector<std::unique_ptr<ConstraintMatcher>> matchers;
  std::vector<std::string> texts(3);
  for (size_t i = 0; i < texts.size(); ++i) matchers.push_back(constraint.Start());
  for (int step = 0; step < 60 && !HasFailure(); ++step) {
    const auto i = static_cast<size_t>(Below(random, 3));
    const std::vector<TokenId> allowed = walker.Compare(*matchers[i], texts[i]);
    std::erase_if(const_cast<std::vector<TokenId>&>(allowed), [&](TokenId id) { return walker.Stops(id); });
    if (allowed.empty() || texts[i].size() > 40) {
      texts[i].clear();
      matchers[i] = constraint.Start();
      continue;
    }
    const TokenId chosen = allowed[static_cast<size_t>(Below(random, static_cast<int32_t>(allowed.size())))];
    ASSERT_TRUE(matchers[i]->Accept(chosen));
    texts[i] += tokenizer.TokenBytes(chosen);
  }
}

// The marker may come in pieces, end inside a token, and overlap itself; the end may not come before it.
TEST(GrammarMasks, FreeTextUpToAMarker) {
  Random random(7);
  const std::vector<Expression> rules = {RepeatOf(Literal("ab"), 1, 3)};
  GrammarBuilder builder;
  builder.Define(builder.AddRule("root"), rules[0]);
  auto grammar = builder.Build(0);
  ASSERT_TRUE(grammar.ok());
  GrammarOracle oracle(rules);
  std::vector<std::string> words = {"", "<end>", "<think>"};
  for (const char* word : {"a", "b", "c", "x", "y", "xy", "xyx", "yxz", "z", "zab", "zb", "xyxza", "xyxzc",
                           "ab", "aba", "xyxyxzabab", "q"})
    words.emplace_back(word);
  const FakeTokenizer tokenizer(words, {1, 2});
  const StopIds stops = {1};
  const auto tokens = std::make_shared<TokenBytes>(tokenizer, tokenizer.size());
  const auto behind =
      std::make_shared<GrammarConstraint>(std::make_shared<MaskSource>(*grammar, tokens), stops);
  const std::string marker = "xyxz";
  const DelayedConstraint constraint(behind, marker, tokenizer, tokenizer.size());
  int64_t reached = 0;
  for (int walk = 0; walk < 300 && !HasFailure(); ++walk) {
    auto matcher = constraint.Start();
    std::vector<std::string> texts = {""};
    for (int step = 0; step < 14; ++step) {
      const std::string& text = texts.back();
      const size_t at = text.find(marker);
      const std::vector<uint64_t> mask(matcher->Allowed().begin(), matcher->Allowed().end());
      std::vector<TokenId> allowed;
      for (TokenId id = 0; id < tokenizer.size(); ++id) {
        bool may = false;
        if (id == 1) {
          may = at != std::string::npos && oracle.Judge(0, text.substr(at + marker.size())).whole;
        } else {
          const std::string next = text + std::string(tokenizer.TokenBytes(id));
          const size_t then = next.find(marker);
          const bool plain = !tokenizer.TokenBytes(id).empty() && !tokenizer.IsSpecial(id);
          may = then == std::string::npos || ((at == std::string::npos || plain) &&
                                              oracle.Judge(0, next.substr(then + marker.size())).prefix);
        }
        ASSERT_EQ(HasBit(mask, id), may) << "'" << text << "' and '" << tokenizer.TokenBytes(id) << "'";
        if (may && id != 1) allowed.push_back(id);
      }
      reached += at != std::string::npos ? 1 : 0;
      if (Below(random, 3) == 0) matcher = matcher->Clone();
      if (allowed.empty() || Below(random, 4) == 0) {
        const auto back = static_cast<int32_t>(
            std::min<size_t>(texts.size() - 1, static_cast<size_t>(Below(random, kConstraintRollback + 1))));
        matcher->Rollback(back);
        texts.resize(texts.size() - static_cast<size_t>(back));
        continue;
      }
      const TokenId chosen =
          allowed[static_cast<size_t>(Below(random, static_cast<int32_t>(allowed.size())))];
      ASSERT_TRUE(matcher->Accept(chosen));
      texts.push_back(texts.back() + std::string(tokenizer.TokenBytes(chosen)));
    }
  }
  EXPECT_GT(reached, 300);
}

TEST(GrammarMasks, ManyWaysToReadATextAreFollowedTogether) {
  GrammarBuilder builder;
  const int32_t s = builder.AddRule("s");
  // Catalan numbers of ways for every text.
  builder.Define(s, ChoiceOf({SequenceOf({Literal("a"), CallOf(s), CallOf(s)}), Literal("a")}));
  auto grammar = builder.Build(s);
  ASSERT_TRUE(grammar.ok());
  Machine machine(*grammar);
  Machine::Config at = machine.Start();
  for (int i = 0; i < 301; ++i) {
    at = machine.Next(at, 'a');
    ASSERT_NE(at, Machine::kDead);
    EXPECT_EQ(machine.can_end(at), i % 2 == 0) << i;
    EXPECT_LE(machine.threads(at).size(), 400u);
  }
}

TEST(GrammarMasks, ListsAtTheEndOfARuleDoNotPileUp) {
  GrammarBuilder builder;
  const int32_t s = builder.AddRule("s");
  builder.Define(s, SequenceOf({Literal("a"), OptionalOf(CallOf(s))}));
  auto grammar = builder.Build(s);
  ASSERT_TRUE(grammar.ok());
  Machine machine(*grammar);
  Machine::Config at = machine.Start();
  for (int i = 0; i < 10'000; ++i) at = machine.Next(at, 'a');
  EXPECT_TRUE(machine.can_end(at));
  EXPECT_LT(machine.configs(), 10u);
}

TEST(GrammarMasks, LongCountsShareWhatTokensCanTell) {
  GrammarBuilder builder;
  builder.Define(builder.AddRule("root"),
                 SequenceOf({Literal("\""), RepeatOf(OneOf(AllCodePoints()), 0, 2000), Literal("\"")}));
  auto grammar = builder.Build(0);
  ASSERT_TRUE(grammar.ok());
  const std::vector<int32_t> classes = NodeClasses(*grammar, 8);
  EXPECT_GT(grammar->nodes.size(), 10'000u);
  EXPECT_LT(*std::max_element(classes.begin(), classes.end()), 200);
}

TEST(GrammarMasks, WhatCannotBeIsRefused) {
  const auto build = [](std::vector<Expression> rules) {
    GrammarBuilder builder;
    for (size_t r = 0; r < rules.size(); ++r) builder.AddRule(absl::StrCat("r", r));
    for (size_t r = 0; r < rules.size(); ++r) builder.Define(static_cast<int32_t>(r), rules[r]);
    return std::string(builder.Build(0).status().message());
  };
  EXPECT_NE(build({SequenceOf({CallOf(0), Literal("a")})}).find("'r0' comes back to itself"),
            std::string::npos);
  EXPECT_NE(build({SequenceOf({OptionalOf(Literal("b")), CallOf(1)}), ChoiceOf({CallOf(2), Literal("a")}),
                   SequenceOf({CallOf(1), Literal("x")})})
                .find("comes back to itself"),
            std::string::npos);
  EXPECT_NE(build({SequenceOf({Literal("a"), CallOf(0)})}).find("no text"), std::string::npos);
  EXPECT_NE(build({OneOf(CodePointSet())}).find("no text"), std::string::npos);
  EXPECT_NE(build({RepeatOf(RepeatOf(Literal("abc"), 1000, 1000), 1000, 1000)}).find("too large"),
            std::string::npos);
  EXPECT_EQ(build({ChoiceOf({SequenceOf({Literal("a"), CallOf(0)}), Literal("")})}), "");
}

}  // namespace
}  // namespace paceline
