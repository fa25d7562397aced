// The worker's side: one frame in, one frame out, and nothing kept between them.
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/exchange.h"
#include "transport/frame.h"
#include "transport/waiting.h"

namespace paceline {
namespace {

constexpr Duration kSlice = std::chrono::milliseconds(20);  // of one sleep: how long `stop` may go unseen

class Server {
 public:
  Server(Link& link, ExpertHandler& handler, const ServeOptions& options)
      : link_(link), handler_(handler), options_(options) {}

  absl::Status Run() {
    Polling polling(options_.yield);
    while (!options_.stop || !options_.stop()) {
      ASSIGN_OR_RETURN(const Bytes message, link_.TryReceive());
      if (!message.empty()) {
        RETURN_IF_ERROR(Serve(message));
        if (options_.progress) options_.progress();
        polling.Restart();
      } else if (!polling.Again()) {
        link_.Wait(Clock::Real().Now() + kSlice);
      }
    }
    return absl::OkStatus();
  }

 private:
  // Unavailable: the link died. Everything else is told to the head.
  absl::Status Serve(Bytes message) {
    FrameKey key{.epoch = epoch_, .head = options_.head, .part = kNoPart};
    const absl::StatusOr<Frame> frame = DecodeFrame(message, &key);
    absl::Status answered = frame.ok() ? Answer(*frame) : frame.status();
    if (!answered.ok()) builder_.Error(key, answered);
    return link_.Send(builder_.parts());
  }

  absl::Status Answer(const Frame& frame) {
    const FrameHeader& h = frame.header;
    if (h.key.head != options_.head) return Stale("head", options_.head, h.key.head);
    const uint32_t newest = options_.newest_epoch ? options_.newest_epoch().value() : epoch_;
    if (h.key.epoch < epoch_ || h.key.epoch > newest) return Stale("epoch", newest, h.key.epoch);
    epoch_ = h.key.epoch;
    switch (h.operation) {
      case Operation::kExperts:
        return Experts(frame);
      case Operation::kMatmulRows:
        return Matmul(frame);
      case Operation::kProbe:
        probe_.resize(static_cast<size_t>(h.width));
        builder_.ProbeResult(h.key, probe_);
        return absl::OkStatus();
      default:
        return Error(errors::kFrame, absl::StrCat("operation: expected experts, matmul_rows or probe, got ",
                                                  OperationName(h.operation)));
    }
  }

  static absl::Status Stale(const char* field, uint32_t expected, uint32_t came) {
    return Error(errors::kFrame,
                 absl::StrCat("stale frame: ", field, ": expected ", expected, ", got ", came));
  }

  absl::Status Experts(const Frame& frame) {
    const FrameHeader& h = frame.header;
    if (h.width != handler_.hidden()) {
      return Error(errors::kFrame,
                   absl::StrCat("width: expected ", handler_.hidden(), " inputs, got ", h.width));
    }
    RETURN_IF_ERROR(DecodeExperts(frame, request_));
    sums_.assign(static_cast<size_t>(h.rows) * static_cast<size_t>(h.width), 0);
    row_errors_.assign(static_cast<size_t>(h.rows), 0);
    const ExpertSums into{.sums = sums_.data(), .row_errors = row_errors_.data()};
    RETURN_IF_ERROR(handler_.Experts(LayerId(h.key.layer), request_.block, request_.routes, into));
    builder_.ExpertsResult(h.key, request_.indices, h.width, into);
    return absl::OkStatus();
  }

  absl::Status Matmul(const Frame& frame) {
    const FrameHeader& h = frame.header;
    const int64_t outputs = handler_.MatmulOutputs(h.key.layer);
    if (outputs < 1 || outputs > kMaxFrameWidth || int64_t{4} * h.rows * outputs > kMaxFramePayload) {
      return Error(errors::kFrame,
                   absl::StrCat("matrix: expected one of which this worker holds 1 to ", kMaxFrameWidth,
                                " rows, got matrix ", h.key.layer, " with ", outputs));
    }
    CopyMatmulValues(frame, x_);
    y_.resize(static_cast<size_t>(h.rows) * static_cast<size_t>(outputs));
    RETURN_IF_ERROR(handler_.MatmulRows(h.key.layer, x_.data(), h.rows, h.width, y_.data()));
    builder_.Matmul(Operation::kMatmulResult, h.key, h.first_row, y_.data(), h.rows,
                    static_cast<int32_t>(outputs));
    return absl::OkStatus();
  }

  Link& link_;
  ExpertHandler& handler_;
  const ServeOptions& options_;
  uint32_t epoch_ = options_.epoch.value();  // of the last frame served
  ExpertsRequest request_;
  std::vector<int64_t> sums_;        // [rows, hidden], multiples of 2^-32
  std::vector<uint8_t> row_errors_;  // [rows]
  std::vector<float> x_;             // [rows, width]
  std::vector<float> y_;             // [rows, outputs]
  std::vector<std::byte> probe_;     // what a probe gets back
  FrameBuilder builder_;
};

}  // namespace

absl::Status ServeExchange(Link& link, ExpertHandler& handler, const ServeOptions& options) {
  return Server(link, handler, options).Run();
}

}  // namespace paceline
