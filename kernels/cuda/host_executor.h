// Runs a kernel's per-thread program on the host, without a GPU: every thread of a block is a fiber, barriers
// and warp exchanges are where fibers wait for each other. Blocks and threads run in an order that changes
// from launch to launch, and shared memory starts as garbage, so that what only one schedule hides comes out.
// Waiting that cannot end, or lanes of a warp that wait for different things, abort with what each waits for.
//
// One launch at a time in a process: callers hold a lock (machine.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace paceline::kernels::cuda {

class HostExecutor {
 public:
  struct Thread {
    int32_t index = 0;
    int64_t block_x = 0;
    int32_t block_y = 0;
  };

  // Runs body(args) as every thread of `blocks_x` x `blocks_y` blocks of `threads` threads.
  static void Run(int64_t blocks_x, int32_t blocks_y, int32_t threads, int32_t shared_bytes,
                  void (*body)(const void*), const void* args);

  // From inside a kernel: see device.h.
  static const Thread& Self();
  static std::byte* Shared();
  static void BlockBarrier();
  static void WarpBarrier();
  static void MultiplyBytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
  template <class T>
  static T Shuffle(T value, int32_t lane) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    word = ShuffleWord(word, lane);
    std::memcpy(&value, &word, sizeof(T));
    return value;
  }

 private:
  static uint64_t ShuffleWord(uint64_t word, int32_t lane);
};

}  // namespace paceline::kernels::cuda
