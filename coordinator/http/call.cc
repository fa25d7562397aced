#include "coordinator/http/call.h"

#include "base/check.h"

namespace paceline {

// The engine's end of one generation.
class GenerationCall::Sink final : public GenerationSink {
 public:
  Sink(std::shared_ptr<GenerationCall> call, size_t index) : call_(std::move(call)), index_(index) {}
  void OnStarted(const GenerationStarted& started) override { call_->Push({index_, started}); }
  void OnPrompt(std::vector<PromptToken> tokens) override { call_->Push({index_, std::move(tokens)}); }
  void OnTokens(std::vector<GeneratedToken> tokens) override { call_->Push({index_, std::move(tokens)}); }
  void OnFinished(const GenerationEnd& end) override { call_->Push({index_, end}); }

 private:
  const std::shared_ptr<GenerationCall> call_;
  const size_t index_;
};

void GenerationCall::Run(Engine& engine, std::vector<GenerateRequest> requests,
                         std::unique_ptr<ReplyFormat> format, std::shared_ptr<HttpResponse> response,
                         CallOptions options) {
  CHECK(!requests.empty());
  const std::shared_ptr<GenerationCall> call(
      new GenerationCall(std::move(format), std::move(response), options));
  call->Submit(engine, std::move(requests));
}

void GenerationCall::Submit(Engine& engine, std::vector<GenerateRequest> requests) {
  Tickets tickets;
  const std::shared_ptr<GenerationCall> self = shared_from_this();
  for (size_t i = 0; i < requests.size(); ++i) {
    auto ticket = engine.Submit(std::move(requests[i]), std::make_shared<Sink>(self, i));
    if (!ticket.ok()) {
      for (const std::shared_ptr<GenerationTicket>& other : tickets) other->Cancel();
      response_->Send(format_->Refusal(ticket.status()));  // events of the others are never looked at
      return;
    }
    tickets.push_back(*std::move(ticket));
  }
  response_->Post([self, tickets = std::move(tickets)] { self->Opened(tickets); });
}

void GenerationCall::Push(Event event) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(std::move(event));
    if (scheduled_) return;
    scheduled_ = true;
  }
  response_->Post([self = shared_from_this()] { self->Drain(); });
}

void GenerationCall::Opened(Tickets tickets) {
  tickets_ = std::move(tickets);
  spoke_ = Clock::Real().Now();
  // Weak: the answer must not keep alive what keeps the answer alive.
  response_->OnGone([call = weak_from_this()] {
    if (const std::shared_ptr<GenerationCall> self = call.lock()) {
      self->over_ = true;
      self->CancelAll();
    }
  });
  Drain();
  if (options_.stream && !over_) Beat();
}

void GenerationCall::Drain() {
  std::vector<Event> events;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    events.swap(events_);
    scheduled_ = false;
  }
  std::string out;
  for (Event& event : events) {
    if (over_ || !Take(event, &out)) return;
  }
  if (options_.stream) Say(out);
}

bool GenerationCall::Take(Event& event, std::string* out) {
  if (const auto* started = std::get_if<GenerationStarted>(&event.what)) {
    format_->Started(event.index, *started, out);
    if (options_.stream) BeginStream();
    return true;
  }
  if (auto* prompt = std::get_if<std::vector<PromptToken>>(&event.what)) {
    format_->Prompt(event.index, std::move(*prompt), out);
    return true;
  }
  if (auto* tokens = std::get_if<std::vector<GeneratedToken>>(&event.what)) {
    format_->Tokens(event.index, std::move(*tokens), out);
    return true;
  }
  const GenerationEnd& end = std::get<GenerationEnd>(event.what);
  absl::Status status = end.status;
  if (status.ok() && end.reason == FinishReason::kCancelled)
    status = absl::CancelledError("the request was cancelled");
  if (!status.ok()) {
    Fail(status, out);
    return false;
  }
  format_->Ended(event.index, end, out);
  if (++ended_ < tickets_.size()) return true;
  over_ = true;
  format_->Finish(out);
  if (options_.stream) {
    Say(*out);
    response_->End();
  } else {
    response_->Send({200, {{"content-type", "application/json"}}, std::move(*out)});
  }
  return false;
}

void GenerationCall::Fail(const absl::Status& status, std::string* out) {
  over_ = true;
  CancelAll();
  if (!begun_) return response_->Send(format_->Refusal(status));
  format_->Failed(status, out);
  Say(*out);
  response_->End();
}

void GenerationCall::Say(const std::string& out) {
  if (out.empty()) return;
  spoke_ = Clock::Real().Now();
  response_->Write(out);
}

void GenerationCall::BeginStream() {
  if (begun_) return;
  begun_ = true;
  response_->Begin(200, {{"content-type", "text/event-stream; charset=utf-8"},
                         {"cache-control", "no-cache"},
                         {"x-accel-buffering", "no"}});  // nginx would gather frames
}

// Proxies and clients cut streams that are silent. A request that waits long for its turn gets its head here,
// after which an error can only be a frame.
void GenerationCall::Beat() {
  if (over_) return;
  const Duration silent = Clock::Real().Now() - spoke_;
  if (silent >= options_.heartbeat) {
    BeginStream();
    Say(std::string(format_->heartbeat()));
  }
  if (over_) return;  // nobody is there any more
  const Duration left = silent >= options_.heartbeat ? options_.heartbeat : options_.heartbeat - silent;
  response_->After(left, [call = weak_from_this()] {
    if (const std::shared_ptr<GenerationCall> self = call.lock()) self->Beat();
  });
}

void GenerationCall::CancelAll() {
  for (const std::shared_ptr<GenerationTicket>& ticket : tickets_) ticket->Cancel();
}

}  // namespace paceline
