// A link behind an imagined wire: delay, jitter, bandwidth, loss, damage and death, all drawn from a seed.
// Wraps one end; what leaves waits before it reaches the link inside, what arrives waits before the owner
// sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "transport/link.h"

namespace paceline {

struct SimulationOptions {
  Duration rtt{0};       // half of it each way
  Duration jitter{0};    // each way, plus or minus, uniform; order is kept
  double bandwidth = 0;  // bits per second and direction; 0: unlimited
  uint64_t seed = 0;
  // For tests: messages are counted from 0 over both directions of this end, in the order they enter the
  // wire.
  int64_t drop_after_messages = -1;    // this message and all later ones vanish, as behind a cut cable
  int64_t corrupt_message_index = -1;  // one bit of this message flips
  int64_t die_after_messages = -1;     // instead of carrying this message the link dies
};

// "rtt=500us,jitter=50us,bandwidth=10Gbit,seed=1": any of the keys in any order; durations in ns, us, ms or
// s, bandwidth in bit, Kbit, Mbit or Gbit. InvalidArgument (CFG-002) names the key.
absl::StatusOr<SimulationOptions> ParseSimulation(std::string_view text);

// On Clock::Real() a thread of the link's own moves messages when they are due, whatever its owner does
// meanwhile. On any other clock there is no thread: what is due moves in Send, TryReceive and Wait. What is
// on the wire when the link is destroyed is lost. The pump asks for short turns and, like an owner
// that waits, for exact timers of its thread; where the system refuses, delays are less exact.
std::unique_ptr<Link> WrapSimulated(std::unique_ptr<Link> inner, const SimulationOptions& options,
                                    Clock& clock);

}  // namespace paceline
