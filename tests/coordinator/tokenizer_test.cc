// The tokenizer against the golden vectors, and what the vectors do not reach: broken files, flags of added
// tokens, long texts, code points split over tokens. The comparison with the package itself is
// tokenizer_corpus.py.
#include "coordinator/tokenizer.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const char kGoldens[] = PACELINE_SOURCE_DIR "/tests/goldens/tokenizer/";

json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return json::parse(in);
}

json Family() { return ReadJson(std::string(kGoldens) + "family/tokenizer.json"); }

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseText(const std::string& text) {
  return Tokenizer::Parse(text, "folder/tokenizer.json");
}

std::unique_ptr<Tokenizer> MustParse(const json& spec) {
  auto tokenizer = ParseText(spec.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<TokenId> Ids(const Tokenizer& tokenizer, std::string_view text, bool parse_special = true) {
  auto ids = tokenizer.Encode(text, parse_special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<TokenId>{};
}

json Added(int id, const std::string& content, const json& flags = json::object()) {
  json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", false}};
  token.update(flags);
  return token;
}

void ExpectRefused(const std::string& text, const std::string& part) {
  const auto result = ParseText(text);
  ASSERT_FALSE(result.ok()) << "accepted; expected an error about " << part;
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("LOAD-006: folder/tokenizer.json: "));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(part));
}

TEST(TokenizerGoldens, EveryVector) {
  int folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kGoldens)) {
    ++folders;
    SCOPED_TRACE(entry.path().filename().string());
    auto loaded = Tokenizer::Load(entry.path().string());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const Tokenizer& tokenizer = **loaded;
    const json vectors = ReadJson(entry.path().string() + "/vectors.json");
    for (const char* kind : {"encode", "encode_no_special"}) {
      for (const json& v : vectors.value(kind, json::array())) {
        const std::string text = v["text"];
        EXPECT_EQ(Ids(tokenizer, text, std::string(kind) == "encode"), v["ids"].get<std::vector<TokenId>>())
            << kind << ": " << text;
      }
    }
    for (const json& v : vectors["decode"]) {
      const auto ids = v["ids"].get<std::vector<TokenId>>();
      EXPECT_EQ(tokenizer.Decode(ids), v["text"].get<std::string>());
      StreamDecoder decoder(tokenizer);
      std::vector<std::string> pieces;
      for (const TokenId id : ids) pieces.push_back(decoder.Next(id));
      if (!pieces.empty()) pieces.back() += decoder.Flush();
      EXPECT_EQ(pieces, v["pieces"].get<std::vector<std::string>>()) << v;
    }
  }
  EXPECT_EQ(folders, 3);
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto tokenizer = MustParse(Family());
  EXPECT_EQ(tokenizer->size(), 1500);
  EXPECT_TRUE(tokenizer->IsSpecial(1491));
  EXPECT_FALSE(tokenizer->IsSpecial(1498));  // <think>
  EXPECT_EQ(tokenizer->TokenBytes(1498), "<think>");
  EXPECT_EQ(tokenizer->TokenBytes(220), " ");
  for (const TokenId id : {-1, 1500, 1 << 30, -(1 << 30)}) {
    EXPECT_FALSE(tokenizer->HasToken(id));
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
  }
}

TEST(Tokenizer, GapsInTheVocabularyAreNoTokens) {
  json spec = Family();
  spec["added_tokens"] = json::array();
  spec["model"]["vocab"]["zzzzz"] = 1600;
  const auto tokenizer = MustParse(spec);
  EXPECT_EQ(tokenizer->size(), 1601);
  EXPECT_FALSE(tokenizer->HasToken(1550));
  EXPECT_TRUE(tokenizer->HasToken(1600));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8WithTheOffset) {
  const auto tokenizer = MustParse(Family());
  const std::pair<std::string, std::string> cases[] = {{"ab\xFF", "byte 2 "},
                                                       {"a\xC3", "byte 1 "},
                                                       {"plain text here \xED\xA0\x80", "byte 16 "},
                                                       {"\xC0\xAF", "byte 0 "},
                                                       {"\xF4\x90\x80\x80", "byte 0 "}};
  for (const auto& [text, offset] : cases) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_FALSE(ids.ok());
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("REQ-001: "));
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr(offset));
  }
}

