// How calls of the API fronts ended, by front, call and code. One per head; every front counts into it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>

namespace paceline {

// Thread-safe. Names come from the fronts' own tables, never from clients, so their number is bounded.
class CallCounters {
 public:
  struct Name {
    std::string api;   // "http", "grpc"
    std::string call;  // the route, or the full name of the RPC
    std::string code;  // "200", "RESOURCE_EXHAUSTED"
    friend bool operator<(const Name& a, const Name& b) {
      return std::tie(a.api, a.call, a.code) < std::tie(b.api, b.call, b.code);
    }
  };

  void Count(Name name) {
    const std::lock_guard lock(mutex_);
    ++counts_[std::move(name)];
  }
  std::map<Name, int64_t> counts() const {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<Name, int64_t> counts_;  // guarded by mutex_
};

}  // namespace paceline
