// The life of an nccl link over a stand-in for its libraries, mostly on one thread and a clock that the test
// moves: how it is made, what ends it, and that nothing is left behind. What it does as a link like any
// other: link_test.cc.
#include "transport/nccl_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>

#include "base/error.h"
#include "tests/transport/gpu_stand_in.h"
#include "transport/nccl_control.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr int kTurns = 2000;  // more than anything takes on the stand-in

Bytes Of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }
std::string TextOf(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
std::string Message(const absl::Status& status) { return std::string(status.message()); }

absl::Status SendText(Link& link, const std::string& text) {
  const Bytes part = Of(text);
  return link.Send(std::span(&part, 1));
}

// Bytes that tell where they belong.
std::string Pattern(size_t bytes, size_t seed) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 2654435761u + seed) >> 13);
  return text;
}

class NcclLinkTest : public ::testing::Test {
 protected:
  NcclLinkTest() : made_before_(stand_in::Made()), aborted_before_(stand_in::Aborted()) {}
  void TearDown() override {
    // An end that was aborted asks nobody whether the last message arrived.
    for (Link* link : {head_.get(), worker_.get()}) {
      if (link != nullptr) link->Abort(absl::CancelledError("the test is over"));
    }
    head_.reset();
    worker_.reset();
    EXPECT_THAT(stand_in::Misuses(), IsEmpty());
    EXPECT_EQ(stand_in::Alive(), 0);
    EXPECT_EQ(Made(), Aborted());
    stand_in::Set({});
  }
  int Made() const { return stand_in::Made() - made_before_; }
  int Aborted() const { return stand_in::Aborted() - aborted_before_; }

  std::unique_ptr<Link> End(std::unique_ptr<Link> side, NcclEnd end, Epoch admitted = Epoch(0),
                            int device = -1) {
    NcclOptions options;
    options.clock = &clock_;
    options.admitted = admitted;
    options.device = device >= 0 ? device : end == NcclEnd::kHead ? 0 : 1;
    auto link = MakeNcclLink(stand_in::Calls(), std::move(side), end, options);
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? *std::move(link) : nullptr;
  }
  void MakeEnds(Epoch admitted = Epoch(0)) {
    auto [head_side, worker_side] = LoopbackPair();
    head_ = End(std::move(head_side), NcclEnd::kHead);
    worker_ = End(std::move(worker_side), NcclEnd::kWorker, admitted);
  }
  // The worker names itself, and the head hears it.
  void Introduce() {
    ASSERT_TRUE(SendText(*worker_, "token").ok());
    ASSERT_EQ(Next(*head_), "token");
  }
  // True when both ends stand; else what the head said.
  absl::Status OpenHead(Epoch epoch = Epoch(1)) {
    for (int turn = 0; turn < kTurns; ++turn) {
      const absl::StatusOr<bool> whole = head_->Open(epoch);
      if (!whole.ok()) return whole.status();
      if (*whole) return absl::OkStatus();
      if (const absl::StatusOr<Bytes> none = worker_->TryReceive(); !none.ok()) return none.status();
    }
    return absl::DeadlineExceededError("still not whole");
  }
  void MakeWhole(Epoch epoch = Epoch(1)) {
    MakeEnds();
    Introduce();
    ASSERT_TRUE(OpenHead(epoch).ok());
  }
  // The next message of `link` while both ends are driven; "" when none comes, else why it died. What the
  // other end gets meanwhile is an error.
  std::string Next(Link& link) {
    Link& other = &link == head_.get() ? *worker_ : *head_;
    for (int turn = 0; turn < kTurns; ++turn) {
      const absl::StatusOr<Bytes> message = link.TryReceive();
      if (!message.ok()) return Message(message.status());
      if (!message->empty()) return TextOf(*message);
      const absl::StatusOr<Bytes> none = other.TryReceive();
      EXPECT_TRUE(!none.ok() || none->empty());
    }
    return "";
  }
  // What an end that is dead says.
  static std::string WhyDead(Link& link) { return Message(link.TryReceive().status()); }

  ManualClock clock_;
  const int made_before_;
  const int aborted_before_;
  std::unique_ptr<Link> head_;
  std::unique_ptr<Link> worker_;
};

