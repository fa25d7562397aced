// Progress of a load.
#include "cli/progress.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace paceline::cli {
namespace {

constexpr Duration kBetweenLines = std::chrono::milliseconds(500);
constexpr Duration kSilence = std::chrono::seconds(5);
constexpr int64_t kShares = 10;  // lines of a load that is neither short nor slow

}  // namespace

std::string BytesText(int64_t bytes) {
  const auto x = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? absl::StrFormat("%.1f MB", x / 1e6) : absl::StrFormat("%.2f GB", x / 1e9);
}

void LoadTrack::Update(TimePoint now, int64_t done, int64_t total) {
  if (!started_) {
    started_ = true;
    first_ = said_at_ = now;
    first_done_ = done;
  }
  last_ = now;
  done_ = std::max(done_, done);
  total_ = total;
}

bool LoadTrack::DueInLog(TimePoint now) {
  if (ended_ || total_ <= 0) return false;
  ended_ = done_ >= total_;
  const bool share = done_ - said_ >= total_ / kShares && now - said_at_ >= kBetweenLines;
  if (!ended_ && !share && now - said_at_ < kSilence) return false;
  said_ = done_;
  said_at_ = now;
  return true;
}

double LoadTrack::bytes_per_second() const {
  const double seconds = Seconds(last_ - first_);
  return seconds > 0 ? static_cast<double>(done_ - first_done_) / seconds : 0;
}

std::string LoadTrack::Text() const {
  const int64_t percent = total_ > 0 ? 100 * done_ / total_ : 0;
  std::string text = absl::StrFormat("%d %% of %s", percent, BytesText(total_));
  const double rate = bytes_per_second();
  if (rate <= 0) return text;
  absl::StrAppendFormat(&text, ", %.2f GB/s", rate / 1e9);
  if (done_ < total_)
    absl::StrAppendFormat(&text, ", %.0f s left", std::ceil(static_cast<double>(total_ - done_) / rate));
  return text;
}

}  // namespace paceline::cli
