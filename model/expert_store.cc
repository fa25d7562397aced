// Loading and running the experts of one rank.
#include "model/expert_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace paceline {

std::unique_ptr<ExpertStore> ExpertStore::Add(Loader& loader, const Placement& placement, RankId rank,
                                              const kernels::KernelTable& table) {
  auto store = std::make_unique<ExpertStore>();
  store->table_ = &table;
  store->layers_.resize(placement.layers().size());
  const int64_t columns = loader.checkpoint().config().expert_columns;
  for (size_t layer = 0; layer < placement.layers().size(); ++layer) {
    const std::string mlp = absl::StrCat("layers.", layer, ".mlp");
    for (int32_t e = 0; e < placement.layers()[layer].experts; ++e) {
      for (const Segment& s : placement.HeldBy(rank, LayerId(static_cast<int32_t>(layer)), ExpertId(e))) {
        const int64_t begin = int64_t{s.first_group} * kGroupColumns;
        const int64_t end = std::min(begin + int64_t{s.groups} * kGroupColumns, columns);
        store->AddSlice(loader, {mlp, layer, e, {begin, end}}, {});
      }
    }
  }
  loader.Then([to = store.get()] { to->Sort(); });
  return store;
}

std::unique_ptr<ExpertStore> ExpertStore::AddWhole(Loader& loader, const std::string& mlp,
                                                   const kernels::KernelTable& table,
                                                   const ExpertRule& rule) {
  auto store = std::make_unique<ExpertStore>();
  store->table_ = &table;
  store->layers_.resize(1);
  const ModelConfig& config = loader.checkpoint().config();
  for (int32_t e = 0; e < config.experts; ++e)
    store->AddSlice(loader, {mlp, 0, e, {0, config.expert_columns}}, rule);
  loader.Then([to = store.get()] { to->Sort(); });
  return store;
}

absl::StatusOr<std::unique_ptr<ExpertStore>> ExpertStore::Load(const Checkpoint& checkpoint,
                                                               const Placement& placement, RankId rank,
                                                               const kernels::KernelTable& table,
                                                               ThreadPool& pool,
                                                               const LoadCallback& progress) {
  Loader loader(checkpoint);
  std::unique_ptr<ExpertStore> store = Add(loader, placement, rank, table);
  RETURN_IF_ERROR(loader.Run(pool, progress));
  return store;
}

void ExpertStore::AddSlice(Loader& loader, Slice slice, const ExpertRule& rule) {
  const Checkpoint& checkpoint = loader.checkpoint();
  loader.Add(
      [&checkpoint, slice](std::vector<FileRange>& ranges) {
        checkpoint.ListExpert(slice.mlp, slice.expert, slice.columns, ranges);
      },
      [this, &checkpoint, slice, rule](const ReadAhead& ahead) -> absl::Status {
        ASSIGN_OR_RETURN(kernels::PlainExpert plain,
                         checkpoint.ReadExpert(slice.mlp, slice.expert, slice.columns, ahead));
        if (rule) rule(plain);
        ASSIGN_OR_RETURN(std::unique_ptr<kernels::Expert> packed, table_->pack_expert(std::move(plain)));
        const std::lock_guard lock(loading_);
        leaves_ += packed->groups;
        bytes_ += packed->bytes;
        layers_[slice.layer][slice.expert].push_back(std::move(packed));
        return absl::OkStatus();
      });
}

void ExpertStore::Sort() {
  for (auto& layer : layers_) {
    experts_ += static_cast<int64_t>(layer.size());
    for (auto& [expert, slices] : layer) {
      std::sort(slices.begin(), slices.end(),
                [](const auto& a, const auto& b) { return a->first_group < b->first_group; });
    }
  }
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
