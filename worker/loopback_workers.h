// Workers as threads of the head's process (--link loopback): the same admission and placement, no sockets.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "worker/join.h"

namespace paceline {

// Must end before the host does.
class LoopbackWorkers {
 public:
  // One thread per worker: it joins, loads and serves. What goes wrong reaches the host as OnFailed, or, when
  // it was not even admitted, `refused`.
  LoopbackWorkers(JoinHost& host, std::vector<WorkerFacts> workers, KnownAnswer known_answer,
                  HandlerFactory factory, bool yield, std::function<void(const absl::Status&)> refused);
  ~LoopbackWorkers();

 private:
  class Worker;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace paceline
