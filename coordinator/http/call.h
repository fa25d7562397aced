// One HTTP request that generates: its generations on the engine's side, its answer on the server's. The
// engine's thread only leaves events in a box; what they look like in an API's own words (ReplyFormat) is
// made on the server's thread, and a client that does not read fills its connection's queue, nothing else.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/engine.h"
#include "coordinator/http/message.h"
#include "coordinator/http/reply_format.h"
#include "coordinator/request.h"

namespace paceline {

class GenerationCall : public std::enable_shared_from_this<GenerationCall> {
 public:
  // Hands the requests to the engine; from here on they and the answer live and die together: when the client
  // goes, all are cancelled within a step; when one fails, so do the others. What can be refused is refused
  // with a status of its own before a stream begins.
  static void Run(Engine& engine, std::vector<GenerateRequest> requests, std::unique_ptr<ReplyFormat> format,
                  std::shared_ptr<HttpResponse> response, CallOptions options);

 private:
  class Sink;
  struct Event {
    size_t index = 0;
    std::variant<GenerationStarted, std::vector<PromptToken>, std::vector<GeneratedToken>, GenerationEnd>
        what;
  };
  using Tickets = std::vector<std::shared_ptr<GenerationTicket>>;

  GenerationCall(std::unique_ptr<ReplyFormat> format, std::shared_ptr<HttpResponse> response,
                 CallOptions options)
      : format_(std::move(format)), response_(std::move(response)), options_(options) {}

  void Submit(Engine& engine, std::vector<GenerateRequest> requests);
  // The engine's thread.
  void Push(Event event);

  // The rest on the server's thread.
  void Opened(Tickets tickets);
  void Drain();
  // False when the call is over.
  bool Take(Event& event, std::string* out);
  void Fail(const absl::Status& status, std::string* out);
  void Say(const std::string& out);
  void BeginStream();
  void Beat();
  void CancelAll();

  const std::unique_ptr<ReplyFormat> format_;
  const std::shared_ptr<HttpResponse> response_;
  const CallOptions options_;

  std::mutex mutex_;
  std::vector<Event> events_;  // guarded by mutex_
  bool scheduled_ = true;      // a Drain is on its way, or the call is not open yet; guarded by mutex_

  Tickets tickets_;
  size_t ended_ = 0;
  bool begun_ = false;
  bool over_ = false;
  TimePoint spoke_{};
};

}  // namespace paceline
