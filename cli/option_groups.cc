// The shared groups of flags.
#include "cli/option_groups.h"

#include <charconv>
#include <sstream>

#include "base/step.h"

namespace paceline::cli {

std::optional<int64_t> DecimalNumber(std::string_view text) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, value);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  return value;
}

CLI::Validator Whole(int64_t low, int64_t high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        int64_t value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return std::string();
        return "expected a whole number from " + std::to_string(low) + " to " + std::to_string(high) +
               ", got '" + text + "'";
      },
      "");
}

CLI::Validator Unsigned() {
  return CLI::Validator(
      [](std::string& text) {
        uint64_t value = 0;
        const char* const end = text.data() + text.size();
        const auto read = std::from_chars(text.data(), end, value);
        if (read.ec == std::errc() && read.ptr == end) return std::string();
        return "expected a whole number from 0 to 18446744073709551615, got '" + text + "'";
      },
      "");
}

CLI::Validator Real(double low, double high) {
  return CLI::Validator(
      [low, high](std::string& text) {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return std::string();
        std::ostringstream out;
        out << "expected a number from " << low << " to " << high << ", got '" << text << "'";
        return out.str();
      },
      "");
}

void AddModelArgument(CLI::App* app, std::string& model, const char* help) {
  app->add_option("model", model, help)
      ->required()
      ->envname("PACELINE_MODEL")
      ->type_name("MODEL")
      ->group("Arguments");
}

void AddCompute(CLI::App* app, ComputeOptions& compute) {
  Group group(app, "Computing");
  group.Choice(
      "backend", compute.backend, {"reference", "cpu", "cuda", "cuda-emulated"},
      "Who computes: plain loops, vector code, a GPU, or its kernels on this processor, slowly; with the "
      "same bits");
  group
      .Choice("isa", compute.isa, {"avx2", "avx512", "vnni", "amx", "amx-emulated"},
              "Instructions of the cpu backend; the best this machine has by default")
      ->option_text("avx2|avx512|vnni|amx|amx-emulated");
  group
      .Add("threads", compute.threads,
           "Compute threads of each process; by default cores / ranks on this machine")
      ->check(Whole(1, 4096))
      ->option_text("N");
  group
      .AddDefault(
          "pin", compute.pin,
          "Keep each compute thread on a processor of its own: off, auto (every process the next free "
          "ones of this machine's), or which; where nothing else runs")
      ->option_text("off|auto|LIST [off]");
  group.Choice("load-io", compute.load_io, {"auto", "threads", "buffered"},
               "How weights are read: auto: io_uring past the page cache; threads: past it without io_uring; "
               "buffered: through it");
}

static void AddCluster(CLI::App* app, ClusterOptions& cluster) {
  Group group(app, "Cluster");
  group.AddDefault("local-workers", cluster.local_workers, "Workers on this machine, besides the head")
      ->check(Whole(0, 64))
      ->option_text("N [" + std::to_string(cluster.local_workers) + "]");
  group
      .AddDefault("placement", cluster.placement,
                  "Who holds which experts: contiguous, strided, sliced, or a file of rules")
      ->option_text("KIND|FILE [contiguous]");
  group.Choice("link", cluster.link, {"loopback", "tcp", "ucx", "nccl"},
               "How activations travel; with loopback local workers are threads of this process");
  group.Flag("insecure-links", cluster.insecure_links,
             "Allow unencrypted connections off this machine, on a network that only trusted machines reach");
  group
      .Add("simulate-link", cluster.simulate_link,
           "Delay every worker link: rtt=500us,jitter=50us,bandwidth=10Gbit,seed=1")
      ->option_text("SPEC");
  group.Flag("head-split", cluster.head_split, "Cut the LM head's rows over all ranks");
  group
      .AddDefault("heartbeat-timeout", cluster.heartbeat_timeout_ms,
                  "Silence after which a worker is lost, in milliseconds")
      ->check(Whole(200, 600000))
      ->option_text("MS [900]");
}