TEST_F(NcclLinkTest, NothingIsMadeForAPeerThatNobodyKnows) {
  MakeEnds();
  Introduce();
  EXPECT_EQ(Next(*head_), "");
  EXPECT_EQ(Made(), 0);
  ASSERT_TRUE(OpenHead().ok());
  EXPECT_EQ(Made(), 4);  // a communicator per direction, two ranks each
  EXPECT_EQ(Aborted(), 0);
}

TEST_F(NcclLinkTest, MessagesOfAllLengthsKeepBytesAndOrderBothWays) {
  MakeWhole();
  const size_t lengths[] = {1,
                            6240,
                            kMaxMessageBytes / 256 - 1,
                            kMaxMessageBytes / 256,  // a slot
                            kMaxMessageBytes / 256 + 1,
                            3,
                            (5 << 20) + 3,  // more than there are slots
                            17};
  for (size_t i = 0; i < std::size(lengths); ++i) {
    ASSERT_TRUE(SendText(*head_, Pattern(lengths[i], i)).ok());
    ASSERT_TRUE(SendText(*worker_, Pattern(lengths[i], 100 + i)).ok());
  }
  std::vector<std::string> at_head, at_worker;
  for (int turn = 0; turn < kTurns && at_head.size() + at_worker.size() < 2 * std::size(lengths); ++turn) {
    const absl::StatusOr<Bytes> up = head_->TryReceive();
    const absl::StatusOr<Bytes> down = worker_->TryReceive();
    ASSERT_TRUE(up.ok() && down.ok());
    if (!up->empty()) at_head.push_back(TextOf(*up));
    if (!down->empty()) at_worker.push_back(TextOf(*down));
  }
  ASSERT_EQ(at_head.size(), std::size(lengths));
  ASSERT_EQ(at_worker.size(), std::size(lengths));
  for (size_t i = 0; i < std::size(lengths); ++i) {
    EXPECT_TRUE(at_worker[i] == Pattern(lengths[i], i)) << i;
    EXPECT_TRUE(at_head[i] == Pattern(lengths[i], 100 + i)) << i;
  }
}

TEST_F(NcclLinkTest, WhatIsSentBeforeTheCommunicatorsStandWaits) {
  MakeEnds();
  Introduce();
  ASSERT_TRUE(SendText(*worker_, "early").ok());
  ASSERT_TRUE(SendText(*head_, "too").ok());
  ASSERT_TRUE(OpenHead().ok());
  EXPECT_EQ(Next(*head_), "early");
  EXPECT_EQ(Next(*worker_), "too");
}

TEST_F(NcclLinkTest, AReceivedMessageStaysWholeUntilTheNextCall) {
  MakeWhole();
  for (size_t i = 0; i < 9; ++i) ASSERT_TRUE(SendText(*head_, Pattern(5000, i)).ok());
  for (size_t i = 0; i < 9; ++i) {
    absl::StatusOr<Bytes> message = Bytes();
    for (int turn = 0; turn < kTurns && message.ok() && message->empty(); ++turn) {
      message = worker_->TryReceive();
      ASSERT_TRUE(head_->TryReceive().ok());
    }
    ASSERT_TRUE(message.ok()) << message.status();
    // Its sender goes on, and so do the streams and the owner, who may answer first.
    for (int turn = 0; turn < 50; ++turn) {
      ASSERT_TRUE(head_->TryReceive().ok());
      worker_->Wait(TimePoint());
    }
    EXPECT_TRUE(TextOf(*message) == Pattern(5000, i)) << i;
  }
}

TEST_F(NcclLinkTest, AnOldLibraryAndAMachineWithoutGpusAreRefused) {
  auto [head_side, worker_side] = LoopbackPair();
  stand_in::Set({.version = 21403});
  absl::Status refused = MakeNcclLink(stand_in::Calls(), std::move(head_side), NcclEnd::kHead, {}).status();
  EXPECT_THAT(Message(refused), AllOf(StartsWith("NET-007"), HasSubstr("2.14.3"), HasSubstr("2.18.0")));
  EXPECT_EQ(ListenNccl(stand_in::Calls(), "127.0.0.1", 0, {}).status(), refused);
  stand_in::Set({.devices = 0});
  refused = MakeNcclLink(stand_in::Calls(), std::move(worker_side), NcclEnd::kWorker, {}).status();
  EXPECT_THAT(Message(refused), AllOf(StartsWith("NET-007"), HasSubstr("GPU 0")));
}

