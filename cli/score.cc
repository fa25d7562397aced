// `score`: log-probabilities of every token of a text under the model, and the MTP layer's drafts after every
// position.
#include <cmath>
#include <cstdio>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/files.h"
#include "cli/head.h"
#include "cli/report.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

struct Scored {
  std::vector<RowResult> rows;  // [tokens]; row i predicts token i + 1
  std::string logits_hash;
};

absl::StatusOr<Scored> Score(LocalTrunk& trunk, const std::vector<TokenId>& tokens, int chunk, int top,
                             SequenceId sequence) {
  Scored scored;
  const int64_t n = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> pages((n + kPagePositions - 1) / kPagePositions);
  std::iota(pages.begin(), pages.end(), 0);
  uint64_t step = 0;
  for (int64_t first = 0; first < n; first += chunk) {
    if (StopRequested()) return absl::CancelledError("stopped by a signal");
    const int64_t end = std::min<int64_t>(n, first + chunk);
    SequenceRows rows;
    rows.sequence = sequence;
    rows.pages = pages;
    rows.first_position = first;
    rows.tokens.assign(tokens.begin() + first, tokens.begin() + end);
    for (int64_t i = first; i < end; ++i) rows.targets.push_back(i + 1 < n ? tokens[i + 1] : -1);
    rows.top = top;
    rows.hash_logits = true;
    StepPlan plan;
    plan.step = StepId(++step);
    plan.sequences.push_back(std::move(rows));
    ASSIGN_OR_RETURN(StepResult result, trunk.Run(plan));
    SequenceResult& out = result.sequences.front();
    RETURN_IF_ERROR(out.status);
    for (RowResult& row : out.rows) scored.rows.push_back(std::move(row));
    scored.logits_hash = out.logits_hash;
  }
  return scored;
}

absl::Status RunScore(const ScoreOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, ReadTokensJson(options.tokens_json));
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  const ModelConfig& model = head->checkpoint().config();
  if (tokens.empty())
    return Error(
        errors::kRequestField,
        absl::StrCat(options.tokens_json, " holds no token ids; a text of at least one token was expected"));
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= model.vocab) {
      return Error(errors::kRequestField,
                   absl::StrCat("token id ", tokens[i], " at index ", i, " of ", options.tokens_json,
                                " is not in the vocabulary: ids run from 0 to ", model.vocab - 1));
    }
  }
  if (static_cast<int64_t>(tokens.size()) > model.context) {
    return Error(errors::kContextLength, absl::StrCat("the text has ", tokens.size(),
                                                      " tokens; the model's context is ", model.context));
  }
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  LocalTrunk& trunk = *head->trunk();
  const SequenceId sequence(1);
  if (options.drafts > 0) trunk.KeepHidden(sequence);
  ASSIGN_OR_RETURN(const Scored scored,
                   Score(trunk, tokens, options.head.options.prefill_chunk, options.top, sequence));

  if (!options.json) {
    double total = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i == 0) {
        std::printf("%d\t-\n", tokens[i]);
        continue;
      }
      const float logprob = scored.rows[i - 1].logprob;
      total += static_cast<double>(logprob);
      std::printf("%d\t%.6f\n", tokens[i], static_cast<double>(logprob));
    }
    const double count = static_cast<double>(tokens.size()) - 1;
    if (count > 0)
      StdErr().Line(absl::StrFormat("%d tokens, mean log-probability %.4f, perplexity %.3f", tokens.size(),
                                    total / count, std::exp(-total / count)));
    return absl::OkStatus();
  }
  nlohmann::json out;
  out["token_ids"] = tokens;
  nlohmann::json logprobs = nlohmann::json::array({nullptr});
  nlohmann::json top = nlohmann::json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) logprobs.push_back(ExactFloat(scored.rows[i - 1].logprob));
    nlohmann::json row = nlohmann::json::array();
    for (const Candidate& c : scored.rows[i].top) row.push_back({c.token, ExactFloat(c.logprob)});
    top.push_back(std::move(row));
  }
  out["logprobs"] = std::move(logprobs);
  out["top"] = std::move(top);
  if (options.drafts > 0) {
    ASSIGN_OR_RETURN(const auto drafts, trunk.Drafts(head->checkpoint(), sequence, tokens, options.drafts));
    nlohmann::json list = nlohmann::json::array();
    for (const auto& chain : drafts) list.push_back(chain);
    list.push_back(nullptr);
    out["drafts"] = std::move(list);
  }
  out["logits_hash"] = scored.logits_hash;
  out["lm_head"] = trunk.info().lm_head;
  out["cluster"] = ClusterJson(*head, trunk.counters());
  std::printf("%s\n", out.dump().c_str());
  return absl::OkStatus();
}

}  // namespace

int Run(const ScoreOptions& options) {
  const absl::Status done = RunScore(options);
  if (StopRequested() && absl::IsCancelled(done)) return SignalStatus();
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
