// The head's side: which parts are out, which answer belongs to which, and what is said when one does not
// come.
#include "transport/exchange.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/frame.h"
#include "transport/row_codec.h"
#include "transport/waiting.h"

namespace paceline {
namespace {

// Of one sleep. All answers to a request are needed, so sleeping on one link delays nobody else's answer; the
// short slice bounds how long the sends of other links, and news of membership, stay unattended.
constexpr Duration kSliceAlone = std::chrono::milliseconds(5);
constexpr Duration kSliceAmongMany = std::chrono::microseconds(500);

// Of a measurement. An even mix of luck goes out of five, and a MiB is long on the way where a layer's rows
// are short.
constexpr int kProbes = 5;
constexpr int kBulkProbes = 3;
constexpr int32_t kBulkBytes = kMaxProbeBytes;

// One part that is out.
struct Awaited {
  size_t peer = 0;  // index into the peers
  uint32_t part = 0;
  bool answered = false;
  std::vector<uint8_t> indices;  // rows that were sent, of an experts part
  int64_t first = 0;             // column of y, of a matmul part
  int32_t width = 0;             // of the answer
  std::vector<std::byte> early;  // the answer, when it came before its turn
};

// One block that is out.
struct Request {
  Operation answer = Operation::kExpertsResult;
  FrameKey key;  // but `part`
  int32_t first_row = 0;
  int32_t rows = 0;
  size_t awaited_count = 0;
  std::vector<Awaited> awaited;  // the first awaited_count are in use; the rest keep their memory

  Awaited& Add() {
    if (awaited_count == awaited.size()) awaited.emplace_back();
    Awaited& added = awaited[awaited_count++];
    added.answered = false;
    added.early.clear();
    added.indices.clear();
    return added;
  }
  std::span<Awaited> parts() { return std::span(awaited).first(awaited_count); }
  bool complete() {
    return std::all_of(parts().begin(), parts().end(), [](const Awaited& a) { return a.answered; });
  }
};

// Where an answer of the request being received goes.
struct Sink {
  ExpertSums sums;     // of experts_result
  float* y = nullptr;  // of matmul_result
  int64_t stride = 0;  // elements
};

class HeadExchange final : public Exchange {
 public:
  explicit HeadExchange(const ExchangeOptions& options) : options_(options) {}

  absl::Status SendExperts(StepId step, LayerId layer, int32_t block, const RowBlock& rows,
                           std::span<const Part> parts) override {
    Request& request = Open(step, Operation::kExpertsResult, layer.value(), block);
    request.rows = rows.rows;
    for (const Part& part : parts) {
      if (part.routes.empty()) continue;
      Awaited& awaited = request.Add();
      awaited.part = NextPart();
      awaited.width = rows.hidden;
      FrameKey key = request.key;
      key.part = awaited.part;
      absl::Status sent = FindPeer(part.rank, awaited.peer);
      if (sent.ok()) sent = builder_.Experts(key, rows, part.routes);
      if (sent.ok()) {
        awaited.indices.assign(builder_.indices().begin(), builder_.indices().end());
        sent = Send(awaited.peer);
      }
      if (!sent.ok()) return Fail(std::move(sent));
    }
    return absl::OkStatus();
  }

  absl::Status ReceiveExperts(StepId step, LayerId layer, int32_t block, ExpertSums into) override {
    const TimePoint began = Clock::Real().Now();
    Request* request = Find(Operation::kExpertsResult, step, layer.value(), block);
    CHECK(request != nullptr);
    const absl::Status received = Receive(*request, {.sums = into, .y = nullptr, .stride = 0}, began);
    wait_ += Clock::Real().Now() - began;
    return received;
  }

