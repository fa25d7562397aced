// Command lines and their environment twins, as people and scripts write them.
#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

namespace paceline::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class OptionsTest : public ::testing::Test {
 protected:
  ~OptionsTest() override {
    for (const auto& name : set_) unsetenv(name.c_str());
  }
  void SetEnv(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  static Parsed Parse(std::vector<std::string> words) {
    words.insert(words.begin(), "paceline");
    std::vector<const char*> argv;
    for (const std::string& word : words) argv.push_back(word.c_str());
    return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
  }
  template <class T>
  static T Get(const std::vector<std::string>& words) {
    const Parsed parsed = Parse(words);
    EXPECT_TRUE(parsed.invocation.has_value()) << parsed.err;
    if (!parsed.invocation || !std::holds_alternative<T>(*parsed.invocation)) return T{};
    return std::get<T>(*parsed.invocation);
  }
  static void ExpectUsageError(const std::vector<std::string>& words,
                               const std::vector<std::string>& contains) {
    const Parsed parsed = Parse(words);
    EXPECT_FALSE(parsed.invocation.has_value());
    EXPECT_EQ(parsed.exit_status, 2);
    EXPECT_EQ(parsed.out, "");
    for (const std::string& part : contains) EXPECT_THAT(parsed.err, HasSubstr(part));
  }

 private:
  std::vector<std::string> set_;
};

TEST_F(OptionsTest, ServeHasTheDefaultsOfTheContract) {
  const auto serve = Get<ServeOptions>({"serve", "model-dir"});
  EXPECT_EQ(serve.head.model, "model-dir");
  EXPECT_EQ(serve.host, "127.0.0.1");
  EXPECT_EQ(serve.http_port, 8000);
  EXPECT_EQ(serve.grpc_port, 50051);
  EXPECT_EQ(serve.join_port, 7400);
  EXPECT_EQ(serve.nodes, 1);
  EXPECT_EQ(serve.head.cluster.link, "tcp");
  EXPECT_EQ(serve.head.cluster.placement, "contiguous");
  EXPECT_EQ(serve.head.compute.backend, "cpu");
  EXPECT_EQ(serve.head.drafting.draft, "auto");
  EXPECT_EQ(serve.head.drafting.drafter, "auto");
  EXPECT_EQ(serve.head.drafting.mtp_format, "int4");
  EXPECT_EQ(serve.head.drafting.mtp_tap, "post-norm");
  EXPECT_EQ(serve.head.drafting.draft_vocab, "32768");
  EXPECT_FALSE(serve.head.cluster.head_split);
}

TEST_F(OptionsTest, NodesFollowLocalWorkers) {
  EXPECT_EQ(Get<ServeOptions>({"serve", "m", "--local-workers", "2"}).nodes, 3);
  EXPECT_EQ(Get<ServeOptions>({"serve", "m", "--local-workers", "2", "--nodes", "5"}).nodes, 5);
  ExpectUsageError({"serve", "m", "--local-workers", "2", "--nodes", "2"},
                   {"CFG-002", "--nodes", "at least", "3"});
}

TEST_F(OptionsTest, AFlagWinsOverItsEnvironmentTwinAndTheTwinOverTheDefault) {
  SetEnv("PACELINE_GRPC_PORT", "1234");
  SetEnv("PACELINE_HEAD_SPLIT", "true");
  SetEnv("PACELINE_BACKEND", "reference");
  const auto from_environment = Get<ServeOptions>({"serve", "m"});
  EXPECT_EQ(from_environment.grpc_port, 1234);
  EXPECT_TRUE(from_environment.head.cluster.head_split);
  EXPECT_EQ(from_environment.head.compute.backend, "reference");
  EXPECT_EQ(Get<ServeOptions>({"serve", "m", "--grpc-port", "0"}).grpc_port, 0);
}

TEST_F(OptionsTest, TheLastOfTwoWins) {
  EXPECT_EQ(Get<ServeOptions>({"serve", "m", "--link", "tcp", "--link", "ucx"}).head.cluster.link, "ucx");
}

TEST_F(OptionsTest, ABadTwinIsAUsageErrorToo) {
  SetEnv("PACELINE_GRPC_PORT", "many");
  ExpectUsageError({"serve", "m"}, {"65535", "many"});
}

TEST_F(OptionsTest, BadValuesAreNamed) {
  ExpectUsageError({"serve", "m", "--link", "pigeon"}, {"--link", "loopback|tcp|ucx|nccl", "pigeon"});
  ExpectUsageError({"serve", "m", "--threads", "0"}, {"--threads", "0"});
  ExpectUsageError({"serve", "m", "--draft", "much"}, {"--draft", "auto, off", "much"});
  ExpectUsageError({"generate", "m", "--prompt", "x", "--top-p", "1.5"}, {"--top-p", "1.5"});
  ExpectUsageError({"worker", "--join", "nowhere", "--model", "m"}, {"--join", "HOST:PORT", "nowhere"});
  ExpectUsageError({"serve"}, {"model is required", "paceline serve --help"});
}

TEST_F(OptionsTest, UnknownWordsAreAnsweredWithTheNearestKnownOne) {
  ExpectUsageError({"serve", "m", "--local-worker", "2"},
                   {"unknown flag --local-worker", "did you mean --local-workers?"});
  ExpectUsageError({"genrate", "m"}, {"genrate", "did you mean generate?"});
  ExpectUsageError({}, {"paceline --help"});
}

TEST_F(OptionsTest, OnePromptExactly) {
  const auto generate = Get<GenerateOptions>(
      {"generate", "m", "--prompt", "", "--temperature", "0", "--seed", "18446744073709551615"});
  ASSERT_TRUE(generate.prompt.text.has_value());
  EXPECT_EQ(*generate.prompt.text, "");
  EXPECT_EQ(generate.sampling.temperature, 0.0);
  EXPECT_EQ(generate.sampling.seed, 18446744073709551615u);
  EXPECT_FALSE(generate.sampling.top_p.has_value());
  EXPECT_FALSE(generate.max_tokens.has_value());
  ExpectUsageError({"generate", "m"}, {"--prompt-tokens-json"});
  ExpectUsageError({"generate", "m", "--prompt", "a", "--prompt-file", "b"}, {"not several"});
}

TEST_F(OptionsTest, EveryCommandOfTheContractIsThere) {
  const auto worker = Get<WorkerOptions>(
      {"worker", "--join", "head:7400", "--model", "m", "--name", "box", "--threads", "3"});
  EXPECT_EQ(worker.join, "head:7400");
  EXPECT_EQ(worker.name, "box");
  EXPECT_EQ(worker.compute.threads, 3);
  const auto score =
      Get<ScoreOptions>({"score", "m", "--tokens-json", "f", "--top", "5", "--json", "--kv-dtype", "fp32",
                         "--local-workers", "2", "--placement", "sliced"});
  EXPECT_EQ(score.top, 5);
  EXPECT_TRUE(score.json);
  EXPECT_EQ(score.head.options.kv_dtype, "fp32");
  for (const std::string dtype : {"bf16", "int8", "int4"})
    EXPECT_EQ(Get<ServeOptions>({"serve", "m", "--kv-dtype", dtype}).head.options.kv_dtype, dtype);
  ExpectUsageError({"serve", "m", "--kv-dtype", "fp8"}, {"--kv-dtype", "int8", "int4"});
  EXPECT_EQ(score.head.cluster.placement, "sliced");
  EXPECT_EQ(Get<ScoreOptions>({"score", "m", "--tokens-json", "f", "--drafts", "4"}).drafts, 4);
  EXPECT_EQ(Get<BenchStepOptions>({"bench", "step", "m", "--rows", "1,4"}).rows, (std::vector<int>{1, 4}));
  EXPECT_EQ(Get<BenchStepOptions>({"bench", "step", "m"}).context, 64);
  EXPECT_EQ(Get<BenchStepOptions>({"bench", "step", "m", "--context", "262144"}).context, 262144);
  EXPECT_FALSE(
      Get<TokenizeOptions>({"tokenize", "m", "--text-file", "f", "--no-parse-special"}).parse_special);
  EXPECT_EQ(Get<TokenizeOptions>({"tokenize", "m", "--decode-json", "f", "--json"}).decode_json, "f");
  EXPECT_EQ(Get<StatusOptions>({"status"}).url, "grpc://127.0.0.1:50051");
  EXPECT_TRUE(Get<StatusOptions>({"status", "grpc://h:1", "--json"}).json);
  const auto synth = Get<SynthOptions>({"synth", "out", "--like", "Qwen3.5-122B-A10B", "--layers", "4"});
  EXPECT_EQ(synth.format, "hybrid");
  EXPECT_EQ(synth.layers, 4);
}

TEST_F(OptionsTest, AFlagWinsOverTheTwinsOfItsAlternatives) {
  SetEnv("PACELINE_PROMPT", "from the environment");
  EXPECT_EQ(Get<GenerateOptions>({"generate", "m"}).prompt.text, "from the environment");
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"generate", "m", "--prompt-file", "f"},
        std::vector<std::string>{"generate", "m", "--prompt-file=f"}}) {
    const auto generate = Get<GenerateOptions>(words);
    EXPECT_EQ(generate.prompt.file, "f");
    EXPECT_FALSE(generate.prompt.text.has_value());
  }
  SetEnv("PACELINE_TEXT_FILE", "f");
  EXPECT_EQ(Get<TokenizeOptions>({"tokenize", "m", "--text", "t"}).text_file, "");
}

