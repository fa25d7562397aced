// Lines from a person: with editing and a history where both ends are terminals, plainly where not. Signals
// end the waiting.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace paceline::cli {

struct InputLine {
  enum class Kind : uint8_t {
    kLine,
    kEnd,      // of the input
    kStopped,  // a signal came
  };
  Kind kind = Kind::kEnd;
  std::string text = {};  // of kLine, without its end
};

// Of stdin. Used by one thread.
class LineReader {
 public:
  virtual ~LineReader() = default;
  // Shows `prompt` on a terminal.
  virtual InputLine Next(const std::string& prompt) = 0;
};

// With editing (libedit; the person's own ~/.editrc holds) where `terminal` is true.
std::unique_ptr<LineReader> OpenLineReader(bool terminal);

}  // namespace paceline::cli