  absl::Status SendMatmul(StepId step, int32_t matrix, const float* x, int32_t rows, int32_t width,
                          std::span<const MatmulPart> parts) override {
    for (int32_t first = 0, block = 0; first < rows; first += kBlockRows, ++block) {
      Request& request = Open(step, Operation::kMatmulResult, matrix, block);
      request.first_row = first;
      request.rows = std::min(kBlockRows, rows - first);
      for (const MatmulPart& part : parts) {
        if (part.outputs == 0) continue;
        CHECK(part.outputs > 0 && part.outputs <= kMaxFrameWidth);
        Awaited& awaited = request.Add();
        awaited.part = NextPart();
        awaited.first = part.first;
        awaited.width = static_cast<int32_t>(part.outputs);
        FrameKey key = request.key;
        key.part = awaited.part;
        absl::Status sent = FindPeer(part.rank, awaited.peer);
        if (sent.ok()) {
          builder_.Matmul(Operation::kMatmulRows, key, first, x + int64_t{first} * width, request.rows,
                          width);
          sent = Send(awaited.peer);
        }
        if (!sent.ok()) return Fail(std::move(sent));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReceiveMatmul(StepId step, int32_t matrix, float* y, int64_t stride) override {
    const TimePoint began = Clock::Real().Now();
    absl::Status received;
    for (int32_t block = 0; received.ok(); ++block) {
      Request* request = Find(Operation::kMatmulResult, step, matrix, block);
      if (request == nullptr) break;
      received = Receive(*request, {.sums = {}, .y = y, .stride = stride}, began);
    }
    wait_ += Clock::Real().Now() - began;
    return received;
  }

  void SetPeers(Epoch epoch, std::vector<Peer> peers) override {
    for (const Peer& peer : peers_) {
      if (peer.link != nullptr) old_bytes_ += peer.link->bytes();
    }
    Discard();
    epoch_ = epoch;
    peers_ = std::move(peers);
    for (const Peer& peer : peers_)
      traffic_.resize(std::max(traffic_.size(), static_cast<size_t>(peer.rank.value())));
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i].link == nullptr) {
        Traffic(i).ForgetLink();
      } else {
        old_bytes_ -= peers_[i].link->bytes();  // what an earlier exchange moved is not ours
      }
    }
  }

