// Requests into steps, steps into tokens.
#include "coordinator/engine.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/calibration.h"

namespace paceline {
namespace {

constexpr size_t kMailboxItems = 1024;
// How long an idle engine sleeps at most before it looks around again.
constexpr Duration kIdleWait = std::chrono::seconds(1);
constexpr int kCalibrationAttempts = 3;

absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the head is stopping; send the request again when it is back"),
                    reasons::kDraining);
}

template <size_t n>
void AddTo(std::vector<int64_t>* sum, const std::array<int64_t, n>& counts) {
  sum->resize(n);
  for (size_t i = 0; i < n; ++i) (*sum)[i] += counts[i];
}

SpeculationStats StatsOf(int64_t decode_steps, const std::array<SourceStats, kDraftSources>& sources) {
  SpeculationStats stats;
  stats.decode_steps = decode_steps;
  int64_t most = 0;
  for (const DraftSource source : {DraftSource::kMtp, DraftSource::kSuffix}) {
    const SourceStats& from = sources[IndexOf(source)];
    if (from.steps == 0) continue;
    stats.steps += from.steps;
    stats.drafted += from.drafted;
    stats.accepted += from.accepted;
    AddTo(&stats.acceptance_histogram, from.histogram);
    AddTo(&stats.drafted_per_position, from.drafted_per_position);
    AddTo(&stats.accepted_per_position, from.accepted_per_position);
    stats.sources.push_back({DraftSourceName(source), from.steps, from.drafted, from.accepted});
    if (from.drafted > most) {
      most = from.drafted;
      stats.method = DraftSourceName(source);
    }
  }
  const auto shorten = [](std::vector<int64_t>* counts) {
    while (!counts->empty() && counts->back() == 0) counts->pop_back();
  };
  shorten(&stats.acceptance_histogram);
  // As deep as drafts went: a depth at which none was ever right says so with a zero.
  shorten(&stats.drafted_per_position);
  stats.accepted_per_position.resize(stats.drafted_per_position.size());
  return stats;
}

AdmissionLimits LimitsOf(const SchedulerOptions& options, const TrunkInfo& info) {
  const int32_t runs = options.max_sequences > 0 ? std::min(options.max_sequences, info.slots) : info.slots;
  const int32_t per_key = options.max_waiting_per_key > 0 ? options.max_waiting_per_key : options.max_waiting;
  return {runs + options.max_waiting, runs + per_key, options.max_prompt_bytes};
}

// What a prompt takes of the machine, before anybody has looked at it.
int64_t BytesOf(const GenerateRequest& request) {
  if (const std::string* text = std::get_if<std::string>(&request.input))
    return static_cast<int64_t>(text->size());
  const auto* ids = std::get_if<std::vector<TokenId>>(&request.input);
  return ids == nullptr ? 0 : static_cast<int64_t>(ids->size() * sizeof(TokenId));
}

}  // namespace

void ExpertHistogram::Count(int32_t experts) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), experts);
  ++counts[static_cast<size_t>(bound - kBounds.begin())];
  sum += experts;
}

// A request between Submit and OnFinished.
struct Engine::Generation {
  Generation(const Tokenizer* tokenizer, StreamerOptions options) : streamer(tokenizer, std::move(options)) {}

  std::string request_id;
  std::vector<TokenId> prompt;  // until OnStarted
  int64_t prompt_tokens = 0;
  uint64_t seed = 0;
  bool logprobs = false;
  std::optional<Duration> time_limit;
  Duration queue_limit = Duration::zero();  // 0: none
  int64_t cached_tokens = 0;
  std::unique_ptr<Admission::Place> place;
  Streamer streamer;
  std::shared_ptr<GenerationSink> sink;
  std::shared_ptr<GenerationTicket> ticket;
  std::string logits_hash;
  int64_t decode_steps = 0;
  std::array<SourceStats, kDraftSources> drafts;  // [IndexOf(source)]
  TimePoint submitted;
  std::optional<TimePoint> started;
  std::optional<TimePoint> first_token;
  TimePoint last_token;

  bool waited_enough(TimePoint now) const {
    return !started && queue_limit > Duration::zero() && now - submitted >= queue_limit;
  }
  bool expired(TimePoint now) const { return time_limit && now - submitted >= *time_limit; }
};

