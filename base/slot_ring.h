// Rows between a kernel and a core that share memory but no call: a ring of slots in pinned host memory, for
// machines whose network cannot reach the GPU (DGX Spark). One end fills a slot and sets its flag; the other
// polls the flag, takes the bytes and gives the slot back by the same flag. The same functions run on both
// sides, so that a host test runs what the kernel will. Who moves slots to a link: transport/ring_pump.h.
//
//   flag of slot i   2t      turn t may be filled (the memory starts as zeros: turn 0)
//                    2t + 1  turn t is full: `bytes` and the data are there
//                    2t + 2  taken, so turn t + 1 may be filled
//
// Message n is turn n / count of slot n % count: neither end keeps more than a number, and nothing but the
// flags, one cache line per message and end, is written by both. A ring that is closed ends every poll: a
// kernel must not spin on a peer that died.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define PACELINE_RING_CALL __host__ __device__ inline
#else
#define PACELINE_RING_CALL inline
#endif

namespace paceline {

struct alignas(64) RingFlag {
  uint64_t turn = 0;
  uint32_t bytes = 0;  // of the message; written by the filler before the flag
};

// Views of memory that both ends reach; its owner outlives them. One filler and one taker.
struct SlotRing {
  RingFlag* flags = nullptr;   // [count]
  std::byte* data = nullptr;   // [count, capacity]
  uint64_t* closed = nullptr;  // not 0: given up
  uint32_t count = 0;
  uint32_t capacity = 0;  // bytes of a slot
};

enum class SlotState : uint32_t { kNotYet, kReady, kClosed };

// What the other end wrote before its Store is visible behind a Load that sees it, from any processor of the
// machine.
PACELINE_RING_CALL uint64_t LoadFlag(const uint64_t* flag) {
#if defined(__CUDA_ARCH__)
  uint64_t value;
  asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(flag) : "memory");
  return value;
#else
  return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(flag)).load(std::memory_order_acquire);
#endif
}
PACELINE_RING_CALL void StoreFlag(uint64_t* flag, uint64_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("st.release.sys.u64 [%0], %1;" : : "l"(flag), "l"(value) : "memory");
#else
  std::atomic_ref<uint64_t>(*flag).store(value, std::memory_order_release);
#endif
}

PACELINE_RING_CALL std::byte* SlotData(const SlotRing& ring, uint64_t message) {
  return ring.data + message % ring.count * ring.capacity;
}
PACELINE_RING_CALL RingFlag& FlagOf(const SlotRing& ring, uint64_t message) {
  return ring.flags[message % ring.count];
}
// The flag is looked at first: what was full before the ring was closed can still be taken.
PACELINE_RING_CALL SlotState StateOf(const SlotRing& ring, uint64_t message, uint64_t awaited) {
  if (LoadFlag(&FlagOf(ring, message).turn) == awaited) return SlotState::kReady;
  return LoadFlag(ring.closed) != 0 ? SlotState::kClosed : SlotState::kNotYet;
}

// Filler: whether `message` may be written, and that it is. A kernel's block writes with all its threads,
// meets at a barrier, and one thread publishes.
PACELINE_RING_CALL SlotState MayFill(const SlotRing& ring, uint64_t message) {
  return StateOf(ring, message, 2 * (message / ring.count));
}
PACELINE_RING_CALL void Publish(const SlotRing& ring, uint64_t message, uint32_t bytes) {
  FlagOf(ring, message).bytes = bytes;
  StoreFlag(&FlagOf(ring, message).turn, 2 * (message / ring.count) + 1);
}

// Taker: whether `message` is there, how long it is, and that its slot is free again.
PACELINE_RING_CALL SlotState MayTake(const SlotRing& ring, uint64_t message) {
  return StateOf(ring, message, 2 * (message / ring.count) + 1);
}
PACELINE_RING_CALL uint32_t BytesOf(const SlotRing& ring, uint64_t message) {
  return FlagOf(ring, message).bytes;
}
PACELINE_RING_CALL void GiveBack(const SlotRing& ring, uint64_t message) {
  StoreFlag(&FlagOf(ring, message).turn, 2 * (message / ring.count) + 2);
}

PACELINE_RING_CALL void CloseRing(const SlotRing& ring) { StoreFlag(ring.closed, 1); }

}  // namespace paceline