static void AddModelOptions(CLI::App* app, ModelOptions& options) {
  Group group(app, "Model");
  group.AddDefault("prefill-chunk", options.prefill_chunk, "Prompt rows per step")
      ->check(Whole(1, 65536))
      ->option_text("N [64]");
  group.Choice(
      "kv-dtype", options.kv_dtype, {"bf16", "fp32", "int8", "int4"},
      "Format of keys and values; int8 and int4 have half and a quarter of bf16's bytes, int4 rotated");
  group.Choice("lm-head", options.lm_head, {"auto", "stored", "int8"},
               "auto: a 16-bit head of more than 65,536 rows becomes INT8 per row at load");
  group.Choice("activations", options.activations, {"int16", "int8"},
               "Activations in front of integer weights");
  group.Choice("float-math", options.float_math, {"portable", "native"},
               "portable: the same bits on every device; native: the device's own matrix units");
}

namespace {

CLI::Validator WordOr(std::vector<std::string> words, int64_t low, int64_t high) {
  return CLI::Validator(
      [words = std::move(words), low, high](std::string& value) {
        if (std::find(words.begin(), words.end(), value) != words.end()) return std::string();
        const std::optional<int64_t> number = DecimalNumber(value);
        if (number && *number >= low && *number <= high) return std::string();
        std::string expected;
        for (const std::string& word : words) expected += word + ", ";
        return "expected " + expected + "or a number from " + std::to_string(low) + " to " +
               std::to_string(high) + ", got '" + value + "'";
      },
      "");
}

}  // namespace

CLI::Validator OffOr(int64_t low, int64_t high) { return WordOr({"off"}, low, high); }

CLI::Validator AutoOffOr(int64_t low, int64_t high) { return WordOr({"auto", "off"}, low, high); }

void AddMtpFormat(CLI::App* app, DraftingFlags& flags, const std::string& help) {
  Group(app, kDrafting).Choice("mtp-format", flags.mtp_format, {"int4", "stored"}, help);
}

void AddDrafters(CLI::App* app, DraftingFlags& flags) {
  Group group(app, kDrafting);
  group.Choice("drafter", flags.drafter, {"auto", "mtp", "suffix"},
               "The model's own layer, or what followed the same words before; auto: the one that pays");
  AddMtpFormat(app, flags, "Format of the drafting layer; int4 is made at load");
  group.Choice("mtp-tap", flags.mtp_tap, {"post-norm", "pre-norm"},
               "Hidden state that the drafting layer sees: after or before the final norm");
  group
      .AddDefault("draft-vocab", flags.draft_vocab,
                  "Ids that are drafted: the N most frequent, all, or a JSON file of ids or of their counts")
      ->check(CLI::Validator(
          [](std::string& value) {
            int64_t ids = 0;
            if (value.empty()) return std::string("expected a number of ids, all, or a file");
            if (!CLI::detail::lexical_cast(value, ids) || (ids >= 1 && ids <= kMany)) return std::string();
            return "expected a number from 1 to " + std::to_string(kMany) + ", all, or a file, got '" +
                   value + "'";
          },
          ""))
      ->option_text("N|all|FILE [32768]");
}

CLI::Option* AddDraft(CLI::App* app, DraftingFlags& flags) {
  return Group(app, kDrafting)
      .AddDefault("draft", flags.draft, "Tokens drafted per step; auto: what pays, off without an MTP layer")
      ->check(AutoOffOr(0, kMaxDraft))
      ->option_text("auto|off|K [" + flags.draft + "]");
}

void AddHead(CLI::App* app, HeadOptions& head, const char* model_help) {
  AddModelArgument(app, head.model, model_help);
  AddHeadGroups(app, head);
}

