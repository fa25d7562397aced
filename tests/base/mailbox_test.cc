// The mailbox: order, bounds, deadlines and closing, with real threads.
#include "base/mailbox.h"

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace paceline {
namespace {

constexpr Duration kLimit = std::chrono::seconds(60);

TEST(Mailbox, KeepsOrderAndBounds) {
  Mailbox<std::unique_ptr<int>> box(2);
  EXPECT_TRUE(box.TryPush(std::make_unique<int>(1)));
  EXPECT_TRUE(box.TryPush(std::make_unique<int>(2)));
  auto third = std::make_unique<int>(3);
  EXPECT_FALSE(box.TryPush(std::move(third)));
  EXPECT_NE(third, nullptr) << "what was refused stays with the caller";
  EXPECT_FALSE(box.Push(std::move(third), Clock::Real().Now()));
  EXPECT_EQ(**box.TryPop(), 1);
  EXPECT_TRUE(box.TryPush(std::move(third)));
  EXPECT_EQ(**box.TryPop(), 2);
  EXPECT_EQ(**box.TryPop(), 3);
  EXPECT_FALSE(box.TryPop().has_value());
}

TEST(Mailbox, ManyProducersOneConsumer) {
  Mailbox<int> box(3);
  std::vector<std::thread> producers;
  for (int p = 0; p < 4; ++p) {
    producers.emplace_back([&box, p] {
      for (int i = 0; i < 500; ++i) EXPECT_TRUE(box.Push(p * 1000 + i, Clock::Real().Now() + kLimit));
    });
  }
  std::vector<int> next(4, 0);
  for (int n = 0; n < 2000; ++n) {
    const std::optional<int> item = box.Pop(Clock::Real().Now() + kLimit);
    ASSERT_TRUE(item.has_value());
    EXPECT_EQ(*item % 1000, next[static_cast<size_t>(*item / 1000)]++)
        << "each producer's items stay in order";
  }
  for (std::thread& producer : producers) producer.join();
}

TEST(Mailbox, ClosingWakesBothSidesAndKeepsWhatIsInside) {
  Mailbox<int> box(1);
  std::thread closer([&box] { box.Close(); });
  EXPECT_FALSE(box.Pop(Clock::Real().Now() + kLimit).has_value());
  closer.join();
  EXPECT_FALSE(box.TryPush(1));

  Mailbox<int> full(1);
  EXPECT_TRUE(full.TryPush(7));
  std::thread pusher([&full] { EXPECT_FALSE(full.Push(8, Clock::Real().Now() + kLimit)); });
  full.Close();
  pusher.join();
  EXPECT_EQ(full.TryPop(), 7);
}

TEST(Mailbox, DeadlinesPass) {
  Mailbox<int> box(1);
  EXPECT_FALSE(box.Pop(Clock::Real().Now()).has_value());
}

}  // namespace
}  // namespace paceline
