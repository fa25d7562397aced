// The ucx link: UCX active messages over one UCP worker per link, connected by socket address. The only file
// that knows UCX. Written against UCX 1.13 (ucp/api/ucp.h). Any peer that reaches its port can write memory:
// isolated networks only.
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "transport/link_kinds.h"

namespace paceline {
namespace {

constexpr unsigned kMessageId = 1;  // active message of a Send; its header is the message's number
constexpr unsigned kHelloId = 2;    // active message without data, sent once by both ends
constexpr uint64_t kHello = 0x31584C5058435500;  // its header
constexpr size_t kSpareBuffers = 16;
constexpr Duration kGreeting = std::chrono::seconds(5);  // how long a silent client may hold up Accept
constexpr Duration kFarewell =
    std::chrono::milliseconds(500);  // for queued sends and the close of an endpoint

absl::Status UcxFailed(const ErrorCode& code, std::string_view what, ucs_status_t status) {
  return Error(code, absl::StrCat("ucx: ", ToAbsl(what), ": ", ucs_status_string(status)));
}

// Library state that links of one listener share. Workers of it may live on different threads.
class Context {
 public:
  static absl::StatusOr<std::shared_ptr<Context>> Make() {
    // Read by UCX when the configuration is; what the operator has set stays. Shared memory refuses peer
    // failure handling without the first (and UCX warns of the variable where UCX_TLS leaves shared memory
    // out); rendezvous costs a second round trip, which only large messages repay.
    const char* transports = std::getenv("UCX_TLS");
    const std::string_view chosen = transports == nullptr ? "all" : transports;
    for (const char* shared_memory : {"all", "posix", "shm", "sm"}) {
      if (chosen.find(shared_memory) != chosen.npos) setenv("UCX_POSIX_ERROR_HANDLING", "y", 0);
    }
    setenv("UCX_RNDV_THRESH", "256K", 0);
    setenv("UCX_TCP_CM_REUSEADDR", "y", 0);  // a head that restarts finds its port
    ucp_config_t* config = nullptr;
    if (const ucs_status_t bad = ucp_config_read(nullptr, nullptr, &config); bad != UCS_OK) {
      return UcxFailed(errors::kLinkAbsent, "reading its configuration failed", bad);
    }
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
    params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    params.mt_workers_shared = 1;
    auto context = std::make_shared<Context>();
    const ucs_status_t bad = ucp_init(&params, config, &context->handle_);
    ucp_config_release(config);
    if (bad != UCS_OK)
      return UcxFailed(errors::kLinkAbsent, "starting failed (UCX_TLS names no transport that works here?)",
                       bad);
    return context;
  }
  ~Context() {
    if (handle_ != nullptr) ucp_cleanup(handle_);
  }
  ucp_context_h handle() const { return handle_; }

 private:
  ucp_context_h handle_ = nullptr;
};

// A UCP worker and what is needed to sleep on it.
class Progress {
 public:
  static absl::StatusOr<std::unique_ptr<Progress>> Make(std::shared_ptr<Context> context) {
    auto progress = std::make_unique<Progress>();
    progress->context_ = std::move(context);
    ucp_worker_params_t params{};
    params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // made on one thread, used on another
    if (const ucs_status_t bad = ucp_worker_create(progress->context_->handle(), &params, &progress->worker_);
        bad != UCS_OK) {
      return UcxFailed(errors::kLinkAbsent, "making a worker failed", bad);
    }
    if (const ucs_status_t bad = ucp_worker_get_efd(progress->worker_, &progress->fd_); bad != UCS_OK) {
      return UcxFailed(errors::kLinkAbsent, "its transports cannot sleep", bad);
    }
    return progress;
  }
  ~Progress() {
    if (worker_ != nullptr) ucp_worker_destroy(worker_);
  }
  ucp_worker_h worker() const { return worker_; }
  const std::shared_ptr<Context>& context() const { return context_; }
  void Run() {
    while (ucp_worker_progress(worker_) != 0) {
    }
  }
  void Sleep(const WakeEvent& wake, TimePoint deadline) {
    if (ucp_worker_arm(worker_) == UCS_OK) PollUntil(fd_, POLLIN, wake, deadline);
  }

