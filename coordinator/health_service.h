// grpc.health.v1, NOT_SERVING from the first instant. (The library's own service begins with SERVING, and a
// probe that waits in the listen backlog would see it.)
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"

namespace paceline {

// Thread-safe. Destroyed after its server is shut down.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // Every name starts as not serving.
  explicit HealthService(const std::vector<std::string>& names);

  void Set(const std::string& name, bool serving);
  // All names not serving, and every watch ends: for a server that is about to stop.
  void Close();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;
  class WatchCall;

  std::mutex mutex_;
  std::map<std::string, Status> statuses_;  // guarded by mutex_
  std::set<WatchCall*> watches_;            // guarded by mutex_, and so is the state of each
  bool closed_ = false;                     // guarded by mutex_
};

}  // namespace paceline
