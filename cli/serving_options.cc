// Flags of a head that serves many: how many at once, with how much memory, and who waits how long.
#include <cctype>

#include "cli/option_groups.h"

namespace paceline::cli {
namespace {

CLI::Validator Size(bool may_be_off) {
  return CLI::Validator(
      [may_be_off](std::string& value) {
        const std::optional<int64_t> bytes = BytesOf(value);
        if (bytes && (may_be_off || *bytes != 0)) return std::string();
        return std::string("expected auto, ") + (may_be_off ? "off, " : "") +
               "or a number of bytes such as 512M or 8G, got '" + value + "'";
      },
      "");
}

}  // namespace

// Powers of 1024, as memory is counted.
std::optional<int64_t> BytesOf(std::string_view word) {
  if (word == "auto") return -1;
  if (word == "off") return 0;
  static constexpr std::string_view kUnits = "KMGT";
  int shift = 0;
  if (!word.empty()) {
    const size_t unit = kUnits.find(static_cast<char>(std::toupper(static_cast<unsigned char>(word.back()))));
    if (unit != std::string_view::npos) {
      shift = 10 * (static_cast<int>(unit) + 1);
      word.remove_suffix(1);
    }
  }
  const std::optional<int64_t> number = DecimalNumber(word);
  if (!number || *number < 1 || *number > (int64_t{1} << 62) >> shift) return std::nullopt;
  return *number << shift;
}

void AddServing(CLI::App* app, ServingOptions& serving) {
  Group group(app, "Requests");
  group.AddDefault("max-sequences", serving.max_sequences, "Requests that run at once")
      ->check(Whole(1, 4096))
      ->option_text("N [16]");
  group
      .AddDefault(
          "kv-memory", serving.kv_memory,
          "Memory of KV pages; auto: what --max-sequences contexts need, an eighth of the machine at most")
      ->check(Size(false))
      ->option_text("SIZE|auto [auto]");
  CLI::Option* pages =
      group.Add("kv-pages", serving.kv_pages, "KV pages of 256 positions, in place of --kv-memory")
          ->check(Whole(1, int64_t{1} << 30))
          ->option_text("N");
  group
      .AddDefault(
          "prefix-cache", serving.prefix_cache,
          "Memory of states to go on from where texts begin alike; auto: a 32nd of the machine at most")
      ->check(Size(true))
      ->option_text("SIZE|auto|off [auto]");
  group.AddDefault("max-waiting", serving.max_waiting, "Requests that wait, beyond those that run")
      ->check(Whole(0, 1 << 20))
      ->option_text("N [256]");
  group
      .Add("max-waiting-per-key", serving.max_waiting_per_key,
           "Of them with one API key; by default as many as --max-waiting")
      ->check(Whole(1, 1 << 20))
      ->option_text("N");
  group
      .Add("queue-timeout", serving.queue_timeout_s,
           "Refuse a request that has waited so many seconds for its start, unless it says how long itself")
      ->check(Whole(1, kMany))
      ->option_text("S");
  app->parse_complete_callback([pages, &serving] {
    if (pages->count() > 0 && serving.kv_memory != "auto")
      throw CLI::ValidationError("--kv-pages",
                                 "says in pages what --kv-memory says in bytes: give one of them");
  });
}

}  // namespace paceline::cli
