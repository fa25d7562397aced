// The parser's side of every command: one function each.
#include "cli/options.h"

#include <cmath>

#include "base/error.h"
#include "base/step.h"
#include "cli/option_groups.h"
#include "cli/usage_error.h"

#ifndef PACELINE_VERSION
#error "cli/CMakeLists.txt defines PACELINE_VERSION"
#endif

namespace paceline::cli {
namespace {

constexpr int kHelpColumn = 34;
// Of --draft where it is the depth of a measurement: PACELINE_DRAFT=auto, meant for heads, would be refused
// there, and by every other command with it, for the parser reads the twins of all.
constexpr char kNoTwin[] = "";

void AddHttp(CLI::App* app, HttpFlags& http) {
  Group group(app, "HTTP API");
  group
      .Add("api-keys-file", http.api_keys_file,
           "Who may ask, over gRPC too: one key a line, or NAME KEY; default everybody")
      ->option_text("FILE");
  group
      .Add("cors-origin", http.cors_origins,
           "Pages of this origin may ask, * all; may be repeated; default none")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->delimiter(',')
      ->option_text("ORIGIN");
  group.AddDefault("max-body", http.max_body_mib, "Largest body of a request, in MiB")
      ->check(Whole(1, 1024))
      ->option_text("MIB [32]");
  group.Flag("no-ui", http.no_ui, "No page to try the model at /");
  group.Flag("strict-api", http.strict_api,
             "Refuse requests with fields nobody knows, instead of ignoring these");
}

void AddServe(CLI::App* app, ServeOptions& serve) {
  AddHead(app, serve.head, "Directory of a Hugging Face checkpoint");
  AddDraft(app, serve.head.drafting);
  AddDrafters(app, serve.head.drafting);
  AddServing(app, serve.serving);
  Group group(app, "Serving");
  const CLI::Validator port = Whole(0, 65535);
  group.AddDefault("host", serve.host, "Address of every listener")->option_text("ADDRESS [127.0.0.1]");
  group.AddDefault("http-port", serve.http_port, "HTTP API; 0: any free port")
      ->check(port)
      ->option_text("PORT [8000]");
  group.AddDefault("grpc-port", serve.grpc_port, "gRPC API; 0: any free port")
      ->check(port)
      ->option_text("PORT [50051]");
  group.AddDefault("join-port", serve.join_port, "Where workers dial; 0: any free port")
      ->check(port)
      ->option_text("PORT [7400]");
  group.Add("nodes", serve.nodes, "Nodes of the cluster, the head counted; default 1 + --local-workers")
      ->check(Whole(1, 4096))
      ->option_text("N");
  group
      .Add("join-timeout", serve.join_timeout_s,
           "Give up when workers are still missing after so many seconds")
      ->check(Whole(1, kMany))
      ->option_text("S");
  group
      .AddDefault("metrics-compat", serve.metrics_compat,
                  "Metrics that vLLM has too stand under its names as well, or not")
      ->check(CLI::IsMember({"vllm", "none"}))
      ->option_text("vllm|none [vllm]");
  AddHttp(app, serve.http);
  app->callback([&serve] {
    if (serve.nodes != 0 && serve.nodes < 1 + serve.head.cluster.local_workers) {
      throw CLI::ValidationError("--nodes", "expected at least 1 + --local-workers = " +
                                                std::to_string(1 + serve.head.cluster.local_workers) +
                                                ", got " + std::to_string(serve.nodes));
    }
    if (serve.nodes == 0) serve.nodes = 1 + serve.head.cluster.local_workers;
  });
}

void AddWorker(CLI::App* app, WorkerOptions& worker, bool& insecure_links) {
  Group group(app, "Joining");
  group.Add("join", worker.join, "The head's join address")->required()->option_text("HOST:PORT (required)");
  group.Add("model", worker.model, "Directory of the same checkpoint")
      ->required()
      ->option_text("DIR (required)");
  group.Add("name", worker.name, "What errors, logs and `status` say; default HOSTNAME-PID")
      ->option_text("NAME");
  group.Add("rank", worker.rank, "The rank to take if it is free")->check(Whole(1, 4096))->option_text("N");
  group.AddDefault("dial-timeout", worker.dial_timeout_s, "Give up when no head answers for so many seconds")
      ->check(Whole(1, kMany))
      ->option_text("S [60]");
  group
      .AddDefault("rejoin-timeout", worker.rejoin_timeout_s,
                  "The same, after a head that had answered went away")
      ->check(Whole(1, kMany))
      ->option_text("S [60]");
  group
      .AddDefault("metrics-port", worker.metrics_port, "GET /metrics of this worker itself; 0: any free port")
      ->check(OffOr(0, 65535))
      ->option_text("PORT|off [off]");
  group.AddDefault("metrics-host", worker.metrics_host, "Address of that page")
      ->option_text("ADDRESS [127.0.0.1]");
  // The head decides whether plain links are allowed: it listens. Taken here so that one set of flags suits
  // both.
  group.Flag("insecure-links", insecure_links, "Accepted; it is the head that must allow unencrypted links");
  AddCompute(app, worker.compute);
  app->callback([&worker] {
    const size_t colon = worker.join.rfind(':');
    int64_t port = 0;
    if (colon == std::string::npos || colon == 0 ||
        !CLI::detail::lexical_cast(worker.join.substr(colon + 1), port) || port < 1 || port > 65535) {
      throw CLI::ValidationError("--join", "expected HOST:PORT, got '" + worker.join + "'");
    }
  });
}

// ID=VALUE.
bool ReadBias(const std::string& text, std::pair<int32_t, double>& entry) {
  const size_t equals = text.find('=');
  return equals != std::string::npos && equals > 0 && text.front() >= '0' && text.front() <= '9' &&
         CLI::detail::lexical_cast(text.substr(0, equals), entry.first) && entry.first >= 0 &&
         CLI::detail::lexical_cast(text.substr(equals + 1), entry.second) && std::isfinite(entry.second);
}

Sources AddGenerate(CLI::App* app, GenerateOptions& generate, std::vector<std::string>& logit_bias,
                    CLI::Option*& draft) {
  Sources sources = AddPrompt(app, generate.prompt);
  AddHead(app, generate.head, "Directory of a checkpoint, or grpc://HOST:PORT of a running head");
  draft = AddDraft(app, generate.head.drafting);
  AddDrafters(app, generate.head.drafting);
  Group group(app, "Sampling");
  group.Add("max-tokens", generate.max_tokens, "Tokens at most; default: what is left of the context")
      ->check(Whole(1, kMany))
      ->option_text("N");
  group
      .Add("temperature", generate.sampling.temperature,
           "0: greedy; default from generation_config.json, else 1")
      ->check(Real(0, 1e6))
      ->option_text("X");
  group.Add("top-k", generate.sampling.top_k, "Keep the k likeliest; 0: off")
      ->check(Whole(0, kMany))
      ->option_text("K");
  group.Add("top-p", generate.sampling.top_p, "Keep the likeliest up to this mass")
      ->check(Real(0, 1))
      ->option_text("P");
  group.Add("min-p", generate.sampling.min_p, "Drop those below this share of the likeliest")
      ->check(Real(0, 1))
      ->option_text("P");
  group.Add("presence-penalty", generate.sampling.presence_penalty, "Off every id generated so far")
      ->check(Real(-100, 100))
      ->option_text("X");
  group
      .Add("frequency-penalty", generate.sampling.frequency_penalty,
           "Off an id for every time it was generated")
      ->check(Real(-100, 100))
      ->option_text("X");
  group
      .Add("repetition-penalty", generate.sampling.repetition_penalty,
           "Logits above 0 of ids in prompt or text are divided by it, others multiplied")
      ->check(Real(1e-6, 1e6))
      ->option_text("X");
  group.Add("logit-bias", logit_bias, "Added to the logit of one id; may be repeated")
      ->check(CLI::Validator(
          [](std::string& text) {
            std::pair<int32_t, double> entry;
            return ReadBias(text, entry)
                       ? std::string()
                       : "expected ID=VALUE with a token id and a number, got '" + text + "'";
          },
          ""))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("ID=VALUE");
  group.Choice("acceptance", generate.sampling.acceptance, {"coupled", "rejection"},
               "When a draft counts: coupled never changes the text; rejection keeps the distribution only");
  group
      .Add("seed", generate.sampling.seed, "The same seed gives the same text; default random, and returned")
      ->check(Unsigned())
      ->option_text("N");
  group.Flag("ignore-eos", generate.ignore_eos, "Go on after the model's end of text");
  AddJson(app, generate.json);
  Group output(app, "Output");
  output.Flag("logits-hash", generate.logits_hash, "Hash the logits that tokens were drawn from");
  output.Add("json-file", generate.json_file, "Write the JSON answer here and stream the text as usual")
      ->option_text("FILE");
  return sources;
}

void AddScore(CLI::App* app, ScoreOptions& score) {
  AddHead(app, score.head, "Directory of a checkpoint");
  score.head.drafting.draft = "off";  // it draws no tokens; --drafts runs the layer by itself
  score.head.drafting.mtp_format = "stored";
  AddMtpFormat(app, score.head.drafting, "Format of the drafting layer; --drafts takes it as stored only");
  Group group(app, "Scoring");
  group.Add("tokens-json", score.tokens_json, "A file holding a JSON array of token ids")
      ->required()
      ->option_text("FILE (required)");
  group.AddDefault("top", score.top, "Candidates per position")->check(Whole(0, 1000))->option_text("N [0]");
  group.AddDefault("drafts", score.drafts, "Tokens the MTP layer drafts at each position")
      ->check(Whole(0, 16))
      ->option_text("K [0]");
  AddJson(app, score.json);
  app->callback([&score] {
    if (score.drafts > 0 && score.head.drafting.mtp_format != "stored") {
      throw CLI::ValidationError("--mtp-format",
                                 "--drafts shows what the layer says as it is stored; leave " +
                                     score.head.drafting.mtp_format +
                                     " out, or see its drafts accepted with `paceline bench draft`");
    }
  });
}

void AddBenchLink(CLI::App* app, BenchLinkOptions& bench) {
  Group measuring(app, "Measuring");
  measuring.Choice("link", bench.link, {"tcp", "ucx"}, "Between two processes of this machine");
  measuring.AddDefault("hidden", bench.hidden, "Elements of a row")
      ->check(Whole(1, 1 << 20))
      ->option_text("N [3072]");
  measuring.AddDefault("rounds", bench.rounds, "Round trips per size")
      ->check(Whole(1, 1 << 24))
      ->option_text("N [2000]");
  AddJson(app, bench.json);
}

void AddBenchLoad(CLI::App* app, BenchLoadOptions& bench) {
  AddHead(app, bench.head, "Directory of a checkpoint");
  AddDraft(app, bench.head.drafting);
  AddDrafters(app, bench.head.drafting);
  Group measuring(app, "Measuring");
  measuring
      .AddDefault("limit", bench.limit_gb, "GB of the files read, before and after, to know the disk's rate")
      ->check(Whole(1, 1 << 20))
      ->option_text("GB [16]");
  measuring.Flag(
      "touch-first", bench.touch_first,
      "Touch as much memory and give it back, just before: a virtual machine gets its memory when it "
      "is first touched, slowly, and the load would wait for that");
  AddJson(app, bench.json);
}

void AddBenchKernels(CLI::App* app, BenchKernelsOptions& bench) {
  AddCompute(app, bench.compute);
  Group measuring(app, "Measuring");
  measuring.Add("filter", bench.filter, "Only kernels whose name contains this: experts, fp8, head, ..")
      ->option_text("TEXT");
  measuring.AddDefault("seconds", bench.seconds, "Calls of every figure, in all")
      ->check(Real(0, 3600))
      ->option_text("S [0.2]");
  AddJson(app, bench.json);
  Group(app, "Output").Flag("markdown", bench.markdown, "The table as Markdown");
}

void AddBenchStep(CLI::App* app, BenchStepOptions& bench) {
  AddHead(app, bench.head, "Directory of a checkpoint");
  bench.head.drafting.draft = "off";
  Group(app, kDrafting)
      .Add("draft", bench.head.drafting.draft, "Steps here never draft: see `paceline bench draft`")
      ->check(CLI::Validator(
          [](std::string& value) {
            return value == "off" || value == "0"
                       ? std::string()
                       : "expected off, got '" + value + "': `paceline bench draft` measures drafting";
          },
          ""))
      ->option_text("off")
      ->envname(kNoTwin);
  Group measuring(app, "Measuring");
  measuring.Add("rows", bench.rows, "Rows per step, comma separated")
      ->delimiter(',')
      ->check(Whole(1, 65536))
      ->option_text("N,N,..");
  measuring.AddDefault("prefill", bench.prefill, "Tokens of a prompt to measure; 0: none")
      ->check(Whole(0, 1 << 20))
      ->option_text("N [512]");
  measuring
      .AddDefault("context", bench.context,
                  "Positions before the measured rows; whole pages of 256 get random keys and values unrun")
      ->check(Whole(0, 1 << 20))
      ->option_text("N [64]");
  AddJson(app, bench.json);
  Group(app, "Output").Flag("markdown", bench.markdown, "The tables in Markdown");
  app->callback([&bench] {
    if (bench.json && bench.markdown)
      throw CLI::ValidationError("--markdown", "is a format of its own; give --json or --markdown, not both");
  });
}

// `depth`: what --draft says; `depths`: it and --depths.
Sources AddBenchDraft(CLI::App* app, BenchDraftOptions& bench, std::string& depth, Sources& depths) {
  Sources sources = AddPrompt(app, bench.prompt, /*required=*/false);
  AddHead(app, bench.head, "Directory of a checkpoint");
  AddDrafters(app, bench.head.drafting);
  Group measuring(app, "Measuring");
  depths.push_back(Group(app, kDrafting)
                       .Add("draft", depth, "One depth beside plain decoding, in place of --depths")
                       ->envname(kNoTwin)
                       ->check(AutoOffOr(0, kMaxDraft))
                       ->option_text("auto|off|K"));
  bench.depths = {"0", "1", "2", "3", "4", "5", "6", "auto"};
  depths.push_back(
      measuring
          .Add("depths", bench.depths,
               "Depths to compare, comma separated; 0: plain; auto: measures first what steps cost")
          ->delimiter(',')
          ->check(CLI::Validator(
              [](std::string& value) {
                return value == "off" ? "expected 0 for plain decoding, got 'off'" : std::string();
              },
              ""))
          ->check(AutoOffOr(0, kMaxDraft))
          ->option_text("K,K,..,auto [0,1,2,3,4,5,6,auto]"));
  measuring
      .Add("assume-acceptance", bench.head.drafting.assume_acceptance,
           "Take a draft for right with this probability; by default what the model says")
      ->check(Real(0, 1))
      ->option_text("P");
  measuring.AddDefault("tokens", bench.tokens, "Tokens of one measurement")
      ->check(Whole(2, 1 << 20))
      ->option_text("N [512]");
  measuring.AddDefault("rounds", bench.rounds, "Measurements of each depth; the median counts")
      ->check(Whole(1, 1 << 20))
      ->option_text("R [3]");
  AddJson(app, bench.json);
  return sources;
}

Sources AddVerify(CLI::App* app, VerifyOptions& verify) {
  Sources sources = AddPrompt(app, verify.prompt, /*required=*/false);
  verify.head.cluster.local_workers = 1;
  AddHead(app, verify.head, "Directory of a checkpoint, or grpc://HOST:PORT of a running head");
  verify.head.drafting.draft = "4";
  Group(app, kDrafting)
      .AddDefault("draft", verify.depth, "Tokens drafted per step in the drafted runs")
      ->envname(kNoTwin)
      ->check(Whole(1, kMaxDraft))
      ->option_text("K [4]");
  AddDrafters(app, verify.head.drafting);
  Group group(app, "Verifying");
  group.AddDefault("max-tokens", verify.max_tokens, "Tokens of every run")
      ->check(Whole(1, kMany))
      ->option_text("N [64]");
  group.AddDefault("temperature", verify.temperature, "Of the seeded runs")
      ->check(Real(0, 1e6))
      ->option_text("X [0.8]");
  group.AddDefault("seed", verify.seed, "Of the seeded runs")->check(Unsigned())->option_text("N [1]");
  AddJson(app, verify.json);
  return sources;
}

Sources AddTokenize(CLI::App* app, TokenizeOptions& tokenize, bool& no_parse_special) {
  AddModelArgument(app, tokenize.model, "Directory with a tokenizer.json");
  Group group(app, "Input");
  const Sources sources = {
      group.Add("text", tokenize.text, "The text itself")->option_text("TEXT"),
      group.Add("text-file", tokenize.text_file, "A file of UTF-8 text, every byte of it")
          ->option_text("FILE"),
      group
          .Add("decode-json", tokenize.decode_json,
               "A file holding a JSON array of token ids, to be turned into text")
          ->option_text("FILE")};
  group.Flag("no-parse-special", no_parse_special, "Read special tokens in the text as plain text");
  CLI::Option* counts = Group(app, "Output")
                            .Add("counts", tokenize.counts,
                                 "Write how often each id came, for --draft-vocab (with --text-file)")
                            ->option_text("FILE");
  AddJson(app, tokenize.json);
  app->callback([sources, counts, &tokenize, &no_parse_special] {
    if (counts->count() > 0 && !tokenize.decode_json.empty())
      throw CLI::ValidationError("--counts", "counts the ids of a text: give --text-file FILE with it");
    if (Given(sources) != 1)
      throw CLI::ValidationError("input", "give one of --text TEXT, --text-file FILE, --decode-json FILE");
    tokenize.parse_special = !no_parse_special;
  });
  return sources;
}

Sources AddStatus(CLI::App* app, StatusOptions& status) {
  app->add_option("url", status.url, "The head's gRPC address")
      ->envname("PACELINE_URL")
      ->option_text("grpc://HOST:PORT [grpc://127.0.0.1:50051]")
      ->group("Arguments");
  CLI::Option* json = AddJson(app, status.json);
  CLI::Option* metrics =
      Group(app, "Output")
          .Flag("metrics", status.metrics, "Counters in Prometheus' text format, nothing else");
  app->callback([&status] {
    if (status.json && status.metrics)
      throw CLI::ValidationError("--metrics", "is a format of its own; give --json or --metrics, not both");
  });
  return {json, metrics};
}

void AddSynth(CLI::App* app, SynthOptions& synth) {
  app->add_option("out", synth.out, "Directory to write")
      ->required()
      ->envname("PACELINE_OUT")
      ->type_name("OUT")
      ->group("Arguments");
  Group group(app, "Model");
  const std::vector<std::string> shapes = {"Qwen3.5-122B-A10B", "Qwen3.5-35B-A3B", "Qwen3.5-397B-A17B"};
  group.Choice("like", synth.like, shapes, "Whose shape")
      ->required()
      ->option_text("Qwen3.5-122B-A10B|Qwen3.5-35B-A3B|Qwen3.5-397B-A17B (required)");
  group.Add("layers", synth.layers, "Layers to write")
      ->required()
      ->check(Whole(1, 1000))
      ->option_text("N (required)");
  group.Choice("format", synth.format, {"hybrid", "int4", "bf16"},
               "hybrid: experts INT4, other projections FP8; int4: AutoRound's composition; bf16: all of it");
  group.Flag("mtp", synth.mtp, "With a drafting layer");
  group.AddDefault("seed", synth.seed, "Of the weights")->check(Unsigned())->option_text("N [1]");
}

}  // namespace

Parsed ParseCommandLine(int argc, const char* const* argv) {
  CLI::App root("Paceline runs mixture-of-experts language models over several machines.", "paceline");
  root.get_formatter()->column_width(kHelpColumn);
  root.set_version_flag("--version", "paceline " PACELINE_VERSION);
  root.require_subcommand(1);
  root.footer(
      "paceline COMMAND --help shows a command's flags. Each has an environment twin: --grpc-port is "
      "PACELINE_GRPC_PORT.");

  ServeOptions serve;
  WorkerOptions worker;
  GenerateOptions generate;
  ChatOptions chat;
  ScoreOptions score;
  VerifyOptions verify;
  BenchStepOptions bench_step;
  BenchDraftOptions bench_draft;
  BenchLoadOptions bench_load;
  BenchLinkOptions bench_link;
  BenchKernelsOptions bench_kernels;
  BenchServeOptions bench_serve;
  std::string bench_depth;
  Sources bench_depths;
  std::vector<std::string> logit_bias;
  TokenizeOptions tokenize;
  StatusOptions status;
  DoctorOptions doctor;
  SynthOptions synth;
  bool no_parse_special = false;
  bool worker_insecure_links = false;

  CLI::App* serve_app =
      root.add_subcommand("serve", "Run the head: serve a model, with workers here or elsewhere");
  CLI::App* worker_app = root.add_subcommand("worker", "Join a head and hold a share of its experts");
  CLI::App* generate_app =
      root.add_subcommand("generate", "Continue one prompt, from a directory or a running head");
  CLI::App* chat_app = root.add_subcommand("chat", "Talk to a model in the terminal");
  CLI::App* score_app = root.add_subcommand("score", "Log-probabilities of given tokens");
  CLI::App* verify_app = root.add_subcommand(
      "verify", "Prove that drafting, ranks and batches leave the tokens alone; exit 0 equal, 1 different");
  CLI::App* bench_app = root.add_subcommand("bench", "Measure");
  bench_app->require_subcommand(1);
  CLI::App* step_app =
      bench_app->add_subcommand("step", "Whole model steps, as a share of the read bandwidth");
  CLI::App* draft_app =
      bench_app->add_subcommand("draft", "Speed of drafting at several depths, beside plain decoding");
  CLI::App* load_app =
      bench_app->add_subcommand("load", "Loading a model, as a share of what its disk gives");
  CLI::App* kernels_app =
      bench_app->add_subcommand("kernels", "Single kernels, as a share of the read bandwidth");
  CLI::App* link_app = bench_app->add_subcommand("link", "Round trips of the exchange's message sizes");
  CLI::App* load_test_app = bench_app->add_subcommand(
      "serve", "A server under load: throughput, times to the first token and between tokens");
  CLI::App* tokenize_app = root.add_subcommand("tokenize", "Text to token ids, or back");
  CLI::App* status_app = root.add_subcommand("status", "What runs where");
  CLI::App* doctor_app =
      root.add_subcommand("doctor", "What this machine and this build offer: processor, GPUs, driver, NCCL");
  CLI::App* synth_app = root.add_subcommand("synth", "Make a random checkpoint with a real model's shapes");
  AddServe(serve_app, serve);
  AddWorker(worker_app, worker, worker_insecure_links);
  CLI::Option* generate_draft = nullptr;
  PreferFlags(AddGenerate(generate_app, generate, logit_bias, generate_draft), argc, argv);
  const Sources constraints = AddConstraint(generate_app, generate.constraint);
  PreferFlags(constraints, argc, argv);
  const CLI::Option* chat_draft = AddChat(chat_app, chat);
  AddScore(score_app, score);
  PreferFlags(AddVerify(verify_app, verify), argc, argv);
  AddBenchStep(step_app, bench_step);
  PreferFlags(AddBenchDraft(draft_app, bench_draft, bench_depth, bench_depths), argc, argv);
  PreferFlags(bench_depths, argc, argv);
  AddBenchLoad(load_app, bench_load);
  AddBenchLink(link_app, bench_link);
  AddBenchKernels(kernels_app, bench_kernels);
  AddBenchServe(load_test_app, bench_serve);
  PreferFlags(AddTokenize(tokenize_app, tokenize, no_parse_special), argc, argv);
  PreferFlags(AddStatus(status_app, status), argc, argv);
  AddJson(doctor_app, doctor.json);
  AddSynth(synth_app, synth);

  Parsed parsed;
  try {
    root.parse(argc, argv);
    const std::string wrong = *generate_app
                                  ? MeantForADirectory(generate_app, generate.head.model, argc, argv)
                              : *chat_app   ? MeantForADirectory(chat_app, chat.head.model, argc, argv)
                              : *verify_app ? MeantForADirectory(verify_app, verify.head.model, argc, argv)
                                            : "";
    if (!wrong.empty()) throw CLI::ValidationError(wrong);
    if (*draft_app && Given(bench_depths) > 1)
      throw CLI::ValidationError("--draft", "is one depth, --depths are several: give one of the two");
    if (*generate_app && Given(constraints) > 1) {
      throw CLI::ValidationError("structured output",
                                 "give one of --json-schema, --json-object, --regex, --grammar and --choice");
    }
    if (*generate_app && generate.sampling.acceptance == "rejection" && generate.sampling.seed) {
      throw CLI::ValidationError(
          "--acceptance rejection",
          "under this rule a seed does not fix the text; leave --seed out, or take --acceptance coupled");
    }
  } catch (const CLI::CallForHelp&) {
    const CLI::App* asked = Deepest(&root);
    parsed.out = asked->help(asked->get_parent() == nullptr ? "" : FullName(asked->get_parent()));
    return parsed;
  } catch (const CLI::CallForVersion& version) {
    parsed.out = std::string(version.what()) + "\n";
    return parsed;
  } catch (const CLI::Error& error) {
    parsed.exit_status = kExitUsage;
    parsed.err = UsageError(&root, Describe(&root, error));
    return parsed;
  } catch (const std::exception& error) {
    parsed.exit_status = kExitUsage;
    parsed.err = UsageError(&root, error.what());
    return parsed;
  }
  generate.head.drafting.draft_given = generate_draft->count() > 0;
  chat.head.drafting.draft_given = chat_draft->count() > 0;
  if (!bench_depth.empty()) bench_draft.depths = {bench_depth == "off" ? "0" : bench_depth};
  for (const std::string& entry : logit_bias) ReadBias(entry, generate.sampling.logit_bias.emplace_back());
  if (*serve_app) parsed.invocation = serve;
  if (*worker_app) parsed.invocation = worker;
  if (*generate_app) parsed.invocation = generate;
  if (*chat_app) parsed.invocation = chat;
  if (*score_app) parsed.invocation = score;
  if (*verify_app) parsed.invocation = verify;
  if (*step_app) parsed.invocation = bench_step;
  if (*draft_app) parsed.invocation = bench_draft;
  if (*load_app) parsed.invocation = bench_load;
  if (*link_app) parsed.invocation = bench_link;
  if (*kernels_app) parsed.invocation = bench_kernels;
  if (*load_test_app) parsed.invocation = bench_serve;
  if (*tokenize_app) parsed.invocation = tokenize;
  if (*status_app) parsed.invocation = status;
  if (*doctor_app) parsed.invocation = doctor;
  if (*synth_app) parsed.invocation = synth;
  return parsed;
}

}  // namespace paceline::cli
