// Requests and answers to and from the messages of paceline.inference.v1.
#include "coordinator/wire.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api_error.h"
#include "coordinator/chat_template.h"
#include "coordinator/chat_wire.h"
#include "coordinator/http/chat_completions.h"
#include "coordinator/http/knobs.h"
#include "paceline/inference/v1/inference.pb.h"

namespace paceline {
namespace {

namespace pb = inference::v1;

constexpr size_t kMaxRequestId = 128;
// Longer limits than this mean none, and would overflow nanoseconds.
constexpr int64_t kMaxLimitSeconds = 1'000'000'000;
// A generation that nobody reads still takes a place.
constexpr Duration kMaxResumeWindow = std::chrono::minutes(10);

int32_t CandidatesFromWire(uint32_t count) {  // the engine knows the bound
  return static_cast<int32_t>(std::min<uint32_t>(count, std::numeric_limits<int32_t>::max()));
}

template <class Token>
void ScoresToWire(const Token& token, pb::Token* wire) {
  if (token.logprob) wire->set_logprob(*token.logprob);
  for (const Candidate& candidate : token.top) {
    pb::Token::Candidate* out = wire->add_candidates();
    out->set_id(static_cast<uint32_t>(candidate.token));
    out->set_logprob(candidate.logprob);
  }
}

absl::StatusOr<TokenId> IdFromWire(uint32_t id, const char* field) {
  if (id > static_cast<uint32_t>(std::numeric_limits<TokenId>::max())) {
    return FieldError(field, absl::StrCat("id ", id, " is outside every vocabulary"));
  }
  return static_cast<TokenId>(id);
}

absl::StatusOr<std::vector<TokenId>> IdsFromWire(const google::protobuf::RepeatedField<uint32_t>& wire,
                                                 const char* field) {
  std::vector<TokenId> ids;
  ids.reserve(static_cast<size_t>(wire.size()));
  for (const uint32_t id : wire) {
    if (id > static_cast<uint32_t>(std::numeric_limits<TokenId>::max())) {
      return FieldError(field,
                        absl::StrCat("id ", id, " at index ", ids.size(), " is outside every vocabulary"));
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

absl::StatusOr<SamplingOptions> SamplingFromWire(const pb::SamplingParams& wire) {
  SamplingOptions sampling;
  if (wire.has_temperature()) sampling.temperature = wire.temperature();
  if (wire.has_top_p()) sampling.top_p = wire.top_p();
  if (wire.has_top_k()) sampling.top_k = wire.top_k();
  if (wire.has_min_p()) sampling.min_p = wire.min_p();
  if (wire.has_seed()) sampling.seed = wire.seed();
  if (wire.has_presence_penalty()) sampling.presence_penalty = wire.presence_penalty();
  if (wire.has_frequency_penalty()) sampling.frequency_penalty = wire.frequency_penalty();
  if (wire.has_repetition_penalty()) sampling.repetition_penalty = wire.repetition_penalty();
  for (const auto& [id, bias] : wire.logit_bias()) {
    ASSIGN_OR_RETURN(const TokenId token, IdFromWire(id, "sampling.logit_bias"));
    sampling.logit_bias[token] = bias;
  }
  ASSIGN_OR_RETURN(sampling.allowed_token_ids,
                   IdsFromWire(wire.allowed_token_ids(), "sampling.allowed_token_ids"));
  return sampling;
}

ConstraintSpec ConstraintFromWire(const pb::Constraint& wire) {
  ConstraintSpec spec;
  switch (wire.kind_case()) {
    case pb::Constraint::kJsonSchema:
      spec.kind = ConstraintSpec::Kind::kJsonSchema;
      spec.text = wire.json_schema();
      break;
    case pb::Constraint::kJsonObject:
      if (wire.json_object()) spec.kind = ConstraintSpec::Kind::kJsonObject;
      break;
    case pb::Constraint::kRegex:
      spec.kind = ConstraintSpec::Kind::kRegex;
      spec.text = wire.regex();
      break;
    case pb::Constraint::kEbnf:
      spec.kind = ConstraintSpec::Kind::kEbnf;
      spec.text = wire.ebnf();
      break;
    case pb::Constraint::kChoice:
      spec.kind = ConstraintSpec::Kind::kChoice;
      spec.choices.assign(wire.choice().options().begin(), wire.choice().options().end());
      break;
    case pb::Constraint::KIND_NOT_SET:
      break;
  }
  if (wire.has_after()) spec.after = wire.after();
  return spec;
}

void ConstraintToWire(const ConstraintSpec& spec, pb::Constraint* wire) {
  switch (spec.kind) {
    case ConstraintSpec::Kind::kNone:
      return;
    case ConstraintSpec::Kind::kJsonSchema:
      wire->set_json_schema(spec.text);
      break;
    case ConstraintSpec::Kind::kJsonObject:
      wire->set_json_object(true);
      break;
    case ConstraintSpec::Kind::kRegex:
      wire->set_regex(spec.text);
      break;
    case ConstraintSpec::Kind::kEbnf:
      wire->set_ebnf(spec.text);
      break;
    case ConstraintSpec::Kind::kChoice:
      for (const std::string& option : spec.choices) wire->mutable_choice()->add_options(option);
      wire->mutable_choice();
      break;
  }
  if (spec.after) wire->set_after(*spec.after);
}

absl::StatusOr<SpeculationOptions> SpeculationFromWire(const pb::SpeculationOptions& wire) {
  SpeculationOptions speculation;
  switch (wire.mode()) {
    case pb::SpeculationOptions::MODE_UNSPECIFIED:
      break;
    case pb::SpeculationOptions::MODE_AUTO:
      speculation.mode = DraftMode::kAuto;
      break;
    case pb::SpeculationOptions::MODE_OFF:
      speculation.mode = DraftMode::kOff;
      break;
    case pb::SpeculationOptions::MODE_FIXED:
      speculation.mode = DraftMode::kFixed;
      break;
    default:
      return FieldError("speculation.mode",
                        absl::StrCat("expected AUTO, OFF or FIXED, got ", static_cast<int>(wire.mode())));
  }
  if (wire.has_max_draft_tokens()) speculation.max_draft_tokens = wire.max_draft_tokens();
  switch (wire.acceptance()) {
    case pb::SpeculationOptions::ACCEPTANCE_UNSPECIFIED:
    case pb::SpeculationOptions::ACCEPTANCE_COUPLED:
      break;
    case pb::SpeculationOptions::ACCEPTANCE_REJECTION:
      speculation.acceptance = AcceptanceRule::kRejection;
      break;
    default:
      return FieldError("speculation.acceptance", absl::StrCat("expected COUPLED or REJECTION, got ",
                                                               static_cast<int>(wire.acceptance())));
  }
  return speculation;
}

void SpeculationToWire(const SpeculationOptions& speculation, pb::SpeculationOptions* wire) {
  if (speculation.mode) {
    switch (*speculation.mode) {
      case DraftMode::kAuto:
        wire->set_mode(pb::SpeculationOptions::MODE_AUTO);
        break;
      case DraftMode::kOff:
        wire->set_mode(pb::SpeculationOptions::MODE_OFF);
        break;
      case DraftMode::kFixed:
        wire->set_mode(pb::SpeculationOptions::MODE_FIXED);
        break;
    }
  }
  if (speculation.max_draft_tokens)
    wire->set_max_draft_tokens(static_cast<uint32_t>(*speculation.max_draft_tokens));
  if (speculation.acceptance == AcceptanceRule::kRejection)
    wire->set_acceptance(pb::SpeculationOptions::ACCEPTANCE_REJECTION);
}

void StatsToWire(const SpeculationStats& stats, pb::SpeculationStats* wire) {
  wire->set_method(stats.method);
  wire->set_verify_steps(static_cast<uint32_t>(stats.steps));
  wire->set_drafted(static_cast<uint32_t>(stats.drafted));
  wire->set_accepted(static_cast<uint32_t>(stats.accepted));
  wire->set_mean_accepted_length(stats.mean_accepted_length());
  wire->set_decode_steps(static_cast<uint32_t>(stats.decode_steps));
  for (const int64_t n : stats.acceptance_histogram) wire->add_acceptance_histogram(static_cast<uint32_t>(n));
  for (const int64_t n : stats.drafted_per_position) wire->add_drafted_per_position(static_cast<uint32_t>(n));
  for (const int64_t n : stats.accepted_per_position)
    wire->add_accepted_per_position(static_cast<uint32_t>(n));
  for (const SpeculationStats::Source& source : stats.sources) {
    pb::SpeculationStats::SourceStats* out = wire->add_sources();
    out->set_source(source.name);
    out->set_verify_steps(static_cast<uint32_t>(source.steps));
    out->set_drafted(static_cast<uint32_t>(source.drafted));
    out->set_accepted(static_cast<uint32_t>(source.accepted));
  }
}

SpeculationStats StatsFromWire(const pb::SpeculationStats& wire) {
  SpeculationStats stats;
  stats.method = wire.method();
  stats.decode_steps = wire.decode_steps();
  stats.steps = wire.verify_steps();
  stats.drafted = wire.drafted();
  stats.accepted = wire.accepted();
  stats.acceptance_histogram.assign(wire.acceptance_histogram().begin(), wire.acceptance_histogram().end());
  stats.drafted_per_position.assign(wire.drafted_per_position().begin(), wire.drafted_per_position().end());
  stats.accepted_per_position.assign(wire.accepted_per_position().begin(),
                                     wire.accepted_per_position().end());
  for (const pb::SpeculationStats::SourceStats& source : wire.sources()) {
    stats.sources.push_back({source.source(), source.verify_steps(), source.drafted(), source.accepted()});
  }
  return stats;
}

absl::StatusOr<Duration> LimitFromWire(const google::protobuf::Duration& wire, std::string_view field) {
  if (wire.seconds() < 0 || wire.nanos() < 0) return FieldError(field, "expected a duration above zero");
  return std::chrono::seconds(std::min(wire.seconds(), kMaxLimitSeconds)) +
         std::chrono::nanoseconds(wire.nanos());
}

void LimitToWire(Duration limit, google::protobuf::Duration* wire) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  wire->set_seconds(seconds.count());
  wire->set_nanos(static_cast<int32_t>((limit - seconds).count()));
}

absl::StatusOr<StoppingOptions> StoppingFromWire(const pb::StoppingParams& wire) {
  StoppingOptions stopping;
  if (wire.has_max_tokens()) stopping.max_tokens = wire.max_tokens();
  stopping.min_tokens = wire.min_tokens();
  stopping.stop_strings.assign(wire.stop_strings().begin(), wire.stop_strings().end());
  ASSIGN_OR_RETURN(stopping.stop_token_ids, IdsFromWire(wire.stop_token_ids(), "stopping.stop_token_ids"));
  stopping.ignore_eos = wire.ignore_eos();
  stopping.include_stop = wire.include_stop();
  if (wire.has_time_limit()) {
    ASSIGN_OR_RETURN(stopping.time_limit, LimitFromWire(wire.time_limit(), "stopping.time_limit"));
  }
  if (wire.has_queue_limit()) {
    ASSIGN_OR_RETURN(stopping.queue_limit, LimitFromWire(wire.queue_limit(), "stopping.queue_limit"));
  }
  return stopping;
}

pb::FinishReason ReasonToWire(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return pb::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return pb::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return pb::FINISH_REASON_CANCELLED;
    case FinishReason::kTimeLimit:
      return pb::FINISH_REASON_TIME_LIMIT;
  }
  return pb::FINISH_REASON_UNSPECIFIED;
}

FinishReason ReasonFromWire(pb::FinishReason reason) {
  switch (reason) {
    case pb::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    case pb::FINISH_REASON_CANCELLED:
      return FinishReason::kCancelled;
    case pb::FINISH_REASON_TIME_LIMIT:
      return FinishReason::kTimeLimit;
    default:
      return FinishReason::kStop;
  }
}

}  // namespace

absl::StatusOr<WireRequest> RequestFromWire(const pb::GenerateRequest& wire,
                                            const ChatTemplate* chat_template) {
  WireRequest out;
  if (wire.request_id().size() > kMaxRequestId) {
    return FieldError("request_id", absl::StrCat("expected at most ", kMaxRequestId, " bytes, got ",
                                                 wire.request_id().size()));
  }
  if (wire.sampling().has_num_sequences()) {
    const uint32_t choices = wire.sampling().num_sequences();
    if (choices < 1 || choices > kMaxChoices) {
      return FieldError("sampling.num_sequences",
                        absl::StrCat("expected 1 to ", kMaxChoices, ", got ", choices));
    }
    out.choices = static_cast<int32_t>(choices);
  }
  const pb::ResponseOptions& response = wire.response();
  GenerateRequest request;
  request.constraint = ConstraintFromWire(wire.constraint());
  switch (wire.input_case()) {
    case pb::GenerateRequest::kText:
      request.input = wire.text();
      break;
    case pb::GenerateRequest::kTokenIds: {
      ASSIGN_OR_RETURN(request.input, IdsFromWire(wire.token_ids().ids(), "token_ids"));
      break;
    }
    case pb::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(PreparedChat prepared,
                       ChatCallFromWire(wire.chat(), std::move(request), chat_template));
      request = std::move(prepared.request);
      if (!response.has_split_channels() || response.split_channels())
        out.shape.parser = std::move(prepared.parser);
      out.shape.parallel_calls = !wire.chat().has_parallel_tool_calls() || wire.chat().parallel_tool_calls();
      break;
    }
    default:
      return FieldError("input", "expected text, token_ids or chat, got none of them");
  }
  request.request_id = wire.request_id();
  request.priority = wire.priority();
  request.cache.salt = wire.cache().cache_salt();
  request.cache.bypass = wire.cache().bypass_prefix_cache();
  ASSIGN_OR_RETURN(request.sampling, SamplingFromWire(wire.sampling()));
  ASSIGN_OR_RETURN(request.speculation, SpeculationFromWire(wire.speculation()));
  ASSIGN_OR_RETURN(request.stopping, StoppingFromWire(wire.stopping()));
  request.logprobs = response.has_output_logprobs();
  request.top = CandidatesFromWire(response.output_logprobs());
  if (response.has_prompt_logprobs()) request.prompt_top = CandidatesFromWire(response.prompt_logprobs());
  out.shape.usage = response.usage_every_chunk();
  out.shape.text = !response.has_return_text() || response.return_text();
  out.shape.bytes = response.return_bytes();
  if (response.has_resume_window()) {
    ASSIGN_OR_RETURN(const Duration window,
                     LimitFromWire(response.resume_window(), "response.resume_window"));
    out.shape.resume_window = std::min<Duration>(window, kMaxResumeWindow);
  }
  if (response.has_stream_interval_tokens()) {
    if (response.stream_interval_tokens() == 0) {
      return FieldError("response.stream_interval_tokens", "expected at least 1, got 0");
    }
    out.shape.interval_tokens = static_cast<int32_t>(
        std::min<uint32_t>(response.stream_interval_tokens(), std::numeric_limits<int32_t>::max()));
  }
  out.request = std::move(request);
  return out;
}

void RequestToWire(const GenerateRequest& request, pb::GenerateRequest* wire) {
  wire->set_request_id(request.request_id);
  if (request.priority != 0) wire->set_priority(request.priority);
  if (!request.cache.salt.empty()) wire->mutable_cache()->set_cache_salt(request.cache.salt);
  if (request.cache.bypass) wire->mutable_cache()->set_bypass_prefix_cache(true);
  if (const std::string* text = std::get_if<std::string>(&request.input)) {
    wire->set_text(*text);
  } else {
    for (const TokenId id : std::get<std::vector<TokenId>>(request.input)) {
      wire->mutable_token_ids()->add_ids(static_cast<uint32_t>(id));
    }
    wire->mutable_token_ids();
  }
  pb::SamplingParams* sampling = wire->mutable_sampling();
  if (request.sampling.temperature) sampling->set_temperature(*request.sampling.temperature);
  if (request.sampling.top_p) sampling->set_top_p(*request.sampling.top_p);
  if (request.sampling.top_k) sampling->set_top_k(static_cast<uint32_t>(*request.sampling.top_k));
  if (request.sampling.min_p) sampling->set_min_p(*request.sampling.min_p);
  if (request.sampling.seed) sampling->set_seed(*request.sampling.seed);
  if (request.sampling.presence_penalty) sampling->set_presence_penalty(*request.sampling.presence_penalty);
  if (request.sampling.frequency_penalty)
    sampling->set_frequency_penalty(*request.sampling.frequency_penalty);
  if (request.sampling.repetition_penalty)
    sampling->set_repetition_penalty(*request.sampling.repetition_penalty);
  for (const auto& [id, bias] : request.sampling.logit_bias)
    (*sampling->mutable_logit_bias())[static_cast<uint32_t>(id)] = bias;
  for (const TokenId id : request.sampling.allowed_token_ids)
    sampling->add_allowed_token_ids(static_cast<uint32_t>(id));
  if (request.constraint.kind != ConstraintSpec::Kind::kNone)
    ConstraintToWire(request.constraint, wire->mutable_constraint());
  SpeculationToWire(request.speculation, wire->mutable_speculation());
  pb::StoppingParams* stopping = wire->mutable_stopping();
  if (request.stopping.max_tokens)
    stopping->set_max_tokens(static_cast<uint32_t>(*request.stopping.max_tokens));
  if (request.stopping.min_tokens > 0)
    stopping->set_min_tokens(static_cast<uint32_t>(request.stopping.min_tokens));
  for (const std::string& stop : request.stopping.stop_strings) stopping->add_stop_strings(stop);
  for (const TokenId id : request.stopping.stop_token_ids)
    stopping->add_stop_token_ids(static_cast<uint32_t>(id));
  if (request.stopping.ignore_eos) stopping->set_ignore_eos(true);
  if (request.stopping.include_stop) stopping->set_include_stop(true);
  if (request.stopping.time_limit) LimitToWire(*request.stopping.time_limit, stopping->mutable_time_limit());
  if (request.stopping.queue_limit)
    LimitToWire(*request.stopping.queue_limit, stopping->mutable_queue_limit());
  if (request.logprobs || request.top > 0) {
    wire->mutable_response()->set_output_logprobs(static_cast<uint32_t>(request.top));
  }
  if (request.prompt_top)
    wire->mutable_response()->set_prompt_logprobs(static_cast<uint32_t>(*request.prompt_top));
}

void PromptTokenToWire(const PromptToken& token, const ResponseShape& shape, pb::Token* wire) {
  wire->set_id(static_cast<uint32_t>(token.id));
  if (shape.text) wire->set_text(token.text);
  if (shape.bytes) wire->set_bytes(token.bytes);
  if (token.rank > 0) wire->set_rank(static_cast<uint32_t>(token.rank));
  ScoresToWire(token, wire);
}

void TokenToWire(const GeneratedToken& token, const ResponseShape& shape, pb::Token* wire) {
  wire->set_id(static_cast<uint32_t>(token.id));
  if (shape.text) wire->set_text(token.text);
  if (shape.bytes) wire->set_bytes(token.bytes);
  wire->set_drafted(token.drafted);
  ScoresToWire(token, wire);
}

GeneratedToken TokenFromWire(const pb::Token& wire) {
  GeneratedToken token;
  token.id = static_cast<TokenId>(wire.id());
  token.text = wire.text();
  token.bytes = wire.bytes();
  if (wire.has_logprob()) token.logprob = wire.logprob();
  token.drafted = wire.drafted();
  for (const pb::Token::Candidate& candidate : wire.candidates()) {
    token.top.push_back({static_cast<TokenId>(candidate.id()), candidate.logprob()});
  }
  return token;
}

void StartedToWire(const GenerationStarted& started, pb::Started* wire) {
  wire->set_model(started.model);
  wire->set_prompt_tokens(static_cast<uint32_t>(started.prompt.size()));
  wire->set_cached_tokens(static_cast<uint32_t>(started.cached_tokens));
  wire->set_queue_seconds(started.queue_s);
  wire->set_epoch(started.epoch.value());
}

void FinishedToWire(const GenerationEnd& end, pb::Finished* wire) {
  wire->set_reason(ReasonToWire(end.reason));
  if (end.match.stop_string) wire->set_stop_string(*end.match.stop_string);
  if (end.match.stop_token) wire->set_stop_token_id(static_cast<uint32_t>(*end.match.stop_token));
  if (end.match.eos_token) wire->set_eos_token_id(static_cast<uint32_t>(*end.match.eos_token));
}

void FinishedFromWire(const pb::Finished& wire, GenerationEnd* end) {
  end->reason = ReasonFromWire(wire.reason());
  switch (wire.match_case()) {
    case pb::Finished::kStopString:
      end->match.stop_string = wire.stop_string();
      break;
    case pb::Finished::kStopTokenId:
      end->match.stop_token = static_cast<TokenId>(wire.stop_token_id());
      break;
    case pb::Finished::kEosTokenId:
      end->match.eos_token = static_cast<TokenId>(wire.eos_token_id());
      break;
    default:
      break;
  }
}

void UsageToWire(const Usage& usage, pb::Usage* wire) {
  wire->set_prompt_tokens(static_cast<uint32_t>(usage.prompt_tokens));
  wire->set_completion_tokens(static_cast<uint32_t>(usage.completion_tokens));
  wire->set_total_tokens(static_cast<uint32_t>(usage.prompt_tokens + usage.completion_tokens));
  wire->set_cached_prompt_tokens(static_cast<uint32_t>(usage.cached_prompt_tokens));
}

void CompletedToWire(const GenerationEnd& end, pb::Completed* wire) {
  pb::Usage* usage = wire->mutable_usage();
  UsageToWire(end.usage, usage);
  usage->set_accepted_draft_tokens(static_cast<uint32_t>(end.speculation.accepted));
  usage->set_rejected_draft_tokens(static_cast<uint32_t>(end.speculation.drafted - end.speculation.accepted));
  StatsToWire(end.speculation, wire->mutable_speculation());
  pb::Timings* timings = wire->mutable_timings();
  timings->set_queue_seconds(end.timings.queue_s);
  timings->set_prefill_seconds(end.timings.prefill_s);
  timings->set_first_token_seconds(end.timings.first_token_s);
  timings->set_decode_seconds(end.timings.decode_s);
  for (size_t phase = 0; phase < kStepPhases; ++phase) {
    if (end.timings.phase_s[phase] > 0)
      (*timings->mutable_phase_seconds())[StepPhaseName(static_cast<StepPhase>(phase))] =
          end.timings.phase_s[phase];
  }
  pb::ClusterInfo* cluster = wire->mutable_cluster();
  cluster->set_nodes(static_cast<uint32_t>(end.nodes));
  cluster->set_epoch(end.epoch.value());
  cluster->set_fingerprint(end.fingerprint);
  wire->set_seed(end.seed);
}

void CompletedFromWire(const pb::Completed& wire, GenerationEnd* end) {
  end->usage.prompt_tokens = wire.usage().prompt_tokens();
  end->usage.completion_tokens = wire.usage().completion_tokens();
  end->usage.cached_prompt_tokens = wire.usage().cached_prompt_tokens();
  end->speculation = StatsFromWire(wire.speculation());
  end->timings.queue_s = wire.timings().queue_seconds();
  end->timings.prefill_s = wire.timings().prefill_seconds();
  end->timings.first_token_s = wire.timings().first_token_seconds();
  end->timings.decode_s = wire.timings().decode_seconds();
  end->nodes = static_cast<int32_t>(wire.cluster().nodes());
  end->epoch = Epoch(static_cast<uint32_t>(wire.cluster().epoch()));
  end->fingerprint = wire.cluster().fingerprint();
  end->seed = wire.seed();
}

}  // namespace paceline
