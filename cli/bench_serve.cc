// `bench serve`: streamed requests against any OpenAI-like server over HTTP, and what came of them. What the
// figures mean: docs/BENCHMARKING.md.
#include <sys/resource.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/bench_text.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/files.h"
#include "cli/http_client.h"
#include "cli/load_prompts.h"
#include "cli/load_summary.h"
#include "cli/serve_load.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

using nlohmann::json;

bool Wanted() { return !StopRequested(); }

// An open loop may have thousands of connections at once.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The server, and what every request to it carries.
struct Target {
  std::unique_ptr<HttpLoop> loop;
  std::string key;
  std::string model;
  Duration silence{};
};

absl::StatusOr<json> Ask(Target& target, HttpCall call) {
  call.key = target.key;
  call.silence = target.silence;
  const std::string path = call.path;
  ASSIGN_OR_RETURN(const HttpReply reply, target.loop->Fetch(std::move(call), Wanted));
  if (reply.status != 200) {
    const OpenAiError error = ReadOpenAiError(reply.status, reply.body);
    return absl::FailedPreconditionError(absl::StrCat(path, " answered ", reply.status, ": ", error.message));
  }
  json body = json::parse(reply.body, nullptr, /*allow_exceptions=*/false);
  if (!body.is_object()) return absl::FailedPreconditionError(absl::StrCat(path, " answered no JSON object"));
  return body;
}

absl::StatusOr<std::string> FirstModel(Target& target) {
  ASSIGN_OR_RETURN(const json models, Ask(target, {.method = "GET", .path = "/v1/models"}));
  const json data = models.value("data", json());
  if (data.is_array() && !data.empty() && data[0].is_object() && data[0].contains("id") &&
      data[0]["id"].is_string())
    return data[0]["id"].get<std::string>();
  return Error(errors::kOption, "/v1/models names no model; say which with --model NAME");
}

// By the words of ours, vLLM's (prompt) and llama-server's (content). Empty where the server does not say.
std::vector<TokenId> TokensOf(Target& target, const std::string& text) {
  const json body = {{"model", target.model},
                     {"prompt", text},
                     {"content", text},
                     {"add_special_tokens", false},
                     {"add_special", false}};
  const absl::StatusOr<json> answer = Ask(target, {.path = "/tokenize", .body = body.dump()});
  if (!answer.ok() || !answer->contains("tokens") || !(*answer)["tokens"].is_array()) return {};
  std::vector<TokenId> ids;
  for (const json& id : (*answer)["tokens"]) {
    if (!id.is_number_integer()) return {};
    ids.push_back(id.get<TokenId>());
  }
  return ids;
}

absl::StatusOr<PromptBook> BookOf(const BenchServeOptions& options, Target& target, const std::string& salt) {
  const PromptForm form = options.endpoint == "chat" ? PromptForm::kMessages : PromptForm::kText;
  if (!options.prompts.empty()) {
    ASSIGN_OR_RETURN(const std::string lines, ReadWholeFile(options.prompts));
    return PromptBook::Read(lines, form, options.prompts);
  }
  ProsePlan plan{.form = form,
                 .tokens = options.input_tokens,
                 .shared = options.shared_prefix,
                 .salt = absl::StrCat("Note ", salt, "."),
                 .seed = options.seed};
  Corpus corpus;
  corpus.text = ProseOf(kBenchDocuments);
  corpus.ids = TokensOf(target, corpus.text);
  corpus.salt_ids = TokensOf(target, plan.salt);
  if (corpus.ids.empty() && Wanted())
    StdErr().Line("note: the server has no /tokenize: lengths of prompts are guessed from their bytes");
  return PromptBook::Prose(std::move(plan), std::move(corpus));
}

HttpCall CallOf(const BenchServeOptions& options, const Target& target, const PromptBook& book, int64_t i) {
  json body = book.Prompt(i);
  body["model"] = target.model;
  body["max_tokens"] = options.output_tokens;
  body["temperature"] = options.temperature;
  body["seed"] =
      (options.seed + static_cast<uint64_t>(i)) % (uint64_t{1} << 31);  // some servers take 32 bits
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (!options.natural_end) body["ignore_eos"] = true;
  return {.path = options.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions",
          .body = body.dump(),
          .key = target.key,
          .silence = target.silence};
}

