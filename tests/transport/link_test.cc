// One body over every kind of link this build has, nccl over a stand-in for its libraries. The two ends are
// two threads, each the owner of its end.
#include "transport/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/match.h"
#include "base/error.h"
#include "base/status.h"
#include "tests/transport/gpu_stand_in.h"
#include "transport/nccl_link.h"

namespace paceline {
namespace {

TimePoint In(Duration d) { return Clock::Real().Now() + d; }
constexpr auto kLong = std::chrono::seconds(60);  // only a hanging test gets there

Bytes Of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }
std::string TextOf(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

absl::Status SendText(Link& link, const std::string& text) {
  const Bytes part = Of(text);
  return link.Send(std::span(&part, 1));
}

// The next message, or why there is none.
absl::StatusOr<std::string> Next(Link& link) {
  const TimePoint deadline = In(kLong);
  while (Clock::Real().Now() < deadline) {
    const absl::StatusOr<Bytes> message = link.TryReceive();
    if (!message.ok()) return message.status();
    if (!message->empty()) return TextOf(*message);
    link.Wait(deadline);
  }
  return absl::DeadlineExceededError("the test waited in vain");
}

constexpr char kNcclStandIn[] = "nccl";

absl::StatusOr<std::unique_ptr<LinkListener>> Listen(const std::string& kind) {
  return kind == kNcclStandIn ? ListenNccl(stand_in::Calls(), "127.0.0.1", 0, {})
                              : ListenLink(kind, "127.0.0.1", 0);
}
absl::StatusOr<std::unique_ptr<Link>> Connect(const std::string& kind, const std::string& address) {
  return kind == kNcclStandIn ? ConnectNccl(stand_in::Calls(), address, In(kLong), {.device = 1})
                              : ConnectLink(kind, address, In(kLong));
}

// What the cluster does with a link that has come: it hears who is there, then lets the link be made whole.
absl::Status Introduce(Link& head, Link& worker) {
  RETURN_IF_ERROR(SendText(worker, "it is me"));
  ASSIGN_OR_RETURN(const std::string first, Next(head));
  EXPECT_EQ(first, "it is me");
  for (;;) {
    ASSIGN_OR_RETURN(const bool whole, head.Open(Epoch(1)));
    if (whole) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Bytes none, worker.TryReceive());
    EXPECT_TRUE(none.empty());
  }
}

class LinkTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "ucx") {
      // Shared memory between two threads of one process is not what is under test here.
      setenv("UCX_TLS", "tcp,self", 0);
    }
    auto listener = Listen(GetParam());
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    absl::StatusOr<std::unique_ptr<Link>> connected = absl::UnknownError("not run");
    std::thread dial([&] { connected = Connect(GetParam(), listener_->address()); });
    auto accepted = listener_->Accept(In(kLong));
    dial.join();
    ASSERT_TRUE(connected.ok()) << connected.status();
    ASSERT_TRUE(accepted.ok()) << accepted.status();
    head_ = *std::move(accepted);
    worker_ = *std::move(connected);
    const absl::Status introduced = Introduce(*head_, *worker_);
    ASSERT_TRUE(introduced.ok()) << introduced;
  }
  void TearDown() override {
    head_.reset();
    worker_.reset();
    EXPECT_THAT(stand_in::Misuses(), ::testing::IsEmpty());
    EXPECT_EQ(stand_in::Alive(), 0);
  }

  std::unique_ptr<LinkListener> listener_;
  std::unique_ptr<Link> head_;
  std::unique_ptr<Link> worker_;
};

TEST_P(LinkTest, CarriesMessagesWholeAndInOrderBothWays) {
  constexpr int kMessages = 500;
  const auto text = [](int i) {
    return std::to_string(i) + std::string(static_cast<size_t>(i * 37 % 5000), 'x');
  };
  std::thread echo([&] {
    for (int i = 0; i < kMessages; ++i) {
      const auto message = Next(*worker_);
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_TRUE(SendText(*worker_, *message).ok());
    }
    EXPECT_FALSE(Next(*worker_).ok());  // drives what is queued until the head is gone
  });
  for (int i = 0; i < kMessages; ++i) {
    const std::string whole = text(i);
    const Bytes parts[] = {Of(whole).first(1), {}, Of(whole).subspan(1)};
    ASSERT_TRUE(head_->Send(parts).ok());
  }
  for (int i = 0; i < kMessages; ++i) {
    const auto message = Next(*head_);
    ASSERT_TRUE(message.ok()) << message.status();
    ASSERT_EQ(*message, text(i));
  }
  EXPECT_GT(head_->bytes(), 2 * kMessages);
  head_.reset();
  echo.join();
}