Engine::Engine(Parts parts, GenerationDefaults defaults, SchedulerOptions options)
    : parts_(parts),
      defaults_(std::move(defaults)),
      policy_(options.speculation),
      info_(parts.trunk->info()),
      constraints_(std::make_unique<ConstraintCompiler>(parts.tokenizer, info_.vocab)),
      queue_limit_(options.queue_limit),
      door_(LimitsOf(options, info_)),
      mailbox_(kMailboxItems),
      scheduler_(info_, options, parts_.log) {
  wants_costs_ = policy_.mode == DraftMode::kAuto;
  counting_.max_running = scheduler_.max_running();
  counting_.pages_total = info_.pages;
  counting_.snapshots_total = info_.snapshots;
  stats_ = counting_;
}

Engine::~Engine() { Stop(); }

void Engine::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Loop(); });
}

void Engine::Stop() {
  stopping_ = true;
  mailbox_.Close();  // wakes the loop
  if (thread_.joinable()) thread_.join();
}

absl::Status Engine::Degraded() const {
  if (parts_.cluster == nullptr) return absl::OkStatus();
  const ClusterFacts facts = parts_.cluster->Facts();
  if (facts.degraded.empty()) return absl::OkStatus();
  const std::string_view code = CodeOf(facts.degraded);
  return NameLostNode(code.empty() ? Error(errors::kNodeLost, facts.degraded)
                                   : absl::UnavailableError(facts.degraded));
}

// Adds the lost worker as a fact a program can read: the node whose name the sentence contains, the longest
// such.
absl::Status Engine::NameLostNode(absl::Status status) const {
  if (!absl::IsUnavailable(status)) return status;
  status = WithReason(std::move(status), reasons::kNodeLost);
  if (parts_.cluster == nullptr) return status;
  const ClusterFacts facts = parts_.cluster->Facts();
  const std::string message(status.message());
  size_t best = facts.nodes.size();
  for (size_t rank = 0; rank < facts.nodes.size(); ++rank) {
    const std::string& name = facts.nodes[rank].name;
    if (facts.nodes[rank].head || name.empty() || message.find(name) == std::string::npos) continue;
    if (best == facts.nodes.size() || name.size() > facts.nodes[best].name.size()) best = rank;
  }
  if (best == facts.nodes.size()) return status;
  status = WithMetadata(std::move(status), "node", facts.nodes[best].name);
  return WithMetadata(std::move(status), "rank", std::to_string(best));
}

absl::StatusOr<SequenceSpec> Engine::Resolve(const GenerateRequest& request) const {
  RETURN_IF_ERROR(CheckRequest(request, info_.vocab));
  SequenceSpec spec;
  if (const std::string* text = std::get_if<std::string>(&request.input)) {
    if (parts_.tokenizer == nullptr) return FieldError("text", "this model has no tokenizer; give token ids");
    ASSIGN_OR_RETURN(spec.prompt, parts_.tokenizer->Encode(*text));
    if (spec.prompt.empty()) return FieldError("text", "the prompt has no tokens; give at least one");
  } else {
    spec.prompt = std::get<std::vector<TokenId>>(request.input);
  }
  RETURN_IF_ERROR(CheckPrompt(spec.prompt, info_.vocab));
  if (parts_.tokenizer == nullptr && !request.stopping.stop_strings.empty()) {
    return FieldError("stopping.stop_strings",
                      "this model has no tokenizer, so no text to stop at; use stop_token_ids");
  }
  ASSIGN_OR_RETURN(spec.sampling,
                   ResolveSampling(request.sampling, defaults_, info_.vocab, parts_.tokenizer));
  spec.sampling.acceptance = request.speculation.acceptance;
  ASSIGN_OR_RETURN(spec.draft, ResolveSpeculation(request, policy_));
  if (request.speculation.mode == DraftMode::kFixed && spec.draft.depth > 0 && !CanDraft()) {
    const std::string why = info_.draft_refusal.empty() ? "" : absl::StrCat(" (", info_.draft_refusal, ")");
    return WithField(
        WithReason(absl::UnimplementedError(absl::StrCat(
                       "speculation.mode: FIXED needs a drafter and this head has none", why,
                       "; leave the mode to the head, or start it with drafting on (--draft, --drafter)")),
                   reasons::kFeatureDisabled),
        "speculation.mode");
  }
  ASSIGN_OR_RETURN(spec.max_tokens,
                   ResolveMaxTokens(request.stopping, static_cast<int64_t>(spec.prompt.size()), context()));
  spec.top = request.top;
  spec.logprobs = request.logprobs;
  spec.hash_logits = request.hash_logits;
  spec.key = request.key;
  spec.priority = request.priority;
  spec.sharing = {.prefix_cache = !request.cache.bypass, .salt = request.cache.salt};
  std::vector<TokenId> stops = request.stopping.stop_token_ids;
  if (!request.stopping.ignore_eos)
    stops.insert(stops.end(), defaults_.eos_token_ids.begin(), defaults_.eos_token_ids.end());
  if (!stops.empty()) spec.stops = std::make_shared<const std::vector<TokenId>>(std::move(stops));
  RETURN_IF_ERROR(ResolveConstraint(request, spec));
  return spec;
}

