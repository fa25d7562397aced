// Time as every room sees it: monotonic, never wall-clock. Tests drive a ManualClock.
#pragma once

#include <atomic>
#include <chrono>

namespace paceline {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() = 0;
  // The process's steady clock. Thread-safe.
  static Clock& Real();
};

// Stands still until a test moves it. Thread-safe.
class ManualClock final : public Clock {
 public:
  TimePoint Now() override { return TimePoint(Duration(now_ns_.load())); }
  void Advance(Duration by) { now_ns_ += by.count(); }

 private:
  std::atomic<int64_t> now_ns_{0};
};

inline double Seconds(Duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace paceline
