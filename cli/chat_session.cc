#include "cli/chat_session.h"

#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "cli/files.h"
#include "coordinator/utf8.h"

namespace paceline::cli {
namespace {

using Outcome = ChatSession::Outcome;
using Step = ChatSession::Step;

constexpr char kHelp[] =
    "/reset             begin a new conversation\n"
    "/system [TEXT]     instructions in front of it; without TEXT: none\n"
    "/think on|off|auto whether the model thinks first; auto: as its template has it\n"
    "/temp [X]          temperature, 0: greedy; without X: the model's own\n"
    "/seed [N]          the same seed gives the same answer; without N: random\n"
    "/max [N]           tokens of an answer at most; without N: what is left of the context\n"
    "/stats             what this session came to\n"
    "/save FILE         write the conversation as JSON\n"
    "/load FILE         go on with one that was saved\n"
    "/exit              leave, as Ctrl-D does\n"
    "Ctrl-C stops an answer. A line that ends with \\ goes on in the next; // begins a text with a slash.";

Outcome Said(std::string text) { return {Step::kSaid, std::move(text)}; }
Outcome Wrong(std::string text) { return {Step::kWrong, std::move(text)}; }

template <class T>
bool ReadNumber(const std::string& text, T* number) {
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, *number);
  return read.ec == std::errc() && read.ptr == end;
}

double Rate(int64_t tokens, Duration decode) {
  return tokens > 1 && decode > Duration::zero() ? static_cast<double>(tokens - 1) / Seconds(decode) : 0;
}

std::string DraftsText(const ChatAnswer& answer) {
  std::string out;
  if (answer.drafted > 0) {
    absl::StrAppendFormat(&out, "; %d of %d drafts accepted (%.0f %%)", answer.accepted, answer.drafted,
                          100 * static_cast<double>(answer.accepted) / static_cast<double>(answer.drafted));
  }
  if (answer.drafted > 0 && answer.steps.value_or(0) > 0) {
    absl::StrAppendFormat(&out, ", %.2f tokens per step",
                          static_cast<double>(answer.tokens) / static_cast<double>(*answer.steps));
  }
  return out;
}

}  // namespace

std::string AnswerLine(const ChatAnswer& answer) {
  std::string out = absl::StrCat(answer.tokens, answer.tokens == 1 ? " token" : " tokens");
  if (const double rate = Rate(answer.tokens, answer.decode); rate > 0)
    absl::StrAppendFormat(&out, " at %.1f tok/s", rate);
  if (answer.tokens > 0) absl::StrAppendFormat(&out, ", the first after %.2f s", Seconds(answer.first_token));
  absl::StrAppend(&out, DraftsText(answer));
  if (answer.cached_tokens > 0)
    absl::StrAppend(&out, "; ", answer.cached_tokens, " of ", answer.prompt_tokens, " prompt tokens cached");
  if (answer.reason == FinishReason::kLength) absl::StrAppend(&out, "; ended by the limit of tokens");
  if (answer.reason == FinishReason::kCancelled) absl::StrAppend(&out, "; stopped");
  return out;
}

Outcome ChatSession::Take(const std::string& line) {
  if (const size_t valid = ValidUtf8Prefix(line); valid < line.size())
    return Wrong(absl::StrCat("this line is not UTF-8 at byte ", valid));
  if (absl::StripAsciiWhitespace(line).empty()) return Said("");
  if (line.starts_with('/') && !line.starts_with("//")) {
    const size_t blank = line.find_first_of(" \t\n");
    const std::string rest = blank == std::string::npos ? "" : line.substr(blank);
    return Command(line.substr(1, blank == std::string::npos ? blank : blank - 1),
                   std::string(absl::StripAsciiWhitespace(rest)));
  }
  history_.push_back({.role = "user", .content = line.starts_with("//") ? line.substr(1) : line});
  return {Step::kAsk, ""};
}

Outcome ChatSession::Command(const std::string& name, const std::string& rest) {
  const std::map<std::string, std::function<Outcome()>> commands = {
      {"help", [] { return Said(kHelp); }},
      {"exit", [] { return Outcome{Step::kLeave, ""}; }},
      {"quit", [] { return Outcome{Step::kLeave, ""}; }},
      {"reset",
       [&] {
         history_.clear();
         return Said("a new conversation");
       }},
      {"system",
       [&] {
         settings_.system = rest;
         return Said(rest.empty() ? "no system message" : "system message set");
       }},
      {"think",
       [&] {
         if (rest != "on" && rest != "off" && rest != "auto")
           return Wrong(absl::StrCat("/think takes on, off or auto, not '", rest, "'"));
         settings_.think = rest == "auto" ? std::nullopt : std::optional<bool>(rest == "on");
         return Said(absl::StrCat("thinking: ", rest));
       }},
      {"temp",
       [&] {
         double value = 0;
         if (rest.empty()) {
           settings_.temperature.reset();
           return Said("temperature: the model's own");
         }
         if (!ReadNumber(rest, &value) || !std::isfinite(value) || value < 0)
           return Wrong(absl::StrCat("/temp takes a number from 0 on, not '", rest, "'"));
         settings_.temperature = value;
         return Said(absl::StrCat("temperature: ", rest));
       }},
      {"seed",
       [&] {
         uint64_t value = 0;
         if (rest.empty()) {
           settings_.seed.reset();
           return Said("seed: random");
         }
         if (!ReadNumber(rest, &value))
           return Wrong(absl::StrCat("/seed takes a whole number, not '", rest, "'"));
         settings_.seed = value;
         return Said(absl::StrCat("seed: ", value));
       }},
      {"max",
       [&] {
         int64_t value = 0;
         if (rest.empty()) {
           settings_.max_tokens.reset();
           return Said("no limit of tokens");
         }
         if (!ReadNumber(rest, &value) || value < 1)
           return Wrong(absl::StrCat("/max takes a whole number from 1 on, not '", rest, "'"));
         settings_.max_tokens = value;
         return Said(absl::StrCat("tokens of an answer: at most ", value));
       }},
      {"stats", [&] { return Said(Statistics()); }},
      {"save", [&] { return Save(rest); }},
      {"load", [&] { return Load(rest); }},
  };
  const auto found = commands.find(name);
  if (found == commands.end())
    return Wrong(absl::StrCat("there is no command /", name, "; /help lists them"));
  return found->second();
}

