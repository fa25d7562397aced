// The exchange against workers that compute a known function: threads that run ServeExchange over every kind
// of link, and, where a worker must misbehave, a thread that speaks frames itself.
#include "transport/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "transport/frame.h"
#include "transport/link.h"
#include "transport/simulated_link.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int32_t kHidden = 200;
constexpr int64_t kOutputs = 50;
constexpr auto kLong = std::chrono::seconds(60);

std::string Text(const absl::Status& status) { return std::string(status.message()); }
TimePoint In(Duration d) { return Clock::Real().Now() + d; }

// A value of the row that both formats know, so that a mixed-up row changes every sum.
int64_t RowValue(const RowBlock& rows, int32_t row, int32_t column) {
  const int64_t at = int64_t{row} * rows.hidden + column;
  return rows.format == RowFormat::kFloat32
             ? static_cast<int64_t>(rows.values[at])
             : rows.codes[at] + static_cast<int64_t>(rows.scales[int64_t{row} * 2 + column / 128]);
}

int64_t Leaf(int64_t value, LayerId layer, int32_t expert, int32_t group, float weight) {
  return (value + 1) * (expert + 3) * (group + 7) * (layer.value() + 1) * static_cast<int64_t>(weight * 8);
}

void AddLeaves(LayerId layer, const RowBlock& rows, std::span<const Route> routes, ExpertSums into) {
  for (const Route& r : routes) {
    for (int32_t g = r.first_group; g < r.first_group + r.groups; ++g) {
      for (int32_t k = 0; k < rows.hidden; ++k) {
        into.sums[int64_t{r.row} * rows.hidden + k] +=
            Leaf(RowValue(rows, r.row, k), layer, r.expert, g, r.weight);
      }
    }
    if (r.expert == 13) into.row_errors[r.row] = 1;
  }
}

float MatmulValue(float x, int64_t output) { return x * static_cast<float>(output + 1); }

class KnownFunction final : public ExpertHandler {
 public:
  absl::Status Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                       ExpertSums into) override {
    for (const Route& r : routes) {
      if (r.expert == 99) return absl::FailedPreconditionError("expert 99 of layer 4 is not held here");
    }
    AddLeaves(layer, rows, routes, into);
    return absl::OkStatus();
  }
  absl::Status MatmulRows(int32_t, const float* x, int32_t rows, int32_t width, float* y) override {
    for (int32_t row = 0; row < rows; ++row) {
      for (int64_t o = 0; o < kOutputs; ++o) y[row * kOutputs + o] = MatmulValue(x[int64_t{row} * width], o);
    }
    return absl::OkStatus();
  }
  int64_t MatmulOutputs(int32_t matrix) const override { return matrix == 0 ? kOutputs : 0; }
  int32_t hidden() const override { return kHidden; }
};

// 64 rows whose contents depend on `seed`.
struct Rows {
  std::vector<int16_t> codes = std::vector<int16_t>(64 * kHidden);
  std::vector<float> scales = std::vector<float>(64 * 2);
  std::vector<float> values = std::vector<float>(64 * kHidden);
  RowFormat format;
  int32_t rows;
  Rows(RowFormat f, int32_t n, int seed) : format(f), rows(n) {
    for (size_t i = 0; i < codes.size(); ++i)
      codes[i] = static_cast<int16_t>(i * 31 + static_cast<size_t>(seed));
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i) + static_cast<float>(seed);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>((i * 17 + static_cast<size_t>(seed)) % 4099);
  }
  RowBlock block() const {
    return {.format = format,
            .rows = rows,
            .hidden = kHidden,
            .codes = codes.data(),
            .scales = scales.data(),
            .values = values.data()};
  }
};

struct Sums {
  std::vector<int64_t> sums = std::vector<int64_t>(64 * kHidden, 5);
  std::vector<uint8_t> errors = std::vector<uint8_t>(64, 0);
  ExpertSums into() { return {.sums = sums.data(), .row_errors = errors.data()}; }
  friend bool operator==(const Sums&, const Sums&) = default;
};

