// Generate and the calls around it: whole answers, every knob, what is refused and how, chats and templates.
#include "coordinator/inference_service.h"

#include <mutex>
#include <thread>

#include "coordinator/api_error.h"
#include "coordinator/chat_template.h"
#include "coordinator/client.h"
#include "coordinator/status_wire.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "tests/coordinator/server_fixture.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

TEST_F(ServerTest, GenerateAnswersWhole) {
  Ready();
  pb::GenerateRequest request = Request(5);
  request.set_request_id("mine");
  request.mutable_sampling()->set_seed(42);
  request.mutable_response()->set_output_logprobs(2);
  request.mutable_speculation()->set_mode(pb::SpeculationOptions::MODE_OFF);
  pb::GenerateResponse response;
  const grpc::Status status = Generate(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), "mine");
  ASSERT_EQ(response.outputs_size(), 1);
  std::vector<TokenId> ids;
  for (const pb::Token& token : response.outputs(0).tokens()) {
    ids.push_back(static_cast<TokenId>(token.id()));
    EXPECT_TRUE(token.has_logprob());
    EXPECT_EQ(token.candidates_size(), 2);
  }
  EXPECT_EQ(ids, Expected(5));
  EXPECT_EQ(response.outputs(0).reason(), pb::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.completed().seed(), 42u);
  EXPECT_EQ(response.completed().usage().total_tokens(), 7u);
  EXPECT_EQ(response.completed().speculation().method(), "off");
  EXPECT_EQ(response.completed().cluster().nodes(), 2u);
  EXPECT_EQ(response.completed().cluster().epoch(), 7u);
  EXPECT_EQ(response.completed().cluster().fingerprint(), "f00d");
}