TEST_F(NcclLinkTest, TwoVersionsAreNamedAtBothEnds) {
  auto [head_side, worker_side] = LoopbackPair();
  stand_in::Set({.version = 22809});
  head_ = End(std::move(head_side), NcclEnd::kHead);
  stand_in::Set({.version = 23004});
  worker_ = End(std::move(worker_side), NcclEnd::kWorker);
  for (Link* link : {head_.get(), worker_.get()})
    EXPECT_THAT(WhyDead(*link), AllOf(StartsWith("NET-007"), HasSubstr("2.28.9"), HasSubstr("2.30.4")));
  EXPECT_EQ(Made(), 0);
}

TEST_F(NcclLinkTest, OneGpuForTwoRanksIsRefusedUnlessNcclCanShareIt) {
  for (const int version : {22809, 23000}) {
    stand_in::Set({.version = version});
    auto [head_side, worker_side] = LoopbackPair();
    head_ = End(std::move(head_side), NcclEnd::kHead, Epoch(0), 0);
    worker_ = End(std::move(worker_side), NcclEnd::kWorker, Epoch(0), 0);
    if (version < 23000) {
      EXPECT_THAT(WhyDead(*head_),
                  AllOf(StartsWith("NET-007"), HasSubstr("same GPU"), HasSubstr("CUDA_VISIBLE_DEVICES")));
      EXPECT_THAT(WhyDead(*worker_), HasSubstr("same GPU"));
    } else {
      Introduce();
      EXPECT_TRUE(OpenHead().ok());
    }
  }
}

TEST_F(NcclLinkTest, CommunicatorsThatAreNotMadeInTimeAreAborted) {
  stand_in::Set({.hold_connections = true});
  MakeEnds();
  Introduce();
  EXPECT_TRUE(absl::IsDeadlineExceeded(OpenHead()));
  EXPECT_EQ(Made(), 4);
  clock_.Advance(NcclOptions().make_timeout - std::chrono::nanoseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(OpenHead()));
  clock_.Advance(std::chrono::nanoseconds(1));
  const absl::Status late = OpenHead();
  EXPECT_TRUE(absl::IsUnavailable(late));
  EXPECT_THAT(Message(late),
              AllOf(StartsWith("NET-001: nccl over "), HasSubstr("after 60 s"), HasSubstr("NCCL_DEBUG")));
  EXPECT_THAT(WhyDead(*worker_), StartsWith("NET-001: nccl over "));
  EXPECT_EQ(Aborted(), 4);
}

// `hold_starts` stands for the first operation of a communicator, which waits for its peer in the library;
// `hold_transfers` for a kernel on the GPU that gets no data.
TEST_F(NcclLinkTest, ATransferThatStandsStillIsAbortedAtTheDeadline) {
  for (const bool in_the_stream : {false, true}) {
    MakeWhole();
    const int aborted = Aborted();
    stand_in::Set({.hold_transfers = in_the_stream, .hold_starts = !in_the_stream});
    ASSERT_TRUE(SendText(*head_, "rows").ok());
    EXPECT_EQ(Next(*worker_), "");
    clock_.Advance(NcclOptions().transfer_timeout);
    EXPECT_EQ(Next(*worker_), "");
    clock_.Advance(std::chrono::nanoseconds(1));
    EXPECT_THAT(WhyDead(*worker_), AllOf(StartsWith("NET-001"), HasSubstr("message 0 had not arrived 10 s")));
    EXPECT_THAT(WhyDead(*head_),
                AllOf(StartsWith("NET-001"), HasSubstr("the other end gave up"), HasSubstr("message 0")));
    EXPECT_EQ(Aborted() - aborted, 4);
    worker_->Wait(TimePoint::max());  // nothing can arrive
    EXPECT_TRUE(absl::IsUnavailable(SendText(*head_, "more")));
    head_.reset();
    worker_.reset();
    stand_in::Set({});
  }
}

