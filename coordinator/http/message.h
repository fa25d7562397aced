// HTTP as the routes see it: a request that is there as a whole, and an answer that may be written bit by
// bit. Nothing here knows sockets; coordinator/http/server.cc does.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace paceline {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;   // "GET"
  std::string path;     // percent-decoded, without the query
  std::string query;    // as it came, without the question mark
  HttpHeaders headers;  // names in lower case, as they came
  std::string body;
  std::string id;   // the client's x-request-id, or one of ours
  std::string key;  // name of the API key; empty where none is needed

  // The first header of that name, or "". `name` in lower case.
  std::string_view Header(std::string_view name) const;
};

// An answer in one piece.
struct HttpAnswer {
  int status = 200;
  HttpHeaders headers;
  std::string body;
};

// The answer to one request. Thread-safe, and no call blocks. Either Send, or Begin, Write.. and End. What is
// called after the end, or after the client has gone, does nothing.
class HttpResponse {
 public:
  virtual ~HttpResponse() = default;

  virtual void Send(HttpAnswer answer) = 0;

  // The head of an answer whose length nobody knows yet.
  virtual void Begin(int status, HttpHeaders headers) = 0;
  // Bytes that wait for a slow client pile up; beyond the server's bound the client is dropped.
  virtual void Write(std::string bytes) = 0;
  virtual void End() = 0;
  // The answer cannot be completed: the connection closes in the middle, so that nobody takes it for whole.
  virtual void Abort() = 0;

  // Runs `work` on the server's thread, in the order of the calls. After the server has stopped: never.
  virtual void Post(std::function<void()> work) = 0;
  // The same, later. Replaces work that waits; dropped with the answer's end.
  virtual void After(Duration delay, std::function<void()> work) = 0;
  // Runs once on the server's thread when the client goes before the end; at once where it has gone already.
  virtual void OnGone(std::function<void()> gone) = 0;
};

// `text` with %XX decoded and, in a query, + as space. False where an escape is none.
bool DecodePercent(std::string_view text, bool plus_is_space, std::string* out);

// Base64 with or without padding. False where it is none.
bool DecodeBase64(std::string_view text, std::string* out);

}  // namespace paceline