 private:
  std::shared_ptr<Context> context_;
  ucp_worker_h worker_ = nullptr;
  int fd_ = -1;
};

class UcxLink final : public Link {
 public:
  UcxLink(std::unique_ptr<Progress> progress, std::string peer)
      : progress_(std::move(progress)), name_("ucx " + peer) {}

  // Exactly one of `request` and `address` is given.
  absl::Status Open(ucp_conn_request_h request, const sockaddr* address, socklen_t address_size) {
    RETURN_IF_ERROR(Handle(kMessageId, OnMessage));
    RETURN_IF_ERROR(Handle(kHelloId, OnHello));
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = OnError;
    params.err_handler.arg = this;
    if (request != nullptr) {
      params.field_mask |= UCP_EP_PARAM_FIELD_CONN_REQUEST;
      params.conn_request = request;
    } else {
      params.field_mask |= UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_FLAGS;
      params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
      params.sockaddr.addr = address;
      params.sockaddr.addrlen = address_size;
    }
    if (const ucs_status_t bad = ucp_ep_create(progress_->worker(), &params, &endpoint_); bad != UCS_OK) {
      endpoint_ = nullptr;
      return UcxFailed(errors::kUnreachable, absl::StrCat("connecting ", name_, " failed"), bad);
    }
    return absl::OkStatus();
  }

  // Both ends must make progress until the transports behind the socket address are wired up, or neither gets
  // there; so neither returns before it has heard the other.
  absl::Status Greet(TimePoint deadline) {
    ucp_request_param_t params{};
    void* request = ucp_am_send_nbx(endpoint_, kHelloId, &kHello, sizeof(kHello), nullptr, 0, &params);
    if (UCS_PTR_IS_ERR(request)) failure_ = UCS_PTR_STATUS(request);
    const auto sent = [&] {
      return !UCS_PTR_IS_PTR(request) || ucp_request_check_status(request) != UCS_INPROGRESS;
    };
    while (failure_ == UCS_OK && !(greeted_ && sent()) && Clock::Real().Now() < deadline) {
      progress_->Run();
      if (failure_ == UCS_OK && !(greeted_ && sent())) progress_->Sleep(wake_, deadline);
    }
    if (UCS_PTR_IS_PTR(request)) {
      if (!sent()) ucp_request_cancel(progress_->worker(), request);
      ucp_request_free(request);
    }
    if (failure_ != UCS_OK)
      return UcxFailed(errors::kUnreachable, absl::StrCat("connecting ", name_, " failed"), failure_);
    if (!greeted_)
      return Error(errors::kTimeout, absl::StrCat("no answer from ", name_, " before the deadline"));
    return absl::OkStatus();
  }

  ~UcxLink() override {
    const TimePoint deadline = Clock::Real().Now() + kFarewell;
    const auto drive = [&](const auto& done) {
      while (!done() && Clock::Real().Now() < deadline) ucp_worker_progress(progress_->worker());
    };
    if (Dead().ok()) drive([&] { return sending_ == 0 || failure_ != UCS_OK; });
    closing_ = true;
    if (endpoint_ != nullptr) {
      ucp_request_param_t params{};
      params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      params.flags = UCP_EP_CLOSE_FLAG_FORCE;
      void* request = ucp_ep_close_nbx(endpoint_, &params);
      if (UCS_PTR_IS_PTR(request)) {
        drive([&] { return ucp_request_check_status(request) != UCS_INPROGRESS; });
        ucp_request_free(request);
      }
    }
    drive([&] { return sending_ == 0 && fetching_ == 0; });
    progress_.reset();  // calls back for whatever is still out, so before the members it touches
  }

