// What people see on stderr: lines, and one bar while weights are loaded. Data goes to stdout and never
// through here.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "cli/progress.h"

namespace paceline::cli {

// Thread-safe.
class Console {
 public:
  Console();

  // One line, above the bar where there is one.
  void Line(const std::string& text);
  // The same, but nothing when this text was said before.
  void Once(const std::string& text);
  // "error: ..." and the exit status that belongs to it.
  int Fail(const absl::Status& status);

  // Bytes of one node's load, with rate and time left. A bar of all nodes on a terminal, else a line per node
  // now and then (cli/progress.h).
  void Progress(const std::string& node, int64_t done_bytes, int64_t total_bytes);
  // Takes the bar away.
  void EndProgress();

 private:
  void DrawBar();
  void EraseBar();

  const bool terminal_;
  std::mutex mutex_;
  std::map<std::string, LoadTrack> loads_;
  std::set<std::string> said_;  // by Once
  bool drawn_ = false;
};

// The process's own.
Console& StdErr();

// Flushes stdout, and turns `status` into a failure when what was printed did not all get out: 141 and not a
// word when the reader went away, as a shell expects of a pipe.
int EndOutput(int status);

// Turns true at the first SIGINT or SIGTERM; a second SIGINT ends the process at once.
bool StopRequested();
void CatchSignals();
// 130 or 143, after the signal that came; 0 when none has.
int SignalStatus();
// Whether a SIGINT had come; it then counts as none. For sessions where it ends an answer, not the process; a
// second one that comes before this is asked still ends the process.
bool TakeInterrupt();

}  // namespace paceline::cli
