// Server-sent events, cut anywhere: bytes go in, the data of whole events comes out. Format: WHATWG HTML,
// "Server-sent events", of which names and ids are passed over.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace paceline::cli {

class EventStream {
 public:
  // The data of every event that `bytes` completes; lines of one event are joined by \n.
  std::vector<std::string> Feed(std::string_view bytes);

 private:
  void TakeLine(std::string_view line, std::vector<std::string>* events);

  std::string line_;  // what has no end yet
  std::string data_;
  bool has_data_ = false;
};

}  // namespace paceline::cli