  absl::Status MeasureLinks(bool bandwidth) override {
    Discard();
    absl::Status first;
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i].link != nullptr && peers_[i].lost.ok()) first.Update(Measure(i, bandwidth));
    }
    return first;
  }

  int64_t bytes() const override {
    int64_t sum = old_bytes_;
    for (const Peer& peer : peers_) {
      if (peer.link != nullptr) sum += peer.link->bytes();
    }
    return sum;
  }
  double wait_seconds() const override { return Seconds(wait_); }
  int64_t dropped() const override { return dropped_; }
  std::vector<PeerCounters> peers() const override { return traffic_; }

 private:
  // A request of a new step ends whatever an unfinished step left behind: its answers will match nothing.
  Request& Open(StepId step, Operation answer, int32_t layer, int32_t block) {
    if (!open_.empty() && open_.front()->key.step != step.value()) Discard();
    CHECK(Find(answer, step, layer, block) == nullptr);
    std::unique_ptr<Request> request;
    if (spare_.empty()) {
      request = std::make_unique<Request>();
    } else {
      request = std::move(spare_.back());
      spare_.pop_back();
    }
    request->answer = answer;
    request->key = {.epoch = epoch_.value(),
                    .head = options_.head,
                    .step = step.value(),
                    .layer = layer,
                    .part = 0,
                    .block = block};
    request->first_row = 0;
    request->awaited_count = 0;
    open_.push_back(std::move(request));
    return *open_.back();
  }

  Request* Find(Operation answer, StepId step, int32_t layer, int32_t block) {
    for (const std::unique_ptr<Request>& r : open_) {
      if (r->answer == answer && r->key.step == step.value() && r->key.layer == layer &&
          r->key.block == block)
        return r.get();
    }
    return nullptr;
  }

  void Close(const Request& request) {
    const auto it =
        std::find_if(open_.begin(), open_.end(), [&](const auto& r) { return r.get() == &request; });
    spare_.push_back(std::move(*it));
    open_.erase(it);
  }

  void Discard() {
    for (std::unique_ptr<Request>& request : open_) spare_.push_back(std::move(request));
    open_.clear();
  }

  absl::Status Fail(absl::Status status) {
    Discard();
    return status;
  }

  // Unique in this exchange's life (within 2^32), so that an answer to a step given up never fits a later
  // one.
  uint32_t NextPart() {
    if (next_part_ == kNoPart) next_part_ = 0;
    return next_part_++;
  }

  static std::string NameOf(const Peer& peer) {
    return absl::StrCat("worker ", peer.name, " (rank ", peer.rank.value(), ")");
  }

  // `status` with the worker's name in front of its sentence and its code, if it has one, in front of both.
  static absl::Status Named(const Peer& peer, const absl::Status& status, const char* verb) {
    const std::string_view message(status.message().data(), status.message().size());
    const std::string_view code = CodeOf(message);
    const std::string_view sentence =
        code.empty() ? message : message.substr(std::min(message.size(), code.size() + 2));
    return absl::Status(status.code(), absl::StrCat(std::string(code), code.empty() ? "" : ": ", NameOf(peer),
                                                    verb, std::string(sentence)));
  }

  static absl::Status Lost(const Peer& peer, const absl::Status& why) {
    const std::string_view message(why.message().data(), why.message().size());
    const std::string_view code = CodeOf(message);
    const std::string sentence(code.empty() ? message
                                            : message.substr(std::min(message.size(), code.size() + 2)));
    const std::string name = NameOf(peer);
    // Membership speaks of workers by the same name; saying it twice helps nobody.
    if (sentence.starts_with(name)) return Error(errors::kNodeLost, sentence);
    return Error(errors::kNodeLost, absl::StrCat(name, " is lost", sentence.empty() ? "" : ": ", sentence));
  }

  absl::Status FindPeer(RankId rank, size_t& index) {
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i].rank != rank) continue;
      index = i;
      return peers_[i].link == nullptr || !peers_[i].lost.ok() ? Lost(peers_[i], peers_[i].lost)
                                                               : absl::OkStatus();
    }
    return Error(errors::kNodeLost,
                 absl::StrCat("rank ", rank.value(), " has no link in epoch ", epoch_.value()));
  }

  absl::Status Send(size_t peer) {
    const absl::Status sent = peers_[peer].link->Send(builder_.parts());
    for (const Bytes part : builder_.parts()) Traffic(peer).sent_bytes += static_cast<int64_t>(part.size());
    if (sent.ok() || absl::IsInvalidArgument(sent)) return sent;
    peers_[peer].lost = sent;
    return Lost(peers_[peer], sent);
  }

  absl::Status Receive(Request& request, const Sink& sink, TimePoint began) {
    const TimePoint deadline = began + options_.timeout;
    Polling polling(options_.yield);
    absl::Status status;
    for (Awaited& awaited : request.parts()) {
      if (!awaited.answered || awaited.early.empty()) continue;
      const absl::StatusOr<Frame> frame = DecodeFrame(awaited.early);
      CHECK(frame.ok());  // it was, when it was put aside
      status = Deliver(*frame, request, awaited, sink);
      if (!status.ok()) return Fail(std::move(status));
    }
    std::optional<size_t> last = LastMissing(request);  // the peer that alone is waited for
    TimePoint since = began;
    while (!request.complete()) {
      const absl::StatusOr<bool> arrived = Poll(request, sink);
      if (!arrived.ok()) return Fail(arrived.status());
      if (*arrived) {
        if (!last && (last = LastMissing(request))) since = Clock::Real().Now();
        polling.Restart();
        continue;
      }
      if (polling.Again()) continue;
      if (status = Sleep(request, deadline); !status.ok()) return Fail(std::move(status));
    }
    if (last) Traffic(*last).straggler_s += Seconds(Clock::Real().Now() - since);
    Close(request);
    return absl::OkStatus();
  }

  // The peer whose answer is the only one that is missing.
  static std::optional<size_t> LastMissing(Request& request) {
    std::optional<size_t> missing;
    for (const Awaited& awaited : request.parts()) {
      if (awaited.answered) continue;
      if (missing) return std::nullopt;
      missing = awaited.peer;
    }
    return missing;
  }

  PeerCounters& Traffic(size_t peer) { return traffic_[static_cast<size_t>(peers_[peer].rank.value()) - 1]; }

  absl::Status Measure(size_t peer, bool bandwidth) {
    ASSIGN_OR_RETURN(const double rtt_s, MedianTrip(peer, kProbes, 0, 0));
    PeerCounters& traffic = Traffic(peer);
    traffic.rtt_s = rtt_s;
    if (!bandwidth) return absl::OkStatus();
    ASSIGN_OR_RETURN(const double out_s, MedianTrip(peer, kBulkProbes, kBulkBytes, 0));
    ASSIGN_OR_RETURN(const double back_s, MedianTrip(peer, kBulkProbes, 0, kBulkBytes));
    // Less the way there and back; where that is lost in noise, the whole trip is the honest bound.
    const auto rate = [rtt_s](double trip_s) {
      return kBulkBytes / (trip_s > rtt_s ? trip_s - rtt_s : trip_s);
    };
    traffic.sent_bytes_per_s = rate(out_s);
    traffic.received_bytes_per_s = rate(back_s);
    return absl::OkStatus();
  }

  absl::StatusOr<double> MedianTrip(size_t peer, int trips, int32_t out_bytes, int32_t back_bytes) {
    std::array<double, kProbes> seconds{};
    for (int i = 0; i < trips; ++i) {
      ASSIGN_OR_RETURN(seconds[static_cast<size_t>(i)], Trip(peer, out_bytes, back_bytes));
    }
    std::sort(seconds.begin(), seconds.begin() + trips);
    return seconds[static_cast<size_t>(trips / 2)];
  }

  // Seconds from a probe to its result.
  absl::StatusOr<double> Trip(size_t peer, int32_t out_bytes, int32_t back_bytes) {
    probe_.resize(static_cast<size_t>(out_bytes));
    const FrameKey key{.epoch = epoch_.value(), .head = options_.head, .part = NextPart()};
    builder_.Probe(key, probe_, back_bytes);
    const TimePoint began = Clock::Real().Now();
    if (absl::Status sent = Send(peer); !sent.ok()) return sent;
    Polling polling(options_.yield);
    for (;;) {
      ASSIGN_OR_RETURN(const Bytes message, TakeMessage(peer));
      if (!message.empty()) {
        const absl::StatusOr<Frame> frame = DecodeFrame(message);
        if (!frame.ok()) return Named(peers_[peer], frame.status(), " sent what cannot be read: ");
        const FrameHeader& h = frame->header;
        const bool ours = h.key == key;
        if (ours && h.operation == Operation::kProbeResult && h.width == back_bytes)
          return Seconds(Clock::Real().Now() - began);
        if (h.operation == Operation::kError && (ours || h.key.part == kNoPart)) {
          absl::Status refusal;
          const absl::Status bad = DecodeError(*frame, refusal);
          return Named(peers_[peer], bad.ok() ? refusal : bad, " refused a probe: ");
        }
        ++dropped_;  // late, of a step that was given up
        polling.Restart();
        continue;
      }
      if (polling.Again()) continue;
      const TimePoint now = Clock::Real().Now();
      if (now >= began + options_.timeout) {
        return Error(errors::kTimeout, absl::StrCat("no answer to a probe from ", NameOf(peers_[peer]),
                                                    " within ", Seconds(options_.timeout), " s"));
      }
      if (options_.on_wait) options_.on_wait();
      peers_[peer].link->Wait(std::min(began + options_.timeout, now + kSliceAlone));
    }
  }

  // What has arrived from a peer: a message, or nothing yet.
  absl::StatusOr<Bytes> TakeMessage(size_t peer) {
    const absl::StatusOr<Bytes> message = peers_[peer].link->TryReceive();
    if (!message.ok()) {
      peers_[peer].lost = message.status();
      return Lost(peers_[peer], message.status());
    }
    Traffic(peer).received_bytes += static_cast<int64_t>(message->size());
    return message;
  }

  // Takes what has arrived on every link that owes an answer. True: something had.
  absl::StatusOr<bool> Poll(Request& current, const Sink& sink) {
    bool arrived = false;
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (!Owes(i)) continue;
      ASSIGN_OR_RETURN(const Bytes message, TakeMessage(i));
      if (message.empty()) continue;
      arrived = true;
      if (absl::Status bad = Take(i, message, current, sink); !bad.ok()) return bad;
    }
    return arrived;
  }

  bool Owes(size_t peer) {
    for (const std::unique_ptr<Request>& request : open_) {
      for (const Awaited& awaited : request->parts()) {
        if (awaited.peer == peer && !awaited.answered) return true;
      }
    }
    return false;
  }

  absl::Status Sleep(Request& request, TimePoint deadline) {
    const Awaited* late = nullptr;
    int unanswered = 0;
    for (const Awaited& awaited : request.parts()) {
      if (awaited.answered) continue;
      if (late == nullptr) late = &awaited;
      ++unanswered;
    }
    Peer& peer = peers_[late->peer];
    const TimePoint now = Clock::Real().Now();
    if (now >= deadline) {
      return Error(errors::kTimeout,
                   absl::StrCat("no answer from ", NameOf(peer), " within ", Seconds(options_.timeout),
                                " s: ", OperationName(request.answer), " of step ", request.key.step,
                                request.answer == Operation::kExpertsResult ? ", layer " : ", matrix ",
                                request.key.layer, ", block ", request.key.block));
    }
    if (options_.on_wait) options_.on_wait();
    peer.link->Wait(std::min(deadline, now + (unanswered == 1 ? kSliceAlone : kSliceAmongMany)));
    return absl::OkStatus();
  }

  // One message of a worker. Answers that nobody waits for are dropped; anything wrong fails the step.
  absl::Status Take(size_t from, Bytes message, Request& current, const Sink& sink) {
    const absl::StatusOr<Frame> frame = DecodeFrame(message);
    if (!frame.ok()) return Named(peers_[from], frame.status(), " sent what cannot be read: ");
    const FrameHeader& h = frame->header;
    if (h.operation == Operation::kError) {
      absl::Status refusal;
      const absl::Status bad = DecodeError(*frame, refusal);
      if (!bad.ok()) return Named(peers_[from], bad, " sent what cannot be read: ");
      if (h.key.part == kNoPart || Match(from, h).awaited != nullptr)
        return Named(peers_[from], refusal, " refused: ");
      ++dropped_;
      return absl::OkStatus();
    }
    const Matched match = Match(from, h);
    if (match.awaited == nullptr || match.request->answer != h.operation) {
      ++dropped_;
      return absl::OkStatus();
    }
    if (h.width != match.awaited->width || h.rows != Rows(match) || h.first_row != FirstRow(match)) {
      return Named(peers_[from],
                   Error(errors::kFrame, absl::StrCat("expected rows ", FirstRow(match), " + ", Rows(match),
                                                      " of width ", match.awaited->width, ", got rows ",
                                                      h.first_row, " + ", h.rows, " of width ", h.width)),
                   " answered with another shape: ");
    }
    if (match.request != &current) {
      match.awaited->early.assign(message.begin(), message.end());
      match.awaited->answered = true;
      return absl::OkStatus();
    }
    return Deliver(*frame, current, *match.awaited, sink);
  }

  struct Matched {
    Request* request = nullptr;
    Awaited* awaited = nullptr;
  };
  Matched Match(size_t from, const FrameHeader& header) {
    for (const std::unique_ptr<Request>& request : open_) {
      FrameKey key = request->key;
      key.part = header.key.part;
      if (key != header.key) continue;
      for (Awaited& awaited : request->parts()) {
        if (awaited.part == header.key.part && awaited.peer == from && !awaited.answered)
          return {request.get(), &awaited};
      }
    }
    return {};
  }
  static int32_t Rows(const Matched& m) {
    return m.request->answer == Operation::kExpertsResult ? static_cast<int32_t>(m.awaited->indices.size())
                                                          : m.request->rows;
  }
  static int32_t FirstRow(const Matched& m) {
    return m.request->answer == Operation::kExpertsResult ? m.awaited->indices.front() : m.request->first_row;
  }

  absl::Status Deliver(const Frame& frame, const Request& request, Awaited& awaited, const Sink& sink) {
    awaited.answered = true;
    const FrameHeader& h = frame.header;
    if (request.answer == Operation::kMatmulResult) {
      const size_t row_bytes = sizeof(float) * static_cast<size_t>(h.width);
      for (int32_t row = 0; row < h.rows; ++row) {
        std::memcpy(sink.y + (h.first_row + row) * sink.stride + awaited.first,
                    frame.payload.data() + row_bytes * static_cast<size_t>(row), row_bytes);
      }
      return absl::OkStatus();
    }
    const absl::StatusOr<ExpertsResult> result = DecodeExpertsResult(frame);
    if (!result.ok()) return Named(peers_[awaited.peer], result.status(), " sent what cannot be read: ");
    const Bytes sent = std::as_bytes(std::span<const uint8_t>(awaited.indices));
    if (!std::equal(sent.begin(), sent.end(), result->indices.begin(), result->indices.end())) {
      return Named(peers_[awaited.peer],
                   Error(errors::kFrame, "expected the rows that were sent, got others"),
                   " answered with another shape: ");
    }
    const std::byte* packed = result->packed.data();
    for (size_t i = 0; i < awaited.indices.size(); ++i) {
      const int bytes = static_cast<int>(result->sum_bytes[i]);
      const int64_t row = awaited.indices[i];
      AddSums(packed, h.width, bytes, sink.sums.sums + row * h.width);
      sink.sums.row_errors[row] |= static_cast<uint8_t>(result->row_errors[i]);
      packed += int64_t{bytes} * h.width;
    }
    return absl::OkStatus();
  }

  ExchangeOptions options_;
  Epoch epoch_{0};
  std::vector<Peer> peers_;
  std::vector<PeerCounters> traffic_;          // [ranks - 1]
  std::deque<std::unique_ptr<Request>> open_;  // in the order sent
  std::vector<std::unique_ptr<Request>> spare_;
  FrameBuilder builder_;
  std::vector<std::byte> probe_;  // payload of probes
  uint32_t next_part_ = 0;
  int64_t old_bytes_ = 0;
  int64_t dropped_ = 0;
  Duration wait_{0};
};

}  // namespace

std::unique_ptr<Exchange> MakeExchange(const ExchangeOptions& options) {
  return std::make_unique<HeadExchange>(options);
}

}  // namespace paceline
