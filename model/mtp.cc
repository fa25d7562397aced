// The MTP layer and its draft chains.
#include "model/mtp.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "model/int4_weights.h"
#include "model/mixers.h"

namespace paceline {

absl::StatusOr<std::unique_ptr<MtpLayer>> MtpLayer::Load(const Checkpoint& checkpoint,
                                                         const kernels::KernelTable& table, ThreadPool& pool,
                                                         MtpFormat format) {
  Loader loader(checkpoint);
  ASSIGN_OR_RETURN(std::unique_ptr<MtpLayer> mtp, Add(loader, table, format));
  RETURN_IF_ERROR(loader.Run(pool, {}));
  return mtp;
}

absl::StatusOr<std::unique_ptr<MtpLayer>> MtpLayer::Add(Loader& loader, const kernels::KernelTable& table,
                                                        MtpFormat format) {
  const Checkpoint& checkpoint = loader.checkpoint();
  if (!checkpoint.missing_mtp().empty()) {
    return Error(
        errors::kModelTensor,
        absl::StrCat("cannot draft: the MTP layer lacks `", checkpoint.missing_mtp(), "`; ",
                     checkpoint.directory(),
                     " holds other mtp.* tensors. Fetch the file that has it, or run without drafts"));
  }
  if (checkpoint.config().mtp_layers == 0) {
    return Error(errors::kModelTensor,
                 absl::StrCat("cannot draft: ", checkpoint.directory(), " holds no mtp.* tensors"));
  }
  auto mtp = std::make_unique<MtpLayer>();
  const ModelConfig& config = mtp->config_ = checkpoint.config();
  LinearRule rule;
  ExpertRule expert_rule;
  if (format == MtpFormat::kInt4) {
    rule = Int4Rule();
    expert_rule = [](kernels::PlainExpert& expert) {
      MakeInt4(expert.gate);
      MakeInt4(expert.up);
      MakeInt4(expert.down);
    };
  }
  RETURN_IF_ERROR(AddLinear(loader, "mtp.fc", {}, table, rule, &mtp->fc_));
  AddVectors(loader, {{"mtp.pre_fc_norm_embedding.weight", &mtp->norm_embedding_},
                      {"mtp.pre_fc_norm_hidden.weight", &mtp->norm_hidden_},
                      {"mtp.norm.weight", &mtp->norm_}});
  RETURN_IF_ERROR(AddLayer(loader, "mtp.layers.0", {Mixer::kGatedAttention, FeedForward::kMoe}, table, rule,
                           &mtp->layer_));
  if (format == MtpFormat::kInt4) mtp->layer_.moe->row_format = RowFormat::kInt16Group128;
  mtp->experts_ = ExpertStore::AddWhole(loader, "mtp.layers.0.mlp", table, expert_rule);
  mtp->placement_ = Placement(Epoch(0), 1, {LayerShape{config.experts, GroupsOf(config.expert_columns), 0}});
  return mtp;
}

int64_t MtpLayer::bytes_per_row() const {
  return fc_->bytes + layer_.mixer_bytes + layer_.feed_forward_bytes +
         experts_->bytes() * config_.top_k / std::max(1, config_.experts);
}

void MtpLayer::PickRows(const Batch& batch, std::span<const int32_t> wanted) {
  const int32_t half = batch.rotary_half;
  picked_.rows = static_cast<int32_t>(wanted.size());
  picked_.rotary_half = half;
  picked_.runs.clear();
  picked_.cos.resize(wanted.size() * static_cast<size_t>(half));
  picked_.sin.resize(wanted.size() * static_cast<size_t>(half));
  size_t run = 0;
  for (int32_t i = 0; i < picked_.rows; ++i) {
    const int32_t row = wanted[i];
    while (row >= batch.runs[run].first_row + batch.runs[run].rows) ++run;
    const kernels::RowRun& of = batch.runs[run];
    picked_.runs.push_back({i, 1, of.first_position + row - of.first_row, of.pages});
    std::copy_n(&batch.cos[static_cast<size_t>(row) * half], half,
                &picked_.cos[static_cast<size_t>(i) * half]);
    std::copy_n(&batch.sin[static_cast<size_t>(row) * half], half,
                &picked_.sin[static_cast<size_t>(i) * half]);
  }
}

absl::Status MtpLayer::Forward(const StepContext& context, const Embedding& embedding, const float* hidden,
                               std::span<const TokenId> next_tokens, const KvLayer& kv,
                               std::span<const int32_t> wanted, const Outputs& out) {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::KernelTable& table = context.table;
  const int32_t rows = context.batch.rows;
  const int64_t width = config_.hidden;
  const float plus = config_.norm_plus_one ? 1.0f : 0.0f;
  float* e = context.workspace.Take<float>(rows * width);         // [rows, hidden]
  float* g = context.workspace.Take<float>(rows * width);         // [rows, hidden]
  float* both = context.workspace.Take<float>(rows * 2 * width);  // [rows, 2 * hidden]
  embedding.Lookup(next_tokens, e);
  table.rms_norm(context.pool, e, rows, width, norm_embedding_.data(), plus, config_.norm_eps, e);
  table.rms_norm(context.pool, hidden, rows, width, norm_hidden_.data(), plus, config_.norm_eps, g);
  for (int32_t r = 0; r < rows; ++r) {
    std::copy_n(e + r * width, width, both + r * 2 * width);
    std::copy_n(g + r * width, width, both + r * 2 * width + width);
  }
  float* all = e;  // [rows, hidden]
  const kernels::Activations in = Activate(context, both, rows, 2 * width, {fc_.get()});
  table.linear(context.pool, *fc_, in, all, width);
  float* x = g;  // [rows, hidden]
  table.rms_norm(context.pool, all, rows, width, layer_.input_norm.data(), plus, config_.norm_eps, x);
  StoreKeysValues(context, *layer_.attention, config_, kv, x);
  if (wanted.empty()) return absl::OkStatus();

  PickRows(context.batch, wanted);
  const StepContext picked{table, context.pool, context.workspace, context.contract, picked_, context.meter};
  const int32_t count = picked_.rows;
  float* h = context.workspace.Take<float>(count * width);  // [wanted, hidden]
  for (int32_t i = 0; i < count; ++i) {
    std::copy_n(all + wanted[i] * width, width, h + i * width);
    std::copy_n(x + wanted[i] * width, width, x + i * width);  // ascending: no row is overwritten before
  }
  float* mixed = both;  // [wanted, hidden]
  AttendStored(picked, *layer_.attention, config_, kv, x, mixed);
  table.add(context.pool, h, mixed, count * width);
  table.rms_norm(context.pool, h, count, width, layer_.post_norm.data(), plus, config_.norm_eps, x);
  const ExpertHome home{*experts_, placement_, LayerId(0), nullptr, StepId(0), false};
  RETURN_IF_ERROR(RunMoe(picked, *layer_.moe, config_, home, x, h, out.row_errors, parts_));
  table.rms_norm(context.pool, h, count, width, norm_.data(), plus, config_.norm_eps, out.normed);
  if (out.residual != nullptr) std::copy_n(h, count * width, out.residual);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<TokenId>>> MtpLayer::DraftChains(
    const kernels::KernelTable& table, ThreadPool& pool, kernels::Workspace& workspace,
    kernels::ActivationContract contract, const Embedding& embedding, const LmHead& head,
    kernels::KvDtype kv_dtype, const float* hidden, std::span<const TokenId> tokens, int32_t depth) {
  const int32_t n = static_cast<int32_t>(tokens.size()) - 1;
  if (n <= 0 || depth <= 0) return std::vector<std::vector<TokenId>>(std::max(n, 0));
  const int64_t width = config_.hidden;
  const int32_t pages = static_cast<int32_t>((n + depth) / kernels::kAttentionBlock + 1);
  std::vector<int32_t> page_table(pages);
  std::iota(page_table.begin(), page_table.end(), 0);
  const KvLayer kv(AttentionShapeOf(config_), kv_dtype, pages);
  std::vector<float> states(static_cast<size_t>(n) * width);  // [n, hidden], x' of step 1 at every position
  std::vector<std::vector<TokenId>> chains(n);
  std::vector<float> logits(static_cast<size_t>(config_.vocab));  // [vocab]
  std::vector<uint8_t> row_errors(kBlockRows);
  std::vector<int32_t> every(kBlockRows);
  std::iota(every.begin(), every.end(), 0);

  // Runs `rows` rows from `position` on; appends the greedy draft of row r to chain `first_chain + r`.
  const auto run = [&](int64_t position, int32_t rows, const float* from, std::span<const TokenId> next,
                       float* out, int32_t first_chain) -> absl::Status {
    const kernels::Workspace::Scope scope(workspace);
    Batch batch;
    batch.rows = rows;
    batch.runs = {{0, rows, position, page_table.data()}};
    FillRotary(config_.rope_theta, config_.rotary_dims, batch);
    const StepContext context{table, pool, workspace, contract, batch};
    std::fill(row_errors.begin(), row_errors.end(), uint8_t{0});
    RETURN_IF_ERROR(Forward(context, embedding, from, next, kv, {every.data(), static_cast<size_t>(rows)},
                            {.normed = out, .row_errors = row_errors.data()}));
    for (int32_t r = 0; r < rows; ++r) {
      head.ForwardHeld(context, out + r * width, 1, logits.data(), config_.vocab);
      const int64_t best = table.arg_max(pool, logits.data(), config_.vocab);
      if (best < 0 || row_errors[r] != 0) {
        return Error(errors::kNonFinite, "the MTP layer's logits are not numbers; its weights are damaged");
      }
      chains[first_chain + r].push_back(static_cast<TokenId>(best));
    }
    return absl::OkStatus();
  };

  for (int32_t first = 0; first < n; first += kBlockRows) {
    const int32_t rows = std::min(kBlockRows, n - first);
    RETURN_IF_ERROR(run(first, rows, hidden + first * width, tokens.subspan(first + 1, rows),
                        states.data() + first * width, first));
  }
  // Chains write their own slots i+1, i+2, ..: from the last position to the first, no later chain reads what
  // one wrote.
  std::vector<float> own(width), next(width);  // [hidden]
  for (int32_t i = n - 1; i >= 0; --i) {
    std::copy_n(states.data() + i * width, width, own.data());
    for (int32_t s = 1; s < depth; ++s) {
      const TokenId guessed = chains[i].back();
      RETURN_IF_ERROR(run(i + s, 1, own.data(), {&guessed, 1}, next.data(), i));
      own.swap(next);
    }
  }
  return chains;
}

}  // namespace paceline