TEST_F(NcclLinkTest, TheDeadlineIsThatOfTheOldestTransferNotOfAllTogether) {
  MakeWhole();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(SendText(*head_, std::to_string(i)).ok());
    stand_in::Set({.hold_transfers = true});
    EXPECT_EQ(Next(*worker_), "");
    clock_.Advance(NcclOptions().transfer_timeout - std::chrono::seconds(1));
    stand_in::Set({});
    EXPECT_EQ(Next(*worker_), std::to_string(i));
  }
}

TEST_F(NcclLinkTest, APeerThatComputesForLongIsNoFailure) {
  MakeWhole();
  ASSERT_TRUE(SendText(*head_, Pattern(900000, 1)).ok());
  for (int hour = 0; hour < 3; ++hour) {
    clock_.Advance(std::chrono::hours(1));
    for (int turn = 0; turn < 50; ++turn) ASSERT_TRUE(head_->TryReceive().ok());
  }
  EXPECT_TRUE(Next(*worker_) == Pattern(900000, 1));
}

TEST_F(NcclLinkTest, AFailureThatNcclReportsEndsBothEnds) {
  MakeWhole();
  ASSERT_TRUE(SendText(*head_, "rows").ok());
  stand_in::Set({.failing_rank = 1, .failure = 6});
  EXPECT_THAT(Next(*worker_), AllOf(StartsWith("NET-001"), HasSubstr("remote process exited")));
  EXPECT_THAT(WhyDead(*head_), HasSubstr("the other end gave up"));
  EXPECT_EQ(Aborted(), 4);
}

TEST_F(NcclLinkTest, AGpuWithoutMemoryEndsTheLinkInWords) {
  MakeEnds();
  Introduce();
  stand_in::Set({.no_memory = true});
  EXPECT_THAT(Message(OpenHead()),
              AllOf(StartsWith("NET-001"), HasSubstr("cuMemAlloc failed: out of memory (2)")));
}

// What a heartbeat does with a member that is silent, while rows are on their way both ways.
TEST_F(NcclLinkTest, AnAbortWhileOperationsAreInFlightEndsThemAll) {
  MakeWhole();
  stand_in::Set({.hold_transfers = true});
  for (int i = 0; i < 7; ++i) {
    ASSERT_TRUE(SendText(*head_, Pattern(700000, 1)).ok());
    ASSERT_TRUE(SendText(*worker_, Pattern(700000, 2)).ok());
  }
  EXPECT_EQ(Next(*head_), "");
  const absl::Status why = Error(errors::kNodeLost, "worker b (rank 1) was lost: no heartbeat for 950 ms");
  std::thread watch([&] { head_->Abort(why); });
  watch.join();
  EXPECT_EQ(Aborted(), 0);  // NCCL is called by the owner's thread alone
  EXPECT_EQ(head_->TryReceive().status(), why);
  EXPECT_EQ(Aborted(), 2);
  EXPECT_EQ(SendText(*head_, "x"), why);
  EXPECT_THAT(WhyDead(*worker_), HasSubstr("no heartbeat for 950 ms"));
  EXPECT_EQ(Aborted(), 4);
}

TEST_F(NcclLinkTest, AnAbortWhileCommunicatorsAreMadeEndsThem) {
  stand_in::Set({.hold_connections = true});
  MakeEnds();
  Introduce();
  EXPECT_TRUE(absl::IsDeadlineExceeded(OpenHead()));
  head_->Abort(Error(errors::kNodeLost, "the head is shutting down"));
  EXPECT_THAT(Message(OpenHead()), HasSubstr("shutting down"));
  EXPECT_EQ(Aborted(), 2);
}

