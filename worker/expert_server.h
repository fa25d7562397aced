// A worker's answer to the two questions: run these experts on these rows, and multiply these rows by your
// row range of the LM head. Keeps nothing between two frames. Owned by the thread that serves the link.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/placement.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "model/expert_store.h"
#include "model/head.h"
#include "model/loader.h"
#include "transport/exchange.h"

namespace paceline {

struct ExpertServerOptions {
  const kernels::KernelTable* table = nullptr;
  int threads = 1;
  std::vector<int> processors;  // [threads] that each stays on; empty: anywhere
  kernels::ActivationContract contract = kernels::ActivationContract::kInt16;
  HeadFormat lm_head = HeadFormat::kAuto;
  LoadOptions load;
  LoadCallback progress;  // may be empty
};

class ExpertServer final : public ExpertHandler {
 public:
  // Reads only what `rank` holds under `placement`. Errors are the checkpoint's.
  static absl::StatusOr<std::unique_ptr<ExpertServer>> Load(const Checkpoint& checkpoint,
                                                            const Placement& placement, RankId rank,
                                                            const ExpertServerOptions& options);

  absl::Status Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                       ExpertSums into) override;
  absl::Status MatmulRows(int32_t matrix, const float* x, int32_t rows, int32_t width, float* y) override;
  int64_t MatmulOutputs(int32_t matrix) const override;
  int32_t hidden() const override { return static_cast<int32_t>(hidden_); }

  int64_t experts() const { return store_->experts(); }
  int64_t leaves() const { return store_->leaves(); }
  int64_t bytes() const { return store_->bytes() + (head_ == nullptr ? 0 : head_->bytes()); }
  const LoadReport& load_report() const { return load_report_; }

 private:
  explicit ExpertServer(const ExpertServerOptions& options)
      : options_(options), pool_(options.threads, options.processors) {}

  const ExpertServerOptions options_;
  ThreadPool pool_;
  kernels::Workspace workspace_;
  int64_t hidden_ = 0;
  std::vector<RowFormat> row_formats_;  // [layers]
  std::unique_ptr<ExpertStore> store_;
  LoadReport load_report_;
  std::unique_ptr<LmHead> head_;  // null when no rows of the LM head are held
};

}  // namespace paceline
