// Facts of the cluster, the model and the load as messages.
#include "coordinator/control_service.h"

#include "coordinator/api_error.h"
#include "coordinator/service_caller.h"
#include "coordinator/status_wire.h"

namespace paceline {

namespace pb = control::v1;

namespace {

pb::ClusterState ToWire(ClusterState state) {
  switch (state) {
    case ClusterState::kLoading:
      return pb::CLUSTER_STATE_LOADING;
    case ClusterState::kReady:
      return pb::CLUSTER_STATE_READY;
    case ClusterState::kDegraded:
      return pb::CLUSTER_STATE_DEGRADED;
    case ClusterState::kDraining:
      return pb::CLUSTER_STATE_DRAINING;
  }
  return pb::CLUSTER_STATE_UNSPECIFIED;
}

pb::NodeState ToWire(NodeState state) {
  switch (state) {
    case NodeState::kJoining:
      return pb::NODE_STATE_JOINING;
    case NodeState::kLoading:
      return pb::NODE_STATE_LOADING;
    case NodeState::kReady:
      return pb::NODE_STATE_READY;
    case NodeState::kLost:
      return pb::NODE_STATE_LOST;
  }
  return pb::NODE_STATE_UNSPECIFIED;
}

}  // namespace

template <class Answer>
grpc::ServerUnaryReactor* ControlService::Reply(grpc::CallbackServerContext* context, Answer answer) {
  const absl::StatusOr<std::string> caller = CallerOf(*context, keys_);
  const absl::Status status = caller.ok() ? answer() : caller.status();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(paceline::ToGrpc(status, kControlServiceName));
  return reactor;
}

grpc::ServerUnaryReactor* ControlService::GetClusterStatus(grpc::CallbackServerContext* context,
                                                           const pb::GetClusterStatusRequest*,
                                                           pb::GetClusterStatusResponse* response) {
  return Reply(context, [&] {
    const ClusterFacts facts = cluster_.Facts();
    response->set_state(ToWire(state_.Now()));
    response->set_epoch(facts.epoch.value());
    response->set_model(engine_.info().model);
    response->set_degraded(facts.degraded);
    for (const NodeFacts& node : facts.nodes) {
      pb::Node* out = response->add_nodes();
      out->set_name(node.name);
      out->set_role(node.head ? pb::NODE_ROLE_HEAD : pb::NODE_ROLE_WORKER);
      out->set_pid(node.pid);
      out->set_address(node.address);
      out->set_state(ToWire(node.state));
      out->set_experts(node.experts);
      out->set_leaves(node.leaves);
      out->set_bytes(node.bytes);
      out->set_backend(node.backend);
      out->set_fingerprint(node.fingerprint);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::GetModelInfo(grpc::CallbackServerContext* context,
                                                       const pb::GetModelInfoRequest*,
                                                       pb::GetModelInfoResponse* response) {
  return Reply(context, [&] {
    const TrunkInfo& info = engine_.info();
    response->set_model(info.model);
    response->set_vocab_size(static_cast<uint64_t>(info.vocab));
    response->set_context_length(static_cast<uint64_t>(engine_.context()));
    for (const TokenId id : engine_.defaults().eos_token_ids)
      response->add_eos_token_ids(static_cast<uint32_t>(id));
    response->set_has_mtp(info.has_mtp);
    response->set_lm_head(info.lm_head);
    response->set_fingerprint(info.fingerprint);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::GetLoad(grpc::CallbackServerContext* context,
                                                  const pb::GetLoadRequest*, pb::GetLoadResponse* response) {
  return Reply(context, [&] {
    const EngineStats stats = engine_.stats();
    response->set_running(static_cast<uint32_t>(stats.running));
    response->set_waiting(static_cast<uint32_t>(stats.waiting));
    response->set_max_running(static_cast<uint32_t>(stats.max_running));
    response->set_kv_pages_used(static_cast<uint32_t>(stats.pages_used));
    response->set_kv_pages_total(static_cast<uint32_t>(stats.pages_total));
    response->set_steps(static_cast<uint64_t>(stats.steps));
    response->set_tokens_generated(static_cast<uint64_t>(stats.tokens));
    response->set_rows_run(static_cast<uint64_t>(stats.rows));
    response->set_last_step_rows(static_cast<uint32_t>(stats.step_rows));
    response->set_last_step_seconds(stats.step_s);
    response->set_preemptions(static_cast<uint64_t>(stats.scheduling.preemptions));
    response->set_prefix_cache_pages(static_cast<uint32_t>(stats.pages_cached));
    response->set_prefix_cache_snapshots_used(static_cast<uint32_t>(stats.snapshots));
    response->set_prefix_cache_snapshots_total(static_cast<uint32_t>(stats.snapshots_total));
    response->set_prefix_cache_query_tokens(static_cast<uint64_t>(stats.scheduling.prefix_queries));
    response->set_prefix_cache_hit_tokens(static_cast<uint64_t>(stats.scheduling.prefix_hits));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::GetMetrics(grpc::CallbackServerContext* context,
                                                     const pb::GetMetricsRequest*,
                                                     pb::GetMetricsResponse* response) {
  return Reply(context, [&] {
    response->set_text(MetricsText(TakeSnapshot(engine_, cluster_, state_), metrics_));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::Abort(grpc::CallbackServerContext* context,
                                                const pb::AbortRequest* request, pb::AbortResponse*) {
  return Reply(context, [&] {
    return engine_.Abort(request->request_id()) ? absl::OkStatus() : UnknownRequest(request->request_id());
  });
}

}  // namespace paceline
