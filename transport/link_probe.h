// Round trips of real message sizes over one link, for `bench link`: what a layer's exchange costs before any
// arithmetic.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/link.h"

namespace paceline {

struct ProbeResult {
  int64_t out_bytes = 0;
  int64_t back_bytes = 0;
  int64_t rounds = 0;
  double min_us = 0;  // of one round trip, microseconds
  double p50_us = 0;
  double p99_us = 0;
};

// One tenth of `rounds` more go first, unmeasured. The other end runs ServeProbe. InvalidArgument: out_bytes
// below 8, back_bytes or rounds below 1; Unavailable: the link died; DeadlineExceeded: no answer for 30 s.
absl::StatusOr<ProbeResult> ProbeLink(Link& link, int64_t out_bytes, int64_t back_bytes, int64_t rounds);

// Answers probes until the link dies (Unavailable) or EndProbe is heard (ok).
absl::Status ServeProbe(Link& link);
absl::Status EndProbe(Link& link);

}  // namespace paceline
