// `bench load`: a whole load of a head, beside what the disk gives to reads of the same files that nobody
// packs, and beside what memory costs that nobody has touched before.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/compute.h"
#include "cli/console.h"
#include "cli/head.h"
#include "cli/progress.h"
#include "cli/report.h"
#include "kernels/cpu/cpu.h"
#include "model/huge_memory.h"
#include "model/read_rate.h"
#include "nlohmann/json.hpp"

namespace paceline::cli {
namespace {

// A field of /proc/self/status in bytes, 0 where there is none.
int64_t StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field + ":", 0) != 0) continue;
    const size_t digits = line.find_first_of("0123456789");
    return digits == std::string::npos ? 0 : std::strtoll(line.c_str() + digits, nullptr, 10) * 1024;
  }
  return 0;
}

// VmHWM counts from here on.
void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// Seconds in which `threads` threads touch `bytes` of fresh memory on huge pages, and give it back.
double Touch(int64_t bytes, int threads) {
  constexpr int64_t kPage = 4096;
  const HugeMemory memory(bytes);
  const TimePoint start = Clock::Real().Now();
  std::vector<std::thread> touching;
  for (int t = 0; t < threads; ++t) {
    touching.emplace_back([&memory, bytes, threads, t] {
      for (int64_t at = bytes / threads * t; at < bytes / threads * (t + 1); at += kPage)
        reinterpret_cast<volatile char*>(memory.data())[at] = 1;
    });
  }
  for (std::thread& thread : touching) thread.join();
  return Seconds(Clock::Real().Now() - start);
}

struct Stage {
  const char* name;
  double seconds;
};

struct Measured {
  double open_s = 0;
  double load_s = 0;
  LoadReport report;
  ReadRate before, after;
  int64_t touched_bytes = 0;  // 0: nothing was touched before the load
  double touch_s = 0, touch_again_s = 0;
  int64_t weight_bytes = 0;
  int64_t peak_bytes = 0;  // of resident memory, at the end of the load

  double rate() const { return load_s > 0 ? static_cast<double>(report.bytes) / load_s : 0; }
  // The better of the two: a disk may have been busy.
  double direct_rate() const { return std::max(before.bytes_per_second(), after.bytes_per_second()); }
  double share() const { return direct_rate() > 0 ? rate() / direct_rate() : 0; }
  std::vector<Stage> stages() const {
    return {{"headers", open_s},
            {"load", load_s},
            {"compute threads waiting for reads", report.wait_seconds},
            {"compute threads packing", report.work_seconds}};
  }
};

absl::StatusOr<Measured> Measure(const BenchLoadOptions& options, std::string* isa, int* threads) {
  Measured m;
  HeadConfig config;
  config.options = options.head;
  config.nodes = 1 + options.head.cluster.local_workers;
  const TimePoint start = Clock::Real().Now();
  ASSIGN_OR_RETURN(const std::unique_ptr<Head> head, Head::Open(config));
  m.open_s = Seconds(Clock::Real().Now() - start);
  *isa = std::string(head->compute().table->name);
  *threads = head->compute().threads;
  const LoadOptions reading;  // the fastest way there is, whatever the load is told
  const int64_t limit = options.limit_gb * 1'000'000'000;
  DropFromPageCache(head->checkpoint());
  ASSIGN_OR_RETURN(m.before, MeasureReadRate(head->checkpoint(), reading, limit));
  DropFromPageCache(head->checkpoint());
  if (options.touch_first) {
    m.touched_bytes = m.before.bytes;
    m.touch_s = Touch(m.touched_bytes, *threads);
    m.touch_again_s = Touch(m.touched_bytes, *threads);
    ForgetPeak();
  }
  const TimePoint begin = Clock::Real().Now();
  RETURN_IF_ERROR(head->Load(kLocalPatience));
  m.load_s = Seconds(Clock::Real().Now() - begin);
  m.report = head->trunk()->load_report();
  m.weight_bytes = head->trunk()->weight_bytes();
  m.peak_bytes = StatusBytes("VmHWM");
  DropFromPageCache(head->checkpoint());
  ASSIGN_OR_RETURN(m.after, MeasureReadRate(head->checkpoint(), reading, limit));
  return m;
}

