// GenerateStream and ResumeGeneration: what a stream says and in which order, streams that break off, and the
// log behind them.
#include "coordinator/server_stream.h"

#include "coordinator/api_error.h"
#include "coordinator/status_wire.h"
#include "gmock/gmock.h"
#include "tests/coordinator/server_fixture.h"

namespace paceline {
namespace {

TEST_F(ServerTest, StreamIsStartedTokensFinishedCompleted) {
  Ready();
  Gate();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(3);
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event)) << "started comes while the first step is still held";
  EXPECT_TRUE(event.has_started());
  EXPECT_EQ(event.sequence(), 1u);
  EXPECT_EQ(event.started().prompt_tokens(), 2u);
  EXPECT_EQ(event.started().epoch(), 7u);
  gate_.release(100);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Read(&event));
    ASSERT_TRUE(event.has_tokens());
    ASSERT_EQ(event.tokens().tokens_size(), 1);
    EXPECT_EQ(event.tokens().channel(), "content");
    EXPECT_EQ(static_cast<TokenId>(event.tokens().tokens(0).id()), Expected(3)[static_cast<size_t>(i)]);
  }
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.finished().reason(), pb::FINISH_REASON_LENGTH);
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.has_completed());
  EXPECT_EQ(event.sequence(), 6u);
  EXPECT_FALSE(stream->Read(&event));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, IntervalGathersTokens) {
  Ready();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(5);
  request.mutable_request()->mutable_response()->set_stream_interval_tokens(2);
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  std::vector<int> sizes;
  while (stream->Read(&event)) {
    if (event.has_tokens()) sizes.push_back(event.tokens().tokens_size());
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(sizes, (std::vector<int>{2, 2, 1}));
}

TEST_F(ServerTest, TheEndOfTheStreamFreesTheSlot) {
  Ready();
  grpc::ClientContext context;
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(kEndless);
  Gate();
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  gate_.release(1);
  ASSERT_TRUE(stream->Read(&event));
  context.TryCancel();
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  gate_.release(1 << 18);
  AwaitIdle();
}

// A step takes as long as it takes. The client has gone, gRPC has forgotten the call, the server is gone, and
// only then the engine learns that the request was cancelled.
TEST_F(ServerTest, AStreamMayOutliveItsServer) {
  Ready();
  Gate();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(kEndless);
  request.mutable_request()->set_request_id("mine");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.has_started());
  at_gate_.acquire();  // inside its first step
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.reset();
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, UsageComesWithEveryMessageWhereAsked) {
  Ready();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(7);
  request.mutable_request()->mutable_response()->set_usage_every_chunk(true);
  request.mutable_request()->mutable_response()->set_stream_interval_tokens(3);
  request.mutable_request()->mutable_response()->set_prompt_logprobs(0);
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  std::vector<uint32_t> counts;
  std::string order;
  while (reader->Read(&event)) {
    order += event.has_started() ? 's' : event.has_prompt() ? 'p' : event.has_tokens() ? 't' : '.';
    if (!event.has_tokens()) continue;
    EXPECT_EQ(event.tokens().usage().prompt_tokens(), 2u);
    EXPECT_EQ(event.tokens().usage().total_tokens(), 2 + event.tokens().usage().completion_tokens());
    counts.push_back(event.tokens().usage().completion_tokens());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(counts, ::testing::ElementsAre(3, 6, 7));
  EXPECT_EQ(order, "spttt..");
}

TEST_F(ServerTest, ARequestIdIsUniqueInFlightOnly) {
  Ready();
  Gate();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(2);
  request.mutable_request()->set_request_id("twice");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_EQ(event.request_id(), "twice");
  EXPECT_EQ(Refusal(request.request()).error_code(), grpc::StatusCode::ALREADY_EXISTS);
  gate_.release(1000);
  while (stream->Read(&event)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(Refusal(request.request()).ok()) << "free again once it has ended";
}

TEST_F(ServerTest, AStreamThatBrokeOffIsResumed) {
  Ready();
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(40);
  request.mutable_request()->set_request_id("mine");
  request.mutable_request()->mutable_response()->mutable_resume_window()->set_seconds(60);
  std::vector<pb::GenerateStreamResponse> events;
  const auto resume = [&](uint64_t after) {
    grpc::ClientContext context;
    pb::ResumeGenerationRequest again;
    again.set_request_id("mine");
    again.set_after_sequence(after);
    const auto stream = stub_->ResumeGeneration(&context, again);
    pb::ResumeGenerationResponse event;
    std::vector<pb::GenerateStreamResponse> more;
    while (stream->Read(&event)) more.push_back(event.response());
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return more;
  };
  Gate();
  {
    grpc::ClientContext context;
    const auto stream = stub_->GenerateStream(&context, request);
    gate_.release(3);
    pb::GenerateStreamResponse event;
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(stream->Read(&event));
      events.push_back(event);
    }
    context.TryCancel();
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  gate_.release(1 << 19);
  const std::vector<pb::GenerateStreamResponse> rest = resume(events.back().sequence());
  events.insert(events.end(), rest.begin(), rest.end());
  std::vector<TokenId> tokens;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].sequence(), i + 1);
    EXPECT_EQ(events[i].request_id(), "mine");
    for (const pb::Token& token : events[i].tokens().tokens())
      tokens.push_back(static_cast<TokenId>(token.id()));
  }
  EXPECT_EQ(tokens, Expected(40));
  EXPECT_TRUE(events.back().has_completed());
  // And once more from the start, after its end.
  const std::vector<pb::GenerateStreamResponse> whole = resume(0);
  ASSERT_EQ(whole.size(), events.size());
  for (size_t i = 0; i < whole.size(); ++i)
    EXPECT_EQ(whole[i].SerializeAsString(), events[i].SerializeAsString());
  AwaitIdle();
}

