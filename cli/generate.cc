// `generate`: one prompt, against a directory or a running head. Text streams to stdout; statistics go to
// stderr, or everything at the end as JSON.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/api_key.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/deferred_trunk.h"
#include "cli/drafting.h"
#include "cli/files.h"
#include "cli/head.h"
#include "cli/report.h"
#include "coordinator/client.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

absl::StatusOr<ConstraintSpec> ConstraintOf(const ConstraintFlags& flags) {
  ConstraintSpec spec;
  spec.after = flags.after;
  if (!flags.json_schema.empty()) {
    spec.kind = ConstraintSpec::Kind::kJsonSchema;
    ASSIGN_OR_RETURN(spec.text, ReadWholeFile(flags.json_schema));
  } else if (flags.json_object) {
    spec.kind = ConstraintSpec::Kind::kJsonObject;
  } else if (!flags.regex.empty()) {
    spec.kind = ConstraintSpec::Kind::kRegex;
    spec.text = flags.regex;
  } else if (!flags.grammar.empty()) {
    spec.kind = ConstraintSpec::Kind::kEbnf;
    ASSIGN_OR_RETURN(spec.text, ReadWholeFile(flags.grammar));
  } else if (!flags.choices.empty()) {
    spec.kind = ConstraintSpec::Kind::kChoice;
    spec.choices = flags.choices;
  }
  return spec;
}

absl::StatusOr<GenerateRequest> RequestOf(const GenerateOptions& options) {
  GenerateRequest request;
  ASSIGN_OR_RETURN(request.input, ReadPrompt(options.prompt));
  const SamplingFlags& flags = options.sampling;
  if (flags.temperature) request.sampling.temperature = static_cast<float>(*flags.temperature);
  if (flags.top_p) request.sampling.top_p = static_cast<float>(*flags.top_p);
  if (flags.min_p) request.sampling.min_p = static_cast<float>(*flags.min_p);
  request.sampling.top_k = flags.top_k;
  request.sampling.seed = flags.seed;
  if (flags.presence_penalty) request.sampling.presence_penalty = static_cast<float>(*flags.presence_penalty);
  if (flags.frequency_penalty)
    request.sampling.frequency_penalty = static_cast<float>(*flags.frequency_penalty);
  if (flags.repetition_penalty)
    request.sampling.repetition_penalty = static_cast<float>(*flags.repetition_penalty);
  for (const auto& [id, bias] : flags.logit_bias) request.sampling.logit_bias[id] = static_cast<float>(bias);
  ASSIGN_OR_RETURN(request.constraint, ConstraintOf(options.constraint));
  // Unasked, the choice is the head's.
  if (options.head.drafting.draft_given) request.speculation = SpeculationOf(options.head.drafting.draft);
  if (flags.acceptance == "rejection") request.speculation.acceptance = AcceptanceRule::kRejection;
  request.stopping.max_tokens = options.max_tokens;
  request.stopping.ignore_eos = options.ignore_eos;
  request.hash_logits = options.logits_hash;
  return request;
}

nlohmann::json AnswerJson(const GenerationResult& result, bool has_text) {
  nlohmann::json out;
  out["prompt_token_ids"] = result.started.prompt;
  out["token_ids"] = result.token_ids();
  out["text"] = has_text ? nlohmann::json(result.text) : nlohmann::json(nullptr);
  out["finish_reason"] = FinishReasonName(result.end.reason);
  out["seed"] = result.end.seed;
  out["logits_hash"] =
      result.end.logits_hash.empty() ? nlohmann::json(nullptr) : nlohmann::json(result.end.logits_hash);
  out["usage"] = {{"prompt_tokens", result.end.usage.prompt_tokens},
                  {"completion_tokens", result.end.usage.completion_tokens},
                  {"total_tokens", result.end.usage.prompt_tokens + result.end.usage.completion_tokens}};
  out["speculation"] = SpeculationJson(result.end.speculation);
  out["timings"] = {{"prefill_s", result.end.timings.prefill_s}, {"decode_s", result.end.timings.decode_s}};
  return out;
}

// Tokens after the first per second of decoding; 0 when there was only one.
double DecodeRate(const GenerationResult& result) {
  const double decoded = static_cast<double>(result.end.usage.completion_tokens) - 1;
  return result.end.timings.decode_s > 0 && decoded > 0 ? decoded / result.end.timings.decode_s : 0.0;
}

