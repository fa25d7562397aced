// Rows out to the ranks that hold their experts, exact sums back: one message out and one row of sums per
// token back from each worker, per layer and block of rows. Knows rows and frames, never tensors; who
// computes is behind ExpertHandler. Frames: transport/frame.h and docs/PROTOCOL.md. Sums are int64 multiples
// of 2^-32 (docs/NUMERICS.md, Exact sum).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/step.h"
#include "transport/link.h"

namespace paceline {

// Rows of one block; longer steps go in several blocks, computed as they arrive and answered in order.
inline constexpr int32_t kBlockRows = 64;

enum class RowFormat : uint8_t {
  kInt16Group128 = 1,  // 16-bit codes and one fp32 scale per 128 inputs
  kFloat32 = 2,
  kInt8Group128 = 3,  // 8-bit codes, -127 to 127, and the same scales
};
constexpr bool HasCodes(RowFormat format) { return format != RowFormat::kFloat32; }

// At most kBlockRows rows on their way to experts. Views: the owner outlives the call.
struct RowBlock {
  RowFormat format = RowFormat::kFloat32;
  int32_t rows = 0;
  int32_t hidden = 0;
  const int16_t* codes = nullptr;  // [rows, hidden], formats with codes; narrower only on the wire
  const float* scales = nullptr;   // [rows, ceil(hidden / 128)], formats with codes
  const float* values = nullptr;   // [rows, hidden], kFloat32
};

// One row's visit to a run of groups of one expert.
struct Route {
  int32_t row = 0;  // index into the block
  int32_t expert = 0;
  int32_t first_group = 0;  // absolute, of the expert's intermediate dimension
  int32_t groups = 0;
  float weight = 0;  // router weight
  friend bool operator==(const Route&, const Route&) = default;
};

// Where leaves are added. Rows without a route keep their contents.
struct ExpertSums {
  int64_t* sums = nullptr;        // [rows, hidden], multiples of 2^-32
  uint8_t* row_errors = nullptr;  // [rows], non-zero when a leaf left the numbers
};

// What a worker does with a frame. Called on the thread that serves the link.
class ExpertHandler {
 public:
  virtual ~ExpertHandler() = default;
  // Adds every leaf of `routes` into `into`. FailedPrecondition: a route names a leaf that is not held.
  virtual absl::Status Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                               ExpertSums into) = 0;
  // y [rows, output_rows()] = x [rows, width] times this rank's row range of the LM head (`matrix` 0 is the
  // only one yet).
  virtual absl::Status MatmulRows(int32_t matrix, const float* x, int32_t rows, int32_t width, float* y) = 0;
  virtual int64_t MatmulOutputs(int32_t matrix) const = 0;  // rows of `matrix` held here, 0 if none
  virtual int32_t hidden() const = 0;
};

// The leaves of a block that one rank computes.
struct Part {
  RankId rank{0};
  std::vector<Route> routes;
};

// The head's side. Owned by the step thread.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // One send per part, then return; computing goes on here meanwhile. Only rows with a route travel.
  // Unavailable (NET-001) names the lost worker.
  virtual absl::Status SendExperts(StepId step, LayerId layer, int32_t block, const RowBlock& rows,
                                   std::span<const Part> parts) = 0;
  // Waits for the answers to that block and adds them. Blocks must be received in the order they were sent.
  // DeadlineExceeded says which rank was awaited, for which step and layer.
  virtual absl::Status ReceiveExperts(StepId step, LayerId layer, int32_t block, ExpertSums into) = 0;

  struct MatmulPart {
    RankId rank{0};
    int64_t first = 0;  // column of `y` where this rank's outputs begin
    int64_t outputs = 0;
  };
  // x [rows, width] to every part; later the outputs land in y[row * stride + first ..].
  virtual absl::Status SendMatmul(StepId step, int32_t matrix, const float* x, int32_t rows, int32_t width,
                                  std::span<const MatmulPart> parts) = 0;
  virtual absl::Status ReceiveMatmul(StepId step, int32_t matrix, float* y, int64_t stride) = 0;

  // The links of ranks 1.. for a new epoch; a null link means that rank is lost, with the reason in `lost`.
  struct Peer {
    RankId rank{0};
    std::string name;            // what errors say
    std::shared_ptr<Link> link;  // null: lost
    absl::Status lost;
  };
  virtual void SetPeers(Epoch epoch, std::vector<Peer> peers) = 0;

  // Between two steps: the round trip of an empty frame over every link that lives and, where asked for, how
  // fast a large one passes each way. peers() has the figures. Says what went wrong with the first link that
  // could not be measured; the others have been.
  virtual absl::Status MeasureLinks(bool bandwidth) = 0;

  virtual int64_t bytes() const = 0;             // both directions, all links of this exchange
  virtual double wait_seconds() const = 0;       // spent waiting in Receive*
  virtual int64_t dropped() const { return 0; }  // late or duplicate answers thrown away
  // [ranks - 1] of ranks 1.., as far as SetPeers has named them, whoever stood there.
  virtual std::vector<PeerCounters> peers() const { return {}; }
};

struct ExchangeOptions {
  uint32_t head = 0;                            // which head speaks; every frame names it
  Duration timeout = std::chrono::seconds(30);  // of one answer; the failure detector is usually faster
  bool yield = false;  // yield at once instead of spinning: compute threads outnumber cores
  // Called while waiting, e.g. to look for news of membership; may be empty.
  std::function<void()> on_wait;
};
std::unique_ptr<Exchange> MakeExchange(const ExchangeOptions& options);

// The worker's side: answers frames on `link` with `handler` until the link dies or `stop` turns true.
// A malformed frame, or one of another head or epoch, is refused by name in an error frame; the link lives
// on. `progress` grows with every frame served: the heartbeat carries it.
struct ServeOptions {
  Epoch epoch{0};
  // The newest epoch this rank was told of, where it may grow while serving (empty: `epoch` for good). A
  // frame may carry any epoch from the last one served to this one: the head goes over to a new epoch between
  // two of its steps.
  std::function<Epoch()> newest_epoch;
  uint32_t head = 0;
  bool yield = false;
  std::function<bool()> stop;
  std::function<void()> progress;
};
absl::Status ServeExchange(Link& link, ExpertHandler& handler, const ServeOptions& options);

}  // namespace paceline
