// The life of an nccl link: greeting, communicators, messages, end. The operations themselves:
// transport/nccl_lane.h.
#include "transport/nccl_link.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/link_kinds.h"
#include "transport/nccl_control.h"
#include "transport/nccl_lane.h"

namespace paceline {
namespace {

// Of one sleep. Neither NCCL nor an event wakes a sleeper.
constexpr Duration kTransferSlice = std::chrono::microseconds(50);
constexpr Duration kMakeSlice = std::chrono::milliseconds(1);
constexpr Duration kFarewell =
    std::chrono::milliseconds(500);  // for what was sent last, when a link is closed
constexpr size_t kMaxFirst = 4096;   // bytes of the message that says who a worker is

// The words of a status without its code.
std::string WordsOf(const absl::Status& status) {
  const std::string message(status.message());
  const size_t code = CodeOf(message).size();
  return code == 0 ? message : message.substr(std::min(message.size(), code + 2));
}

// Bytes of several parts, one after the other.
class Parts {
 public:
  explicit Parts(std::span<const Bytes> parts) : parts_(parts) {}
  void Take(std::byte* to, size_t bytes) {
    while (bytes > 0) {
      const Bytes part = parts_.front().subspan(at_);
      const size_t taken = std::min(bytes, part.size());
      if (taken > 0) std::memcpy(to, part.data(), taken);
      to += taken;
      bytes -= taken;
      at_ += taken;
      if (at_ < parts_.front().size()) continue;
      parts_ = parts_.subspan(1);
      at_ = 0;
    }
  }

 private:
  std::span<const Bytes> parts_;
  size_t at_ = 0;  // in the first of them
};

// Bytes that wait for slots, first in, first out.
class Backlog {
 public:
  std::byte* Append(size_t bytes) {
    if (begin_ == data_.size()) {
      data_.clear();
      begin_ = 0;
    }
    const size_t at = data_.size();
    data_.resize(at + bytes);
    return data_.data() + at;
  }
  void Take(std::byte* to, size_t bytes) {
    std::memcpy(to, data_.data() + begin_, bytes);
    begin_ += bytes;
  }

 private:
  std::vector<std::byte> data_;
  size_t begin_ = 0;
};

class NcclLink final : public Link {
 public:
  NcclLink(const GpuCalls& calls, std::shared_ptr<Gpu> gpu, int version, std::unique_ptr<Link> side,
           NcclEnd end, const NcclOptions& options)
      : calls_(calls),
        gpu_(std::move(gpu)),
        version_(version),
        side_(std::move(side)),
        end_(end),
        options_(options),
        name_(absl::StrCat("nccl over ", side_->Describe())) {}

  ~NcclLink() override {
    if (state_ == State::kReady) Farewell();
    const Gpu::Scope scope(*gpu_);
    in_.reset();
    out_.reset();
  }

  absl::Status Greet() {
    NcclControl hello;
    hello.kind = NcclControlKind::kHello;
    hello.version = static_cast<uint32_t>(version_);
    hello.gpu = gpu_->uuid();
    return Say(hello);
  }

  // Until the other end has greeted.
  absl::Status AwaitGreeting(TimePoint deadline) {
    for (;;) {
      RETURN_IF_ERROR(Drive());
      if (state_ != State::kGreeting) return absl::OkStatus();
      if (Clock::Real().Now() >= deadline)
        return Error(errors::kTimeout, absl::StrCat("no greeting from ", name_, " before the deadline"));
      side_->Wait(deadline);
    }
  }

  absl::StatusOr<bool> Open(Epoch epoch) override {
    CHECK(end_ == NcclEnd::kHead);
    RETURN_IF_ERROR(Drive());
    if (state_ == State::kGreeted) RETURN_IF_ERROR(Propose(epoch));
    return state_ == State::kReady;
  }

  absl::Status Send(std::span<const Bytes> parts) override {
    RETURN_IF_ERROR(Drive());
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    if (end_ == NcclEnd::kWorker && !said_first_) return SendFirst(parts, size);
    payload_bytes_ += static_cast<int64_t>(size);
    Outgoing message{.number = sent_++, .bytes = size, .posted = 0};
    Parts source(parts);
    if (state_ == State::kReady && waiting_.empty()) RETURN_IF_ERROR(PostSends(message, source));
    if (message.posted < message.bytes) {
      const size_t left = message.bytes - message.posted;
      source.Take(backlog_.Append(left), left);
      waiting_.push_back(message);
    }
    return DriveLanes();
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (std::exchange(current_in_slot_, false)) in_->Release();
    if (!first_.empty() && first_taken_) first_.clear();
    RETURN_IF_ERROR(Drive());
    if (!first_.empty()) {
      first_taken_ = true;
      return Bytes(first_);
    }
    if (state_ != State::kReady) return Bytes();
    const Bytes message = TakeArrived();
    if (message.empty() && !side_gone_.ok()) return Die(side_gone_);
    if (!message.empty()) {
      ++received_;
      payload_bytes_ += static_cast<int64_t>(message.size());
    }
    return message;
  }

