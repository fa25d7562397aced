// The one file that knows Boost. Beast reads requests; answers are written by hand, since they are simple
// and mostly streams. Everything of a connection happens on the server's one thread, so nothing here is
// locked but the door that other threads come through (Core::Post).
#include "coordinator/http/server.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"

namespace paceline {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kHandlerThreads = 4;
constexpr size_t kPieceBytes = 4096;  // of one read before its turn
constexpr size_t kBodyBufferBytes = 64 << 10;
// A client that was refused in the middle of its body is listened to a little longer: closing at once would
// reset the connection and could destroy the answer before it is read.
constexpr Duration kLingerTime = std::chrono::seconds(2);
constexpr size_t kLingerBytes = 1 << 20;
constexpr Duration kAcceptPause = std::chrono::milliseconds(100);  // after accepting failed: out of files
constexpr size_t kRefusedConnections = 64;                         // beyond the limit, told so

const char* ReasonPhrase(int status) {
  return beast::http::obsolete_reason(beast::http::int_to_status(static_cast<unsigned>(status))).data();
}

void AppendHead(int status, const HttpHeaders& headers, std::string* out) {
  absl::StrAppend(out, "HTTP/1.1 ", status, " ", ReasonPhrase(status), "\r\n");
  for (const auto& [name, value] : headers) {
    absl::StrAppend(out, name, ": ");
    for (const char c : value) {
      if (static_cast<unsigned char>(c) >= 0x20) out->push_back(c);  // a line break would begin a header
    }
    out->append("\r\n");
  }
}

bool IsHttpError(const error_code& error) {
  return error.category() == make_error_code(beast::http::error::bad_target).category();
}

}  // namespace

// What connections share. Outlives the server while an answer is still held somewhere.
struct HttpServer::Core {
  Core(HttpLimits the_limits, HttpHandlers the_handlers)
      : limits(the_limits),
        handlers(std::move(the_handlers)),
        guard(io.get_executor()),
        acceptor(io),
        pause(io) {}

  // From any thread.
  void Post(std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!stopped) asio::post(io, std::move(work));
  }
  bool OnThread() const { return std::this_thread::get_id() == thread_id; }

  void Busy(int change) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      busy += change;
    }
    if (change < 0) changed.notify_all();
  }

  void Accept(const std::shared_ptr<Core>& self);

  const HttpLimits limits;
  const HttpHandlers handlers;
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard;
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  std::unordered_set<std::shared_ptr<Connection>> connections;  // the server's thread alone
  bool draining = false;                                        // the same
  std::unique_ptr<asio::thread_pool> pool;
  std::atomic<int> handling{0};
  std::atomic<std::thread::id> thread_id{};
  std::thread thread;

  std::mutex mutex;
  std::condition_variable changed;
  bool stopped = false;  // guarded by mutex
  int busy = 0;          // answers under way; guarded by mutex
};

