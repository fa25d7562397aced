// What can be kept in codes.
#include "kernels/kv_codes.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"

namespace paceline::kernels {

absl::Status CheckKvDtype(const KernelTable& table, KvDtype dtype, int64_t head_dim) {
  if (!KvInCodes(dtype)) return absl::OkStatus();
  const char* word = dtype == KvDtype::kInt8 ? "int8" : "int4";
  if (!table.kv_codes) {
    return Error(errors::kDevice,
                 absl::StrCat("--kv-dtype ", word, " needs kernels that backend ", std::string(table.name),
                              " has not; use --kv-dtype bf16, or --backend cpu"));
  }
  if (head_dim % kKvSmallestRotation != 0 || head_dim > kKvLargestHead) {
    return Error(errors::kModelUnsupported,
                 absl::StrCat("--kv-dtype ", word, " needs a head_dim that is a multiple of ",
                              kKvSmallestRotation, " (what one rotation takes) and at most ", kKvLargestHead,
                              ", and this model's is ", head_dim, "; use --kv-dtype bf16"));
  }
  return absl::OkStatus();
}

}  // namespace paceline::kernels
