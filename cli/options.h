// What a command line asks for, as plain structs: the other files of this room never see the parser.
// Names, defaults and meanings of flags: docs/contracts of the command line (`paceline COMMAND --help`).
// Every flag has an environment twin, PACELINE_ and the flag's name in capitals with _ for -; a flag wins
// over its twin.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace paceline::cli {

// How this process computes.
struct ComputeOptions {
  std::string backend = "cpu";   // reference, cpu, cuda, cuda-emulated
  std::string isa;               // avx2, avx512, vnni, amx, amx-emulated; empty: the best this machine has
  int threads = 0;               // 0: max(1, cores / ranks on this machine)
  std::string pin = "off";       // compute threads to processors: off, auto, "0-3,8"
  std::string load_io = "auto";  // how weights are read: auto, threads, buffered
};

// The ranks and the roads between them.
struct ClusterOptions {
  int local_workers = 0;
  std::string placement = "contiguous";  // contiguous, strided, sliced, or a file of rules
  std::string link = "tcp";              // loopback, tcp, ucx, nccl
  bool insecure_links = false;
  std::string simulate_link;  // "rtt=500us,jitter=50us,bandwidth=10Gbit,seed=1"; empty: none
  bool head_split = false;
  int heartbeat_timeout_ms = 900;
};

// What changes bits, memory or the shape of a step.
struct ModelOptions {
  int prefill_chunk = 64;
  std::string kv_dtype = "bf16";        // bf16, fp32, int8, int4
  std::string lm_head = "auto";         // auto, stored, int8
  std::string activations = "int16";    // int16, int8
  std::string float_math = "portable";  // portable, native
};

// Who guesses tokens, and how many a step verifies. Not flags of every command; `score` drafts by itself.
struct DraftingFlags {
  std::string draft = "auto";         // auto, off, or a number from 0 to 8
  bool draft_given = false;           // by the flag or its twin; `draft` is else the default
  std::string drafter = "auto";       // auto, mtp, suffix
  std::string mtp_format = "int4";    // int4, stored
  std::string mtp_tap = "post-norm";  // post-norm, pre-norm
  std::string draft_vocab = "32768";  // a number of ids, all, or a file
  double assume_acceptance = -1;      // bench only; below 0: off
};

// Everything a head is made from.
struct HeadOptions {
  std::string model;  // directory
  ComputeOptions compute;
  ClusterOptions cluster;
  ModelOptions options;
  DraftingFlags drafting;
};

// What the APIs allow.
struct HttpFlags {
  std::string api_keys_file;              // empty: everybody may ask; of gRPC too
  std::vector<std::string> cors_origins;  // pages that may read answers; "*": all
  int max_body_mib = 32;
  bool no_ui = false;
  bool strict_api = false;
};

// How many requests at once, and with how much memory.
struct ServingOptions {
  int max_sequences = 16;
  std::string kv_memory = "auto";  // a size: BytesOf; auto: what is needed, at most an eighth of the machine
  int kv_pages = 0;                // instead of a size; 0: none
  std::string prefix_cache = "auto";  // off, or a size of snapshots; auto: at most a 32nd of the machine
  int max_waiting = 256;
  int max_waiting_per_key = 0;  // 0: max_waiting
  int queue_timeout_s = 0;      // 0: none
};

struct ServeOptions {
  HeadOptions head;
  ServingOptions serving;
  std::string host = "127.0.0.1";
  int http_port = 8000;
  int grpc_port = 50051;
  int join_port = 7400;
  int nodes = 0;                        // the head counted; 0: 1 + local_workers
  int join_timeout_s = 0;               // 0: wait for workers without end
  std::string metrics_compat = "vllm";  // "none": our own names alone
  HttpFlags http;
};

struct WorkerOptions {
  std::string join;  // HOST:PORT
  std::string model;
  std::string name;  // empty: HOSTNAME-PID
  int rank = 0;      // taken if free; 0: any
  int dial_timeout_s = 60;
  int rejoin_timeout_s = 60;
  std::string metrics_host = "127.0.0.1";
  std::string metrics_port = "off";  // off, or a port of the page; 0: any free one
  ComputeOptions compute;
};

struct PromptOptions {
  std::optional<std::string> text;
  std::string file;
  std::string tokens_json;
};

struct SamplingFlags {
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> repetition_penalty;
  std::vector<std::pair<int32_t, double>> logit_bias;  // id, what is added to its logit
  std::optional<uint64_t> seed;
  std::string acceptance = "coupled";  // coupled, rejection
};

// What the text must be; one of the five at most.
struct ConstraintFlags {
  std::string json_schema;  // file
  bool json_object = false;
  std::string regex;
  std::string grammar;  // file
  std::vector<std::string> choices;
  std::optional<std::string> after;
};

struct GenerateOptions {
  HeadOptions head;  // head.model: a directory, or grpc://HOST:PORT
  PromptOptions prompt;
  std::optional<int64_t> max_tokens;
  SamplingFlags sampling;
  ConstraintFlags constraint;
  bool ignore_eos = false;
  bool logits_hash = false;
  bool json = false;
  std::string json_file;  // the JSON answer goes here, the text to stdout as without it
};

