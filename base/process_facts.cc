// /proc/self, as proc(5) describes it.
#include "base/process_facts.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace paceline {
namespace {

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Fields of /proc/self/stat from the third on: the second, the name, may hold spaces and brackets.
std::vector<double> StatFields() {
  const std::string stat = ReadAll("/proc/self/stat");
  const size_t name_end = stat.rfind(')');
  std::vector<double> fields;
  if (name_end == std::string::npos || name_end + 3 >= stat.size()) return fields;
  std::istringstream rest(stat.substr(name_end + 3));  // behind the state, a letter
  for (double value = 0; rest >> value;) fields.push_back(value);
  return fields;
}

// "btime 1700000000" of /proc/stat: when the machine started.
double BootTime() {
  std::istringstream lines(ReadAll("/proc/stat"));
  double time = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("btime ")) std::istringstream(line.substr(6)) >> time;
  }
  return time;
}

}  // namespace

ProcessFacts ReadProcessFacts() {
  ProcessFacts facts;
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const int64_t page = sysconf(_SC_PAGESIZE);
  // proc(5) numbers from 1, and the list begins with 4: utime 14, stime 15, num_threads 20, starttime 22.
  if (const std::vector<double> fields = StatFields(); fields.size() > 18) {
    facts.cpu_s = (fields[10] + fields[11]) / ticks;
    facts.threads = static_cast<int64_t>(fields[16]);
    facts.start_time_s = BootTime() + fields[18] / ticks;
  }
  int64_t size = 0, resident = 0, shared = 0;
  std::istringstream(ReadAll("/proc/self/statm")) >> size >> resident >> shared;
  facts.virtual_bytes = size * page;
  facts.resident_bytes = resident * page;
  facts.anonymous_bytes = (resident - shared) * page;
  std::error_code error;
  std::filesystem::directory_iterator file("/proc/self/fd", error);
  for (; !error && file != end(file); file.increment(error)) ++facts.open_files;
  if (facts.open_files > 0) --facts.open_files;  // the one that looks
  return facts;
}

}  // namespace paceline