  void Wait(TimePoint deadline) override {
    if (!Drive().ok() || SomethingToTake()) return;
    const TimePoint now = Clock::Real().Now();
    if (state_ == State::kMaking) deadline = std::min(deadline, now + kMakeSlice);
    if (state_ == State::kReady && !(in_->idle() && out_->idle()))
      deadline = std::min(deadline, now + kTransferSlice);
    side_->Wait(deadline);
  }

  void Wake() override { side_->Wake(); }

  void Abort(absl::Status why) override {
    abort_.Raise(std::move(why));
    side_->Wake();
  }

  std::string Describe() const override { return name_; }
  int64_t bytes() const override { return side_->bytes() + payload_bytes_; }

 private:
  enum class State {
    kGreeting,  // the other end has not said who it is
    kGreeted,   // there are no communicators yet: the head waits for Open, the worker for the ids
    kMaking,
    kReady,
    kDead,
  };
  struct Outgoing {
    uint64_t number = 0;
    size_t bytes = 0;
    size_t posted = 0;
  };
  struct Incoming {
    size_t bytes = 0;
    size_t posted = 0;
  };

  TimePoint Now() const { return options_.clock->Now(); }

  absl::Status Say(NcclControl control) {
    control.epoch = epoch_.value();
    const std::vector<std::byte> message = EncodeNcclControl(control);
    const Bytes part(message);
    return side_->Send(std::span(&part, 1));
  }

  // Ends the link for good: both communicators are aborted, and the other end is told.
  absl::Status Die(const absl::Status& why) {
    if (state_ == State::kDead) return dead_;
    state_ = State::kDead;
    dead_ = why;
    {
      const Gpu::Scope scope(*gpu_);
      if (in_ != nullptr) in_->Abort();
      if (out_ != nullptr) out_->Abort();
    }
    const std::string words = WordsOf(why);
    NcclControl end;
    end.kind = NcclControlKind::kEnd;
    end.rest = std::as_bytes(std::span(words));
    if (!ended_by_peer_ && side_gone_.ok()) Say(end).IgnoreError();
    return dead_;
  }
  absl::Status DieSaying(const std::string& words) { return Die(PeerGone(name_, words)); }

  // Takes what the other end said and does what can be done.
  absl::Status Drive() {
    if (state_ == State::kDead) return dead_;
    if (abort_.raised()) return Die(abort_.why());
    while (side_gone_.ok()) {
      const absl::StatusOr<Bytes> message = side_->TryReceive();
      if (!message.ok()) {
        side_gone_ = PeerGone(name_, WordsOf(message.status()));
        break;
      }
      if (message->empty()) break;
      const absl::StatusOr<NcclControl> control = DecodeNcclControl(*message);
      if (!control.ok()) return DieSaying(WordsOf(control.status()));
      RETURN_IF_ERROR(Hear(*control));
    }
    // Messages that have arrived are handed out first (TryReceive).
    if (!side_gone_.ok() && state_ != State::kReady) return Die(side_gone_);
    return DriveLanes();
  }

  absl::Status DriveLanes() {
    if (state_ == State::kMaking) return DriveMaking();
    if (state_ != State::kReady) return absl::OkStatus();
    RETURN_IF_ERROR(PostWaiting());
    PostReceives();
    if (in_->idle() && out_->idle()) return Flushed();
    const TimePoint now = Now();
    const Gpu::Scope scope(*gpu_);
    absl::Status driven = out_->Drive(now);
    if (driven.ok()) driven = in_->Drive(now);
    if (!driven.ok() && side_gone_.ok()) return DieSaying(WordsOf(driven));
    if (!in_->idle() && now - in_->waiting_since() > options_.transfer_timeout) {
      return DieSaying(absl::StrCat("message ", received_, " had not arrived ",
                                    Seconds(options_.transfer_timeout),
                                    " s after it was announced; its communicator was aborted"));
    }
    return Flushed();
  }

