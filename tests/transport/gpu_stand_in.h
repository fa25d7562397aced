// A stand-in for the few calls of NCCL and of the CUDA driver that the nccl link makes
// (transport/gpu_calls.h): memory, streams and communicators of two ranks that behave as documented, without
// a GPU. Ranks may be threads or processes: what a communicator carries goes through a socket of this
// machine.
//
//   - Calls return at once; streams, connections and transfers go on only while somebody asks how far they
//   are, one
//     operation per stream at a time.
//   - A communicator is in progress until its other rank has come, and after every group for a few questions
//   more; the
//     first operation also until the other rank has one. Only then is the operation in its stream.
//   - Copies read and write when their turn in the stream comes, so a buffer that is used again too early
//   shows.
//   - Operations of one communicator run one after the other. A send of more than the socket buffers waits
//   for its
//     receive. A dead peer shows in nothing.
//   - What the libraries forbid is noted as misuse, and fails.
//
// It is compiled into tests, which then set faults, and into a library that answers to both names of the real
// ones.
#pragma once

#include <string>
#include <vector>

#include "transport/gpu_calls.h"

namespace paceline::stand_in {

struct Faults {
  int version = 23000;            // of NCCL
  int devices = 2;                // that the driver shows
  bool hold_connections = false;  // communicators stay in progress
  bool hold_transfers = false;    // operations of communicators stand still in their streams
  bool hold_starts = false;       // operations stay in progress and do not reach their stream
  int failing_rank = -1;          // whose communicators report `failure`
  int failure = 0;                // ncclResult_t
  bool no_memory = false;         // cuMemAlloc fails
};

const GpuCalls& Calls();
// From now on, for all communicators and streams of this process.
void Set(const Faults& faults);
// What was done that the libraries forbid, since the process began.
std::vector<std::string> Misuses();
// Communicators, streams, events, pieces of memory and contexts that were made and not given back.
int Alive();
// Communicators made, and ended by ncclCommAbort, since the process began.
int Made();
int Aborted();

}  // namespace paceline::stand_in