TEST(Tokenizer, AddedTokenFlags) {
  json spec = Family();
  spec["added_tokens"] = {Added(1491, "<a>", {{"rstrip", true}, {"special", true}}),
                          Added(1492, "  "),
                          Added(1493, "tool", {{"single_word", true}}),
                          Added(1494, "e\u0301", {{"normalized", true}}),
                          Added(1495, "<z>", {{"lstrip", true}}),
                          Added(1496, "a>b"),
                          Added(1497, "<a>b")};
  const auto tokenizer = MustParse(spec);
  // The spaces behind <a> are its own, and the double space inside them is found as well, as in the package.
  EXPECT_THAT(Ids(*tokenizer, "<a>  !"), ElementsAre(1491, 1492, 0));
  EXPECT_THAT(Ids(*tokenizer, "<a>\n!"), ElementsAre(1491, 0));
  EXPECT_THAT(Ids(*tokenizer, "<a>b"), ElementsAre(1497));
  EXPECT_THAT(Ids(*tokenizer, "! \n<z>"), ElementsAre(0, 1495));
  EXPECT_THAT(Ids(*tokenizer, "tool!"), ElementsAre(1493, 0));
  EXPECT_THAT(Ids(*tokenizer, "tools"), ::testing::Not(::testing::Contains(1493)));
  EXPECT_THAT(Ids(*tokenizer, "\u00E9"), ElementsAre(1494));
  EXPECT_THAT(Ids(*tokenizer, "e\u0301"), ElementsAre(1494));
  // A special token that is not parsed still hides what overlaps it.
  const auto plain = Ids(*tokenizer, "<a>!", false);
  EXPECT_THAT(plain, ::testing::Not(::testing::Contains(1491)));
  EXPECT_EQ(tokenizer->Decode(plain), "<a>!");
  EXPECT_THAT(Ids(*tokenizer, "a>b", false), ElementsAre(1496));
}

TEST(Tokenizer, IgnoreMergesTakesWholeWords) {
  json spec = Family();
  spec["added_tokens"] = json::array();
  spec["model"]["vocab"]["\u0120xyzzy"] = 1491;
  EXPECT_GT(Ids(*MustParse(spec), " xyzzy").size(), 1u);
  spec["model"]["ignore_merges"] = true;
  EXPECT_THAT(Ids(*MustParse(spec), " xyzzy"), ElementsAre(1491));
}

