// One thread of gRPC's synchronous server per joined worker: it reads; others write through the channel.
#include "worker/node_service.h"

#include <grpcpp/grpcpp.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "paceline/node/v1/node.grpc.pb.h"
#include "worker/wire.h"

namespace paceline {
namespace {

using Stream = grpc::ServerReaderWriter<node::v1::HeadMessage, node::v1::WorkerMessage>;

// "ipv4:10.0.0.2:4711" without the scheme, brackets of IPv6 unescaped.
std::string PeerAddress(const std::string& peer) {
  std::string out = peer.substr(peer.find(':') + 1);
  for (const auto& [from, to] : {std::pair<const char*, const char*>{"%5B", "["}, {"%5D", "]"}}) {
    const size_t at = out.find(from);
    if (at != std::string::npos) out.replace(at, 3, to);
  }
  return out;
}

// Writes of any thread to one worker, until the call is over.
class StreamChannel final : public MemberChannel {
 public:
  StreamChannel(grpc::ServerContext* context, Stream* stream) : context_(context), stream_(stream) {}

  bool Write(const node::v1::HeadMessage& message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stream_ != nullptr && stream_->Write(message);
  }
  void AnnounceEpoch(Epoch epoch) override {
    node::v1::HeadMessage message;
    message.mutable_epoch_change()->set_epoch(epoch.value());
    Write(message);
  }
  void Close() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }
  void Detach() {
    const std::lock_guard<std::mutex> lock(mutex_);
    context_ = nullptr;
    stream_ = nullptr;
  }

 private:
  std::mutex mutex_;
  grpc::ServerContext* context_;
  Stream* stream_;
};

class Service final : public node::v1::NodeService::Service {
 public:
  explicit Service(JoinHost& host) : host_(host) {}

  grpc::Status Join(grpc::ServerContext* context, Stream* stream) override {
    const auto channel = std::make_shared<StreamChannel>(context, stream);
    const grpc::Status status = Converse(PeerAddress(context->peer()), *stream, channel);
    channel->Detach();
    return status;
  }

 private:
  grpc::Status Converse(const std::string& peer, Stream& stream,
                        const std::shared_ptr<StreamChannel>& channel) {
    node::v1::HeadMessage out;
    ToWire(host_.terms(), out.mutable_terms());
    if (!channel->Write(out)) return grpc::Status::OK;
    node::v1::WorkerMessage in;
    if (!stream.Read(&in)) return grpc::Status::OK;
    if (!in.has_hello()) {
      return {grpc::StatusCode::FAILED_PRECONDITION, "the first message of a worker must be Hello"};
    }

    JoinHost::Admission admission;
    absl::StatusOr<JoinHello> hello = FromWire(in.hello());
    if (hello.ok()) {
      hello->address = peer;
      admission = host_.Join(*hello, channel);
    } else {
      admission.status = hello.status();
    }
    out.Clear();
    if (!admission.status.ok()) {
      out.mutable_refused()->set_status(static_cast<int>(admission.status.code()));
      out.mutable_refused()->set_message(std::string(admission.status.message()));
      out.mutable_refused()->set_transient(admission.transient);
      channel->Write(out);
      return grpc::Status::OK;
    }
    ToWire(admission.assignment, out.mutable_welcome());
    if (!channel->Write(out)) {
      host_.OnGone(admission.member, "its control connection ended");
      return grpc::Status::OK;
    }
    Listen(stream, admission.member);
    return grpc::Status::OK;
  }

  void Listen(Stream& stream, uint64_t member) {
    node::v1::WorkerMessage in;
    while (stream.Read(&in)) {
      switch (in.message_case()) {
        case node::v1::WorkerMessage::kProgress:
          host_.OnProgress(member, {in.progress().done_bytes(), in.progress().total_bytes()});
          break;
        case node::v1::WorkerMessage::kLoaded:
          host_.OnLoaded(member, {in.loaded().experts(), in.loaded().leaves(), in.loaded().bytes()});
          break;
        case node::v1::WorkerMessage::kFailed:
          host_.OnFailed(member, StatusFromWire(in.failed().status(), in.failed().message()));
          return;
        case node::v1::WorkerMessage::kHeartbeat:
          host_.OnHeartbeat(member, in.heartbeat().progress(), Epoch(in.heartbeat().epoch()));
          break;
        default:
          host_.OnGone(member, "it sent a message that no joined worker sends");
          return;
      }
    }
    host_.OnGone(member, "its control connection ended");
  }

  JoinHost& host_;
};

class GrpcNodeServer final : public NodeServer {
 public:
  explicit GrpcNodeServer(JoinHost& host) : service_(host) {}
  ~GrpcNodeServer() override { Shutdown(); }

  absl::Status Bind(const std::string& host, int port) {
    const bool bare_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
    const std::string address = absl::StrCat(bare_ipv6 ? "[" : "", host, bare_ipv6 ? "]" : "", ":", port);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    // Two heads on one port would share the joins between them.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return Error(errors::kUnreachable,
                   absl::StrCat("cannot listen for workers on ", address,
                                ": the port is taken or the address is not of this machine; "
                                "pass another --join-port or --host"));
    }
    return absl::OkStatus();
  }
  int port() const override { return port_; }
  void Shutdown() override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_.reset();
  }

 private:
  Service service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NodeServer>> NodeServer::Start(const std::string& host, int port,
                                                              JoinHost& host_side) {
  auto server = std::make_unique<GrpcNodeServer>(host_side);
  const absl::Status bound = server->Bind(host, port);
  if (!bound.ok()) return bound;
  return std::unique_ptr<NodeServer>(std::move(server));
}

}  // namespace paceline