TEST_P(LinkTest, LargeMessagesBothWaysAtOnceDoNotDeadlock) {
  const std::string large(24 << 20, 'q');
  const auto swap = [&](Link& link) {
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(SendText(link, large + std::to_string(i)).ok());
    for (int i = 0; i < 3; ++i) {
      const auto message = Next(link);
      ASSERT_TRUE(message.ok()) << message.status();
      ASSERT_TRUE(*message == large + std::to_string(i));
    }
    ASSERT_TRUE(SendText(link, "done").ok());
    const auto done = Next(link);
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(*done, "done");
  };
  std::thread other([&] {
    swap(*worker_);
    EXPECT_FALSE(Next(*worker_).ok());  // drives what is queued until the head is gone
  });
  swap(*head_);
  head_.reset();
  other.join();
}

TEST_P(LinkTest, ManyPartsAreOneMessage) {
  std::string whole;
  std::vector<Bytes> parts;
  const std::string piece = "piece";
  for (int i = 0; i < 2000; ++i) {
    parts.push_back(Of(piece));
    whole += piece;
  }
  std::thread other([&] {
    EXPECT_EQ(*Next(*worker_), whole);
    EXPECT_TRUE(SendText(*worker_, "ok").ok());
    EXPECT_FALSE(Next(*worker_).ok());
  });
  ASSERT_TRUE(head_->Send(parts).ok());
  EXPECT_EQ(*Next(*head_), "ok");
  head_.reset();
  other.join();
}

TEST_P(LinkTest, APeerThatIsGoneIsUnavailableAndStaysSo) {
  std::thread other([&] {
    EXPECT_EQ(*Next(*worker_), "hello");
    worker_.reset();
  });
  ASSERT_TRUE(SendText(*head_, "hello").ok());
  const auto message = Next(*head_);
  other.join();
  ASSERT_FALSE(message.ok());
  EXPECT_TRUE(absl::IsUnavailable(message.status())) << message.status();
  EXPECT_EQ(CodeOf(std::string(message.status().message())), "NET-001");
  EXPECT_TRUE(absl::IsUnavailable(head_->TryReceive().status()));
  EXPECT_TRUE(absl::IsUnavailable(SendText(*head_, "anyone?")));
  head_->Wait(In(kLong));  // returns at once: nothing can arrive
}

TEST_P(LinkTest, WakeEndsOneWaitAndLeavesTheLinkAlive) {
  const TimePoint never = Clock::Real().Now() + std::chrono::hours(1);
  std::thread waker([&] { head_->Wake(); });
  head_->Wait(never);
  waker.join();
  ASSERT_TRUE(SendText(*worker_, "after").ok());
  EXPECT_EQ(*Next(*head_), "after");
  head_->Wake();  // nobody sleeps: the next one does not
  head_->Wait(never);
}

TEST_P(LinkTest, AbortWakesASleeperAndFailsEveryLaterCall) {
  const absl::Status why = Error(errors::kNodeLost, "worker b (rank 1) made no progress");
  std::thread aborter([&] { head_->Abort(why); });
  const auto message = Next(*head_);  // asleep or not yet: both must end
  aborter.join();
  EXPECT_EQ(message.status(), why);
  EXPECT_EQ(SendText(*head_, "x"), why);
  head_->Abort(absl::UnknownError("later"));
  EXPECT_EQ(head_->TryReceive().status(), why);
}

TEST_P(LinkTest, EmptyAndOversizedMessagesAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(head_->Send({})));
  const Bytes empty[] = {{}, {}};
  EXPECT_TRUE(absl::IsInvalidArgument(head_->Send(empty)));
  const std::string mebibyte(1 << 20, 'x');
  const std::vector<Bytes> parts(257, Of(mebibyte));
  EXPECT_TRUE(absl::IsInvalidArgument(head_->Send(parts)));
  std::thread other([&] { EXPECT_EQ(*Next(*worker_), "alive"); });
  EXPECT_TRUE(SendText(*head_, "alive").ok());
  other.join();
}

