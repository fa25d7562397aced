// Experts and matmul_rows on a worker.
#include "worker/expert_server.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace paceline {

absl::StatusOr<std::unique_ptr<ExpertServer>> ExpertServer::Load(const Checkpoint& checkpoint,
                                                                 const Placement& placement, RankId rank,
                                                                 const ExpertServerOptions& options) {
  auto server = std::unique_ptr<ExpertServer>(new ExpertServer(options));
  const ModelConfig& config = checkpoint.config();
  server->hidden_ = config.hidden;
  for (size_t i = 0; i < config.layers.size(); ++i) {
    RowFormat format = RowFormat::kFloat32;
    if (config.layers[i].feed_forward == FeedForward::kMoe) {
      ASSIGN_OR_RETURN(format, RowFormatOf(checkpoint, absl::StrCat("layers.", i, ".mlp")));
    }
    server->row_formats_.push_back(WireFormat(format, options.contract));
  }
  Loader loader(checkpoint, options.load);
  server->store_ = ExpertStore::Add(loader, placement, rank, *options.table);
  if (!placement.head_rows().empty() && placement.head_rows()[rank.value()].count > 0) {
    ASSIGN_OR_RETURN(const HeadFormat format, ResolveHeadFormat(checkpoint, options.lm_head));
    ASSIGN_OR_RETURN(server->head_,
                     LmHead::Add(loader, format, placement.head_rows()[rank.value()], *options.table));
  }
  RETURN_IF_ERROR(loader.Run(server->pool_, options.progress));
  server->load_report_ = loader.report();
  return server;
}

absl::Status ExpertServer::Experts(LayerId layer, const RowBlock& rows, std::span<const Route> routes,
                                   ExpertSums into) {
  if (layer.value() < 0 || static_cast<size_t>(layer.value()) >= row_formats_.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "layer ", layer.value(), " was asked for; this model has ", row_formats_.size(), " layers"));
  }
  if (rows.hidden != hidden_ || rows.format != row_formats_[layer.value()]) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer ", layer.value(), " takes rows of ", hidden_, " elements in format ",
                     static_cast<int>(row_formats_[layer.value()]), "; rows of ", rows.hidden, " in format ",
                     static_cast<int>(rows.format), " came"));
  }
  pool_.StayOnFirst();
  workspace_.Reset();
  const kernels::Activations x{.rows = rows.rows,
                               .width = rows.hidden,
                               .values = rows.values,
                               .codes = rows.codes,
                               .scales = rows.scales,
                               .contract = options_.contract};
  return store_->Compute(layer, x, routes, options_.contract, pool_, workspace_, into.sums, into.row_errors);
}

absl::Status ExpertServer::MatmulRows(int32_t matrix, const float* x, int32_t rows, int32_t width, float* y) {
  if (matrix != 0 || head_ == nullptr || width != hidden_) {
    return absl::FailedPreconditionError(
        absl::StrCat("matrix ", matrix, " with rows of ", width, " was asked for; ",
                     head_ == nullptr ? "no rows of the LM head (matrix 0) are held here"
                                      : absl::StrCat("the LM head (matrix 0) takes rows of ", hidden_)));
  }
  workspace_.Reset();
  const Batch none;
  const StepContext context{*options_.table, pool_, workspace_, options_.contract, none};
  head_->ForwardHeld(context, x, rows, y, head_->held());
  return absl::OkStatus();
}

int64_t ExpertServer::MatmulOutputs(int32_t matrix) const {
  return matrix == 0 && head_ != nullptr ? head_->held() : 0;
}

}  // namespace paceline
