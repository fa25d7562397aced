// The HTTP server under clients that behave and clients that do not, over real sockets.
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <semaphore>

#include "coordinator/http/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/raw_http.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr Duration kLong = std::chrono::seconds(60);

// /echo says the body again, /stream leaves the answer to the test, /slow answers when the test lets it.
class HttpServerTest : public ::testing::Test {
 protected:
  void StartServer() {
    HttpHandlers handlers;
    handlers.admit = [](HttpRequest& request) -> std::optional<HttpAnswer> {
      if (request.path == "/closed") return HttpAnswer{401, {}, "no"};
      return std::nullopt;
    };
    handlers.quick = [](const HttpRequest& request) { return request.path == "/quick"; };
    handlers.handle = [this](HttpRequest request, std::shared_ptr<HttpResponse> response) {
      if (request.path == "/stream") {
        streams_.set_value(std::move(response));
        return;
      }
      if (request.path == "/slow") go_.acquire();
      response->Send({200, {{"x-method", request.method}, {"x-query", request.query}}, request.body});
    };
    handlers.refuse = [](int status, const std::string& sentence) {
      return HttpAnswer{status, {}, sentence};
    };
    server_ = std::make_unique<HttpServer>(limits_, std::move(handlers));
    const absl::StatusOr<int> port = server_->Start("127.0.0.1", 0);
    ASSERT_TRUE(port.ok()) << port.status();
    port_ = *port;
  }
  void TearDown() override { go_.release(1000); }
  // The answer of the one request to /stream.
  std::shared_ptr<HttpResponse> Stream() { return streams_.get_future().get(); }

  HttpLimits limits_;
  int port_ = 0;
  std::promise<std::shared_ptr<HttpResponse>> streams_;
  std::counting_semaphore<> go_{0};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, OneConnectionCarriesManyRequests) {
  StartServer();
  RawConnection client(port_);
  for (int i = 0; i < 3; ++i) {
    const RawAnswer answer = client.Ask(RawPost("/echo?a=%20b", "body " + std::to_string(i)));
    EXPECT_EQ(answer.status, 200);
    EXPECT_TRUE(answer.complete);
    EXPECT_EQ(answer.body, "body " + std::to_string(i));
    EXPECT_EQ(answer.Header("x-query"), "a=%20b");
    EXPECT_EQ(answer.Header("connection"), "");
  }
}

TEST_F(HttpServerTest, RequestsSentAheadAreAnsweredInOrder) {
  StartServer();
  RawConnection client(port_);
  std::string all;
  for (int i = 0; i < 20; ++i)
    all += i % 2 == 0 ? RawPost("/echo", std::to_string(i)) : RawGet("/quick?" + std::to_string(i));
  ASSERT_TRUE(client.Send(all));
  for (int i = 0; i < 20; ++i) {
    const RawAnswer answer = client.Answer();
    ASSERT_EQ(answer.status, 200) << i;
    EXPECT_EQ(i % 2 == 0 ? answer.body : answer.Header("x-query"), std::to_string(i));
  }
}

TEST_F(HttpServerTest, ARequestMayComeByteByByte) {
  StartServer();
  RawConnection client(port_);
  for (const char c : RawPost("/echo", "slowly")) ASSERT_TRUE(client.Send(std::string(1, c)));
  EXPECT_EQ(client.Answer().body, "slowly");
}

