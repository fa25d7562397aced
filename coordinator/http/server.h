// An HTTP/1.1 server on one port: connections, limits, slow readers. What is said on them is the routes'
// (coordinator/http/front.h).
//
// One thread does all input and output; a handler that may take time (reading a long body's JSON, tokenising
// a long prompt) runs on a few others, so a slow one delays neither streams nor health checks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/http/message.h"

namespace paceline {

struct HttpLimits {
  int64_t header_bytes = 32 << 10;
  int64_t body_bytes = 32 << 20;
  int64_t queue_bytes = 4 << 20;  // of a stream, waiting for its reader
  int32_t connections = 2048;
  int32_t handlers = 512;                           // requests waiting for a handler thread
  Duration idle_time = std::chrono::seconds(75);    // between two requests of a connection
  Duration header_time = std::chrono::seconds(10);  // from a request's first byte to the end of its header
  Duration body_time = std::chrono::seconds(60);    // for its body
  Duration write_time = std::chrono::seconds(60);   // without a byte taken by the client
};

struct HttpHandlers {
  // The server's thread, once the header is there: an answer ends the request before its body is read. May
  // set id and key.
  std::function<std::optional<HttpAnswer>(HttpRequest&)> admit;
  // Whether `handle` is so quick that it runs on the server's thread.
  std::function<bool(const HttpRequest&)> quick;
  std::function<void(HttpRequest, std::shared_ptr<HttpResponse>)> handle;
  // What the server itself has to refuse: a body that is too large (413), a header that is too long (431),
  // bytes that are no HTTP (400), a client that is too slow (408), too many connections (503) or requests
  // (429) at once.
  std::function<HttpAnswer(int status, const std::string& sentence)> refuse;
};

class HttpServer {
 public:
  HttpServer(HttpLimits limits, HttpHandlers handlers);
  // Stops.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // The threads are born here. Returns the port, which for port 0 is a free one. CFG-002 when the address
  // cannot be listened on, with `flags` to choose another.
  absl::StatusOr<int> Start(const std::string& host, int port,
                            const std::string& flags = "--http-port or --host");
  // Answers go on for `grace`, then every connection closes and the threads end. Answers that are still
  // written afterwards go nowhere. Idempotent.
  void Stop(Duration grace);

 private:
  struct Core;
  class Connection;
  std::shared_ptr<Core> core_;  // answers that outlive the server keep it
};

}  // namespace paceline
