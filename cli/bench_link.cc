// `bench link`: round trips of the exchange's own message sizes over one link, between two processes of this
// machine. What a layer's exchange costs before anything is computed; docs/PERFORMANCE.md, Exchange.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "nlohmann/json.hpp"
#include "transport/link_probe.h"

namespace paceline::cli {
namespace {

constexpr Duration kConnectLimit = std::chrono::seconds(20);
constexpr int64_t kFrameBytes = 64;  // header and routes of a frame, about

// The other process: dials the address that comes through the pipe, echoes until the link ends.
int Echo(const BenchLinkOptions& options, int address_pipe) {
  std::array<char, 256> address{};
  const ssize_t n = read(address_pipe, address.data(), address.size() - 1);
  if (n <= 0) return 1;  // the other side has said why
  absl::StatusOr<std::unique_ptr<Link>> link =
      ConnectLink(options.link, address.data(), Clock::Real().Now() + kConnectLimit);
  if (!link.ok()) return StdErr().Fail(link.status());
  ServeProbe(**link).IgnoreError();  // ends with the link
  return 0;
}

absl::Status Probe(const BenchLinkOptions& options, int address_pipe) {
  ASSIGN_OR_RETURN(const std::unique_ptr<LinkListener> listener, ListenLink(options.link, "127.0.0.1", 0));
  const std::string address = listener->address();
  if (write(address_pipe, address.data(), address.size()) != static_cast<ssize_t>(address.size())) {
    return Error(errors::kUnreachable, "the probe's second process has gone; run the command again");
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Link> link, listener->Accept(Clock::Real().Now() + kConnectLimit));
  nlohmann::json results = nlohmann::json::array();
  if (!options.json) {
    std::printf("%s between two processes of this machine, hidden %lld\n\n", options.link.c_str(),
                static_cast<long long>(options.hidden));
    std::printf("| rows | bytes out | bytes back | min us | p50 us | p99 us |\n|---|---|---|---|---|---|\n");
  }
  for (const int rows : {1, 4, 8, 16, 64}) {
    // A row out: 16-bit codes and a scale per 128; a row back: sums of 5 bytes, the typical width.
    const int64_t out = kFrameBytes + rows * (2 * options.hidden + 4 * ((options.hidden + 127) / 128));
    const int64_t back = kFrameBytes + rows * 5 * options.hidden;
    ASSIGN_OR_RETURN(const ProbeResult r, ProbeLink(*link, out, back, options.rounds));
    results.push_back({{"rows", rows},
                       {"bytes_out", out},
                       {"bytes_back", back},
                       {"min_us", r.min_us},
                       {"p50_us", r.p50_us},
                       {"p99_us", r.p99_us}});
    if (!options.json) {
      std::printf("| %d | %lld | %lld | %.1f | %.1f | %.1f |\n", rows, static_cast<long long>(out),
                  static_cast<long long>(back), r.min_us, r.p50_us, r.p99_us);
    }
  }
  EndProbe(*link).IgnoreError();
  if (options.json)
    std::printf("%s\n",
                nlohmann::json({{"link", options.link}, {"hidden", options.hidden}, {"results", results}})
                    .dump()
                    .c_str());
  return absl::OkStatus();
}

}  // namespace

int Run(const BenchLinkOptions& options) {
  if (options.link == "loopback") {
    return StdErr().Fail(
        Error(errors::kOption, "--link loopback has no second process to measure; use tcp or ucx"));
  }
  std::array<int, 2> address{};
  if (pipe(address.data()) != 0) return StdErr().Fail(absl::ErrnoToStatus(errno, "pipe"));
  const pid_t child = fork();
  if (child < 0) return StdErr().Fail(absl::ErrnoToStatus(errno, "fork"));
  if (child == 0) {
    close(address[1]);
    _exit(Echo(options, address[0]));
  }
  close(address[0]);
  const absl::Status done = Probe(options, address[1]);
  close(address[1]);
  waitpid(child, nullptr, 0);
  return done.ok() ? 0 : StdErr().Fail(done);
}

}  // namespace paceline::cli
