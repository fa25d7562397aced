// Nearest words by edit distance, and the sentences around them.
#include "cli/usage_error.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cli/option_groups.h"

namespace paceline::cli {
namespace {

// Edits between two words: letters added, dropped or changed.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, change}));
    }
  }
  return row[b.size()];
}

// The nearest of `words`, if it is near at all.
std::string Nearest(const std::string& word, const std::vector<std::string>& words) {
  std::string best;
  size_t distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : words) {
    const size_t d = EditDistance(word, candidate);
    if (d < distance) {
      distance = d;
      best = candidate;
    }
  }
  return best;
}

std::string Suggestion(CLI::App* app) {
  const std::vector<std::string> extras = app->remaining(true);
  for (const std::string& extra : extras) {
    if (extra.empty()) continue;
    std::vector<std::string> words;
    if (extra.front() == '-') {
      for (const CLI::Option* option : app->get_options()) {
        for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
      }
    } else {
      for (const CLI::App* sub : app->get_subcommands([](CLI::App*) { return true; }))
        words.push_back(sub->get_name());
    }
    const std::string near = Nearest(extra.substr(0, extra.find('=')), words);
    return "unknown " + std::string(extra.front() == '-' ? "flag " : "argument ") + extra +
           (near.empty() ? "" : "; did you mean " + near + "?");
  }
  return {};
}

}  // namespace

CLI::App* Deepest(CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

std::string FullName(const CLI::App* app) {
  return app->get_parent() == nullptr ? "paceline" : FullName(app->get_parent()) + " " + app->get_name();
}

std::string UsageError(CLI::App* root, const std::string& what) {
  const std::string name = FullName(Deepest(root));
  std::string message(Error(errors::kOption, what).message());
  return "error: " + message + "\nsee: " + name + " --help\n";
}

std::string Describe(CLI::App* root, const CLI::Error& error) {
  CLI::App* app = Deepest(root);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::string suggestion = Suggestion(app);
    if (!suggestion.empty()) return suggestion;
  }
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !app->remaining(true).empty()) {
    // An unknown flag is the likelier mistake than the argument it kept from being read.
    const std::string suggestion = Suggestion(app);
    if (!suggestion.empty()) return suggestion;
  }
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr &&
      !app->get_subcommands([](CLI::App*) { return true; }).empty()) {
    std::string commands;
    for (const CLI::App* sub : app->get_subcommands([](CLI::App*) { return true; })) {
      commands += (commands.empty() ? "" : ", ") + sub->get_name();
    }
    return "give a command: " + commands;
  }
  return error.what();
}

}  // namespace paceline::cli