// Streams text while it comes, or ids of a model without a tokenizer; true as long as the run should go on.
class TextStream {
 public:
  TextStream(bool enabled, bool has_text) : enabled_(enabled), has_text_(has_text) {}
  bool operator()(const GeneratedToken& token) {
    if (enabled_) {
      const std::string shown = has_text_ ? token.text : absl::StrCat(token.id, " ");
      std::fwrite(shown.data(), 1, shown.size(), stdout);
      // Nobody reads the rest; EndOutput says why.
      if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return false;
    }
    return !StopRequested();
  }
  void End() const {
    if (!enabled_) return;
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }

 private:
  const bool enabled_;
  const bool has_text_;
};

absl::Status Report(const GenerateOptions& options, const nlohmann::json& answer,
                    const GenerationResult& result, const std::string& cluster_line) {
  if (options.json) std::printf("%s\n", answer.dump().c_str());
  if (!options.json_file.empty())
    RETURN_IF_ERROR(WriteWholeFile(options.json_file, absl::StrCat(answer.dump(), "\n")));
  if (!options.json) {
    StdErr().Line(absl::StrFormat(
        "%d prompt token%s in %.2f s, %d token%s at %.1f tok/s; %s; seed %d", result.end.usage.prompt_tokens,
        result.end.usage.prompt_tokens == 1 ? "" : "s", result.end.timings.prefill_s,
        result.end.usage.completion_tokens, result.end.usage.completion_tokens == 1 ? "" : "s",
        DecodeRate(result), cluster_line, result.end.seed));
    const std::string drafts = SpeculationLine(result.end.speculation, result.end.usage.completion_tokens);
    if (!drafts.empty()) StdErr().Line(drafts);
  }
  return absl::OkStatus();
}

absl::Status GenerateRemote(const GenerateOptions& options) {
  ASSIGN_OR_RETURN(const std::string address, AddressOfUrl(options.head.model));
  ASSIGN_OR_RETURN(GenerateRequest request, RequestOf(options));
  request.hash_logits = false;  // the API does not carry it
  ApiClient client(address, ApiKeyOfEnvironment());
  TextStream stream(!options.json, /*has_text=*/true);
  ASSIGN_OR_RETURN(const GenerationResult result, client.Generate(std::move(request), std::ref(stream)));
  stream.End();
  nlohmann::json answer = AnswerJson(result, true);
  answer["speculation"]["distinct_experts"] = nullptr;
  answer["cluster"] = {{"nodes", result.end.nodes},
                       {"epoch", result.end.epoch.value()},
                       {"fingerprint", result.end.fingerprint},
                       {"leaves_per_node", nullptr},
                       {"bytes_per_layer", nullptr}};
  return Report(options, answer, result,
                absl::StrCat(result.end.nodes, result.end.nodes == 1 ? " node" : " nodes"));
}

absl::Status GenerateHere(const GenerateOptions& options) {
  ASSIGN_OR_RETURN(GenerateRequest request, RequestOf(options));
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  if (head->tokenizer() == nullptr && std::holds_alternative<std::string>(request.input)) {
    const absl::Status& why = head->tokenizer_status();
    return absl::Status(
        why.code(), absl::StrCat(why.message(), "; without it, give token ids with --prompt-tokens-json"));
  }
  DeferredTrunk trunk(head->info());
  Engine engine(head->EngineParts(&trunk), head->defaults(), head->scheduling());
  // A wrong request is refused before a large model is loaded for it.
  RETURN_IF_ERROR(engine.Check(request));
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  trunk.Set(head->trunk());
  engine.Start();
  TextStream stream(!options.json, head->tokenizer() != nullptr);
  absl::StatusOr<GenerationResult> result = RunGeneration(engine, std::move(request), std::ref(stream));
  engine.Stop();
  const EngineStats stats = engine.stats();
  RETURN_IF_ERROR(result.status());
  stream.End();

  const ExchangeCounters& counters = stats.exchange;
  nlohmann::json answer = AnswerJson(*result, head->tokenizer() != nullptr);
  answer["cluster"] = ClusterJson(*head, counters);
  answer["speculation"]["distinct_experts"] = DistinctExpertsJson(stats.distinct_experts);
  const int nodes = config.nodes;
  return Report(options, answer, *result,
                absl::StrFormat("%d node%s, %.0f bytes exchanged per layer", nodes, nodes == 1 ? "" : "s",
                                BytesPerLayer(counters)));
}

}  // namespace

int Run(const GenerateOptions& options) {
  const absl::Status done = IsGrpcUrl(options.head.model) ? GenerateRemote(options) : GenerateHere(options);
  // What had come by then was printed, with finish_reason "cancelled".
  if (StopRequested() && (done.ok() || absl::IsCancelled(done))) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
