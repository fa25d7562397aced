// The imagined wire: two queues of messages with the times at which they may pass.
#include "transport/simulated_link.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/random.h"
#include "base/status.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

// A sleep overshoots by about this much, so the rest of a delay is polled away.
constexpr Duration kSleepError = std::chrono::microseconds(80);

class SimulatedLink final : public Link {
 public:
  SimulatedLink(std::unique_ptr<Link> inner, const SimulationOptions& options, Clock& clock)
      : inner_(std::move(inner)), options_(options), clock_(clock) {}

  absl::Status Send(std::span<const Bytes> parts) override {
    RETURN_IF_ERROR(dead_);
    if (abort_.raised()) return abort_.why();
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    std::vector<std::byte> message = NewMessage();
    message.resize(size);
    size_t at = 0;
    for (const Bytes part : parts) {
      if (part.empty()) continue;
      std::memcpy(message.data() + at, part.data(), part.size());
      at += part.size();
    }
    Enter(out_, std::move(message), 0);
    return Pump();
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (abort_.raised()) return abort_.why();
    const absl::Status pumped = Pump();
    if (!in_.queue.empty() && in_.queue.front().due <= clock_.Now()) {
      Keep(std::move(current_));
      current_ = std::move(in_.queue.front().message);
      in_.queue.pop_front();
      return Bytes(current_);
    }
    // What was on the wire when the far end went away still arrives.
    if (!pumped.ok() && in_.queue.empty()) return pumped;
    return Bytes();
  }

  void Wait(TimePoint deadline) override {
    const absl::Status pumped = Pump();
    if (abort_.raised() || (!pumped.ok() && in_.queue.empty())) return;
    const TimePoint now = clock_.Now();
    Duration sleep = std::min<Duration>(deadline - now, std::chrono::hours(1));
    for (const Direction* d : {&out_, &in_}) {
      if (!d->queue.empty()) sleep = std::min(sleep, d->queue.front().due - now - kSleepError);
    }
    if (sleep <= Duration::zero()) {
      sched_yield();
      return;
    }
    // The link inside knows real time only.
    inner_->Wait(Clock::Real().Now() + sleep);
  }

  void Abort(absl::Status why) override {
    abort_.Raise(why);
    inner_->Abort(std::move(why));
  }

  std::string Describe() const override { return absl::StrCat(inner_->Describe(), " (simulated wire)"); }
  int64_t bytes() const override { return inner_->bytes(); }

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

  void Enter(Direction& direction, std::vector<std::byte> message, uint32_t which) {
    const TimePoint now = clock_.Now();
    const int64_t index = entered_++;
    if (index == options_.die_after_messages) {
      dead_ = PeerGone(Describe(), "the simulated wire was cut");
      inner_->Abort(dead_);
    }
    if (!dead_.ok() || (options_.drop_after_messages >= 0 && index >= options_.drop_after_messages))
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

  // Moves what is due outwards and what has come into the wire inwards.
  absl::Status Pump() {
    while (dead_.ok() && !out_.queue.empty() && out_.queue.front().due <= clock_.Now()) {
      const Bytes message = out_.queue.front().message;
      dead_ = inner_->Send(std::span(&message, 1));
      Keep(std::move(out_.queue.front().message));
      out_.queue.pop_front();
    }
    while (inner_status_.ok()) {
      const absl::StatusOr<Bytes> message = inner_->TryReceive();
      if (!message.ok()) {
        inner_status_ = message.status();
        break;
      }
      if (message->empty()) break;
      std::vector<std::byte> copy = NewMessage();
      copy.assign(message->begin(), message->end());
      Enter(in_, std::move(copy), 1);
    }
    return dead_.ok() ? inner_status_ : dead_;
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

  std::unique_ptr<Link> inner_;
  SimulationOptions options_;
  Clock& clock_;
  Direction out_;
  Direction in_;
  int64_t entered_ = 0;
  absl::Status dead_;          // sending is over
  absl::Status inner_status_;  // receiving is over
  AbortFlag abort_;
  std::vector<std::byte> current_;
  std::vector<std::vector<std::byte>> spare_;
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