  absl::Status Send(std::span<const Bytes> parts) override {
    if (absl::Status dead = Dead(); !dead.ok()) return dead;
    ASSIGN_OR_RETURN(const size_t size, MessageSize(parts));
    auto out = NewOutgoing();
    out->sequence = next_out_++;
    out->data.resize(size);
    size_t at = 0;
    for (const Bytes part : parts) {
      if (part.empty()) continue;
      std::memcpy(out->data.data() + at, part.data(), part.size());
      at += part.size();
    }
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.send = OnSent;
    params.user_data = out.get();
    void* request = ucp_am_send_nbx(endpoint_, kMessageId, &out->sequence, sizeof(out->sequence),
                                    out->data.data(), size, &params);
    if (UCS_PTR_IS_ERR(request)) {
      failure_ = UCS_PTR_STATUS(request);
      return Dead();
    }
    bytes_ += static_cast<int64_t>(size + sizeof(out->sequence));
    if (request == nullptr) {
      Recycle(std::move(out));
    } else {
      ++sending_;
      (void)out.release();  // OnSent takes it back
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Bytes> TryReceive() override {
    if (abort_.raised()) return abort_.why();
    if (current_.capacity() > 0 && spare_in_.size() < kSpareBuffers) spare_in_.push_back(std::move(current_));
    if (!Ready()) ucp_worker_progress(progress_->worker());
    if (!Ready()) {
      if (absl::Status dead = Dead(); !dead.ok()) return dead;
      return Bytes();
    }
    current_ = std::move(arrived_.begin()->second);
    arrived_.erase(arrived_.begin());
    ++next_in_;
    bytes_ += static_cast<int64_t>(current_.size() + sizeof(uint64_t));
    return Bytes(current_);
  }

  void Wait(TimePoint deadline) override {
    progress_->Run();
    if (Ready() || !Dead().ok()) return;
    progress_->Sleep(wake_, deadline);
    wake_.Drain();  // an abort is seen by its flag
  }

  void Wake() override { wake_.Signal(); }

  void Abort(absl::Status why) override {
    abort_.Raise(std::move(why));
    wake_.Signal();
  }

  std::string Describe() const override { return name_; }
  int64_t bytes() const override { return bytes_; }

 private:
  struct Outgoing {
    UcxLink* link = nullptr;
    uint64_t sequence = 0;  // travels as the message's header: large and small messages take different ways
    std::vector<std::byte> data;
  };
  struct Incoming {
    UcxLink* link = nullptr;
    uint64_t sequence = 0;
    std::vector<std::byte> data;
  };

  absl::Status Handle(unsigned id, ucp_am_recv_callback_t callback) {
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = id;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = callback;
    handler.arg = this;
    const ucs_status_t bad = ucp_worker_set_am_recv_handler(progress_->worker(), &handler);
    return bad == UCS_OK ? absl::OkStatus()
                         : UcxFailed(errors::kLinkAbsent, "active messages are not to be had", bad);
  }

  static ucs_status_t OnHello(void* arg, const void* header, size_t header_size, void*, size_t size,
                              const ucp_am_recv_param_t*) {
    auto* link = static_cast<UcxLink*>(arg);
    if (header_size != sizeof(kHello) || size != 0 || std::memcmp(header, &kHello, sizeof(kHello)) != 0) {
      link->failure_ = UCS_ERR_INVALID_PARAM;
    } else {
      link->greeted_ = true;
    }
    return UCS_OK;
  }

  bool Ready() const { return !arrived_.empty() && arrived_.begin()->first == next_in_; }

  absl::Status Dead() const {
    if (abort_.raised()) return abort_.why();
    return failure_ == UCS_OK ? absl::OkStatus() : PeerGone(name_, ucs_status_string(failure_));
  }

  std::unique_ptr<Outgoing> NewOutgoing() {
    if (spare_out_.empty()) {
      auto out = std::make_unique<Outgoing>();
      out->link = this;
      return out;
    }
    auto out = std::move(spare_out_.back());
    spare_out_.pop_back();
    return out;
  }
  void Recycle(std::unique_ptr<Outgoing> out) {
    if (spare_out_.size() < kSpareBuffers) spare_out_.push_back(std::move(out));
  }
  std::vector<std::byte> NewIncoming() {
    if (spare_in_.empty()) return {};
    std::vector<std::byte> data = std::move(spare_in_.back());
    spare_in_.pop_back();
    return data;
  }

  static void OnError(void* arg, ucp_ep_h, ucs_status_t status) {
    static_cast<UcxLink*>(arg)->failure_ = status;
  }

  static void OnSent(void* request, ucs_status_t status, void* user_data) {
    std::unique_ptr<Outgoing> out(static_cast<Outgoing*>(user_data));
    UcxLink* link = out->link;
    --link->sending_;
    if (status != UCS_OK && link->failure_ == UCS_OK) link->failure_ = status;
    link->Recycle(std::move(out));
    ucp_request_free(request);
  }

  static ucs_status_t OnMessage(void* arg, const void* header, size_t header_size, void* data, size_t size,
                                const ucp_am_recv_param_t* param) {
    auto* link = static_cast<UcxLink*>(arg);
    uint64_t sequence;
    if (header_size != sizeof(sequence) || size == 0 || size > static_cast<size_t>(kMaxMessageBytes) ||
        link->closing_) {
      link->failure_ = UCS_ERR_INVALID_PARAM;  // no Paceline peer sends this
      return UCS_OK;
    }
    std::memcpy(&sequence, header, sizeof(sequence));
    if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0) {
      std::vector<std::byte> message = link->NewIncoming();
      message.resize(size);
      std::memcpy(message.data(), data, size);
      link->Arrive(sequence, std::move(message));
      return UCS_OK;
    }
    auto in = std::make_unique<Incoming>();
    in->link = link;
    in->sequence = sequence;
    in->data = link->NewIncoming();
    in->data.resize(size);
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.recv_am = OnFetched;
    params.user_data = in.get();
    void* request = ucp_am_recv_data_nbx(link->progress_->worker(), data, in->data.data(), size, &params);
    if (UCS_PTR_IS_ERR(request)) {
      link->failure_ = UCS_PTR_STATUS(request);
    } else if (request == nullptr) {
      link->Arrive(sequence, std::move(in->data));
    } else {
      ++link->fetching_;
      (void)in.release();  // OnFetched takes it back
    }
    return UCS_OK;
  }

  static void OnFetched(void* request, ucs_status_t status, size_t, void* user_data) {
    const std::unique_ptr<Incoming> in(static_cast<Incoming*>(user_data));
    --in->link->fetching_;
    if (status == UCS_OK) {
      in->link->Arrive(in->sequence, std::move(in->data));
    } else if (in->link->failure_ == UCS_OK) {
      in->link->failure_ = status;
    }
    ucp_request_free(request);
  }

  // A sequence that was seen before can only come from a broken peer.
  void Arrive(uint64_t sequence, std::vector<std::byte> message) {
    if (sequence < next_in_ || !arrived_.emplace(sequence, std::move(message)).second)
      failure_ = UCS_ERR_INVALID_PARAM;
  }

  std::unique_ptr<Progress> progress_;
  std::string name_;
  ucp_ep_h endpoint_ = nullptr;
  ucs_status_t failure_ = UCS_OK;
  bool greeted_ = false;
  bool closing_ = false;
  AbortFlag abort_;
  WakeEvent wake_;
  uint64_t next_out_ = 0;
  uint64_t next_in_ = 0;
  int64_t sending_ = 0;
  int64_t fetching_ = 0;
  int64_t bytes_ = 0;
  std::map<uint64_t, std::vector<std::byte>> arrived_;  // by sequence
  std::vector<std::byte> current_;
  std::vector<std::vector<std::byte>> spare_in_;
  std::vector<std::unique_ptr<Outgoing>> spare_out_;
};

struct Resolved {
  sockaddr_storage address{};
  socklen_t size = 0;
};

absl::StatusOr<Resolved> Resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  if (const int bad = getaddrinfo(host.c_str(), port.c_str(), &hints, &list); bad != 0) {
    return Error(errors::kUnreachable, absl::StrCat("cannot resolve '", host, "': ", gai_strerror(bad)));
  }
  Resolved first;
  first.size = list->ai_addrlen;
  std::memcpy(&first.address, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  return first;
}

int PortOf(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

class UcxListener final : public LinkListener {
 public:
  explicit UcxListener(std::unique_ptr<Progress> progress) : progress_(std::move(progress)) {}
  ~UcxListener() override {
    for (const ucp_conn_request_h request : requests_) ucp_listener_reject(listener_, request);
    if (listener_ != nullptr) ucp_listener_destroy(listener_);
  }

  absl::Status Open(std::string_view host, int port) {
    ASSIGN_OR_RETURN(const Resolved where,
                     Resolve(std::string(host), absl::StrCat(port), AI_PASSIVE | AI_NUMERICSERV));
    ucp_listener_params_t params{};
    params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
    params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&where.address);
    params.sockaddr.addrlen = where.size;
    params.conn_handler.cb = [](ucp_conn_request_h request, void* arg) {
      static_cast<UcxListener*>(arg)->requests_.push_back(request);
    };
    params.conn_handler.arg = this;
    if (const ucs_status_t bad = ucp_listener_create(progress_->worker(), &params, &listener_);
        bad != UCS_OK) {
      listener_ = nullptr;
      return UcxFailed(errors::kUnreachable, absl::StrCat("cannot listen on ", JoinHostPort(host, port)),
                       bad);
    }
    ucp_listener_attr_t attributes{};
    attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
    if (const ucs_status_t bad = ucp_listener_query(listener_, &attributes); bad != UCS_OK) {
      return UcxFailed(errors::kUnreachable, "asking for the port failed", bad);
    }
    address_ = JoinHostPort(host, PortOf(attributes.sockaddr));
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }

  absl::StatusOr<std::unique_ptr<Link>> Accept(TimePoint deadline) override {
    for (;;) {
      progress_->Run();
      if (!requests_.empty()) {
        const ucp_conn_request_h request = requests_.front();
        requests_.pop_front();
        absl::StatusOr<std::unique_ptr<Progress>> own = Progress::Make(progress_->context());
        if (!own.ok()) {
          ucp_listener_reject(listener_, request);
          return own.status();
        }
        auto link = std::make_unique<UcxLink>(*std::move(own), address_);
        RETURN_IF_ERROR(link->Open(request, nullptr, 0));
        // A client that says nothing costs its own link and some time, not the listener. One that has come is
        // greeted in full, also by a caller who looks in for a moment only.
        if (link->Greet(Clock::Real().Now() + kGreeting).ok()) return link;
        continue;
      }
      if (Clock::Real().Now() >= deadline) return AcceptTimeout("ucx", address_);
      progress_->Sleep(wake_, deadline);
    }
  }

 private:
  std::unique_ptr<Progress> progress_;
  ucp_listener_h listener_ = nullptr;
  std::deque<ucp_conn_request_h> requests_;
  std::string address_;
  WakeEvent wake_;
};

}  // namespace

bool UcxIsBuilt() { return true; }

absl::StatusOr<std::unique_ptr<LinkListener>> ListenUcx(std::string_view host, int port) {
  ASSIGN_OR_RETURN(std::shared_ptr<Context> context, Context::Make());
  ASSIGN_OR_RETURN(std::unique_ptr<Progress> progress, Progress::Make(std::move(context)));
  auto listener = std::make_unique<UcxListener>(std::move(progress));
  RETURN_IF_ERROR(listener->Open(host, port));
  return listener;
}

absl::StatusOr<std::unique_ptr<Link>> ConnectUcx(std::string_view address, TimePoint deadline) {
  ASSIGN_OR_RETURN(const HostPort where, SplitHostPort(address));
  ASSIGN_OR_RETURN(const Resolved resolved, Resolve(where.host, where.port, AI_NUMERICSERV));
  ASSIGN_OR_RETURN(std::shared_ptr<Context> context, Context::Make());
  ASSIGN_OR_RETURN(std::unique_ptr<Progress> progress, Progress::Make(std::move(context)));
  auto link = std::make_unique<UcxLink>(std::move(progress), std::string(address));
  RETURN_IF_ERROR(link->Open(nullptr, reinterpret_cast<const sockaddr*>(&resolved.address), resolved.size));
  RETURN_IF_ERROR(link->Greet(deadline));
  return link;
}

}  // namespace paceline
