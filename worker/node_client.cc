// One NodeSession per connection to the head. Three threads at work: the caller's loads and computes, one
// reads the control stream, one sends heartbeats.
#include "worker/node_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "paceline/node/v1/node.grpc.pb.h"
#include "transport/link.h"
#include "worker/wire.h"

namespace paceline {
namespace {

constexpr Duration kSlice = std::chrono::milliseconds(100);     // between two looks at `stop`
constexpr Duration kAnswerPatience = std::chrono::seconds(30);  // for the head's terms and welcome
constexpr Duration kLinkPatience = std::chrono::seconds(10);
constexpr Duration kProgressInterval = std::chrono::milliseconds(100);

// The control stream: a reader thread fills a mailbox, writes of several threads are kept apart.
class ControlStream {
 public:
  explicit ControlStream(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(node::v1::NodeService::NewStub(channel)), stream_(stub_->Join(&context_)) {
    reader_ = std::thread([this] { Read(); });
  }
  ~ControlStream() {
    context_.TryCancel();
    reader_.join();
  }

  // Called on the reader's thread for each new epoch, also for the last one that came before this call.
  void SetOnEpoch(std::function<void(Epoch)> on_epoch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    on_epoch_ = std::move(on_epoch);
    if (on_epoch_ && epoch_) on_epoch_(*epoch_);
  }

  bool Write(const node::v1::WorkerMessage& message) {
    const std::lock_guard<std::mutex> lock(write_mutex_);
    return !writes_done_ && stream_->Write(message);
  }
  void FinishWrites() {
    const std::lock_guard<std::mutex> lock(write_mutex_);
    if (!std::exchange(writes_done_, true)) stream_->WritesDone();
  }

  // The next of Terms, Refused, Welcome; nothing when the stream ended, `stop` turned true or the deadline
  // passed.
  std::optional<node::v1::HeadMessage> Next(TimePoint deadline, const std::function<bool()>& stop) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (inbox_.empty() && !ended_) {
      const TimePoint now = Clock::Real().Now();
      if (now >= deadline || stop()) return std::nullopt;
      news_.wait_for(lock, std::min<Duration>(kSlice, deadline - now));
    }
    if (inbox_.empty()) return std::nullopt;
    node::v1::HeadMessage message = std::move(inbox_.front());
    inbox_.pop_front();
    return message;
  }
  // True when the stream ended before the deadline.
  bool WaitEnd(TimePoint deadline) {
    std::unique_lock<std::mutex> lock(mutex_);
    return news_.wait_until(lock, deadline, [this] { return ended_; });
  }
  bool ended() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ended_;
  }
  // The link to abort when the stream ends: a sleeping server must learn of it.
  void Guard(Link* link) {
    const std::lock_guard<std::mutex> lock(mutex_);
    guarded_ = link;
    if (ended_ && guarded_ != nullptr) guarded_->Abort(Gone());
  }
  static absl::Status Gone() {
    return Error(errors::kUnreachable, "the control connection to the head has ended");
  }

 private:
  void Read() {
    node::v1::HeadMessage message;
    while (stream_->Read(&message)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (message.has_epoch_change()) {
        epoch_ = Epoch(message.epoch_change().epoch());
        if (on_epoch_) on_epoch_(*epoch_);
        continue;
      }
      inbox_.push_back(std::move(message));
      news_.notify_all();
    }
    stream_->Finish();
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    if (guarded_ != nullptr) guarded_->Abort(Gone());
    news_.notify_all();
  }

  grpc::ClientContext context_;
  std::unique_ptr<node::v1::NodeService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<node::v1::WorkerMessage, node::v1::HeadMessage>> stream_;
  mutable std::mutex mutex_;
  std::condition_variable news_;
  std::deque<node::v1::HeadMessage> inbox_;
  bool ended_ = false;
  std::optional<Epoch> epoch_;
  std::function<void(Epoch)> on_epoch_;
  Link* guarded_ = nullptr;
  std::mutex write_mutex_;
  bool writes_done_ = false;
  std::thread reader_;
};

// Says every interval that the process lives, how far its compute thread is, and which epoch it accepts.
class Heartbeats {
 public:
  Heartbeats(ControlStream& stream, Duration interval, Epoch epoch)
      : stream_(stream), interval_(interval), epoch_(epoch.value()), thread_([this] { Run(); }) {}
  ~Heartbeats() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void CountFrame() { served_.fetch_add(1, std::memory_order_relaxed); }
  Epoch epoch() const { return Epoch(epoch_.load(std::memory_order_acquire)); }
  // Accepts a newer epoch and says so at once.
  void SetEpoch(Epoch epoch) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (epoch.value() <= epoch_.load()) return;
      epoch_.store(epoch.value(), std::memory_order_release);
      hurry_ = true;
    }
    wake_.notify_all();
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stop_) {
      hurry_ = false;
      node::v1::WorkerMessage message;
      message.mutable_heartbeat()->set_progress(served_.load(std::memory_order_relaxed));
      message.mutable_heartbeat()->set_epoch(epoch_.load());
      lock.unlock();
      stream_.Write(message);
      lock.lock();
      wake_.wait_for(lock, interval_, [this] { return stop_ || hurry_; });
    }
  }

  ControlStream& stream_;
  const Duration interval_;
  std::atomic<uint64_t> served_{0};
  std::atomic<uint32_t> epoch_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  bool hurry_ = false;
  std::thread thread_;
};

