#include "cli/bench_text.h"

namespace paceline::cli {

std::string ProseOf(std::string_view markdown) {
  std::string out;
  bool code = false;
  while (!markdown.empty()) {
    const size_t end = markdown.find('\n');
    std::string_view line = markdown.substr(0, end);
    markdown.remove_prefix(end == std::string_view::npos ? markdown.size() : end + 1);
    if (line.starts_with("```")) code = !code;
    // Four blanks begin code, two go on with a list item.
    if (code || line.starts_with("```") || line.starts_with("    ")) continue;
    while (line.starts_with(' ')) line.remove_prefix(1);
    if (line.empty() || line.front() == '#' || line.front() == '|' || line.front() == '!') continue;
    if (line.starts_with("- ")) line.remove_prefix(2);
    if (!out.empty()) out.push_back(' ');
    out.append(line);
  }
  return out;
}

}  // namespace paceline::cli
