// Flags that several commands share, each group added by one function. The parser, which is slow to compile,
// comes in here alone; nobody but options.cc and usage_error.cc includes this.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string>
#include <vector>

#include "cli/options.h"

namespace paceline::cli {

inline constexpr int64_t kMany = int64_t{1} << 31;
inline constexpr char kDrafting[] = "Drafting";  // a heading

// Adds flags with their environment twins under one heading of the help.
class Group {
 public:
  Group(CLI::App* app, std::string heading) : app_(app), heading_(std::move(heading)) {}

  template <class T>
  CLI::Option* Add(const std::string& name, T& value, const std::string& help) {
    return Finish(app_->add_option("--" + name, value, help), name);
  }
  template <class T>
  CLI::Option* AddDefault(const std::string& name, T& value, const std::string& help) {
    return Add(name, value, help)->capture_default_str();
  }
  CLI::Option* Choice(const std::string& name, std::string& value, const std::vector<std::string>& choices,
                      const std::string& help) {
    return AddDefault(name, value, help)
        ->check(OneOf(choices))
        ->option_text(Join(choices) + " [" + value + "]");
  }
  CLI::Option* Flag(const std::string& name, bool& value, const std::string& help) {
    return Finish(app_->add_flag("--" + name, value, help), name)->option_text(" ");
  }

 private:
  static std::string Join(const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& word : words) out += (out.empty() ? "" : "|") + word;
    return out;
  }
  static CLI::Validator OneOf(const std::vector<std::string>& choices) {
    return CLI::Validator(
        [choices](std::string& value) {
          if (std::find(choices.begin(), choices.end(), value) != choices.end()) return std::string();
          return "expected one of " + Join(choices) + ", got '" + value + "'";
        },
        "");
  }
  CLI::Option* Finish(CLI::Option* option, const std::string& name) {
    std::string twin = "PACELINE_" + name;
    for (char& c : twin) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    // A script appends its own flags to a command line it was given: the last of two wins.
    if (option->get_items_expected_max() == 1) option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    return option->envname(twin)->group(heading_);
  }

  CLI::App* app_;
  std::string heading_;
};

CLI::Validator Whole(int64_t low, int64_t high);
// The parser's own conversion takes -1, and all that is too large, for the largest number.
CLI::Validator Unsigned();
CLI::Validator Real(double low, double high);
CLI::Validator OffOr(int64_t low, int64_t high);
CLI::Validator AutoOffOr(int64_t low, int64_t high);

void AddModelArgument(CLI::App* app, std::string& model, const char* help);
void AddCompute(CLI::App* app, ComputeOptions& compute);
// The model argument and everything a head is made from, drafting aside.
void AddHead(CLI::App* app, HeadOptions& head, const char* model_help);
// The same without the argument.
void AddHeadGroups(CLI::App* app, HeadOptions& head);
void AddMtpFormat(CLI::App* app, DraftingFlags& flags, const std::string& help);
void AddServing(CLI::App* app, ServingOptions& serving);
// How the head drafts, but for the depth.
void AddDrafters(CLI::App* app, DraftingFlags& flags);
CLI::Option* AddDraft(CLI::App* app, DraftingFlags& flags);
CLI::Option* AddJson(CLI::App* app, bool& json);

// Whole commands. AddChat gives back --draft.
CLI::Option* AddChat(CLI::App* app, ChatOptions& chat);
void AddBenchServe(CLI::App* app, BenchServeOptions& bench);

// Flags of which one is given.
using Sources = std::vector<CLI::Option*>;
int Given(const Sources& sources);
Sources AddPrompt(CLI::App* app, PromptOptions& prompt, bool required = true);
// What the text must be: the flags of which at most one is given.
Sources AddConstraint(CLI::App* app, ConstraintFlags& constraint);
// A flag on the command line wins over the environment twins of all its alternatives, not of itself alone.
void PreferFlags(const Sources& sources, int argc, const char* const* argv);
// What to say of flags of `app` that mean nothing against a running head, where `model` is one. Empty where
// there is nothing to say.
std::string MeantForADirectory(const CLI::App* app, const std::string& model, int argc,
                               const char* const* argv);

}  // namespace paceline::cli
