// What callers do to an engine, on their own threads: requests are resolved and handed over.
#include "coordinator/engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/engine_generation.h"

namespace paceline {
namespace {

constexpr size_t kMailboxItems = 1024;

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

bool Engine::CanDraft() const {
  return std::any_of(info_.drafters.begin(), info_.drafters.end(),
                     [this](DraftSource source) { return MayDraft(policy_.drafter, source); });
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
  spec.prompt_top = request.prompt_top;
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
  auto taken = Take(std::move(request), std::move(sink), std::move(ticket));
  if (!taken.ok()) {
    const std::lock_guard lock(stats_mutex_);
    ++refusals_[FactsOf(taken.status()).reason];
  }
  return taken;
}

std::map<std::string, int64_t> Engine::refusals() const {
  const std::lock_guard lock(stats_mutex_);
  return refusals_;
}

absl::StatusOr<std::shared_ptr<GenerationTicket>> Engine::Take(GenerateRequest request,
                                                               std::shared_ptr<GenerationSink> sink,
                                                               std::shared_ptr<GenerationTicket> ticket) {
  if (stopping_) return Stopping();  // not that the queue is full: it will never be shorter
  RETURN_IF_ERROR(Degraded());
  ASSIGN_OR_RETURN(std::unique_ptr<Admission::Place> place, door_.Enter(request.key, BytesOf(request)));
  ASSIGN_OR_RETURN(SequenceSpec spec, Resolve(request));
  spec.id = SequenceId(next_sequence_++);
  auto generation = std::make_unique<Generation>(
      parts_.tokenizer, StreamerOptions{defaults_.eos_token_ids, request.stopping, spec.max_tokens});
  generation->request_id = request.request_id.empty() ? absl::StrFormat("gen-%016x", spec.id.value())
                                                      : std::move(request.request_id);
  generation->prompt = spec.prompt;
  if (spec.prompt_top) generation->scored_prompt = spec.prompt;
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

}  // namespace paceline
