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

}  // namespace

Console::Console() : terminal_(isatty(STDERR_FILENO) == 1) {}

void Console::Line(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  EraseBar();
  std::fprintf(stderr, "%s\n", text.c_str());
}

void Console::Once(const std::string& text) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!said_.insert(text).second) return;
  }
  Line(text);
}

int Console::Fail(const absl::Status& status) {
  Line(absl::StrCat("error: ", std::string(status.message())));
  return ExitStatus(status);
}

void Console::Progress(const std::string& node, int64_t done_bytes, int64_t total_bytes) {
  if (total_bytes <= 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const TimePoint now = Clock::Real().Now();
  LoadTrack& load = loads_[node];
  load.Update(now, done_bytes, total_bytes);
  if (terminal_) {
    DrawBar();
  } else if (load.DueInLog(now)) {
    std::fprintf(stderr, "%s: loaded %s\n", node.c_str(), load.Text().c_str());
  }
}

void Console::EndProgress() {
  const std::lock_guard<std::mutex> lock(mutex_);
  EraseBar();
  loads_.clear();
}

void Console::DrawBar() {
  int64_t done = 0, total = 0;
  double rate = 0, seconds_left = 0;
  for (const auto& [node, load] : loads_) {
    done += load.done();
    total += load.total();
    if (load.bytes_per_second() <= 0) continue;
    // The slowest node's end is everybody's.
    seconds_left =
        std::max(seconds_left, static_cast<double>(load.total() - load.done()) / load.bytes_per_second());
    if (load.done() < load.total()) rate += load.bytes_per_second();
  }
  const int cells = static_cast<int>(std::clamp<int64_t>(kBarCells * done / total, 0, kBarCells));
  const std::string bar =
      std::string(static_cast<size_t>(cells), '#') + std::string(static_cast<size_t>(kBarCells - cells), '.');
  std::fprintf(stderr, "\r\033[Kloading [%s] %s of %s, %.2f GB/s, %.0f s left%s", bar.c_str(),
               BytesText(done).c_str(), BytesText(total).c_str(), rate / 1e9, seconds_left,
               loads_.size() == 1 ? "" : absl::StrCat(", ", loads_.size(), " nodes").c_str());
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

bool TakeInterrupt() {
  int interrupt = SIGINT;
  if (!stop_signal.compare_exchange_strong(interrupt, 0)) return false;
  stop_requested.store(false);
  return true;
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