// Some rows without a route, some with several, every rank concerned.
std::vector<Part> PartsFor(int32_t ranks, int32_t rows, int salt) {
  std::vector<Part> parts;
  for (int32_t rank = 1; rank <= ranks; ++rank) {
    Part part{.rank = RankId(rank), .routes = {}};
    for (int32_t row = 0; row < rows; ++row) {
      if ((row * 5 + rank + salt) % 3 == 0 && rows > 1) continue;
      part.routes.push_back(
          {.row = row, .expert = (row + salt) % 13, .first_group = rank, .groups = 2, .weight = 0.25f});
      if (row % 4 == 0)
        part.routes.push_back(
            {.row = row, .expert = 13 + rank - 1, .first_group = 0, .groups = 1, .weight = 1});
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

Sums Expected(LayerId layer, const RowBlock& rows, std::span<const Part> parts) {
  Sums expected;
  for (const Part& part : parts) AddLeaves(layer, rows, part.routes, expected.into());
  return expected;
}

std::pair<std::shared_ptr<Link>, std::unique_ptr<Link>> Pair(const std::string& kind) {
  if (kind == "ucx") {
    setenv("UCX_TLS", "tcp,self", 0);
  }
  auto listener = *ListenLink(kind, "127.0.0.1", 0);
  std::unique_ptr<Link> worker;
  std::thread dial([&] { worker = *ConnectLink(kind, listener->address(), In(kLong)); });
  std::shared_ptr<Link> head = *listener->Accept(In(kLong));
  dial.join();
  return {std::move(head), std::move(worker)};
}

// Workers of one kind of link, each a thread that serves until its link dies.
class Cluster {
 public:
  Cluster(const std::string& kind, int32_t ranks, Epoch epoch = Epoch(1),
          const ExchangeOptions& options = {.yield = true, .on_wait = {}})
      : exchange(MakeExchange(options)) {
    for (int32_t rank = 1; rank <= ranks; ++rank) {
      auto [head, worker] = Pair(kind);
      peers.push_back(
          {.rank = RankId(rank), .name = absl::StrCat("w", rank), .link = std::move(head), .lost = {}});
      threads.emplace_back([link = std::move(worker), epoch] {
        KnownFunction handler;
        (void)ServeExchange(*link, handler,
                            {.epoch = epoch, .head = 0, .yield = true, .stop = {}, .progress = {}});
      });
    }
    exchange->SetPeers(epoch, peers);
  }
  ~Cluster() {
    exchange.reset();
    peers.clear();
    for (std::thread& t : threads) t.join();
  }
  std::vector<Exchange::Peer> peers;
  std::unique_ptr<Exchange> exchange;
  std::vector<std::thread> threads;
};

class ExchangeTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ExchangeTest, SumsOfEveryPlacementAreTheKnownFunction) {
  for (int32_t ranks = 1; ranks <= 4; ++ranks) {
    Cluster cluster(GetParam(), ranks);
    for (int step = 0; step < 12; ++step) {
      const LayerId layer(step % 4);
      const RowFormat format = step % 2 == 0 ? RowFormat::kInt16Group128 : RowFormat::kFloat32;
      // Three blocks out at once, received in order.
      std::vector<Rows> rows;
      std::vector<std::vector<Part>> parts;
      for (int32_t block = 0; block < 3; ++block) {
        rows.emplace_back(format, block == 2 ? 1 : 64, step * 10 + block);
        parts.push_back(PartsFor(ranks, rows.back().rows, step + block));
        ASSERT_TRUE(
            cluster.exchange->SendExperts(StepId(step), layer, block, rows.back().block(), parts.back())
                .ok());
      }
      for (int32_t block = 0; block < 3; ++block) {
        Sums got;
        const absl::Status received =
            cluster.exchange->ReceiveExperts(StepId(step), layer, block, got.into());
        ASSERT_TRUE(received.ok()) << received;
        ASSERT_TRUE(got == Expected(layer, rows[block].block(), parts[block]))
            << ranks << " ranks, step " << step << ", block " << block;
      }
    }
    EXPECT_EQ(cluster.exchange->dropped(), 0);
    EXPECT_GT(cluster.exchange->bytes(), 0);
    EXPECT_GT(cluster.exchange->wait_seconds(), 0);
  }
}

TEST_P(ExchangeTest, MatmulLandsInItsColumnsForMoreThanOneBlockOfRows) {
  Cluster cluster(GetParam(), 3);
  for (const int32_t rows : {1, 64, 65, 200}) {
    constexpr int32_t kWidth = 8;
    std::vector<float> x(static_cast<size_t>(rows) * kWidth);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
    const int64_t stride = 3 * kOutputs + 5;
    std::vector<float> y(static_cast<size_t>(rows * stride), -1.0f);
    std::vector<Exchange::MatmulPart> parts;
    for (int32_t rank = 1; rank <= 3; ++rank)
      parts.push_back({.rank = RankId(rank), .first = (rank - 1) * kOutputs, .outputs = kOutputs});
    ASSERT_TRUE(cluster.exchange->SendMatmul(StepId(rows), 0, x.data(), rows, kWidth, parts).ok());
    ASSERT_TRUE(cluster.exchange->ReceiveMatmul(StepId(rows), 0, y.data(), stride).ok());
    for (int32_t row = 0; row < rows; ++row) {
      for (int64_t o = 0; o < stride; ++o) {
        ASSERT_EQ(y[row * stride + o], o < 3 * kOutputs ? MatmulValue(x[row * kWidth], o % kOutputs) : -1.0f)
            << row << " " << o;
      }
    }
  }
}

TEST_P(ExchangeTest, ARefusalCarriesTheSentenceAndTheNameAndTheNextStepWorks) {
  Cluster cluster(GetParam(), 2);
  const Rows rows(RowFormat::kFloat32, 4, 1);
  std::vector<Part> parts = PartsFor(2, 4, 0);
  parts[1].routes[0].expert = 99;
  ASSERT_TRUE(cluster.exchange->SendExperts(StepId(1), LayerId(4), 0, rows.block(), parts).ok());
  Sums sums;
  const absl::Status refused = cluster.exchange->ReceiveExperts(StepId(1), LayerId(4), 0, sums.into());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(Text(refused),
              AllOf(HasSubstr("worker w2 (rank 2)"), HasSubstr("expert 99 of layer 4 is not held here")));

  const float x[8] = {};
  const Exchange::MatmulPart unknown{.rank = RankId(1), .first = 0, .outputs = kOutputs};
  ASSERT_TRUE(cluster.exchange->SendMatmul(StepId(2), 7, x, 1, 8, std::span(&unknown, 1)).ok());
  const absl::Status no_matrix = cluster.exchange->ReceiveMatmul(StepId(2), 7, nullptr, 0);
  EXPECT_THAT(Text(no_matrix),
              AllOf(HasSubstr("NET-004"), HasSubstr("worker w1 (rank 1)"), HasSubstr("matrix 7")));

  parts = PartsFor(2, 4, 0);
  ASSERT_TRUE(cluster.exchange->SendExperts(StepId(3), LayerId(4), 0, rows.block(), parts).ok());
  Sums again;
  ASSERT_TRUE(cluster.exchange->ReceiveExperts(StepId(3), LayerId(4), 0, again.into()).ok());
  EXPECT_TRUE(again == Expected(LayerId(4), rows.block(), parts));
}

TEST_P(ExchangeTest, AWorkerThatDiesMidStepIsNamedAndTheOthersGoOn) {
  Cluster cluster(GetParam(), 1);
  auto [head, worker] = Pair(GetParam());
  cluster.peers.push_back({.rank = RankId(2), .name = "doomed", .link = std::move(head), .lost = {}});
  cluster.exchange->SetPeers(Epoch(1), cluster.peers);
  std::thread dies([link = std::move(worker)]() mutable {
    while (link->TryReceive()->empty()) link->Wait(In(kLong));
    link.reset();
  });
  const Rows rows(RowFormat::kFloat32, 8, 1);
  const std::vector<Part> parts = PartsFor(2, 8, 0);
  ASSERT_TRUE(cluster.exchange->SendExperts(StepId(1), LayerId(0), 0, rows.block(), parts).ok());
  Sums sums;
  const absl::Status lost = cluster.exchange->ReceiveExperts(StepId(1), LayerId(0), 0, sums.into());
  dies.join();
  EXPECT_TRUE(absl::IsUnavailable(lost));
  EXPECT_THAT(Text(lost), AllOf(HasSubstr("NET-001"), HasSubstr("worker doomed (rank 2)")));
  EXPECT_EQ(Text(lost).find("NET-001"), Text(lost).rfind("NET-001")) << lost;
  EXPECT_THAT(Text(cluster.exchange->SendExperts(StepId(2), LayerId(0), 0, rows.block(), parts)),
              HasSubstr("worker doomed (rank 2)"));
  // The answer of rank 1 to the step that was given up may come now or later: it must not disturb.
  const std::span<const Part> first = std::span(parts).first(1);
  for (int step = 3; step < 6; ++step) {
    ASSERT_TRUE(cluster.exchange->SendExperts(StepId(step), LayerId(0), 0, rows.block(), first).ok());
    Sums good;
    ASSERT_TRUE(cluster.exchange->ReceiveExperts(StepId(step), LayerId(0), 0, good.into()).ok());
    EXPECT_TRUE(good == Expected(LayerId(0), rows.block(), first));
  }
}

TEST_P(ExchangeTest, AnAbortedLinkEndsTheWaitWithItsReason) {
  Cluster cluster(GetParam(), 0);
  auto [head, worker] = Pair(GetParam());
  Link* raw = head.get();
  cluster.peers.push_back({.rank = RankId(1), .name = "mute", .link = std::move(head), .lost = {}});
  cluster.exchange->SetPeers(Epoch(1), cluster.peers);
  const Rows rows(RowFormat::kFloat32, 8, 1);
  const std::vector<Part> parts = PartsFor(1, 8, 0);
  ASSERT_TRUE(cluster.exchange->SendExperts(StepId(1), LayerId(0), 0, rows.block(), parts).ok());
  std::thread membership(
      [&] { raw->Abort(Error(errors::kNodeLost, "worker mute (rank 1) made no progress for 0.5 s")); });
  Sums sums;
  const absl::Status lost = cluster.exchange->ReceiveExperts(StepId(1), LayerId(0), 0, sums.into());
  membership.join();
  EXPECT_EQ(lost, Error(errors::kNodeLost, "worker mute (rank 1) made no progress for 0.5 s"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, ExchangeTest, ::testing::ValuesIn(LinkKinds()),
                         [](const auto& info) { return info.param; });

// A worker under the test's thumb: what the head sent, and any frame in return.
class ByHand : public ::testing::Test {
 protected:
  explicit ByHand(int32_t ranks = 2, Duration timeout = kLong) {
    exchange_ = MakeExchange({.head = 0, .timeout = timeout, .yield = true, .on_wait = [this] { ++waits_; }});
    for (int32_t rank = 1; rank <= ranks; ++rank) {
      auto [head, worker] = LoopbackPair();
      peers_.push_back(
          {.rank = RankId(rank), .name = absl::StrCat("w", rank), .link = std::move(head), .lost = {}});
      workers_.push_back(std::move(worker));
    }
    exchange_->SetPeers(Epoch(4), peers_);
  }

  FrameHeader Next(int rank) {
    const absl::StatusOr<Bytes> message = workers_[rank - 1]->TryReceive();
    EXPECT_TRUE(message.ok() && !message->empty());
    const absl::StatusOr<Frame> frame = DecodeFrame(*message);
    EXPECT_TRUE(frame.ok()) << frame.status();
    EXPECT_TRUE(DecodeExperts(*frame, request_).ok());
    return frame->header;
  }
  // The right answer to the request read last.
  void Answer(int rank, const FrameKey& key) {
    std::vector<int64_t> sums(request_.indices.size() * kHidden, 0);
    std::vector<uint8_t> errors(request_.indices.size(), 0);
    const ExpertSums into{.sums = sums.data(), .row_errors = errors.data()};
    AddLeaves(LayerId(key.layer), request_.block, request_.routes, into);
    builder_.ExpertsResult(key, request_.indices, kHidden, into);
    ASSERT_TRUE(workers_[rank - 1]->Send(builder_.parts()).ok());
  }
  absl::Status Send(int step, int32_t block) {
    return exchange_->SendExperts(StepId(step), LayerId(2), block, rows_.block(), parts_);
  }
  absl::Status Receive(int step, int32_t block) {
    got_ = Sums();
    return exchange_->ReceiveExperts(StepId(step), LayerId(2), block, got_.into());
  }

  int64_t waits_ = 0;
  std::unique_ptr<Exchange> exchange_;
  std::vector<Exchange::Peer> peers_;
  std::vector<std::unique_ptr<Link>> workers_;
  FrameBuilder builder_;
  ExpertsRequest request_;
  Rows rows_{RowFormat::kInt16Group128, 5, 3};
  std::vector<Part> parts_ = PartsFor(2, 5, 1);
  Sums got_;
};

TEST_F(ByHand, AnswersInAnyOrderAreMatchedByKey) {
  ASSERT_TRUE(Send(1, 0).ok());
  ASSERT_TRUE(Send(1, 1).ok());
  for (const int rank : {2, 1}) {
    const FrameHeader first = Next(rank);
    const ExpertsRequest kept = request_;
    const FrameHeader second = Next(rank);
    Answer(rank, second.key);  // block 1 before block 0
    Answer(rank, first.key);
    EXPECT_EQ(kept.indices, request_.indices);
  }
  for (const int block : {0, 1}) {
    ASSERT_TRUE(Receive(1, block).ok());
    EXPECT_TRUE(got_ == Expected(LayerId(2), rows_.block(), parts_));
  }
  EXPECT_EQ(exchange_->dropped(), 0);
}

TEST_F(ByHand, LateDuplicateAndForeignAnswersAreDroppedAndCounted) {
  ASSERT_TRUE(Send(1, 0).ok());
  std::vector<FrameKey> old;
  for (const int rank : {1, 2}) {
    old.push_back(Next(rank).key);
  }
  ASSERT_TRUE(Send(2, 0).ok());  // step 1 was given up
  for (const int rank : {1, 2}) {
    Answer(rank, old[static_cast<size_t>(rank - 1)]);
    FrameKey key = Next(rank).key;
    for (auto change : {+[](FrameKey& k) { k.epoch = 3; }, +[](FrameKey& k) { k.head = 9; },
                        +[](FrameKey& k) { ++k.step; }, +[](FrameKey& k) { ++k.layer; },
                        +[](FrameKey& k) { ++k.block; }, +[](FrameKey& k) { k.part += 100; }}) {
      FrameKey wrong = key;
      change(wrong);
      Answer(rank, wrong);
    }
    builder_.Error(old[0], absl::InternalError("late sorrow"));
    ASSERT_TRUE(workers_[static_cast<size_t>(rank - 1)]->Send(builder_.parts()).ok());
    Answer(rank, key);
    Answer(rank, key);  // a duplicate
  }
  ASSERT_TRUE(Receive(2, 0).ok());
  EXPECT_TRUE(got_ == Expected(LayerId(2), rows_.block(), parts_));
  EXPECT_GE(exchange_->dropped(), 2 * 8);
  // The duplicates are met by the next step at the latest.
  ASSERT_TRUE(Send(3, 0).ok());
  for (const int rank : {1, 2}) Answer(rank, Next(rank).key);
  ASSERT_TRUE(Receive(3, 0).ok());
  EXPECT_TRUE(got_ == Expected(LayerId(2), rows_.block(), parts_));
  EXPECT_EQ(exchange_->dropped(), 2 * 9);
}

TEST_F(ByHand, ADuplicateWhileItsBlockIsStillOpenIsNotAddedTwice) {
  ASSERT_TRUE(Send(1, 0).ok());
  ASSERT_TRUE(Send(1, 1).ok());
  const FrameKey first = Next(1).key;
  Answer(1, first);
  Answer(1, first);
  Answer(1, Next(1).key);
  const FrameKey other = Next(2).key;
  FrameKey foreign = other;
  foreign.epoch = 3;
  Answer(2, foreign);  // each costs a round of polling, in which the duplicate is met
  Answer(2, foreign);
  Answer(2, other);
  Answer(2, Next(2).key);
  for (const int block : {0, 1}) {
    ASSERT_TRUE(Receive(1, block).ok());
    EXPECT_TRUE(got_ == Expected(LayerId(2), rows_.block(), parts_)) << block;
  }
  EXPECT_EQ(exchange_->dropped(), 3);
}

TEST_F(ByHand, AnAnswerOfTheWrongShapeOrABrokenFrameFailsTheStepByName) {
  for (int fault = 0; fault < 4; ++fault) {
    ASSERT_TRUE(Send(10 + fault, 0).ok());
    Answer(2, Next(2).key);
    const FrameHeader h = Next(1);
    std::vector<int64_t> sums(64 * 2 * kHidden, 0);
    std::vector<uint8_t> errors(64, 0);
    const ExpertSums into{.sums = sums.data(), .row_errors = errors.data()};
    std::vector<uint8_t> indices = request_.indices;
    int32_t hidden = kHidden;
    if (fault == 0) hidden = kHidden + 1;
    if (fault == 1) indices.pop_back();
    if (fault == 2) ++indices.back();
    builder_.ExpertsResult(h.key, indices, hidden, into);
    std::vector<std::byte> message;
    for (const Bytes part : builder_.parts()) message.insert(message.end(), part.begin(), part.end());
    if (fault == 3) message[100] ^= std::byte{1};
    const Bytes whole = message;
    ASSERT_TRUE(workers_[0]->Send(std::span(&whole, 1)).ok());
    const absl::Status bad = Receive(10 + fault, 0);
    EXPECT_THAT(Text(bad), AllOf(HasSubstr("NET-004"), HasSubstr("worker w1 (rank 1)"))) << fault;
  }
}

TEST_F(ByHand, ALostPeerFailsTheSendWithItsReason) {
  peers_[1].link = nullptr;
  peers_[1].lost = Error(errors::kNodeLost, "the control connection was reset");
  exchange_->SetPeers(Epoch(5), peers_);
  EXPECT_EQ(Text(Send(1, 0)), "NET-001: worker w2 (rank 2) is lost: the control connection was reset");
  parts_[1].rank = RankId(7);
  EXPECT_THAT(Text(Send(2, 0)), AllOf(HasSubstr("NET-001"), HasSubstr("rank 7")));
}

TEST_F(ByHand, PartsWithoutRoutesSendNothing) {
  for (Part& part : parts_) part.routes.clear();
  ASSERT_TRUE(Send(1, 0).ok());
  ASSERT_TRUE(Receive(1, 0).ok());
  EXPECT_TRUE(got_ == Sums());
  EXPECT_EQ(exchange_->bytes(), 0);
}

// One worker behind a simulated wire, on the real clock: a server's thread there, the wire's own thread here.
class Far {
 public:
  explicit Far(SimulationOptions options) {
    auto [head, worker] = LoopbackPair();
    server_ = std::thread([link = std::move(worker)] {
      KnownFunction handler;
      (void)ServeExchange(*link, handler,
                          {.epoch = Epoch(1), .head = 0, .yield = true, .stop = {}, .progress = {}});
    });
    options.rtt = std::chrono::microseconds(300);
    options.bandwidth = 1e9;
    options.seed = 5;
    link_ = WrapSimulated(std::move(head), options, Clock::Real());
    WaitFor(kLong);
  }
  // How long the steps to come wait for their answers.
  void WaitFor(Duration timeout) {
    exchange_ = MakeExchange({.timeout = timeout, .yield = true, .on_wait = {}});
    exchange_->SetPeers(Epoch(1), {{.rank = RankId(1), .name = "far", .link = link_, .lost = {}}});
  }
  ~Far() {
    exchange_.reset();
    link_.reset();
    server_.join();
  }
  // Requests and answers alternate on the wire: step s is messages 2 s and 2 s + 1.
  absl::Status Step(int step) {
    got_ = Sums();
    if (absl::Status sent =
            exchange_->SendExperts(StepId(static_cast<uint64_t>(step)), LayerId(1), 0, rows_.block(), parts_);
        !sent.ok()) {
      return sent;
    }
    return exchange_->ReceiveExperts(StepId(static_cast<uint64_t>(step)), LayerId(1), 0, got_.into());
  }
  void ExpectRight(const absl::Status& status) {
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(got_ == Expected(LayerId(1), rows_.block(), parts_));
  }
  // A step that failed added nothing.
  void ExpectNothing() { EXPECT_TRUE(got_ == Sums()); }

 private:
  const Rows rows_{RowFormat::kInt16Group128, 7, 1};
  const std::vector<Part> parts_ = PartsFor(1, 7, 0);
  Sums got_;
  std::shared_ptr<Link> link_;
  std::unique_ptr<Exchange> exchange_;
  std::thread server_;
};

TEST(SimulatedExchangeTest, DamageOnTheWireIsRefusedByNameAndTheSumsStayRight) {
  for (const int64_t message : {2, 3}) {  // the second request, the second answer
    SCOPED_TRACE(message);
    Far far({.corrupt_message_index = message});
    for (int step = 0; step < 4; ++step) {
      const absl::Status done = far.Step(step);
      if (step != 1) {
        far.ExpectRight(done);
        continue;
      }
      EXPECT_THAT(Text(done), AllOf(HasSubstr("NET-004"), HasSubstr("worker far (rank 1)"))) << done;
      far.ExpectNothing();
    }
  }
}

TEST(SimulatedExchangeTest, WhatTheWireLosesIsAwaitedUntilTheDeadlineAndNoLonger) {
  for (const int64_t message : {2, 3}) {
    SCOPED_TRACE(message);
    Far far({.drop_after_messages = message});
    far.ExpectRight(far.Step(0));
    far.WaitFor(std::chrono::milliseconds(50));
    for (int step = 1; step < 3; ++step) {  // a cable that is cut stays cut
      const absl::Status late = far.Step(step);
      EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
      EXPECT_THAT(Text(late), AllOf(HasSubstr("NET-005"), HasSubstr("worker far (rank 1)")));
      far.ExpectNothing();
    }
  }
}

TEST(SimulatedExchangeTest, TheDeathOfTheWireFailsTheStepByName) {
  for (const int64_t message : {2, 3}) {
    SCOPED_TRACE(message);
    Far far({.die_after_messages = message});
    far.ExpectRight(far.Step(0));
    for (int step = 1; step < 3; ++step) {
      const absl::Status dead = far.Step(step);
      EXPECT_TRUE(absl::IsUnavailable(dead)) << dead;
      EXPECT_THAT(Text(dead), AllOf(HasSubstr("NET-001"), HasSubstr("worker far (rank 1)")));
      far.ExpectNothing();
    }
  }
}

class Impatient : public ByHand {
 protected:
  Impatient() : ByHand(2, std::chrono::milliseconds(200)) {}
};

TEST_F(Impatient, TheDeadlineSaysWhoWasAwaitedForWhat) {
  ASSERT_TRUE(Send(6, 0).ok());
  Answer(1, Next(1).key);
  const absl::Status late = Receive(6, 0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_THAT(Text(late), AllOf(HasSubstr("NET-005"), HasSubstr("worker w2 (rank 2)"), HasSubstr("step 6"),
                                HasSubstr("layer 2"), HasSubstr("block 0")));
  EXPECT_GT(waits_, 0);
}

// The worker's side alone: frames in, frames out.
class ServeTest : public ::testing::Test {
 protected:
  ServeTest() {
    auto [head, worker] = LoopbackPair();
    head_ = std::move(head);
    server_ = std::thread([this, link = std::move(worker)] {
      KnownFunction handler;
      ended_ = ServeExchange(
          *link, handler,
          {.epoch = Epoch(4), .head = 2, .yield = true, .stop = {}, .progress = [this] { ++progress_; }});
    });
  }
  ~ServeTest() override {
    head_.reset();
    server_.join();
    EXPECT_TRUE(absl::IsUnavailable(ended_));
  }
  // The sentence of the error frame that answers `message`; `key` receives its key.
  std::string Refusal(std::span<const Bytes> parts, FrameKey* key = nullptr) {
    EXPECT_TRUE(head_->Send(parts).ok());
    for (;;) {
      const absl::StatusOr<Bytes> message = head_->TryReceive();
      if (!message.ok()) return std::string(message.status().message());
      if (message->empty()) {
        head_->Wait(In(kLong));
        continue;
      }
      const absl::StatusOr<Frame> frame = DecodeFrame(*message);
      if (!frame.ok() || frame->header.operation != Operation::kError) return "no error";
      if (key != nullptr) *key = frame->header.key;
      absl::Status said;
      EXPECT_TRUE(DecodeError(*frame, said).ok());
      return std::string(said.message());
    }
  }
  FrameKey key_{.epoch = 4, .head = 2, .step = 8, .layer = 1, .part = 6, .block = 0};
  FrameBuilder builder_;
  Rows rows_{RowFormat::kFloat32, 2, 1};
  std::vector<Part> parts_ = PartsFor(1, 2, 1);
  std::unique_ptr<Link> head_;
  std::thread server_;
  absl::Status ended_;
  std::atomic<int> progress_{0};
};

TEST_F(ServeTest, RefusesByNameAndLivesOn) {
  FrameKey echoed;
  FrameKey stale = key_;
  stale.epoch = 3;
  ASSERT_TRUE(builder_.Experts(stale, rows_.block(), parts_[0].routes).ok());
  EXPECT_EQ(Refusal(builder_.parts(), &echoed), "NET-004: stale frame: epoch: expected 4, got 3");
  EXPECT_EQ(echoed, stale);
  stale = key_;
  stale.head = 0;
  ASSERT_TRUE(builder_.Experts(stale, rows_.block(), parts_[0].routes).ok());
  EXPECT_EQ(Refusal(builder_.parts()), "NET-004: stale frame: head: expected 2, got 0");

  const std::string noise =
      "GET / HTTP/1.1\r\nHost: paceline and some more bytes to reach the length of a header\r\n\r\n";
  const Bytes noise_bytes = std::as_bytes(std::span(noise));
  EXPECT_THAT(Refusal(std::span(&noise_bytes, 1), &echoed), AllOf(HasSubstr("NET-004"), HasSubstr("magic")));
  EXPECT_EQ(echoed.part, kNoPart);

  ASSERT_TRUE(builder_.Experts(key_, rows_.block(), parts_[0].routes).ok());
  std::vector<std::byte> damaged;
  for (const Bytes part : builder_.parts()) damaged.insert(damaged.end(), part.begin(), part.end());
  damaged[80] ^= std::byte{4};
  const Bytes damaged_bytes = damaged;
  EXPECT_THAT(Refusal(std::span(&damaged_bytes, 1), &echoed), HasSubstr("payload checksum"));
  EXPECT_EQ(echoed, key_);

  RowBlock narrow = rows_.block();
  narrow.hidden = 100;
  ASSERT_TRUE(builder_.Experts(key_, narrow, parts_[0].routes).ok());
  EXPECT_THAT(Refusal(builder_.parts()), HasSubstr("width: expected 200"));

  builder_.Error(key_, absl::InternalError("an answer, not a question"));
  EXPECT_THAT(Refusal(builder_.parts()), HasSubstr("expected experts, matmul_rows or probe, got error"));

  ASSERT_TRUE(builder_.Experts(key_, rows_.block(), parts_[0].routes).ok());
  EXPECT_EQ(Refusal(builder_.parts()), "no error");
  EXPECT_GE(progress_, 6);  // the last one is counted after its answer went out
}

TEST(ServeStopTest, StopEndsTheServingWithOk) {
  auto [head, worker] = LoopbackPair();
  KnownFunction handler;
  int asked = 0;
  EXPECT_TRUE(
      ServeExchange(
          *worker, handler,
          {.epoch = Epoch(1), .head = 0, .yield = true, .stop = [&] { return ++asked > 3; }, .progress = {}})
          .ok());
}

}  // namespace
}  // namespace paceline
