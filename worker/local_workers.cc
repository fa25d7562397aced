// fork and exec by hand: only so can a child ask the kernel to be ended with its parent before it runs
// anything.
#include "worker/local_workers.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline {
namespace {

constexpr Duration kGrace = std::chrono::seconds(2);
constexpr int kPollMs = 5;

std::string HowItEnded(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("ended by signal ", WTERMSIG(status));
  return absl::StrCat("exited with status ", WEXITSTATUS(status));
}

// In the child, between fork and exec: nothing here may allocate or lock.
[[noreturn]] void BecomeWorker(const char* program, char* const* argv, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // the parent went before the request was made
  // Ctrl-C in a terminal reaches the whole group; the head alone decides when its workers end.
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(program, argv);
  _exit(127);
}

}  // namespace

int CoresHere() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int ThreadsPerRank(int ranks) { return std::max(1, CoresHere() / std::max(1, ranks)); }

absl::StatusOr<std::unique_ptr<LocalWorkers>> LocalWorkers::Spawn(const LocalWorkersConfig& config) {
  std::unique_ptr<LocalWorkers> workers(new LocalWorkers());
  const pid_t parent = getpid();
  for (int i = 1; i <= config.count; ++i) {
    const std::string name = absl::StrCat("local-", i);
    std::vector<std::string> words = {"paceline",   "worker", "--join", config.join, "--model",
                                      config.model, "--name", name,     "--rank",    absl::StrCat(i)};
    words.insert(words.end(), config.arguments.begin(), config.arguments.end());
    if (!config.own.empty()) {
      const std::vector<std::string>& own = config.own[static_cast<size_t>(i - 1)];
      words.insert(words.end(), own.begin(), own.end());
    }
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid == 0) BecomeWorker(config.program.c_str(), argv.data(), parent);
    if (pid < 0) {
      return Error(errors::kUnreachable,
                   absl::StrCat("cannot start local worker ", name, ": ", std::strerror(errno)));
    }
    workers->pids_.push_back(pid);
    workers->names_.push_back(name);
  }
  return workers;
}

absl::Status LocalWorkers::Check() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    int status = 0;
    if (pids_[i] == 0 || waitpid(pids_[i], &status, WNOHANG) != pids_[i]) continue;
    if (exited_.ok()) {
      exited_ = Error(errors::kNodeLost, absl::StrCat("worker ", names_[i], " (pid ", pids_[i], ") ",
                                                      HowItEnded(status), "; its own message stands above"));
    }
    pids_[i] = 0;
  }
  return exited_;
}

LocalWorkers::~LocalWorkers() {
  for (const pid_t pid : pids_) {
    if (pid != 0) kill(pid, SIGTERM);
  }
  const TimePoint deadline = Clock::Real().Now() + kGrace;
  const auto all_reaped = [this] {
    Check().IgnoreError();
    return std::all_of(pids_.begin(), pids_.end(), [](pid_t pid) { return pid == 0; });
  };
  while (!all_reaped() && Clock::Real().Now() < deadline) poll(nullptr, 0, kPollMs);
  for (const pid_t pid : pids_) {
    if (pid == 0) continue;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
}

}  // namespace paceline
