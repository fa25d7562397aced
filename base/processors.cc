// Linux: affinity masks, and which processors share a core from /sys.
#include "base/processors.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

// Threads of one core have the same answer; without one, every processor is a core of its own.
std::string CoreOf(int processor) {
  std::string siblings;
  std::getline(
      std::ifstream(absl::StrCat("/sys/devices/system/cpu/cpu", processor, "/topology/thread_siblings_list")),
      siblings);
  return siblings.empty() ? absl::StrCat(processor) : siblings;
}

absl::Status Unreadable(absl::string_view list) {
  return Error(errors::kOption, absl::StrCat("processors are numbers and ranges like 0-3,8; \"", list,
                                             "\" is neither a list of them nor auto nor off"));
}

}  // namespace

std::vector<int> ProcessorsHere() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {};
  std::map<std::string, int> seen;              // core -> its processors so far
  std::vector<std::pair<int, int>> processors;  // which of its core, number
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.emplace_back(seen[CoreOf(i)]++, i);
  }
  std::sort(processors.begin(), processors.end());
  std::vector<int> out;
  for (const auto& [nth, number] : processors) out.push_back(number);
  return out;
}

absl::StatusOr<std::vector<int>> ParseProcessors(std::string_view list) {
  const absl::string_view text(list.data(), list.size());
  const std::vector<int> here = ProcessorsHere();
  std::vector<int> out;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(item, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last) ||
        first < 0 || last < first || last >= CPU_SETSIZE) {
      return Unreadable(text);
    }
    for (int i = first; i <= last; ++i) {
      if (std::find(here.begin(), here.end(), i) == here.end()) {
        return Error(errors::kOption, absl::StrCat("processor ", i, " is not one this process may run on (",
                                                   ProcessorsText(here), ")"));
      }
      if (std::find(out.begin(), out.end(), i) == out.end()) out.push_back(i);
    }
  }
  return out;
}

std::string ProcessorsText(const std::vector<int>& processors) { return absl::StrJoin(processors, ","); }

bool StayOn(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

}  // namespace paceline
