// The routed experts one rank holds, packed, and the arithmetic on them: the same code on the head and on a
// worker.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/placement.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "model/loader.h"
#include "transport/exchange.h"

namespace paceline {

// What becomes of an expert between file and pack; called from several threads. Null: nothing.
using ExpertRule = std::function<void(kernels::PlainExpert&)>;

class ExpertStore {
 public:
  // What `rank` holds of the trunk's layers. Only its experts' bytes are read. Errors are the checkpoint's.
  static absl::StatusOr<std::unique_ptr<ExpertStore>> Load(const Checkpoint& checkpoint,
                                                           const Placement& placement, RankId rank,
                                                           const kernels::KernelTable& table,
                                                           ThreadPool& pool, const LoadCallback& progress);
  // The same as jobs of a load; the store is whole when the loader has run.
  static std::unique_ptr<ExpertStore> Add(Loader& loader, const Placement& placement, RankId rank,
                                          const kernels::KernelTable& table);
  // All experts of one feed-forward ("mtp.layers.0.mlp") as layer 0.
  static std::unique_ptr<ExpertStore> AddWhole(Loader& loader, const std::string& mlp,
                                               const kernels::KernelTable& table,
                                               const ExpertRule& rule = {});

  // Adds every leaf of `routes` to sums [x.rows, hidden]. Routes of one (expert, first group, groups) stand
  // together. FailedPrecondition names a leaf that is not held here.
  absl::Status Compute(LayerId layer, const kernels::Activations& x, std::span<const Route> routes,
                       kernels::ActivationContract contract, ThreadPool& pool, kernels::Workspace& workspace,
                       int64_t* sums, uint8_t* row_errors, int64_t* touched_bytes = nullptr) const;

  int64_t experts() const { return experts_; }
  int64_t leaves() const { return leaves_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Slice {  // of one expert
    std::string mlp;
    size_t layer = 0;
    int32_t expert = 0;
    Span64 columns;
  };
  void AddSlice(Loader& loader, Slice slice, const ExpertRule& rule);
  void Sort();

  const kernels::KernelTable* table_ = nullptr;
  // [layers][expert] -> slices, ascending by first group.
  std::vector<std::map<int32_t, std::vector<std::unique_ptr<kernels::Expert>>>> layers_;
  int64_t experts_ = 0, leaves_ = 0, bytes_ = 0;
  std::mutex loading_;  // guards all of it while a loader runs
};

}  // namespace paceline