// A conversation in the terminal.
struct ChatOptions {
  HeadOptions head;  // head.model: a directory, grpc://HOST:PORT or http://HOST:PORT
  std::string system;
  std::string think = "auto";  // auto: as the model's template has it; on, off
  std::optional<int64_t> max_tokens;
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::string api_key_file;  // for http://
};

struct ScoreOptions {
  HeadOptions head;
  std::string tokens_json;
  int top = 0;
  int drafts = 0;
  bool json = false;
};

struct BenchStepOptions {
  HeadOptions head;
  std::vector<int> rows;  // per step; empty: the bench's own list
  int prefill = 512;      // tokens of the prompt that is measured; 0: none
  int64_t context = 64;   // positions in front of the measured rows; above 256 whole pages are not run
  bool json = false;
  bool markdown = false;
};

struct BenchLoadOptions {
  HeadOptions head;
  int64_t limit_gb = 16;     // of the files, read for the yardstick
  bool touch_first = false;  // memory
  bool json = false;
};

struct BenchLinkOptions {
  std::string link = "tcp";  // tcp, ucx
  int64_t hidden = 3072;     // elements of a row
  int64_t rounds = 2000;
  bool json = false;
};

// Requests to a server that speaks OpenAI's HTTP API.
struct BenchServeOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string model;              // empty: the first that the server names
  std::string endpoint = "chat";  // chat, completions
  std::vector<int> concurrency;   // closed loops, one after the other
  std::vector<double> rates;      // open loops, requests per second
  int64_t requests = 0;           // of every loop; 0: by its size
  double duration_s = 0;          // of every loop; 0: until its requests are done
  int warmup = 1;                 // requests before the first loop
  std::string prompts;            // file; empty: prose that is built in
  int64_t input_tokens = 256;
  int64_t shared_prefix = 0;  // of them the same in all prompts
  int64_t output_tokens = 128;
  bool natural_end = false;  // the model's end of text ends an answer
  double temperature = 0;
  uint64_t seed = 1;
  std::string salt;  // begins every prompt; empty: random
  std::optional<double> slo_ttft_ms;
  std::optional<double> slo_itl_ms;
  std::string api_key_file;
  int timeout_s = 600;
  bool json = false;
  bool markdown = false;
};

struct BenchKernelsOptions {
  ComputeOptions compute;
  std::string filter;    // kernels whose name has this in it
  double seconds = 0.2;  // of calls per figure
  bool markdown = false;
  bool json = false;
};

struct VerifyOptions {
  HeadOptions head;      // head.model: a directory, or grpc://HOST:PORT
  PromptOptions prompt;  // none: one that is built in
  int64_t max_tokens = 64;
  int depth = 4;             // drafts per step of the drafted runs
  double temperature = 0.8;  // of the seeded runs
  uint64_t seed = 1;
  bool json = false;
};

struct BenchDraftOptions {
  HeadOptions head;
  PromptOptions prompt;             // none: one that is built in
  std::vector<std::string> depths;  // numbers and "auto"
  int64_t tokens = 512;             // of one measurement
  int rounds = 3;
  bool json = false;
};

struct TokenizeOptions {
  std::string model;
  std::optional<std::string> text;
  std::string text_file;
  std::string decode_json;
  std::string counts;  // a file to write, JSON: id -> how often it came
  bool parse_special = true;
  bool json = false;
};

struct StatusOptions {
  std::string url = "grpc://127.0.0.1:50051";
  bool json = false;
  bool metrics = false;
};

struct DoctorOptions {
  bool json = false;
};

struct SynthOptions {
  std::string out;
  std::string like;
  int layers = 0;
  std::string format = "hybrid";  // hybrid, int4, bf16
  bool mtp = false;
  uint64_t seed = 1;
};

using Invocation =
    std::variant<ServeOptions, WorkerOptions, GenerateOptions, ChatOptions, ScoreOptions, VerifyOptions,
                 BenchStepOptions, BenchDraftOptions, BenchLoadOptions, BenchLinkOptions, BenchKernelsOptions,
                 BenchServeOptions, TokenizeOptions, StatusOptions, DoctorOptions, SynthOptions>;

// Either an invocation, or what to print and the status to exit with (help, version, a usage error).
struct Parsed {
  std::optional<Invocation> invocation;
  int exit_status = 0;
  std::string out;  // for stdout
  std::string err;  // for stderr
};

// A whole number in decimal digits, nothing before or behind it: what flags that also take words mean by one.
std::optional<int64_t> DecimalNumber(std::string_view text);

// What a flag that takes a size says: bytes; -1 for auto, 0 for off, nothing for what is no size.
std::optional<int64_t> BytesOf(std::string_view word);

// Reads the command line and the environment. Prints nothing, exits never.
Parsed ParseCommandLine(int argc, const char* const* argv);

}  // namespace paceline::cli
