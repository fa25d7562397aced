// `doctor`: what this machine and this build offer for computing and for links, in words. It looks and
// changes nothing; a machine without a GPU is no failure.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/commands.h"
#include "cli/compute.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/facts.h"
#include "kernels/kernels.h"
#include "nlohmann/json.hpp"
#include "transport/gpu_calls.h"

namespace paceline::cli {
namespace {

// "13.0" of 13000, as CUDA numbers its versions.
std::string CudaVersion(int32_t version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (const kernels::KernelTable* table : kernels::cpu::Available()) names.emplace_back(table->name);
  return names;
}

void PrintJson(const kernels::cuda::Facts& facts, const NcclFacts& nccl) {
  nlohmann::ordered_json out;
  out["build"] = BuildText();
  out["cpu"] = CpuName();
  out["cpu_backends"] = Isas();
  out["memory_bytes"] = MachineMemory();
  nlohmann::ordered_json& cuda = out["cuda"];
  cuda["built"] = facts.built;
  cuda["architectures"] = facts.architectures;
  cuda["runtime"] = facts.runtime_version == 0 ? "" : CudaVersion(facts.runtime_version);
  cuda["driver"] = facts.driver_version == 0 ? "" : CudaVersion(facts.driver_version);
  cuda["problem"] = facts.problem;
  cuda["devices"] = nlohmann::ordered_json::array();
  for (const kernels::cuda::DeviceFacts& device : facts.devices) {
    cuda["devices"].push_back({{"name", device.name},
                               {"compute_capability", absl::StrCat(device.major, ".", device.minor)},
                               {"memory_bytes", device.memory_bytes},
                               {"usable", device.usable}});
  }
  out["nccl"] = {{"version", nccl.version}, {"problem", nccl.problem}};
  std::printf("%s\n", out.dump().c_str());
}

void Line(const char* what, const std::string& text) { std::printf("%-8s %s\n", what, text.c_str()); }

void PrintText(const kernels::cuda::Facts& facts, const NcclFacts& nccl) {
  Line("build", BuildText());
  std::string isas;
  for (const std::string& name : Isas()) absl::StrAppend(&isas, isas.empty() ? "" : ", ", name);
  Line("cpu", absl::StrCat(CpuName(), "; backends: ", isas.empty() ? "reference alone" : isas));
  Line("memory", absl::StrFormat("%.1f GiB", static_cast<double>(MachineMemory()) / (1 << 30)));
  if (facts.built)
    Line("cuda", absl::StrCat("built with CUDA ", CudaVersion(facts.runtime_version),
                              " for compute capability ", facts.architectures));
  if (facts.driver_version != 0)
    Line("driver", absl::StrCat("knows CUDA up to ", CudaVersion(facts.driver_version)));
  if (!facts.problem.empty()) Line("gpu", facts.problem);
  for (const kernels::cuda::DeviceFacts& device : facts.devices) {
    Line("gpu", absl::StrFormat("%s, compute capability %d.%d, %.1f GiB%s", device.name, device.major,
                                device.minor, static_cast<double>(device.memory_bytes) / (1 << 30),
                                device.usable ? "" : "; this build has no kernels for it"));
  }
  const std::string usable = nccl.problem.empty() ? "--link nccl can be used" : nccl.problem;
  Line("nccl", nccl.version.empty() ? usable : absl::StrCat(nccl.version, "; ", usable));
}

}  // namespace

int Run(const DoctorOptions& options) {
  const kernels::cuda::Facts facts = kernels::cuda::Inspect();
  const NcclFacts nccl = InspectNccl();
  options.json ? PrintJson(facts, nccl) : PrintText(facts, nccl);
  return 0;
}

}  // namespace paceline::cli