// The host of "host:port"; brackets of IPv6 stay.
std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// A head that listens on every interface cannot know which of its addresses this machine reaches.
std::string ReachableAddress(const std::string& link_address, const std::string& join) {
  for (const char* any : {"0.0.0.0:", "[::]:"}) {
    if (link_address.rfind(any, 0) == 0) {
      return absl::StrCat(HostOf(join), ":", link_address.substr(link_address.rfind(':') + 1));
    }
  }
  return link_address;
}

class WorkerLife {
 public:
  explicit WorkerLife(WorkerConfig config)
      : config_(std::move(config)),
        counters_(config_.counters != nullptr ? *config_.counters : own_counters_) {
    if (config_.facts.session == 0) {
      std::random_device device;
      config_.facts.session = (uint64_t{device()} << 32) | device() | 1;
    }
  }

  absl::Status Run() {
    TimePoint patience = Clock::Real().Now() + config_.dial_patience;
    while (!Stopped()) {
      bool served = false;
      Ending ending = Session(patience, &served);
      if (ending.final) return ending.status;
      if (served) {
        patience = Clock::Real().Now() + config_.rejoin_patience;
        member_once_ = true;
        Log(absl::StrCat(std::string(ending.status.message()), "; dialling ", config_.join, " again"));
      } else if (Clock::Real().Now() >= patience) {
        return ending.status;
      }
      Pause();
    }
    return absl::OkStatus();
  }

 private:
  // How a session ended; a final one ends the worker.
  struct Ending {
    absl::Status status;
    bool final = false;
  };

  bool Stopped() const { return config_.stop && config_.stop(); }
  void Log(const std::string& line) const {
    if (config_.log) config_.log(line);
  }
  // Between two attempts, so that a head that ends every session at once is not hammered.
  void Pause() const { std::this_thread::sleep_for(kSlice); }

  absl::Status Unreachable() const {
    return Error(
        errors::kUnreachable,
        absl::StrCat("no head answers at ", config_.join,
                     "; start it with `paceline serve MODEL --nodes N`, and compare --join here with the "
                     "join address of its ready line"));
  }

