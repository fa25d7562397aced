// The load of `bench serve`: streamed requests to one server, in a closed loop (so many at a time, the next
// when one ends) or an open one (arrivals of a Poisson process, whatever the server does), and what was seen
// of each.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/http_client.h"
#include "cli/openai_answer.h"

namespace paceline::cli {

struct LoadPlan {
  int concurrency = 0;   // of a closed loop; 0: an open one
  double rate = 0;       // of an open loop, requests per second
  int64_t requests = 0;  // 0: as many as `duration` has room for
  Duration duration{};   // none begins later; 0: no such limit. One of the two is given
  uint64_t seed = 1;     // of the arrivals
};

// A chunk is a frame with text; a burst, chunks that came with one read.
struct RequestRecord {
  TimePoint due{};    // when the plan wanted it sent: the beginning of all its times
  TimePoint first{};  // chunk
  TimePoint last{};   // chunk
  TimePoint end{};
  int64_t chunks = 0;
  int64_t bursts = 0;
  std::vector<float> chunk_gaps_ms;  // [chunks - 1]; 0 between chunks of one burst
  std::vector<float> burst_gaps_ms;  // [bursts - 1]
  OpenAiCounts counts;
  // Empty: ended well. Else HTTP's status and the server's code ("429 rate_limit_exceeded"), "stream" and its
  // code behind the first chunk, or ours ("NET-002").
  std::string failure;
  std::string message;   // of the failure
  bool refused = false;  // 429 or 503: the server wants no more for now

  // As the server counts them, else the chunks.
  int64_t tokens() const { return counts.output_tokens.value_or(chunks); }
};

// Seconds from the start of each of the first `count` arrivals of a Poisson process.
std::vector<double> PoissonArrivals(double rate, int64_t count, uint64_t seed);

// Runs the plan to its end, or until `wanted` says no, in the loop's thread. `call` makes request i. By the
// order in which they were sent.
std::vector<RequestRecord> RunLoad(HttpLoop& loop, const LoadPlan& plan,
                                   const std::function<HttpCall(int64_t i)>& call,
                                   const std::function<bool()>& wanted);

}  // namespace paceline::cli
