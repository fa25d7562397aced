// Heads and workers over real gRPC and real links on loopback: who is let in, what is said to the others, how
// a loss is noticed and how a place is taken again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "tests/worker/fake_handler.h"
#include "worker/cluster.h"
#include "worker/local_workers.h"
#include "worker/loopback_workers.h"
#include "worker/node_client.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr Duration kPatience = std::chrono::seconds(60);  // a hang ends the test; nothing is measured
TimePoint Deadline() { return Clock::Real().Now() + kPatience; }
std::string Message(const absl::Status& status) { return std::string(status.message()); }

// One layer of six experts with two groups each, dealt to ranks 1.. in turn; the head holds none of
// experts 1..
Placement Deal(int32_t ranks) {
  Placement placement(Epoch(1), ranks, {{6, 2, 50}});
  for (int32_t expert = 0; expert < 6; ++expert) {
    placement.Assign(LayerId(0), ExpertId(expert), 0, 2, {RankId(expert % ranks)});
  }
  return placement;
}

ClusterConfig HeadConfig(int32_t ranks) {
  ClusterConfig config;
  config.placement = Deal(ranks);
  config.model_digest = "digest-of-the-model";
  config.head.name = "head";
  return config;
}

// A worker process's life on a thread.
class ThreadWorker {
 public:
  ThreadWorker(const Cluster& cluster, const std::string& name,
               const std::function<void(WorkerConfig&)>& change = nullptr) {
    WorkerConfig config;
    config.join = cluster.join_address();
    config.facts = FakeFacts(name, getpid());
    config.factory = LoadFake;
    config.stop = [this] { return stop_.load(); };
    if (change) change(config);
    thread_ = std::thread([this, config = std::move(config)] { result_ = RunWorker(config); });
  }
  ~ThreadWorker() { Stop().IgnoreError(); }
  absl::Status Stop() {
    stop_ = true;
    return Wait();
  }
  absl::Status Wait() {
    if (thread_.joinable()) thread_.join();
    return result_;
  }

 private:
  std::atomic<bool> stop_{false};
  absl::Status result_;
  std::thread thread_;
};

class JoinTest : public ::testing::Test {
 protected:
  void StartHead(ClusterConfig config) {
    config.log = [this](const std::string& line) {
      const std::lock_guard<std::mutex> lock(mutex_);
      absl::StrAppend(&log_, line, "\n");
      news_.notify_all();
    };
    auto cluster = Cluster::Start(std::move(config));
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    cluster_->SetOnChange([this] {
      const std::lock_guard<std::mutex> lock(mutex_);
      news_.notify_all();
    });
  }
  // Until `condition` holds; false when patience ends.
  bool WaitFor(const std::function<bool()>& condition) {
    std::unique_lock<std::mutex> lock(mutex_);
    const TimePoint deadline = Deadline();
    while (Clock::Real().Now() < deadline) {
      lock.unlock();
      if (condition()) return true;
      lock.lock();
      news_.wait_for(lock, std::chrono::milliseconds(20));
    }
    return false;
  }
  absl::Status WaitReady() { return cluster_->WaitReady(Deadline(), nullptr); }
  std::string Log() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return log_;
  }
  NodeState StateOf(const std::string& name) {
    NodeState state = NodeState::kLost;
    for (const NodeFacts& node : cluster_->Facts().nodes) {
      if (node.name == name) state = node.state;
    }
    return state;
  }
  bool Lost(const std::string& name) {
    for (const NodeFacts& node : cluster_->Facts().nodes) {
      if (node.name == name) return node.state == NodeState::kLost;
    }
    return false;
  }
  // One row through one expert of `rank`: what the rank added, or why not.
  absl::StatusOr<int64_t> Ask(Exchange& exchange, StepId step, RankId rank, int32_t expert, int32_t groups) {
    std::vector<float> row(FakeHandler::kHidden, 1.0f);
    RowBlock block;
    block.rows = 1;
    block.hidden = FakeHandler::kHidden;
    block.values = row.data();
    const Part part{rank, {{0, expert, 0, groups, 1.0f}}};
    const absl::Status sent =
        exchange.SendExperts(step, LayerId(0), 0, block, std::span<const Part>(&part, 1));
    if (!sent.ok()) return sent;
    std::vector<int64_t> sums(FakeHandler::kHidden, 0);
    std::vector<uint8_t> flags(1, 0);
    const absl::Status received = exchange.ReceiveExperts(step, LayerId(0), 0, {sums.data(), flags.data()});
    if (!received.ok()) return received;
    return sums[0];
  }
  std::unique_ptr<Exchange> ExchangeNow() {
    ExchangeOptions options;
    options.head = cluster_->head_id();
    auto exchange = MakeExchange(options);
    TakePeers(*exchange);
    return exchange;
  }
  void TakePeers(Exchange& exchange) {
    PeerSnapshot peers = cluster_->Peers();
    exchange.SetPeers(peers.epoch, std::move(peers.peers));
  }

  std::mutex mutex_;
  std::condition_variable news_;
  std::string log_;
  std::unique_ptr<Cluster> cluster_;
};

