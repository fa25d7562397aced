#include "transport/simulated_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <thread>

#include "base/error.h"
#include "transport/link_probe.h"

namespace paceline {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using ::testing::HasSubstr;

// Both ends of a loopback, the head's behind the wire, on a clock that the test moves.
struct Wire {
  explicit Wire(const SimulationOptions& options) {
    auto [head_end, worker_end] = LoopbackPair();
    head = WrapSimulated(std::move(head_end), options, clock);
    worker = std::move(worker_end);
  }
  void Send(Link& link, const std::string& text) {
    const Bytes bytes = std::as_bytes(std::span(text));
    ASSERT_TRUE(link.Send(std::span(&bytes, 1)).ok());
  }
  // What the link has now, "" for nothing.
  static std::string Take(Link& link) {
    const absl::StatusOr<Bytes> message = link.TryReceive();
    EXPECT_TRUE(message.ok()) << message.status();
    return message.ok() ? std::string(reinterpret_cast<const char*>(message->data()), message->size())
                        : "dead";
  }
  ManualClock clock;
  std::unique_ptr<Link> head;
  std::unique_ptr<Link> worker;
};

TEST(ParseSimulationTest, ReadsEveryKey) {
  const auto options = ParseSimulation("rtt=500us,jitter=1.5ms,bandwidth=10Gbit,seed=7");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->rtt, microseconds(500));
  EXPECT_EQ(options->jitter, microseconds(1500));
  EXPECT_EQ(options->bandwidth, 1e10);
  EXPECT_EQ(options->seed, 7u);
  EXPECT_EQ(ParseSimulation("seed=18446744073709551615")->seed, ~uint64_t{0});
  EXPECT_EQ(ParseSimulation("")->rtt, Duration(0));
}

TEST(ParseSimulationTest, NamesTheKeyThatIsWrong) {
  for (const auto& [text, names] :
       std::vector<std::pair<std::string, std::string>>{{"rtt=500", "rtt"},
                                                        {"rtt=us", "rtt"},
                                                        {"rtt=-1us", "rtt"},
                                                        {"jitter=5parsec", "jitter"},
                                                        {"bandwidth=10GB", "bandwidth"},
                                                        {"bandwidth=0Gbit", "bandwidth"},
                                                        {"seed=x", "seed"},
                                                        {"seed=-1", "seed"},
                                                        {"rtt", "rtt"},
                                                        {"loss=1", "loss"},
                                                        {",", "got ''"},
                                                        {"rtt=9999999s", "rtt"},
                                                        {"rtt=1.2.3us", "rtt"}}) {
    const absl::Status bad = ParseSimulation(text).status();
    EXPECT_EQ(CodeOf(std::string(bad.message())), "CFG-002") << text;
    EXPECT_THAT(std::string(bad.message()), HasSubstr(names)) << text;
  }
}

