// The imagined wire: two queues of messages with the times at which they may pass, and the thread that lets
// them pass.
#include "transport/simulated_link.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

// A sleep ends late by about this much; the rest of a delay is yielded away.
constexpr Duration kSleepError = std::chrono::microseconds(15);
// The pump looks around this often when nothing is due.
constexpr Duration kIdle = std::chrono::milliseconds(200);
// The kernel gathers the timers of ordinary threads within 50 us; the calling thread's now fire on time.
void AskForExactTimers() {
  thread_local const bool asked = prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL) == 0;
  (void)asked;
}

// The calling thread runs for microseconds, when a message is due: it asks for short turns, which come sooner
// (sched_setattr(2), which glibc does not wrap). Where the kernel knows no such thing the wire is less exact
// under load. No real-time priority: a thread that never sleeps would stop the machine.
void AskForShortTurns() {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;  // ns
  } attributes = {};
  attributes.size = sizeof(attributes);
  attributes.runtime = 100'000;
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

class SimulatedLink final : public Link {
 public:
  SimulatedLink(std::unique_ptr<Link> inner, const SimulationOptions& options, Clock& clock)
      : inner_(std::move(inner)),
        options_(options),
        clock_(clock),
        name_(absl::StrCat(inner_->Describe(), " (simulated wire)")) {
    if (&clock == &Clock::Real()) pump_ = std::thread([this] { Pump(); });
  }
  ~SimulatedLink() override {
    if (!pump_.joinable()) return;
    stop_.store(true);
    inner_->Wake();
    pump_.join();
  }