TEST_F(ServerTest, ACancelledUnaryCallFreesTheSlot) {
  Ready();
  Gate();
  grpc::ClientContext context;
  grpc::Status status;
  std::thread caller([&] {
    pb::GenerateResponse response;
    status = stub_->Generate(&context, Request(kEndless), &response);
  });
  at_gate_.acquire();  // inside its first step
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, ADeadlineEndsTheRequest) {
  Ready();
  Gate();  // the first step is held until the client has given up
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  pb::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&context, Request(kEndless), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, ErrorsCarryDetailsUnderPublicNames) {
  Ready();
  pb::GenerateRequest request = Request(1);
  request.mutable_sampling()->set_top_p(2.0f);
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("REQ-001"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  ASSERT_EQ(details.details_size(), 2);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(details.details(1).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  EXPECT_EQ(info.reason(), "INVALID_FIELD");
  EXPECT_EQ(info.domain(), "paceline.inference.v1.InferenceService");
  EXPECT_EQ(bad.field_violations(0).field(), "sampling.top_p");
}

TEST_F(ServerTest, WhatCannotBeIsNamed) {
  Ready();
  const auto reason_of = [&](const pb::GenerateRequest& request) {
    return FactsOf(FromGrpc(Refusal(request)));
  };
  pb::GenerateRequest request = Request(1);
  request.set_model("another");
  EXPECT_EQ(Refusal(request).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(reason_of(request).reason, "MODEL_NOT_FOUND");
  request = Request(2'000'000);
  EXPECT_EQ(reason_of(request).reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(reason_of(request).metadata.at("promptTokens"), "2");
  request = Request(1);
  request.clear_input();
  EXPECT_EQ(reason_of(request).field, "input");
  request = Request(1);
  request.mutable_token_ids()->add_ids(100);
  EXPECT_THAT(Refusal(request).error_message(), HasSubstr("id 100 at index 2"));
  request = Request(1);
  request.mutable_token_ids()->clear_ids();
  EXPECT_EQ(reason_of(request).field, "token_ids");
}

TEST_F(ServerTest, OneTokenOverTheContextIsRefusedBeforeAnyMessage) {
  Ready();
  Gate();
  const auto context_length = static_cast<uint32_t>(LongInfo().context);
  const auto first = [&](uint32_t max_tokens, bool* started) {
    pb::GenerateStreamRequest request;
    *request.mutable_request() = Request(max_tokens);  // behind two tokens of a prompt
    grpc::ClientContext context;
    const auto stream = stub_->GenerateStream(&context, request);
    pb::GenerateStreamResponse event;
    *started = stream->Read(&event);
    if (*started) context.TryCancel();
    return stream->Finish();
  };
  bool started = false;
  first(context_length - 2, &started);
  EXPECT_TRUE(started);
  const grpc::Status over = first(context_length - 1, &started);
  EXPECT_FALSE(started);
  EXPECT_EQ(over.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(FactsOf(FromGrpc(over)).reason, reasons::kContextLength);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(Request(context_length - 1)))).reason, reasons::kContextLength);
  gate_.release(1 << 18);
  AwaitIdle();
}

TEST_F(ServerTest, AChatNeedsATemplate) {
  Ready();
  pb::GenerateRequest request = Request(1);
  request.mutable_chat();
  const grpc::Status status = Refusal(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("chat"));
  EXPECT_EQ(FactsOf(FromGrpc(status)).reason, "FEATURE_DISABLED");
  pb::GenerateRequest neutral = Request(1);
  neutral.mutable_sampling()->set_presence_penalty(0);
  neutral.mutable_sampling()->set_repetition_penalty(1);
  neutral.mutable_sampling()->set_num_sequences(1);
  EXPECT_TRUE(Refusal(neutral).ok()) << "values that change nothing are fine";
}

TEST_F(ServerTest, ThePromptIsScoredWhereAsked) {
  Ready();
  pb::GenerateRequest request = Request(2);
  request.mutable_token_ids()->clear_ids();
  for (uint32_t i = 0; i < 300; ++i) request.mutable_token_ids()->add_ids((7 * i + 3) % 100);
  request.mutable_response()->set_prompt_logprobs(2);
  request.mutable_sampling()->set_num_sequences(2);
  for (int run = 0; run < 2; ++run) {  // the second time the text is in the prefix cache
    pb::GenerateResponse response;
    ASSERT_TRUE(Generate(request, &response).ok());
    ASSERT_EQ(response.prompt().tokens_size(), 300);
    EXPECT_EQ(response.completed().usage().cached_prompt_tokens(), 0u);
    const pb::Token& first = response.prompt().tokens(0);
    EXPECT_EQ(first.id(), 3u);
    EXPECT_FALSE(first.has_logprob());
    EXPECT_FALSE(first.has_rank());
    for (int i = 1; i < 300; ++i) {
      const pb::Token& token = response.prompt().tokens(i);
      const auto before = static_cast<TokenId>(request.token_ids().ids(i - 1));
      EXPECT_EQ(token.id(), request.token_ids().ids(i));
      EXPECT_EQ(token.logprob(), FakeTrunk::ScoreOf(before, static_cast<TokenId>(token.id()))) << i;
      EXPECT_EQ(token.rank(), token.id() + 1);
      EXPECT_EQ(token.candidates_size(), 2);
    }
    EXPECT_EQ(response.outputs(0).tokens_size(), 2);
    EXPECT_EQ(response.outputs(1).tokens_size(), 2);
  }
  // One token has nothing in front of it that could say anything.
  request.mutable_token_ids()->mutable_ids()->Truncate(1);
  pb::GenerateResponse alone;
  ASSERT_TRUE(Generate(request, &alone).ok());
  ASSERT_EQ(alone.prompt().tokens_size(), 1);
  EXPECT_FALSE(alone.prompt().tokens(0).has_logprob());

  request.mutable_response()->set_prompt_logprobs(21);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "response.prompt_logprobs");
}

TEST_F(ServerTest, SeveralAnswersAreSeveralOutputs) {
  Ready();
  pb::GenerateRequest request = Request(12);
  request.mutable_sampling()->set_num_sequences(3);
  pb::GenerateResponse response;
  ASSERT_TRUE(Generate(request, &response).ok());
  ASSERT_EQ(response.outputs_size(), 3);
  for (int i = 0; i < 3; ++i) {
    std::vector<TokenId> tokens;
    for (const pb::Token& token : response.outputs(i).tokens())
      tokens.push_back(static_cast<TokenId>(token.id()));
    EXPECT_EQ(tokens, Expected(12)) << "the model without noise says the same each time";
    EXPECT_EQ(response.outputs(i).index(), static_cast<uint32_t>(i));
    EXPECT_EQ(response.outputs(i).reason(), pb::FINISH_REASON_LENGTH);
  }
  EXPECT_EQ(response.completed().usage().prompt_tokens(), 2u);
  EXPECT_EQ(response.completed().usage().completion_tokens(), 36u);

  pb::GenerateStreamRequest stream_request;
  *stream_request.mutable_request() = request;
  grpc::ClientContext context;
  const auto stream = stub_->GenerateStream(&context, stream_request);
  pb::GenerateStreamResponse event;
  std::map<uint32_t, std::vector<TokenId>> tokens;
  int started = 0, finished = 0, completed = 0;
  while (stream->Read(&event)) {
    started += event.has_started() ? 1 : 0;
    finished += event.has_finished() ? 1 : 0;
    completed += event.has_completed() ? 1 : 0;
    for (const pb::Token& token : event.tokens().tokens())
      tokens[event.tokens().output_index()].push_back(static_cast<TokenId>(token.id()));
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(started, 1);
  EXPECT_EQ(finished, 3);
  EXPECT_EQ(completed, 1);
  ASSERT_EQ(tokens.size(), 3u);
  for (const auto& [index, got] : tokens) EXPECT_EQ(got, Expected(12)) << index;

  request.mutable_sampling()->set_num_sequences(0);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "sampling.num_sequences");
  // One bad row ends all of them.
  trunk_.row_error = [](const SequenceRows& rows, const std::vector<TokenId>& prefix) {
    return rows.sampling.choice == 1 && prefix.size() > 6 ? Error(errors::kNonFinite, "a leaf is not finite")
                                                          : absl::OkStatus();
  };
  request = Request(kEndless);
  request.mutable_sampling()->set_num_sequences(3);
  EXPECT_EQ(Refusal(request).error_code(), grpc::StatusCode::DATA_LOSS);
  AwaitIdle();
}

// A second listener of the engine, which has a template.
TEST_F(ServerTest, ChatInputBecomesAPrompt) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No orders.') }}{% endif %}{{ "
      "m.content }}"
      "{% for t in tools or [] %}<{{ t|tojson }}>{% endfor %}{% endfor %}{{ 'c' if add_generation_prompt "
      "}}{{ extra }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ApiServer server(*engine_, cluster_, chat->get());
  const absl::StatusOr<int> port = server.Start("127.0.0.1", 0);
  ASSERT_TRUE(port.ok()) << port.status();
  server.SetServing(true);
  const auto stub = pb::InferenceService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(*port), grpc::InsecureChannelCredentials()));
  const auto message = [](const char* role, const char* content) {
    google::protobuf::Struct made;
    (*made.mutable_fields())["role"].set_string_value(role);
    (*made.mutable_fields())["content"].set_string_value(content);
    return made;
  };
  const auto apply = [&](const pb::ApplyChatTemplateRequest& request,
                         pb::ApplyChatTemplateResponse* response) {
    grpc::ClientContext context;
    return stub->ApplyChatTemplate(&context, request, response);
  };

  pb::ApplyChatTemplateRequest request;
  *request.mutable_chat()->add_messages() = message("user", "ab");
  (*request.mutable_chat()->mutable_template_kwargs()->mutable_fields())["extra"].set_string_value("b");
  request.set_tokenize(true);
  pb::ApplyChatTemplateResponse prompt;
  ASSERT_TRUE(apply(request, &prompt).ok());
  EXPECT_EQ(prompt.text(), "abcb");
  EXPECT_THAT(prompt.ids(), ::testing::ElementsAre(0, 1, 2, 1));
  EXPECT_FALSE(prompt.starts_in_reasoning());

  // The same prompt generates the same tokens, whichever way it comes.
  pb::GenerateRequest by_ids = Request(5), by_chat = Request(5);
  *by_ids.mutable_token_ids()->mutable_ids() = prompt.ids();
  *by_chat.mutable_chat() = request.chat();
  pb::GenerateResponse first, second;
  grpc::ClientContext one, two;
  ASSERT_TRUE(stub->Generate(&one, by_ids, &first).ok());
  ASSERT_TRUE(stub->Generate(&two, by_chat, &second).ok());
  EXPECT_EQ(first.outputs(0).SerializeAsString(), second.outputs(0).SerializeAsString());
  EXPECT_EQ(second.completed().usage().prompt_tokens(), 4u);

  // Order: a Struct's is made up, a text's is the client's.
  request.mutable_chat()->set_add_generation_prompt(false);
  request.clear_tokenize();
  google::protobuf::Struct* tool = request.mutable_chat()->add_tools();
  google::protobuf::Struct* function = (*tool->mutable_fields())["function"].mutable_struct_value();
  (*function->mutable_fields())["parameters"].mutable_struct_value();
  (*function->mutable_fields())["name"].set_string_value("f");
  (*tool->mutable_fields())["type"].set_string_value("function");
  ASSERT_TRUE(apply(request, &prompt).ok());
  EXPECT_EQ(prompt.text(), R"(ab<{"type": "function", "function": {"name": "f", "parameters": {}}}>b)");
  pb::ApplyChatTemplateRequest text;
  text.mutable_chat()->set_json(
      R"({"tools":[{"function":{"parameters":{"z":1,"a":2.0},"name":"f"}}],"messages":[{"role":"user","content":"a"}]})");
  ASSERT_TRUE(apply(text, &prompt).ok());
  EXPECT_EQ(prompt.text(), R"(a<{"function": {"parameters": {"z": 1, "a": 2.0}, "name": "f"}}>c)");

  // Refusals name the field.
  const auto field = [&](const pb::ApplyChatTemplateRequest& wrong) {
    const grpc::Status status = apply(wrong, &prompt);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    return FactsOf(FromGrpc(status)).field;
  };
  *text.mutable_chat()->add_messages() = message("user", "a");
  EXPECT_EQ(field(text), "chat.json");
  *request.mutable_chat()->add_messages() = message("robot", "a");
  EXPECT_EQ(field(request), "chat.messages[1].role");
  *request.mutable_chat()->mutable_messages(1) = message("system", "a");
  EXPECT_EQ(field(request), "chat.messages");
  EXPECT_THAT(apply(request, &prompt).error_message(), HasSubstr("No orders."));

  // And back: ids to text.
  grpc::ClientContext back, outside;
  pb::DetokenizeRequest ids;
  for (const uint32_t id : {2, 0, 1}) ids.add_ids(id);
  pb::DetokenizeResponse words;
  ASSERT_TRUE(stub->Detokenize(&back, ids, &words).ok());
  EXPECT_EQ(words.text(), "cab");
  ids.add_ids(3);
  EXPECT_THAT(stub->Detokenize(&outside, ids, &words).error_message(), HasSubstr("id 3 at index 3"));
  server.Stop(kLimit);
}

