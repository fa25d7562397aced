// The client's one file that knows Boost. Everything of a call happens in Run, so nothing is locked.
#include "cli/http_client.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "boost/asio/connect.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"

#ifndef PACELINE_VERSION
#error "cli/CMakeLists.txt defines PACELINE_VERSION"
#endif

namespace paceline::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;

constexpr char kPlain[] = "http://";
constexpr char kSecure[] = "https://";
constexpr auto kLook = std::chrono::milliseconds(20);  // between two questions whether to go on
constexpr size_t kBufferBytes = 1 << 20;               // of what was read and not yet parsed
constexpr size_t kReadBytes = 64 << 10;
constexpr uint32_t kHeaderBytes = 64 << 10;

std::string Authority(const HttpUrl& url) {
  const bool bracket = url.host.find(':') != std::string::npos;
  return absl::StrCat(bracket ? "[" : "", url.host, bracket ? "]" : "", ":", url.port);
}

std::string RequestText(const HttpUrl& url, const HttpCall& call) {
  std::string text =
      absl::StrCat(call.method, " ", url.prefix, call.path, " HTTP/1.1\r\nhost: ", Authority(url),
                   "\r\nuser-agent: paceline/", PACELINE_VERSION,
                   "\r\naccept: application/json, text/event-stream\r\nconnection: close\r\n");
  if (!call.key.empty()) absl::StrAppend(&text, "authorization: Bearer ", call.key, "\r\n");
  if (!call.body.empty())
    absl::StrAppend(&text, "content-type: application/json\r\ncontent-length: ", call.body.size(), "\r\n");
  absl::StrAppend(&text, "\r\n", call.body);
  return text;
}

absl::Status NotAUrl(const std::string& url) {
  return Error(errors::kOption, absl::StrCat("expected an address like http://127.0.0.1:8000, got ", url));
}

}  // namespace

std::string HttpUrl::Text() const { return absl::StrCat(kPlain, Authority(*this), prefix); }

bool IsHttpUrl(const std::string& text) { return text.starts_with(kPlain) || text.starts_with(kSecure); }

absl::StatusOr<HttpUrl> ParseHttpUrl(const std::string& url) {
  if (url.starts_with(kSecure)) {
    return Error(errors::kOption,
                 absl::StrCat(url,
                              ": https is not spoken here; give the http:// address of the server itself, or "
                              "of a tunnel to it"));
  }
  if (!url.starts_with(kPlain)) return NotAUrl(url);
  std::string_view rest = std::string_view(url).substr(sizeof kPlain - 1);
  HttpUrl out;
  const size_t slash = rest.find('/');
  if (slash != std::string_view::npos) {
    out.prefix = std::string(rest.substr(slash));
    rest = rest.substr(0, slash);
  }
  while (out.prefix.ends_with('/')) out.prefix.pop_back();
  if (out.prefix.ends_with("/v1")) out.prefix.resize(out.prefix.size() - 3);
  // The last colon outside of brackets begins the port.
  const size_t bracket = rest.rfind(']');
  const size_t colon = rest.rfind(':');
  if (colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket)) {
    const std::string_view digits = rest.substr(colon + 1);
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
    if (read.ec != std::errc() || read.ptr != digits.data() + digits.size() || out.port < 1 ||
        out.port > 65535)
      return NotAUrl(url);
    rest = rest.substr(0, colon);
  }
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']') rest = rest.substr(1, rest.size() - 2);
  // A blank or a control character would end the request line, or begin a header.
  const auto wrong = [](char c) {
    return static_cast<unsigned char>(c) <= ' ' || c == '@' || c == '?' || c == '#';
  };
  if (rest.empty() || std::any_of(rest.begin(), rest.end(), wrong) ||
      std::any_of(out.prefix.begin(), out.prefix.end(), wrong)) {
    return NotAUrl(url);
  }
  out.host = std::string(rest);
  return out;
}

struct HttpLoop::Core {
  explicit Core(HttpUrl the_url) : url(std::move(the_url)) {}

  const HttpUrl url;
  asio::io_context io{1};
  tcp::resolver::results_type endpoints;
  std::unordered_set<std::shared_ptr<Exchange>> exchanges;
  std::unordered_set<std::shared_ptr<asio::steady_timer>> timers;
};

