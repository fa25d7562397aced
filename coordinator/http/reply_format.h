// What an API dialect implements: how the events of generations read in its own words. The call that drives
// it is coordinator/http/call.h.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/http/message.h"
#include "coordinator/request.h"

namespace paceline {

// How one API says what generations do. Owned by a call, used on the server's thread only. Everything is
// appended to `out`: frames of a stream, or, from Finish alone, the body of an answer in one piece.
class ReplyFormat {
 public:
  virtual ~ReplyFormat() = default;
  virtual void Started(size_t index, const GenerationStarted& started, std::string* out) = 0;
  // Where it was asked for, before the first tokens.
  virtual void Prompt(size_t, std::vector<PromptToken>, std::string*) {}
  virtual void Tokens(size_t index, std::vector<GeneratedToken> tokens, std::string* out) = 0;
  // A generation that ended well.
  virtual void Ended(size_t index, const GenerationEnd& end, std::string* out) = 0;
  // All of them have.
  virtual void Finish(std::string* out) = 0;
  // The stream ends with an error; nothing follows.
  virtual void Failed(const absl::Status& status, std::string* out) = 0;
  // The error before anything else was said.
  virtual HttpAnswer Refusal(const absl::Status& status) const = 0;
  // What a stream says to say that it lives.
  virtual std::string_view heartbeat() const { return ": still here\n\n"; }
};

struct CallOptions {
  bool stream = false;
  Duration heartbeat = std::chrono::seconds(10);  // of silence
};

// One server-sent event.
inline void AppendFrame(std::string_view data, std::string* out) {
  out->append("data: ").append(data).append("\n\n");
}
inline void AppendNamedFrame(std::string_view event, std::string_view data, std::string* out) {
  out->append("event: ").append(event).append("\n");
  AppendFrame(data, out);
}

}  // namespace paceline
