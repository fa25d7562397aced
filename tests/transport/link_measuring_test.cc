// What the head says of its links: measured over every kind of link against workers that serve, over a
// simulated wire whose figures are known, and by hand where a worker must misbehave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "transport/exchange.h"
#include "transport/frame.h"
#include "transport/link.h"
#include "transport/simulated_link.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kLong = std::chrono::seconds(60);

std::string Text(const absl::Status& status) { return std::string(status.message()); }
TimePoint In(Duration d) { return Clock::Real().Now() + d; }

// Holds nothing: probes ask for nothing that is held.
class Nothing final : public ExpertHandler {
 public:
  absl::Status Experts(LayerId, const RowBlock&, std::span<const Route>, ExpertSums) override {
    return absl::FailedPreconditionError("nothing is held here");
  }
  absl::Status MatmulRows(int32_t, const float*, int32_t, int32_t, float*) override {
    return absl::FailedPreconditionError("nothing is held here");
  }
  int64_t MatmulOutputs(int32_t) const override { return 0; }
  int32_t hidden() const override { return 8; }
};

// Workers that serve until the exchange is gone.
class Measured {
 public:
  using Ends = std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>>;
  explicit Measured(std::vector<Ends> links) {
    int32_t rank = 0;
    for (auto& [head, worker] : links) {
      ++rank;
      peers.push_back(
          {.rank = RankId(rank), .name = absl::StrCat("w", rank), .link = std::move(head), .lost = {}});
      threads_.emplace_back([link = std::move(worker)] {
        Nothing handler;
        (void)ServeExchange(*link, handler, {.epoch = Epoch(1), .yield = true, .stop = {}, .progress = {}});
      });
    }
    exchange->SetPeers(Epoch(1), peers);
  }
  ~Measured() {
    exchange.reset();
    peers.clear();
    for (std::thread& thread : threads_) thread.join();
  }
  std::vector<Exchange::Peer> peers;
  std::unique_ptr<Exchange> exchange = MakeExchange({.timeout = kLong, .yield = true, .on_wait = {}});

 private:
  std::vector<std::thread> threads_;
};

class KindsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(KindsTest, EveryLinkIsMeasured) {
  if (GetParam() == "ucx") setenv("UCX_TLS", "tcp,self", 0);
  std::vector<Measured::Ends> links;
  for (int i = 0; i < 2; ++i) {
    const auto listener = *ListenLink(GetParam(), "127.0.0.1", 0);
    std::unique_ptr<Link> worker;
    std::thread dial([&] { worker = *ConnectLink(GetParam(), listener->address(), In(kLong)); });
    std::unique_ptr<Link> head = *listener->Accept(In(kLong));
    dial.join();
    links.emplace_back(std::move(head), std::move(worker));
  }
  Measured group(std::move(links));
  ASSERT_TRUE(group.exchange->MeasureLinks(/*bandwidth=*/false).ok());
  for (const PeerCounters& peer : group.exchange->peers()) {
    EXPECT_GT(peer.rtt_s, 0);
    EXPECT_LT(peer.sent_bytes, 1000) << "round trips are of empty frames";
    EXPECT_EQ(peer.sent_bytes_per_s, 0) << "not asked for";
  }
  ASSERT_TRUE(group.exchange->MeasureLinks(/*bandwidth=*/true).ok());
  for (const PeerCounters& peer : group.exchange->peers()) {
    EXPECT_GT(peer.sent_bytes_per_s, 0);
    EXPECT_GT(peer.received_bytes_per_s, 0);
    EXPECT_GT(peer.sent_bytes, kMaxProbeBytes);
    EXPECT_GT(peer.received_bytes, kMaxProbeBytes);
  }
  EXPECT_EQ(group.exchange->dropped(), 0);

