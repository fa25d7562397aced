// The HTTP API over a real server and a real engine, with a trunk and a tokenizer that say what a test wants
// said. The model that really chats is asked in tests/end_to_end/openai_test.py.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "coordinator/engine.h"
#include "coordinator/http/front.h"
#include "gtest/gtest.h"
#include "tests/coordinator/fake_tokenizer.h"
#include "tests/coordinator/fake_trunk.h"
#include "tests/coordinator/raw_http.h"
#include "tests/coordinator/two_nodes.h"

namespace paceline {

inline constexpr TokenId kEnd = 0;

// A line per message, and a thinking block that the prompt opens when it is told to.
inline constexpr char kTemplate[] =
    "{%- for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}assistant: {% if enable_thinking %}{{ '<think>\\n' }}{% endif %}{%- "
    "endif %}";

// One token per character of these, besides the end. Enough for prompts and for what the model says.
inline std::vector<std::string> Vocabulary() {
  std::vector<std::string> tokens = {"<end>"};
  for (char c = ' '; c <= '~'; ++c) tokens.emplace_back(1, c);
  tokens.emplace_back("\n");
  for (const char* const byte : {"\xF0", "\x9F", "\x9A", "\xB4", "\xC3", "\xA9"}) tokens.emplace_back(byte);
  return tokens;
}

class HttpFrontTest : public ::testing::Test {
 protected:
  HttpFrontTest() : trunk_(Info(), 64, [this](const std::vector<TokenId>& prefix) { return Draw(prefix); }) {}

  void SetUp() override {
    GenerationDefaults defaults;
    defaults.temperature = 0.0f;
    defaults.eos_token_ids = {kEnd};
    SchedulerOptions scheduling;
    scheduling.speculation.mode = DraftMode::kOff;  // but where a request asks
    engine_ = std::make_unique<Engine>(Engine::Parts{&trunk_, &tokenizer_, &cluster_}, defaults, scheduling);
    state_ = std::make_unique<ServingState>(cluster_);
    auto chat_template = ChatTemplate::Create(kTemplate);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    chat_template_ = *std::move(chat_template);
    options_.metrics.version = "1.2.3";
  }
  void TearDown() override {
    gate_.release(1 << 19);
    front_.reset();
    engine_.reset();
  }
  void StartFront(bool ready = true) {
    engine_->Start();
    state_->SetServing(ready);
    front_ = std::make_unique<HttpFront>(*engine_, *state_, cluster_, chat_template_.get(), options_);
    const absl::StatusOr<int> port = front_->Start("127.0.0.1", 0);
    ASSERT_TRUE(port.ok()) << port.status();
    port_ = *port;
  }
  static TrunkInfo Info() {
    TrunkInfo info = FakeTrunk::SmallInfo();
    info.vocab = 110;
    info.context = 4096;
    info.pages = 64;
    info.drafters = {DraftSource::kMtp};
    return info;
  }
  // The model says `says_` behind the prompt, whose end it finds by its length, then ends.
  TokenId Draw(const std::vector<TokenId>& prefix) {
    const size_t at = prefix.size() - prompt_tokens_;
    return at < says_.size() ? says_[at] : kEnd;
  }
  // What the model will say to a prompt of so many tokens.
  void Says(const std::string& text, size_t prompt_tokens) {
    says_ = *tokenizer_.Encode(text, true);
    prompt_tokens_ = prompt_tokens;
  }
  void Gate() {
    trunk_.before_step = [this](const StepPlan&) {
      gate_.acquire();
      return absl::OkStatus();
    };
  }
  RawAnswer Get(const std::string& path, const std::string& headers = "") {
    return RawConnection(port_).Ask(RawGet(path, headers));
  }
  RawAnswer Post(const std::string& path, const Json& body, const std::string& headers = "") {
    return RawConnection(port_).Ask(RawPost(path, body.dump(), headers));
  }
  static std::vector<std::string> Frames(const std::string& body) {
    std::vector<std::string> frames;
    size_t at = 0;
    for (size_t end; (end = body.find("\n\n", at)) != std::string::npos; at = end + 2) {
      const std::string frame = body.substr(at, end - at);
      EXPECT_TRUE(frame.starts_with("data: ")) << frame;
      frames.push_back(frame.substr(6));
    }
    EXPECT_EQ(at, body.size());
    return frames;
  }
  void AwaitIdle() {
    const TimePoint deadline = Clock::Real().Now() + std::chrono::seconds(60);
    while (engine_->stats().running + engine_->stats().waiting > 0 && Clock::Real().Now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(engine_->stats().running, 0);
    EXPECT_EQ(engine_->stats().pages_used, 0);
  }

  TwoNodes cluster_;
  FakeTokenizer tokenizer_{Vocabulary(), {kEnd}};
  std::vector<TokenId> says_;
  size_t prompt_tokens_ = 0;
  FakeTrunk trunk_;
  std::counting_semaphore<1 << 20> gate_{0};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ServingState> state_;
  std::unique_ptr<ChatTemplate> chat_template_;
  HttpOptions options_;
  std::unique_ptr<HttpFront> front_;
  int port_ = 0;
};

}  // namespace paceline
