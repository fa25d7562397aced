// Messages in, readers on their way through them.
#include "coordinator/server_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace paceline {

void StreamLog::SetTicket(std::shared_ptr<GenerationTicket> ticket) {
  const std::lock_guard lock(mutex_);
  ticket_ = std::move(ticket);
  // The reader may have left before there was anything to cancel.
  if (readers_.empty()) ticket_->CancelAt(Clock::Real().Now() + window_);
}

void StreamLog::Append(Message message) {
  {
    const std::lock_guard lock(mutex_);
    CHECK(!end_);
    message.set_sequence(last() + 1);
    messages_.push_back(std::make_shared<const Message>(std::move(message)));
    Trim();
  }
  Tell();
}

void StreamLog::Close(const grpc::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    end_ = status;
  }
  Tell();
}

// Outside the lock: readers read, and their last share may go here.
void StreamLog::Tell() {
  std::vector<std::shared_ptr<Reader>> readers;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, attached] : readers_) {
      if (std::shared_ptr<Reader> reader = attached.reader.lock()) readers.push_back(std::move(reader));
    }
  }
  for (const auto& reader : readers) reader->OnMore();
}

void StreamLog::Trim() {
  uint64_t wanted = last() + 1;
  for (const auto& [key, attached] : readers_) wanted = std::min(wanted, attached.wants);
  while (messages_.size() > kKept && first_ < wanted) {
    messages_.pop_front();
    ++first_;
  }
}

absl::Status StreamLog::Attach(const std::shared_ptr<Reader>& reader, uint64_t after) {
  const std::lock_guard lock(mutex_);
  if (after + 1 < first_) {
    return absl::OutOfRangeError(absl::StrCat("after_sequence: the messages behind ", after,
                                              " are gone; the oldest that is kept is ", first_));
  }
  if (after > last()) {
    return absl::OutOfRangeError(
        absl::StrCat("after_sequence: the stream has said ", last(), " messages so far, not ", after));
  }
  readers_[reader.get()] = {reader, after + 1};
  if (ticket_ != nullptr) ticket_->KeepGoing();
  return absl::OkStatus();
}

void StreamLog::Detach(const Reader* reader) {
  const std::lock_guard lock(mutex_);
  if (readers_.erase(reader) == 0) return;
  if (readers_.empty() && !end_ && ticket_ != nullptr) ticket_->CancelAt(Clock::Real().Now() + window_);
}

StreamLog::Next StreamLog::Read(const Reader* reader, uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  const auto attached = readers_.find(reader);
  CHECK(attached != readers_.end());
  CHECK_GE(sequence, attached->second.wants);
  attached->second.wants = sequence;
  Next next;
  if (sequence <= last()) {
    next.message = messages_[static_cast<size_t>(sequence - first_)];
  } else {
    next.end = end_;
  }
  return next;
}

void StreamLogs::Add(const std::string& request_id, std::shared_ptr<StreamLog> log) {
  const std::lock_guard lock(mutex_);
  logs_[request_id] = std::move(log);
}

void StreamLogs::Ended(const std::string& request_id, const std::shared_ptr<StreamLog>& log) {
  const std::lock_guard lock(mutex_);
  ended_.emplace_back(request_id, log);
  if (ended_.size() <= kEnded) return;
  const auto [id, oldest] = std::move(ended_.front());
  ended_.pop_front();
  const auto found = logs_.find(id);
  if (found != logs_.end() && found->second == oldest) logs_.erase(found);
}

std::shared_ptr<StreamLog> StreamLogs::Find(const std::string& request_id) const {
  const std::lock_guard lock(mutex_);
  const auto found = logs_.find(request_id);
  return found == logs_.end() ? nullptr : found->second;
}

}  // namespace paceline