  // A worker that is lost has no link to say anything of.
  group.peers[0].link = nullptr;
  group.peers[0].lost = absl::UnavailableError("gone");
  group.exchange->SetPeers(Epoch(1), group.peers);
  ASSERT_TRUE(group.exchange->MeasureLinks(/*bandwidth=*/false).ok());
  const std::vector<PeerCounters> left = group.exchange->peers();
  EXPECT_EQ(left[0].rtt_s, 0);
  EXPECT_EQ(left[0].sent_bytes_per_s, 0);
  EXPECT_GT(left[1].rtt_s, 0);
  EXPECT_GT(left[1].sent_bytes_per_s, 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, KindsTest, ::testing::ValuesIn(LinkKinds()),
                         [](const auto& info) { return info.param; });

TEST(LinkMeasuringTest, ASimulatedWireIsWhatItIsSaidToBe) {
  SimulationOptions wire;
  wire.rtt = std::chrono::milliseconds(20);
  wire.bandwidth = 100e6;  // bits a second: a MiB takes 84 ms
  auto [head, worker] = LoopbackPair();
  std::vector<Measured::Ends> links;
  links.emplace_back(WrapSimulated(std::move(head), wire, Clock::Real()), std::move(worker));
  Measured group(std::move(links));
  ASSERT_TRUE(group.exchange->MeasureLinks(/*bandwidth=*/true).ok());
  const PeerCounters peer = group.exchange->peers()[0];
  // A wire may be slower than it is said to be, on a busy machine, and never faster.
  EXPECT_GE(peer.rtt_s, 0.020);
  EXPECT_LT(peer.sent_bytes_per_s, 1.3 * 100e6 / 8);
  EXPECT_LT(peer.received_bytes_per_s, 1.3 * 100e6 / 8);
}

// A worker under the test's thumb. Answers may lie there before they are asked for: parts count up from 0.
class ProbedByHand : public ::testing::Test {
 protected:
  ProbedByHand() {
    auto [head, worker] = LoopbackPair();
    worker_ = std::move(worker);
    exchange_ = MakeExchange({.head = 2, .timeout = timeout_, .yield = true, .on_wait = {}});
    exchange_->SetPeers(Epoch(4), {{.rank = RankId(1), .name = "w1", .link = std::move(head), .lost = {}}});
  }
  static FrameKey Key(uint32_t part) { return {.epoch = 4, .head = 2, .part = part}; }
  void Send() { ASSERT_TRUE(worker_->Send(builder_.parts()).ok()); }
  void Answer(uint32_t part) {
    builder_.ProbeResult(Key(part), {});
    Send();
  }

  const Duration timeout_ = std::chrono::milliseconds(50);
  FrameBuilder builder_;
  std::unique_ptr<Link> worker_;
  std::unique_ptr<Exchange> exchange_;
};

TEST_F(ProbedByHand, WhatIsLateIsDroppedAndCounted) {
  FrameKey late = Key(77);
  late.step = 9;
  builder_.Error(late, absl::InternalError("of a step that was given up"));
  Send();
  for (uint32_t part = 0; part < 5; ++part) Answer(part);
  EXPECT_TRUE(exchange_->MeasureLinks(/*bandwidth=*/false).ok());
  EXPECT_EQ(exchange_->dropped(), 1);
  EXPECT_GT(exchange_->peers()[0].rtt_s, 0);
}

TEST_F(ProbedByHand, ARefusalAndSilenceAreNamed) {
  builder_.Error(Key(0), Error(errors::kFrame, "operation: expected experts or matmul_rows, got 6"));
  Send();
  EXPECT_THAT(Text(exchange_->MeasureLinks(/*bandwidth=*/false)),
              AllOf(HasSubstr("NET-004"), HasSubstr("worker w1 (rank 1) refused a probe")));
  const absl::Status late = exchange_->MeasureLinks(/*bandwidth=*/false);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_THAT(Text(late), AllOf(HasSubstr("NET-005"), HasSubstr("worker w1 (rank 1)")));
  EXPECT_EQ(exchange_->peers()[0].rtt_s, 0);
  worker_.reset();
  EXPECT_THAT(Text(exchange_->MeasureLinks(/*bandwidth=*/false)), HasSubstr("NET-001"));
}

}  // namespace
}  // namespace paceline
