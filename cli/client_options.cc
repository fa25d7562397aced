// Flags of the commands that talk to servers: chat, and bench serve.
#include "cli/option_groups.h"

namespace paceline::cli {
namespace {

// PACELINE_URL is a head's gRPC address, PACELINE_MODEL a directory.
constexpr char kNoTwin[] = "";

// 0 would mean no limit where none was meant.
CLI::Validator Above0(double high) {
  return CLI::Validator(
      [high](std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value > 0 && value <= high) return std::string();
        return "expected a number above 0, got '" + text + "'";
      },
      "");
}

void AddKeyFile(CLI::App* app, std::string& file) {
  Group(app, "Server")
      .Add("api-key-file", file, "A file that holds the API key, where the HTTP server wants one")
      ->option_text("FILE");
}

}  // namespace

CLI::Option* AddChat(CLI::App* app, ChatOptions& chat) {
  chat.head.model = "grpc://127.0.0.1:50051";
  app->add_option("model", chat.head.model,
                  "A running head, any server of the OpenAI API, or the directory of a checkpoint")
      ->envname("PACELINE_URL")
      ->option_text("grpc://HOST:PORT|http://HOST:PORT|DIR [grpc://127.0.0.1:50051]")
      ->group("Arguments");
  Group group(app, "Conversation");
  group.Add("system", chat.system, "Instructions that stand in front of it")->option_text("TEXT");
  group.Choice("think", chat.think, {"auto", "on", "off"},
               "Whether the model thinks before it answers; auto: as its template has it");
  group.Add("max-tokens", chat.max_tokens, "Tokens of an answer at most")
      ->check(Whole(1, kMany))
      ->option_text("N");
  group.Add("temperature", chat.temperature, "0: greedy; default from generation_config.json, else 1")
      ->check(Real(0, 1e6))
      ->option_text("X");
  group.Add("seed", chat.seed, "The same seed gives the same answers; default random")
      ->check(Unsigned())
      ->option_text("N");
  AddKeyFile(app, chat.api_key_file);
  AddHeadGroups(app, chat.head);
  CLI::Option* draft = AddDraft(app, chat.head.drafting);
  AddDrafters(app, chat.head.drafting);
  return draft;
}

void AddBenchServe(CLI::App* app, BenchServeOptions& bench) {
  Group server(app, "Server");
  server.AddDefault("url", bench.url, "Ours, llama.cpp's, vLLM's, or any other that speaks OpenAI's API")
      ->envname(kNoTwin)
      ->option_text("URL [http://127.0.0.1:8000]");
  server.Add("model", bench.model, "The model's name; by default the first of /v1/models")
      ->envname(kNoTwin)
      ->option_text("NAME");
  server.Choice("endpoint", bench.endpoint, {"chat", "completions"},
                "/v1/chat/completions, or /v1/completions without a template");
  AddKeyFile(app, bench.api_key_file);
  server
      .AddDefault("timeout", bench.timeout_s, "A request that hears nothing for so many seconds has failed")
      ->check(Whole(1, kMany))
      ->option_text("S [600]");

  Group load(app, "Load");
  CLI::Option* concurrency =
      load.Add("concurrency", bench.concurrency,
               "Closed loop: so many requests at once, comma separated: one load after the other")
          ->delimiter(',')
          ->check(Whole(1, 65536))
          ->option_text("N,N,.. [1]");
  CLI::Option* rate =
      load.Add("rate", bench.rates, "Open loop: arrivals per second, of a Poisson process; comma separated")
          ->delimiter(',')
          ->check(Above0(1e6))
          ->option_text("R,R,..");
  load.Add("requests", bench.requests,
           "Of each load; by default four times the concurrency or ten seconds' worth, at least 16")
      ->check(Whole(1, kMany))
      ->option_text("N");
  load.Add("duration", bench.duration_s, "Seconds of each load, after which no request begins")
      ->check(Above0(1e6))
      ->option_text("S");
  load.AddDefault("warmup", bench.warmup, "Requests before the first load, which are not counted")
      ->check(Whole(0, 1 << 20))
      ->option_text("N [1]");
  load.AddDefault("seed", bench.seed, "Of arrivals, prompts and sampling")
      ->check(Unsigned())
      ->option_text("N [1]");

  Group requests(app, "Requests");
  CLI::Option* prompts =
      requests
          .Add("prompts", bench.prompts,
               "A prompt a line: text, a JSON string, or an object with prompt or messages; default: prose")
          ->option_text("FILE");
  CLI::Option* input = requests.AddDefault("input-tokens", bench.input_tokens, "Tokens of a prompt of prose")
                           ->check(Whole(1, 1 << 24))
                           ->option_text("N [256]");
  CLI::Option* shared = requests
                            .AddDefault("shared-prefix", bench.shared_prefix,
                                        "Tokens by which all prompts of prose begin alike")
                            ->check(Whole(0, 1 << 24))
                            ->option_text("N [0]");
  requests
      .Add("salt", bench.salt,
           "Stands in front of prompts of prose, so that no cache knows them from earlier; default random")
      ->option_text("TEXT");
  requests.AddDefault("output-tokens", bench.output_tokens, "Tokens of an answer")
      ->check(Whole(1, kMany))
      ->option_text("N [128]");
  requests.Flag(
      "natural-end", bench.natural_end,
      "The model's end of text ends an answer: ignore_eos, which OpenAI itself refuses, is not sent");
  requests.AddDefault("temperature", bench.temperature, "0: greedy")
      ->check(Real(0, 1e6))
      ->option_text("X [0]");

  Group goals(app, "Goals");
  goals
      .Add("slo-ttft-ms", bench.slo_ttft_ms, "A good request has its first chunk within so many milliseconds")
      ->check(Above0(1e9))
      ->option_text("MS");
  goals.Add("slo-itl-ms", bench.slo_itl_ms, "and at most so many per token behind it, on average")
      ->check(Above0(1e9))
      ->option_text("MS");
  AddJson(app, bench.json);
  Group(app, "Output").Flag("markdown", bench.markdown, "The tables in Markdown");

  app->callback([concurrency, rate, prompts, input, shared, &bench] {
    if (concurrency->count() > 0 && rate->count() > 0) {
      throw CLI::ValidationError("--rate",
                                 "is an open loop, --concurrency a closed one: give one of the two");
    }
    if (bench.concurrency.empty() && bench.rates.empty()) bench.concurrency = {1};
    if (prompts->count() > 0 && input->count() + shared->count() > 0) {
      throw CLI::ValidationError("--prompts",
                                 "are taken as they are: leave --input-tokens and --shared-prefix out");
    }
    if (bench.shared_prefix >= bench.input_tokens) {
      throw CLI::ValidationError("--shared-prefix", "is a part of --input-tokens: give fewer than " +
                                                        std::to_string(bench.input_tokens));
    }
    if (bench.json && bench.markdown)
      throw CLI::ValidationError("--markdown", "is a format of its own; give --json or --markdown, not both");
  });
}

}  // namespace paceline::cli
