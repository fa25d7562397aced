// paceline.control.v1: what runs where, for operators and routers. Answers at every stage of a head's life.
#pragma once

#include <utility>

#include "base/cluster.h"
#include "coordinator/api_keys.h"
#include "coordinator/engine.h"
#include "coordinator/metrics.h"
#include "coordinator/serving_state.h"
#include "paceline/control/v1/control.grpc.pb.h"

namespace paceline {

inline constexpr char kControlServiceName[] = "paceline.control.v1.ControlService";

// Thread-safe.
class ControlService final : public control::v1::ControlService::CallbackService {
 public:
  // `engine`, `cluster`, `state` and `keys` outlive the service.
  ControlService(Engine& engine, const ClusterView& cluster, const ServingState& state, const ApiKeys& keys,
                 MetricsOptions metrics)
      : engine_(engine), cluster_(cluster), state_(state), keys_(keys), metrics_(std::move(metrics)) {}

  grpc::ServerUnaryReactor* GetClusterStatus(grpc::CallbackServerContext* context,
                                             const control::v1::GetClusterStatusRequest* request,
                                             control::v1::GetClusterStatusResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const control::v1::GetModelInfoRequest* request,
                                         control::v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const control::v1::GetLoadRequest* request,
                                    control::v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* GetMetrics(grpc::CallbackServerContext* context,
                                       const control::v1::GetMetricsRequest* request,
                                       control::v1::GetMetricsResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const control::v1::AbortRequest* request,
                                  control::v1::AbortResponse* response) override;

 private:
  // Answers the call: with what `answer` says, if the caller may ask.
  template <class Answer>
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, Answer answer);

  Engine& engine_;
  const ClusterView& cluster_;
  const ServingState& state_;
  const ApiKeys& keys_;
  const MetricsOptions metrics_;
};

}  // namespace paceline