TEST_F(ServerTest, OnlyWhatIsKnownIsResumed) {
  Ready();
  const auto refusal = [&](const std::string& id, uint64_t after) {
    grpc::ClientContext context;
    pb::ResumeGenerationRequest request;
    request.set_request_id(id);
    request.set_after_sequence(after);
    pb::ResumeGenerationResponse event;
    const auto stream = stub_->ResumeGeneration(&context, request);
    EXPECT_FALSE(stream->Read(&event));
    return stream->Finish();
  };
  const grpc::Status unknown = refusal("never", 0);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(FactsOf(FromGrpc(unknown)).reason, "REQUEST_NOT_FOUND");
  pb::GenerateStreamRequest request;
  *request.mutable_request() = Request(5);
  request.mutable_request()->set_request_id("short");
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, request);
  pb::GenerateStreamResponse event;
  while (stream->Read(&event)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(refusal("short", event.sequence() + 1).error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST(StreamLog, KeepsTheLastMessagesAndWhatReadersStillWant) {
  struct Idle final : StreamLog::Reader {
    void OnMore() override {}
  };
  StreamLog log(Duration::zero());
  const auto slow = std::make_shared<Idle>(), late = std::make_shared<Idle>();
  ASSERT_TRUE(log.Attach(slow, 0).ok());
  const size_t all = StreamLog::kKept + 10;
  for (size_t i = 0; i < all; ++i) log.Append({});
  EXPECT_EQ(log.Read(slow.get(), 1).message->sequence(), 1u) << "however slow, it loses nothing";
  log.Detach(slow.get());
  log.Append({});
  EXPECT_EQ(log.Attach(late, 3).code(), absl::StatusCode::kOutOfRange);
  ASSERT_TRUE(log.Attach(late, all - 1).ok());
  EXPECT_EQ(log.Read(late.get(), all).message->sequence(), all);
  EXPECT_TRUE(log.Read(late.get(), all + 2).message == nullptr);
  EXPECT_FALSE(log.Read(late.get(), all + 2).end);
  log.Close(grpc::Status::OK);
  EXPECT_TRUE(log.Read(late.get(), all + 2).end->ok());
}

}  // namespace
}  // namespace paceline
