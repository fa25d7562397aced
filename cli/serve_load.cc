#include "cli/serve_load.h"

#include <cmath>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/random.h"

namespace paceline::cli {
namespace {

constexpr int kTooMany = 429;
constexpr int kNotNow = 503;

float Milliseconds(Duration d) { return static_cast<float>(Seconds(d) * 1e3); }

// Writes one record, and says when it is whole.
class Request final : public OpenAiAnswer {
 public:
  Request(RequestRecord& record, std::function<void()> done) : record_(record), done_(std::move(done)) {}

  void OnText(std::string_view, std::string_view, TimePoint at) override {
    if (record_.chunks > 0) record_.chunk_gaps_ms.push_back(Milliseconds(at - record_.last));
    if (record_.bursts == 0) {
      record_.first = at;
      record_.bursts = 1;
    } else if (at != record_.last) {
      record_.burst_gaps_ms.push_back(Milliseconds(at - record_.last));
      ++record_.bursts;
    }
    ++record_.chunks;
    record_.last = at;
  }
  void OnDone(const absl::Status& status, TimePoint at) override {
    record_.end = at;
    record_.counts = counts();
    if (error()) {
      const std::string where = error()->status == 200 ? "stream" : absl::StrCat(error()->status);
      record_.failure = absl::StrCat(where, error()->code.empty() ? "" : " ", error()->code);
      record_.message = error()->message;
      record_.refused = error()->status == kTooMany || error()->status == kNotNow;
    } else if (!status.ok()) {
      record_.message = std::string(status.message());
      record_.failure = std::string(CodeOf(record_.message));
      if (record_.failure.empty()) record_.failure = "cancelled";
    }
    done_();
  }

 private:
  RequestRecord& record_;
  const std::function<void()> done_;
};

// What both loops share; lives on RunLoad's stack while the loop runs.
class Load {
 public:
  Load(HttpLoop& loop, const LoadPlan& plan, const std::function<HttpCall(int64_t)>& call,
       const std::function<bool()>& wanted)
      : loop_(loop), plan_(plan), call_(call), wanted_(wanted), start_(Clock::Real().Now()) {}

  void StartClosed() {
    for (int i = 0; i < plan_.concurrency; ++i) Next();
  }
  void StartOpen() {
    // Enough for the plan's duration: a longer list changes none of its beginning.
    int64_t count = plan_.requests;
    if (count == 0) count = static_cast<int64_t>(2 * plan_.rate * Seconds(plan_.duration)) + 64;
    for (const double arrival : PoissonArrivals(plan_.rate, count, plan_.seed)) {
      const auto after = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arrival));
      if (plan_.duration > Duration::zero() && after >= plan_.duration) break;
      const TimePoint due = start_ + after;
      loop_.At(due, [this, due] { Send(due, [] {}); });
    }
  }
  std::vector<RequestRecord> Take() {
    std::vector<RequestRecord> out;
    out.reserve(records_.size());
    for (const auto& record : records_) out.push_back(std::move(*record));
    return out;
  }

 private:
  void Next() {
    if (!wanted_()) return;
    const TimePoint now = Clock::Real().Now();
    if (plan_.requests > 0 && static_cast<int64_t>(records_.size()) >= plan_.requests) return;
    if (plan_.duration > Duration::zero() && now - start_ >= plan_.duration) return;
    Send(now, [this] { Next(); });
  }
  void Send(TimePoint due, std::function<void()> done) {
    const auto i = static_cast<int64_t>(records_.size());
    records_.push_back(std::make_unique<RequestRecord>());
    records_.back()->due = due;
    loop_.Send(call_(i), std::make_shared<Request>(*records_.back(), std::move(done)));
  }

  HttpLoop& loop_;
  const LoadPlan& plan_;
  const std::function<HttpCall(int64_t)>& call_;
  const std::function<bool()>& wanted_;
  const TimePoint start_;
  std::vector<std::unique_ptr<RequestRecord>> records_;  // stay where they are: requests write to them
};

}  // namespace

// Gaps are -ln(u) / rate: the inverse of the exponential distribution, the same on every machine.
std::vector<double> PoissonArrivals(double rate, int64_t count, uint64_t seed) {
  std::mt19937_64 draw(seed);
  std::vector<double> arrivals;
  arrivals.reserve(static_cast<size_t>(count));
  double time = 0;
  for (int64_t i = 0; i < count; ++i) {
    time += -std::log(UniformOf(draw())) / rate;
    arrivals.push_back(time);
  }
  return arrivals;
}

std::vector<RequestRecord> RunLoad(HttpLoop& loop, const LoadPlan& plan,
                                   const std::function<HttpCall(int64_t i)>& call,
                                   const std::function<bool()>& wanted) {
  Load load(loop, plan, call, wanted);
  plan.concurrency > 0 ? load.StartClosed() : load.StartOpen();
  loop.Run(wanted);
  return load.Take();
}

}  // namespace paceline::cli