class JoinOverLinks : public JoinTest, public ::testing::WithParamInterface<std::string> {};

// nccl finds the stand-in for its libraries, which lies on this program's own path
// (tests/worker/CMakeLists.txt).
std::vector<std::string> LinksBetweenProcesses() {
  std::vector<std::string> kinds = LinkKinds();
  std::erase(kinds, "loopback");
  kinds.emplace_back("nccl");
  return kinds;
}
INSTANTIATE_TEST_SUITE_P(Links, JoinOverLinks, ::testing::ValuesIn(LinksBetweenProcesses()),
                         [](const auto& info) { return info.param; });

TEST_P(JoinOverLinks, WorkersJoinLoadTheirShareAndAnswer) {
  ClusterConfig config = HeadConfig(3);
  config.link = GetParam();
  StartHead(std::move(config));
  EXPECT_THAT(Message(cluster_->Peers().degraded), StartsWith("NET-001: no worker has joined as rank 1"));
  ThreadWorker one(*cluster_, "one"), two(*cluster_, "two");
  ASSERT_TRUE(WaitReady().ok());

  const ClusterFacts facts = cluster_->Facts();
  EXPECT_EQ(facts.epoch, Epoch(1));
  EXPECT_EQ(facts.degraded, "");
  ASSERT_EQ(facts.nodes.size(), 3u);
  EXPECT_TRUE(facts.nodes[0].head);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(facts.nodes[i].leaves, 4) << i;
    EXPECT_EQ(facts.nodes[i].fingerprint, facts.nodes[0].fingerprint) << i;
  }
  EXPECT_EQ(facts.nodes[1].state, NodeState::kReady);
  EXPECT_EQ(facts.nodes[2].backend, "fake");
  EXPECT_THAT(facts.nodes[2].address, StartsWith("127.0.0.1:"));
  EXPECT_EQ(facts.nodes[2].interface, "lo");

  const auto exchange = ExchangeNow();
  EXPECT_EQ(Ask(*exchange, StepId(1), RankId(1), 4, 2).value_or(-1), FakeHandler::Leaf(RankId(1), 4, 2));
  EXPECT_EQ(Ask(*exchange, StepId(2), RankId(2), 5, 1).value_or(-1), FakeHandler::Leaf(RankId(2), 5, 1));
  EXPECT_TRUE(one.Stop().ok());
}

TEST_F(JoinTest, AWorkerCountsWhatItDoes) {
  StartHead(HeadConfig(2));
  WorkerCounters counters;
  ThreadWorker worker(*cluster_, "one", [&](WorkerConfig& config) { config.counters = &counters; });
  ASSERT_TRUE(WaitReady().ok());
  const auto exchange = ExchangeNow();
  ASSERT_TRUE(Ask(*exchange, StepId(1), RankId(1), 1, 2).ok());
  ASSERT_TRUE(Ask(*exchange, StepId(2), RankId(1), 3, 1).ok());
  EXPECT_EQ(counters.experts.frames, 2);
  EXPECT_EQ(counters.experts.rows, 2);
  EXPECT_GT(counters.experts.compute_ns, 0);
  EXPECT_EQ(counters.matmul.frames, 0);
  EXPECT_EQ(counters.rank, 1);
  EXPECT_EQ(counters.epoch, 1u);
  EXPECT_EQ(counters.experts_held, 3);
  EXPECT_EQ(counters.leaves_held, 6);
  EXPECT_EQ(counters.bytes_held, 600);
  EXPECT_TRUE(counters.serving);
  EXPECT_EQ(counters.memberships, 1);
  // Counted behind the answer.
  EXPECT_TRUE(WaitFor([&] { return counters.link_bytes > 2 * FakeHandler::kHidden; }));
  EXPECT_TRUE(worker.Stop().ok());
  EXPECT_FALSE(counters.serving);
}

