// The join port: gRPC's side of the head. Carries messages between workers and a JoinHost, decides nothing.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/join.h"

namespace paceline {

class NodeServer {
 public:
  // NET-002 when the port cannot be had. `host_side` outlives the server. Port 0 takes a free one.
  static absl::StatusOr<std::unique_ptr<NodeServer>> Start(const std::string& host, int port,
                                                           JoinHost& host_side);
  virtual ~NodeServer() = default;
  virtual int port() const = 0;
  // Ends every stream; returns when no call of the JoinHost is running or to come.
  virtual void Shutdown() = 0;
};

}  // namespace paceline
