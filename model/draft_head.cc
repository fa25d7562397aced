// Gathering the rows of a draft head.
#include "model/draft_head.h"

#include <algorithm>
#include <cstring>
#include <mutex>
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

constexpr int64_t kReadRows = 1024;  // read at once; a multiple of FP8's 128-row blocks

bool IsFloat16Or32(WeightFormat format) {
  return format == WeightFormat::kF32 || format == WeightFormat::kF16 || format == WeightFormat::kBF16;
}

int64_t ElementBytes(WeightFormat format) {
  if (format == WeightFormat::kF32) return 4;
  return IsFloat16Or32(format) ? 2 : 1;
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
  const int64_t row_bytes = w.inputs * ElementBytes(w.format);
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

void Convert(PlainLinear& w, DraftHeadFormat format) {
  if (format == DraftHeadFormat::kInt8 && IsFloat16Or32(w.format)) w = QuantiseRowsInt8(w);
  if (format == DraftHeadFormat::kInt4) MakeInt4(w);
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

}  // namespace

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Load(
    const Checkpoint& checkpoint, DraftHeadFormat format, std::span<const TokenId> vocabulary,
    const std::vector<bool>& has_token, const kernels::KernelTable& table, ThreadPool& pool) {
  const int64_t vocab = checkpoint.config().vocab;
  auto head = std::make_unique<DraftHead>();
  head->hidden_ = checkpoint.config().hidden;
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
  const bool whole = static_cast<int64_t>(head->ids_.size()) == vocab;
  if (whole) head->ids_.clear();

  PlainLinear plain;
  if (whole && format == DraftHeadFormat::kStored) {
    ASSIGN_OR_RETURN(plain, checkpoint.ReadLinear("lm_head"));
  } else {
    const int64_t pieces = (vocab + kReadRows - 1) / kReadRows;
    std::vector<PlainLinear> parts(static_cast<size_t>(pieces));
    std::mutex mutex;  // guards the first error
    absl::Status first_error;
    pool.Run(pieces, [&](int64_t piece) {
      const int64_t begin = piece * kReadRows, end = std::min(vocab, begin + kReadRows);
      std::vector<int64_t> rows;
      const auto first = std::lower_bound(head->ids_.begin(), head->ids_.end(), begin);
      for (auto id = first; id != head->ids_.end() && *id < end; ++id) rows.push_back(*id - begin);
      if (rows.empty() && !whole) return;
      absl::StatusOr<PlainLinear> part = checkpoint.ReadLinear("lm_head", {begin, end});
      if (!part.ok()) {
        const std::lock_guard lock(mutex);
        if (first_error.ok()) first_error = part.status();
        return;
      }
      Unblock(*part);
      if (!whole) KeepRows(*part, rows);
      Convert(*part, format);
      parts[static_cast<size_t>(piece)] = *std::move(part);
    });
    RETURN_IF_ERROR(first_error);
    size_t bytes = 0;
    for (const PlainLinear& part : parts) bytes += part.data.size();
    for (PlainLinear& part : parts) {
      if (part.outputs == 0) continue;
      Append(plain, part);
      plain.data.reserve(bytes);
    }
  }
  ASSIGN_OR_RETURN(head->head_, table.pack_linear(std::move(plain)));
  return head;
}

void DraftHead::Forward(const StepContext& context, const float* x, int32_t rows, float* logits) const {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::Activations in = Activate(context, x, rows, hidden_, {head_.get()});
  context.table.linear(context.pool, *head_, in, logits, size());
}

}  // namespace paceline
