// Where a linear layer's numbers lie in the files, and how to read any block of it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/weights.h"
#include "model/checkpoint.h"
#include "model/read_ahead.h"
#include "model/tensor_store.h"

namespace paceline {

// Shapes and dtypes were checked by the census; a source that passed it can be read without further questions
// of form.
struct LinearSource {
  kernels::WeightFormat format = kernels::WeightFormat::kF32;  // of what is read: act-order INT4 is kF32
  int64_t outputs = 0;
  int64_t inputs = 0;
  int64_t first_row = 0;    // of `weight`: an expert's rows in a fused tensor
  int64_t group = 0;        // INT4: inputs per scale
  bool true_zeros = false;  // INT4: qzeros hold the zero itself
  bool act_order = false;   // INT4 with a g_idx that is not k / group
  StoredTensor
      weight;  // [outputs, inputs] floats or E4M3 codes (more rows when fused); qweight [inputs / 8, outputs]
  StoredTensor scales;  // INT4 [groups, outputs]; FP8 [row blocks, column blocks]
  StoredTensor zeros;   // INT4 qzeros [groups, outputs / 8]
  StoredTensor g_idx;   // [inputs], kept for act-order only

  bool present() const { return weight.present(); }
  int64_t stored_bytes() const;
};

// LOAD-003 (short read), LOAD-005 (non-finite scale, NaN code, zeros of the other convention). Elements that
// `ahead` holds as they are stored stay there: the result borrows them.
absl::StatusOr<kernels::PlainLinear> ReadLinearSource(const LinearSource& source, Span64 outputs,
                                                      Span64 inputs,
                                                      const ReadAhead& ahead = ReadAhead::None());
// The bytes that it reads, appended to `ranges`.
void ListLinearSource(const LinearSource& source, Span64 outputs, Span64 inputs,
                      std::vector<FileRange>& ranges);

// Any F32, F16 or BF16 tensor as fp32, flattened. LOAD-003.
absl::StatusOr<std::vector<float>> ReadFloats(const StoredTensor& tensor,
                                              const ReadAhead& ahead = ReadAhead::None());

}  // namespace paceline
