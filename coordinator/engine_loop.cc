// The engine's thread: messages in, steps, tokens out.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/calibration.h"
#include "coordinator/engine.h"
#include "coordinator/engine_generation.h"
#include "coordinator/prompt_tokens.h"

namespace paceline {
namespace {

// How long an idle engine sleeps at most before it looks around again.
constexpr Duration kIdleWait = std::chrono::seconds(1);
constexpr int kCalibrationAttempts = 3;
// Between two measurements of the links: some round trips, so a thousandth of the time at most where one
// takes two milliseconds.
constexpr Duration kLinkInterval = std::chrono::seconds(10);

}  // namespace

void Engine::Publish() {
  counting_.running = scheduler_.running();
  counting_.waiting = scheduler_.waiting();
  counting_.pages_used = scheduler_.pages_used();
  counting_.pages_cached = scheduler_.cache().pages_with_text();
  counting_.snapshots = scheduler_.cache().snapshots_attached();
  counting_.scheduling = scheduler_.counters();
  const ExchangeCounters all = parts_.trunk->counters();
  counting_.exchange = {all.layers - left_out_.layers, all.bytes - left_out_.bytes,
                        all.seconds - left_out_.seconds, all.peers};
  std::lock_guard lock(stats_mutex_);
  stats_ = counting_;
}

void Engine::Loop() {
  while (!stopping_) {
    if (scheduler_.idle() && warming_.empty()) {
      Publish();
      std::optional<Message> message = mailbox_.Pop(Clock::Real().Now() + kIdleWait);
      if (message) Receive(*std::move(message));
    }
    while (std::optional<Message> message = mailbox_.TryPop()) Receive(*std::move(message));
    if (stopping_) break;
    DropUnwanted();
    if (CalibrationDue()) Calibrate();
    StartWaiting();
    if (scheduler_.running() > 0) {
      RunStep();
    } else if (!warming_.empty()) {
      RunWarmStep();
    }
    if (LinksDue()) MeasureLinks(/*bandwidth=*/false);
    Publish();
  }
  const absl::Status stopped = Stopping();
  while (std::optional<Message> message = mailbox_.TryPop()) Receive(*std::move(message));
  while (!generations_.empty()) End(generations_.begin()->first, stopped, FinishReason::kCancelled, {});
  AnswerWarm(stopped);
  Publish();
}

void Engine::Receive(Message message) {
  if (WarmRequest* warm = std::get_if<WarmRequest>(&message)) {
    warming_.push_back(std::move(*warm));
  } else {
    NewGeneration& fresh = std::get<NewGeneration>(message);
    generations_[fresh.spec.id] = std::move(fresh.generation);
    wants_costs_ |= fresh.spec.draft.mode == DraftMode::kAuto;
    scheduler_.Admit(std::move(fresh.spec));
  }
}

// Before a step: what was cancelled, what ran out of time before its first token, and, while an expert has no
// holder, everything that waits.
void Engine::DropUnwanted() {
  std::vector<std::pair<SequenceId, absl::Status>> gone;
  const TimePoint now = parts_.clock->Now();
  for (const auto& [id, generation] : generations_) {
    if (generation->ticket->cancelled(now)) {
      gone.emplace_back(id, absl::OkStatus());
    } else if (!generation->first_token && generation->expired(now)) {
      gone.emplace_back(
          id,
          WithReason(absl::DeadlineExceededError("the request's time_limit passed before its first token"),
                     reasons::kTimeLimit));
    } else if (generation->waited_enough(now)) {
      gone.emplace_back(
          id, WithReason(absl::DeadlineExceededError(absl::StrFormat(
                             "no place came free for the request within %.3f s, its queue_limit; try again "
                             "when the head has less to do",
                             Seconds(generation->queue_limit))),
                         reasons::kQueueTimeout));
    }
  }
  for (const auto& [id, status] : gone) End(id, status, FinishReason::kCancelled, {});
  if (scheduler_.waiting() == 0) return;
  const absl::Status degraded = Degraded();
  if (degraded.ok()) return;
  for (const SequenceId id : scheduler_.Waiting()) End(id, degraded, FinishReason::kCancelled, {});
}

void Engine::StartWaiting() {
  for (const SequenceId id : scheduler_.Start()) {
    Generation& generation = *generations_.at(id);
    generation.started = parts_.clock->Now();
    GenerationStarted started;
    started.request_id = generation.request_id;
    started.model = info_.model;
    started.prompt = std::exchange(generation.prompt, {});
    started.seed = generation.seed;
    started.cached_tokens = generation.cached_tokens = scheduler_.cached_tokens(id);
    started.queue_s = Seconds(*generation.started - generation.submitted);
    if (parts_.cluster != nullptr) started.epoch = parts_.cluster->Facts().epoch;
    generation.sink->OnStarted(started);
  }
}

void Engine::RunStep() {
  StepPlan plan = scheduler_.Plan(StepId(next_step_++));
  plan.probe_workers = !warming_.empty();
  absl::StatusOr<StepResult> result = parts_.trunk->Run(plan);
  ++counting_.steps;
  if (!result.ok()) {
    const absl::Status status = NameLostNode(result.status());
    for (const SequenceRows& rows : plan.sequences) End(rows.sequence, status, FinishReason::kCancelled, {});
    AnswerWarm(status);
    return;
  }
  const TimePoint now = parts_.clock->Now();
  bool drew_a_token = false;
  counting_.CountStep(plan, *result);
  for (const SequenceRows& rows : plan.sequences) {
    PhaseSeconds& spent = generations_.at(rows.sequence)->phase_s;
    for (size_t phase = 0; phase < kStepPhases; ++phase) spent[phase] += result->phase_s[phase];
  }
  for (const StepOutcome& outcome : scheduler_.Apply(plan, *std::move(result))) {
    drew_a_token |= outcome.status.ok() && !outcome.rows.empty();
    Book(outcome, now);
  }
  if (plan.probe_workers && drew_a_token) {
    MeasureLinks(/*bandwidth=*/true);
    AnswerWarm(absl::OkStatus());
  }
}

// With nothing running, slot 0 is free: one token after a prompt of one token.
void Engine::RunWarmStep() {
  StepPlan plan;
  plan.step = StepId(next_step_++);
  plan.probe_workers = true;
  SequenceRows rows;
  rows.sequence = SequenceId(next_sequence_++);
  rows.pages = {scheduler_.SparePage()};
  rows.tokens = {0};
  rows.prompt_tokens = 1;
  rows.sampled_rows = 1;
  rows.sampling.temperature = 0;
  plan.sequences.push_back(rows);
  const ExchangeCounters before = parts_.trunk->counters();
  const absl::StatusOr<StepResult> result = parts_.trunk->Run(plan);
  LeaveOut(before);
  ++counting_.steps;
  parts_.trunk->Release(rows.sequence);
  if (!result.ok()) return AnswerWarm(NameLostNode(result.status()));
  CHECK_EQ(result->sequences.size(), 1u);
  const absl::Status& proof = result->sequences[0].status;
  if (proof.ok()) MeasureLinks(/*bandwidth=*/true);
  AnswerWarm(proof);
}

bool Engine::CalibrationDue() const {
  return !calibrated_ && wants_costs_ && scheduler_.running() == 0 &&
         !(scheduler_.idle() && warming_.empty()) && Degraded().ok();
}

void Engine::Calibrate() {
  const SpeculationPolicy& policy = scheduler_.controller().policy();
  calibrated_ = !policy.calibrate || !CanDraft();
  if (calibrated_) return;
  const bool mtp = MayDraft(policy.drafter, DraftSource::kMtp) &&
                   std::count(info_.drafters.begin(), info_.drafters.end(), DraftSource::kMtp) > 0;
  const CalibrationLimits limits{scheduler_.max_running(), scheduler_.max_rows(), scheduler_.prefill_chunk(),
                                 mtp};
  scheduler_.ForgetTexts();  // the measurement takes pages from 0 on
  const ExchangeCounters before = parts_.trunk->counters();
  const absl::StatusOr<std::vector<StepCost>> costs = MeasureStepCosts(
      *parts_.trunk, limits, [this] { return SequenceId(next_sequence_++); },
      [this] { return StepId(next_step_++); });
  LeaveOut(before);
  if (!costs.ok()) {
    calibrated_ = ++failed_calibrations_ == kCalibrationAttempts;
    if (parts_.log) {
      parts_.log(absl::StrCat("the cost of steps could not be measured (attempt ", failed_calibrations_,
                              " of ", kCalibrationAttempts, "): ", costs.status().message(),
                              "; draft depths are chosen by what running steps show"));
    }
    return;
  }
  calibrated_ = true;
  for (const StepCost& cost : *costs)
    scheduler_.controller().SeedCost(cost.batch, cost.depth, cost.run_s, cost.draft_s);
}

void Engine::LeaveOut(const ExchangeCounters& before) {
  const ExchangeCounters now = parts_.trunk->counters();
  left_out_.layers += now.layers - before.layers;
  left_out_.bytes += now.bytes - before.bytes;
  left_out_.seconds += now.seconds - before.seconds;
}

// Not before a proof has shown that everybody answers.
bool Engine::LinksDue() const {
  return links_measured_ && parts_.clock->Now() - *links_measured_ >= kLinkInterval && Degraded().ok();
}

void Engine::MeasureLinks(bool bandwidth) {
  const ExchangeCounters before = parts_.trunk->counters();
  const absl::Status measured = parts_.trunk->MeasureLinks(bandwidth);
  LeaveOut(before);
  links_measured_ = parts_.clock->Now();
  if (!measured.ok() && parts_.log)
    parts_.log(absl::StrCat("a link could not be measured: ", measured.message()));
}

// Of the accepted drafts those count whose tokens were emitted.
void Engine::CountDrafts(Generation& generation, const StepOutcome& outcome, int64_t emitted) {
  ++generation.decode_steps;
  SpeculationCounters& all = counting_.speculation;
  ++all.decode_steps;
  ++all.depths[static_cast<size_t>(outcome.drafted)];
  if (outcome.drafted == 0) return;
  const auto accepted = static_cast<int64_t>(outcome.rows.size()) - 1;
  const auto taken = static_cast<int32_t>(std::min(accepted, emitted));
  generation.drafts[IndexOf(outcome.source)].Count(outcome.drafted, taken);
  all.sources[IndexOf(outcome.source)].Count(outcome.drafted, taken);
}

void Engine::AnswerWarm(const absl::Status& status) {
  for (WarmRequest& request : warming_) request.done.set_value(status);
  warming_.clear();
}

void Engine::Book(const StepOutcome& outcome, TimePoint now) {
  if (!outcome.status.ok()) return End(outcome.id, outcome.status, FinishReason::kCancelled, {});
  Generation& generation = *generations_.at(outcome.id);
  generation.scores.insert(generation.scores.end(), outcome.scored.begin(), outcome.scored.end());
  if (outcome.rows.empty()) return;
  const bool first = !generation.first_token;
  const Duration gap = first ? Duration::zero() : now - generation.last_token;
  if (first) generation.first_token = now;
  generation.last_token = now;
  if (first && !generation.scored_prompt.empty()) {
    generation.sink->OnPrompt(
        PromptTokens(parts_.tokenizer, generation.scored_prompt, std::exchange(generation.scores, {})));
    generation.scored_prompt.clear();
  }
  std::vector<GeneratedToken> tokens;
  StreamedPiece piece;
  for (size_t i = 0; i < outcome.rows.size() && !piece.finish; ++i) {
    const RowResult& row = outcome.rows[i];
    piece = generation.streamer.Next(row.token);
    if (!piece.finish && generation.expired(now)) {
      piece.text += generation.streamer.Flush();
      piece.finish = FinishReason::kTimeLimit;
    }
    GeneratedToken& token = tokens.emplace_back();
    token.id = row.token;
    token.text = std::move(piece.text);
    if (parts_.tokenizer != nullptr) token.bytes = std::string(parts_.tokenizer->TokenBytes(row.token));
    if (generation.logprobs) token.logprob = row.logprob;
    token.top = row.top;
    token.drafted = i + 1 < outcome.rows.size();
    if (!row.logits_hash.empty()) generation.logits_hash = row.logits_hash;
  }
  // Without hashes by row there was one row, or all of them count.
  if (outcome.rows.back().logits_hash.empty() && !outcome.logits_hash.empty())
    generation.logits_hash = outcome.logits_hash;
  // What stands behind the end was drawn and is nobody's.
  const auto emitted = static_cast<int64_t>(tokens.size());
  counting_.tokens += emitted;
  if (first) counting_.serving.FirstToken(generation.prompt_tokens, Seconds(now - generation.submitted));
  counting_.serving.MoreTokens(first ? emitted - 1 : emitted, Seconds(gap));
  CountDrafts(generation, outcome, emitted);
  generation.sink->OnTokens(std::move(tokens));
  if (piece.finish) End(outcome.id, absl::OkStatus(), *piece.finish, std::move(piece.match));
}

void Engine::End(SequenceId id, absl::Status status, FinishReason reason, StopMatch match) {
  const auto found = generations_.find(id);
  CHECK(found != generations_.end());
  const std::unique_ptr<Generation> generation = std::move(found->second);
  generations_.erase(found);
  scheduler_.Remove(id);
  if (generation->started) parts_.trunk->Release(id);

  GenerationEnd end;
  end.status = std::move(status);
  end.reason = reason;
  end.match = std::move(match);
  end.usage = {generation->prompt_tokens, generation->streamer.count(), generation->cached_tokens};
  end.speculation = StatsOf(generation->decode_steps, generation->drafts);
  end.seed = generation->seed;
  end.logits_hash = std::move(generation->logits_hash);
  end.fingerprint = info_.fingerprint;
  if (parts_.cluster != nullptr) {
    const ClusterFacts facts = parts_.cluster->Facts();
    end.nodes = static_cast<int32_t>(facts.nodes.size());
    end.epoch = facts.epoch;
  }
  end.timings.phase_s = generation->phase_s;
  if (generation->started) end.timings.queue_s = Seconds(*generation->started - generation->submitted);
  if (generation->first_token) {
    end.timings.prefill_s = Seconds(*generation->first_token - *generation->started);
    end.timings.first_token_s = Seconds(*generation->first_token - generation->submitted);
    end.timings.decode_s = Seconds(generation->last_token - *generation->first_token);
  }
  counting_.serving.Ended(end, Seconds(parts_.clock->Now() - generation->submitted));
  generation->place.reset();
  ForgetTicket(generation->request_id, generation->ticket);
  Publish();  // who hears of the end finds the slot and the pages free
  generation->sink->OnFinished(end);
}

}  // namespace paceline
