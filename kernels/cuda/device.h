// What a kernel of this folder sees of the machine that runs it: its place in the grid, barriers, warp
// exchanges, the 8-bit matrix product and memory. Every kernel is one source: nvcc makes device code of it,
// and any other compiler a program for the host executor, which runs threads as fibers (host_executor.h). So
// indexes, schedules and orders of sums are tested without a GPU.
//
// A kernel is a struct K with
//   struct Args               plain data; pointers are device memory (the emulated machine looks for others)
//   static constexpr int32_t kThreads      per block, a multiple of 32
//   static Grid Blocks(const Args&)        on the host: how many blocks, and their dynamic shared memory
//   static PACELINE_DEVICE void Run(const Args&)   one thread
#pragma once

#include <cstdint>

#include "kernels/constants.h"
#include "kernels/scalar_math.h"

#if defined(__CUDACC__)
#define PACELINE_DEVICE __device__ __forceinline__
#define PACELINE_UNROLL _Pragma("unroll")
#else
#define PACELINE_DEVICE inline
#define PACELINE_UNROLL
#include "kernels/cuda/host_executor.h"
#endif

namespace paceline::kernels::cuda {

inline constexpr int32_t kWarp = 32;

struct Grid {
  int64_t x = 0;  // below 2^31
  int32_t y = 1;  // below 2^16
  int32_t shared_bytes = 0;
};

struct alignas(16) Vec4 {
  uint32_t word[4];
};
struct alignas(8) Vec2 {
  uint32_t word[2];
};

#if defined(__CUDACC__)

PACELINE_DEVICE int32_t ThreadIndex() { return static_cast<int32_t>(threadIdx.x); }
PACELINE_DEVICE int64_t BlockX() { return blockIdx.x; }
PACELINE_DEVICE int32_t BlockY() { return static_cast<int32_t>(blockIdx.y); }
// Every thread of the block; orders shared and global memory among them.
PACELINE_DEVICE void BlockBarrier() { __syncthreads(); }
// Every lane of the warp.
PACELINE_DEVICE void WarpBarrier() { __syncwarp(); }

// The value of lane (own ^ mask), and that of lane `lane`; whole warps only. T has 4 or 8 bytes.
template <class T>
PACELINE_DEVICE T ShuffleXor(T value, int32_t mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
template <class T>
PACELINE_DEVICE T ShuffleFrom(T value, int32_t lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}

// The block's dynamic shared memory, 16-byte aligned.
template <class T>
PACELINE_DEVICE T* SharedMemory() {
  extern __shared__ __align__(16) unsigned char paceline_shared[];
  return reinterpret_cast<T*>(paceline_shared);
}

// Integer sums have no order, so these may be atomic; float sums never are.
PACELINE_DEVICE void AddExact(int64_t* to, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}
// Returns what was there before.
PACELINE_DEVICE int32_t AddOne(int32_t* to) { return atomicAdd(to, 1); }
// What this thread wrote is seen by whoever sees a later atomic of it.
PACELINE_DEVICE void Publish() { __threadfence(); }

// Memory that one block reads once: past the first cache.
PACELINE_DEVICE Vec4 LoadOnce(const Vec4* from) {
  Vec4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
      : "l"(from));
  return v;
}
// Memory that another block of this launch wrote.
template <class T>
PACELINE_DEVICE T LoadFresh(const T* from) {
  return __ldcg(from);
}

// c += A B for A [16 x 32] and B [32 x 8] of signed bytes, fragments as in the PTX ISA (mma.m16n8k32): with
// g = lane / 4, t = lane % 4, a[0] holds A[g][4t ..], a[1] A[g + 8][4t ..], a[2] A[g][16 + 4t ..], a[3]
// A[g + 8][16 + 4t ..]; b[0] B[4t ..][g], b[1] B[16 + 4t ..][g]; c[0], c[1] C[g][2t], C[g][2t + 1], and c[2],
// c[3] the same of row g + 8.
PACELINE_DEVICE void MultiplyBytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Nearest even, for values that fit.
PACELINE_DEVICE int32_t RoundToInt(float x) { return __float2int_rn(x); }
PACELINE_DEVICE int64_t RoundToLong(float x) { return __float2ll_rn(x); }

#else

PACELINE_DEVICE int32_t ThreadIndex() { return HostExecutor::Self().index; }
PACELINE_DEVICE int64_t BlockX() { return HostExecutor::Self().block_x; }
PACELINE_DEVICE int32_t BlockY() { return HostExecutor::Self().block_y; }
PACELINE_DEVICE void BlockBarrier() { HostExecutor::BlockBarrier(); }
PACELINE_DEVICE void WarpBarrier() { HostExecutor::WarpBarrier(); }
template <class T>
PACELINE_DEVICE T ShuffleXor(T value, int32_t mask) {
  return HostExecutor::Shuffle(value, HostExecutor::Self().index % kWarp ^ mask);
}
template <class T>
PACELINE_DEVICE T ShuffleFrom(T value, int32_t lane) {
  return HostExecutor::Shuffle(value, lane);
}
template <class T>
PACELINE_DEVICE T* SharedMemory() {
  return reinterpret_cast<T*>(HostExecutor::Shared());
}
// One thread of the host runs all blocks, so plain sums are atomic.
PACELINE_DEVICE void AddExact(int64_t* to, int64_t value) {
  *to = static_cast<int64_t>(static_cast<uint64_t>(*to) + static_cast<uint64_t>(value));
}
PACELINE_DEVICE int32_t AddOne(int32_t* to) { return (*to)++; }
PACELINE_DEVICE void Publish() {}
PACELINE_DEVICE Vec4 LoadOnce(const Vec4* from) { return *from; }
template <class T>
PACELINE_DEVICE T LoadFresh(const T* from) {
  return *from;
}
PACELINE_DEVICE void MultiplyBytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  HostExecutor::MultiplyBytes(c, a, b);
}
PACELINE_DEVICE int32_t RoundToInt(float x) { return static_cast<int32_t>(std::nearbyint(x)); }
PACELINE_DEVICE int64_t RoundToLong(float x) { return static_cast<int64_t>(std::nearbyint(x)); }

