// How fast this machine reads memory: the denominator of every figure about weights.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace paceline::kernels::cpu {

// GB/s (1e9 bytes) of all threads of the pool reading `bytes` once: the better of plain and prefetched reads,
// each the median of five passes. Takes `bytes` of memory while it runs; 0 when the system does not give
// them.
double MeasureReadBandwidth(ThreadPool& pool, int64_t bytes = int64_t{2} << 30);

}  // namespace paceline::kernels::cpu
