// A worker's life: dial the head, join, load, serve, and dial again when the head went away.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "worker/join.h"
#include "worker/worker_counters.h"

namespace paceline {

struct WorkerConfig {
  std::string join;   // "HOST:PORT" of the head
  WorkerFacts facts;  // session is drawn by RunWorker when 0
  KnownAnswer known_answer;
  HandlerFactory factory;
  Duration dial_patience = std::chrono::seconds(60);    // at first
  Duration rejoin_patience = std::chrono::seconds(60);  // after the head was lost
  std::function<bool()> stop;                           // looked at a few times a second; empty: never
  std::function<void(const std::string& line)> log;     // for people; empty: dropped
  WorkerCounters* counters = nullptr;                   // what is done is counted there too; outlives the run
};

// Runs on the calling thread, which becomes the compute thread. Ok when `stop` turned true. NET-002: nobody
// answers at `join`; NET-006 and others: the head refused; LOAD-*: the share cannot be loaded (the head was
// told in the same words).
absl::Status RunWorker(WorkerConfig config);

}  // namespace paceline
