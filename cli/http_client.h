// HTTP/1.1 from the other side: calls whose answers are taken as they come, many at a time on one thread.
// What `bench serve` and `chat http://..` speak with. Every call has a connection of its own. There is no TLS
// here.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace paceline::cli {

struct HttpUrl {
  std::string host;  // a name or an address, without brackets
  int port = 80;
  std::string prefix;  // "" or "/api": stands in front of every path

  std::string Text() const;  // "http://127.0.0.1:8000"
};

// True for text that begins with http:// or https://.
bool IsHttpUrl(const std::string& text);
// A /v1 at the end is left away: paths bring their own. CFG-002 for https and for what is no URL.
absl::StatusOr<HttpUrl> ParseHttpUrl(const std::string& url);

struct HttpCall {
  std::string method = "POST";
  std::string path;                             // "/v1/completions"
  std::string body;                             // JSON
  std::string key;                              // sent as a bearer token; empty: none
  Duration silence = std::chrono::minutes(10);  // without a byte, after which the call fails
};

// Hears of one call, on the thread that runs the loop.
class HttpListener {
 public:
  virtual ~HttpListener() = default;
  virtual void OnStatus(int status) = 0;
  // What one read brought, at `at`.
  virtual void OnBody(std::string_view bytes, TimePoint at) = 0;
  // Last and exactly once. Ok when the answer came whole, whatever its status; NET-002 when nobody answers or
  // the connection broke; NET-005 after too long a silence; Cancelled by Run.
  virtual void OnEnd(const absl::Status& status, TimePoint at) = 0;
};

struct HttpReply {
  int status = 0;
  std::string body;
};

// Used by one thread, listeners included.
class HttpLoop {
 public:
  // Looks the host up, dials nobody. NET-002 when it has no address.
  static absl::StatusOr<std::unique_ptr<HttpLoop>> Open(const HttpUrl& url);
  ~HttpLoop();
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  void Send(HttpCall call, std::shared_ptr<HttpListener> listener);
  // Runs `work` in Run, at `time`.
  void At(TimePoint time, std::function<void()> work);
  // Until no call and no work is left. Once `wanted` says false, which is asked often, every call is
  // cancelled and work that waits is dropped.
  void Run(const std::function<bool()>& wanted);

  // One call, from its start to its end. The listener's errors.
  absl::StatusOr<HttpReply> Fetch(HttpCall call, const std::function<bool()>& wanted);

 private:
  struct Core;
  class Exchange;
  explicit HttpLoop(std::unique_ptr<Core> core);
  std::unique_ptr<Core> core_;
};

}  // namespace paceline::cli
