// What transport/gpu_calls.h declares of NCCL and the driver, beside the headers of both: that it compiles is
// the test.
#include <cuda.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "transport/gpu_calls.h"

namespace paceline {
namespace {

// A type of ours and one of theirs that travel through a call in the same way.
template <typename Ours, typename Theirs>
constexpr bool Same() {
  if constexpr (std::is_same_v<Ours, Theirs>) return true;
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using O = std::remove_pointer_t<Ours>;
    using T = std::remove_pointer_t<Theirs>;
    if constexpr (std::is_pointer_v<O> || std::is_pointer_v<T>) return Same<O, T>();
    return std::is_const_v<O> == std::is_const_v<T>;
  }
  if constexpr (std::is_enum_v<Theirs> || std::is_integral_v<Theirs>)
    return (std::is_integral_v<Ours> || std::is_enum_v<Ours>) && sizeof(Ours) == sizeof(Theirs);
  if constexpr (std::is_class_v<Ours> && std::is_class_v<Theirs>) return sizeof(Ours) == sizeof(Theirs);
  return false;
}

template <typename Ours, typename Theirs>
struct SameCall : std::false_type {};
template <typename R, typename... A, typename S, typename... B>
  requires(sizeof...(A) == sizeof...(B))
struct SameCall<R (*)(A...), S (*)(B...)> : std::bool_constant<Same<R, S>() && (Same<A, B>() && ...)> {};

#define PACELINE_COMPARE(member, symbol, result, parameters) \
  static_assert(SameCall<decltype(GpuCalls::member), decltype(&::symbol)>::value, #symbol);
PACELINE_NCCL_CALLS(PACELINE_COMPARE)
PACELINE_GPU_CALLS(PACELINE_COMPARE)
#undef PACELINE_COMPARE

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert(sizeof(GpuUuid) == sizeof(CUuuid));
static_assert(offsetof(NcclConfig, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(NcclConfig, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(NcclConfig, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(offsetof(NcclConfig, max_ctas) == offsetof(ncclConfig_t, maxCTAs));
static_assert(offsetof(NcclConfig, net_name) == offsetof(ncclConfig_t, netName));
static_assert(offsetof(NcclConfig, split_share) == offsetof(ncclConfig_t, splitShare));
static_assert(int{kNcclSuccess} == int{ncclSuccess} && int{kNcclInProgress} == int{ncclInProgress} &&
              kNcclBytes == int{ncclInt8});
static_assert(int{kGpuSuccess} == int{CUDA_SUCCESS} && int{kGpuNotReady} == int{CUDA_ERROR_NOT_READY} &&
              kGpuStreamNonBlocking == unsigned{CU_STREAM_NON_BLOCKING} &&
              kGpuEventWithoutTiming == unsigned{CU_EVENT_DISABLE_TIMING});
static_assert(kLeastNccl == NCCL_VERSION(2, 18, 0) && kNcclSharesGpus == NCCL_VERSION(2, 30, 0));

}  // namespace
}  // namespace paceline