TEST_P(LinkTest, AcceptGivesUpAtItsDeadline) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(listener_->Accept(In(std::chrono::milliseconds(1))).status()));
}

TEST_P(LinkTest, SeveralLinksOfOneListenerAreSeparate) {
  std::unique_ptr<Link> second_worker;
  std::thread dial([&] { second_worker = *Connect(GetParam(), listener_->address()); });
  auto second = listener_->Accept(In(kLong));
  dial.join();
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE(Introduce(**second, *second_worker).ok());
  std::thread first_echo([&] {
    EXPECT_TRUE(SendText(*worker_, "first " + *Next(*worker_)).ok());
    EXPECT_FALSE(Next(*worker_).ok());
  });
  std::thread second_echo([&] {
    EXPECT_TRUE(SendText(*second_worker, "second " + *Next(*second_worker)).ok());
    EXPECT_FALSE(Next(*second_worker).ok());
  });
  ASSERT_TRUE(SendText(*head_, "a").ok());
  ASSERT_TRUE(SendText(**second, "b").ok());
  EXPECT_EQ(*Next(*head_), "first a");
  EXPECT_EQ(*Next(**second), "second b");
  head_.reset();
  second->reset();
  first_echo.join();
  second_echo.join();
}

std::vector<std::string> Kinds() {
  std::vector<std::string> kinds = LinkKinds();
  kinds.emplace_back(kNcclStandIn);
  return kinds;
}
INSTANTIATE_TEST_SUITE_P(Kinds, LinkTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return info.param; });

TEST(SelectTest, AKindThatWasNotBuiltIsRefusedByName) {
  const absl::Status listen = ListenLink("pigeon", "127.0.0.1", 0).status();
  EXPECT_TRUE(absl::IsUnimplemented(listen));
  EXPECT_THAT(std::string(listen.message()),
              ::testing::AllOf(::testing::HasSubstr("NET-007"), ::testing::HasSubstr("pigeon"),
                               ::testing::HasSubstr("loopback, tcp")));
  EXPECT_EQ(CheckLink("pigeon"), listen);
  EXPECT_EQ(ConnectLink("pigeon", "127.0.0.1:1", In(kLong)).status(), listen);
}

TEST(SelectTest, LoopbackAddresses) {
  for (const char* yes : {"127.0.0.1", "127.8.9.10", "::1"}) EXPECT_TRUE(IsLoopbackAddress(yes)) << yes;
  for (const char* no :
       {"0.0.0.0", "10.0.0.1", "128.0.0.1", "::", "::2", "localhost", "127.0.0.1.example.com", ""}) {
    EXPECT_FALSE(IsLoopbackAddress(no)) << no;
  }
}

TEST(TcpTest, BadAddressesAreNamed) {
  for (const char* bad : {"", "host", "host:", ":1", "a:b:c", "[::1]", "[::1]:x", "host:70000"}) {
    const absl::Status status = ConnectLink("tcp", bad, In(kLong)).status();
    EXPECT_EQ(CodeOf(std::string(status.message())), "CFG-002") << bad << ": " << status;
  }
}

TEST(TcpTest, NobodyListensIsUnreachable) {
  std::string address;
  {
    auto listener = ListenLink("tcp", "127.0.0.1", 0);
    ASSERT_TRUE(listener.ok());
    address = (*listener)->address();
  }
  const absl::Status status = ConnectLink("tcp", address, In(kLong)).status();
  EXPECT_EQ(CodeOf(std::string(status.message())), "NET-002") << status;
}

TEST(TcpTest, NamesAndIpv6Work) {
  for (const char* host : {"localhost", "::1"}) {
    auto listener = ListenLink("tcp", host, 0);
    if (!listener.ok() && std::string(host) == "::1") GTEST_SKIP() << "no IPv6 here: " << listener.status();
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto link = ConnectLink("tcp", (*listener)->address(), In(kLong));
    ASSERT_TRUE(link.ok()) << link.status();
    EXPECT_TRUE((*listener)->Accept(In(kLong)).ok());
  }
}

}  // namespace
}  // namespace paceline
