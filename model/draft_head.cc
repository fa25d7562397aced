// Gathering the rows of a draft head.
#include "model/draft_head.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/int4_weights.h"
#include "model/widen_row.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;

constexpr int64_t kKeptRows = 256;  // of one job; a multiple of the packer's 128-row borders
constexpr int64_t kGapRows = 8;     // rows nobody wants between two that are read together

bool IsFloat16Or32(WeightFormat format) {
  return format == WeightFormat::kF32 || format == WeightFormat::kF16 || format == WeightFormat::kBF16;
}

// FP8 rows share their scales by 128 and cannot be gathered: as fp32 they can.
void Unblock(PlainLinear& w) {
  if (w.format != WeightFormat::kFp8Block128) return;
  PlainLinear out;
  out.format = WeightFormat::kF32;
  out.outputs = w.outputs;
  out.inputs = w.inputs;
  out.first_output = w.first_output;
  out.data.resize(static_cast<size_t>(w.outputs * w.inputs * 4));
  std::vector<float> row(static_cast<size_t>(w.inputs));
  for (int64_t n = 0; n < w.outputs; ++n) {
    WidenRow(w, n, row.data());
    std::memcpy(out.data.data() + n * w.inputs * 4, row.data(), static_cast<size_t>(w.inputs) * 4);
  }
  w = std::move(out);
}

// Rows `rows` (relative, ascending) of `w`, in place.
void KeepRows(PlainLinear& w, std::span<const int64_t> rows) {
  const int64_t row_bytes = w.inputs * kernels::ElementBytes(w.format);
  const int64_t groups = w.groups();
  int64_t to = 0;
  for (const int64_t row : rows) {
    if (row != to) {
      std::memcpy(w.data.data() + to * row_bytes, w.data.data() + row * row_bytes,
                  static_cast<size_t>(row_bytes));
      if (!w.scales.empty()) std::copy_n(&w.scales[row * groups], groups, &w.scales[to * groups]);
      if (!w.zeros.empty()) std::copy_n(&w.zeros[row * groups], groups, &w.zeros[to * groups]);
    }
    ++to;
  }
  w.outputs = to;
  w.data.resize(static_cast<size_t>(to * row_bytes));
  if (!w.scales.empty()) w.scales.resize(static_cast<size_t>(to * groups));
  if (!w.zeros.empty()) w.zeros.resize(static_cast<size_t>(to * groups));
}

// Of rows that are not FP8's.
void Convert(PlainLinear& w, DraftHeadFormat format) {
  if (format == DraftHeadFormat::kInt8 && IsFloat16Or32(w.format)) w = QuantiseRowsInt8(w);
  if (format == DraftHeadFormat::kInt4) MakeInt4(w);
}

// What Unblock and Convert make of the stored head.
LinearForm FormOf(const Checkpoint::LinearFacts& facts, DraftHeadFormat format) {
  if (facts.format == WeightFormat::kInt4) return {facts.format, facts.group};
  if (format == DraftHeadFormat::kInt4) return Int4Rule().form(facts);
  if (format == DraftHeadFormat::kInt8) return {WeightFormat::kInt8, facts.inputs};
  return {facts.format == WeightFormat::kFp8Block128 ? WeightFormat::kF32 : facts.format, 0};
}

// Takes `part` apart: 0 rows are left in it.
void Append(PlainLinear& to, PlainLinear& part) {
  if (to.outputs == 0) {
    to = std::move(part);
    to.first_output = 0;
  } else {
    // A piece without zeros has 8 everywhere.
    if (to.zeros.empty() != part.zeros.empty()) {
      PlainLinear& lacks = to.zeros.empty() ? to : part;
      lacks.zeros.assign(lacks.scales.size(), 8);
    }
    to.outputs += part.outputs;
    to.data.insert(to.data.end(), part.data.begin(), part.data.end());
    to.scales.insert(to.scales.end(), part.scales.begin(), part.scales.end());
    to.zeros.insert(to.zeros.end(), part.zeros.begin(), part.zeros.end());
  }
  part = PlainLinear();
}

// Ids [begin, end) of which at most kGapRows in a row are not wanted.
std::vector<Span64> RunsOf(std::span<const TokenId> ids) {
  std::vector<Span64> runs;
  for (const TokenId id : ids) {
    if (runs.empty() || id - runs.back().end > kGapRows) runs.push_back({id, id});
    runs.back().end = id + 1;
  }
  return runs;
}

