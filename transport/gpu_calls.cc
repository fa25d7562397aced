// Opens libnccl.so.2 and libcuda.so.1 and looks their functions up. Neither is ever closed: libraries of CUDA
// do not like to be unloaded.
#include "transport/gpu_calls.h"

#include <dlfcn.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline {
namespace {

constexpr char kNcclLibrary[] = "libnccl.so.2";
constexpr char kDriverLibrary[] = "libcuda.so.1";

absl::Status Absent(const std::string& what) {
  return Error(errors::kLinkAbsent, absl::StrCat("--link nccl is not to be had on this machine: ", what));
}

absl::StatusOr<void*> Open(const char* library, const char* advice) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle != nullptr) return handle;
  return Absent(absl::StrCat(library, " is not on the loader's path; ", advice));
}

template <typename Function>
absl::Status Find(void* library, const char* name, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (function != nullptr) return absl::OkStatus();
  return Absent(absl::StrCat(name, " has no ", symbol, "; install NCCL ", NcclVersionText(kLeastNccl),
                             " or newer and a driver of CUDA 11.4 or newer"));
}

absl::Status OpenNccl(const char* name, GpuCalls& calls) {
  ASSIGN_OR_RETURN(void* const library, Open(name, "install NCCL or name its folder in LD_LIBRARY_PATH"));
#define PACELINE_FIND(member, symbol, result, parameters) \
  RETURN_IF_ERROR(Find(library, name, #symbol, calls.member));
  PACELINE_NCCL_CALLS(PACELINE_FIND)
#undef PACELINE_FIND
  // With it every id is the same: two communicators of one head would meet, and anybody would know theirs.
  if (std::getenv("NCCL_COMM_ID") != nullptr)
    return Absent(
        "NCCL_COMM_ID is set in the environment; unset it, since the head hands out ids of its own");
  return CheckNcclVersion(calls).status();
}

absl::Status OpenDriver(const char* name, GpuCalls& calls) {
  ASSIGN_OR_RETURN(void* const library, Open(name, "install the NVIDIA driver"));
#define PACELINE_FIND(member, symbol, result, parameters) \
  RETURN_IF_ERROR(Find(library, name, #symbol, calls.member));
  PACELINE_GPU_CALLS(PACELINE_FIND)
#undef PACELINE_FIND
  int devices = 0;  // the driver leaves it alone where there are none
  if (calls.cuInit(0) != kGpuSuccess || calls.cuDeviceGetCount(&devices) != kGpuSuccess || devices == 0) {
    return Absent(
        "the NVIDIA driver shows no GPU; look at nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it");
  }
  return absl::OkStatus();
}

}  // namespace

std::string NcclVersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

absl::StatusOr<int> CheckNcclVersion(const GpuCalls& calls) {
  int version = 0;
  if (calls.ncclGetVersion(&version) != kNcclSuccess)
    return Absent(absl::StrCat(kNcclLibrary, " does not tell its version"));
  if (version >= kLeastNccl) return version;
  return Absent(absl::StrCat("NCCL ", NcclVersionText(version), " is installed, and ",
                             NcclVersionText(kLeastNccl), " or newer is needed"));
}

absl::StatusOr<GpuCalls> OpenGpuCalls(const char* nccl, const char* driver) {
  GpuCalls calls;
  RETURN_IF_ERROR(OpenNccl(nccl, calls));
  RETURN_IF_ERROR(OpenDriver(driver, calls));
  return calls;
}

absl::StatusOr<const GpuCalls*> SystemGpuCalls() {
  static const auto* const calls = new absl::StatusOr<GpuCalls>(OpenGpuCalls(kNcclLibrary, kDriverLibrary));
  RETURN_IF_ERROR(calls->status());
  return &**calls;
}

NcclFacts InspectNccl() {
  NcclFacts facts;
  const absl::Status usable = SystemGpuCalls().status();
  facts.problem = std::string(usable.message());
  // The version is told also where a driver is missing.
  if (void* const library = dlopen(kNcclLibrary, RTLD_NOW | RTLD_LOCAL); library != nullptr) {
    const auto get_version = reinterpret_cast<int (*)(int*)>(dlsym(library, "ncclGetVersion"));
    int version = 0;
    if (get_version != nullptr && get_version(&version) == kNcclSuccess)
      facts.version = NcclVersionText(version);
  }
  return facts;
}

}  // namespace paceline