// A constrained text ends where its grammar does, so nothing else may end it, and something must.
absl::Status Engine::ResolveConstraint(const GenerateRequest& request, SequenceSpec& spec) const {
  const ConstraintSpec& asked = request.constraint;
  if (asked.kind == ConstraintSpec::Kind::kNone) return absl::OkStatus();
  const StoppingOptions& stopping = request.stopping;
  if (!stopping.stop_strings.empty()) {
    return FieldError("stopping.stop_strings",
                      "a constrained text ends where its constraint does; leave the stop strings out");
  }
  if (stopping.min_tokens > 0) {
    return FieldError("stopping.min_tokens",
                      "a constrained text ends where its constraint does; leave min_tokens out");
  }
  if (spec.stops == nullptr) {
    return stopping.ignore_eos
               ? FieldError("stopping.ignore_eos",
                            "a constrained text must be able to end; leave ignore_eos out")
               : FieldError("constraint",
                            "this model names no id that ends a text; give one in stopping.stop_token_ids");
  }
  absl::StatusOr<std::shared_ptr<const Constraint>> compiled =
      constraints_->Compile(asked, spec.prompt, *spec.stops);
  if (absl::IsUnimplemented(compiled.status())) {
    return WithField(WithReason(compiled.status(), reasons::kFeatureDisabled), "constraint");
  }
  if (!compiled.ok()) {
    const absl::string_view why = compiled.status().message();
    return WithReason(FieldError(ConstraintField(asked.kind), {why.data(), why.size()}),
                      reasons::kGrammarInvalid);
  }
  spec.sampling.constraint = *std::move(compiled);
  return absl::OkStatus();
}

absl::Status Engine::Check(const GenerateRequest& request) const { return Resolve(request).status(); }

absl::StatusOr<std::shared_ptr<GenerationTicket>> Engine::Submit(GenerateRequest request,
                                                                 std::shared_ptr<GenerationSink> sink,
                                                                 std::shared_ptr<GenerationTicket> ticket) {
  RETURN_IF_ERROR(Degraded());
  ASSIGN_OR_RETURN(std::unique_ptr<Admission::Place> place, door_.Enter(request.key, BytesOf(request)));
  ASSIGN_OR_RETURN(SequenceSpec spec, Resolve(request));
  spec.id = SequenceId(next_sequence_++);
  auto generation = std::make_unique<Generation>(
      parts_.tokenizer, StreamerOptions{defaults_.eos_token_ids, request.stopping, spec.max_tokens});
  generation->request_id = request.request_id.empty() ? absl::StrFormat("gen-%016x", spec.id.value())
                                                      : std::move(request.request_id);
  generation->prompt = spec.prompt;
  generation->prompt_tokens = static_cast<int64_t>(spec.prompt.size());
  generation->seed = spec.sampling.seed;
  generation->logprobs = request.logprobs;
  generation->time_limit = request.stopping.time_limit;
  generation->queue_limit = request.stopping.queue_limit.value_or(queue_limit_);
  generation->place = std::move(place);
  generation->sink = std::move(sink);
  if (ticket == nullptr) ticket = std::make_shared<GenerationTicket>();
  generation->ticket = ticket;
  generation->submitted = parts_.clock->Now();
  const std::string id = generation->request_id;
  {
    const std::lock_guard lock(tickets_mutex_);
    tickets_.emplace(id, ticket);
  }
  if (!mailbox_.TryPush(NewGeneration{std::move(generation), std::move(spec)})) {
    ForgetTicket(id, ticket);
    if (stopping_) return Stopping();
    return Error(errors::kQueueFull, "the engine takes no more requests now; try again later");
  }
  return ticket;
}

bool Engine::Abort(const std::string& request_id) {
  const std::lock_guard lock(tickets_mutex_);
  const auto [first, last] = tickets_.equal_range(request_id);
  for (auto entry = first; entry != last; ++entry) entry->second->Cancel();
  return first != last;
}

