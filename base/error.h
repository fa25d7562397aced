// Coded errors: every mistake a user can make has a code that docs and scripts can name, a sentence, and an
// exit status. The code stands at the front of the message ("LOAD-003: ..."), so it survives every transport
// that carries a string.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace paceline {

struct ErrorCode {
  const char* id;           // "LOAD-003": what docs and scripts name
  absl::StatusCode status;  // what an API caller sees
  int exit_status;          // what a shell sees
};

// Exit statuses of the command line (0 ok, 1 unexpected).
inline constexpr int kExitUsage = 2;
inline constexpr int kExitConfig = 3;
inline constexpr int kExitDoesNotFit = 4;
inline constexpr int kExitUnreachable = 5;
inline constexpr int kExitAuth = 6;
inline constexpr int kExitVersion = 7;
inline constexpr int kExitModel = 8;
inline constexpr int kExitDevice = 9;

namespace errors {
using absl::StatusCode;
// Checkpoints.
inline constexpr ErrorCode kModelMissing{"LOAD-001", StatusCode::kNotFound,
                                         kExitModel};  // folder or file absent
inline constexpr ErrorCode kModelConfig{"LOAD-002", StatusCode::kInvalidArgument,
                                        kExitModel};  // config.json unusable
inline constexpr ErrorCode kModelFile{"LOAD-003", StatusCode::kDataLoss,
                                      kExitModel};  // a safetensors file is broken
inline constexpr ErrorCode kModelTensor{"LOAD-004", StatusCode::kInvalidArgument,
                                        kExitModel};  // a tensor is missing, unexpected, mis-shaped
inline constexpr ErrorCode kModelValues{"LOAD-005", StatusCode::kDataLoss,
                                        kExitModel};  // non-finite scale, g_idx out of range
inline constexpr ErrorCode kTokenizer{"LOAD-006", StatusCode::kInvalidArgument,
                                      kExitModel};  // tokenizer.json unusable
inline constexpr ErrorCode kModelUnsupported{"LOAD-007", StatusCode::kUnimplemented,
                                             kExitModel};  // family or option not supported
inline constexpr ErrorCode kOutOfMemory{"LOAD-008", StatusCode::kResourceExhausted, kExitDoesNotFit};
// Requests.
inline constexpr ErrorCode kRequestField{"REQ-001", StatusCode::kInvalidArgument, kExitUsage};
inline constexpr ErrorCode kContextLength{"REQ-002", StatusCode::kInvalidArgument, kExitUsage};
inline constexpr ErrorCode kNonFinite{"REQ-003", StatusCode::kDataLoss,
                                      1};  // a row's arithmetic left the numbers
inline constexpr ErrorCode kQueueFull{"REQ-004", StatusCode::kResourceExhausted, 75};
// Cluster and links.
inline constexpr ErrorCode kNodeLost{"NET-001", StatusCode::kUnavailable, kExitUnreachable};
inline constexpr ErrorCode kUnreachable{"NET-002", StatusCode::kUnavailable, kExitUnreachable};
inline constexpr ErrorCode kInsecureLink{"NET-003", StatusCode::kFailedPrecondition, kExitAuth};
inline constexpr ErrorCode kFrame{"NET-004", StatusCode::kDataLoss, 1};  // malformed or stale frame
inline constexpr ErrorCode kTimeout{"NET-005", StatusCode::kDeadlineExceeded, kExitUnreachable};
inline constexpr ErrorCode kJoinRefused{"NET-006", StatusCode::kFailedPrecondition, kExitVersion};
inline constexpr ErrorCode kLinkAbsent{"NET-007", StatusCode::kUnimplemented,
                                       kExitDevice};  // link not built or not there
// Configuration and devices.
inline constexpr ErrorCode kPlacement{"CFG-001", StatusCode::kInvalidArgument, kExitConfig};
inline constexpr ErrorCode kOption{"CFG-002", StatusCode::kInvalidArgument, kExitUsage};
inline constexpr ErrorCode kDevice{"DEV-001", StatusCode::kFailedPrecondition,
                                   kExitDevice};  // this machine lacks what was asked for
}  // namespace errors

// A status whose message is "<id>: <sentence>".
absl::Status Error(const ErrorCode& code, std::string_view sentence);

// The exit status of a message that begins with one of the codes above; 1 for any other failure, 0 for ok.
int ExitStatus(const absl::Status& status);

// The code at the front of a message ("LOAD-003"), or "".
std::string_view CodeOf(std::string_view message);

}  // namespace paceline
