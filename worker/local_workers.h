// Worker processes on the head's machine (--local-workers): children of the head running the same binary,
// ended with it.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace paceline {

// Compute threads of each of `ranks` processes that share this machine.
int ThreadsPerRank(int ranks);
// Cores this process may run on.
int CoresHere();

struct LocalWorkersConfig {
  int count = 0;
  std::string program = "/proc/self/exe";
  std::string join;                           // of the head, "127.0.0.1:7400"
  std::string model;                          // directory
  std::vector<std::string> arguments;         // after the ones made here: --backend, --isa, --threads ..
  std::vector<std::vector<std::string>> own;  // [count] of each worker, after those; or empty
};

// Owned by one thread, which must live as long as the workers are wanted: the kernel ends them when it exits.
class LocalWorkers {
 public:
  // Starts `count` children called local-1.., who ask for ranks 1.. Their stderr is this process's. NET-002
  // when a process cannot be started.
  static absl::StatusOr<std::unique_ptr<LocalWorkers>> Spawn(const LocalWorkersConfig& config);
  // Ends them: SIGTERM, after two seconds SIGKILL.
  ~LocalWorkers();

  // Ok while all run; else NET-001 with the name of the first that exited, and how. Does not wait.
  absl::Status Check();
  const std::vector<pid_t>& pids() const { return pids_; }

 private:
  LocalWorkers() = default;
  std::vector<pid_t> pids_;  // 0: reaped
  std::vector<std::string> names_;
  absl::Status exited_;
};

}  // namespace paceline
