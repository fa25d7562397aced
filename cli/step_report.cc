// Tables and JSON of measured steps.
#include "cli/step_report.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace paceline::cli {
namespace {

constexpr char kRemark[] = "remark";
constexpr double kMuch = 0.05;           // of a step
constexpr double kOutOfTune = 2.0;       // share of the time over share of the bytes
constexpr double kNotWorthALine = 2e-4;  // of a step, without bytes

double Gbps(int64_t bytes, double seconds) {
  return seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0.0;
}
double Share(double part, double whole) { return whole > 0 ? part / whole : 0.0; }

// The decode step that a verify step is compared with; null without one.
const MeasuredStep* DecodeOf(const StepReport& report) {
  for (const MeasuredStep& step : report.steps) {
    if (step.kind == "decode" && step.step_s > 0 && step.bytes() > 0) return &step;
  }
  return nullptr;
}

// A verify step's time over decode, divided by the ratio of their bytes: 1 where rows cost only what they
// read. 0 where there is nothing to compare.
double OverByteRatio(const MeasuredStep& step, const MeasuredStep* decode) {
  if (step.kind != "verify" || decode == nullptr || step.bytes() == 0) return 0;
  return step.step_s / decode->step_s /
         (static_cast<double>(step.bytes()) / static_cast<double>(decode->bytes()));
}

// What loses most comes first.
std::vector<const StepStage*> ByLoss(const MeasuredStep& step, double gbps) {
  std::vector<const StepStage*> stages;
  for (const StepStage& stage : step.stages) {
    if (stage.bytes > 0 || stage.seconds > kNotWorthALine * step.step_s) stages.push_back(&stage);
  }
  std::stable_sort(stages.begin(), stages.end(), [&](const StepStage* a, const StepStage* b) {
    return LostSeconds(a->seconds, a->bytes, gbps) > LostSeconds(b->seconds, b->bytes, gbps);
  });
  return stages;
}

using Row = std::vector<std::string>;

// The first row is the head. The first column and one of remarks are words, the others numbers.
std::string Table(const std::vector<Row>& rows, bool markdown) {
  std::string out;
  if (markdown) {
    for (size_t r = 0; r < rows.size(); ++r) {
      for (const std::string& cell : rows[r]) absl::StrAppend(&out, "| ", cell, " ");
      out += "|\n";
      if (r > 0) continue;
      for (size_t c = 0; c < rows[0].size(); ++c) out += "|---";
      out += "|\n";
    }
    return out;
  }
  std::vector<size_t> width(rows[0].size(), 0);
  for (const Row& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  for (const Row& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(width[c] - row[c].size(), ' ');
      const bool words = c == 0 || rows[0][c] == kRemark;
      absl::StrAppend(&line, words ? row[c] : space, words ? space : row[c], "  ");
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3f ms", seconds * 1e3); }
std::string Megabytes(int64_t bytes) { return absl::StrFormat("%.2f MB", static_cast<double>(bytes) / 1e6); }
std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string Title(const MeasuredStep& step) {
  return absl::StrCat(step.kind, " of ", step.rows, step.rows == 1 ? " row" : " rows");
}

std::string StageTable(const MeasuredStep& step, double gbps, bool markdown) {
  std::vector<Row> rows = {
      {"stage", "time", "of the step", "bytes", "of the bytes", "GB/s", "of R", "lost against R", kRemark}};
  const double bytes = static_cast<double>(step.bytes());
  const std::vector<const StepStage*> stages = ByLoss(step, gbps);
  for (const StepStage* stage : stages) {
    const double speed = Gbps(stage->bytes, stage->seconds);
    const double of_step = Share(stage->seconds, step.step_s);
    const double of_bytes = Share(static_cast<double>(stage->bytes), bytes);
    std::string remark;
    if (Conspicuous(*stage, step))
      remark = absl::StrCat("! ", Percent(of_step), " of the step for ", Percent(of_bytes), " of its bytes");
    rows.push_back({stage->name, Milliseconds(stage->seconds), Percent(of_step), Megabytes(stage->bytes),
                    Percent(of_bytes), absl::StrFormat("%.1f", speed), gbps > 0 ? Percent(speed / gbps) : "-",
                    Milliseconds(LostSeconds(stage->seconds, stage->bytes, gbps)), remark});
  }
  std::string out = Table(rows, markdown);
  const double lost = LostSeconds(step.step_s, step.bytes(), gbps);
  if (gbps > 0 && lost > 0 && !stages.empty()) {
    const StepStage& worst = *stages.front();
    absl::StrAppend(&out, markdown ? "\n" : "", Title(step), ": ", Milliseconds(lost), " of ",
                    Milliseconds(step.step_s), " go beyond reading its bytes, ",
                    Milliseconds(LostSeconds(worst.seconds, worst.bytes, gbps)), " of them in ", worst.name,
                    ".\n");
  }
  return out;
}

}  // namespace

int64_t MeasuredStep::bytes() const {
  return std::accumulate(stages.begin(), stages.end(), int64_t{0},
                         [](int64_t sum, const StepStage& stage) { return sum + stage.bytes; });
}

double LostSeconds(double seconds, int64_t bytes, double gbps) {
  return gbps > 0 ? seconds - static_cast<double>(bytes) / (gbps * 1e9) : seconds;
}

bool Conspicuous(const StepStage& stage, const MeasuredStep& step) {
  const double of_step = Share(stage.seconds, step.step_s);
  const double of_bytes = Share(static_cast<double>(stage.bytes), static_cast<double>(step.bytes()));
  return of_step > kMuch && of_step > kOutOfTune * of_bytes;
}

nlohmann::ordered_json StepReportJson(const StepReport& report) {
  using Json = nlohmann::ordered_json;
  const double gbps = report.read_bandwidth_gbps;
  const MeasuredStep* decode = DecodeOf(report);
  Json out = {{"read_bandwidth_gbps", gbps},
              {"cpu", report.cpu},
              {"isa", report.isa},
              {"threads", report.threads},
              {"results", Json::array()}};
  for (const MeasuredStep& step : report.steps) {
    const int64_t bytes = step.bytes();
    Json result = {{"rows", step.rows},
                   {"kind", step.kind},
                   {"tokens_per_second", Share(static_cast<double>(step.tokens), step.step_s)},
                   {"step_s", step.step_s},
                   {"bytes", bytes},
                   {"gbps", Gbps(bytes, step.step_s)},
                   {"share_of_read_bandwidth", Share(Gbps(bytes, step.step_s), gbps)},
                   {"lost_s", LostSeconds(step.step_s, bytes, gbps)}};
    if (const double over = OverByteRatio(step, decode); over > 0) {
      result["step_over_decode"] = step.step_s / decode->step_s;
      result["step_over_decode_by_bytes"] = over;
    }
    result["stages"] = Json::array();
    for (const StepStage& stage : step.stages) {
      result["stages"].push_back(
          {{"name", stage.name},
           {"seconds", stage.seconds},
           {"bytes", stage.bytes},
           {"gbps", Gbps(stage.bytes, stage.seconds)},
           {"share_of_read_bandwidth", Share(Gbps(stage.bytes, stage.seconds), gbps)},
           {"share_of_step", Share(stage.seconds, step.step_s)},
           {"share_of_bytes", Share(static_cast<double>(stage.bytes), static_cast<double>(bytes))},
           {"lost_s", LostSeconds(stage.seconds, stage.bytes, gbps)},
           {"conspicuous", Conspicuous(stage, step)}});
    }
    out["results"].push_back(std::move(result));
  }
  return out;
}

std::string StepReportText(const StepReport& report, bool markdown) {
  const double gbps = report.read_bandwidth_gbps;
  std::string out = absl::StrFormat("%s, %s, %d threads, read bandwidth R = %.1f GB/s\n\n", report.cpu,
                                    report.isa, report.threads, gbps);
  const MeasuredStep* decode = DecodeOf(report);
  std::vector<Row> rows = {
      {"kind", "rows", "tok/s", "step", "bytes", "GB/s", "of R", "over decode, by bytes"}};
  for (const MeasuredStep& step : report.steps) {
    const double speed = Gbps(step.bytes(), step.step_s);
    const double over = OverByteRatio(step, decode);
    rows.push_back({step.kind, absl::StrCat(step.rows),
                    absl::StrFormat("%.1f", Share(static_cast<double>(step.tokens), step.step_s)),
                    Milliseconds(step.step_s), Megabytes(step.bytes()), absl::StrFormat("%.1f", speed),
                    gbps > 0 ? Percent(speed / gbps) : "-", over > 0 ? absl::StrFormat("%.2f", over) : "-"});
  }
  out += Table(rows, markdown);
  for (const MeasuredStep& step : report.steps) {
    absl::StrAppend(&out, "\n", markdown ? "#### " : "", Title(step), "\n", markdown ? "\n" : "",
                    StageTable(step, gbps, markdown));
  }
  return out;
}

}  // namespace paceline::cli