TEST_F(JoinTest, EveryMismatchIsNamedOnBothSides) {
  ClusterConfig config = HeadConfig(2);
  config.known_answer = [](const ContractOptions&) { return "right-answer"; };
  StartHead(std::move(config));
  ThreadWorker wrong(*cluster_, "wrong", [](WorkerConfig& worker) {
    worker.facts.model_digest = "another-digest";
    worker.known_answer = [](const ContractOptions&) { return "wrong-answer"; };
  });
  const absl::Status refused = wrong.Wait();
  EXPECT_EQ(ExitStatus(refused), kExitVersion);
  EXPECT_THAT(Message(refused),
              AllOf(StartsWith("NET-006: worker wrong cannot join"),
                    HasSubstr("model digest: the head has digest-of-the-model, the worker another-digest"),
                    HasSubstr("known-answer run: the head has right-answer, the worker wrong-answer")));
  EXPECT_THAT(Log(), HasSubstr(Message(refused)));
  EXPECT_EQ(cluster_->Facts().nodes.size(), 1u);

  ThreadWorker right(*cluster_, "right", [](WorkerConfig& worker) {
    worker.known_answer = [](const ContractOptions&) { return "right-answer"; };
  });
  EXPECT_TRUE(WaitReady().ok());
}

TEST_F(JoinTest, TooManyAndSameNamesAreRefused) {
  StartHead(HeadConfig(3));
  ThreadWorker one(*cluster_, "one");
  ASSERT_TRUE(WaitFor([this] { return StateOf("one") == NodeState::kReady; }));
  ThreadWorker twin(*cluster_, "one");
  EXPECT_THAT(Message(twin.Wait()), StartsWith("NET-006: a live worker is already called one"));
  ThreadWorker two(*cluster_, "two");
  ASSERT_TRUE(WaitReady().ok());
  ThreadWorker three(*cluster_, "three");
  EXPECT_THAT(Message(three.Wait()),
              AllOf(StartsWith("NET-006"), HasSubstr("all its 3 nodes"), HasSubstr("--nodes")));
}

TEST_F(JoinTest, AFailedLoadIsReportedInItsOwnWords) {
  ClusterConfig config = HeadConfig(2);
  config.failures_are_fatal = true;
  StartHead(std::move(config));
  const std::string words =
      "layers.0.mlp.experts.1.up_proj in model.safetensors: expected [128, 64], found [64, 64]";
  ThreadWorker worker(*cluster_, "w", [&](WorkerConfig& c) {
    c.factory = [&](const Share&, const std::function<void(LoadProgress)>&) {
      return absl::StatusOr<LoadedHandler>(Error(errors::kModelTensor, words));
    };
  });
  const absl::Status fatal = WaitReady();
  EXPECT_EQ(Message(fatal), absl::StrCat("LOAD-004: ", words));
  EXPECT_EQ(ExitStatus(fatal), kExitModel);
  EXPECT_EQ(worker.Wait(), fatal);
  EXPECT_TRUE(
      WaitFor([&] { return Log().find(absl::StrCat("worker w: LOAD-004: ", words)) != std::string::npos; }));
}

TEST_P(JoinOverLinks, APlaceIsTakenAgainInANewEpoch) {
  ClusterConfig config = HeadConfig(3);
  config.link = GetParam();
  StartHead(std::move(config));
  auto one = std::make_unique<ThreadWorker>(*cluster_, "one");
  ASSERT_TRUE(WaitFor([this] { return StateOf("one") == NodeState::kReady; }));
  ThreadWorker two(*cluster_, "two");
  ASSERT_TRUE(WaitReady().ok());
  const auto exchange = ExchangeNow();
  const uint64_t before = cluster_->version();
  ASSERT_TRUE(Ask(*exchange, StepId(1), RankId(1), 1, 2).ok());

  one.reset();
  ASSERT_TRUE(WaitFor([this] { return Lost("one"); }));
  EXPECT_GT(cluster_->version(), before);
  const absl::StatusOr<int64_t> unanswered = Ask(*exchange, StepId(2), RankId(1), 1, 2);
  EXPECT_THAT(Message(unanswered.status()), AllOf(StartsWith("NET-001"), HasSubstr("one")));
  EXPECT_THAT(Message(cluster_->Peers().degraded),
              AllOf(StartsWith("NET-001: worker one (rank 1"), HasSubstr("expert 1")));
  EXPECT_EQ(cluster_->Facts().epoch, Epoch(1));

  ThreadWorker other(*cluster_, "another-box");
  ASSERT_TRUE(WaitReady().ok());
  EXPECT_EQ(cluster_->Facts().epoch, Epoch(2));
  EXPECT_TRUE(cluster_->Peers().degraded.ok());
  // The worker that stayed is asked in the old epoch first, then in the new one: the head goes over between
  // steps.
  EXPECT_EQ(Ask(*exchange, StepId(3), RankId(2), 2, 2).value_or(-1), FakeHandler::Leaf(RankId(2), 2, 2));
  TakePeers(*exchange);
  EXPECT_EQ(Ask(*exchange, StepId(4), RankId(2), 2, 2).value_or(-1), FakeHandler::Leaf(RankId(2), 2, 2));
  EXPECT_EQ(Ask(*exchange, StepId(4), RankId(1), 1, 2).value_or(-1), FakeHandler::Leaf(RankId(1), 1, 2));
}

