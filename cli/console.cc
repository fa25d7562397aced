// Lines and bars. A bar is redrawn in place, so every other line first takes it away.
#include "cli/console.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/error.h"

namespace paceline::cli {
namespace {

constexpr int kBarCells = 32;
constexpr int kSignalBase = 128;  // a shell says 128 + the signal

std::atomic<bool> stop_requested{false};
std::atomic<int> stop_signal{0};

void OnSignal(int signal) {
  stop_signal.store(signal, std::memory_order_relaxed);
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

int SignalStatus() {
  const int signal = stop_signal.load(std::memory_order_relaxed);
  return signal == 0 ? 0 : kSignalBase + signal;
}

int EndOutput(int status) {
  const bool failed_before = std::ferror(stdout) != 0;
  errno = 0;
  const bool failed = std::fflush(stdout) != 0 || failed_before;
  if (!failed) return status;
  // The error of an earlier write is no longer known; one more tells a reader that left from a full disk.
  if (errno == 0 && write(STDOUT_FILENO, "\n", 1) == 1) errno = EIO;
  if (errno == EPIPE) return kSignalBase + SIGPIPE;
  StdErr().Line(absl::StrCat("error: stdout could not be written: ", std::strerror(errno)));
  return status == 0 ? 1 : status;
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace paceline::cli