class HttpServer::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Core> core, tcp::socket socket)
      : core_(std::move(core)),
        socket_(std::move(socket)),
        buffer_(static_cast<size_t>(core_->limits.header_bytes) + kPieceBytes + kBodyBufferBytes),
        timer_(core_->io),
        write_timer_(core_->io),
        later_(core_->io) {}

  void Start() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    socket_.set_option(asio::socket_base::keep_alive(true), ignored);
    Await();
  }
  // `reading`: a read is still under way, so the connection cannot linger.
  void Refuse(int status, const std::string& sentence, bool reading = false) {
    BeginAnswer();
    keep_alive_ = false;
    unread_ = !reading;
    Send(serial_, core_->handlers.refuse(status, sentence));
  }
  // The server ends: nobody waits for a further request. A connection that has had none yet may have one on
  // its way, which gets its refusal.
  void Drain() {
    keep_alive_ = false;
    if (!answering_ && answered_) Close();
  }
  void Close() {
    if (closed_) return;
    closed_ = true;
    error_code ignored;
    socket_.close(ignored);
    timer_.cancel();
    write_timer_.cancel();
    later_.cancel();
    const std::function<void()> gone = ended_ ? nullptr : std::exchange(gone_, nullptr);
    gone_ = nullptr;
    if (std::exchange(answering_, false)) core_->Busy(-1);
    const std::shared_ptr<Connection> alive = shared_from_this();
    core_->connections.erase(alive);
    if (gone) gone();
  }

 private:
  class Answer;

  // Between two requests.
  void Await() {
    if (core_->draining && !first_) return Close();
    first_ = false;
    if (buffer_.size() > 0) return ReadHeader();
    Arm(timer_, core_->limits.idle_time, [this] { Close(); });
    Watch();
  }

  // Reads what comes before it is asked for: the first bytes of a request; while an answer is under way, that
  // the client has gone; and what a refused client still sends. With bytes of the next request at hand there
  // is no watch: a client that sends ahead is noticed to have gone when writing to it fails.
  void Watch() {
    if (watching_ || closed_ || buffer_.size() > 0) return;
    watching_ = true;
    socket_.async_read_some(buffer_.prepare(kPieceBytes),
                            [self = shared_from_this()](const error_code& error, size_t bytes) {
                              self->watching_ = false;
                              self->buffer_.commit(bytes);
                              self->Watched(error);
                            });
  }
  void Watched(const error_code& error) {
    if (closed_) return;
    if (lingering_) {
      lingered_ += buffer_.size();
      buffer_.clear();
      if (error || lingered_ > kLingerBytes) return Close();
      return Watch();
    }
    if (error) {
      keep_alive_ = false;
      if (answering_ && ended_) return;  // what is left to write may still be read
      return Close();
    }
    if (!answering_) ReadHeader();
  }

  void ReadHeader() {
    http_1_0_ = head_only_ = false;
    parser_.emplace();
    parser_->header_limit(static_cast<uint32_t>(core_->limits.header_bytes));
    parser_->body_limit(static_cast<uint64_t>(core_->limits.body_bytes));
    Arm(timer_, core_->limits.header_time,
        [this] { Refuse(408, "the request's header did not come in time; send it at once", true); });
    beast::http::async_read_header(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](const error_code& error, size_t) { self->HeaderRead(error); });
  }

  // Whether reading went wrong; answers where somebody can hear it.
  bool Failed(const error_code& error) {
    if (closed_ || answering_) return true;  // closed, or refused for being slow
    if (!error) return false;
    Disarm(timer_);
    if (error == beast::http::error::body_limit) {
      Refuse(413, absl::StrCat("the body is larger than ", core_->limits.body_bytes,
                               " bytes; send less, or raise the server's --max-body"));
    } else if (error == beast::http::error::header_limit || error == beast::http::error::buffer_overflow) {
      Refuse(431, absl::StrCat("the header is larger than ", core_->limits.header_bytes, " bytes"));
    } else if (error != beast::http::error::end_of_stream && error != beast::http::error::partial_message &&
               IsHttpError(error)) {
      Refuse(400, absl::StrCat("the request is not HTTP/1.1: ", error.message()));
    } else {
      Close();
    }
    return true;
  }

  void HeaderRead(const error_code& error) {
    if (Failed(error)) return;
    Disarm(timer_);
    const auto& head = parser_->get();
    keep_alive_ = head.keep_alive() && !core_->draining;
    http_1_0_ = head.version() < 11;
    head_only_ = head.method() == beast::http::verb::head;
    if (head.version() != 10 && head.version() != 11) return Refuse(400, "expected HTTP/1.1 or HTTP/1.0");
    request_ = HttpRequest();
    request_.method = std::string(head.method_string());
    for (const auto& field : head) {
      request_.headers.emplace_back(
          absl::AsciiStrToLower(absl::string_view(field.name_string().data(), field.name_string().size())),
          std::string(field.value()));
    }
    if (!http_1_0_ && request_.Header("host").empty())
      return Refuse(400, "a request of HTTP/1.1 needs a Host header");
    const std::string target(head.target());
    const size_t mark = target.find('?');
    if (mark != std::string::npos) request_.query = target.substr(mark + 1);
    if (target.empty() || target.front() != '/' ||
        !DecodePercent(std::string_view(target).substr(0, mark), false, &request_.path)) {
      return Refuse(400, "expected a path that begins with a slash and has valid %XX escapes");
    }
    if (std::optional<HttpAnswer> early = core_->handlers.admit(request_)) {
      BeginAnswer();
      if (!parser_->is_done()) {
        keep_alive_ = false;
        unread_ = true;
      }
      return Send(serial_, *std::move(early));
    }
    if (parser_->is_done()) return BodyRead({});
    if (absl::AsciiStrToLower(std::string(request_.Header("expect"))) == "100-continue") {
      pending_.append("HTTP/1.1 100 Continue\r\n\r\n");
      Flush();
    }
    Arm(timer_, core_->limits.body_time,
        [this] { Refuse(408, "the request's body did not come in time; send it faster", true); });
    beast::http::async_read(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](const error_code& read_error, size_t) { self->BodyRead(read_error); });
  }

  void BodyRead(const error_code& error);

  void BeginAnswer() {
    answering_ = true;
    begun_ = ended_ = false;
    ++serial_;
    core_->Busy(1);
  }
  // Calls of an earlier request's answer, or behind its end, mean nothing.
  bool Current(uint64_t serial) const { return serial == serial_ && answering_ && !closed_ && !ended_; }

  void Send(uint64_t serial, HttpAnswer answer) {
    if (!Current(serial) || begun_) return;
    answer.headers.emplace_back("content-length", std::to_string(answer.body.size()));
    AppendConnection(&answer.headers);
    AppendHead(answer.status, answer.headers, &pending_);
    pending_.append("\r\n");
    if (!head_only_) pending_.append(answer.body);
    ended_ = true;
    Flush();
  }
  void Begin(uint64_t serial, int status, HttpHeaders headers) {
    if (!Current(serial) || begun_) return;
    begun_ = true;
    if (http_1_0_) {
      keep_alive_ = false;
    } else {
      headers.emplace_back("transfer-encoding", "chunked");
    }
    AppendConnection(&headers);
    AppendHead(status, headers, &pending_);
    pending_.append("\r\n");
    Flush();
  }
  void Write(uint64_t serial, const std::string& bytes) {
    if (!Current(serial) || !begun_ || bytes.empty() || head_only_) return;
    if (http_1_0_) {
      pending_.append(bytes);
    } else {
      absl::StrAppend(&pending_, absl::Hex(bytes.size()), "\r\n", bytes, "\r\n");
    }
    const size_t waiting = pending_.size() + flight_.size() - written_;
    if (waiting > static_cast<size_t>(core_->limits.queue_bytes)) return Close();
    Flush();
  }
  void End(uint64_t serial) {
    if (!Current(serial) || !begun_) return;
    if (!http_1_0_ && !head_only_) pending_.append("0\r\n\r\n");
    ended_ = true;
    Flush();
  }
  void AppendConnection(HttpHeaders* headers) const {
    if (!keep_alive_) {
      headers->emplace_back("connection", "close");
    } else if (http_1_0_) {
      headers->emplace_back("connection", "keep-alive");
    }
  }
  void OnGone(uint64_t serial, std::function<void()> gone) {
    if (serial == serial_ && answering_ && !closed_) {
      if (!ended_) gone_ = std::move(gone);
    } else {
      gone();
    }
  }
  void After(uint64_t serial, Duration delay, std::function<void()> work) {
    if (!Current(serial)) return;
    Arm(later_, delay, [this, serial, work = std::move(work)] {
      if (Current(serial)) work();
    });
  }

  // Everything that waits goes out in one write.
  void Flush() {
    if (closed_ || writing_) return;
    if (written_ == flight_.size()) {
      flight_.clear();
      written_ = 0;
      flight_.swap(pending_);
    }
    if (flight_.empty()) {
      if (ended_ && answering_) Answered();
      return;
    }
    writing_ = true;
    Arm(write_timer_, core_->limits.write_time, [this] { Close(); });
    socket_.async_write_some(asio::buffer(flight_.data() + written_, flight_.size() - written_),
                             [self = shared_from_this()](const error_code& error, size_t bytes) {
                               self->writing_ = false;
                               self->Disarm(self->write_timer_);
                               if (error) return self->Close();
                               self->written_ += bytes;
                               self->Flush();
                             });
  }

  void Answered() {
    answering_ = false;
    gone_ = nullptr;
    Disarm(later_);
    core_->Busy(-1);
    answered_ = true;
    if (keep_alive_ && !core_->draining) return Await();
    if (!unread_) return Close();
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    lingering_ = true;
    buffer_.clear();
    Arm(timer_, kLingerTime, [this] { Close(); });
    Watch();
  }

  // Sets a timer, or sets it anew. One whose handler is already on its way when that happens must not act.
  template <class Work>
  void Arm(asio::steady_timer& timer, Duration delay, Work work) {
    timer.expires_after(delay);
    timer.async_wait([self = shared_from_this(), &timer, at = timer.expiry(), work](const error_code& error) {
      if (!error && !self->closed_ && timer.expiry() == at) work();
    });
  }

  void Disarm(asio::steady_timer& timer) { timer.expires_at(asio::steady_timer::time_point::max()); }

  const std::shared_ptr<Core> core_;
  tcp::socket socket_;
  beast::flat_buffer buffer_;
  std::optional<beast::http::request_parser<beast::http::string_body>> parser_;
  HttpRequest request_;
  asio::steady_timer timer_;        // of reading
  asio::steady_timer write_timer_;  // of writing
  asio::steady_timer later_;        // the answer's own
  std::function<void()> gone_;
  std::string pending_;  // waits for the write under way
  std::string flight_;   // is being written
  size_t written_ = 0;   // of flight_
  size_t lingered_ = 0;
  uint64_t serial_ = 0;  // of the request that is answered
  bool first_ = true;
  bool answered_ = false;  // at least one request
  bool watching_ = false;
  bool writing_ = false;
  bool answering_ = false;
  bool begun_ = false;
  bool ended_ = false;
  bool keep_alive_ = true;
  bool http_1_0_ = false;
  bool head_only_ = false;
  bool unread_ = false;  // the request was refused before it was read
  bool lingering_ = false;
  bool closed_ = false;
};