// Requests of a load whose number nobody gave: enough to fill it a few times.
int64_t DefaultRequests(const LoadPlan& plan) {
  if (plan.concurrency > 0) return std::max<int64_t>(16, 4 * plan.concurrency);
  return std::max<int64_t>(16, std::llround(10 * plan.rate));
}

std::vector<LoadPlan> PlansOf(const BenchServeOptions& options) {
  std::vector<LoadPlan> plans;
  for (const int concurrency : options.concurrency) plans.push_back({.concurrency = concurrency});
  for (const double rate : options.rates) plans.push_back({.rate = rate});
  for (LoadPlan& plan : plans) {
    plan.requests = options.requests;
    plan.duration = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.duration_s));
    plan.seed = options.seed;
    if (plan.requests == 0 && plan.duration == Duration::zero()) plan.requests = DefaultRequests(plan);
  }
  return plans;
}

absl::Status Bench(const BenchServeOptions& options) {
  RaiseFileLimit();
  ASSIGN_OR_RETURN(const HttpUrl url, ParseHttpUrl(options.url));
  Target target;
  target.silence = std::chrono::seconds(options.timeout_s);
  if (!options.api_key_file.empty()) {
    ASSIGN_OR_RETURN(const std::string key, ReadWholeFile(options.api_key_file));
    target.key = std::string(absl::StripAsciiWhitespace(key));
  }
  ASSIGN_OR_RETURN(target.loop, HttpLoop::Open(url));
  target.model = options.model;
  if (target.model.empty()) {
    ASSIGN_OR_RETURN(target.model, FirstModel(target));
  }
  const std::string salt =
      options.salt.empty() ? absl::StrFormat("%06x", std::random_device()() & 0xffffffu) : options.salt;
  ASSIGN_OR_RETURN(const PromptBook book, BookOf(options, target, salt));

  int64_t sent = 0;  // requests so far: no prompt comes twice, so that only what is shared is found in caches
  const auto run = [&](const LoadPlan& plan) {
    std::vector<RequestRecord> records = RunLoad(
        *target.loop, plan, [&](int64_t i) { return CallOf(options, target, book, sent + i); }, Wanted);
    sent += static_cast<int64_t>(records.size());
    return records;
  };
  const ServiceGoals goals{options.slo_ttft_ms, options.slo_itl_ms};
  if (options.warmup > 0) {
    const LoadPlan one_by_one{.concurrency = 1, .requests = options.warmup};
    const LoadSummary warm = Summarize(one_by_one, run(one_by_one), goals);
    if (Wanted() && warm.completed == 0)
      return absl::FailedPreconditionError(
          absl::StrCat("no answer to a first request: ", warm.first_message));
  }
  std::vector<LoadSummary> summaries;
  for (const LoadPlan& plan : PlansOf(options)) {
    summaries.push_back(Summarize(plan, run(plan), goals));
    if (!Wanted()) return absl::CancelledError("stopped by a signal");
  }
  if (options.json) {
    nlohmann::ordered_json out = {
        {"url", url.Text()},
        {"model", target.model},
        {"endpoint", options.endpoint},
        {"version", PACELINE_VERSION},
        {"prompts", options.prompts.empty() ? json(nullptr) : json(options.prompts)},
        {"input_tokens", options.input_tokens},
        {"shared_prefix", options.shared_prefix},
        {"output_tokens", options.output_tokens},
        {"ignore_eos", !options.natural_end},
        {"temperature", options.temperature},
        {"seed", options.seed},
        {"salt", salt},
        {"slo_ttft_ms", goals.ttft_ms ? json(*goals.ttft_ms) : json(nullptr)},
        {"slo_itl_ms", goals.itl_ms ? json(*goals.itl_ms) : json(nullptr)},
        {"results", nlohmann::ordered_json::array()}};
    for (const LoadSummary& summary : summaries) out["results"].push_back(SummaryJson(summary, goals));
    std::printf("%s\n", out.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  } else {
    std::printf("%s at %s, %s; salt %s\n\n%s", target.model.c_str(), url.Text().c_str(),
                options.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions", salt.c_str(),
                SummaryTables(summaries, goals, options.markdown).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchServeOptions& options) {
  const absl::Status done = Bench(options);
  if (StopRequested()) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