  absl::Status DriveMaking() {
    const Gpu::Scope scope(*gpu_);
    bool made = true;
    for (NcclLane* lane : {in_.get(), out_.get()}) {
      const absl::StatusOr<bool> settled = lane->Settled();
      if (!settled.ok()) return DieSaying(WordsOf(settled.status()));
      made = made && *settled;
    }
    if (made) {
      state_ = State::kReady;
      return DriveLanes();
    }
    if (Now() >= make_deadline_) {
      return DieSaying(
          absl::StrCat("NCCL had not connected the two GPUs after ", Seconds(options_.make_timeout),
                       " s; NCCL_DEBUG=INFO shows what it tries, NCCL_SOCKET_IFNAME names the network"));
    }
    return absl::OkStatus();
  }

  absl::Status Hear(const NcclControl& control) {
    if (control.kind == NcclControlKind::kEnd) {
      ended_by_peer_ = true;
      return DieSaying(absl::StrCat(
          "the other end gave up: ",
          absl::string_view(reinterpret_cast<const char*>(control.rest.data()), control.rest.size())));
    }
    if (state_ == State::kGreeting) return HearHello(control);
    switch (control.kind) {
      case NcclControlKind::kFirst:
        if (end_ == NcclEnd::kWorker || state_ != State::kGreeted || first_taken_ || !first_.empty()) break;
        first_.assign(control.rest.begin(), control.rest.end());
        return absl::OkStatus();
      case NcclControlKind::kMake:
        if (end_ == NcclEnd::kHead || state_ != State::kGreeted) break;
        return HearMake(control);
      default:
        if (state_ == State::kGreeted) break;
        return HearTransfer(control);
    }
    return DieSaying(
        absl::StrCat("control message of kind ", static_cast<int>(control.kind), " out of its turn"));
  }

  absl::Status HearHello(const NcclControl& hello) {
    if (hello.kind != NcclControlKind::kHello) return DieSaying("the other end did not greet first");
    const int version = static_cast<int>(hello.version);
    if (version != version_) {
      return Die(Error(errors::kLinkAbsent, absl::StrCat(name_, ": NCCL ", NcclVersionText(version_),
                                                         " here and ", NcclVersionText(version),
                                                         " at the other end; install the same on both")));
    }
    if (hello.gpu == gpu_->uuid() && version_ < kNcclSharesGpus) {
      return Die(
          Error(errors::kLinkAbsent,
                absl::StrCat(name_, ": both ends are on the same GPU, which NCCL ", NcclVersionText(version_),
                             " refuses; give each rank one of its own with CUDA_VISIBLE_DEVICES, or use "
                             "--link tcp")));
    }
    state_ = State::kGreeted;
    return absl::OkStatus();
  }

  // Head: the owner knows who is there.
  absl::Status Propose(Epoch epoch) {
    epoch_ = epoch;
    NcclControl make;
    make.kind = NcclControlKind::kMake;
    for (NcclId* id : {&make.down, &make.up}) {
      const int result = calls_.ncclGetUniqueId(id);
      if (result != kNcclSuccess)
        return DieSaying(absl::StrCat("NCCL's ncclGetUniqueId failed: ", calls_.ncclGetErrorString(result)));
    }
    const absl::Status said = Say(make);
    if (!said.ok()) return Die(PeerGone(name_, WordsOf(said)));
    return MakeLanes(make.down, make.up);
  }

  // Worker. Ids of an older epoch than its own are those of a membership that is over.
  absl::Status HearMake(const NcclControl& make) {
    if (make.epoch < options_.admitted.value()) {
      return DieSaying(absl::StrCat("stale communicators: expected epoch ", options_.admitted.value(),
                                    " or later, got ", make.epoch));
    }
    epoch_ = Epoch(make.epoch);
    return MakeLanes(make.down, make.up);
  }

  absl::Status MakeLanes(const NcclId& down, const NcclId& up) {
    const bool head = end_ == NcclEnd::kHead;
    const Gpu::Scope scope(*gpu_);
    absl::StatusOr<std::unique_ptr<NcclLane>> in = NcclLane::Make(gpu_, NcclLane::Way::kReceive);
    if (!in.ok()) return DieSaying(WordsOf(in.status()));
    absl::StatusOr<std::unique_ptr<NcclLane>> out = NcclLane::Make(gpu_, NcclLane::Way::kSend);
    if (!out.ok()) return DieSaying(WordsOf(out.status()));
    in_ = *std::move(in);
    out_ = *std::move(out);
    // The same order at both ends.
    absl::Status begun = (head ? out_ : in_)->Begin(down, head ? 0 : 1);
    if (begun.ok()) begun = (head ? in_ : out_)->Begin(up, head ? 0 : 1);
    if (!begun.ok()) return DieSaying(WordsOf(begun));
    state_ = State::kMaking;
    make_deadline_ = Now() + options_.make_timeout;
    return absl::OkStatus();
  }