// A handler's end of an answer.
class HttpServer::Connection::Answer final : public HttpResponse {
 public:
  Answer(std::shared_ptr<Connection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}
  // A client must not wait for an answer that nobody will write any more.
  ~Answer() override { Abort(); }

  void Send(HttpAnswer answer) override {
    Run([answer = std::move(answer)](Connection& c, uint64_t serial) mutable {
      c.Send(serial, std::move(answer));
    });
  }
  void Begin(int status, HttpHeaders headers) override {
    Run([status, headers = std::move(headers)](Connection& c, uint64_t serial) mutable {
      c.Begin(serial, status, std::move(headers));
    });
  }
  void Write(std::string bytes) override {
    Run([bytes = std::move(bytes)](Connection& c, uint64_t serial) { c.Write(serial, bytes); });
  }
  void End() override {
    Run([](Connection& c, uint64_t serial) { c.End(serial); });
  }
  void Abort() override {
    Run([](Connection& c, uint64_t serial) {
      if (c.Current(serial)) c.Close();
    });
  }
  void Post(std::function<void()> work) override { connection_->core_->Post(std::move(work)); }
  void After(Duration delay, std::function<void()> work) override {
    Run([delay, work = std::move(work)](Connection& c, uint64_t serial) mutable {
      c.After(serial, delay, std::move(work));
    });
  }
  void OnGone(std::function<void()> gone) override {
    Run([gone = std::move(gone)](Connection& c, uint64_t serial) mutable {
      c.OnGone(serial, std::move(gone));
    });
  }

