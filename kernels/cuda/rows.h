// Kernels on rows: norms, elementwise operations, heads, the combination of a layer. NUMERICS: Norms, RoPE,
// Combine. A row sum is the work of 16 lanes, half a warp.
#pragma once

#include "kernels/cuda/device.h"

namespace paceline::kernels::cuda {

// y = (x * r) * (w + plus). One block per row: its first half warp sums (the contract fixes 16 lanes), all
// threads write.
struct RmsNorm {
  struct Args {
    const float* x;  // [rows, width]
    int64_t rows, width;
    const float* w;  // [width]
    float plus, eps;
    float* y;  // [rows, width], may be x
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {a.rows, 1, 16}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const float* x = a.x + BlockX() * a.width;
    float* y = a.y + BlockX() * a.width;
    float* r = SharedMemory<float>();
    if (ThreadIndex() < kWarp) {
      // Both halves of the warp sum the same.
      const float sum = DotOfLanes(x, x, a.width);
      if (ThreadIndex() == 0) *r = ReciprocalSqrt(sum / static_cast<float>(a.width) + a.eps);
    }
    BlockBarrier();
    for (int64_t i = ThreadIndex(); i < a.width; i += kThreads) y[i] = (x[i] * *r) * (a.w[i] + a.plus);
  }
};

struct Add {
  struct Args {
    float* h;        // [count]
    const float* y;  // [count], or [width] added to every row
    int64_t count, width;
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.count, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i < a.count) a.h[i] = a.h[i] + a.y[i % a.width];
  }
};

struct SiluMul {
  struct Args {
    const float *gate, *up;  // [count]
    int64_t count;
    float* out;  // [count]
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.count, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i < a.count) a.out[i] = Silu(a.gate[i]) * a.up[i];
  }
};

// Half a warp per head of a row.
struct HeadNormRope {
  struct Args {
    const float* x;  // head j of row r at x + r * row_stride + j * head_stride
    int64_t row_stride, head_stride;
    int64_t rows;
    int32_t heads, head_dim;
    const float* w;  // [head_dim]
    float plus, eps;
    const float *cos, *sin;  // [rows, half]
    int32_t half;
    float* out;  // [rows, heads, head_dim]
  };
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * a.heads, kThreads / kHalf)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    int64_t item = BlockX() * (kThreads / kHalf) + ThreadIndex() / kHalf;
    const bool there = item < a.rows * a.heads;
    if (!there) item = 0;  // joins the warp's sums and writes nothing
    const int64_t row = item / a.heads;
    const float* x = a.x + row * a.row_stride + item % a.heads * a.head_stride;
    float* out = a.out + item * a.head_dim;
    const float sum = DotOfLanes(x, x, a.head_dim);
    if (!there) return;
    const float r = ReciprocalSqrt(sum / static_cast<float>(a.head_dim) + a.eps);
    for (int32_t i = ThreadIndex() % kHalf; i < a.head_dim; i += kHalf) {
      if (i >= a.half && i < 2 * a.half) continue;  // written with its partner
      const float y = (x[i] * r) * (a.w[i] + a.plus);
      if (i >= a.half) {
        out[i] = y;
        continue;
      }
      const float other = (x[i + a.half] * r) * (a.w[i + a.half] + a.plus);
      const float c = a.cos[row * a.half + i], s = a.sin[row * a.half + i];
      out[i] = std::fma(-other, s, y * c);
      out[i + a.half] = std::fma(y, s, other * c);
    }
  }
};

struct SigmoidGate {
  struct Args {
    const float* gate;  // head j of row r at gate + r * row_stride + j * head_stride
    int64_t row_stride, head_stride;
    int64_t rows;
    int32_t heads, head_dim;
    float* out;  // [rows, heads, head_dim]
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * a.heads * a.head_dim, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= a.rows * a.heads * a.head_dim) return;
    const int64_t head = i / a.head_dim;
    const float g = a.gate[head / a.heads * a.row_stride + head % a.heads * a.head_stride + i % a.head_dim];
    a.out[i] = a.out[i] * Sigmoid(g);
  }
};

// Half a warp per head.
struct GatedNorm {
  struct Args {
    const float *x, *z;  // [heads, dim]
    int64_t heads;       // of all rows
    int32_t dim;
    const float* w;  // [dim]
    float eps;
    float* out;  // [heads, dim]
  };
  static constexpr int32_t kThreads = 128;
  static Grid Blocks(const Args& a) { return {Parts(a.heads, kThreads / kHalf)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t own = BlockX() * (kThreads / kHalf) + ThreadIndex() / kHalf;
    const int64_t head = own < a.heads ? own : 0;
    const float *x = a.x + head * a.dim, *z = a.z + head * a.dim;
    const float sum = DotOfLanes(x, x, a.dim);
    if (own >= a.heads) return;
    const float r = ReciprocalSqrt(sum / static_cast<float>(a.dim) + a.eps);
    for (int32_t i = ThreadIndex() % kHalf; i < a.dim; i += kHalf)
      a.out[head * a.dim + i] = ((x[i] * r) * a.w[i]) * Silu(z[i]);
  }
};

struct Combine {
  struct Args {
    const int64_t* sums;  // [rows, hidden]
    const float* shared;  // [rows, hidden], or null
    const float* gate;    // [rows], or null
    int64_t rows, hidden;
    float* h;  // [rows, hidden]
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {Parts(a.rows * a.hidden, kThreads)}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int64_t i = BlockX() * kThreads + ThreadIndex();
    if (i >= a.rows * a.hidden) return;
    const float routed = static_cast<float>(a.sums[i]) * 0x1p-32f;
    float add = routed;
    if (a.shared != nullptr)
      add = routed + (a.gate == nullptr ? a.shared[i] : a.shared[i] * Sigmoid(a.gate[i / a.hidden]));
    a.h[i] = a.h[i] + add;
  }
};

}  // namespace paceline::kernels::cuda