  absl::Status HearTransfer(const NcclControl& control) {
    if (control.epoch != epoch_.value()) {
      return DieSaying(
          absl::StrCat("stale control message: expected epoch ", epoch_.value(), ", got ", control.epoch));
    }
    switch (control.kind) {
      case NcclControlKind::kAnnounce:
        if (control.number != announced_) {
          return DieSaying(
              absl::StrCat("announced message: expected number ", announced_, ", got ", control.number));
        }
        ++announced_;
        peer_received_ = std::max(peer_received_, control.received);
        incoming_.push_back({.bytes = static_cast<size_t>(control.bytes), .posted = 0});
        return absl::OkStatus();
      case NcclControlKind::kFlush:
        flush_wanted_ = control.number;
        return absl::OkStatus();
      case NcclControlKind::kFlushed:
        peer_received_ = std::max(peer_received_, control.received);
        return absl::OkStatus();
      default:
        return DieSaying(
            absl::StrCat("control message of kind ", static_cast<int>(control.kind), " out of its turn"));
    }
  }

  absl::Status SendFirst(std::span<const Bytes> parts, size_t size) {
    if (size > kMaxFirst) {
      return absl::InvalidArgumentError(
          absl::StrCat("the first message of a worker over nccl says who it is: expected at most ", kMaxFirst,
                       " bytes, got ", size));
    }
    std::vector<std::byte> whole(size);
    Parts(parts).Take(whole.data(), size);
    NcclControl first;
    first.kind = NcclControlKind::kFirst;
    first.rest = whole;
    said_first_ = true;
    const absl::Status said = Say(first);
    return said.ok() ? said : Die(PeerGone(name_, WordsOf(said)));
  }

  // As many operations of a message as there are slots. It is announced with the first.
  template <typename Source>
  absl::Status PostSends(Outgoing& message, Source& source) {
    while (message.posted < message.bytes && out_->has_free_slot()) {
      if (message.posted == 0) {
        NcclControl announce;
        announce.kind = NcclControlKind::kAnnounce;
        announce.number = message.number;
        announce.bytes = message.bytes;
        announce.received = received_;
        const absl::Status said = Say(announce);
        if (!said.ok()) return Die(PeerGone(name_, WordsOf(said)));
      }
      const size_t bytes = std::min(kNcclSlotBytes, message.bytes - message.posted);
      source.Take(out_->free_slot(), bytes);
      out_->Post(bytes);
      message.posted += bytes;
    }
    return absl::OkStatus();
  }

  absl::Status PostWaiting() {
    while (!waiting_.empty() && out_->has_free_slot() && side_gone_.ok()) {
      Outgoing& message = waiting_.front();
      RETURN_IF_ERROR(PostSends(message, backlog_));
      if (message.posted == message.bytes) waiting_.pop_front();
    }
    return absl::OkStatus();
  }

  void PostReceives() {
    for (Incoming& message : incoming_) {
      while (message.posted < message.bytes) {
        if (!in_->has_free_slot()) return;
        const size_t bytes = std::min(kNcclSlotBytes, message.bytes - message.posted);
        in_->Post(bytes);
        message.posted += bytes;
      }
    }
  }

  bool SomethingToTake() const {
    return (!first_.empty() && !first_taken_) || (in_ != nullptr && !in_->Arrived().empty());
  }

  // The oldest message, if it is whole. A short one stays in its slot until the next call of TryReceive.
  Bytes TakeArrived() {
    if (incoming_.empty()) return {};
    const size_t bytes = incoming_.front().bytes;
    if (bytes <= kNcclSlotBytes) {
      const Bytes arrived = in_->Arrived();
      if (arrived.empty()) return {};
      incoming_.pop_front();
      current_in_slot_ = true;
      return arrived;
    }
    if (assembled_whole_) {
      assembled_.clear();
      assembled_whole_ = false;
    }
    for (Bytes piece = in_->Arrived(); !piece.empty() && assembled_.size() < bytes; piece = in_->Arrived()) {
      assembled_.insert(assembled_.end(), piece.begin(), piece.end());
      in_->Release();
    }
    if (assembled_.size() < bytes) return {};
    assembled_whole_ = true;
    incoming_.pop_front();
    return Bytes(assembled_);
  }

  // Answers the question of an end that wants to close.
  absl::Status Flushed() {
    if (!flush_wanted_ || received_ < *flush_wanted_) return absl::OkStatus();
    flush_wanted_.reset();
    NcclControl flushed;
    flushed.kind = NcclControlKind::kFlushed;
    flushed.received = received_;
    // A peer that does not hear it is gone, which the next look at the side link says.
    Say(flushed).IgnoreError();
    return absl::OkStatus();
  }

