// Numbers of the contract that code for other processors reads too: nothing here needs a library.
#pragma once

#include <cstdint>

namespace paceline::kernels {

inline constexpr int64_t kActivationGroup =
    128;                                   // inputs per activation scale, and per block of a float chain
inline constexpr int32_t kGdnBlock = 32;   // positions between two stored Gated DeltaNet states
inline constexpr int32_t kGdnWindow = 16;  // convolution inputs a sequence keeps
inline constexpr int32_t kGdnMaxTaps = 8;  // leaves 9 rows of a window that may be taken back
inline constexpr int64_t kAttentionBlock = 256;  // positions per attention block and KV page
inline constexpr int64_t kVocabBlock = 1024;     // vocabulary rows per partial log-sum-exp
inline constexpr float kLeafLimit = 0x1p22f;  // a leaf of this magnitude or more raises the row's error flag
inline constexpr float kSmallestMax = 0x1p-100f;  // a group whose maximum is below gets codes and scale 0

constexpr int64_t ActivationGroups(int64_t width) {
  return (width + kActivationGroup - 1) / kActivationGroup;
}

}  // namespace paceline::kernels
