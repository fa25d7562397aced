// Counting requests in and out.
#include "coordinator/admission.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline {

absl::StatusOr<std::unique_ptr<Admission::Place>> Admission::Enter(const std::string& key, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (requests_ >= limits_.requests) {
    return Error(errors::kQueueFull, absl::StrCat(requests_,
                                                  " requests run and wait, as many as may; try "
                                                  "again when some have ended"));
  }
  const auto of_key = requests_of_.find(key);
  if (of_key != requests_of_.end() && of_key->second >= limits_.requests_per_key) {
    return Error(errors::kQueueFull,
                 absl::StrCat(of_key->second,
                              " requests of this key run and wait, as many as one key may "
                              "have; try again when some have ended"));
  }
  if (requests_ > 0 && bytes_ + bytes > limits_.bytes) {
    return Error(errors::kQueueFull,
                 absl::StrCat("the prompts of the ", requests_, " requests that run and wait have ", bytes_,
                              " bytes, and with this one's ", bytes, " more than the ", limits_.bytes,
                              " they may; try again when some have ended"));
  }
  ++requests_;
  bytes_ += bytes;
  ++requests_of_[key];
  return std::make_unique<Place>(*this, key, bytes);
}

void Admission::Leave(const std::string& key, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  --requests_;
  bytes_ -= bytes;
  const auto of_key = requests_of_.find(key);
  if (--of_key->second == 0) requests_of_.erase(of_key);
}

int64_t Admission::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

}  // namespace paceline
