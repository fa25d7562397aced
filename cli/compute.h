// From flags to what computes: kernels, threads, the contract in force, and the loaders of a worker's and of
// the head's share. The only file of this room that knows the model's types.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/options.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "worker/join.h"
#include "worker/peers.h"
#include "worker/trunk.h"

namespace paceline::cli {

// What this process computes with.
struct Compute {
  const kernels::KernelTable* table = nullptr;
  int threads = 1;
  std::vector<int> processors;  // [threads] one for each; empty: wherever the system puts them
  bool yield = false;           // compute threads on this machine outnumber its cores
  LoadIo load_io = LoadIo::kRing;
};

// `ranks_here`: ranks that share this machine. DEV-001 says what this machine or this build lacks;
// CFG-002 as ProcessorsOf.
absl::StatusOr<Compute> ResolveCompute(const ComputeOptions& options, int ranks_here);

// Of the `process`-th process of this machine, from 0: one processor per thread as --pin says; none where it
// says off. CFG-002.
absl::StatusOr<std::vector<int>> ProcessorsOf(const std::string& pin, int threads, int process);

// The table of `compute` for `float_math`, "portable" or "native". DEV-001 where the backend has no native
// one.
absl::StatusOr<const kernels::KernelTable*> TableFor(const Compute& compute, const std::string& float_math);

// The contract that flags and checkpoint come to.
absl::StatusOr<ContractOptions> ResolveContract(const Checkpoint& checkpoint, const Compute& compute,
                                                const ModelOptions& options);

// Loads shares of `checkpoint`, which outlives it.
HandlerFactory ExpertFactory(const Checkpoint& checkpoint, const Compute& compute);

// The table of all ranks, the LM head's rows included. CFG-001.
absl::StatusOr<Placement> PlaceModel(const Checkpoint& checkpoint, const ClusterOptions& options, int nodes);

struct TrunkRequest {
  const Checkpoint* checkpoint = nullptr;
  Placement placement;
  const PeerSource* peers = nullptr;  // null: one rank; outlives the trunk
  uint32_t head_id = 0;
  ContractOptions contract;
  Compute compute;
  int32_t slots = 1;            // sequences at once
  int32_t pages = 0;            // KV pages; 0: by kv_bytes
  int64_t kv_bytes = -1;        // of KV pages; -1: what is needed, within a share of the machine's memory
  int64_t snapshot_bytes = 0;   // of the prefix cache's states; -1: a share of the machine's memory
  std::vector<bool> has_token;  // ids that may be drawn; empty: all
  DraftingOptions drafting;
  std::string draft_refusal;  // why `drafting` leaves the MTP layer out; empty when it does not
  LoadCallback progress;
};
absl::StatusOr<std::unique_ptr<LocalTrunk>> LoadTrunk(const TrunkRequest& request);

// What the trunk's info() will be, before anything is loaded. `name`: the model's, for people.
TrunkInfo InfoBeforeLoading(const TrunkRequest& request, const std::string& name);

// This machine's name, and the build in words for logs.
std::string HostName();
// The processor as the system names it.
std::string CpuName();
std::string BuildText();
// Physical memory, bytes.
int64_t MachineMemory();

}  // namespace paceline::cli
