#include "cli/event_stream.h"

#include <utility>

namespace paceline::cli {

std::vector<std::string> EventStream::Feed(std::string_view bytes) {
  std::vector<std::string> events;
  for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
    line_.append(bytes.substr(0, end));
    if (line_.ends_with('\r')) line_.pop_back();
    TakeLine(line_, &events);
    line_.clear();
  }
  line_.append(bytes);
  return events;
}

void EventStream::TakeLine(std::string_view line, std::vector<std::string>* events) {
  if (line.empty()) {
    if (std::exchange(has_data_, false)) events->push_back(std::exchange(data_, {}));
    return;
  }
  constexpr std::string_view kField = "data:";
  if (!line.starts_with(kField)) return;  // a comment, or a field that nobody here needs
  line.remove_prefix(kField.size());
  if (line.starts_with(' ')) line.remove_prefix(1);
  if (std::exchange(has_data_, true)) data_.push_back('\n');
  data_.append(line);
}

}  // namespace paceline::cli
