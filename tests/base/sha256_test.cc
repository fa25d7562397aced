// SHA-256 against the examples of FIPS 180-4.
#include "base/sha256.h"

#include <gtest/gtest.h>

namespace paceline {
namespace {

std::string HexOf(std::string_view text) {
  Sha256 hash;
  hash.Add(text);
  return hash.Hex();
}

TEST(Sha256, KnownAnswers) {
  EXPECT_EQ(Sha256().Hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexOf("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(HexOf(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesAreTheWhole) {
  const std::string text(300, 'x');
  for (const size_t cut : {0u, 1u, 55u, 56u, 63u, 64u, 65u, 128u, 299u, 300u}) {
    Sha256 hash;
    hash.Add(text.substr(0, cut));
    hash.Add(text.substr(cut));
    EXPECT_EQ(hash.Hex(), HexOf(text)) << cut;
  }
}

TEST(Sha256, ReadingTheDigestDoesNotEndIt) {
  Sha256 hash;
  hash.Add("a");
  EXPECT_EQ(hash.Hex(), HexOf("a"));
  EXPECT_EQ(hash.Hex(), HexOf("a"));
  hash.Add("bc");
  EXPECT_EQ(hash.Hex(), HexOf("abc"));
}

TEST(Sha256, AMovedHashGoesOn) {
  Sha256 first;
  first.Add("ab");
  Sha256 second = std::move(first);
  second.Add("c");
  EXPECT_EQ(second.Hex(), HexOf("abc"));
}

}  // namespace
}  // namespace paceline
