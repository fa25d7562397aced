// `verify`: the promise that drafting, ranks and neighbours change no token, held to on this machine or on a
// running head. Every run is compared with a plain one, token by token and log-probability by
// log-probability.
#include <cstdio>
#include <functional>
#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/api_key.h"
#include "cli/commands.h"
#include "cli/comparison.h"
#include "cli/console.h"
#include "cli/deferred_trunk.h"
#include "cli/drafting.h"
#include "cli/files.h"
#include "cli/head.h"
#include "cli/prompts.h"
#include "cli/report.h"
#include "coordinator/client.h"
#include "coordinator/engine.h"
#include "coordinator/generation.h"

namespace paceline::cli {
namespace {

constexpr int kEqual = 0;
constexpr int kDifferent = 1;
constexpr int kCouldNotRun = 2;
constexpr size_t kCompanions = 3;  // requests beside the one that is looked at, in a batch

using Prompt = std::variant<std::string, std::vector<TokenId>>;
// Runs requests at the same time; results in their order.
using Runner = std::function<absl::StatusOr<std::vector<GenerationResult>>(std::vector<GenerateRequest>)>;

// `run_one` for all requests, each on a thread.
absl::StatusOr<std::vector<GenerationResult>> AllAtOnce(
    std::vector<GenerateRequest> requests,
    const std::function<absl::StatusOr<GenerationResult>(GenerateRequest)>& run_one) {
  std::vector<std::future<absl::StatusOr<GenerationResult>>> runs;
  for (GenerateRequest& request : requests)
    runs.push_back(std::async(std::launch::async, run_one, std::move(request)));
  std::vector<absl::StatusOr<GenerationResult>> ended;
  for (auto& run : runs) ended.push_back(run.get());
  std::vector<GenerationResult> results;
  for (auto& result : ended) {
    RETURN_IF_ERROR(result.status());
    results.push_back(*std::move(result));
  }
  return results;
}

bool GoOn(const GeneratedToken&) { return !StopRequested(); }

// What is asked, in all its variants.
class Questions {
 public:
  Questions(const VerifyOptions& options, Prompt prompt) : options_(options), prompt_(std::move(prompt)) {}

  GenerateRequest Plain(bool seeded) const {
    GenerateRequest request;
    request.input = prompt_;
    request.sampling.temperature = seeded ? static_cast<float>(options_.temperature) : 0.0f;
    request.sampling.seed = options_.seed;
    // The whole distribution: what a model's own defaults cut away could hide a difference.
    request.sampling.top_k = 0;
    request.sampling.top_p = 1.0f;
    request.stopping.max_tokens = options_.max_tokens;
    request.stopping.ignore_eos = true;
    request.logprobs = true;
    request.speculation.mode = DraftMode::kOff;
    return request;
  }
  GenerateRequest Drafted(bool seeded) const {
    GenerateRequest request = Plain(seeded);
    request.speculation.mode = DraftMode::kFixed;
    request.speculation.max_draft_tokens = options_.depth;
    return request;
  }
  // The plain request among others: shorter prompts, other seeds, every second one drafted.
  std::vector<GenerateRequest> Batch(bool seeded) const {
    std::vector<GenerateRequest> batch = {Plain(seeded)};
    for (size_t i = 0; i < kCompanions; ++i) {
      GenerateRequest other = i % 2 == 0 ? Drafted(!seeded) : Plain(!seeded);
      other.sampling.seed = options_.seed + 1 + i;
      if (auto* ids = std::get_if<std::vector<TokenId>>(&other.input))
        ids->resize(std::max<size_t>(1, ids->size() * (i + 1) / (kCompanions + 1)));
      batch.push_back(std::move(other));
    }
    return batch;
  }