TEST_F(JoinTest, AWorkerRejoinsAHeadThatCameBackWithoutLoadingAgain) {
  StartHead(HeadConfig(2));
  std::atomic<int> loads{0};
  ThreadWorker worker(*cluster_, "w", [&](WorkerConfig& c) {
    c.factory = [&](const Share& share, const std::function<void(LoadProgress)>& progress) {
      ++loads;
      return LoadFake(share, progress);
    };
  });
  ASSERT_TRUE(WaitReady().ok());
  ClusterConfig again = HeadConfig(2);
  const std::string address = cluster_->join_address();
  again.join_port = std::stoi(address.substr(address.rfind(':') + 1));
  cluster_.reset();
  StartHead(std::move(again));
  ASSERT_TRUE(WaitReady().ok());
  EXPECT_EQ(loads, 1);
  EXPECT_EQ(Ask(*ExchangeNow(), StepId(1), RankId(1), 1, 2).value_or(-1), FakeHandler::Leaf(RankId(1), 1, 2));
}

TEST_P(JoinOverLinks, KilledAndStoppedProcessesAreLost) {
  ClusterConfig config = HeadConfig(3);
  config.link = GetParam();
  StartHead(std::move(config));
  LocalWorkersConfig spawn;
  spawn.count = 2;
  spawn.program = FAKE_WORKER;
  spawn.join = cluster_->join_address();
  spawn.model = "none";
  auto workers = LocalWorkers::Spawn(spawn);
  ASSERT_TRUE(workers.ok());
  ASSERT_TRUE(WaitReady().ok());
  const auto exchange = ExchangeNow();
  EXPECT_TRUE((*workers)->Check().ok());
  const ClusterFacts facts = cluster_->Facts();
  EXPECT_EQ(facts.nodes[1].name, "local-1");
  EXPECT_EQ(facts.nodes[2].name, "local-2");
  EXPECT_EQ(facts.nodes[2].pid, (*workers)->pids()[1]);

  ASSERT_EQ(kill((*workers)->pids()[0], SIGSTOP), 0);
  ASSERT_TRUE(WaitFor([this] { return Lost("local-1"); }));
  EXPECT_TRUE(WaitFor([this] { return Log().find("no heartbeat for") != std::string::npos; }));
  const auto silent = Ask(*exchange, StepId(1), RankId(1), 1, 2);
  EXPECT_THAT(Message(silent.status()), AllOf(StartsWith("NET-001"), HasSubstr("local-1")));

  ASSERT_EQ(kill((*workers)->pids()[1], SIGKILL), 0);
  ASSERT_TRUE(WaitFor([this] { return Lost("local-2"); }));
  EXPECT_TRUE(WaitFor([this] { return Log().find("its control connection ended") != std::string::npos; }));
  EXPECT_TRUE(WaitFor([&] { return !(*workers)->Check().ok(); }));
  EXPECT_THAT(Message((*workers)->Check()),
              AllOf(StartsWith("NET-001"), HasSubstr("local-2"), HasSubstr("signal 9")));

  // The stopped one wakes, finds itself forgotten, and joins again by itself.
  ASSERT_EQ(kill((*workers)->pids()[0], SIGCONT), 0);
  ASSERT_TRUE(WaitFor([this] { return StateOf("local-1") == NodeState::kReady; }));
}