TEST_F(OptionsTest, ASeedIsNoNegativeNumber) {
  EXPECT_EQ(Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--seed", "18446744073709551615"})
                .sampling.seed,
            UINT64_MAX);
  for (const char* seed : {"-1", "18446744073709551616", "1.5", "x"}) {
    ExpectUsageError({"generate", "m", "--prompt", "a", "--seed", seed}, {"error: CFG-002", "--seed", seed});
  }
}

TEST_F(OptionsTest, DraftingIsAutoOffOrADepth) {
  for (const char* depth : {"auto", "off", "0", "8"})
    EXPECT_EQ(Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--draft", depth}).head.drafting.draft,
              depth);
  // Nobody may read a depth as octal or hexadecimal and someone else not.
  for (const char* depth : {"9", "-1", "on", "1.5", "010", "0x4", "+4", "4 ", ""})
    ExpectUsageError({"generate", "m", "--prompt", "a", "--draft", depth}, {"--draft", "0 to 8", depth});
  const auto serve = Get<ServeOptions>({"serve", "m", "--drafter", "suffix", "--mtp-format", "stored",
                                        "--mtp-tap", "pre-norm", "--draft-vocab", "all"});
  EXPECT_EQ(serve.head.drafting.drafter, "suffix");
  EXPECT_EQ(serve.head.drafting.mtp_format, "stored");
  EXPECT_EQ(serve.head.drafting.mtp_tap, "pre-norm");
  EXPECT_EQ(serve.head.drafting.draft_vocab, "all");
  ExpectUsageError({"serve", "m", "--draft-vocab", "0"}, {"--draft-vocab", "from 1", "all, or a file"});
  ExpectUsageError({"serve", "m", "--drafter", "oracle"}, {"--drafter", "auto|mtp|suffix", "oracle"});
  // Forced acceptance makes text up: it belongs to benches.
  ExpectUsageError({"generate", "m", "--prompt", "a", "--assume-acceptance", "0.5"},
                   {"unknown flag --assume-acceptance"});
}