// A process that is killed says nothing: its side link closes, and its operations never end.
TEST_F(NcclLinkTest, ALostMemberShowsAtOnceAndItsOperationsAreAborted) {
  auto [head_side, dead_side] = LoopbackPair();
  auto [worker_side, far_side] = LoopbackPair();
  head_ = End(std::move(head_side), NcclEnd::kHead);
  worker_ = End(std::move(worker_side), NcclEnd::kWorker);
  // Between the two ends stands the test, which can cut the cable.
  const auto carry = [](Link& from, Link& to) {
    for (;;) {
      const absl::StatusOr<Bytes> message = from.TryReceive();
      if (!message.ok() || message->empty()) return;
      const Bytes part = *message;
      ASSERT_TRUE(to.Send(std::span(&part, 1)).ok());
    }
  };
  Link& at_head = *dead_side;
  Link& at_worker = *far_side;
  ASSERT_TRUE(SendText(*worker_, "token").ok());
  bool whole = false;
  for (int turn = 0; turn < kTurns && !whole; ++turn) {
    carry(at_worker, at_head);
    carry(at_head, at_worker);
    const absl::StatusOr<Bytes> first = head_->TryReceive();
    ASSERT_TRUE(first.ok());
    if (first->empty() && turn > 2) whole = head_->Open(Epoch(1)).value_or(false);
    ASSERT_TRUE(worker_->TryReceive().ok());
  }
  ASSERT_TRUE(whole);
  stand_in::Set({.hold_transfers = true});
  ASSERT_TRUE(SendText(*head_, "rows for nobody").ok());
  ASSERT_TRUE(head_->TryReceive().ok());
  dead_side.reset();
  const absl::Status lost = head_->TryReceive().status();
  EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
  EXPECT_THAT(Message(lost), AllOf(StartsWith("NET-001: nccl over "), HasSubstr("closed")));
  EXPECT_EQ(Aborted(), 2);
  EXPECT_TRUE(absl::IsUnavailable(SendText(*head_, "x")));
}

// The head's placement is at epoch 4 when a worker that was admitted under epoch 3 dials, and later at 5.
TEST_F(NcclLinkTest, CommunicatorsAreMadeUnderTheEpochOfTheMembershipOrLater) {
  for (const uint32_t epoch : {2u, 3u, 4u}) {
    MakeEnds(Epoch(3));
    Introduce();
    const absl::Status opened = OpenHead(Epoch(epoch));
    if (epoch >= 3) {
      EXPECT_TRUE(opened.ok()) << opened;
      continue;
    }
    EXPECT_THAT(Message(opened), AllOf(StartsWith("NET-001"),
                                       HasSubstr("stale communicators: expected epoch 3 or later, got 2")));
    EXPECT_THAT(WhyDead(*head_), HasSubstr("stale communicators"));
  }
}

TEST_F(NcclLinkTest, AMemberThatComesBackGetsNewCommunicatorsUnderTheNextEpoch) {
  MakeWhole(Epoch(1));
  stand_in::Set({.hold_transfers = true});
  ASSERT_TRUE(SendText(*head_, "of the first life").ok());
  ASSERT_TRUE(SendText(*worker_, "also").ok());
  EXPECT_EQ(Next(*head_), "");
  head_->Abort(Error(errors::kNodeLost, "worker b was lost"));
  EXPECT_FALSE(head_->TryReceive().ok());
  stand_in::Set({});
  // The old worker's end still lives when the new link is made: neither disturbs the other.
  const std::unique_ptr<Link> old_head = std::move(head_);
  const std::unique_ptr<Link> old_worker = std::move(worker_);
  MakeWhole(Epoch(2));
  EXPECT_FALSE(old_worker->TryReceive().ok());
  ASSERT_TRUE(SendText(*head_, "of the second life").ok());
  EXPECT_EQ(Next(*worker_), "of the second life");
  EXPECT_EQ(Next(*head_), "");
  EXPECT_EQ(Made(), 8);
  EXPECT_EQ(Aborted(), 4);
}

TEST_F(NcclLinkTest, WhatWasSentLastArrivesBeforeTheLinkIsClosed) {
  MakeWhole();
  const std::string last = Pattern((3 << 20) + 5, 9);
  std::atomic<bool> closed{false};
  std::thread sender([&] {
    EXPECT_TRUE(SendText(*head_, last).ok());
    head_.reset();
    closed = true;
  });
  std::string got;
  while (got.empty()) {
    const absl::StatusOr<Bytes> message = worker_->TryReceive();
    ASSERT_TRUE(message.ok()) << message.status();
    got = TextOf(*message);
  }
  // The sender hears that it has arrived, if not before then now.
  while (!closed && worker_->TryReceive().ok())
    worker_->Wait(Clock::Real().Now() + std::chrono::milliseconds(1));
  sender.join();
  EXPECT_TRUE(got == last);
}