void PrintJson(const Measured& m, const std::string& cpu, const std::string& isa, int threads) {
  nlohmann::json out;
  out["cpu"] = cpu;
  out["isa"] = isa;
  out["threads"] = threads;
  out["mode"] = m.report.mode;
  out["notes"] = m.report.notes;
  out["bytes"] = m.report.bytes;
  out["read_bytes"] = m.report.read_bytes;
  out["reads"] = m.report.reads;
  out["reads_by_jobs"] = m.report.misses;
  out["seconds"] = m.load_s;
  out["gbps"] = m.rate() / 1e9;
  out["direct"] = {{"mode", m.before.mode},
                   {"bytes", m.before.bytes},
                   {"before_gbps", m.before.bytes_per_second() / 1e9},
                   {"after_gbps", m.after.bytes_per_second() / 1e9}};
  out["direct_gbps"] = m.direct_rate() / 1e9;
  if (m.touched_bytes > 0) {
    const auto bytes = static_cast<double>(m.touched_bytes);
    out["touch"] = {{"bytes", m.touched_bytes},
                    {"first_gbps", bytes / m.touch_s / 1e9},
                    {"again_gbps", bytes / m.touch_again_s / 1e9}};
  }
  out["share_of_direct"] = m.share();
  out["stages"] = nlohmann::json::array();
  for (const Stage& stage : m.stages())
    out["stages"].push_back({{"name", stage.name}, {"seconds", stage.seconds}});
  out["weight_bytes"] = m.weight_bytes;
  out["peak_rss_bytes"] = m.peak_bytes;
  std::printf("%s\n", out.dump().c_str());
}

void PrintTables(const Measured& m, const std::string& cpu, const std::string& isa, int threads) {
  std::printf("%s, %s, %d threads, %s\n\n", cpu.c_str(), isa.c_str(), threads, m.report.mode.c_str());
  std::printf("| what | bytes | seconds | GB/s | share of the disk's rate |\n|---|---|---|---|---|\n");
  for (const auto& [name, rate] :
       {std::pair("reading alone, before", &m.before), {"reading alone, after", &m.after}}) {
    std::printf("| %s | %s | %.2f | %.2f | |\n", name, BytesText(rate->bytes).c_str(), rate->seconds,
                rate->bytes_per_second() / 1e9);
  }
  if (m.touched_bytes > 0) {
    for (const auto& [name, seconds] :
         {std::pair("touching fresh memory", m.touch_s), {"again", m.touch_again_s}}) {
      std::printf("| %s | %s | %.2f | %.2f | |\n", name, BytesText(m.touched_bytes).c_str(), seconds,
                  static_cast<double>(m.touched_bytes) / seconds / 1e9);
    }
  }
  std::printf("| load | %s | %.2f | %.2f | %.0f %% |\n\n", BytesText(m.report.bytes).c_str(), m.load_s,
              m.rate() / 1e9, 100 * m.share());
  std::printf("| stage | seconds |\n|---|---|\n");
  for (const Stage& stage : m.stages()) std::printf("| %s | %.2f |\n", stage.name, stage.seconds);
  std::printf(
      "\n| memory | bytes |\n|---|---|\n| weights | %s |\n| peak of the process | %s |\n| above weights | %s "
      "|\n",
      BytesText(m.weight_bytes).c_str(), BytesText(m.peak_bytes).c_str(),
      BytesText(m.peak_bytes - m.weight_bytes).c_str());
}

}  // namespace

int Run(const BenchLoadOptions& options) {
  std::string isa;
  int threads = 0;
  const absl::StatusOr<Measured> measured = Measure(options, &isa, &threads);
  if (StopRequested() && absl::IsCancelled(measured.status())) return SignalStatus();
  if (!measured.ok()) return StdErr().Fail(measured.status());
  const std::string cpu = absl::StrCat(CpuName(), " (", std::string(kernels::cpu::CpuClass()), ")");
  if (options.json) {
    PrintJson(*measured, cpu, isa, threads);
  } else {
    PrintTables(*measured, cpu, isa, threads);
  }
  return 0;
}

}  // namespace paceline::cli
