// How an owner of links waits: poll for a bounded time, then sleep in Link::Wait. A wake-up costs tens of
// microseconds, a poll well under one; longer polling would take the core from a thread that computes.
#pragma once

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/clock.h"

namespace paceline {

inline constexpr Duration kPollTime = std::chrono::microseconds(50);

class Polling {
 public:
  // `yield`: gives the core away between polls.
  explicit Polling(bool yield) : yield_(yield) {}

  // Something arrived: the bounded time starts anew.
  void Restart() { began_ = TimePoint(); }

  // Call after a poll that found nothing. True: poll again; false: the time is over, sleep.
  bool Again() {
    const TimePoint now = Clock::Real().Now();
    if (began_ == TimePoint()) began_ = now;
    if (now - began_ >= kPollTime) return false;
    if (yield_) {
      sched_yield();
    } else {
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
    return true;
  }

 private:
  bool yield_;
  TimePoint began_;
};

}  // namespace paceline