void Engine::ForgetTicket(const std::string& request_id, const std::shared_ptr<GenerationTicket>& ticket) {
  const std::lock_guard lock(tickets_mutex_);
  const auto [first, last] = tickets_.equal_range(request_id);
  const auto entry = std::find_if(first, last, [&](const auto& e) { return e.second == ticket; });
  CHECK(entry != last);
  tickets_.erase(entry);
}

absl::Status Engine::Warm(Duration limit) {
  const TimePoint deadline = Clock::Real().Now() + limit;
  WarmRequest request;
  std::future<absl::Status> done = request.done.get_future();
  if (!mailbox_.Push(std::move(request), deadline)) {
    return Error(errors::kTimeout,
                 "the engine took no request for a proof of readiness; it is stopped or overloaded");
  }
  if (done.wait_until(deadline) != std::future_status::ready) {
    return Error(errors::kTimeout,
                 absl::StrFormat("no step proved the cluster ready within %.1f s", Seconds(limit)));
  }
  return done.get();
}

EngineStats Engine::stats() const {
  std::lock_guard lock(stats_mutex_);
  return stats_;
}

void Engine::Publish() {
  counting_.running = scheduler_.running();
  counting_.waiting = scheduler_.waiting();
  counting_.pages_used = scheduler_.pages_used();
  counting_.pages_cached = scheduler_.cache().pages_with_text();
  counting_.snapshots = scheduler_.cache().snapshots_attached();
  counting_.scheduling = scheduler_.counters();
  const ExchangeCounters all = parts_.trunk->counters();
  counting_.exchange = {all.layers - left_out_.layers, all.bytes - left_out_.bytes,
                        all.seconds - left_out_.seconds};
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
  CountStep(plan, *result);
  for (const StepOutcome& outcome : scheduler_.Apply(plan, *std::move(result))) {
    drew_a_token |= outcome.status.ok() && !outcome.rows.empty();
    Book(outcome, now);
  }
  if (plan.probe_workers && drew_a_token) AnswerWarm(absl::OkStatus());
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
  AnswerWarm(result->sequences[0].status);
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

bool Engine::CanDraft() const {
  return std::any_of(info_.drafters.begin(), info_.drafters.end(),
                     [this](DraftSource source) { return MayDraft(policy_.drafter, source); });
}

void Engine::LeaveOut(const ExchangeCounters& before) {
  const ExchangeCounters now = parts_.trunk->counters();
  left_out_.layers += now.layers - before.layers;
  left_out_.bytes += now.bytes - before.bytes;
  left_out_.seconds += now.seconds - before.seconds;
}

void Engine::CountStep(const StepPlan& plan, const StepResult& result) {
  counting_.step_rows = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    counting_.step_rows +=
        static_cast<int64_t>(plan.sequences[i].tokens.size()) + result.sequences[i].drafted;
  }
  counting_.rows += counting_.step_rows;
  counting_.step_s = result.run_s + result.draft_s;
  const bool drafts = std::any_of(result.sequences.begin(), result.sequences.end(),
                                  [](const SequenceResult& s) { return s.drafted > 0; });
  counting_.speculation.draft_s += result.draft_s;
  if (drafts) counting_.speculation.verify_s += result.run_s;
  if (counting_.distinct_experts.size() < result.distinct_experts.size())
    counting_.distinct_experts.resize(result.distinct_experts.size());
  for (size_t layer = 0; layer < result.distinct_experts.size(); ++layer)
    counting_.distinct_experts[layer].Count(result.distinct_experts[layer]);
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
  if (outcome.rows.empty()) return;
  Generation& generation = *generations_.at(outcome.id);
  if (!generation.first_token) generation.first_token = now;
  generation.last_token = now;
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
  if (generation->started) end.timings.queue_s = Seconds(*generation->started - generation->submitted);
  if (generation->first_token) {
    end.timings.prefill_s = Seconds(*generation->first_token - *generation->started);
    end.timings.first_token_s = Seconds(*generation->first_token - generation->submitted);
    end.timings.decode_s = Seconds(generation->last_token - *generation->first_token);
  }
  generation->place.reset();
  ForgetTicket(generation->request_id, generation->ticket);
  Publish();  // who hears of the end finds the slot and the pages free
  generation->sink->OnFinished(end);
}

}  // namespace paceline