TEST_F(ServerTest, AConstraintIsCompiledOrRefusedByName) {
  Ready();
  const auto refusal = [&](const std::function<void(pb::GenerateRequest*)>& set) {
    pb::GenerateRequest request = Request(3);
    request.mutable_stopping()->add_stop_token_ids(9);
    set(&request);
    const grpc::Status status = Refusal(request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    return FactsOf(FromGrpc(status));
  };
  ErrorFacts facts = refusal([](auto* r) { r->mutable_constraint()->set_regex("a("); });
  EXPECT_EQ(facts.reason, "GRAMMAR_INVALID");
  EXPECT_EQ(facts.field, "constraint.regex");
  facts = refusal([](auto* r) { r->mutable_constraint()->set_json_schema("{\"not\": {}}"); });
  EXPECT_EQ(facts.field, "constraint.json_schema");
  facts = refusal([](auto* r) { r->mutable_constraint()->mutable_choice(); });
  EXPECT_EQ(facts.field, "constraint.choice");
  facts = refusal([](auto* r) {
    r->mutable_constraint()->set_json_object(true);
    r->mutable_stopping()->set_min_tokens(2);
  });
  EXPECT_EQ(facts.field, "stopping.min_tokens");
  facts = refusal([](auto* r) {
    r->mutable_constraint()->set_regex("a");
    r->mutable_stopping()->clear_stop_token_ids();
  });
  EXPECT_EQ(facts.field, "constraint");

  std::atomic<int> constrained{0};
  trunk_.before_step = [&](const StepPlan& plan) {
    for (const SequenceRows& rows : plan.sequences)
      constrained += rows.sampling.constraint != nullptr ? 1 : 0;
    return absl::OkStatus();
  };
  pb::GenerateRequest request = Request(3);
  request.mutable_stopping()->add_stop_token_ids(99);
  request.mutable_constraint()->set_ebnf("root ::= [a-z]*");
  EXPECT_TRUE(Refusal(request).ok());
  EXPECT_GT(constrained, 0);
}

TEST_F(ServerTest, DraftsAreToldAndCounted) {
  Ready();
  pb::GenerateRequest request = Request(11);
  request.mutable_speculation()->set_mode(pb::SpeculationOptions::MODE_FIXED);
  request.mutable_speculation()->set_max_draft_tokens(3);
  pb::GenerateResponse response;
  ASSERT_TRUE(Generate(request, &response).ok());
  std::vector<TokenId> ids;
  std::string marks;
  for (const pb::Token& token : response.outputs(0).tokens()) {
    ids.push_back(static_cast<TokenId>(token.id()));
    marks += token.drafted() ? 'd' : '.';
  }
  EXPECT_EQ(ids, Expected(11));
  EXPECT_EQ(marks, ".dd.dd.dd..");
  const pb::SpeculationStats& stats = response.completed().speculation();
  EXPECT_EQ(stats.method(), "mtp");
  EXPECT_EQ(stats.verify_steps(), 3u);
  EXPECT_EQ(stats.decode_steps(), 5u);
  EXPECT_EQ(stats.drafted(), 9u);
  EXPECT_EQ(stats.accepted(), 6u);
  EXPECT_DOUBLE_EQ(stats.mean_accepted_length(), 3.0);
  EXPECT_THAT(stats.acceptance_histogram(), ::testing::ElementsAre(0, 0, 3));
  EXPECT_THAT(stats.drafted_per_position(), ::testing::ElementsAre(3, 3, 3));
  EXPECT_THAT(stats.accepted_per_position(), ::testing::ElementsAre(3, 3, 0));
  ASSERT_EQ(stats.sources_size(), 1);
  EXPECT_EQ(stats.sources(0).source(), "mtp");
  EXPECT_EQ(response.completed().usage().accepted_draft_tokens(), 6u);
  EXPECT_EQ(response.completed().usage().rejected_draft_tokens(), 3u);

  ApiClient client(address_);
  GenerateRequest ours;
  ours.input = std::vector<TokenId>{1, 2};
  ours.stopping.max_tokens = 11;
  ours.speculation.mode = DraftMode::kFixed;
  ours.speculation.max_draft_tokens = 3;
  const auto result = client.Generate(ours);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->token_ids(), Expected(11));
  EXPECT_TRUE(result->tokens[1].drafted);
  EXPECT_FALSE(result->tokens[3].drafted);
  EXPECT_EQ(result->end.speculation.decode_steps, 5);
  EXPECT_EQ(result->end.speculation.acceptance_histogram, (std::vector<int64_t>{0, 0, 3}));
  EXPECT_EQ(result->end.speculation.drafted_per_position, (std::vector<int64_t>{3, 3, 3}));
  EXPECT_EQ(result->end.speculation.accepted_per_position, (std::vector<int64_t>{3, 3, 0}));
  EXPECT_EQ(result->end.speculation.sources[0].accepted, 6);

  const auto metrics = client.Metrics(kLimit);
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_THAT(*metrics,
              HasSubstr("vllm:spec_decode_num_draft_tokens_total{engine=\"0\",model_name=\"fake\"} 18\n"));

  pb::GenerateRequest seeded = request;
  seeded.mutable_speculation()->set_acceptance(pb::SpeculationOptions::ACCEPTANCE_REJECTION);
  EXPECT_TRUE(Refusal(seeded).ok());
  seeded.mutable_sampling()->set_seed(1);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(seeded))).field, "speculation.acceptance");
  request.mutable_speculation()->set_max_draft_tokens(9);
  EXPECT_EQ(FactsOf(FromGrpc(Refusal(request))).field, "speculation.max_draft_tokens");
}

