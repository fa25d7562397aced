// Subcommands that the command line knows and this build does not hold yet. A command that arrives takes its
// line away.
#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/console.h"

namespace paceline::cli {
namespace {

int Pending(const char* command) {
  return StdErr().Fail(absl::UnimplementedError(absl::StrCat("`", command, "` is not in this build yet")));
}

}  // namespace

int Run(const VerifyOptions&) { return Pending("verify"); }

}  // namespace paceline::cli