// What a dialler without a membership gets, and what is made of one whose link comes late.
TEST_P(JoinOverLinks, ALinkOfNobodyIsClosedAndTheOneThatIsAwaitedTaken) {
  struct Channel final : MemberChannel {
    void AnnounceEpoch(Epoch) override {}
    void Close() override {}
  };
  ClusterConfig config = HeadConfig(2);
  config.link = GetParam();
  config.heartbeat_timeout = kPatience;
  StartHead(std::move(config));
  JoinHello hello = MakeHello(cluster_->terms(), FakeFacts("w", getpid()), nullptr);
  hello.address = "127.0.0.1:1";
  const JoinHost::Admission admission = cluster_->Join(hello, std::make_shared<Channel>());
  ASSERT_TRUE(admission.status.ok()) << admission.status;
  const Assignment& place = admission.assignment;
  const auto dial = [&](const std::string& token) {
    auto link = ConnectLink(place.link_kind, place.link_address, Deadline(), place.epoch);
    EXPECT_TRUE(link.ok()) << link.status();
    const Bytes part = std::as_bytes(std::span(token));
    EXPECT_TRUE((*link)->Send(std::span(&part, 1)).ok());
    return *std::move(link);
  };
  cluster_->OnLoaded(admission.member, {.experts = 3, .leaves = 6, .bytes = 1});
  const std::unique_ptr<Link> stranger = dial("of an earlier life");
  const auto driven = [&](Link& link) { return link.TryReceive().status(); };
  EXPECT_TRUE(WaitFor([&] { return !driven(*stranger).ok(); }));
  EXPECT_THAT(Log(),
              AllOf(HasSubstr("closed a data link"), HasSubstr("belongs to no worker that is joining")));
  EXPECT_NE(StateOf("w"), NodeState::kReady);

  const std::unique_ptr<Link> member = dial(place.link_token);
  EXPECT_TRUE(WaitFor([&] { return driven(*member).ok() && StateOf("w") == NodeState::kReady; }));
}

TEST_F(JoinTest, ALocalWorkerThatCannotLoadEndsTheWait) {
  ClusterConfig config = HeadConfig(2);
  config.failures_are_fatal = true;
  StartHead(std::move(config));
  LocalWorkersConfig spawn;
  spawn.count = 1;
  spawn.program = FAKE_WORKER;
  spawn.join = cluster_->join_address();
  spawn.arguments = {"--fail"};
  auto workers = LocalWorkers::Spawn(spawn);
  ASSERT_TRUE(workers.ok());
  EXPECT_THAT(Message(WaitReady()), StartsWith("LOAD-004: layers.3.mlp.experts.1.up_proj"));
}

TEST_F(JoinTest, LoopbackWorkersAreThreads) {
  ClusterConfig config = HeadConfig(3);
  config.link = "loopback";
  StartHead(std::move(config));
  {
    LoopbackWorkers workers(*cluster_, {FakeFacts("local-1", getpid()), FakeFacts("local-2", getpid())},
                            nullptr, LoadFake, true, [&](const absl::Status& why) { cluster_->Fail(why); });
    ASSERT_TRUE(WaitReady().ok());
    const auto exchange = ExchangeNow();
    EXPECT_EQ(Ask(*exchange, StepId(1), RankId(2), 2, 2).value_or(-1), FakeHandler::Leaf(RankId(2), 2, 2));
    ThreadWorker outsider(*cluster_, "outsider");
    EXPECT_THAT(Message(outsider.Wait()), AllOf(StartsWith("NET-006"), HasSubstr("--link loopback")));
  }
}

TEST(ClusterStart, RefusesPlainLinksOffThisMachine) {
  ClusterConfig config = HeadConfig(2);
  config.host = "0.0.0.0";
  const auto refused = Cluster::Start(config);
  EXPECT_THAT(Message(refused.status()), AllOf(StartsWith("NET-003"), HasSubstr("--insecure-links")));
  config.insecure_links = true;
  EXPECT_TRUE(Cluster::Start(config).ok());
}

TEST(ClusterStart, ATakenPortIsNamed) {
  auto first = Cluster::Start(HeadConfig(1));
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE((*first)->WaitReady(Deadline(), nullptr).ok());
  ClusterConfig config = HeadConfig(1);
  const std::string address = (*first)->join_address();
  config.join_port = std::stoi(address.substr(address.rfind(':') + 1));
  EXPECT_THAT(Message(Cluster::Start(config).status()), AllOf(StartsWith("NET-002"), HasSubstr(address)));
}

TEST(RunWorker, SaysWhenNobodyAnswers) {
  WorkerConfig config;
  config.join = "127.0.0.1:1";
  config.facts = FakeFacts("w", getpid());
  config.factory = LoadFake;
  config.dial_patience = std::chrono::milliseconds(50);
  const absl::Status ended = RunWorker(config);
  EXPECT_THAT(Message(ended),
              AllOf(StartsWith("NET-002: no head answers at 127.0.0.1:1"), HasSubstr("--join")));
  EXPECT_EQ(ExitStatus(ended), kExitUnreachable);
}

}  // namespace
}  // namespace paceline
