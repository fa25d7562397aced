// The LM head, whole or cut.
#include "model/head.h"

#include "base/check.h"
#include "base/status.h"

namespace paceline {

absl::StatusOr<HeadFormat> ResolveHeadFormat(const Checkpoint& checkpoint, HeadFormat asked) {
  if (asked == HeadFormat::kStored) return asked;
  ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeLinear("lm_head"));
  const bool sixteen_bits =
      facts.format == kernels::WeightFormat::kBF16 || facts.format == kernels::WeightFormat::kF16;
  // A head of 8 bits or fewer stays: making it INT8 would cost accuracy and save nothing.
  if (asked == HeadFormat::kInt8) {
    const bool wide = sixteen_bits || facts.format == kernels::WeightFormat::kF32;
    return wide ? HeadFormat::kInt8 : HeadFormat::kStored;
  }
  return sixteen_bits && facts.outputs > kLargeHeadRows ? HeadFormat::kInt8 : HeadFormat::kStored;
}

absl::StatusOr<std::unique_ptr<LmHead>> LmHead::Add(Loader& loader, HeadFormat format, RowRange range,
                                                    const kernels::KernelTable& table) {
  CHECK(format != HeadFormat::kAuto);
  auto head = std::make_unique<LmHead>();
  head->vocab_ = loader.checkpoint().config().vocab;
  head->hidden_ = loader.checkpoint().config().hidden;
  const Span64 rows = range.count == 0 ? Span64{} : Span64{range.first, range.first + range.count};
  LinearRule rule;
  if (format == HeadFormat::kInt8) {
    rule.make = [](kernels::PlainLinear& part) { part = QuantiseRowsInt8(part); };
    rule.form = [](const Checkpoint::LinearFacts& facts) {
      return LinearForm{kernels::WeightFormat::kInt8, facts.inputs};
    };
  }
  RETURN_IF_ERROR(AddLinear(loader, "lm_head", rows, table, rule, &head->head_));
  return head;
}

absl::StatusOr<std::unique_ptr<LmHead>> LmHead::Load(const Checkpoint& checkpoint, HeadFormat format,
                                                     RowRange range, const kernels::KernelTable& table) {
  Loader loader(checkpoint);
  ASSIGN_OR_RETURN(std::unique_ptr<LmHead> head, Add(loader, format, range, table));
  ThreadPool caller(1);
  RETURN_IF_ERROR(loader.Run(caller, {}));
  return head;
}

void LmHead::ForwardHeld(const StepContext& context, const float* x, int32_t rows, float* y,
                         int64_t stride) const {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::Activations in = Activate(context, x, rows, hidden_, {head_.get()});
  context.table.linear(context.pool, *head_, in, y, stride);
}

absl::Status LmHead::Forward(const StepContext& context, const float* x, int32_t rows,
                             const Placement& placement, Exchange* exchange, StepId step,
                             float* logits) const {
  const std::vector<RowRange>& ranges = placement.head_rows();
  if (exchange == nullptr || ranges.empty()) {
    CHECK_EQ(held(), vocab_);
    ForwardHeld(context, x, rows, logits, vocab_);
    return absl::OkStatus();
  }
  std::vector<Exchange::MatmulPart> parts;
  for (size_t rank = 1; rank < ranges.size(); ++rank) {
    if (ranges[rank].count > 0)
      parts.push_back({RankId(static_cast<int32_t>(rank)), ranges[rank].first, ranges[rank].count});
  }
  for (int32_t first = 0; first < rows; first += kBlockRows) {
    const int32_t n = std::min(kBlockRows, rows - first);
    const float* block = x + first * hidden_;
    float* out = logits + first * vocab_;
    RETURN_IF_ERROR(exchange->SendMatmul(step, 0, block, n, static_cast<int32_t>(hidden_), parts));
    if (ranges[0].count > 0) ForwardHeld(context, block, n, out + ranges[0].first, vocab_);
    RETURN_IF_ERROR(exchange->ReceiveMatmul(step, 0, out, vocab_));
  }
  return absl::OkStatus();
}

}  // namespace paceline
