// The door: what is refused, and that what leaves makes room.
#include "coordinator/admission.h"

#include "coordinator/api_error.h"
#include "coordinator/shares.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

TEST(Admission, CountsRequestsKeysAndBytes) {
  Admission door({.requests = 4, .requests_per_key = 2, .bytes = 100});
  auto a1 = door.Enter("a", 10), a2 = door.Enter("a", 10);
  ASSERT_TRUE(a1.ok() && a2.ok());
  const auto a3 = door.Enter("a", 10);
  EXPECT_EQ(a3.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(FactsOf(a3.status()).reason, reasons::kQueueFull);
  EXPECT_THAT(std::string(a3.status().message()), HasSubstr("of this key"));
  auto b1 = door.Enter("b", 80);
  ASSERT_TRUE(b1.ok());
  const auto b2 = door.Enter("b", 1);
  EXPECT_THAT(std::string(b2.status().message()), HasSubstr("100 bytes"));
  auto c1 = door.Enter("c", 0);
  ASSERT_TRUE(c1.ok());
  const auto d1 = door.Enter("d", 0);
  EXPECT_THAT(std::string(d1.status().message()), HasSubstr("4 requests run and wait"));
  a1->reset();
  EXPECT_EQ(door.requests(), 3);
  EXPECT_TRUE(door.Enter("a", 10).ok()) << "and out again at once";
  EXPECT_EQ(door.requests(), 3);
}

TEST(Admission, ALargePromptAloneIsTaken) {
  Admission door({.requests = 4, .requests_per_key = 4, .bytes = 100});
  auto large = door.Enter("a", 1000);
  ASSERT_TRUE(large.ok());
  EXPECT_FALSE(door.Enter("a", 1).ok());
  large->reset();
  EXPECT_TRUE(door.Enter("a", 1).ok());
}

TEST(Shares, WhoLeavesAheadIsRememberedAsLongAsOthersAreThere) {
  Shares shares;
  shares.Enter("a");
  shares.Enter("b");
  shares.Serve("a", 100, 0);
  shares.Serve("b", 10, 5);
  EXPECT_EQ(shares.served("b"), 15);
  shares.Leave("a");
  shares.Enter("c");
  EXPECT_EQ(shares.served("c"), 15) << "level with the least";
  shares.Enter("a");
  EXPECT_EQ(shares.served("a"), 100);
  shares.Leave("a");
  shares.Leave("c");
  EXPECT_EQ(shares.keys(), 2u) << "c had nothing beyond b";
  shares.Leave("b");
  EXPECT_EQ(shares.keys(), 0u);
}

}  // namespace
}  // namespace paceline
