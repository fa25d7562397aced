#include "coordinator/http/knobs.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/sampling_defaults.h"

namespace paceline {
namespace {

constexpr double kMaxTimeoutSeconds = 1e6;  // beyond it there is none

void ReadLogitBias(Fields& fields, std::map<TokenId, float>* out) {
  const Json* bias = fields.Object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    TokenId id = 0;
    const auto read = std::from_chars(key.data(), key.data() + key.size(), id);
    if (read.ec != std::errc() || read.ptr != key.data() + key.size()) {
      return fields.Refuse("logit_bias", absl::StrCat("expected token ids as keys, got \"", key, "\""));
    }
    if (!value.is_number()) {
      return fields.Refuse("logit_bias",
                           absl::StrCat("expected a number for id ", key, ", got ", KindOf(value)));
    }
    (*out)[id] = static_cast<float>(std::clamp(value.get<double>(), -1e30, 1e30));
  }
}

// {"type": "json_schema", "json_schema": {"name", "schema", "strict"}}, or the schema inline.
void ReadResponseFormat(Fields& fields, ConstraintSpec* constraint) {
  const Json* format = fields.Object("response_format");
  if (format == nullptr) return;
  Fields inner(*format, "response_format.");
  const std::string type = inner.Text("type").value_or("");
  if (type == "json_object") {
    constraint->kind = ConstraintSpec::Kind::kJsonObject;
    if (const Json* schema = inner.Object("schema")) {
      constraint->kind = ConstraintSpec::Kind::kJsonSchema;
      constraint->text = Dump(*schema);
    }
  } else if (type == "json_schema") {
    const Json* wrapped = inner.Object("json_schema");
    const Json* schema = inner.Any("schema");
    if (wrapped != nullptr && schema == nullptr) schema = Fields(*wrapped, "").Any("schema");
    if (schema == nullptr) {
      inner.Refuse("json_schema.schema", "expected the JSON schema of the answer");
    } else {
      constraint->kind = ConstraintSpec::Kind::kJsonSchema;
      constraint->text = Dump(*schema);
    }
  } else if (type != "text") {
    inner.Refuse("type", absl::StrCat("expected text, json_object or json_schema, got \"", type, "\""));
  }
  fields.Fail(inner.status());
}

// A schema as an object, or as JSON text.
std::string SchemaText(const Json& schema) {
  return schema.is_string() ? schema.get<std::string>() : Dump(schema);
}

// The members of vLLM's structured_outputs; with a prefix, its older spelling.
void ReadGuided(Fields& fields, const std::string& prefix, ConstraintSpec* constraint) {
  using Kind = ConstraintSpec::Kind;
  const auto name = [&prefix](const char* member) { return prefix + member; };
  int given = 0;
  if (const Json* schema = fields.Any(name("json").c_str())) {
    *constraint = {.kind = Kind::kJsonSchema, .text = SchemaText(*schema)};
    ++given;
  }
  if (fields.Bool(name("json_object").c_str()).value_or(false)) {
    *constraint = {.kind = Kind::kJsonObject};
    ++given;
  }
  if (auto regex = fields.Text(name("regex").c_str())) {
    *constraint = {.kind = Kind::kRegex, .text = *std::move(regex)};
    ++given;
  }
  if (auto grammar = fields.Text(name("grammar").c_str())) {
    *constraint = {.kind = Kind::kEbnf, .text = *std::move(grammar)};
    ++given;
  }
  if (std::vector<std::string> choices = fields.Texts(name("choice").c_str()); !choices.empty()) {
    *constraint = {.kind = Kind::kChoice, .choices = std::move(choices)};
    ++given;
  }
  if (given > 1) fields.Refuse(name("json"), "several constraints on one text; give one");
}

}  // namespace

void ReadSampling(Fields& fields, SamplingOptions* sampling) {
  sampling->temperature = fields.Float("temperature");
  sampling->top_p = fields.Float("top_p");
  sampling->top_k = fields.Whole("top_k");
  if (sampling->top_k == -1) sampling->top_k = 0;  // vLLM's "off"
  sampling->min_p = fields.Float("min_p");
  sampling->presence_penalty = fields.Float("presence_penalty");
  sampling->frequency_penalty = fields.Float("frequency_penalty");
  sampling->repetition_penalty = fields.Float("repetition_penalty");
  if (const std::optional<int64_t> seed = fields.Whole("seed")) sampling->seed = static_cast<uint64_t>(*seed);
  ReadLogitBias(fields, &sampling->logit_bias);
  sampling->allowed_token_ids = fields.Ids("allowed_token_ids");
}

void ReadStopping(Fields& fields, StoppingOptions* stopping) {
  stopping->max_tokens = fields.Whole("max_tokens");
  const std::optional<int64_t> completion = fields.Whole("max_completion_tokens");
  if (completion) stopping->max_tokens = std::min(*completion, stopping->max_tokens.value_or(*completion));
  stopping->min_tokens = fields.Whole("min_tokens").value_or(0);
  stopping->stop_strings = fields.Texts("stop");
  stopping->stop_token_ids = fields.Ids("stop_token_ids");
  stopping->ignore_eos = fields.Bool("ignore_eos").value_or(false);
  stopping->include_stop = fields.Bool("include_stop_str_in_output").value_or(false);
  if (const std::optional<double> seconds = fields.Number("timeout");
      seconds && *seconds < kMaxTimeoutSeconds) {
    stopping->time_limit = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*seconds));
  }
}