  absl::Status Send(std::span<const Bytes> parts) override {
    if (abort_.raised()) return abort_.why();
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      RETURN_IF_ERROR(dead_);
      RETURN_IF_ERROR(inner_status_);
      std::vector<std::byte> message = NewMessage();
      message.resize(size);
      size_t at = 0;
      for (const Bytes part : parts) {
        if (part.empty()) continue;
        std::memcpy(message.data() + at, part.data(), part.size());
        at += part.size();
      }
      Enter(out_, std::move(message), 0);
      ShowNext();
      RETURN_IF_ERROR(dead_);
      wake = !out_.queue.empty() && out_.queue.front().due < pump_asleep_until_;
    }
    if (!pump_.joinable()) return Move();
    if (wake) inner_->Wake();
    return absl::OkStatus();
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (abort_.raised()) return abort_.why();
    if (!pump_.joinable()) {
      Move().IgnoreError();
    } else if (clock_.Now().time_since_epoch().count() < look_at_.load(std::memory_order_acquire)) {
      return Bytes();
    }
    const std::lock_guard lock(mutex_);
    if (!in_.queue.empty()) {
      if (in_.queue.front().due > clock_.Now()) return Bytes();
      Keep(std::move(current_));
      current_ = std::move(in_.queue.front().message);
      in_.queue.pop_front();
      ShowNext();
      return Bytes(current_);
    }
    // What was on the wire when the far end went away has arrived by now.
    RETURN_IF_ERROR(ReceivingOver());
    return Bytes();
  }

  void Wait(TimePoint deadline) override {
    if (!pump_.joinable()) return WaitByHand(deadline);
    AskForExactTimers();
    std::unique_lock lock(mutex_);
    while (!abort_.raised() && !std::exchange(woken_, false)) {
      if (in_.queue.empty() && !ReceivingOver().ok()) return;
      const TimePoint now = clock_.Now();
      const TimePoint due = in_.queue.empty() ? TimePoint::max() : in_.queue.front().due;
      if (now >= std::min(deadline, due)) return;
      if (due - now <= kSleepError) {
        lock.unlock();
        sched_yield();
        return;
      }
      changed_.wait_until(lock, std::min({deadline, due - kSleepError, now + std::chrono::hours(1)}));
    }
  }

  void Wake() override {
    if (!pump_.joinable()) return inner_->Wake();
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    changed_.notify_all();
  }

  void Abort(absl::Status why) override {
    abort_.Raise(why);
    inner_->Abort(std::move(why));
    {
      const std::lock_guard lock(mutex_);
    }  // a Wait that has just looked must be asleep before it is woken
    changed_.notify_all();
  }

  std::string Describe() const override { return name_; }
  int64_t bytes() const override { return bytes_.load(); }

 private:
  struct OnTheWire {
    TimePoint due;
    std::vector<std::byte> message;
  };
  struct Direction {
    TimePoint free;  // when the sender's interface has put the last message on the wire
    TimePoint last;  // when the last message passes: order is kept
    uint64_t count = 0;
    std::deque<OnTheWire> queue;
  };

  // Under mutex_.
  void Enter(Direction& direction, std::vector<std::byte> message, uint32_t which) {
    const TimePoint now = clock_.Now();
    const int64_t index = entered_++;
    if (index == options_.die_after_messages) {
      cut_ = true;
      dead_ = PeerGone(name_, "the simulated wire was cut");
      inner_->Abort(dead_);
    }
    if (cut_ || (options_.drop_after_messages >= 0 && index >= options_.drop_after_messages))
      return Keep(std::move(message));
    if (index == options_.corrupt_message_index) {
      const uint64_t at =
          RandomBits(options_.seed, 2, RandomPurpose::kSimulatedLink, static_cast<uint64_t>(index), 0) %
          (8 * message.size());
      message[at / 8] ^= static_cast<std::byte>(1 << at % 8);
    }
    direction.free = std::max(direction.free, now);
    if (options_.bandwidth > 0) {
      direction.free +=
          Duration(std::llround(8e9 * static_cast<double>(message.size()) / options_.bandwidth));
    }
    const uint64_t draw =
        RandomBits(options_.seed, which, RandomPurpose::kSimulatedLink, direction.count++, 0);
    const double uniform = static_cast<double>(draw >> 11) * 0x1p-52 - 1;  // [-1, 1)
    const Duration delay =
        options_.rtt / 2 + Duration(std::llround(uniform * static_cast<double>(options_.jitter.count())));
    direction.last = std::max(direction.last, direction.free + std::max(delay, Duration::zero()));
    direction.queue.push_back({direction.last, std::move(message)});
  }

  // Moves what is due outwards and what has come into the wire inwards. Calls of the link inside are the
  // pump's alone where there is one.
  absl::Status Move() {
    std::unique_lock lock(mutex_);
    while (dead_.ok() && !out_.queue.empty() && out_.queue.front().due <= clock_.Now()) {
      std::vector<std::byte> message = std::move(out_.queue.front().message);
      out_.queue.pop_front();
      lock.unlock();
      const Bytes bytes(message);
      const absl::Status sent = inner_->Send(std::span(&bytes, 1));
      lock.lock();
      if (dead_.ok()) dead_ = sent;
      if (!dead_.ok()) out_.queue.clear();
      Keep(std::move(message));
    }
    while (inner_status_.ok()) {
      lock.unlock();
      const absl::StatusOr<Bytes> arrived = inner_->TryReceive();
      lock.lock();
      if (!arrived.ok()) {
        inner_status_ = arrived.status();
        break;
      }
      if (arrived->empty()) break;
      std::vector<std::byte> copy = NewMessage();
      copy.assign(arrived->begin(), arrived->end());
      Enter(in_, std::move(copy), 1);
    }
    ShowNext();
    bytes_.store(inner_->bytes());
    return ReceivingOver();
  }

  // A send that failed ends sending only: what the other end said before it went still arrives. Under mutex_.
  absl::Status ReceivingOver() const { return cut_ ? dead_ : inner_status_; }

  // The pump thread: sleeps in the link inside, so that an arrival enters the wire at once.
  void Pump() {
    AskForExactTimers();
    AskForShortTurns();
    while (!stop_.load()) {
      if (!Move().ok()) {
        changed_.notify_all();
        return;  // nothing moves any more; what is on the wire inwards arrives by its due time
      }
      TimePoint until = clock_.Now() + kIdle;
      {
        const std::lock_guard lock(mutex_);
        if (!out_.queue.empty()) until = std::min(until, out_.queue.front().due - kSleepError);
        pump_asleep_until_ = until;
      }
      changed_.notify_all();
      if (until > clock_.Now()) {
        inner_->Wait(until);
      } else {
        sched_yield();
      }
    }
  }

  // Without a pump: `deadline` is on clock_, but the link inside knows real time only.
  void WaitByHand(TimePoint deadline) {
    const absl::Status moved = Move();
    if (abort_.raised() || (!moved.ok() && in_.queue.empty())) return;
    const TimePoint now = clock_.Now();
    Duration sleep = std::min<Duration>(deadline - now, std::chrono::hours(1));
    for (const Direction* d : {&out_, &in_}) {
      if (!d->queue.empty()) sleep = std::min(sleep, d->queue.front().due - now - kSleepError);
    }
    if (sleep > Duration::zero()) inner_->Wait(Clock::Real().Now() + sleep);
  }

  // Under mutex_: when TryReceive has something to say.
  void ShowNext() {
    TimePoint at = TimePoint::max();
    if (!in_.queue.empty()) {
      at = in_.queue.front().due;
    } else if (!ReceivingOver().ok()) {
      at = TimePoint::min();
    }
    look_at_.store(at.time_since_epoch().count(), std::memory_order_release);
  }

  std::vector<std::byte> NewMessage() {
    if (spare_.empty()) return {};
    std::vector<std::byte> message = std::move(spare_.back());
    spare_.pop_back();
    return message;
  }
  void Keep(std::vector<std::byte> message) {
    if (message.capacity() > 0 && spare_.size() < 16) spare_.push_back(std::move(message));
  }

  const std::unique_ptr<Link> inner_;  // the pump's where there is one, but for Wake and Abort
  const SimulationOptions options_;
  Clock& clock_;
  const std::string name_;
  AbortFlag abort_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> bytes_{0};
  std::atomic<int64_t> look_at_{INT64_MAX};  // clock_, ns: before it TryReceive finds nothing
  std::vector<std::byte> current_;           // handed out by TryReceive

  std::mutex mutex_;  // of everything below
  std::condition_variable changed_;
  Direction out_;
  Direction in_;
  int64_t entered_ = 0;
  bool cut_ = false;           // die_after_messages struck
  absl::Status dead_;          // sending is over
  absl::Status inner_status_;  // receiving is over
  bool woken_ = false;
  TimePoint pump_asleep_until_;
  std::vector<std::vector<std::byte>> spare_;

  std::thread pump_;  // last: it uses all of the above
};