ChatQuestion ChatSession::Question() const {
  ChatQuestion question;
  if (!settings_.system.empty())
    question.chat.messages.push_back({.role = "system", .content = settings_.system});
  question.chat.messages.insert(question.chat.messages.end(), history_.begin(), history_.end());
  if (settings_.think) question.chat.template_kwargs["enable_thinking"] = *settings_.think;
  if (settings_.temperature) question.sampling.temperature = static_cast<float>(*settings_.temperature);
  question.sampling.seed = settings_.seed;
  question.max_tokens = settings_.max_tokens;
  return question;
}

bool ChatSession::Answered(const ChatAnswer& answer) {
  ++answers_;
  last_ = answer;
  sum_.tokens += answer.tokens;
  sum_.decode += answer.decode;
  sum_.first_token += answer.first_token;
  sum_.drafted += answer.drafted;
  sum_.accepted += answer.accepted;
  if (answer.steps) sum_.steps = sum_.steps.value_or(0) + *answer.steps;
  if (answer.reason == FinishReason::kCancelled && answer.content.empty()) {
    TakeBack();
    return false;
  }
  // Whether earlier reasoning is shown to the model is the template's business.
  history_.push_back({.role = "assistant", .content = answer.content});
  if (!answer.reasoning.empty()) history_.back().reasoning_content = answer.reasoning;
  return true;
}

void ChatSession::TakeBack() {
  if (!history_.empty() && history_.back().role == "user") history_.pop_back();
}

std::string ChatSession::Statistics() const {
  if (answers_ == 0) return "no answers yet";
  const auto answers = static_cast<double>(answers_);
  std::string out =
      absl::StrFormat("%d answer%s, %d tokens", answers_, answers_ == 1 ? "" : "s", sum_.tokens);
  // Each answer's first token came with its prompt.
  if (const double rate = Rate(sum_.tokens - answers_ + 1, sum_.decode); rate > 0)
    absl::StrAppendFormat(&out, " at %.1f tok/s", rate);
  absl::StrAppendFormat(&out, ", the first after %.2f s on average%s", Seconds(sum_.first_token) / answers,
                        DraftsText(sum_));
  absl::StrAppend(&out, "\nthe conversation: ", history_.size(), " messages; the last answer began behind ",
                  last_.prompt_tokens, " tokens and has ", last_.tokens);
  return out;
}

Outcome ChatSession::Save(const std::string& file) const {
  if (file.empty()) return Wrong("/save wants the name of a file");
  const std::vector<ChatMessage> messages = Question().chat.messages;
  const Json whole = {{"messages", ChatMessagesToJson(messages)}};
  const absl::Status written =
      WriteWholeFile(file, whole.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  if (!written.ok()) return Wrong(std::string(written.message()));
  return Said(absl::StrCat(messages.size(), " messages written to ", file));
}

Outcome ChatSession::Load(const std::string& file) {
  if (file.empty()) return Wrong("/load wants the name of a file");
  const absl::StatusOr<std::string> text = ReadWholeFile(file);
  if (!text.ok()) return Wrong(std::string(text.status().message()));
  const absl::StatusOr<Json> whole = ParseJson(*text, file);
  if (!whole.ok()) return Wrong(std::string(whole.status().message()));
  const bool wrapped = whole->is_object() && whole->contains("messages");
  absl::StatusOr<std::vector<ChatMessage>> messages =
      ChatMessagesFromJson(wrapped ? (*whole)["messages"] : *whole);
  if (!messages.ok()) return Wrong(absl::StrCat(file, ": ", messages.status().message()));
  settings_.system.clear();
  if (!messages->empty() && messages->front().role == "system") {
    if (const auto* system = std::get_if<std::string>(&messages->front().content)) settings_.system = *system;
    messages->erase(messages->begin());
  }
  history_ = *std::move(messages);
  return Said(absl::StrCat(history_.size(), " messages read from ", file));
}

}  // namespace paceline::cli