TEST_F(ServerTest, EveryKnobReachesTheTrunkFromBothKindsOfClient) {
  Ready();
  std::mutex mutex;
  std::vector<Sampling> seen;
  trunk_.before_step = [&](const StepPlan& plan) {
    std::lock_guard lock(mutex);
    for (const SequenceRows& rows : plan.sequences) seen.push_back(rows.sampling);
    return absl::OkStatus();
  };
  GenerateRequest request;
  request.input = std::vector<TokenId>{1, 2};
  request.stopping.max_tokens = 1;
  request.sampling.presence_penalty = 1.5f;
  request.sampling.frequency_penalty = -0.5f;
  request.sampling.repetition_penalty = 1.1f;
  request.sampling.logit_bias = {{7, -100.0f}, {1, 2.5f}};
  request.sampling.allowed_token_ids = {2, 0, 1, 2, 50};  // 50 is no token of the tokenizer
  request.speculation.acceptance = AcceptanceRule::kRejection;
  ASSERT_TRUE(ApiClient(address_).Generate(request).ok());
  std::lock_guard lock(mutex);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].presence_penalty, 1.5f);
  EXPECT_EQ(seen[0].frequency_penalty, -0.5f);
  EXPECT_EQ(seen[0].repetition_penalty, 1.1f);
  EXPECT_EQ(seen[0].acceptance, AcceptanceRule::kRejection);
  ASSERT_NE(seen[0].adjustments, nullptr);
  EXPECT_EQ(seen[0].adjustments->bias, (std::vector<std::pair<TokenId, float>>{{1, 2.5f}, {7, -100.0f}}));
  EXPECT_EQ(seen[0].adjustments->allowed, (std::vector<TokenId>{0, 1, 2}));
}

}  // namespace
}  // namespace paceline
