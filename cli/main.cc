// paceline: reads the command line and runs one subcommand. Threads are born below here.
#include <cstdio>
#include <cstdlib>
#include <variant>

#include "cli/commands.h"
#include "cli/console.h"

int main(int argc, char** argv) {
  using namespace paceline::cli;
  const Parsed parsed = ParseCommandLine(argc, argv);
  if (!parsed.invocation) {
    std::fputs(parsed.out.c_str(), stdout);
    std::fputs(parsed.err.c_str(), stderr);
    return EndOutput(parsed.exit_status);
  }
  // gRPC writes its own lines on stderr; what matters reaches a person as one of our errors.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  CatchSignals();
  return EndOutput(std::visit([](const auto& options) { return Run(options); }, *parsed.invocation));
}