void ReadScheduling(Fields& fields, GenerateRequest* request) {
  if (const std::optional<int64_t> priority = fields.Whole("priority")) {
    constexpr int64_t kMost = 1'000'000'000;
    if (*priority < -kMost || *priority > kMost) {
      fields.Refuse("priority", absl::StrCat("expected -1000000000 to 1000000000, got ", *priority));
    } else {
      request->priority = static_cast<int32_t>(-*priority);
    }
  }
  if (auto salt = fields.Text("cache_salt")) request->cache.salt = *std::move(salt);
}

void ReadSpeculation(Fields& fields, SpeculationOptions* speculation) {
  const Json* object = fields.Object("speculation");
  if (object == nullptr) return;
  Fields inner(*object, "speculation.");
  if (const std::optional<std::string> mode = inner.Text("mode")) {
    if (*mode == "auto") {
      speculation->mode = DraftMode::kAuto;
    } else if (*mode == "off") {
      speculation->mode = DraftMode::kOff;
    } else if (*mode == "fixed") {
      speculation->mode = DraftMode::kFixed;
    } else {
      inner.Refuse("mode", absl::StrCat("expected auto, off or fixed, got \"", *mode, "\""));
    }
  }
  speculation->max_draft_tokens = inner.Whole("max_draft_tokens");
  fields.Fail(inner.status());
}

StreamOptions ReadStream(Fields& fields) {
  StreamOptions options;
  options.stream = fields.Bool("stream").value_or(false);
  options.interval = fields.Whole("stream_interval").value_or(1);
  if (options.interval < 1) fields.Refuse("stream_interval", "expected at least 1 token per frame");
  if (const Json* object = fields.Object("stream_options")) {
    Fields inner(*object, "stream_options.");
    options.include_usage = inner.Bool("include_usage").value_or(false);
    options.usage_every_chunk = inner.Bool("continuous_usage_stats").value_or(false);
    inner.Ignore("include_obfuscation");
    fields.Fail(inner.status());
  }
  return options;
}

void ReadConstraint(Fields& fields, ConstraintSpec* constraint) {
  using Kind = ConstraintSpec::Kind;
  ReadResponseFormat(fields, constraint);
  if (const Json* structured = fields.Object("structured_outputs")) {
    Fields inner(*structured, "structured_outputs.");
    ReadGuided(inner, "", constraint);
    fields.Fail(inner.status());
  }
  ReadGuided(fields, "guided_", constraint);
  if (const Json* schema = fields.Any("json_schema"))
    *constraint = {.kind = Kind::kJsonSchema, .text = SchemaText(*schema)};
  if (auto grammar = fields.Text("grammar"); grammar && !grammar->empty())
    *constraint = {.kind = Kind::kEbnf, .text = *std::move(grammar)};
}

bool ReadPromptLogprobs(Fields& fields, bool stream, GenerateRequest* request) {
  const std::optional<int64_t> top = fields.Whole("prompt_logprobs");
  if (!top) return false;
  if (stream) fields.Refuse("prompt_logprobs", "comes with an answer in one piece; leave out stream");
  request->prompt_top =
      static_cast<int32_t>(std::clamp<int64_t>(*top, -1, 1 << 20));  // the engine knows the bound
  return true;
}

int64_t ReadChoices(Fields& fields) {
  const int64_t n = fields.Whole("n").value_or(1);
  if (n < 1 || n > kMaxChoices) fields.Refuse("n", absl::StrCat("expected 1 to ", kMaxChoices, ", got ", n));
  return n;
}

absl::StatusOr<std::vector<GenerateRequest>> RequestsOf(GenerateRequest request, int64_t n,
                                                        const Tokenizer* tokenizer) {
  if (n == 1) return std::vector<GenerateRequest>{std::move(request)};
  if (!request.sampling.seed) request.sampling.seed = RandomSeed();
  const std::string* text = std::get_if<std::string>(&request.input);
  if (text != nullptr && tokenizer != nullptr) {  // once for all
    ASSIGN_OR_RETURN(std::vector<TokenId> ids, tokenizer->Encode(*text));
    request.input = std::move(ids);
  }
  std::vector<GenerateRequest> requests(static_cast<size_t>(n), request);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].sampling.choice = static_cast<uint32_t>(i);
  return requests;
}

FieldNames OpenAiNames(const std::string& prompt) {
  return {{"stopping.stop_strings", "stop"},
          {"stopping.time_limit", "timeout"},
          {"response.output_logprobs", "top_logprobs"},
          {"response.prompt_logprobs", "prompt_logprobs"},
          {"constraint", "response_format"},
          {"token_ids", prompt},
          {"text", prompt}};
}

}  // namespace paceline
