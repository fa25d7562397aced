// The calls of NCCL and of the CUDA driver that the nccl link uses, as a table of functions. Declared here
// from their documented C ABI instead of included: both libraries are opened at run time, so that one binary
// runs with and without them and no build needs CUDA. tests/transport/nccl_abi_test.cc compares these
// declarations with nccl.h and cuda.h where those are found. The driver's API stands for the runtime's: a
// stream of one is a stream of the other, and the driver is the library that a machine with a GPU has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/statusor.h"

namespace paceline {

// ncclResult_t.
enum NcclResult : int { kNcclSuccess = 0, kNcclInProgress = 7 };
inline constexpr int kNcclBytes = 0;  // ncclInt8: rows are bytes to NCCL
struct NcclCommunicator;              // *ncclComm_t
// ncclUniqueId: made by one rank, given to both, names one communicator to be.
struct NcclId {
  std::array<char, 128> bytes{};
};
// ncclConfig_t as of NCCL 2.18. Newer libraries read as much as `size` says and take defaults, by `version`,
// for what they have learnt since.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 21800;
  int blocking = 0;
  int cga_cluster_size = std::numeric_limits<int>::min();  // undefined: the library's choice, as below
  int min_ctas = std::numeric_limits<int>::min();
  int max_ctas = std::numeric_limits<int>::min();
  const char* net_name = nullptr;
  int split_share = std::numeric_limits<int>::min();
};

// CUresult.
enum GpuResult : int { kGpuSuccess = 0, kGpuNotReady = 600 };
struct GpuContext;  // *CUcontext, and so on
struct GpuStream;
struct GpuEvent;
using GpuAddress = unsigned long long;  // CUdeviceptr
using GpuUuid = std::array<unsigned char, 16>;
inline constexpr unsigned kGpuStreamNonBlocking = 1;   // CU_STREAM_NON_BLOCKING
inline constexpr unsigned kGpuEventWithoutTiming = 2;  // CU_EVENT_DISABLE_TIMING

// X(member, symbol, result, (parameters)): the name in the documentation, and what the library exports.
#define PACELINE_NCCL_CALLS(X)                                                               \
  X(ncclGetVersion, ncclGetVersion, int, (int*))                                             \
  X(ncclGetUniqueId, ncclGetUniqueId, int, (NcclId*))                                        \
  X(ncclCommInitRankConfig, ncclCommInitRankConfig, int,                                     \
    (NcclCommunicator**, int, NcclId, int, NcclConfig*))                                     \
  X(ncclCommGetAsyncError, ncclCommGetAsyncError, int, (NcclCommunicator*, int*))            \
  X(ncclCommAbort, ncclCommAbort, int, (NcclCommunicator*))                                  \
  X(ncclGroupStart, ncclGroupStart, int, ())                                                 \
  X(ncclGroupEnd, ncclGroupEnd, int, ())                                                     \
  X(ncclSend, ncclSend, int, (const void*, size_t, int, int, NcclCommunicator*, GpuStream*)) \
  X(ncclRecv, ncclRecv, int, (void*, size_t, int, int, NcclCommunicator*, GpuStream*))       \
  X(ncclGetErrorString, ncclGetErrorString, const char*, (int))                              \
  X(ncclGetLastError, ncclGetLastError, const char*, (NcclCommunicator*))

#define PACELINE_GPU_CALLS(X)                                                                    \
  X(cuInit, cuInit, int, (unsigned))                                                             \
  X(cuDeviceGetCount, cuDeviceGetCount, int, (int*))                                             \
  X(cuDeviceGet, cuDeviceGet, int, (int*, int))                                                  \
  X(cuDeviceGetUuid, cuDeviceGetUuid_v2, int, (GpuUuid*, int))                                   \
  X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, int, (GpuContext**, int))                \
  X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, int, (int))                         \
  X(cuCtxPushCurrent, cuCtxPushCurrent_v2, int, (GpuContext*))                                   \
  X(cuCtxPopCurrent, cuCtxPopCurrent_v2, int, (GpuContext**))                                    \
  X(cuStreamCreate, cuStreamCreate, int, (GpuStream**, unsigned))                                \
  X(cuStreamDestroy, cuStreamDestroy_v2, int, (GpuStream*))                                      \
  X(cuEventCreate, cuEventCreate, int, (GpuEvent**, unsigned))                                   \
  X(cuEventDestroy, cuEventDestroy_v2, int, (GpuEvent*))                                         \
  X(cuEventRecord, cuEventRecord, int, (GpuEvent*, GpuStream*))                                  \
  X(cuEventQuery, cuEventQuery, int, (GpuEvent*))                                                \
  X(cuMemAlloc, cuMemAlloc_v2, int, (GpuAddress*, size_t))                                       \
  X(cuMemFree, cuMemFree_v2, int, (GpuAddress))                                                  \
  X(cuMemHostAlloc, cuMemHostAlloc, int, (void**, size_t, unsigned))                             \
  X(cuMemFreeHost, cuMemFreeHost, int, (void*))                                                  \
  X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, int, (GpuAddress, const void*, size_t, GpuStream*)) \
  X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, int, (void*, GpuAddress, size_t, GpuStream*))       \
  X(cuGetErrorString, cuGetErrorString, int, (int, const char**))

// All of them are set.
struct GpuCalls {
#define PACELINE_DECLARE(member, symbol, result, parameters) result(*member) parameters = nullptr;
  PACELINE_NCCL_CALLS(PACELINE_DECLARE)
  PACELINE_GPU_CALLS(PACELINE_DECLARE)
#undef PACELINE_DECLARE
};

// Below it ncclConfig_t has another shape, and non-blocking communicators are young.
inline constexpr int kLeastNccl = 21800;
// From it on two ranks may share a GPU, where NCCL_MULTI_RANK_GPU_ENABLE is set.
inline constexpr int kNcclSharesGpus = 23000;

// "2.28.9" of 22809, as NCCL numbers its versions since 2.9.
std::string NcclVersionText(int version);

// What `paceline doctor` says. Opens the library and leaves it open.
struct NcclFacts {
  std::string version;  // "2.28.9"; empty when there is none
  std::string problem;  // why the nccl link cannot be used here; empty when it can
};
NcclFacts InspectNccl();

// Opens both libraries by name, as dlopen looks for them. Unimplemented (NET-007) says what is missing: NCCL,
// its version, the driver, a GPU.
absl::StatusOr<GpuCalls> OpenGpuCalls(const char* nccl, const char* driver);
// libnccl.so.2 and libcuda.so.1, opened once. Thread-safe.
absl::StatusOr<const GpuCalls*> SystemGpuCalls();

// The version of a table's NCCL. NET-007 when it is too old for the link.
absl::StatusOr<int> CheckNcclVersion(const GpuCalls& calls);

}  // namespace paceline
