// What the trunk must know of the other ranks between two steps. The cluster (worker/cluster.h) is the
// source; tests have their own.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "transport/exchange.h"

namespace paceline {

struct PeerSnapshot {
  uint64_t version = 0;
  Epoch epoch{0};
  std::vector<Exchange::Peer> peers;  // ranks 1.., a null link for a lost one
  absl::Status degraded;              // NET-001 while an expert has no holder
};

// Thread-safe.
class PeerSource {
 public:
  virtual ~PeerSource() = default;
  // Grows with every new snapshot: one load per step tells whether Peers() has news.
  virtual uint64_t version() const = 0;
  virtual PeerSnapshot Peers() const = 0;
};

}  // namespace paceline
