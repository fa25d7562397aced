// What a streamed generation has said, kept for those who read it: the call that asked for it, and calls that
// resume it. The last messages stay for a while after everybody has read them, and after the end. A
// generation lives as long as somebody reads it, and as long after the last reader as its client has asked.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/engine.h"
#include "grpcpp/support/status.h"
#include "paceline/inference/v1/inference.pb.h"

namespace paceline {

// Thread-safe: the engine's thread writes, gRPC's threads read.
class StreamLog {
 public:
  using Message = inference::v1::GenerateStreamResponse;

  // Messages kept beyond those that somebody still has to read.
  static constexpr size_t kKept = 4096;

  class Reader {
   public:
    virtual ~Reader() = default;
    // There may be more to read. Called without locks of the log.
    virtual void OnMore() = 0;
  };

  // `window`: how long the generation goes on without a reader. `owner`: the key that may read it.
  explicit StreamLog(Duration window, std::string owner = {}) : window_(window), owner_(std::move(owner)) {}

  const std::string& owner() const { return owner_; }

  // What is cancelled when nobody reads any more. Before that can happen.
  void SetTicket(std::shared_ptr<GenerationTicket> ticket);

  // Numbers the message, from 1.
  void Append(Message message);
  // Nothing more comes.
  void Close(const grpc::Status& status);

  // From the message behind `after` on. OutOfRange when that is gone, or has not been said.
  absl::Status Attach(const std::shared_ptr<Reader>& reader, uint64_t after);
  void Detach(const Reader* reader);
  // The message `sequence`, which an attached reader has not been given yet; or the end; or nothing so far.
  struct Next {
    std::shared_ptr<const Message> message;
    std::optional<grpc::Status> end;
  };
  Next Read(const Reader* reader, uint64_t sequence);

 private:
  struct Attached {
    std::weak_ptr<Reader> reader;
    uint64_t wants = 1;
  };
  void Trim();
  void Tell();
  uint64_t last() const { return first_ + messages_.size() - 1; }

  const Duration window_;
  const std::string owner_;
  std::mutex mutex_;  // guards what follows
  std::shared_ptr<GenerationTicket> ticket_;
  std::deque<std::shared_ptr<const Message>> messages_;
  uint64_t first_ = 1;  // sequence of messages_[0]
  std::optional<grpc::Status> end_;
  std::map<const Reader*, Attached> readers_;
};

// The logs of streams by request id, and of some that have ended. Thread-safe.
class StreamLogs {
 public:
  // Streams that are remembered after their end, at most.
  static constexpr size_t kEnded = 64;

  // A newer stream of the same id takes its place.
  void Add(const std::string& request_id, std::shared_ptr<StreamLog> log);
  void Ended(const std::string& request_id, const std::shared_ptr<StreamLog>& log);
  // Null when nothing is known of it.
  std::shared_ptr<StreamLog> Find(const std::string& request_id) const;

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, std::shared_ptr<StreamLog>> logs_;
  std::deque<std::pair<std::string, std::shared_ptr<StreamLog>>> ended_;  // the oldest first
};

}  // namespace paceline