// The rows `ids` of the head, in the format wanted.
absl::StatusOr<PlainLinear> ReadRows(const Checkpoint& checkpoint, std::span<const TokenId> ids,
                                     DraftHeadFormat format, const ReadAhead& ahead) {
  PlainLinear rows;
  for (const Span64& run : RunsOf(ids)) {
    ASSIGN_OR_RETURN(PlainLinear part, checkpoint.ReadLinear("lm_head", run, {}, ahead));
    OwnElements(part);
    Unblock(part);
    std::vector<int64_t> kept;
    for (auto id = std::lower_bound(ids.begin(), ids.end(), run.begin); id != ids.end() && *id < run.end;
         ++id)
      kept.push_back(*id - run.begin);
    KeepRows(part, kept);
    Append(rows, part);
  }
  Convert(rows, format);
  return rows;
}

// Jobs for the rows `ids` [rows] of the head, packed one behind the other. `ids` outlives the load.
absl::Status AddRows(Loader& loader, std::span<const TokenId> ids, DraftHeadFormat format,
                     const kernels::KernelTable& table, LinearPtr* to) {
  const Checkpoint& checkpoint = loader.checkpoint();
  ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeLinear("lm_head"));
  const LinearForm made = FormOf(facts, format);
  PlainLinear form;
  form.format = made.format;
  form.group = made.group;
  form.outputs = static_cast<int64_t>(ids.size());
  form.inputs = facts.inputs;
  const int64_t parts = (form.outputs + kKeptRows - 1) / kKeptRows;
  ASSIGN_OR_RETURN(std::shared_ptr<LinearAssembly> assembly,
                   LinearAssembly::Start(table, std::move(form), parts, to));
  for (int64_t first = 0; first < static_cast<int64_t>(ids.size()); first += kKeptRows) {
    const std::span<const TokenId> own = ids.subspan(
        static_cast<size_t>(first), std::min<size_t>(kKeptRows, ids.size() - static_cast<size_t>(first)));
    loader.Add(
        [&checkpoint, own](std::vector<FileRange>& ranges) {
          for (const Span64& run : RunsOf(own)) checkpoint.ListLinear("lm_head", run, {}, ranges);
        },
        [&checkpoint, own, format, first, assembly](const ReadAhead& ahead) -> absl::Status {
          ASSIGN_OR_RETURN(PlainLinear rows, ReadRows(checkpoint, own, format, ahead));
          rows.first_output = first;
          assembly->Add(rows);
          return absl::OkStatus();
        });
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Add(Loader& loader, DraftHeadFormat format,
                                                          std::span<const TokenId> vocabulary,
                                                          const std::vector<bool>& has_token,
                                                          const kernels::KernelTable& table) {
  const int64_t vocab = loader.checkpoint().config().vocab;
  auto head = std::make_unique<DraftHead>();
  head->hidden_ = loader.checkpoint().config().hidden;
  const auto keep = [&](TokenId id) {
    if (has_token.empty() || (static_cast<size_t>(id) < has_token.size() && has_token[id]))
      head->ids_.push_back(id);
  };
  if (vocabulary.empty()) {
    for (int64_t id = 0; id < vocab; ++id) keep(static_cast<TokenId>(id));
  }
  for (size_t i = 0; i < vocabulary.size(); ++i) {
    CHECK(vocabulary[i] >= 0 && vocabulary[i] < vocab);
    CHECK(i == 0 || vocabulary[i] > vocabulary[i - 1]);
    keep(vocabulary[i]);
  }
  if (head->ids_.empty()) {
    return Error(
        errors::kOption,
        "no id of the draft vocabulary (--draft-vocab) is a token of this model's tokenizer; name at "
        "least one that is");
  }
  if (static_cast<int64_t>(head->ids_.size()) == vocab) head->ids_.clear();
  if (!head->ids_.empty()) {
    RETURN_IF_ERROR(AddRows(loader, head->ids_, format, table, &head->head_));
    return head;
  }
  LinearRule rule;
  if (format != DraftHeadFormat::kStored) {
    rule.make = [format](PlainLinear& part) {
      Unblock(part);
      Convert(part, format);
    };
    rule.form = [format](const Checkpoint::LinearFacts& facts) { return FormOf(facts, format); };
  }
  RETURN_IF_ERROR(AddLinear(loader, "lm_head", {}, table, rule, &head->head_));
  return head;
}

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Load(
    const Checkpoint& checkpoint, DraftHeadFormat format, std::span<const TokenId> vocabulary,
    const std::vector<bool>& has_token, const kernels::KernelTable& table, ThreadPool& pool) {
  Loader loader(checkpoint);
  ASSIGN_OR_RETURN(std::unique_ptr<DraftHead> head, Add(loader, format, vocabulary, has_token, table));
  RETURN_IF_ERROR(loader.Run(pool, {}));
  return head;
}

void DraftHead::Forward(const StepContext& context, const float* x, int32_t rows, float* logits) const {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::Activations in = Activate(context, x, rows, hidden_, {head_.get()});
  context.table.linear(context.pool, *head_, in, logits, size());
}

}  // namespace paceline
