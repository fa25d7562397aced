#include "cli/load_summary.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace paceline::cli {
namespace {

double Milliseconds(Duration d) { return Seconds(d) * 1e3; }

double Share(double a, double b) { return b > 0 ? a / b : 0; }

// The sum where every request has the count.
class Total {
 public:
  void Add(const std::optional<int64_t>& count) {
    if (!count) missing_ = true;
    sum_ += count.value_or(0);
    any_ = true;
  }
  std::optional<int64_t> value() const {
    return any_ && !missing_ ? std::optional<int64_t>(sum_) : std::nullopt;
  }

 private:
  int64_t sum_ = 0;
  bool missing_ = false;
  bool any_ = false;
};

nlohmann::ordered_json SpreadJson(const Spread& s) {
  if (s.count == 0) return nullptr;
  return {{"count", s.count}, {"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90},
          {"p95", s.p95},     {"p99", s.p99},   {"max", s.max}};
}

nlohmann::ordered_json CountJson(const std::optional<int64_t>& count) {
  return count ? nlohmann::ordered_json(*count) : nlohmann::ordered_json(nullptr);
}

std::string Count(const std::optional<int64_t>& count) { return count ? absl::StrCat(*count) : "-"; }

std::string LoadName(const LoadPlan& plan) {
  return plan.concurrency > 0 ? absl::StrCat(plan.concurrency, " at once")
                              : absl::StrFormat("%.4g per s", plan.rate);
}

using Rows = std::vector<std::vector<std::string>>;

// The first row is the head; the first column stands left, the others right.
std::string Table(const Rows& rows, bool markdown) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows[r].size(); ++i) {
      if (markdown) {
        absl::StrAppend(&line, i == 0 ? "| " : " | ", rows[r][i]);
      } else {
        const std::string blanks(widths[i] - rows[r][i].size(), ' ');
        absl::StrAppend(&line, i == 0 ? "" : "  ", i == 0 ? rows[r][i] + blanks : blanks + rows[r][i]);
      }
    }
    absl::StrAppend(&out, line, markdown ? " |\n" : "\n");
    if (r > 0 || !markdown) continue;
    absl::StrAppend(&out, "|---|");
    for (size_t i = 1; i < rows[r].size(); ++i) absl::StrAppend(&out, "---:|");
    absl::StrAppend(&out, "\n");
  }
  return out;
}

std::vector<std::string> LatencyRow(const std::string& load, const char* what, const Spread& s) {
  std::vector<std::string> row = {load, what};
  for (const double x : {s.mean, s.p50, s.p90, s.p95, s.p99, s.max})
    row.push_back(s.count > 0 ? absl::StrFormat("%.1f", x) : "-");
  return row;
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  Spread out;
  out.count = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  std::sort(values.begin(), values.end());
  const auto at = [&values](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
  };
  for (const double value : values) out.mean += value / static_cast<double>(values.size());
  out.p50 = at(0.5);
  out.p90 = at(0.9);
  out.p95 = at(0.95);
  out.p99 = at(0.99);
  out.max = values.back();
  return out;
}

LoadSummary Summarize(const LoadPlan& plan, const std::vector<RequestRecord>& records,
                      const ServiceGoals& goals) {
  LoadSummary out;
  out.plan = plan;
  out.requests = static_cast<int64_t>(records.size());
  std::vector<double> ttft, itl, burst_gap, tpot, e2e, refusal;
  Total steps, drafted, accepted;
  TimePoint begin = TimePoint::max(), end = TimePoint::min();
  for (const RequestRecord& record : records) {
    begin = std::min(begin, record.due);
    end = std::max(end, record.end);
    if (!record.failure.empty()) {
      if (out.failures.empty()) out.first_message = record.message;
      ++out.failures[record.failure];
      if (record.refused) refusal.push_back(Milliseconds(record.end - record.due));
      continue;
    }
    ++out.completed;
    out.prompt_tokens += record.counts.prompt_tokens.value_or(0);
    out.cached_tokens += record.counts.cached_tokens.value_or(0);
    out.output_tokens += record.tokens();
    if (!record.counts.output_tokens) out.counted_by_server = false;
    out.chunks += record.chunks;
    out.bursts += record.bursts;
    steps.Add(record.counts.steps);
    drafted.Add(record.counts.drafted);
    accepted.Add(record.counts.accepted);
    e2e.push_back(Milliseconds(record.end - record.due));
    bool good = true;
    if (record.chunks > 0) {
      ttft.push_back(Milliseconds(record.first - record.due));
      if (goals.ttft_ms && ttft.back() > *goals.ttft_ms) good = false;
    }
    if (record.chunks > 0 && record.tokens() > 1) {
      tpot.push_back(Milliseconds(record.last - record.first) / static_cast<double>(record.tokens() - 1));
      if (goals.itl_ms && tpot.back() > *goals.itl_ms) good = false;
    }
    if (good) ++out.good;
    itl.insert(itl.end(), record.chunk_gaps_ms.begin(), record.chunk_gaps_ms.end());
    burst_gap.insert(burst_gap.end(), record.burst_gaps_ms.begin(), record.burst_gaps_ms.end());
  }
  if (!records.empty()) out.seconds = Seconds(end - begin);
  out.steps = steps.value();
  out.drafted = drafted.value();
  out.accepted = accepted.value();
  out.ttft = SpreadOf(std::move(ttft));
  out.itl = SpreadOf(std::move(itl));
  out.burst_gap = SpreadOf(std::move(burst_gap));
  out.tpot = SpreadOf(std::move(tpot));
  out.e2e = SpreadOf(std::move(e2e));
  out.refusal = SpreadOf(std::move(refusal));
  return out;
}