void AddHeadGroups(CLI::App* app, HeadOptions& head) {
  AddCluster(app, head.cluster);
  AddModelOptions(app, head.options);
  AddCompute(app, head.compute);
}

int Given(const Sources& sources) {
  return static_cast<int>(
      std::count_if(sources.begin(), sources.end(), [](const CLI::Option* o) { return o->count() > 0; }));
}

// Whether the flag itself is there, not its environment twin.
static bool Named(const CLI::Option* option, int argc, const char* const* argv) {
  if (option->get_lnames().empty()) return false;
  const std::string name = "--" + option->get_lnames().front();
  return std::any_of(argv, argv + argc, [&name](const std::string& word) {
    return word == name || word.rfind(name + "=", 0) == 0;
  });
}

void PreferFlags(const Sources& sources, int argc, const char* const* argv) {
  const auto named = [&](const CLI::Option* option) { return Named(option, argc, argv); };
  if (std::none_of(sources.begin(), sources.end(), named)) return;
  for (CLI::Option* option : sources) {
    if (!named(option)) option->envname("");
  }
}

// Silence about such flags would mislead.
std::string MeantForADirectory(const CLI::App* app, const std::string& model, int argc,
                               const char* const* argv) {
  if (!model.starts_with("grpc://") && !model.starts_with("http://")) return {};
  std::string flags;
  for (const CLI::Option* option : app->get_options()) {
    const std::string& heading = option->get_group();
    const bool of_the_head = heading == "Cluster" || heading == "Model" || heading == "Computing" ||
                             (heading == kDrafting && option->get_lnames().front() != "draft");
    if (of_the_head && Named(option, argc, argv)) flags += (flags.empty() ? "" : ", ") + option->get_name();
  }
  if (flags.empty()) return {};
  return flags + ": the head behind " + model +
         " was started with its own; give these to `paceline serve`, or name a directory instead of the URL";
}

Sources AddPrompt(CLI::App* app, PromptOptions& prompt, bool required) {
  Group group(app, "Prompt");
  const Sources sources = {
      group.Add("prompt", prompt.text, "The text; special tokens are recognised, nothing is added")
          ->option_text("TEXT"),
      group.Add("prompt-file", prompt.file, "A file of UTF-8 text, every byte of it")->option_text("FILE"),
      group.Add("prompt-tokens-json", prompt.tokens_json, "A file holding a JSON array of token ids")
          ->option_text("FILE")};
  app->callback([sources, required] {
    if (Given(sources) > 1)
      throw CLI::ValidationError("prompt",
                                 "give one of --prompt, --prompt-file, --prompt-tokens-json, not several");
    if (required && Given(sources) == 0) {
      throw CLI::ValidationError(
          "prompt", "give a prompt: --prompt TEXT, --prompt-file FILE or --prompt-tokens-json FILE");
    }
  });
  return sources;
}

Sources AddConstraint(CLI::App* app, ConstraintFlags& constraint) {
  Group group(app, "Structured output");
  const Sources sources = {
      group.Add("json-schema", constraint.json_schema, "A file with a JSON schema that the text satisfies")
          ->option_text("FILE"),
      group.Flag("json-object", constraint.json_object, "The text is a JSON object"),
      group.Add("regex", constraint.regex, "The whole text matches this regular expression")
          ->option_text("REGEX"),
      group.Add("grammar", constraint.grammar, "A file with a grammar (EBNF as in GBNF files) of the text")
          ->option_text("FILE"),
      group.Add("choice", constraint.choices, "The text is this; repeated: one of these")
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
          ->allow_extra_args(false)
          ->option_text("TEXT")};
  group
      .Add("after", constraint.after,
           "The constraint begins behind this text; default: </think> where the prompt ends in a <think>")
      ->option_text("TEXT");
  return sources;
}

CLI::Option* AddJson(CLI::App* app, bool& json) {
  return Group(app, "Output").Flag("json", json, "One JSON object on stdout");
}

}  // namespace paceline::cli
