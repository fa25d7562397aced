// What `paceline doctor` says about GPUs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace paceline::kernels::cuda {

struct DeviceFacts {
  std::string name;
  int32_t major = 0, minor = 0;  // compute capability
  int64_t memory_bytes = 0;
  bool usable = false;  // by kernels of this build
};
struct Facts {
  bool built = false;           // with CUDA
  std::string architectures;    // that kernels were built for: "90a 120 121"
  int32_t runtime_version = 0;  // 13000: CUDA 13.0
  int32_t driver_version = 0;   // the newest CUDA that the driver knows; 0: no driver
  std::string problem;          // why there are no devices; empty when there are
  std::vector<DeviceFacts> devices;
};
// Asks the driver each time.
Facts Inspect();

}  // namespace paceline::kernels::cuda
