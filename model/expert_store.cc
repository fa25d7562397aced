// Loading and running the experts of one rank.
#include "model/expert_store.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace paceline {

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Load(const Checkpoint& checkpoint,
                                                               const Placement& placement, RankId rank,
                                                               const kernels::KernelTable& table,
                                                               ThreadPool& pool,
                                                               const LoadCallback& progress) {
  std::vector<Job> jobs;
  for (size_t layer = 0; layer < placement.layers().size(); ++layer) {
    const LayerShape& shape = placement.layers()[layer];
    for (int32_t e = 0; e < shape.experts; ++e) {
      for (const Segment& s : placement.HeldBy(rank, LayerId(static_cast<int32_t>(layer)), ExpertId(e))) {
        jobs.push_back({absl::StrCat("layers.", layer, ".mlp"), layer, e, s.first_group, s.groups,
                        s.groups * shape.leaf_bytes});
      }
    }
  }
  return Run(checkpoint, placement.layers().size(), std::move(jobs), table, pool, progress, {});
}

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::LoadWhole(const Checkpoint& checkpoint,
                                                                    const std::string& mlp,
                                                                    const kernels::KernelTable& table,
                                                                    ThreadPool& pool,
                                                                    const ExpertRule& rule) {
  std::vector<Job> jobs;
  for (int32_t e = 0; e < checkpoint.config().experts; ++e) {
    jobs.push_back({mlp, 0, e, 0, GroupsOf(checkpoint.config().expert_columns), 0});
  }
  return Run(checkpoint, 1, std::move(jobs), table, pool, {}, rule);
}

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Run(const Checkpoint& checkpoint, size_t layers,
                                                              std::vector<Job> jobs,
                                                              const kernels::KernelTable& table,
                                                              ThreadPool& pool, const LoadCallback& progress,
                                                              const ExpertRule& rule) {
  auto store = std::make_unique<ExpertStore>();
  store->table_ = &table;
  store->layers_.resize(layers);
  int64_t total = 0;
  for (const Job& job : jobs) total += job.bytes;

  std::mutex mutex;  // guards the store, the first error and the progress call below
  absl::Status first_error;
  std::atomic<bool> failed{false};
  int64_t done = 0;
  pool.Run(static_cast<int64_t>(jobs.size()), [&](int64_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    const Job& job = jobs[i];
    const int64_t begin = int64_t{job.first_group} * kGroupColumns;
    const int64_t end =
        std::min(begin + int64_t{job.groups} * kGroupColumns, checkpoint.config().expert_columns);
    absl::StatusOr<std::unique_ptr<kernels::Expert>> packed =
        [&]() -> absl::StatusOr<std::unique_ptr<kernels::Expert>> {
      ASSIGN_OR_RETURN(kernels::PlainExpert plain, checkpoint.ReadExpert(job.mlp, job.expert, {begin, end}));
      if (rule) rule(plain);
      return table.pack_expert(std::move(plain));
    }();
    const std::lock_guard lock(mutex);
    if (!packed.ok()) {
      if (first_error.ok()) first_error = packed.status();
      failed.store(true, std::memory_order_relaxed);
      return;
    }
    store->leaves_ += job.groups;
    store->bytes_ += (*packed)->bytes;
    store->layers_[job.layer][job.expert].push_back(*std::move(packed));
    done += job.bytes;
    if (progress) progress(done, total);
  });
  RETURN_IF_ERROR(first_error);
  for (auto& layer : store->layers_) {
    store->experts_ += static_cast<int64_t>(layer.size());
    for (auto& [expert, slices] : layer) {
      std::sort(slices.begin(), slices.end(),
                [](const auto& a, const auto& b) { return a->first_group < b->first_group; });
    }
  }
  return store;
}

absl::Status ExpertStore::Compute(LayerId layer, const kernels::Activations& x, std::span<const Route> routes,
                                  kernels::ActivationContract contract, ThreadPool& pool,
                                  kernels::Workspace& workspace, int64_t* sums, uint8_t* row_errors,
                                  int64_t* touched_bytes) const {
  if (routes.empty()) return absl::OkStatus();
  if (layer.value() < 0 || static_cast<size_t>(layer.value()) >= layers_.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "layer ", layer.value(), " was asked for; this model has layers 0 to ", layers_.size() - 1));
  }
  const auto& held = layers_[layer.value()];
  const kernels::Workspace::Scope scope(workspace);
  int32_t* rows = workspace.Take<int32_t>(static_cast<int64_t>(routes.size()));
  float* weights = workspace.Take<float>(static_cast<int64_t>(routes.size()));
  // A run of routes may straddle slices, so twice the routes bounds the tasks only with slices counted; count
  // first.
  int64_t count = 0;
  const auto visit = [&](const auto& emit) -> absl::Status {
    for (size_t begin = 0; begin < routes.size();) {
      const Route& first = routes[begin];
      size_t end = begin;
      while (end < routes.size() && routes[end].expert == first.expert &&
             routes[end].first_group == first.first_group && routes[end].groups == first.groups) {
        ++end;
      }
      int32_t next = first.first_group;
      const int32_t stop = first.first_group + first.groups;
      if (const auto found = held.find(first.expert); found != held.end()) {
        for (const auto& slice : found->second) {
          if (next < slice->first_group || next >= slice->first_group + slice->groups || next >= stop)
            continue;
          const int32_t until = std::min(stop, slice->first_group + slice->groups);
          emit(*slice, next, until - next, begin, end);
          next = until;
        }
      }
      if (next != stop) {
        return absl::FailedPreconditionError(absl::StrCat("layer ", layer.value(), " expert ", first.expert,
                                                          " group ", next,
                                                          " was asked for and is not held here"));
      }
      begin = end;
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(visit([&](const kernels::Expert&, int32_t, int32_t, size_t, size_t) { ++count; }));
  for (size_t i = 0; i < routes.size(); ++i) {
    rows[i] = routes[i].row;
    weights[i] = routes[i].weight;
  }
  auto* tasks = workspace.Take<kernels::ExpertTask>(count);
  int64_t at = 0;
  RETURN_IF_ERROR(
      visit([&](const kernels::Expert& slice, int32_t first_group, int32_t groups, size_t begin, size_t end) {
        new (&tasks[at++]) kernels::ExpertTask{
            &slice, first_group, groups, {rows + begin, end - begin}, {weights + begin, end - begin}};
      }));
  if (touched_bytes != nullptr) {
    for (int64_t i = 0; i < count; ++i)
      *touched_bytes += tasks[i].expert->bytes * tasks[i].groups / tasks[i].expert->groups;
  }
  table_->experts(pool, workspace, x, {tasks, static_cast<size_t>(count)}, contract, sums, row_errors);
  return absl::OkStatus();
}

}  // namespace paceline