TEST_F(OptionsTest, ADraftThatWasSaidIsToldFromTheDefault) {
  const std::vector<std::string> ask = {"generate", "grpc://h:1", "--prompt", "a"};
  EXPECT_FALSE(Get<GenerateOptions>(ask).head.drafting.draft_given);
  std::vector<std::string> said = ask;
  said.insert(said.end(), {"--draft", "auto"});
  EXPECT_TRUE(Get<GenerateOptions>(said).head.drafting.draft_given);
  SetEnv("PACELINE_DRAFT", "auto");  // which `verify`, for one, would refuse
  EXPECT_TRUE(Get<GenerateOptions>(ask).head.drafting.draft_given);
}

TEST_F(OptionsTest, CommandsThatDraftNothingSayWhereDraftingIs) {
  const auto score = Get<ScoreOptions>({"score", "m", "--tokens-json", "f", "--drafts", "4"});
  EXPECT_EQ(score.head.drafting.mtp_format, "stored");
  EXPECT_EQ(Get<ScoreOptions>({"score", "m", "--tokens-json", "f", "--drafts", "4", "--mtp-format", "stored"})
                .drafts,
            4);
  ExpectUsageError({"score", "m", "--tokens-json", "f", "--drafts", "4", "--mtp-format", "int4"},
                   {"--mtp-format", "as it is stored"});
  SetEnv("PACELINE_DRAFT", "4");
  EXPECT_EQ(Get<BenchStepOptions>({"bench", "step", "m"}).head.drafting.draft, "off");
  EXPECT_EQ(Get<BenchStepOptions>({"bench", "step", "m", "--draft", "off"}).head.drafting.draft, "off");
  ExpectUsageError({"bench", "step", "m", "--draft", "4"}, {"--draft", "bench draft"});
  ExpectUsageError({"bench", "step", "m", "--mtp-tap", "pre-norm"}, {"unknown flag --mtp-tap"});
}

