// What a wrong command line is answered with: a sentence, and the nearest word that would have been right.
#pragma once

#include <string>

namespace CLI {
class App;
class Error;
}  // namespace CLI

namespace paceline::cli {

// The command the user is in: the deepest one named.
CLI::App* Deepest(CLI::App* app);
// "paceline bench step".
std::string FullName(const CLI::App* app);
// The error line with its code (CFG-002) and where help is.
std::string UsageError(CLI::App* root, const std::string& what);
// The parser's own error in our words.
std::string Describe(CLI::App* root, const CLI::Error& error);

}  // namespace paceline::cli
