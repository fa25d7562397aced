// The engine: the loop that turns requests into steps and steps into tokens. One thread owns the scheduler
// and the trunk; requests arrive by mailbox, tokens leave by sink. The API fronts and `generate DIR` use the
// same engine.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/cluster.h"
#include "base/mailbox.h"
#include "base/step.h"
#include "coordinator/admission.h"
#include "coordinator/engine_stats.h"
#include "coordinator/grammar/constraint.h"
#include "coordinator/request.h"
#include "coordinator/sampling_defaults.h"
#include "coordinator/scheduler.h"
#include "coordinator/streamer.h"

namespace paceline {

// The caller's end of a running request. Thread-safe.
class GenerationTicket {
 public:
  // The request ends as cancelled within a step. Does nothing once it has ended.
  void Cancel() { CancelAt(TimePoint::min()); }
  // The same, at a time of the steady clock, unless it is told to go on before.
  void CancelAt(TimePoint time) {
    int64_t seen = cancel_at_ns_.load(std::memory_order_relaxed);
    const int64_t at = time.time_since_epoch().count();
    // What has been cancelled stays so.
    while (seen != kNow && !cancel_at_ns_.compare_exchange_weak(seen, at, std::memory_order_relaxed)) {
    }
  }
  void KeepGoing() { CancelAt(TimePoint::max()); }
  bool cancelled(TimePoint now) const {
    return now.time_since_epoch().count() >= cancel_at_ns_.load(std::memory_order_relaxed);
  }

 private:
  static constexpr int64_t kNow = TimePoint::min().time_since_epoch().count();
  std::atomic<int64_t> cancel_at_ns_{TimePoint::max().time_since_epoch().count()};
};

class Engine {
 public:
  struct Parts {
    Trunk* trunk = nullptr;  // the engine thread's alone between Start and Stop; outlives the engine
    const Tokenizer* tokenizer = nullptr;  // may be null: then ids only, no text
    const ClusterView* cluster = nullptr;  // may be null: then there is one node
    Clock* clock = &Clock::Real();
    std::function<void(const std::string&)> log = nullptr;  // sentences for operators; engine thread
  };

  Engine(Parts parts, GenerationDefaults defaults, SchedulerOptions options);
  // Stops.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The thread is born here.
  void Start();
  // Ends what runs with Unavailable (reason DRAINING) and joins the thread. Idempotent.
  void Stop();

  // Asks the door, checks the request and hands it over. On ok, `sink` will hear of it, OnFinished included;
  // else it hears nothing. REQ-001 (names the field), REQ-002, REQ-004, NET-001 while an expert has no
  // holder; Unimplemented (FEATURE_DISABLED) for a fixed depth where nothing can draft. Thread-safe.
  // `ticket`: of another request, to be cancelled with it; null: one of its own.
  absl::StatusOr<std::shared_ptr<GenerationTicket>> Submit(
      GenerateRequest request, std::shared_ptr<GenerationSink> sink,
      std::shared_ptr<GenerationTicket> ticket = nullptr);

  // Cancels whatever runs or waits under this id; false when nothing does. Thread-safe.
  bool Abort(const std::string& request_id);

  // What Submit would say of the request by itself, membership aside; also before Start. Thread-safe.
  absl::Status Check(const GenerateRequest& request) const;

  // Proof that the cluster works: a step that draws a token and in which every worker answers a probe. Joins
  // the step of running requests where there are any. NET-001 names the worker that did not answer, NET-005
  // when no such step came about within `limit`. Thread-safe.
  absl::Status Warm(Duration limit);

  const TrunkInfo& info() const { return info_; }
  const GenerationDefaults& defaults() const { return defaults_; }
  const Tokenizer* tokenizer() const { return parts_.tokenizer; }
  // Positions a sequence may have.
  int64_t context() const { return scheduler_.context(); }
  // Thread-safe.
  EngineStats stats() const;
  // What Submit has refused since the start, by reason (api_error.h). Thread-safe.
  std::map<std::string, int64_t> refusals() const;
  // NET-001 when the cluster says an expert has no holder. Thread-safe.
  absl::Status Degraded() const;

 private:
  struct Generation;
  struct NewGeneration {
    std::unique_ptr<Generation> generation;
    SequenceSpec spec;
  };
  struct WarmRequest {
    std::promise<absl::Status> done;
  };
  using Message = std::variant<NewGeneration, WarmRequest>;

  // Submit, uncounted.
  absl::StatusOr<std::shared_ptr<GenerationTicket>> Take(GenerateRequest request,
                                                         std::shared_ptr<GenerationSink> sink,
                                                         std::shared_ptr<GenerationTicket> ticket);
  // Thread-safe.
  void ForgetTicket(const std::string& request_id, const std::shared_ptr<GenerationTicket>& ticket);
  bool CanDraft() const;
  absl::StatusOr<SequenceSpec> Resolve(const GenerateRequest& request) const;
  absl::Status ResolveConstraint(const GenerateRequest& request, SequenceSpec& spec) const;

  // All of these on the engine thread.
  void Loop();
  void Receive(Message message);
  void DropUnwanted();
  void StartWaiting();
  void RunStep();
  void RunWarmStep();
  // Whether a request may want to know what steps cost, nobody has measured it, and nothing is in the way.
  bool CalibrationDue() const;
  // Measures what steps cost, while nothing runs. Takes seconds at most. Failures go to the log; after three
  // it is given up.
  void Calibrate();
  // Takes what the trunk exchanged since `before` out of the statistics: it served no request.
  void LeaveOut(const ExchangeCounters& before);
  // Whether the links to the workers were measured so long ago that it is time again.
  bool LinksDue() const;
  void MeasureLinks(bool bandwidth);
  void Book(const StepOutcome& outcome, TimePoint now);
  void CountDrafts(Generation& generation, const StepOutcome& outcome, int64_t emitted);
  void End(SequenceId id, absl::Status status, FinishReason reason, StopMatch match);
  void AnswerWarm(const absl::Status& status);
  void Publish();
  absl::Status NameLostNode(absl::Status status) const;

  const Parts parts_;
  const GenerationDefaults defaults_;
  const SpeculationPolicy policy_;
  const TrunkInfo info_;
  const std::unique_ptr<ConstraintCompiler> constraints_;
  const Duration queue_limit_;  // of requests that do not say; 0: none
  Admission door_;              // before all that holds a place
  Mailbox<Message> mailbox_;
  std::atomic<uint64_t> next_sequence_{1};
  std::atomic<bool> stopping_{false};
  std::thread thread_;

  // The engine thread's.
  Scheduler scheduler_;
  std::unordered_map<SequenceId, std::unique_ptr<Generation>> generations_;
  std::vector<WarmRequest> warming_;
  uint64_t next_step_ = 1;
  bool wants_costs_ = false;  // somebody leaves the depth to the controller
  bool calibrated_ = false;
  int failed_calibrations_ = 0;
  ExchangeCounters left_out_;  // measuring and proofs of readiness
  std::optional<TimePoint> links_measured_;
  EngineStats counting_;

  std::mutex tickets_mutex_;
  // By request id, from Submit to the end; guarded by tickets_mutex_.
  std::unordered_multimap<std::string, std::shared_ptr<GenerationTicket>> tickets_;

  mutable std::mutex stats_mutex_;
  EngineStats stats_;                        // guarded by stats_mutex_
  std::map<std::string, int64_t> refusals_;  // guarded by stats_mutex_
};

}  // namespace paceline
