// How far a load is, how fast it goes and how long it will take, in words; and when a log should hear of it.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace paceline::cli {

// "13.02 GB", "9.1 MB".
std::string BytesText(int64_t bytes);

class LoadTrack {
 public:
  // Bytes so far and in all; `done` never falls.
  void Update(TimePoint now, int64_t done, int64_t total);
  // Whether a log should have a line now: at the end; after a tenth more, but not within half a second; after
  // five seconds. Says so once.
  bool DueInLog(TimePoint now);

  int64_t done() const { return done_; }
  int64_t total() const { return total_; }
  // Of all updates; 0 while it is not known.
  double bytes_per_second() const;
  // "40 % of 13.02 GB, 2.10 GB/s, 4 s left"; at the end "100 % of 13.02 GB, 2.10 GB/s".
  std::string Text() const;

 private:
  int64_t done_ = 0, total_ = 0;
  bool started_ = false;
  TimePoint first_{}, last_{};  // updates
  int64_t first_done_ = 0;
  TimePoint said_at_{};
  int64_t said_ = 0;    // bytes
  bool ended_ = false;  // and said so
};

}  // namespace paceline::cli