 private:
  template <class Work>
  void Run(Work work) {
    if (connection_->core_->OnThread()) return work(*connection_, serial_);
    connection_->core_->Post([connection = connection_, serial = serial_, work = std::move(work)]() mutable {
      work(*connection, serial);
    });
  }

  const std::shared_ptr<Connection> connection_;
  const uint64_t serial_;
};

void HttpServer::Connection::BodyRead(const error_code& error) {
  if (Failed(error)) return;
  Disarm(timer_);
  request_.body = std::move(parser_->get().body());
  parser_.reset();
  BeginAnswer();
  Watch();
  auto answer = std::make_shared<Answer>(shared_from_this(), serial_);
  if (core_->handlers.quick(request_)) return core_->handlers.handle(std::move(request_), std::move(answer));
  if (core_->handling >= core_->limits.handlers) {
    return answer->Send(core_->handlers.refuse(429, "too many requests wait to be read; try again later"));
  }
  ++core_->handling;
  auto request = std::make_shared<HttpRequest>(std::move(request_));
  asio::post(*core_->pool, [core = core_, request, answer = std::move(answer)]() mutable {
    core->handlers.handle(std::move(*request), std::move(answer));
    --core->handling;
  });
}

void HttpServer::Core::Accept(const std::shared_ptr<Core>& self) {
  acceptor.async_accept([this, self](const error_code& error, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (error) {
      pause.expires_after(kAcceptPause);
      pause.async_wait([this, self](const error_code& cancelled) {
        if (!cancelled) Accept(self);
      });
      return;
    }
    const auto limit = static_cast<size_t>(limits.connections);
    if (connections.size() < limit + kRefusedConnections) {
      auto connection = std::make_shared<Connection>(self, std::move(socket));
      connections.insert(connection);
      connections.size() <= limit ? connection->Start()
                                  : connection->Refuse(503, "too many connections; try again later");
    }
    Accept(self);
  });
}

