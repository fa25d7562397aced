// A probe is a message whose first eight bytes say how long the answer is to be; zero ends the serving.
#include "transport/link_probe.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "transport/waiting.h"

namespace paceline {
namespace {

constexpr int64_t kLeast = 8;  // bytes of a probe
constexpr Duration kPatience = std::chrono::seconds(30);
constexpr Duration kSlice = std::chrono::milliseconds(20);

// The next message; empty when `deadline` passed.
absl::StatusOr<Bytes> Next(Link& link, TimePoint deadline) {
  Polling polling(/*yield=*/false);
  for (;;) {
    ASSIGN_OR_RETURN(const Bytes message, link.TryReceive());
    if (!message.empty()) return message;
    if (polling.Again()) continue;
    const TimePoint now = Clock::Real().Now();
    if (now >= deadline) return Bytes();
    link.Wait(std::min(deadline, now + kSlice));
  }
}

absl::Status SendOne(Link& link, Bytes message) { return link.Send(std::span(&message, 1)); }

}  // namespace

absl::StatusOr<ProbeResult> ProbeLink(Link& link, int64_t out_bytes, int64_t back_bytes, int64_t rounds) {
  if (out_bytes < kLeast || out_bytes > kMaxMessageBytes || back_bytes < 1 || back_bytes > kMaxMessageBytes ||
      rounds < 1) {
    return Error(errors::kOption,
                 absl::StrCat("a probe of ", out_bytes, " bytes out, ", back_bytes, " back, ", rounds,
                              " rounds; expected ", kLeast, " to ", kMaxMessageBytes,
                              " out, 1 to as many back, 1 or more rounds"));
  }
  std::vector<std::byte> out(static_cast<size_t>(out_bytes), std::byte{0x5A});
  std::memcpy(out.data(), &back_bytes, sizeof(back_bytes));
  std::vector<double> us;
  us.reserve(static_cast<size_t>(rounds));
  for (int64_t round = -((rounds + 9) / 10); round < rounds; ++round) {
    const TimePoint began = Clock::Real().Now();
    RETURN_IF_ERROR(SendOne(link, out));
    ASSIGN_OR_RETURN(const Bytes back, Next(link, began + kPatience));
    if (back.empty())
      return Error(errors::kTimeout, absl::StrCat("no answer to a probe over ", link.Describe()));
    if (static_cast<int64_t>(back.size()) != back_bytes) {
      return Error(errors::kFrame,
                   absl::StrCat("a probe's answer: expected ", back_bytes, " bytes, got ", back.size()));
    }
    if (round >= 0) us.push_back(1e6 * Seconds(Clock::Real().Now() - began));
  }
  std::sort(us.begin(), us.end());
  return ProbeResult{.out_bytes = out_bytes,
                     .back_bytes = back_bytes,
                     .rounds = rounds,
                     .min_us = us.front(),
                     .p50_us = us[us.size() / 2],
                     .p99_us = us[us.size() * 99 / 100]};
}

absl::Status ServeProbe(Link& link) {
  std::vector<std::byte> answer;
  for (;;) {
    ASSIGN_OR_RETURN(const Bytes probe, Next(link, TimePoint::max()));
    int64_t wanted = -1;
    if (static_cast<int64_t>(probe.size()) >= kLeast) std::memcpy(&wanted, probe.data(), sizeof(wanted));
    if (wanted == 0) return absl::OkStatus();
    if (wanted < 0 || wanted > kMaxMessageBytes) {
      return Error(errors::kFrame, absl::StrCat("a probe: expected the length of an answer up to ",
                                                kMaxMessageBytes, ", got ", wanted));
    }
    answer.resize(static_cast<size_t>(wanted), std::byte{0xA5});
    RETURN_IF_ERROR(SendOne(link, answer));
  }
}

absl::Status EndProbe(Link& link) {
  constexpr std::array<std::byte, kLeast> kEnd{};
  return SendOne(link, kEnd);
}

}  // namespace paceline