#endif

// Numbers of the contract that headers of the C library spell differently on the two sides.
PACELINE_DEVICE float Infinity() { return std::bit_cast<float>(0x7F800000u); }
PACELINE_DEVICE float NotANumber() { return std::bit_cast<float>(0x7FC00000u); }
PACELINE_DEVICE bool IsNotANumber(float x) { return !(x == x); }
PACELINE_DEVICE bool IsFinite(float x) { return (std::bit_cast<uint32_t>(x) & 0x7F800000u) != 0x7F800000u; }
PACELINE_DEVICE float Magnitude(float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu);
}
// NUMERICS: a NaN on the right is passed over.
PACELINE_DEVICE float Larger(float a, float b) { return a < b ? b : a; }
PACELINE_DEVICE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t Parts(int64_t count, int64_t part) { return (count + part - 1) / part; }

// ---------------------------------------------------------------- half a warp

inline constexpr int32_t kHalf = 16;  // lanes of a row sum

// NUMERICS, Row sums, of 16 lanes side by side: every lane gets the sum. Whole warps only.
PACELINE_DEVICE float SumOfLanes(float lane) {
  PACELINE_UNROLL
  for (int32_t step = 8; step >= 1; step /= 2) lane = lane + ShuffleXor(lane, step);
  return lane;
}
// The largest of the 16 lanes' values, of which none is a NaN.
PACELINE_DEVICE float LargestOfLanes(float lane) {
  PACELINE_UNROLL
  for (int32_t step = 8; step >= 1; step /= 2) lane = Larger(lane, ShuffleXor(lane, step));
  return lane;
}
// dot(a, b) by 16 lanes; count may differ between the two halves of a warp.
PACELINE_DEVICE float DotOfLanes(const float* a, const float* b, int64_t count) {
  float sum = 0;
  for (int64_t i = ThreadIndex() % kHalf; i < count; i += kHalf) sum = std::fma(a[i], b[i], sum);
  return SumOfLanes(sum);
}

}  // namespace paceline::kernels::cuda