HttpServer::HttpServer(HttpLimits limits, HttpHandlers handlers)
    : core_(std::make_shared<Core>(limits, std::move(handlers))) {}

HttpServer::~HttpServer() { Stop(Duration::zero()); }

absl::StatusOr<int> HttpServer::Start(const std::string& host, int port, const std::string& flags) {
  CHECK(!core_->thread.joinable());
  const auto fail = [&](const error_code& error) {
    return Error(errors::kOption, absl::StrCat("cannot listen on ", host, ":", port, " for HTTP (",
                                               error.message(), "); choose another with ", flags));
  };
  error_code error;
  std::string name = host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']') name = name.substr(1, name.size() - 2);
  const auto found = tcp::resolver(core_->io).resolve(name, std::to_string(port), error);
  if (error || found.empty()) return fail(error);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  core_->acceptor.open(endpoint.protocol(), error);
  // A head that restarts finds its port again; two heads on one port stay impossible on Linux.
  if (!error) core_->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) core_->acceptor.bind(endpoint, error);
  if (!error) core_->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return fail(error);
  const int bound = core_->acceptor.local_endpoint(error).port();
  if (error) return fail(error);
  core_->pool = std::make_unique<asio::thread_pool>(kHandlerThreads);
  core_->Accept(core_);
  core_->thread = std::thread([core = core_] {
    core->thread_id = std::this_thread::get_id();
    core->io.run();
  });
  return bound;
}

void HttpServer::Stop(Duration grace) {
  if (!core_->thread.joinable()) return;
  Core& core = *core_;
  core.Post([&core] {
    core.draining = true;
    const auto connections = core.connections;  // Drain takes them out
    for (const std::shared_ptr<Connection>& connection : connections) connection->Drain();
  });
  {
    std::unique_lock<std::mutex> lock(core.mutex);
    core.changed.wait_for(lock, grace, [&core] { return core.busy == 0; });
  }
  core.Post([&core] {
    {
      const std::lock_guard<std::mutex> lock(core.mutex);
      core.stopped = true;
    }
    error_code ignored;
    core.acceptor.close(ignored);
    core.pause.cancel();
    const auto connections = core.connections;
    for (const std::shared_ptr<Connection>& connection : connections) connection->Close();
    core.guard.reset();
  });
  core.thread.join();
  core.pool->stop();
  core.pool->join();
}

}  // namespace paceline
