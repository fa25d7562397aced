// What the two ends of an nccl link say to each other beside NCCL, over a link of their own
// (docs/PROTOCOL.md, The nccl link): who they are, the ids of the communicators to be, how long the next
// message is, and why it ends.
//
//   0   u8     kind
//   1   u8[3]  zero
//   4   u32    epoch of the placement under which the communicators are made; 0 before that
//   8   ..     what the kind has, below; integers little-endian
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/gpu_calls.h"
#include "transport/link.h"

namespace paceline {

enum class NcclControlKind : uint8_t {
  kHello = 1,     // both ends, first: u32 "PLN1", u32 version of NCCL, u8[16] the GPU's UUID
  kFirst = 2,     // worker: its first message, which says who it is; there is no communicator yet
  kMake = 3,      // head: u8[128] id of head to worker, u8[128] id of worker to head
  kAnnounce = 4,  // u64 number of the message that is being sent, u64 its bytes, u64 messages received so far
  kFlush = 5,     // u64 messages sent: tell me when you have them
  kFlushed = 6,   // u64 messages received
  kEnd = 7,       // why this end gave the link up, a sentence
};

struct NcclControl {
  NcclControlKind kind = NcclControlKind::kHello;
  uint32_t epoch = 0;
  uint32_t version = 0;   // kHello
  GpuUuid gpu{};          // kHello
  NcclId down, up;        // kMake
  uint64_t number = 0;    // kAnnounce, counted from 0; kFlush
  uint64_t bytes = 0;     // kAnnounce
  uint64_t received = 0;  // kAnnounce, kFlushed
  Bytes rest;             // kFirst, kEnd: a view of the message
};

std::vector<std::byte> EncodeNcclControl(const NcclControl& control);
// DataLoss (NET-004) names the field.
absl::StatusOr<NcclControl> DecodeNcclControl(Bytes message);

}  // namespace paceline