 private:
  const VerifyOptions& options_;
  const Prompt prompt_;
};

constexpr char kDrafted[] = "drafted";
constexpr bool kBoth[] = {false, true};
std::string Named(const char* what, bool seeded) {
  return absl::StrCat(what, seeded ? "-seeded" : "-greedy");
}

struct PlainRuns {
  std::vector<GeneratedToken> of[2];  // [seeded]
};

absl::StatusOr<GenerationResult> RunOne(const Runner& run, GenerateRequest request) {
  std::vector<GenerateRequest> one;
  one.push_back(std::move(request));
  ASSIGN_OR_RETURN(std::vector<GenerationResult> results, run(std::move(one)));
  if (results.front().end.reason == FinishReason::kCancelled)
    return absl::CancelledError("stopped by a signal");
  return std::move(results.front());
}

absl::StatusOr<PlainRuns> RunPlain(const Runner& run, const Questions& questions) {
  PlainRuns plain;
  for (const bool seeded : kBoth) {
    ASSIGN_OR_RETURN(GenerationResult result, RunOne(run, questions.Plain(seeded)));
    plain.of[seeded] = std::move(result.tokens);
  }
  return plain;
}

// Drafted and batched runs against plain ones of the same head.
absl::Status CompareHere(const Runner& run, const Questions& questions, const PlainRuns& plain,
                         std::vector<Comparison>& out) {
  for (const bool seeded : kBoth) {
    ASSIGN_OR_RETURN(const GenerationResult drafted, RunOne(run, questions.Drafted(seeded)));
    Comparison comparison = Compare(Named(kDrafted, seeded), plain.of[seeded], drafted.tokens);
    comparison.speculation = drafted.end.speculation;
    out.push_back(std::move(comparison));
  }
  for (const bool seeded : kBoth) {
    ASSIGN_OR_RETURN(const std::vector<GenerationResult> batch, run(questions.Batch(seeded)));
    for (const GenerationResult& result : batch) {
      if (result.end.reason == FinishReason::kCancelled) return absl::CancelledError("stopped by a signal");
    }
    out.push_back(Compare(Named("batched", seeded), plain.of[seeded], batch.front().tokens));
  }
  return absl::OkStatus();
}

struct Verified {
  std::vector<Comparison> comparisons;
  std::string refusal;  // why the head drafts nothing, where it says so
};

// Equal runs prove nothing about drafting where one that should draft verified no draft.
absl::Status CheckDrafted(const Verified& verified) {
  for (const bool seeded : kBoth) {
    for (const Comparison& c : verified.comparisons) {
      if (c.name != Named(kDrafted, seeded) || c.speculation.drafted > 0) continue;
      return Error(errors::kModelUnsupported,
                   absl::StrCat(c.name, ": nothing was drafted, so there is nothing to verify",
                                verified.refusal.empty() ? "" : absl::StrCat(": ", verified.refusal)));
    }
  }
  return absl::OkStatus();
}

// Opens the model on `workers` local workers, as the flags place it on several ranks, and hands a runner to
// `use`.
absl::Status WithHead(const VerifyOptions& options, int workers,
                      const std::function<absl::Status(Head&, const Runner&)>& use) {
  HeadConfig config;
  config.options = options.head;
  config.options.cluster.local_workers = workers;
  if (workers == 0) {
    // Of rules for several ranks one rank can keep none.
    config.options.cluster.placement = "contiguous";
    config.options.cluster.head_split = false;
  }
  config.nodes = 1 + workers;
  config.slots = 1 + kCompanions;
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  Engine engine(head->EngineParts(head->trunk()), head->defaults(), head->scheduling());
  engine.Start();
  const absl::Status used = use(*head, [&engine](std::vector<GenerateRequest> requests) {
    return AllAtOnce(std::move(requests), [&engine](GenerateRequest request) {
      return RunGeneration(engine, std::move(request), GoOn);
    });
  });
  engine.Stop();
  return used;
}

absl::StatusOr<Prompt> PromptOr(const VerifyOptions& options, const Tokenizer* tokenizer, int64_t vocab) {
  if (HasPrompt(options.prompt)) return ReadPrompt(options.prompt);
  return BuiltInPrompt(tokenizer, vocab);
}

absl::StatusOr<Verified> VerifyHere(const VerifyOptions& options) {
  Verified verified;
  std::vector<Comparison>& comparisons = verified.comparisons;
  std::optional<PlainRuns> many;
  std::optional<Prompt> prompt;
  const int workers = options.head.cluster.local_workers;
  RETURN_IF_ERROR(WithHead(options, workers, [&](Head& head, const Runner& run) -> absl::Status {
    ASSIGN_OR_RETURN(prompt, PromptOr(options, head.tokenizer(), head.checkpoint().config().vocab));
    const Questions questions(options, *prompt);
    ASSIGN_OR_RETURN(many, RunPlain(run, questions));
    verified.refusal = head.trunk()->info().draft_refusal;
    return CompareHere(run, questions, *many, comparisons);
  }));
  if (workers == 0) return verified;  // one rank is all there is
  // In turn, so that two copies of a model never stand in memory together.
  RETURN_IF_ERROR(WithHead(options, 0, [&](Head&, const Runner& run) -> absl::Status {
    ASSIGN_OR_RETURN(const PlainRuns one, RunPlain(run, Questions(options, *prompt)));
    for (const bool seeded : kBoth)
      comparisons.push_back(Compare(Named("ranks", seeded), one.of[seeded], many->of[seeded]));
    return absl::OkStatus();
  }));
  return verified;
}

absl::StatusOr<Verified> VerifyThere(const VerifyOptions& options) {
  ASSIGN_OR_RETURN(const std::string address, AddressOfUrl(options.head.model));
  ApiClient client(address, ApiKeyOfEnvironment());
  Prompt prompt;
  if (HasPrompt(options.prompt)) {
    ASSIGN_OR_RETURN(prompt, ReadPrompt(options.prompt));
  } else {
    // A head without a tokenizer takes ids only.
    const absl::StatusOr<std::vector<TokenId>> ids = client.Tokenize(kBuiltInText);
    if (absl::IsUnavailable(ids.status())) return ids.status();
    prompt = ids.ok() ? *ids : BuiltInIds(kFewestIds);
  }
  const Questions questions(options, std::move(prompt));
  const Runner run = [&client](std::vector<GenerateRequest> requests) {
    return AllAtOnce(std::move(requests), [&client](GenerateRequest request) {
      return client.Generate(std::move(request), GoOn);
    });
  };
  Verified verified;
  verified.refusal = "see how the head was started";
  ASSIGN_OR_RETURN(const PlainRuns plain, RunPlain(run, questions));
  RETURN_IF_ERROR(CompareHere(run, questions, plain, verified.comparisons));
  return verified;
}

}  // namespace

int Run(const VerifyOptions& options) {
  const absl::StatusOr<Verified> verified =
      IsGrpcUrl(options.head.model) ? VerifyThere(options) : VerifyHere(options);
  if (!verified.ok() && StopRequested()) return SignalStatus();
  // A difference that was found is said, whatever else was left unproved.
  absl::Status proof = verified.status();
  if (verified.ok() && AllEqual(verified->comparisons)) proof = CheckDrafted(*verified);
  if (!proof.ok()) {
    StdErr().Fail(proof);
    return kCouldNotRun;
  }
  const std::vector<Comparison>& comparisons = verified->comparisons;
  if (options.json) {
    std::printf("%s\n", ComparisonsJson(comparisons).dump().c_str());
  } else {
    std::fputs(ComparisonsTable(comparisons).c_str(), stdout);
  }
  return AllEqual(comparisons) ? kEqual : kDifferent;
}

}  // namespace paceline::cli