TEST_F(HttpServerTest, WaysToSendABody) {
  StartServer();
  RawConnection client(port_);
  EXPECT_EQ(client
                .Ask("POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
                .body,
            "abcde");
  // A client that waits to be asked.
  ASSERT_TRUE(
      client.Send("POST /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  ASSERT_TRUE(client.ReceiveUntil("\r\n\r\n"));
  EXPECT_THAT(client.buffer(), StartsWith("HTTP/1.1 100 "));
  EXPECT_EQ(client.Ask("ok").body, "ok");
}

TEST_F(HttpServerTest, HeadHasAHeadOnly) {
  StartServer();
  RawConnection client(port_);
  const RawAnswer answer = client.Ask("HEAD /quick HTTP/1.1\r\nHost: t\r\n\r\n", true);
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("content-length"), "0");
  EXPECT_EQ(client.Ask(RawPost("/echo", "next")).body, "next");
}

TEST_F(HttpServerTest, OldClientsCloseAfterOneAnswer) {
  StartServer();
  RawConnection client(port_);
  const RawAnswer answer = client.Ask("GET /quick HTTP/1.0\r\n\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.Header("connection"), "close");
  EXPECT_TRUE(client.ReceiveEnd());
}

TEST_F(HttpServerTest, WhatIsNoHttpIsRefused) {
  StartServer();
  const std::pair<const char*, int> cases[] = {
      {"\x16\x03\x01\x02\x00\x01 TLS here\r\n\r\n", 400},
      {"GET /quick\r\n\r\n", 400},
      {"GET /quick HTTP/1.1\r\n\r\n", 400},  // no Host
      {"GET quick HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\nHost: t\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       400},
      {"GET /quick HTTP/3.0\r\nHost: t\r\n\r\n", 400},
  };
  for (const auto& [bytes, status] : cases) {
    RawConnection client(port_);
    const RawAnswer answer = client.Ask(bytes);
    EXPECT_EQ(answer.status, status) << bytes;
    EXPECT_FALSE(answer.body.empty());
    EXPECT_TRUE(client.ReceiveEnd());
  }
}

TEST_F(HttpServerTest, SizesAreLimited) {
  limits_.header_bytes = 1000;
  limits_.body_bytes = 5000;
  StartServer();
  {
    RawConnection client(port_);
    const RawAnswer answer = client.Ask(RawGet("/quick", "X-Long: " + std::string(2000, 'x') + "\r\n"));
    EXPECT_EQ(answer.status, 431);
    EXPECT_THAT(answer.body, HasSubstr("1000 bytes"));
  }
  {
    RawConnection client(port_);
    EXPECT_EQ(client.Ask(RawPost("/echo", std::string(5000, 'x'))).body.size(), 5000u);
    // Refused by its length, before it is read: the client sends it all the same, and reads the answer.
    const RawAnswer answer = client.Ask(RawPost("/echo", std::string(300'000, 'x')));
    EXPECT_EQ(answer.status, 413);
    EXPECT_THAT(answer.body, HasSubstr("5000 bytes"));
    EXPECT_TRUE(client.ReceiveEnd());
  }
  {
    RawConnection client(port_);
    const RawAnswer answer =
        client.Ask("POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" +
                   std::string(0x2000, 'x') + "\r\n0\r\n\r\n");
    EXPECT_EQ(answer.status, 413);
  }
}

TEST_F(HttpServerTest, ARequestIsRefusedBeforeItsBodyIsRead) {
  StartServer();
  RawConnection client(port_);
  const RawAnswer answer = client.Ask("POST /closed HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(answer.status, 401);
  // One without a body leaves the connection alone.
  RawConnection other(port_);
  EXPECT_EQ(other.Ask(RawGet("/closed")).status, 401);
  EXPECT_EQ(other.Ask(RawPost("/echo", "x")).body, "x");
}

TEST_F(HttpServerTest, SlowRequestsRunOutOfTime) {
  limits_.header_time = limits_.body_time = std::chrono::milliseconds(50);
  StartServer();
  RawConnection header(port_);
  ASSERT_TRUE(header.Send("GET /quick HTTP/1.1\r\nHos"));
  EXPECT_EQ(header.Answer().status, 408);
  EXPECT_TRUE(header.ReceiveEnd());
  RawConnection body(port_);
  ASSERT_TRUE(body.Send("POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc"));
  EXPECT_EQ(body.Answer().status, 408);
  EXPECT_TRUE(body.ReceiveEnd());
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  limits_.idle_time = std::chrono::milliseconds(50);
  StartServer();
  RawConnection fresh(port_);
  EXPECT_TRUE(fresh.ReceiveEnd());
  RawConnection used(port_);
  EXPECT_EQ(used.Ask(RawPost("/echo", "x")).status, 200);
  EXPECT_TRUE(used.ReceiveEnd());
}

TEST_F(HttpServerTest, AStreamComesBitByBit) {
  StartServer();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  response->Begin(200, {{"content-type", "text/plain"}});
  EXPECT_THAT(client.TakeHead(), HasSubstr("transfer-encoding: chunked"));
  response->Write("one");
  EXPECT_EQ(client.Chunk(), "one");
  response->Write("two");
  EXPECT_EQ(client.Chunk(), "two");
  response->End();
  EXPECT_EQ(client.Chunk(), "");
  response->Write("after the end");
  EXPECT_EQ(client.Ask(RawPost("/echo", "next")).body, "next");
}

TEST_F(HttpServerTest, AnAnswerThatBreaksOffIsNotWhole) {
  StartServer();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  std::shared_ptr<HttpResponse> response = Stream();
  response->Begin(200, {});
  response->Write("half");
  client.TakeHead();
  EXPECT_EQ(client.Chunk(), "half");
  response.reset();  // nobody will ever say more
  EXPECT_TRUE(client.ReceiveEnd());
  EXPECT_EQ(client.buffer(), "");
}

TEST_F(HttpServerTest, AClientThatLeavesIsNoticed) {
  StartServer();
  auto client = std::make_unique<RawConnection>(port_);
  ASSERT_TRUE(client->Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  std::promise<void> gone;
  response->OnGone([&gone] { gone.set_value(); });
  client.reset();
  EXPECT_EQ(gone.get_future().wait_for(kLong), std::future_status::ready);
  // Who asks afterwards hears it at once.
  std::promise<void> again;
  response->OnGone([&again] { again.set_value(); });
  EXPECT_EQ(again.get_future().wait_for(kLong), std::future_status::ready);
}

TEST_F(HttpServerTest, AReaderThatDoesNotReadIsDropped) {
  limits_.queue_bytes = 100'000;
  StartServer();
  RawConnection client(port_, 4096);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  std::promise<void> gone;
  std::future<void> gone_future = gone.get_future();
  response->OnGone([&gone] { gone.set_value(); });
  response->Begin(200, {});
  // Nobody reads; the system's own buffers take some megabytes, then the queue is full.
  int64_t sent = 0;
  while (gone_future.wait_for(Duration::zero()) != std::future_status::ready) {
    ASSERT_LT(sent, 1 << 30) << "the queue has no bound";
    response->Write(std::string(10'000, 'x'));
    sent += 10'000;
    if (sent % 1'000'000 == 0) {  // let the server's thread see it
      std::promise<void> seen;
      response->Post([&seen] { seen.set_value(); });
      seen.get_future().wait();
    }
  }
  RawConnection other(port_);
  EXPECT_EQ(other.Ask(RawPost("/echo", "unharmed")).body, "unharmed");
}

TEST_F(HttpServerTest, AReaderThatStallsIsDropped) {
  limits_.write_time = std::chrono::milliseconds(50);
  limits_.queue_bytes = 64 << 20;
  StartServer();
  RawConnection client(port_, 4096);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  std::promise<void> gone;
  response->OnGone([&gone] { gone.set_value(); });
  response->Begin(200, {});
  response->Write(std::string(32 << 20, 'x'));
  EXPECT_EQ(gone.get_future().wait_for(kLong), std::future_status::ready);
}

TEST_F(HttpServerTest, HandlersThatTakeTimeDelayNobodyElse) {
  StartServer();
  std::vector<std::unique_ptr<RawConnection>> slow;
  for (int i = 0; i < 8; ++i) {
    slow.push_back(std::make_unique<RawConnection>(port_));
    ASSERT_TRUE(slow.back()->Send(RawGet("/slow")));
  }
  RawConnection quick(port_);
  EXPECT_EQ(quick.Ask(RawGet("/quick")).status, 200);
  go_.release(8);
  for (const auto& client : slow) EXPECT_EQ(client->Answer().status, 200);
}

TEST_F(HttpServerTest, NumbersAreLimited) {
  limits_.connections = 2;
  StartServer();
  RawConnection first(port_);
  RawConnection second(port_);
  EXPECT_EQ(first.Ask(RawGet("/quick")).status, 200);
  EXPECT_EQ(second.Ask(RawGet("/quick")).status, 200);
  RawConnection third(port_);
  const RawAnswer refused = third.Answer();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(first.Ask(RawGet("/quick")).status, 200);
}

TEST_F(HttpServerTest, StopLetsAnswersEnd) {
  StartServer();
  RawConnection fresh(port_);  // accepted before the next one is answered
  RawConnection idle(port_);
  EXPECT_EQ(idle.Ask(RawGet("/quick")).status, 200);
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  response->Begin(200, {});
  std::future<void> stopped = std::async(std::launch::async, [this] { server_->Stop(kLong); });
  EXPECT_TRUE(idle.ReceiveEnd());  // so the stop has begun
  EXPECT_EQ(fresh.Ask(RawGet("/quick")).status, 200);
  response->Write("last words");
  response->End();
  stopped.get();
  const RawAnswer answer = client.Answer();
  EXPECT_TRUE(answer.complete);
  EXPECT_EQ(answer.body, "last words");
}

TEST_F(HttpServerTest, StopEndsAnswersThatDoNot) {
  StartServer();
  RawConnection client(port_);
  ASSERT_TRUE(client.Send(RawGet("/stream")));
  const std::shared_ptr<HttpResponse> response = Stream();
  std::promise<void> gone;
  response->OnGone([&gone] { gone.set_value(); });
  response->Begin(200, {});
  server_->Stop(Duration::zero());
  EXPECT_EQ(gone.get_future().wait_for(kLong), std::future_status::ready);
  EXPECT_FALSE(client.Answer().complete);
  server_.reset();
  response->Write("to nobody");  // an engine that ends later than the server
  response->End();
}

TEST_F(HttpServerTest, ATakenPortIsAnError) {
  StartServer();
  HttpServer other({}, {});
  const absl::StatusOr<int> port = other.Start("127.0.0.1", port_);
  ASSERT_FALSE(port.ok());
  EXPECT_THAT(std::string(port.status().message()), HasSubstr("--http-port"));
  EXPECT_FALSE(HttpServer({}, {}).Start("no such host", 0).ok());
}

TEST(HttpMessage, Percent) {
  std::string out;
  EXPECT_TRUE(DecodePercent("a%20b%2Fc+d", false, &out));
  EXPECT_EQ(out, "a b/c+d");
  EXPECT_TRUE(DecodePercent("a+b", true, &out));
  EXPECT_EQ(out, "a b");
  EXPECT_FALSE(DecodePercent("%2", false, &out));
  EXPECT_FALSE(DecodePercent("%2g", false, &out));
}

TEST(HttpMessage, Base64) {
  std::string out;
  EXPECT_TRUE(DecodeBase64("dXNlcjprZXk=", &out));
  EXPECT_EQ(out, "user:key");
  EXPECT_TRUE(DecodeBase64("dXNlcjprZXk", &out));
  EXPECT_EQ(out, "user:key");
  EXPECT_FALSE(DecodeBase64("dXN*", &out));
  EXPECT_FALSE(DecodeBase64("A", &out));
}

}  // namespace
}  // namespace paceline
