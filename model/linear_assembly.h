// A matrix that a load packs part by part, so that no matrix stands in memory in two forms however large it
// is.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "model/loader.h"

namespace paceline {

using LinearPtr = std::unique_ptr<kernels::Linear>;

// Takes parts from any thread; the last one finishes the matrix.
class LinearAssembly {
 public:
  // `form`: the whole as it will be packed, without elements, scales and zeros. *to is filled by the last of
  // `parts` parts. Unimplemented as KernelTable::start_linear says.
  static absl::StatusOr<std::shared_ptr<LinearAssembly>> Start(const kernels::KernelTable& table,
                                                               kernels::PlainLinear form, int64_t parts,
                                                               LinearPtr* to);
  // Elements, scales and zeros of a part; parts of kernels::LinearPacker's borders.
  void Add(const kernels::PlainLinear& part);

 private:
  LinearAssembly() = default;
  void PlaceScales(const kernels::PlainLinear& part);

  kernels::PlainLinear form_;
  std::unique_ptr<kernels::LinearPacker> packer_;
  LinearPtr* to_ = nullptr;
  std::mutex mutex_;  // guards what is below
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;
  bool any_zeros_ = false;  // else every zero is 8
  int64_t left_ = 0;
};

// Format of a matrix as it is packed.
struct LinearForm {
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int64_t group = 0;  // of integer formats
};

// What becomes of a matrix between file and pack. By default nothing.
struct LinearRule {
  // Of a part: whole rows, or whole groups of 128 inputs.
  std::function<void(kernels::PlainLinear&)> make = nullptr;
  // What `make` makes of a stored format, which must be known before any element is there.
  std::function<LinearForm(const Checkpoint::LinearFacts&)> form = nullptr;
  bool portable = false;  // as PlainLinear::portable
};

// Adds the jobs that read outputs [outputs) of linear layer `name` and pack them into *to. Errors are the
// checkpoint's.
absl::Status AddLinear(Loader& loader, const std::string& name, Span64 outputs,
                       const kernels::KernelTable& table, const LinearRule& rule, LinearPtr* to);

}  // namespace paceline