// `text` as a number with one of `units`, in multiples of the unit's factor.
struct Unit {
  std::string_view name;
  double factor;
};

absl::StatusOr<double> ParseUnits(std::string_view key, std::string_view text, std::span<const Unit> units) {
  const size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  double number = 0;
  std::string known;
  for (const Unit& unit : units) {
    if (text.substr(end) == unit.name && absl::SimpleAtod(ToAbsl(text.substr(0, end)), &number))
      return number * unit.factor;
    absl::StrAppend(&known, known.empty() ? "" : ", ", ToAbsl(unit.name));
  }
  return Error(errors::kOption, absl::StrCat("simulate-link ", ToAbsl(key), ": expected a number and one of ",
                                             known, ", got '", ToAbsl(text), "'"));
}

absl::StatusOr<Duration> ParseDuration(std::string_view key, std::string_view text) {
  constexpr Unit kUnits[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
  ASSIGN_OR_RETURN(const double ns, ParseUnits(key, text, kUnits));
  if (ns > 3.6e12)
    return Error(errors::kOption, absl::StrCat("simulate-link ", ToAbsl(key),
                                               ": expected at most an hour, got ", ToAbsl(text)));
  return Duration(std::llround(ns));
}

}  // namespace

absl::StatusOr<SimulationOptions> ParseSimulation(std::string_view text) {
  SimulationOptions options;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view item = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    const size_t equals = std::min(item.find('='), item.size());
    const std::string_view key = item.substr(0, equals);
    const std::string_view value = item.substr(std::min(equals + 1, item.size()));
    if (key == "rtt") {
      ASSIGN_OR_RETURN(options.rtt, ParseDuration(key, value));
    } else if (key == "jitter") {
      ASSIGN_OR_RETURN(options.jitter, ParseDuration(key, value));
    } else if (key == "bandwidth") {
      constexpr Unit kUnits[] = {{"bit", 1}, {"Kbit", 1e3}, {"Mbit", 1e6}, {"Gbit", 1e9}};
      ASSIGN_OR_RETURN(options.bandwidth, ParseUnits(key, value, kUnits));
      if (options.bandwidth < 1000)
        return Error(errors::kOption, "simulate-link bandwidth: expected at least 1Kbit");
    } else if (key == "seed") {
      if (!absl::SimpleAtoi(ToAbsl(value), &options.seed)) {
        return Error(errors::kOption,
                     absl::StrCat("simulate-link seed: expected a whole number, got '", ToAbsl(value), "'"));
      }
    } else {
      return Error(errors::kOption,
                   absl::StrCat("simulate-link: expected rtt=, jitter=, bandwidth= or seed=, got '",
                                ToAbsl(item), "'"));
    }
  }
  return options;
}

std::unique_ptr<Link> WrapSimulated(std::unique_ptr<Link> inner, const SimulationOptions& options,
                                    Clock& clock) {
  return std::make_unique<SimulatedLink>(std::move(inner), options, clock);
}

}  // namespace paceline