// 300,000 arrays in one another, wrong types, absent parts, numbers out of range: each is named.
TEST(TokenizerFileErrors, NamesThePart) {
  ExpectRefused("", "the file");
  ExpectRefused("{", "the file");
  ExpectRefused("[]", "the file");
  ExpectRefused("{\"a\": \"\xFF\"}", "the file");
  ExpectRefused("{\"a\": 1e999}", "the file: holds a number out of range");
  ExpectRefused(std::string(300'000, '['), "the file: is nested");
  ExpectRefused("{\"model\": {\"vocab\": " + std::string(300'000, '['), "the file: is nested");
  ExpectRefused("{\"model\": {\"vocab\": {\"a\": " + std::string(300'000, '['), "model.vocab");
  ExpectRefused("{\"model\": {\"merges\": " + std::string(300'000, '['), "model.merges[0]");
  std::string objects;
  for (int i = 0; i < 300'000; ++i) objects += "{\"a\":";
  ExpectRefused(objects, "the file: is nested");

  const auto with = [](const char* pointer, json value) {
    json spec = Family();
    spec[json::json_pointer(pointer)] = std::move(value);
    return spec.dump();
  };
  ExpectRefused(with("/model", 3), "model.vocab");
  ExpectRefused(with("/model/type", "WordPiece"), "model.type: 'WordPiece'");
  ExpectRefused(with("/model/type", 7), "model.type");
  ExpectRefused(with("/model/dropout", 0.5), "model.dropout");
  ExpectRefused(with("/model/continuing_subword_prefix", "##"), "model.continuing_subword_prefix");
  ExpectRefused(with("/model/ignore_merges", 1), "model.ignore_merges");
  ExpectRefused(with("/model/vocab", json::array()), "model.vocab");
  ExpectRefused(with("/model/vocab/new", -1), "model.vocab");
  ExpectRefused(with("/model/vocab/new", 1.5), "model.vocab");
  ExpectRefused(with("/model/vocab/new", "5"), "model.vocab");
  ExpectRefused(with("/model/vocab/new", 1LL << 40), "model.vocab: 'new' has id 1099511627776");
  ExpectRefused(with("/model/vocab/new", 17), "model.vocab: id 17 belongs to two tokens");
  ExpectRefused(with("/model/vocab/new", 18446744073709551615u), "model.vocab");
  ExpectRefused(with("/model/merges", json::object()), "model.merges");
  ExpectRefused(with("/model/merges/0", json{"a"}), "model.merges[0]");
  ExpectRefused(with("/model/merges/0", json{"a", "b", "c"}), "model.merges[0]");
  ExpectRefused(with("/model/merges/3", json{"a", "nowhere"}),
                "model.merges[3]: 'nowhere' is not in model.vocab");
  ExpectRefused(with("/model/merges/1", json{"!", "Q"}), "model.merges[1]: '!Q' is not in model.vocab");
  ExpectRefused(with("/model/merges/2", "a b c"), "model.merges[2]");
  ExpectRefused(with("/model/merges/2", "ab"), "model.merges[2]");
  ExpectRefused(with("/model/merges/2", 5), "model.merges[2]");
  ExpectRefused(with("/normalizer", {{"type", "NFKC"}}), "normalizer: 'NFKC'");
  ExpectRefused(with("/normalizer", "NFC"), "normalizer");
  ExpectRefused(with("/normalizer", {{"type", "Sequence"}}), "normalizer");
  ExpectRefused(with("/pre_tokenizer", nullptr), "pre_tokenizer");
  ExpectRefused(with("/pre_tokenizer", {{"type", "Whitespace"}}), "pre_tokenizer: 'Whitespace'");
  ExpectRefused(with("/pre_tokenizer/pretokenizers/1", {{"type", "Digits"}}), "pre_tokenizer: 'Digits'");
  ExpectRefused(with("/pre_tokenizer/pretokenizers/1/add_prefix_space", true), "add_prefix_space");
  ExpectRefused(with("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), "pre_tokenizer");
  ExpectRefused(with("/pre_tokenizer/pretokenizers/0/invert", true), "pre_tokenizer");
  ExpectRefused(with("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}), "pre_tokenizer");
  ExpectRefused(with("/decoder", {{"type", "Metaspace"}}), "decoder: 'Metaspace'");
  ExpectRefused(with("/added_tokens", 5), "added_tokens");
  ExpectRefused(with("/added_tokens/2", "x"), "added_tokens[2]");
  ExpectRefused(with("/added_tokens/2/id", -3), "added_tokens[2].id");
  ExpectRefused(with("/added_tokens/2/id", 4294967296), "added_tokens[2].id");
  ExpectRefused(with("/added_tokens/2/id", 1491), "added_tokens[2].id");
  ExpectRefused(with("/added_tokens/2/content", "<|im_start|>"), "added_tokens[2]");
  ExpectRefused(with("/added_tokens/2/special", "yes"), "added_tokens[2].special");
}

TEST(TokenizerFileErrors, TwiceIsRefused) {
  ExpectRefused(R"({"model": {"vocab": {"a": 1}, "vocab": {"b": 2}}})", "model.vocab: stands twice");
  ExpectRefused(R"({"model": {"merges": [], "merges": []}})", "model.merges: stands twice");
  ExpectRefused(R"({"version": 1, "version": 2})", "version: stands twice");
  std::string text = Family().dump();
  const std::string first = "\"vocab\":{";
  text.insert(text.find(first) + first.size(), "\"!\":7000,");
  ExpectRefused(text, "model.vocab: '!' stands twice");
}

TEST(TokenizerFileErrors, MissingFileIsAnotherCode) {
  const auto result = Tokenizer::Load("/nonexistent/folder");
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("LOAD-001: /nonexistent/folder/tokenizer.json"));
}

std::string WithPattern(const std::string& pattern) {
  json spec = Family();
  spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern;
  return spec.dump();
}

TEST(SplitPattern, RefusesWhatTheEnginesReadDifferently) {
  for (const char* pattern :
       {"(",      ")",       "[a",          "a\\",           "[[:alpha:]]", "[a&&b]",    "\\p{Han}",
        "\\pL",   "\\w",     "\\h",         "\\b",           "\\1",         "(?<n>a)",   "(?m:a)",
        "a(?i)b", "a{2}+",   "a{2}?",       "a{3,1}",        "\\x{110000}", "\\x{d800}", "\\xff",
        "\\u12",  "(?i:ss)", "(?i:\u00DF)", "(?i:[\\p{L}])", "*a",          "[b-a]",     "[a-\\s]",
        "\\C",    "\\K",     "(*FAIL)",     "(?R)",          "(?#x)"}) {
    SCOPED_TRACE(pattern);
    ExpectRefused(WithPattern(pattern), "pre_tokenizer");
  }
  std::string deep, wide;
  for (int i = 0; i < 100'000; ++i) deep += '(';
  ExpectRefused(WithPattern(deep), "pre_tokenizer");
  for (int i = 0; i < 2'000; ++i) wide += "\\p{L}";
  ExpectRefused(WithPattern(wide), "pre_tokenizer");
}

TEST(SplitPattern, TooManyStepsAreAnError) {
  const auto tokenizer = ParseText(WithPattern("(?:(?:a|b)(?:a|c)?)+[xy]"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode(std::string(5'000, 'a'));
  ASSERT_FALSE(ids.ok());
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("REQ-001: the split pattern"));
}

// A megabyte of one kind: neither PCRE2's limits nor the merging may mind (the test's own time limit is the
// bound).
TEST(Tokenizer, LongTexts) {
  const auto tokenizer = MustParse(Family());
  const size_t size = 1 << 20;
  std::string lines, words, japanese;
  while (lines.size() < size) lines += " \n";
  while (words.size() < size) words += "abracadabra";
  while (japanese.size() < size) japanese += "\u65E5";
  // Marks in the wrong order: a sort by insertion would take minutes.
  std::string marks;
  while (marks.size() < size) marks += "\u0301\u0323";
  EXPECT_EQ(tokenizer->Decode(Ids(*tokenizer, marks)).size(), marks.size());
  for (const std::string& text :
       {std::string(size, 'a'), std::string(size, ' '), std::string(size, ' ') + "x", std::string(size, '\n'),
        std::string(size, '!'), lines, words, japanese}) {
    EXPECT_EQ(tokenizer->Decode(Ids(*tokenizer, text)), text);
  }
}

TEST(Tokenizer, EncodesFromManyThreads) {
  const auto tokenizer = MustParse(Family());
  const std::string text = "na\u00EFve e\u0301 <think>don't 123  \n\n</think> tool";
  const auto want = Ids(*tokenizer, text);
  std::vector<std::thread> threads;
  std::vector<std::vector<TokenId>> got(8);
  for (auto& ids : got) threads.emplace_back([&] { ids = Ids(*tokenizer, text); });
  for (auto& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, want);
}

// Tokens 0..255 are the bytes in the order of the alphabet; these are the raw bytes by value.
class ByteStream : public ::testing::Test {
 protected:
  ByteStream() {
    tokenizer_ = MustParse(Family());
    for (TokenId id = 0; id < 256; ++id) of_byte_[static_cast<uint8_t>(tokenizer_->TokenBytes(id)[0])] = id;
  }
  std::vector<std::string> Pieces(std::string_view bytes) {
    StreamDecoder decoder(*tokenizer_);
    std::vector<std::string> pieces;
    for (const char b : bytes) pieces.push_back(decoder.Next(of_byte_[static_cast<uint8_t>(b)]));
    pieces.push_back(decoder.Flush());
    return pieces;
  }
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenId of_byte_[256];
};

TEST_F(ByteStream, WaitsForTheWholeCodePoint) {
  EXPECT_THAT(Pieces("a\u00E9"), ElementsAre("a", "", "\u00E9", ""));
  EXPECT_THAT(Pieces("\U0001F600!"), ElementsAre("", "", "", "\U0001F600", "!", ""));
}

TEST_F(ByteStream, OneReplacementPerMaximalSubpart) {
  const std::string bad = "\uFFFD";
  EXPECT_THAT(Pieces("\xFF\xFE"), ElementsAre(bad, bad, ""));
  EXPECT_THAT(Pieces("\xE6\x97"), ElementsAre("", "", bad));
  EXPECT_THAT(Pieces("\xE6\x97!"), ElementsAre("", "", bad + "!", ""));
  EXPECT_THAT(Pieces("\xF0\x9F\x98\xC3\xA9"), ElementsAre("", "", "", bad, "\u00E9", ""));
  EXPECT_THAT(Pieces("\xED\xA0\x80"), ElementsAre("", "", bad + bad + bad, ""));  // waits for three
  EXPECT_THAT(Pieces("\xED\xA0"), ElementsAre("", "", bad + bad));
  EXPECT_THAT(Pieces("\xC0\xAF"), ElementsAre(bad, bad, ""));
  EXPECT_THAT(Pieces("\xF4\x90\x80\x80"), ElementsAre("", bad + bad, bad, bad, ""));
}

TEST_F(ByteStream, IdsWithoutATokenSayNothing) {
  StreamDecoder decoder(*tokenizer_);
  EXPECT_EQ(decoder.Next(of_byte_[0xC3]), "");
  EXPECT_EQ(decoder.Next(-5), "");
  EXPECT_EQ(decoder.Next(1 << 30), "");
  EXPECT_EQ(decoder.Next(of_byte_[0xA9]), "\u00E9");
  EXPECT_EQ(decoder.Flush(), "");
}

}  // namespace
}  // namespace paceline