TEST(SimulatedLinkTest, HalfTheRoundTripEachWay) {
  Wire w({.rtt = microseconds(500)});
  w.Send(*w.head, "out");
  w.clock.Advance(nanoseconds(249'999));
  EXPECT_EQ(w.Take(*w.head), "");
  EXPECT_EQ(w.Take(*w.worker), "");
  w.clock.Advance(nanoseconds(1));
  EXPECT_EQ(w.Take(*w.head), "");  // moves what is due
  EXPECT_EQ(w.Take(*w.worker), "out");
  w.Send(*w.worker, "back");
  EXPECT_EQ(w.Take(*w.head), "");  // enters the wire
  w.clock.Advance(nanoseconds(249'999));
  EXPECT_EQ(w.Take(*w.head), "");
  w.clock.Advance(nanoseconds(1));
  EXPECT_EQ(w.Take(*w.head), "back");
}

TEST(SimulatedLinkTest, BandwidthPutsMessagesOneAfterAnother) {
  Wire w({.rtt = microseconds(0), .bandwidth = 8e6});  // a byte per microsecond
  w.Send(*w.head, std::string(100, 'a'));
  w.Send(*w.head, std::string(50, 'b'));
  w.clock.Advance(nanoseconds(99'999));
  w.head->Wait(w.clock.Now());
  EXPECT_EQ(w.Take(*w.worker), "");
  w.clock.Advance(nanoseconds(1));
  w.head->Wait(w.clock.Now());
  EXPECT_EQ(w.Take(*w.worker).size(), 100u);
  w.clock.Advance(nanoseconds(49'999));
  w.head->Wait(w.clock.Now());
  EXPECT_EQ(w.Take(*w.worker), "");
  w.clock.Advance(nanoseconds(1));
  w.head->Wait(w.clock.Now());
  EXPECT_EQ(w.Take(*w.worker).size(), 50u);
}

// The times at which 200 messages of one direction pass.
std::vector<int64_t> Passing(uint64_t seed) {
  Wire w({.rtt = microseconds(100), .jitter = microseconds(30), .seed = seed});
  std::vector<int64_t> at;
  int sent = 0;
  for (int64_t now = 0; at.size() < 200; ++now, w.clock.Advance(microseconds(1))) {
    if (now % 10 == 0 && sent < 200) w.Send(*w.head, std::to_string(sent++));
    (void)w.head->TryReceive();
    for (std::string text = Wire::Take(*w.worker); !text.empty(); text = Wire::Take(*w.worker)) {
      EXPECT_EQ(text, std::to_string(at.size()));  // order is kept
      at.push_back(now);
    }
  }
  return at;
}

TEST(SimulatedLinkTest, JitterComesFromTheSeedAndKeepsOrder) {
  const std::vector<int64_t> one = Passing(1);
  EXPECT_EQ(one, Passing(1));
  EXPECT_NE(one, Passing(2));
  int64_t least = 1000, most = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    least = std::min(least, one[i] - 10 * static_cast<int64_t>(i));
    most = std::max(most, one[i] - 10 * static_cast<int64_t>(i));
  }
  EXPECT_GE(least, 20);
  EXPECT_LT(least, 30);
  EXPECT_GT(most, 70);
  EXPECT_LE(most, 81);
}

TEST(SimulatedLinkTest, LossDamageAndDeath) {
  {
    Wire w({.drop_after_messages = 1});
    w.Send(*w.head, "a");
    w.Send(*w.head, "b");
    EXPECT_EQ(w.Take(*w.worker), "a");
    EXPECT_EQ(w.Take(*w.worker), "");
    w.Send(*w.worker, "c");
    EXPECT_EQ(w.Take(*w.head), "");
  }
  {
    Wire w({.seed = 3, .corrupt_message_index = 1});
    w.Send(*w.head, "aaaa");
    w.Send(*w.head, "aaaa");
    w.Send(*w.head, "aaaa");
    EXPECT_EQ(w.Take(*w.worker), "aaaa");
    EXPECT_NE(w.Take(*w.worker), "aaaa");
    EXPECT_EQ(w.Take(*w.worker), "aaaa");
  }
  {
    Wire w({.die_after_messages = 1});
    w.Send(*w.head, "a");
    const std::string text = "b";
    const Bytes bytes = std::as_bytes(std::span(text));
    EXPECT_TRUE(absl::IsUnavailable(w.head->Send(std::span(&bytes, 1))));
    EXPECT_TRUE(absl::IsUnavailable(w.head->TryReceive().status()));
    w.head->Wait(Clock::Real().Now() + std::chrono::seconds(60));
  }
}

TEST(SimulatedLinkTest, WhatWasOnTheWireArrivesBeforeTheDeathOfThePeer) {
  Wire w({.rtt = microseconds(100)});
  w.Send(*w.worker, "last words");
  EXPECT_EQ(w.Take(*w.head), "");
  w.worker.reset();
  EXPECT_EQ(w.Take(*w.head), "");
  w.clock.Advance(microseconds(50));
  EXPECT_EQ(w.Take(*w.head), "last words");
  EXPECT_TRUE(absl::IsUnavailable(w.head->TryReceive().status()));
}

TEST(SimulatedLinkTest, AbortEndsItWithTheReason) {
  Wire w({.rtt = microseconds(100)});
  const absl::Status why = Error(errors::kNodeLost, "worker w (rank 1) left");
  std::thread aborter([&] { w.head->Abort(why); });
  w.head->Wait(w.clock.Now() + std::chrono::seconds(60));
  aborter.join();
  EXPECT_EQ(w.head->TryReceive().status(), why);
}

// The far end of a link until one message has come, then echoes it.
std::string EchoOne(Link& link) {
  for (;;) {
    const absl::StatusOr<Bytes> message = link.TryReceive();
    if (!message.ok()) return "dead";
    if (message->empty()) {
      link.Wait(Clock::Real().Now() + std::chrono::hours(1));
      continue;
    }
    const std::string text(reinterpret_cast<const char*>(message->data()), message->size());
    const Bytes bytes = std::as_bytes(std::span(text));
    EXPECT_TRUE(link.Send(std::span(&bytes, 1)).ok());
    return text;
  }
}

TEST(SimulatedLinkTest, OnTheRealClockMessagesPassWhileTheOwnerComputes) {
  for (const char* kind : {"loopback", "tcp"}) {
    SCOPED_TRACE(kind);
    const auto listener = ListenLink(kind, "127.0.0.1", 0);
    ASSERT_TRUE(listener.ok()) << listener.status();
    const TimePoint patience = Clock::Real().Now() + std::chrono::minutes(1);
    const auto worker = ConnectLink(kind, (*listener)->address(), patience);
    ASSERT_TRUE(worker.ok()) << worker.status();
    auto accepted = (*listener)->Accept(patience);
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    const auto head = WrapSimulated(*std::move(accepted), {.rtt = microseconds(300)}, Clock::Real());
    const std::string text = "out and back";
    const Bytes bytes = std::as_bytes(std::span(text));
    const TimePoint sent = Clock::Real().Now();
    ASSERT_TRUE(head->Send(std::span(&bytes, 1)).ok());
    // The head calls nothing meanwhile: the message reaches the other end, and its answer the wire, alone.
    EXPECT_EQ(EchoOne(**worker), text);
    EXPECT_GE(Clock::Real().Now() - sent, microseconds(150));
    std::string back;
    while (back.empty()) {
      back = Wire::Take(*head);
      if (back.empty()) head->Wait(Clock::Real().Now() + std::chrono::hours(1));
    }
    EXPECT_EQ(back, text);
    EXPECT_GE(Clock::Real().Now() - sent, microseconds(300));
    EXPECT_GT(head->bytes(), 2 * static_cast<int64_t>(text.size()) - 1);
  }
}

TEST(SimulatedLinkTest, OnTheRealClockAbortAndWakeEndAWait) {
  auto [head_end, worker_end] = LoopbackPair();
  const auto head = WrapSimulated(std::move(head_end), {.rtt = microseconds(300)}, Clock::Real());
  head->Wake();
  head->Wait(Clock::Real().Now() + std::chrono::hours(1));
  const absl::Status why = Error(errors::kNodeLost, "worker w (rank 1) left");
  std::thread aborter([&] { head->Abort(why); });
  head->Wait(Clock::Real().Now() + std::chrono::hours(1));
  aborter.join();
  EXPECT_EQ(head->TryReceive().status(), why);
}

// Both ends over a real link, the head's behind the wire, on the real clock: a thread of the wire's own moves
// what is due.
struct RealWire {
  RealWire(const char* kind, const SimulationOptions& options) {
    const auto listener = ListenLink(kind, "127.0.0.1", 0);
    EXPECT_TRUE(listener.ok()) << listener.status();
    const TimePoint patience = Clock::Real().Now() + std::chrono::minutes(1);
    auto connected = ConnectLink(kind, (*listener)->address(), patience);
    EXPECT_TRUE(connected.ok()) << connected.status();
    auto accepted = (*listener)->Accept(patience);
    EXPECT_TRUE(accepted.ok()) << accepted.status();
    worker = *std::move(connected);
    head = WrapSimulated(*std::move(accepted), options, Clock::Real());
  }
  static absl::Status Send(Link& link, const std::string& text) {
    const Bytes bytes = std::as_bytes(std::span(text));
    return link.Send(std::span(&bytes, 1));
  }
  // Waits for the next message, or why there will be none.
  static absl::StatusOr<std::string> Next(Link& link) {
    for (;;) {
      const absl::StatusOr<Bytes> message = link.TryReceive();
      if (!message.ok()) return message.status();
      if (!message->empty())
        return std::string(reinterpret_cast<const char*>(message->data()), message->size());
      link.Wait(Clock::Real().Now() + std::chrono::hours(1));
    }
  }
  std::unique_ptr<Link> head;
  std::unique_ptr<Link> worker;
};

class RealSimulatedLink : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Kinds, RealSimulatedLink, ::testing::Values("loopback", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(RealSimulatedLink, AfterALossNothingArrivesAndTheRestIsWhole) {
  RealWire w(GetParam(), {.rtt = microseconds(200), .drop_after_messages = 3});
  for (const char* text : {"a", "b", "c", "lost", "lost too"}) ASSERT_TRUE(w.Send(*w.head, text).ok());
  for (const char* text : {"a", "b", "c"}) EXPECT_EQ(*w.Next(*w.worker), text);
  // The other direction goes over the same cut cable.
  ASSERT_TRUE(w.Send(*w.worker, "lost as well").ok());
  w.head.reset();
  EXPECT_TRUE(absl::IsUnavailable(w.Next(*w.worker).status()));
}

TEST_P(RealSimulatedLink, DamageIsOneBitOfOneMessage) {
  RealWire w(GetParam(), {.rtt = microseconds(200), .seed = 9, .corrupt_message_index = 1});
  const std::string sent(1000, 'a');
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(w.Send(*w.head, sent).ok());
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<std::string> got = w.Next(*w.worker);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->size(), sent.size());
    int bits = 0;
    for (size_t at = 0; at < sent.size(); ++at)
      bits += std::popcount(static_cast<unsigned>(static_cast<unsigned char>((*got)[at] ^ sent[at])));
    EXPECT_EQ(bits, i == 1 ? 1 : 0);
  }
}

TEST_P(RealSimulatedLink, ItsDeathEndsAWaitAndEveryLaterCall) {
  RealWire w(GetParam(), {.rtt = microseconds(200), .die_after_messages = 2});
  ASSERT_TRUE(w.Send(*w.head, "one").ok());
  EXPECT_EQ(*w.Next(*w.worker), "one");
  ASSERT_TRUE(w.Send(*w.worker, "two").ok());
  EXPECT_EQ(*w.Next(*w.head), "two");
  // The third message enters from the other end, while the head sleeps.
  ASSERT_TRUE(w.Send(*w.worker, "three").ok());
  EXPECT_TRUE(absl::IsUnavailable(w.Next(*w.head).status()));
  EXPECT_TRUE(absl::IsUnavailable(w.Send(*w.head, "four")));
  w.head->Wait(Clock::Real().Now() + std::chrono::hours(1));
}

TEST_P(RealSimulatedLink, WhatIsOnTheWireArrivesBeforeTheDeathOfThePeer) {
  RealWire w(GetParam(), {.rtt = milliseconds(20)});
  for (const char* text : {"last", "words"}) ASSERT_TRUE(w.Send(*w.worker, text).ok());
  // Both must have left before their sender goes: a link loses what it has queued.
  ASSERT_TRUE(w.Send(*w.head, "go").ok());
  EXPECT_EQ(*w.Next(*w.worker), "go");
  w.worker.reset();
  EXPECT_EQ(*w.Next(*w.head), "last");
  EXPECT_EQ(*w.Next(*w.head), "words");
  EXPECT_TRUE(absl::IsUnavailable(w.Next(*w.head).status()));
}

TEST_P(RealSimulatedLink, DestroyedWithMessagesInFlightItLosesThemAndEnds) {
  RealWire w(GetParam(), {.rtt = std::chrono::hours(1), .bandwidth = 1e9});
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(w.Send(*w.head, std::string(5000, 'o')).ok());
    ASSERT_TRUE(w.Send(*w.worker, std::string(5000, 'i')).ok());
  }
  EXPECT_EQ(Wire::Take(*w.head), "");
  w.head.reset();  // does not wait for the hour
  EXPECT_TRUE(absl::IsUnavailable(w.Next(*w.worker).status()));
}

TEST_P(RealSimulatedLink, DestroyedInTheMiddleOfTrafficTheOtherEndHasABeginningOfIt) {
  for (int round = 0; round < 30; ++round) {
    RealWire w(GetParam(), {.rtt = microseconds(100), .jitter = microseconds(50), .seed = 1});
    int got = 0;
    absl::Status why;
    std::thread echo([&] {
      for (;; ++got) {
        const absl::StatusOr<std::string> text = RealWire::Next(*w.worker);
        if (!text.ok()) {
          why = text.status();
          return;
        }
        EXPECT_EQ(*text, std::to_string(got));
        (void)RealWire::Send(*w.worker, *text);  // the head may be gone by now
      }
    });
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(w.Send(*w.head, std::to_string(i)).ok());
    // So many answers are taken; others are on the wire, in the link, or not made yet.
    for (int i = 0; i < round; ++i) EXPECT_EQ(*w.Next(*w.head), std::to_string(i));
    w.head.reset();
    echo.join();
    EXPECT_TRUE(absl::IsUnavailable(why)) << why;
    EXPECT_GE(got, round);
    EXPECT_LE(got, 40);
  }
}

TEST(LinkProbeTest, MeasuresARoundTripOverARealWire) {
  auto [head_end, worker_end] = LoopbackPair();
  const auto head = WrapSimulated(std::move(head_end), {.rtt = milliseconds(2)}, Clock::Real());
  std::thread echo([worker = worker_end.get()] { EXPECT_TRUE(ServeProbe(*worker).ok()); });
  const auto result = ProbeLink(*head, 6304, 15488, 5);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(result->min_us, 2000);  // never sooner than the wire allows
  EXPECT_LE(result->min_us, result->p50_us);
  EXPECT_LE(result->p50_us, result->p99_us);
  EXPECT_FALSE(ProbeLink(*head, 7, 1, 1).ok());
  EXPECT_FALSE(ProbeLink(*head, 8, 0, 1).ok());
  ASSERT_TRUE(EndProbe(*head).ok());
  echo.join();  // the farewell leaves the wire though its owner looks no more
}

}  // namespace
}  // namespace paceline