TEST_F(OptionsTest, StatusHasOneFormat) {
  EXPECT_TRUE(Get<StatusOptions>({"status", "--metrics"}).metrics);
  ExpectUsageError({"status", "--metrics", "--json"}, {"--metrics", "--json", "not both"});
  SetEnv("PACELINE_METRICS", "true");
  EXPECT_TRUE(Get<StatusOptions>({"status"}).metrics);
  // A flag wins over the twin of its alternative.
  EXPECT_FALSE(Get<StatusOptions>({"status", "--json"}).metrics);
}

TEST_F(OptionsTest, PenaltiesAndBiases) {
  const auto generate = Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--presence-penalty", "0.5",
                                              "--frequency-penalty", "-0.25", "--repetition-penalty", "1.1",
                                              "--logit-bias", "7=-100", "--logit-bias", "12=1.5"});
  EXPECT_EQ(generate.sampling.presence_penalty, 0.5);
  EXPECT_EQ(generate.sampling.frequency_penalty, -0.25);
  EXPECT_EQ(generate.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(generate.sampling.logit_bias, (std::vector<std::pair<int32_t, double>>{{7, -100.0}, {12, 1.5}}));
  for (const char* bias : {"7", "=1", "7=", "x=1", "-1=1", "7=much", "7=nan"})
    ExpectUsageError({"generate", "m", "--prompt", "a", "--logit-bias", bias},
                     {"--logit-bias", "ID=VALUE", bias});
}

