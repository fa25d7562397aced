// What a worker has done since its start, for its own /metrics: written by the threads of its life
// (worker/node_client.h), read by any other at any time. docs/METRICS.md says what each of them means.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "transport/exchange.h"

namespace paceline {

struct WorkerCounters {
  // Of one of the two questions a head asks.
  struct Question {
    std::atomic<int64_t> frames{0};
    std::atomic<int64_t> rows{0};
    std::atomic<int64_t> compute_ns{0};

    void Count(int32_t of_rows, Duration took) {
      frames.fetch_add(1, std::memory_order_relaxed);
      rows.fetch_add(of_rows, std::memory_order_relaxed);
      compute_ns.fetch_add(took.count(), std::memory_order_relaxed);
    }
  };
  Question experts, matmul;

  std::atomic<int64_t> link_bytes{0};   // both directions, all links so far
  std::atomic<int64_t> memberships{0};  // times it began to serve a head
  std::atomic<bool> serving{false};
  std::atomic<int32_t> rank{0};    // of the newest membership; 0: none yet
  std::atomic<uint32_t> epoch{0};  // newest that it accepts
  std::atomic<int64_t> experts_held{0};
  std::atomic<int64_t> leaves_held{0};
  std::atomic<int64_t> bytes_held{0};
  std::atomic<int64_t> load_bytes{0};
  std::atomic<int64_t> load_total{0};
};

// Counts what passes through to `handler`. Both outlive it.
class CountingHandler final : public ExpertHandler {
 public:
  CountingHandler(ExpertHandler& handler, WorkerCounters& counters)
      : handler_(handler), counters_(counters) {}

  absl::Status Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                       ExpertSums into) override {
    return Timed(counters_.experts, rows.rows, [&] { return handler_.Experts(layer, rows, routes, into); });
  }
  absl::Status MatmulRows(int32_t matrix, const float* x, int32_t rows, int32_t width, float* y) override {
    return Timed(counters_.matmul, rows, [&] { return handler_.MatmulRows(matrix, x, rows, width, y); });
  }
  int64_t MatmulOutputs(int32_t matrix) const override { return handler_.MatmulOutputs(matrix); }
  int32_t hidden() const override { return handler_.hidden(); }

 private:
  template <class Work>
  static absl::Status Timed(WorkerCounters::Question& question, int32_t rows, Work work) {
    const TimePoint began = Clock::Real().Now();
    absl::Status done = work();
    question.Count(rows, Clock::Real().Now() - began);
    return done;
  }

  ExpertHandler& handler_;
  WorkerCounters& counters_;
};

}  // namespace paceline
