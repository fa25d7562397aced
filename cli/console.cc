// Lines and bars. A bar is redrawn in place, so every other line first takes it away.
#include "cli/console.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"

namespace paceline::cli {
namespace {

constexpr int kBarCells = 32;

std::atomic<bool> stop_requested{false};

void OnSignal(int signal) {
  if (stop_requested.exchange(true) && signal == SIGINT) _exit(130);
}

double MiB(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

Console::Console() : terminal_(isatty(STDERR_FILENO) == 1) {}

void Console::Line(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  EraseBar();
  std::fprintf(stderr, "%s\n", text.c_str());
}

int Console::Fail(const absl::Status& status) {
  Line(absl::StrCat("error: ", std::string(status.message())));
  return ExitStatus(status);
}

void Console::Progress(const std::string& node, int64_t done_bytes, int64_t total_bytes) {
  if (total_bytes <= 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  Load& load = loads_[node];
  load.done = done_bytes;
  load.total = total_bytes;
  if (terminal_) {
    DrawBar();
    return;
  }
  const int quarters = static_cast<int>(4 * done_bytes / total_bytes);
  if (quarters <= load.quarters) return;
  load.quarters = quarters;
  std::fprintf(stderr, "%s: loaded %d %% of %.1f MiB\n", node.c_str(), 25 * quarters, MiB(total_bytes));
}

void Console::EndProgress() {
  const std::lock_guard<std::mutex> lock(mutex_);
  EraseBar();
  loads_.clear();
}

void Console::DrawBar() {
  int64_t done = 0, total = 0;
  for (const auto& [node, load] : loads_) {
    done += load.done;
    total += load.total;
  }
  const int cells = static_cast<int>(std::clamp<int64_t>(kBarCells * done / total, 0, kBarCells));
  const std::string bar =
      std::string(static_cast<size_t>(cells), '#') + std::string(static_cast<size_t>(kBarCells - cells), '.');
  std::fprintf(stderr, "\r\033[Kloading [%s] %.0f of %.0f MiB on %zu %s", bar.c_str(), MiB(done), MiB(total),
               loads_.size(), loads_.size() == 1 ? "node" : "nodes");
  drawn_ = true;
}

void Console::EraseBar() {
  if (std::exchange(drawn_, false)) std::fputs("\r\033[K", stderr);
}

Console& StdErr() {
  static Console console;
  return console;
}

bool StopRequested() { return stop_requested.load(std::memory_order_relaxed); }

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace paceline::cli
