// Which ids are drafted: by rank of merging, by counts of a file, or as a file lists them.
#include "cli/draft_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "cli/files.h"

namespace paceline::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kVocab = 1000;

// Bytes at ids 3 to 258, then `ab`, `abc`, `cd` at 2, 0, 1, whose ranks are 0, 1, 2; one special token.
std::unique_ptr<Tokenizer> SmallTokenizer() {
  std::string vocab;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    // The byte alphabet: printable Latin bytes stand for themselves, the others follow from U+0100 on.
    const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = plain ? byte : next++;
    char key[16];
    std::snprintf(key, sizeof(key), "\\u%04x", code);
    absl::StrAppend(&vocab, vocab.empty() ? "" : ",", "\"", key, "\":", 3 + byte);
  }
  const std::string json =
      R"({"added_tokens":[{"id":259,"content":"<|end|>","special":true,"single_word":false,)"
      R"("lstrip":false,"rstrip":false,"normalized":false}],"normalizer":{"type":"NFC"},)"
      R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":)"
      R"({"Regex":"\\s+|\\S+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel",)"
      R"("add_prefix_space":false,"trim_offsets":false,"use_regex":false}]},)"
      R"("post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,)"
      R"("trim_offsets":false,"use_regex":false},"model":{"type":"BPE","vocab":{)" +
      vocab + R"(,"ab":2,"abc":0,"cd":1},"merges":[["a","b"],["ab","c"],["c","d"]]}})";
  auto tokenizer = Tokenizer::Parse(json, "tokenizer.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

class File {
 public:
  explicit File(const std::string& content)
      : path_(std::filesystem::path(::testing::TempDir()) /
              ("vocabulary-" + std::to_string(reinterpret_cast<uintptr_t>(this)))) {
    EXPECT_TRUE(WriteWholeFile(path_, content).ok());
  }
  ~File() { std::filesystem::remove(path_); }
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(DraftVocabularyTest, ANumberTakesWhatIsMergedFirstAndEveryAddedToken) {
  const auto tokenizer = SmallTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  ASSERT_EQ(tokenizer->ByRank().size(), 259u);
  const auto ids = BuildDraftVocabulary("258", tokenizer.get(), kVocab);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->size(), 259u);
  EXPECT_TRUE(std::is_sorted(ids->begin(), ids->end()));
  const std::set<TokenId> set(ids->begin(), ids->end());
  EXPECT_TRUE(set.count(2) && set.count(0) && set.count(259));
  EXPECT_FALSE(set.count(1));  // the last merge
}

TEST(DraftVocabularyTest, AllIdsAreAnEmptyList) {
  const auto tokenizer = SmallTokenizer();
  for (const char* choice : {"all", "32768", "259"})
    EXPECT_TRUE(BuildDraftVocabulary(choice, tokenizer.get(), kVocab)->empty()) << choice;
  EXPECT_THAT(*BuildDraftVocabulary("4", nullptr, kVocab), ::testing::ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(BuildDraftVocabulary(std::to_string(kVocab), nullptr, kVocab)->empty());
}

TEST(DraftVocabularyTest, AListIsTakenAsItIs) {
  const File file("[7, 3, 3, 12]");
  EXPECT_THAT(*BuildDraftVocabulary(file.path(), SmallTokenizer().get(), kVocab), ElementsAre(3, 7, 12));
}

TEST(DraftVocabularyTest, CountsKeepTheMostFrequent) {
  const auto tokenizer = SmallTokenizer();
  const auto ids = tokenizer->Encode("abc abc abc cd ab");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(CountsToJson(*ids), "{\"35\":4,\"0\":3,\"1\":1,\"2\":1}\n");
  const File few(CountsToJson(*ids));
  EXPECT_THAT(*BuildDraftVocabulary(few.path(), tokenizer.get(), kVocab), ElementsAre(0, 1, 2, 35, 259));

  std::string many = "{";
  for (int id = 0; id < kDraftIdsOfAFile + 10; ++id)
    absl::StrAppend(&many, id == 0 ? "" : ",", "\"", id, "\":", id / 2);
  const File large(many + "}");
  const auto kept = BuildDraftVocabulary(large.path(), nullptr, 100000);
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_EQ(static_cast<int64_t>(kept->size()), kDraftIdsOfAFile);
  EXPECT_EQ(kept->front(), 10);  // ids of the lowest counts are left out
}

TEST(DraftVocabularyTest, WhatIsNoIdIsNamed) {
  for (const auto& [content, said] :
       std::vector<std::pair<std::string, std::string>>{{"[1, 1000]", "1000"},
                                                        {"[1, \"a\"]", "\"a\""},
                                                        {"{\"x\": 1}", "'x'"},
                                                        {"{\"1000\": 1}", "'1000'"},
                                                        {"{\"1\": -1}", "count of id 1"},
                                                        {"[]", "JSON array"},
                                                        {"nothing", "JSON array"}}) {
    const File file(content);
    const absl::Status bad = BuildDraftVocabulary(file.path(), nullptr, kVocab).status();
    EXPECT_EQ(CodeOf(std::string(bad.message())), "CFG-002") << content;
    EXPECT_THAT(std::string(bad.message()), HasSubstr(said));
    EXPECT_THAT(std::string(bad.message()), HasSubstr(file.path()));
  }
  EXPECT_THAT(std::string(BuildDraftVocabulary("/no/such/file", nullptr, kVocab).status().message()),
              HasSubstr("/no/such/file"));
}

}  // namespace
}  // namespace paceline::cli
