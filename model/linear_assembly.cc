// Cutting matrices into parts, and putting them together.
#include "model/linear_assembly.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace paceline {
namespace {

using kernels::PlainLinear;
using kernels::WeightFormat;

constexpr int64_t kPartBytes = int64_t{4} << 20;  // as stored
constexpr int64_t kBorder = 128;                  // of parts, in either direction

int64_t Multiple(int64_t wanted, int64_t unit) { return std::max(unit, wanted / unit * unit); }

struct Part {
  Span64 outputs, inputs;
};

// Ranges of rows, or of inputs where those lie outermost in the file.
std::vector<Part> CutLinear(const Checkpoint::LinearFacts& facts, Span64 outputs) {
  const int64_t rows = outputs.end - outputs.begin;
  std::vector<Part> parts;
  if (facts.rows_by_input) {
    const bool dequantised = !kernels::IsInteger(facts.format);
    const int64_t unit = dequantised ? kBorder : std::lcm(kBorder, facts.group);
    const int64_t wanted = 2 * kPartBytes / (dequantised ? 8 : 1) / std::max<int64_t>(1, rows);
    const int64_t step = Multiple(wanted, unit);
    for (int64_t k = 0; k < facts.inputs; k += step)
      parts.push_back({outputs, {k, std::min(facts.inputs, k + step)}});
    return parts;
  }
  const int64_t row_bytes = facts.inputs * kernels::ElementBytes(facts.format);
  const int64_t step = Multiple(kPartBytes / std::max<int64_t>(1, row_bytes), kBorder);
  for (int64_t n = outputs.begin; n < outputs.end; n += step)
    parts.push_back({{n, std::min(outputs.end, n + step)}, {0, facts.inputs}});
  return parts;
}

}  // namespace

absl::StatusOr<std::shared_ptr<LinearAssembly>> LinearAssembly::Start(const kernels::KernelTable& table,
                                                                      PlainLinear form, int64_t parts,
                                                                      LinearPtr* to) {
  CHECK_GT(parts, 0);
  std::shared_ptr<LinearAssembly> assembly(new LinearAssembly);
  ASSIGN_OR_RETURN(assembly->packer_, table.start_linear(form));
  if (kernels::IsInteger(form.format)) {
    assembly->scales_.resize(static_cast<size_t>(form.outputs * form.groups()));
    if (form.format == WeightFormat::kInt4) assembly->zeros_.assign(assembly->scales_.size(), 8);
  } else if (form.format == WeightFormat::kFp8Block128) {
    assembly->scales_.resize(static_cast<size_t>(form.row_blocks() * form.column_blocks()));
  }
  assembly->form_ = std::move(form);
  assembly->left_ = parts;
  assembly->to_ = to;
  return assembly;
}

void LinearAssembly::PlaceScales(const PlainLinear& part) {
  if (kernels::IsInteger(form_.format)) {
    CHECK_EQ(part.group, form_.group);
    const int64_t n0 = part.first_output - form_.first_output;
    const int64_t g0 = part.first_input / form_.group - form_.first_input / form_.group;
    for (int64_t n = 0; n < part.outputs; ++n) {
      const int64_t from = n * part.groups(), to = (n0 + n) * form_.groups() + g0;
      std::copy_n(&part.scales[from], part.groups(), &scales_[to]);
      if (!part.zeros.empty()) std::copy_n(&part.zeros[from], part.groups(), &zeros_[to]);
    }
    any_zeros_ = any_zeros_ || !part.zeros.empty();
  } else if (form_.format == WeightFormat::kFp8Block128) {
    const int64_t r0 = part.first_output / 128 - form_.first_output / 128;
    const int64_t c0 = part.first_input / 128 - form_.first_input / 128;
    for (int64_t r = 0; r < part.row_blocks(); ++r) {
      std::copy_n(&part.scales[r * part.column_blocks()], part.column_blocks(),
                  &scales_[(r0 + r) * form_.column_blocks() + c0]);
    }
  }
}

void LinearAssembly::Add(const PlainLinear& part) {
  packer_->Add(part);
  const std::lock_guard lock(mutex_);
  PlaceScales(part);
  CHECK_GT(left_, 0);
  if (--left_ > 0) return;
  if (!any_zeros_) zeros_.clear();
  *to_ = packer_->Finish(std::move(scales_), std::move(zeros_));
}

absl::Status AddLinear(Loader& loader, const std::string& name, Span64 outputs,
                       const kernels::KernelTable& table, const LinearRule& rule, LinearPtr* to) {
  const Checkpoint& checkpoint = loader.checkpoint();
  ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeLinear(name));
  if (outputs.end < 0) outputs.end = facts.outputs;
  PlainLinear form;
  const LinearForm made = rule.form ? rule.form(facts) : LinearForm{facts.format, facts.group};
  form.format = made.format;
  form.group = made.group;
  form.portable = rule.portable;
  form.outputs = outputs.end - outputs.begin;
  form.inputs = facts.inputs;
  form.first_output = outputs.begin;
  const std::vector<Part> parts = CutLinear(facts, outputs);
  ASSIGN_OR_RETURN(std::shared_ptr<LinearAssembly> assembly,
                   LinearAssembly::Start(table, std::move(form), static_cast<int64_t>(parts.size()), to));
  for (const Part& part : parts) {
    loader.Add(
        [&checkpoint, name, part](std::vector<FileRange>& ranges) {
          checkpoint.ListLinear(name, part.outputs, part.inputs, ranges);
        },
        [&checkpoint, name, part, make = rule.make, assembly](const ReadAhead& ahead) -> absl::Status {
          ASSIGN_OR_RETURN(PlainLinear plain, checkpoint.ReadLinear(name, part.outputs, part.inputs, ahead));
          if (make) make(plain);
          assembly->Add(plain);
          return absl::OkStatus();
        });
  }
  return absl::OkStatus();
}

}  // namespace paceline