  // A channel that is connected, or null when the time is up.
  std::shared_ptr<grpc::Channel> Dial(TimePoint deadline) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    auto channel = grpc::CreateCustomChannel(config_.join, grpc::InsecureChannelCredentials(), arguments);
    while (!Stopped() && Clock::Real().Now() < deadline) {
      if (channel->WaitForConnected(std::chrono::system_clock::now() + kSlice)) return channel;
    }
    return nullptr;
  }

  Ending Session(TimePoint patience, bool* served) {
    const std::shared_ptr<grpc::Channel> channel = Dial(patience);
    if (Stopped()) return {absl::OkStatus(), true};
    if (channel == nullptr) return {Unreachable(), true};

    ControlStream stream(channel);
    const auto stop = [this] { return Stopped(); };
    const TimePoint answer_by = Clock::Real().Now() + kAnswerPatience;
    std::optional<node::v1::HeadMessage> message = stream.Next(answer_by, stop);
    if (!message) return {Unreachable(), false};
    if (!message->has_terms())
      return {Error(errors::kFrame, "the head's first message is not its terms"), true};
    {
      node::v1::WorkerMessage hello;
      ToWire(MakeHello(FromWire(message->terms()), config_.facts, config_.known_answer),
             hello.mutable_hello());
      stream.Write(hello);
    }
    message = stream.Next(answer_by, stop);
    if (!message) return {Unreachable(), false};
    if (message->has_refused()) {
      const absl::Status why = StatusFromWire(message->refused().status(), message->refused().message());
      // A member of a moment ago may find its own place not yet given up.
      return {why, !(member_once_ && message->refused().transient())};
    }
    if (!message->has_welcome()) return {Error(errors::kFrame, "the head answered neither yes nor no"), true};
    absl::StatusOr<Assignment> assignment = FromWire(message->welcome());
    if (!assignment.ok()) return {assignment.status(), true};
    return Member(stream, *assignment, served);
  }

  Ending Member(ControlStream& stream, const Assignment& assignment, bool* served) {
    Heartbeats heartbeats(stream, assignment.heartbeat_interval, assignment.epoch);
    counters_.rank = assignment.share.rank.value();
    counters_.epoch = assignment.epoch.value();
    stream.SetOnEpoch([this, &heartbeats](Epoch epoch) {
      heartbeats.SetEpoch(epoch);
      counters_.epoch = heartbeats.epoch().value();
    });
    const Ending ending = LoadAndServe(stream, heartbeats, assignment, served);
    stream.SetOnEpoch(nullptr);
    counters_.serving = false;
    return ending;
  }

  Ending LoadAndServe(ControlStream& stream, Heartbeats& heartbeats, const Assignment& assignment,
                      bool* served) {
    // A link that cannot be is no reason to load first.
    absl::Status loaded = CheckLink(assignment.link_kind);
    if (loaded.ok()) loaded = Load(stream, assignment.share);
    if (!loaded.ok()) {
      Fail(stream, loaded);
      return {loaded, true};
    }
    if (stream.ended() || Stopped()) return {ControlStream::Gone(), false};

    const std::string address = ReachableAddress(assignment.link_address, config_.join);
    absl::StatusOr<std::unique_ptr<Link>> connected =
        ConnectLink(assignment.link_kind, address, Clock::Real().Now() + kLinkPatience, assignment.epoch);
    absl::Status greeted = connected.status();
    if (connected.ok()) {
      const Bytes token = std::as_bytes(std::span(assignment.link_token));
      greeted = (*connected)->Send(std::span<const Bytes>(&token, 1));
    }
    if (!greeted.ok()) {
      if (stream.ended()) return {ControlStream::Gone(), false};
      Fail(stream, greeted);
      return {greeted, true};
    }
    Link& link = **connected;
    stream.Guard(&link);
    node::v1::WorkerMessage done;
    done.mutable_loaded()->set_experts(held_.facts.experts);
    done.mutable_loaded()->set_leaves(held_.facts.leaves);
    done.mutable_loaded()->set_bytes(held_.facts.bytes);
    stream.Write(done);
    *served = true;
    Log(absl::StrCat("rank ", assignment.share.rank.value(), " of ", assignment.share.ranks, ", serving ",
                     held_.facts.leaves, " leaves over ", link.Describe()));

    ServeOptions options;
    options.epoch = assignment.epoch;
    options.newest_epoch = [&heartbeats] { return heartbeats.epoch(); };
    options.head = assignment.head;
    options.yield = assignment.yield;
    options.stop = [this, &stream] { return Stopped() || stream.ended(); };
    const int64_t bytes_before = counters_.link_bytes;
    options.progress = [this, &heartbeats, &link, bytes_before] {
      heartbeats.CountFrame();
      counters_.link_bytes = bytes_before + link.bytes();
    };
    CountingHandler handler(*held_.handler, counters_);
    ++counters_.memberships;
    counters_.serving = true;
    const absl::Status ended = ServeExchange(link, handler, options);
    stream.Guard(nullptr);
    if (Stopped()) return {absl::OkStatus(), true};
    return {ended.ok() ? ControlStream::Gone() : ended, false};
  }

  absl::Status Load(ControlStream& stream, const Share& share) {
    if (held_.handler != nullptr && held_share_ == share) return absl::OkStatus();
    held_ = {};
    TimePoint next = TimePoint::min();
    const auto progress = [this, &stream, &next](LoadProgress now) {
      counters_.load_bytes = now.done_bytes;
      counters_.load_total = now.total_bytes;
      const TimePoint at = Clock::Real().Now();
      if (at < next && now.done_bytes < now.total_bytes) return;
      next = at + kProgressInterval;
      node::v1::WorkerMessage message;
      message.mutable_progress()->set_done_bytes(now.done_bytes);
      message.mutable_progress()->set_total_bytes(now.total_bytes);
      stream.Write(message);
    };
    progress({});
    ASSIGN_OR_RETURN(held_, config_.factory(share, progress));
    held_share_ = share;
    counters_.experts_held = held_.facts.experts;
    counters_.leaves_held = held_.facts.leaves;
    counters_.bytes_held = held_.facts.bytes;
    return absl::OkStatus();
  }

  // Tells the head why, and gives the message time to arrive.
  static void Fail(ControlStream& stream, const absl::Status& why) {
    node::v1::WorkerMessage message;
    message.mutable_failed()->set_status(static_cast<int>(why.code()));
    message.mutable_failed()->set_message(std::string(why.message()));
    stream.Write(message);
    stream.FinishWrites();
    stream.WaitEnd(Clock::Real().Now() + kLinkPatience);
  }

  WorkerConfig config_;
  WorkerCounters own_counters_;
  WorkerCounters& counters_;  // own_counters_ where nobody looks
  bool member_once_ = false;
  LoadedHandler held_;  // kept over a reconnection that gives the same share
  Share held_share_;
};

}  // namespace

absl::Status RunWorker(WorkerConfig config) { return WorkerLife(std::move(config)).Run(); }

}  // namespace paceline