nlohmann::ordered_json SummaryJson(const LoadSummary& s, const ServiceGoals& goals) {
  nlohmann::ordered_json out;
  const bool closed = s.plan.concurrency > 0;
  out["mode"] = closed ? "closed" : "open";
  out["concurrency"] = closed ? nlohmann::ordered_json(s.plan.concurrency) : nullptr;
  out["rate"] = closed ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(s.plan.rate);
  out["requests"] = s.requests;
  out["completed"] = s.completed;
  out["failures"] = nlohmann::ordered_json::object();
  for (const auto& [failure, count] : s.failures) out["failures"][failure] = count;
  out["first_failure"] = nullptr;
  if (!s.failures.empty()) out["first_failure"] = s.first_message;
  out["seconds"] = s.seconds;
  out["requests_per_second"] = Share(static_cast<double>(s.completed), s.seconds);
  const bool has_goals = goals.ttft_ms || goals.itl_ms;
  out["good"] = has_goals ? nlohmann::ordered_json(s.good) : nullptr;
  out["goodput_per_second"] =
      has_goals ? nlohmann::ordered_json(Share(static_cast<double>(s.good), s.seconds)) : nullptr;
  out["prompt_tokens"] = s.prompt_tokens;
  out["cached_tokens"] = s.cached_tokens;
  out["output_tokens"] = s.output_tokens;
  out["tokens_from"] = s.counted_by_server ? "usage" : "chunks";
  out["output_tokens_per_second"] = Share(static_cast<double>(s.output_tokens), s.seconds);
  out["tokens_per_second"] = Share(static_cast<double>(s.prompt_tokens + s.output_tokens), s.seconds);
  out["chunks"] = s.chunks;
  out["bursts"] = s.bursts;
  out["steps"] = CountJson(s.steps);
  out["drafted"] = CountJson(s.drafted);
  out["accepted"] = CountJson(s.accepted);
  out["ttft_ms"] = SpreadJson(s.ttft);
  out["itl_ms"] = SpreadJson(s.itl);
  out["burst_gap_ms"] = SpreadJson(s.burst_gap);
  out["tpot_ms"] = SpreadJson(s.tpot);
  out["e2e_ms"] = SpreadJson(s.e2e);
  out["refusal_ms"] = SpreadJson(s.refusal);
  return out;
}

std::string SummaryTables(const std::vector<LoadSummary>& summaries, const ServiceGoals& goals,
                          bool markdown) {
  const bool has_goals = goals.ttft_ms || goals.itl_ms;
  Rows rates = {{"load", "requests", "done", "failed", "seconds", "req/s", "out tok/s", "all tok/s"}};
  if (has_goals) rates.front().push_back("good/s");
  Rows latency = {{"load", "ms", "mean", "p50", "p90", "p95", "p99", "max"}};
  Rows counts = {
      {"load", "prompt", "cached", "out tokens", "chunks", "bursts", "steps", "drafted", "accepted"}};
  std::string failures;
  for (const LoadSummary& s : summaries) {
    const std::string load = LoadName(s.plan);
    rates.push_back(
        {load, absl::StrCat(s.requests), absl::StrCat(s.completed), absl::StrCat(s.requests - s.completed),
         absl::StrFormat("%.1f", s.seconds),
         absl::StrFormat("%.2f", Share(static_cast<double>(s.completed), s.seconds)),
         absl::StrFormat("%.1f", Share(static_cast<double>(s.output_tokens), s.seconds)),
         absl::StrFormat("%.1f", Share(static_cast<double>(s.prompt_tokens + s.output_tokens), s.seconds))});
    if (has_goals)
      rates.back().push_back(absl::StrFormat("%.2f", Share(static_cast<double>(s.good), s.seconds)));
    latency.push_back(LatencyRow(load, "first chunk (TTFT)", s.ttft));
    latency.push_back(LatencyRow(load, "between chunks (ITL)", s.itl));
    latency.push_back(LatencyRow(load, "between bursts", s.burst_gap));
    latency.push_back(LatencyRow(load, "per token (TPOT)", s.tpot));
    latency.push_back(LatencyRow(load, "whole answer", s.e2e));
    if (s.refusal.count > 0) latency.push_back(LatencyRow(load, "refusal", s.refusal));
    counts.push_back({load, absl::StrCat(s.prompt_tokens), absl::StrCat(s.cached_tokens),
                      absl::StrCat(s.output_tokens, s.counted_by_server ? "" : " (chunks)"),
                      absl::StrCat(s.chunks), absl::StrCat(s.bursts), Count(s.steps), Count(s.drafted),
                      Count(s.accepted)});
    for (const auto& [failure, count] : s.failures)
      absl::StrAppend(&failures, load, ": ", count, " failed with ", failure, "\n");
    if (!s.failures.empty()) absl::StrAppend(&failures, load, ": the first said: ", s.first_message, "\n");
  }
  std::string out =
      absl::StrCat(Table(rates, markdown), "\n", Table(latency, markdown), "\n", Table(counts, markdown));
  if (!failures.empty()) absl::StrAppend(&out, "\n", failures);
  return out;
}

}  // namespace paceline::cli
