// The trunk's layers.
#include "model/decoder.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/plain_decode.h"
#include "model/mixers.h"

namespace paceline {
namespace {

constexpr int64_t kPartBytes = int64_t{4} << 20;  // of the embedding, read at once

}  // namespace

void Embedding::Lookup(std::span<const TokenId> tokens, float* out) const {
  const int64_t width = table_.inputs;
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK_GE(tokens[i], 0);
    CHECK_LT(tokens[i], table_.outputs);
    float* row = out + static_cast<int64_t>(i) * width;
    if (table_.format == kernels::WeightFormat::kBF16) {
      // The usual format, in a loop that a compiler turns into vectors.
      const auto* stored = reinterpret_cast<const uint16_t*>(RowOf(table_, tokens[i]));
      for (int64_t k = 0; k < width; ++k) row[k] = kernels::FromBf16(stored[k]);
      continue;
    }
    for (int64_t k = 0; k < width; ++k) row[k] = kernels::PlainValue(table_, tokens[i], k);
  }
}

absl::Status Embedding::Add(Loader& loader, Embedding* to) {
  const Checkpoint& checkpoint = loader.checkpoint();
  ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeLinear("embed_tokens"));
  kernels::PlainLinear& table = to->table_;
  table.format = facts.format;
  table.outputs = facts.outputs;
  table.inputs = facts.inputs;
  const int64_t row_bytes = facts.inputs * kernels::ElementBytes(facts.format);
  int64_t step = std::max<int64_t>(1, kPartBytes / row_bytes);
  if (facts.rows_by_input || facts.format == kernels::WeightFormat::kFp8Block128) {
    step = facts.outputs;  // rare, and it has scales: whole
  } else {
    to->memory_ = HugeMemory(facts.outputs * row_bytes);
    table.borrowed = to->memory_.data();
    table.stride = row_bytes;
  }
  for (int64_t first = 0; first < facts.outputs; first += step) {
    const Span64 rows{first, std::min(facts.outputs, first + step)};
    loader.Add(
        [&checkpoint, rows](std::vector<FileRange>& ranges) {
          checkpoint.ListLinear("embed_tokens", rows, {}, ranges);
        },
        [&checkpoint, to, rows, row_bytes](const ReadAhead& ahead) -> absl::Status {
          ASSIGN_OR_RETURN(kernels::PlainLinear part, checkpoint.ReadLinear("embed_tokens", rows, {}, ahead));
          if (to->memory_.data() == nullptr) {
            OwnElements(part);
            to->table_ = std::move(part);
            return absl::OkStatus();
          }
          for (int64_t n = 0; n < part.outputs; ++n) {
            std::memcpy(to->memory_.data() + (rows.begin + n) * row_bytes, RowOf(part, n),
                        static_cast<size_t>(row_bytes));
          }
          return absl::OkStatus();
        });
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Add(Loader& loader, const kernels::KernelTable& table) {
  auto decoder = std::make_unique<Decoder>();
  const ModelConfig& config = decoder->config_ = loader.checkpoint().config();
  RETURN_IF_ERROR(Embedding::Add(loader, &decoder->embedding_));
  decoder->layers_.resize(config.layers.size());
  for (size_t i = 0; i < config.layers.size(); ++i) {
    RETURN_IF_ERROR(
        AddLayer(loader, absl::StrCat("layers.", i), config.layers[i], table, {}, &decoder->layers_[i]));
  }
  AddVectors(loader, {{"norm.weight", &decoder->final_norm_}});
  return decoder;
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const Checkpoint& checkpoint,
                                                       const kernels::KernelTable& table,
                                                       const LoadCallback& progress) {
  Loader loader(checkpoint);
  ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder, Add(loader, table));
  ThreadPool caller(1);
  RETURN_IF_ERROR(loader.Run(caller, progress));
  return decoder;
}

absl::StatusOr<const float*> Decoder::Forward(const StepContext& context, std::span<const TokenId> tokens,
                                              Caches& caches, const ExpertStore& local,
                                              const Placement& placement, Exchange* exchange, StepId step,
                                              bool probe, float* hidden_out, uint8_t* row_errors) {
  const kernels::KernelTable& table = context.table;
  const int32_t rows = context.batch.rows;
  const int64_t hidden = config_.hidden;
  const float plus = config_.norm_plus_one ? 1.0f : 0.0f;
  float* h = context.workspace.Take<float>(rows * hidden);      // [rows, hidden], the residual stream
  float* x = context.workspace.Take<float>(rows * hidden);      // [rows, hidden], normed
  float* mixed = context.workspace.Take<float>(rows * hidden);  // [rows, hidden]
  const int64_t norm_bytes = hidden * static_cast<int64_t>(sizeof(float));
  StageLap lap(context.meter);
  embedding_.Lookup(tokens, h);
  lap.Lap(Stage::kNorms, rows * embedding_.row_bytes());

  for (size_t i = 0; i < layers_.size(); ++i) {
    const LayerWeights& layer = layers_[i];
    table.rms_norm(context.pool, h, rows, hidden, layer.input_norm.data(), plus, config_.norm_eps, x);
    lap.Lap(Stage::kNorms, norm_bytes);
    if (layer.attention != nullptr) {
      RunAttention(context, *layer.attention, config_, caches.kv(i), x, mixed);
    } else {
      RunDeltaNet(context, *layer.delta_net, config_, caches.gdn(i), x, mixed);
    }
    lap.Skip();
    table.add(context.pool, h, mixed, rows * hidden);

    table.rms_norm(context.pool, h, rows, hidden, layer.post_norm.data(), plus, config_.norm_eps, x);
    lap.Lap(Stage::kNorms, norm_bytes);
    if (layer.dense != nullptr) {
      RunFeedForward(context, *layer.dense, x, hidden, mixed);
      lap.Lap(Stage::kDense, layer.feed_forward_bytes);
      table.add(context.pool, h, mixed, rows * hidden);
      continue;
    }
    const ExpertHome home{local, placement, LayerId(static_cast<int32_t>(i)), exchange, step, probe};
    RETURN_IF_ERROR(RunMoe(context, *layer.moe, config_, home, x, h, row_errors, parts_));
    lap.Skip();
  }
  table.rms_norm(context.pool, h, rows, hidden, final_norm_.data(), plus, config_.norm_eps, hidden_out);
  lap.Lap(Stage::kNorms, norm_bytes);
  return h;
}

}  // namespace paceline