  // NCCL's sends end here before they have arrived there, and a communicator that is aborted loses them: so
  // the other end is asked, for a moment.
  void Farewell() {
    const TimePoint deadline = Clock::Real().Now() + kFarewell;
    bool asked = false;
    while (Drive().ok() && side_gone_.ok() && peer_received_ < sent_ && Clock::Real().Now() < deadline) {
      if (!asked && waiting_.empty()) {
        NcclControl flush;
        flush.kind = NcclControlKind::kFlush;
        flush.number = sent_;
        if (!Say(flush).ok()) return;
        asked = true;
      }
      side_->Wait(std::min(deadline, Clock::Real().Now() + kTransferSlice));
    }
  }

  const GpuCalls& calls_;
  const std::shared_ptr<Gpu> gpu_;
  const int version_;
  const std::unique_ptr<Link> side_;
  const NcclEnd end_;
  const NcclOptions options_;
  const std::string name_;
  AbortFlag abort_;

  State state_ = State::kGreeting;
  absl::Status dead_;
  absl::Status side_gone_;
  bool ended_by_peer_ = false;
  Epoch epoch_{0};
  TimePoint make_deadline_;
  std::unique_ptr<NcclLane> in_;
  std::unique_ptr<NcclLane> out_;

  bool said_first_ = false;       // worker
  std::vector<std::byte> first_;  // head: the worker's first message, until it was taken
  bool first_taken_ = false;

  uint64_t sent_ = 0;           // messages given to Send
  uint64_t peer_received_ = 0;  // of those, as far as the other end has said
  std::deque<Outgoing> waiting_;
  Backlog backlog_;  // what of `waiting_` has no slot yet

  uint64_t announced_ = 0;  // messages of the other end
  uint64_t received_ = 0;   // of those, handed out
  std::deque<Incoming> incoming_;
  std::optional<uint64_t> flush_wanted_;
  bool current_in_slot_ = false;
  std::vector<std::byte> assembled_;
  bool assembled_whole_ = false;
  int64_t payload_bytes_ = 0;
};

class NcclListener final : public LinkListener {
 public:
  NcclListener(const GpuCalls& calls, std::unique_ptr<LinkListener> side, const NcclOptions& options)
      : calls_(calls), side_(std::move(side)), options_(options) {}
  std::string address() const override { return side_->address(); }
  absl::StatusOr<std::unique_ptr<Link>> Accept(TimePoint deadline) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Link> side, side_->Accept(deadline));
    return MakeNcclLink(calls_, std::move(side), NcclEnd::kHead, options_);
  }

 private:
  const GpuCalls& calls_;
  const std::unique_ptr<LinkListener> side_;
  const NcclOptions options_;
};

absl::StatusOr<std::unique_ptr<NcclLink>> Greeting(const GpuCalls& calls, std::unique_ptr<Link> side,
                                                   NcclEnd end, const NcclOptions& options) {
  ASSIGN_OR_RETURN(const int version, CheckNcclVersion(calls));
  ASSIGN_OR_RETURN(std::shared_ptr<Gpu> gpu, Gpu::Open(calls, options.device));
  auto link = std::make_unique<NcclLink>(calls, std::move(gpu), version, std::move(side), end, options);
  // What cannot be said is heard at the first call.
  link->Greet().IgnoreError();
  return link;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Link>> MakeNcclLink(const GpuCalls& calls, std::unique_ptr<Link> side,
                                                   NcclEnd end, const NcclOptions& options) {
  return Greeting(calls, std::move(side), end, options);
}

absl::StatusOr<std::unique_ptr<LinkListener>> ListenNccl(const GpuCalls& calls, std::string_view host,
                                                         int port, const NcclOptions& options) {
  RETURN_IF_ERROR(CheckNcclVersion(calls).status());
  RETURN_IF_ERROR(Gpu::Open(calls, options.device).status());
  ASSIGN_OR_RETURN(std::unique_ptr<LinkListener> side, ListenTcp(host, port));
  return std::make_unique<NcclListener>(calls, std::move(side), options);
}

absl::StatusOr<std::unique_ptr<Link>> ConnectNccl(const GpuCalls& calls, std::string_view address,
                                                  TimePoint deadline, const NcclOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Link> side, ConnectTcp(address, deadline));
  ASSIGN_OR_RETURN(std::unique_ptr<NcclLink> link,
                   Greeting(calls, std::move(side), NcclEnd::kWorker, options));
  RETURN_IF_ERROR(link->AwaitGreeting(deadline));
  return link;
}

}  // namespace paceline
