// Rings between a kernel, here a thread that polls as one would, and a core that moves them over real links.
#include "transport/ring_pump.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

class OwnedRing {
 public:
  OwnedRing(uint32_t count, uint32_t capacity) : flags_(count), data_(size_t{count} * capacity) {
    ring_ = {.flags = flags_.data(),
             .data = data_.data(),
             .closed = &closed_,
             .count = count,
             .capacity = capacity};
  }
  const SlotRing& ring() const { return ring_; }

 private:
  std::vector<RingFlag> flags_;
  std::vector<std::byte> data_;
  uint64_t closed_ = 0;
  SlotRing ring_;
};

void Fill(const SlotRing& ring, uint64_t message, const std::string& text) {
  std::memcpy(SlotData(ring, message), text.data(), text.size());
  Publish(ring, message, static_cast<uint32_t>(text.size()));
}
std::string Take(const SlotRing& ring, uint64_t message) {
  const std::string text(reinterpret_cast<const char*>(SlotData(ring, message)), BytesOf(ring, message));
  GiveBack(ring, message);
  return text;
}
std::string TextOf(uint64_t message) {
  return std::to_string(message) + std::string(message * 31 % 180, static_cast<char>('a' + message % 26));
}

TEST(SlotRingTest, ASlotIsFilledTakenAndFilledAgainInTurn) {
  const OwnedRing owned(3, 16);
  const SlotRing& ring = owned.ring();
  for (uint64_t lap = 0; lap < 3; ++lap) {
    for (uint64_t n = 3 * lap; n < 3 * lap + 3; ++n) {
      EXPECT_EQ(MayTake(ring, n), SlotState::kNotYet) << n;
      ASSERT_EQ(MayFill(ring, n), SlotState::kReady) << n;
      Fill(ring, n, absl::StrCat("m", n));
      EXPECT_EQ(MayFill(ring, n), SlotState::kNotYet) << n;  // a message is published once
    }
    EXPECT_EQ(MayFill(ring, 3 * lap + 3), SlotState::kNotYet);  // full
    for (uint64_t n = 3 * lap; n < 3 * lap + 3; ++n) {
      ASSERT_EQ(MayTake(ring, n), SlotState::kReady) << n;
      EXPECT_EQ(Take(ring, n), absl::StrCat("m", n));
      EXPECT_EQ(MayTake(ring, n), SlotState::kNotYet) << n;  // and taken once
    }
  }
}

TEST(SlotRingTest, AClosedRingEndsEveryPollButWhatIsThereCanBeTaken) {
  const OwnedRing owned(2, 16);
  const SlotRing& ring = owned.ring();
  Fill(ring, 0, "last");
  CloseRing(ring);
  EXPECT_EQ(MayTake(ring, 0), SlotState::kReady);
  EXPECT_EQ(Take(ring, 0), "last");
  EXPECT_EQ(MayTake(ring, 1), SlotState::kClosed);
  Fill(ring, 1, "x");
  EXPECT_EQ(MayFill(ring, 3), SlotState::kClosed);
}

// What a kernel does: polls until it may, and ends when the ring is closed.
SlotState Spin(SlotState (*may)(const SlotRing&, uint64_t), const SlotRing& ring, uint64_t message) {
  SlotState state = may(ring, message);
  while (state == SlotState::kNotYet) {
    std::this_thread::yield();
    state = may(ring, message);
  }
  return state;
}

// Many threads spin here on few cores.
absl::StatusOr<bool> TurnOrYield(RingPump& pump) {
  const absl::StatusOr<bool> moved = pump.Turn();
  if (moved.ok() && !*moved) std::this_thread::yield();
  return moved;
}

class RingPumpTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ucx") setenv("UCX_TLS", "tcp,self", 0);
    auto listener = ListenLink(GetParam(), "127.0.0.1", 0);
    ASSERT_TRUE(listener.ok()) << listener.status();
    const TimePoint deadline = Clock::Real().Now() + std::chrono::seconds(60);
    absl::StatusOr<std::unique_ptr<Link>> connected = absl::UnknownError("not run");
    std::thread dial([&] { connected = ConnectLink(GetParam(), (*listener)->address(), deadline); });
    auto accepted = (*listener)->Accept(deadline);
    dial.join();
    ASSERT_TRUE(connected.ok()) << connected.status();
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    head_ = *std::move(accepted);
    worker_ = *std::move(connected);
  }
  std::unique_ptr<Link> head_, worker_;
};

TEST_P(RingPumpTest, RowsGoOutAndAnswersComeBackInOrder) {
  constexpr uint64_t kMessages = 300;
  const OwnedRing out(4, 256), in(2, 256), there(3, 256), back(5, 256);
  std::thread kernel([&] {
    for (uint64_t n = 0; n < kMessages; ++n) {
      ASSERT_EQ(Spin(MayFill, out.ring(), n), SlotState::kReady);
      Fill(out.ring(), n, TextOf(n));
    }
  });
  std::thread reader([&] {
    for (uint64_t n = 0; n < kMessages; ++n) {
      ASSERT_EQ(Spin(MayTake, in.ring(), n), SlotState::kReady);
      ASSERT_EQ(Take(in.ring(), n), TextOf(n));
    }
    CloseRing(in.ring());
  });
  std::thread peer_kernel([&] {
    for (uint64_t n = 0;; ++n) {
      if (Spin(MayTake, there.ring(), n) == SlotState::kClosed) return;
      ASSERT_EQ(Spin(MayFill, back.ring(), n), SlotState::kReady);
      Fill(back.ring(), n, Take(there.ring(), n));
    }
  });
  std::thread peer_core([&] {
    RingPump pump(*worker_, back.ring(), there.ring());
    while (TurnOrYield(pump).ok()) {
    }
  });
  {
    RingPump pump(*head_, out.ring(), in.ring());
    while (LoadFlag(in.ring().closed) == 0) ASSERT_TRUE(TurnOrYield(pump).ok());
  }
  head_.reset();  // the peer's pump ends with its link, and closes its kernel's rings
  for (std::thread* thread : {&kernel, &reader, &peer_kernel, &peer_core}) thread->join();
}

TEST_P(RingPumpTest, ALostPeerEndsAKernelThatPolls) {
  const OwnedRing out(2, 64), in(2, 64);
  std::thread kernel([&] { EXPECT_EQ(Spin(MayTake, in.ring(), 0), SlotState::kClosed); });
  worker_.reset();
  RingPump pump(*head_, out.ring(), in.ring());
  absl::StatusOr<bool> moved = true;
  while (moved.ok()) moved = TurnOrYield(pump);
  EXPECT_TRUE(absl::IsUnavailable(moved.status())) << moved.status();
  kernel.join();
}

std::vector<std::string> Kinds() { return LinkKinds(); }
INSTANTIATE_TEST_SUITE_P(Kinds, RingPumpTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return info.param; });

TEST(RingPumpOverflowTest, AMessageThatFitsNoSlotEndsBothRings) {
  auto [head, worker] = LoopbackPair();
  const OwnedRing out(2, 16), in(2, 16);
  const std::string seventeen(17, 'x');
  const Bytes part = std::as_bytes(std::span(seventeen));
  ASSERT_TRUE(worker->Send(std::span(&part, 1)).ok());
  RingPump pump(*head, out.ring(), in.ring());
  const absl::Status refused = pump.Turn().status();
  EXPECT_EQ(CodeOf(std::string(refused.message())), "NET-004") << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("17 bytes; the ring's slots have 16"));
  EXPECT_EQ(MayTake(in.ring(), 0), SlotState::kClosed);
  EXPECT_EQ(MayTake(out.ring(), 0), SlotState::kClosed);
}

}  // namespace
}  // namespace paceline