// A worker's end whose peer is the test.
class NcclPeerTest : public NcclLinkTest {
 protected:
  void SetUp() override {
    auto [near, far] = LoopbackPair();
    far_ = std::move(far);
    worker_ = End(std::move(near), NcclEnd::kWorker);
  }
  void Say(NcclControl control) {
    const std::vector<std::byte> message = EncodeNcclControl(control);
    const Bytes part(message);
    ASSERT_TRUE(far_->Send(std::span(&part, 1)).ok());
  }
  void Greet() {
    NcclControl hello;
    hello.version = 23000;
    Say(hello);
    ASSERT_TRUE(worker_->TryReceive().ok());
  }
  // The other rank of the worker's communicators does not exist here: they stay in progress.
  void Make(uint32_t epoch) {
    NcclControl make;
    make.kind = NcclControlKind::kMake;
    make.epoch = epoch;
    ASSERT_EQ(stand_in::Calls().ncclGetUniqueId(&make.down), kNcclSuccess);
    ASSERT_EQ(stand_in::Calls().ncclGetUniqueId(&make.up), kNcclSuccess);
    Say(make);
    ASSERT_TRUE(worker_->TryReceive().ok());
  }
  std::unique_ptr<Link> far_;
};

TEST_F(NcclPeerTest, WhoDoesNotGreetIsNotHeard) {
  NcclControl flush;
  flush.kind = NcclControlKind::kFlush;
  Say(flush);
  EXPECT_THAT(WhyDead(*worker_), HasSubstr("did not greet first"));
}

TEST_F(NcclPeerTest, NoiseOnTheSideLinkEndsTheLink) {
  ASSERT_TRUE(SendText(*far_, "GET / HTTP/1.1\r\n").ok());
  EXPECT_THAT(WhyDead(*worker_), AllOf(StartsWith("NET-001"), HasSubstr("kind: expected 1 to 7")));
}

TEST_F(NcclPeerTest, MessagesOutOfTheirTurnAreRefused) {
  for (const NcclControlKind kind : {NcclControlKind::kHello, NcclControlKind::kFirst,
                                     NcclControlKind::kAnnounce, NcclControlKind::kFlushed}) {
    SetUp();
    Greet();
    const std::string text = "x";
    NcclControl control;
    control.kind = kind;
    control.bytes = 1;
    control.rest = Of(text);
    Say(control);
    EXPECT_THAT(WhyDead(*worker_), HasSubstr("out of its turn")) << static_cast<int>(kind);
  }
  SetUp();
  Greet();
  Make(1);
  NcclControl again;
  again.kind = NcclControlKind::kMake;
  again.epoch = 1;
  Say(again);
  EXPECT_THAT(WhyDead(*worker_), HasSubstr("out of its turn"));
  EXPECT_EQ(Aborted(), 2);
}

TEST_F(NcclPeerTest, AnnouncementsOfAnotherEpochOrNumberAreRefused) {
  Greet();
  Make(5);
  NcclControl announce;
  announce.kind = NcclControlKind::kAnnounce;
  announce.bytes = 10;
  announce.epoch = 4;
  Say(announce);
  EXPECT_THAT(WhyDead(*worker_), HasSubstr("stale control message: expected epoch 5, got 4"));
  SetUp();
  Greet();
  Make(5);
  announce.epoch = 5;
  Say(announce);
  ASSERT_TRUE(worker_->TryReceive().ok());
  announce.number = 2;
  Say(announce);
  EXPECT_THAT(WhyDead(*worker_), HasSubstr("expected number 1, got 2"));
}

TEST_F(NcclPeerTest, TheFirstMessageIsShort) {
  Greet();
  EXPECT_TRUE(absl::IsInvalidArgument(SendText(*worker_, std::string(4097, 't'))));
  EXPECT_TRUE(SendText(*worker_, std::string(4096, 't')).ok());
}

}  // namespace
}  // namespace paceline