// One call and its connection.
class HttpLoop::Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(Core& core, const HttpCall& call, std::shared_ptr<HttpListener> listener)
      : core_(core),
        listener_(std::move(listener)),
        request_(RequestText(core.url, call)),
        silence_(call.silence),
        socket_(core.io),
        timer_(core.io),
        buffer_(kBufferBytes) {}

  void Start() {
    parser_.header_limit(kHeaderBytes);
    parser_.body_limit(boost::none);
    Arm();
    asio::async_connect(socket_, core_.endpoints,
                        [self = shared_from_this()](const error_code& error, const tcp::endpoint&) {
                          if (!self->Failed(error, "cannot connect")) self->Write();
                        });
  }
  void Cancel() { End(absl::CancelledError("cancelled")); }

 private:
  void Write() {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    asio::async_write(socket_, asio::buffer(request_),
                      [self = shared_from_this()](const error_code& error, size_t) {
                        // A server that refuses may close before it has read everything; its answer says more
                        // than the error.
                        if (self->over_) return;
                        self->write_error_ = error;
                        self->Arm();
                        self->ReadHeader();
                      });
  }
  void ReadHeader() {
    beast::http::async_read_header(
        socket_, buffer_, parser_, [self = shared_from_this()](const error_code& error, size_t) {
          if (self->Failed(error, "no answer")) return;
          self->Arm();
          self->listener_->OnStatus(static_cast<int>(self->parser_.get().result_int()));
          self->parser_.eager(true);
          self->TakeBody();
        });
  }
  // Everything that one read brought goes out at once: Beast's own reading would wait for the body's end, or
  // give out one chunk at a time.
  void TakeBody() {
    if (over_) return;
    error_code error;
    if (buffer_.size() > 0 && !parser_.is_done()) buffer_.consume(parser_.put(buffer_.data(), error));
    const std::string piece = std::exchange(parser_.get().body(), {});
    if (!piece.empty()) listener_->OnBody(piece, Clock::Real().Now());
    if (over_ || (error != beast::http::error::need_more && Failed(error, "the answer is not HTTP"))) return;
    if (parser_.is_done()) return End(absl::OkStatus());
    // What is left there is no more than the head of a chunk.
    if (buffer_.size() + kReadBytes > buffer_.max_size()) {
      Failed(make_error_code(beast::http::error::buffer_overflow), "the answer is not HTTP");
      return;
    }
    socket_.async_read_some(buffer_.prepare(kReadBytes),
                            [self = shared_from_this()](error_code read_error, size_t bytes) {
                              if (self->over_) return;
                              self->Arm();
                              self->buffer_.commit(bytes);
                              // The end of the connection may be that of the answer.
                              if (read_error == asio::error::eof) self->parser_.put_eof(read_error);
                              if (!self->Failed(read_error, "the answer broke off")) self->TakeBody();
                            });
  }

  bool Failed(const error_code& error, const char* what) {
    if (over_) return true;
    if (!error) return false;
    const error_code& why = write_error_ ? write_error_ : error;
    End(Error(errors::kUnreachable, absl::StrCat(what, ": ", core_.url.Text(), ": ", why.message(),
                                                 "; does a server run there, and is this its HTTP port?")));
    return true;
  }
  // Sets the watch over silence anew.
  void Arm() {
    timer_.expires_after(silence_);
    timer_.async_wait([self = shared_from_this(), at = timer_.expiry()](const error_code& error) {
      if (error || self->over_ || self->timer_.expiry() != at) return;
      self->End(Error(errors::kTimeout, absl::StrCat(self->core_.url.Text(), " has not said a byte in ",
                                                     Seconds(self->silence_), " s")));
    });
  }
  void End(const absl::Status& status) {
    if (std::exchange(over_, true)) return;
    error_code ignored;
    socket_.close(ignored);
    timer_.cancel();
    const std::shared_ptr<Exchange> alive = shared_from_this();
    core_.exchanges.erase(alive);
    const std::shared_ptr<HttpListener> listener = std::move(listener_);
    listener->OnEnd(status, Clock::Real().Now());
  }

  Core& core_;
  std::shared_ptr<HttpListener> listener_;
  const std::string request_;
  const Duration silence_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  beast::flat_buffer buffer_;
  beast::http::response_parser<beast::http::string_body> parser_;
  error_code write_error_;
  bool over_ = false;
};

HttpLoop::HttpLoop(std::unique_ptr<Core> core) : core_(std::move(core)) {}
HttpLoop::~HttpLoop() = default;

absl::StatusOr<std::unique_ptr<HttpLoop>> HttpLoop::Open(const HttpUrl& url) {
  auto core = std::make_unique<Core>(url);
  error_code error;
  core->endpoints = tcp::resolver(core->io).resolve(url.host, std::to_string(url.port), error);
  if (error || core->endpoints.empty()) {
    return Error(errors::kUnreachable,
                 absl::StrCat(url.host, " has no address (", error.message(), "); is the name right?"));
  }
  return std::unique_ptr<HttpLoop>(new HttpLoop(std::move(core)));
}

void HttpLoop::Send(HttpCall call, std::shared_ptr<HttpListener> listener) {
  auto exchange = std::make_shared<Exchange>(*core_, call, std::move(listener));
  core_->exchanges.insert(exchange);
  exchange->Start();
}

void HttpLoop::At(TimePoint time, std::function<void()> work) {
  auto timer = std::make_shared<asio::steady_timer>(core_->io, time);
  core_->timers.insert(timer);
  timer->async_wait([core = core_.get(), timer, work = std::move(work)](const error_code& error) {
    if (core->timers.erase(timer) > 0 && !error) work();
  });
}

void HttpLoop::Run(const std::function<bool()>& wanted) {
  const auto busy = [this] { return !core_->exchanges.empty() || !core_->timers.empty(); };
  while (busy()) {
    core_->io.restart();
    core_->io.run_one_for(kLook);
    if (wanted()) continue;
    const auto timers = std::exchange(core_->timers, {});
    for (const auto& timer : timers) timer->cancel();
    const auto exchanges = core_->exchanges;  // Cancel takes them out
    for (const auto& exchange : exchanges) exchange->Cancel();
  }
  // Handlers of what was closed hold their exchanges until they have run.
  core_->io.restart();
  core_->io.poll();
}

absl::StatusOr<HttpReply> HttpLoop::Fetch(HttpCall call, const std::function<bool()>& wanted) {
  class Collector final : public HttpListener {
   public:
    void OnStatus(int status) override { reply.status = status; }
    void OnBody(std::string_view bytes, TimePoint) override { reply.body.append(bytes); }
    void OnEnd(const absl::Status& status, TimePoint) override { end = status; }
    HttpReply reply;
    absl::Status end;
  };
  const auto collector = std::make_shared<Collector>();
  Send(std::move(call), collector);
  Run(wanted);
  if (!collector->end.ok()) return collector->end;
  return std::move(collector->reply);
}

}  // namespace paceline::cli
