// Two ends in one process: a queue of messages each way under one mutex. Tests, simulation and in-process
// ranks.
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

constexpr size_t kSpareBuffers = 8;  // kept per direction, so that a steady exchange allocates nothing

// One direction.
struct Pipe {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::vector<std::byte>> messages;
  std::vector<std::vector<std::byte>> spare;
  bool closed = false;           // the sender is gone
  std::atomic<int64_t> news{0};  // messages pushed, plus one when closed: what a poll looks at first
};

class LoopbackLink final : public Link {
 public:
  LoopbackLink(std::shared_ptr<Pipe> out, std::shared_ptr<Pipe> in)
      : out_(std::move(out)), in_(std::move(in)) {}
  ~LoopbackLink() override {
    Close(*out_);
    Close(*in_);
  }

  absl::Status Send(std::span<const Bytes> parts) override {
    if (absl::Status dead = Dead(); !dead.ok()) return dead;
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    std::vector<std::byte> message;
    {
      const std::lock_guard lock(out_->mutex);
      if (out_->closed) return Gone();
      if (!out_->spare.empty()) {
        message = std::move(out_->spare.back());
        out_->spare.pop_back();
      }
    }
    message.resize(size);
    size_t at = 0;
    for (const Bytes part : parts) {
      if (part.empty()) continue;
      std::memcpy(message.data() + at, part.data(), part.size());
      at += part.size();
    }
    {
      const std::lock_guard lock(out_->mutex);
      if (out_->closed) return Gone();
      out_->messages.push_back(std::move(message));
      out_->news.fetch_add(1, std::memory_order_release);
    }
    out_->wake.notify_one();
    bytes_ += static_cast<int64_t>(size);
    return absl::OkStatus();
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (absl::Status dead = Dead(); !dead.ok()) return dead;
    if (in_->news.load(std::memory_order_acquire) == taken_) return Bytes();
    const std::lock_guard lock(in_->mutex);
    if (current_.capacity() > 0 && in_->spare.size() < kSpareBuffers)
      in_->spare.push_back(std::move(current_));
    if (in_->messages.empty()) return in_->closed ? absl::StatusOr<Bytes>(Gone()) : Bytes();
    current_ = std::move(in_->messages.front());
    in_->messages.pop_front();
    ++taken_;
    bytes_ += static_cast<int64_t>(current_.size());
    return Bytes(current_);
  }

  void Wait(TimePoint deadline) override {
    std::unique_lock lock(in_->mutex);
    in_->wake.wait_until(lock, deadline, [this] {
      return !in_->messages.empty() || in_->closed || woken_ || abort_.raised();
    });
    woken_ = false;
  }

  void Wake() override {
    {
      const std::lock_guard lock(in_->mutex);
      woken_ = true;
    }
    in_->wake.notify_all();
  }

  void Abort(absl::Status why) override {
    abort_.Raise(std::move(why));
    {
      const std::lock_guard lock(in_->mutex);
    }  // a Wait that has just looked must be asleep before it is woken
    in_->wake.notify_all();
  }

  std::string Describe() const override { return "loopback"; }
  int64_t bytes() const override { return bytes_; }

 private:
  static void Close(Pipe& pipe) {
    {
      const std::lock_guard lock(pipe.mutex);
      if (pipe.closed) return;
      pipe.closed = true;
      pipe.news.fetch_add(1, std::memory_order_release);
    }
    pipe.wake.notify_all();
  }
  absl::Status Dead() const { return abort_.raised() ? abort_.why() : absl::OkStatus(); }
  static absl::Status Gone() { return PeerGone("loopback", "the other end was closed"); }

  std::shared_ptr<Pipe> out_;
  std::shared_ptr<Pipe> in_;
  std::vector<std::byte> current_;
  bool woken_ = false;  // under in_->mutex
  int64_t taken_ = 0;
  int64_t bytes_ = 0;
  AbortFlag abort_;
};

// Listeners of this process by number.
struct Waiting {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::unique_ptr<Link>> accepted;
};
struct Registry {
  std::mutex mutex;
  int next = 1;
  std::map<std::string, std::shared_ptr<Waiting>, std::less<>> listeners;
};
Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

class LoopbackListener final : public LinkListener {
 public:
  LoopbackListener() : waiting_(std::make_shared<Waiting>()) {
    Registry& registry = TheRegistry();
    const std::lock_guard lock(registry.mutex);
    address_ = absl::StrCat("loopback:", registry.next++);
    registry.listeners[address_] = waiting_;
  }
  ~LoopbackListener() override {
    Registry& registry = TheRegistry();
    const std::lock_guard lock(registry.mutex);
    registry.listeners.erase(address_);
  }
  std::string address() const override { return address_; }
  absl::StatusOr<std::unique_ptr<Link>> Accept(TimePoint deadline) override {
    std::unique_lock lock(waiting_->mutex);
    if (!waiting_->wake.wait_until(lock, deadline, [this] { return !waiting_->accepted.empty(); })) {
      return AcceptTimeout("loopback", address_);
    }
    std::unique_ptr<Link> link = std::move(waiting_->accepted.front());
    waiting_->accepted.pop_front();
    return link;
  }

 private:
  std::string address_;
  std::shared_ptr<Waiting> waiting_;
};

}  // namespace

std::pair<std::unique_ptr<Link>, std::unique_ptr<Link>> LoopbackPair() {
  auto there = std::make_shared<Pipe>();
  auto back = std::make_shared<Pipe>();
  return {std::make_unique<LoopbackLink>(there, back), std::make_unique<LoopbackLink>(back, there)};
}

std::unique_ptr<LinkListener> ListenLoopback() { return std::make_unique<LoopbackListener>(); }

absl::StatusOr<std::unique_ptr<Link>> ConnectLoopback(std::string_view address) {
  std::shared_ptr<Waiting> waiting;
  {
    Registry& registry = TheRegistry();
    const std::lock_guard lock(registry.mutex);
    if (const auto found = registry.listeners.find(address); found != registry.listeners.end())
      waiting = found->second;
  }
  if (waiting == nullptr) {
    return Error(errors::kUnreachable, absl::StrCat("nobody in this process listens on ", ToAbsl(address)));
  }
  auto [here, there] = LoopbackPair();
  {
    const std::lock_guard lock(waiting->mutex);
    waiting->accepted.push_back(std::move(there));
  }
  waiting->wake.notify_one();
  return std::move(here);
}

}  // namespace paceline
