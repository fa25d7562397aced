// The door of the engine: how many requests, of whom, with how much text may be in the house at once, running
// or waiting. Asked before a prompt is looked at, so a refusal costs nothing however long the prompt.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"

namespace paceline {

struct AdmissionLimits {
  int64_t requests = 1;
  int64_t requests_per_key = 1;
  int64_t bytes = 1;  // of prompts; a single request may have more
};

// Thread-safe.
class Admission {
 public:
  explicit Admission(const AdmissionLimits& limits) : limits_(limits) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // A place in the house, until it is destroyed; the door outlives it.
  class Place {
   public:
    Place(Admission& door, std::string key, int64_t bytes)
        : door_(door), key_(std::move(key)), bytes_(bytes) {}
    ~Place() { door_.Leave(key_, bytes_); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

   private:
    Admission& door_;
    const std::string key_;
    const int64_t bytes_;
  };
  // REQ-004 says which limit is reached.
  absl::StatusOr<std::unique_ptr<Place>> Enter(const std::string& key, int64_t bytes);

  int64_t requests() const;

 private:
  void Leave(const std::string& key, int64_t bytes);

  const AdmissionLimits limits_;
  mutable std::mutex mutex_;
  int64_t requests_ = 0;  // guarded by mutex_, as the following
  int64_t bytes_ = 0;
  std::map<std::string, int64_t> requests_of_;  // by key; keys without requests are absent
};

}  // namespace paceline
