// Health: a table of names and the calls that watch it.
#include "coordinator/health_service.h"

namespace paceline {

namespace pb = grpc::health::v1;

// One Watch call. It always has the newest status to send and skips what it had no time for. Its state is
// guarded by the service's mutex; gRPC calls it back from any thread and deletes nothing: OnDone does.
class HealthService::WatchCall final : public grpc::ServerWriteReactor<pb::HealthCheckResponse> {
 public:
  WatchCall(HealthService& service, std::string name) : service_(service), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  // With the mutex held.
  void Notify(Status status) {
    newest_ = status;
    Go();
  }
  void End() {
    ending_ = true;
    Go();
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(service_.mutex_);
    writing_ = false;
    if (!ok) ending_ = true;
    Go();
  }
  void OnCancel() override {
    std::lock_guard lock(service_.mutex_);
    End();
  }
  void OnDone() override {
    {
      std::lock_guard lock(service_.mutex_);
      service_.watches_.erase(this);
    }
    delete this;
  }

 private:
  void Go() {
    if (writing_ || finished_) return;
    if (ending_) {
      finished_ = true;
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the watch has ended"));
    } else if (newest_ != sent_) {
      sent_ = newest_;
      message_.set_status(sent_);
      writing_ = true;
      StartWrite(&message_);
    }
  }

  HealthService& service_;
  const std::string name_;
  pb::HealthCheckResponse message_;
  Status newest_ = pb::HealthCheckResponse::UNKNOWN;
  Status sent_ = pb::HealthCheckResponse::UNKNOWN;
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
};

HealthService::HealthService(const std::vector<std::string>& names) {
  for (const std::string& name : names) statuses_[name] = pb::HealthCheckResponse::NOT_SERVING;
}

void HealthService::Set(const std::string& name, bool serving) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  const Status status = serving ? pb::HealthCheckResponse::SERVING : pb::HealthCheckResponse::NOT_SERVING;
  statuses_[name] = status;
  for (WatchCall* watch : watches_) {
    if (watch->name() == name) watch->Notify(status);
  }
}

void HealthService::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  for (auto& [name, status] : statuses_) status = pb::HealthCheckResponse::NOT_SERVING;
  for (WatchCall* watch : watches_) watch->End();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const pb::HealthCheckRequest* request,
                                               pb::HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  std::lock_guard lock(mutex_);
  const auto found = statuses_.find(request->service());
  if (found == statuses_.end()) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service " + request->service()));
  } else {
    response->set_status(found->second);
    reactor->Finish(grpc::Status::OK);
  }
  return reactor;
}

grpc::ServerWriteReactor<pb::HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const pb::HealthCheckRequest* request) {
  WatchCall* watch = new WatchCall(*this, request->service());
  std::lock_guard lock(mutex_);
  watches_.insert(watch);
  const auto found = statuses_.find(watch->name());
  watch->Notify(found == statuses_.end() ? pb::HealthCheckResponse::SERVICE_UNKNOWN : found->second);
  if (closed_) watch->End();
  return watch;
}

}  // namespace paceline