TEST_F(OptionsTest, OneConstraintAtMost) {
  const auto choices = Get<GenerateOptions>(
      {"generate", "m", "--prompt", "a", "--choice", "x", "--choice", "--y", "--after", ""});
  EXPECT_EQ(choices.constraint.choices, (std::vector<std::string>{"x", "--y"}));
  EXPECT_EQ(choices.constraint.after, "");
  const auto regex = Get<GenerateOptions>({"generate", "--regex", "a{2}", "m", "--prompt", "a"});
  EXPECT_EQ(regex.constraint.regex, "a{2}");
  EXPECT_EQ(regex.constraint.after, std::nullopt);
  EXPECT_TRUE(
      Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--json-object"}).constraint.json_object);
  ExpectUsageError({"generate", "m", "--prompt", "a", "--regex", "a", "--choice", "b"},
                   {"--json-schema", "--grammar"});
  // A flag wins over the twin of its alternative.
  SetEnv("PACELINE_GRAMMAR", "file");
  EXPECT_EQ(Get<GenerateOptions>({"generate", "m", "--prompt", "a"}).constraint.grammar, "file");
  EXPECT_EQ(Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--regex", "a"}).constraint.grammar, "");
}

TEST_F(OptionsTest, RejectionSamplingTakesNoSeed) {
  EXPECT_EQ(Get<GenerateOptions>({"generate", "m", "--prompt", "a", "--acceptance", "rejection"})
                .sampling.acceptance,
            "rejection");
  ExpectUsageError({"generate", "m", "--prompt", "a", "--acceptance", "rejection", "--seed", "1"},
                   {"--acceptance rejection", "--seed"});
}

TEST_F(OptionsTest, AUrlRefusesFlagsOfTheHeadByName) {
  const std::string url = "grpc://127.0.0.1:1";
  SetEnv("PACELINE_BACKEND", "reference");  // meant for heads; no order to this command
  EXPECT_EQ(Get<GenerateOptions>({"generate", url, "--prompt", "a", "--draft", "2"}).head.drafting.draft,
            "2");
  ExpectUsageError({"generate", url, "--prompt", "a", "--local-workers=2", "--kv-dtype", "fp32"},
                   {"--local-workers", "--kv-dtype", url, "paceline serve"});
  ExpectUsageError({"generate", url, "--prompt", "a", "--draft-vocab", "all"}, {"--draft-vocab"});
  ExpectUsageError({"verify", url, "--threads", "2"}, {"--threads"});
}

TEST_F(OptionsTest, VerifyAndBenchDraftHaveTheDefaultsOfTheContract) {
  const auto verify = Get<VerifyOptions>({"verify", "m"});
  EXPECT_EQ(verify.head.cluster.local_workers, 1);
  EXPECT_EQ(verify.max_tokens, 64);
  EXPECT_EQ(verify.depth, 4);
  EXPECT_EQ(verify.head.drafting.draft, "4");
  EXPECT_EQ(Get<VerifyOptions>({"verify", "m", "--draft", "2"}).depth, 2);
  ExpectUsageError({"verify", "m", "--draft", "0"}, {"--draft", "1 to 8"});
  EXPECT_EQ(Get<VerifyOptions>({"verify", "grpc://h:1", "--prompt-tokens-json", "f"}).prompt.tokens_json,
            "f");
  const auto bench = Get<BenchDraftOptions>({"bench", "draft", "m"});
  EXPECT_EQ(bench.depths, (std::vector<std::string>{"0", "1", "2", "3", "4", "5", "6", "auto"}));
  EXPECT_LT(bench.head.drafting.assume_acceptance, 0);
  const auto forced = Get<BenchDraftOptions>({"bench", "draft", "m", "--depths", "0,3,auto",
                                              "--assume-acceptance", "0", "--tokens", "64", "--rounds", "5"});
  EXPECT_EQ(forced.depths, (std::vector<std::string>{"0", "3", "auto"}));
  EXPECT_EQ(forced.head.drafting.assume_acceptance, 0.0);
  EXPECT_EQ(bench.tokens, 512);
  EXPECT_EQ(Get<BenchDraftOptions>({"bench", "draft", "m", "--draft", "3"}).depths,
            (std::vector<std::string>{"3"}));
  EXPECT_EQ(Get<BenchDraftOptions>({"bench", "draft", "m", "--draft", "off"}).depths,
            (std::vector<std::string>{"0"}));
  ExpectUsageError({"bench", "draft", "m", "--draft", "3", "--depths", "0,1"}, {"--draft", "--depths"});
  ExpectUsageError({"bench", "draft", "m", "--depths", "0,9"}, {"--depths", "9"});
  ExpectUsageError({"bench", "draft", "m", "--assume-acceptance", "1.5"}, {"--assume-acceptance", "1.5"});
}

TEST_F(OptionsTest, ChatTalksToTheLocalHeadUnlessToldElse) {
  SetEnv("PACELINE_MODEL", "meant for heads");
  EXPECT_EQ(Get<ChatOptions>({"chat"}).head.model, "grpc://127.0.0.1:50051");
  const auto chat = Get<ChatOptions>({"chat", "DIR", "--local-workers", "2", "--think", "off", "--system",
                                      "Be brief.", "--temperature", "0", "--seed", "3", "--max-tokens", "9"});
  EXPECT_EQ(chat.head.model, "DIR");
  EXPECT_EQ(chat.head.cluster.local_workers, 2);
  EXPECT_EQ(chat.think, "off");
  EXPECT_EQ(chat.system, "Be brief.");
  EXPECT_EQ(chat.temperature, 0.0);
  EXPECT_EQ(chat.seed, 3u);
  EXPECT_EQ(chat.max_tokens, 9);
  EXPECT_FALSE(chat.head.drafting.draft_given);
  EXPECT_TRUE(Get<ChatOptions>({"chat", "http://h:1", "--draft", "off"}).head.drafting.draft_given);
  for (const char* url : {"grpc://h:1", "http://h:1"})
    ExpectUsageError({"chat", url, "--threads", "2"}, {"--threads", url, "paceline serve"});
  ExpectUsageError({"chat", "--think", "maybe"}, {"--think", "auto|on|off", "maybe"});
}

TEST_F(OptionsTest, BenchServeIsAClosedLoopOrAnOpenOne) {
  SetEnv("PACELINE_MODEL", "a directory");
  SetEnv("PACELINE_URL", "grpc://h:1");
  const auto plain = Get<BenchServeOptions>({"bench", "serve"});
  EXPECT_EQ(plain.url, "http://127.0.0.1:8000");
  EXPECT_EQ(plain.model, "");
  EXPECT_EQ(plain.concurrency, (std::vector<int>{1}));
  EXPECT_TRUE(plain.rates.empty());
  const auto closed =
      Get<BenchServeOptions>({"bench", "serve", "--url", "http://h:1", "--concurrency", "1,2,32"});
  EXPECT_EQ(closed.concurrency, (std::vector<int>{1, 2, 32}));
  const auto open = Get<BenchServeOptions>({"bench", "serve", "--rate", "0.5,10", "--duration", "2.5"});
  EXPECT_EQ(open.rates, (std::vector<double>{0.5, 10}));
  EXPECT_TRUE(open.concurrency.empty());
  EXPECT_EQ(open.duration_s, 2.5);
  ExpectUsageError({"bench", "serve", "--rate", "1", "--concurrency", "1"}, {"--rate", "one of the two"});
  ExpectUsageError({"bench", "serve", "--rate", "0"}, {"--rate", "above 0"});
  ExpectUsageError({"bench", "serve", "--duration", "-1"}, {"--duration", "above 0"});
  ExpectUsageError({"bench", "serve", "--shared-prefix", "256"}, {"--shared-prefix", "fewer than 256"});
  ExpectUsageError({"bench", "serve", "--prompts", "f", "--input-tokens", "9"},
                   {"--prompts", "--input-tokens"});
  ExpectUsageError({"bench", "serve", "--json", "--markdown"}, {"not both"});
  ExpectUsageError({"bench", "serve", "--endpoint", "messages"}, {"chat|completions", "messages"});
}

TEST_F(OptionsTest, SizesAreBytesOrPowersOf1024) {
  EXPECT_EQ(BytesOf("auto"), -1);
  EXPECT_EQ(BytesOf("off"), 0);
  EXPECT_EQ(BytesOf("4096"), 4096);
  EXPECT_EQ(BytesOf("2K"), 2048);
  EXPECT_EQ(BytesOf("512m"), 512LL << 20);
  EXPECT_EQ(BytesOf("8G"), 8LL << 30);
  EXPECT_EQ(BytesOf("1T"), 1LL << 40);
  for (const char* word : {"", "G", "0", "-1", "1.5G", "8GB", "8 G", "5000000000T"})
    EXPECT_FALSE(BytesOf(word)) << word;

  const ServingOptions defaults = Get<ServeOptions>({"serve", "m"}).serving;
  EXPECT_EQ(defaults.max_sequences, 16);
  EXPECT_EQ(defaults.max_waiting, 256);
  EXPECT_EQ(defaults.kv_memory, "auto");
  EXPECT_EQ(defaults.prefix_cache, "auto");
  const ServingOptions given = Get<ServeOptions>({"serve", "m", "--kv-memory", "2G", "--prefix-cache", "off",
                                                  "--max-sequences", "4", "--max-waiting", "0"})
                                   .serving;
  EXPECT_EQ(given.kv_memory, "2G");
  EXPECT_EQ(given.prefix_cache, "off");
  EXPECT_EQ(given.max_sequences, 4);
  EXPECT_EQ(given.max_waiting, 0);
  ExpectUsageError({"serve", "m", "--kv-memory", "off"}, {"--kv-memory", "512M", "'off'"});
  ExpectUsageError({"serve", "m", "--prefix-cache", "lots"}, {"--prefix-cache", "off", "'lots'"});
  ExpectUsageError({"serve", "m", "--kv-memory", "1G", "--kv-pages", "7"}, {"--kv-pages", "--kv-memory"});
}

TEST_F(OptionsTest, CountsBelongToAText) {
  EXPECT_EQ(Get<TokenizeOptions>({"tokenize", "m", "--text-file", "f", "--counts", "c"}).counts, "c");
  ExpectUsageError({"tokenize", "m", "--decode-json", "f", "--counts", "c"}, {"--counts", "--text-file"});
}

TEST_F(OptionsTest, BenchKernelsNeedsNoModel) {
  const auto plain = Get<BenchKernelsOptions>({"bench", "kernels"});
  EXPECT_EQ(plain.filter, "");
  EXPECT_FALSE(plain.json || plain.markdown);
  const auto some = Get<BenchKernelsOptions>(
      {"bench", "kernels", "--filter", "experts", "--threads", "2", "--isa", "vnni", "--markdown"});
  EXPECT_EQ(some.filter, "experts");
  EXPECT_EQ(some.compute.threads, 2);
  EXPECT_EQ(some.compute.isa, "vnni");
  EXPECT_TRUE(some.markdown);
  ExpectUsageError({"bench", "kernels", "--seconds", "-1"}, {"--seconds"});
}

TEST_F(OptionsTest, ACommandIsAskedForByName) {
  ExpectUsageError({}, {"error: CFG-002", "give a command: serve, worker, generate"});
  ExpectUsageError({"bench"}, {"give a command: step"});
}

TEST_F(OptionsTest, HelpAndVersionGoToStdoutWithStatusZero) {
  for (const std::vector<std::string>& command : {std::vector<std::string>{},
                                                  {"serve"},
                                                  {"worker"},
                                                  {"generate"},
                                                  {"score"},
                                                  {"bench"},
                                                  {"verify"},
                                                  {"bench", "step"},
                                                  {"bench", "draft"},
                                                  {"bench", "kernels"},
                                                  {"tokenize"},
                                                  {"status"},
                                                  {"synth"}}) {
    std::vector<std::string> words = command;
    words.push_back("--help");
    const Parsed parsed = Parse(words);
    EXPECT_FALSE(parsed.invocation.has_value());
    EXPECT_EQ(parsed.exit_status, 0);
    EXPECT_EQ(parsed.err, "");
    EXPECT_THAT(parsed.out, HasSubstr(command.empty() ? "serve" : command.back()));
  }
  EXPECT_THAT(Parse({"serve", "--help"}).out,
              AllOf(HasSubstr("--join-port"), HasSubstr("--simulate-link"), HasSubstr("PACELINE_GRPC_PORT")));
  EXPECT_THAT(Parse({"bench", "step", "--help"}).out, HasSubstr("Usage: paceline bench step"));
  EXPECT_THAT(Parse({"--version"}).out, HasSubstr("paceline 0."));
}

}  // namespace
}  // namespace paceline::cli
