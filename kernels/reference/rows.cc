// Norms, elementwise rows, the router and the reductions over the vocabulary. NUMERICS: Row sums, Norms,
// Router, Log-sum-exp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "kernels/reference/reference.h"
#include "kernels/scalar_math.h"

namespace paceline::kernels::reference {

float Dot(const float* a, const float* b, int64_t count) {
  return LaneSum(count, [&](float lane, int64_t i) { return std::fma(a[i], b[i], lane); });
}

float SumOfSquares(const float* x, int64_t count) { return Dot(x, x, count); }

void RmsNorm(ThreadPool&, const float* x, int32_t rows, int64_t width, const float* w, float plus, float eps,
             float* y) {
  for (int32_t row = 0; row < rows; ++row) {
    const float* from = x + row * width;
    const float r = ReciprocalSqrt(SumOfSquares(from, width) / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; ++i) y[row * width + i] = (from[i] * r) * (w[i] + plus);
  }
}

void Add(ThreadPool&, float* h, const float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) h[i] = h[i] + y[i];
}

void AddBias(ThreadPool&, float* x, int32_t rows, int64_t width, const float* bias) {
  for (int32_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < width; ++i) x[row * width + i] = x[row * width + i] + bias[i];
  }
}

void SiluMul(ThreadPool&, const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Silu(gate[i]) * up[i];
}

void HeadNormRope(ThreadPool&, const float* x, int64_t row_stride, int64_t head_stride, int32_t rows,
                  int32_t heads, int32_t head_dim, const float* w, float plus, float eps, const float* cos,
                  const float* sin, int32_t half, float* out) {
  std::vector<float> y(head_dim);  // [head_dim]
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t head = 0; head < heads; ++head) {
      const float* from = x + row * row_stride + head * head_stride;
      float* to = out + (int64_t{row} * heads + head) * head_dim;
      const float r = ReciprocalSqrt(SumOfSquares(from, head_dim) / static_cast<float>(head_dim) + eps);
      for (int32_t i = 0; i < head_dim; ++i) y[i] = (from[i] * r) * (w[i] + plus);
      for (int32_t i = 0; i < half; ++i) {
        const float c = cos[int64_t{row} * half + i], s = sin[int64_t{row} * half + i];
        to[i] = std::fma(-y[i + half], s, y[i] * c);
        to[i + half] = std::fma(y[i], s, y[i + half] * c);
      }
      for (int32_t i = 2 * half; i < head_dim; ++i) to[i] = y[i];
    }
  }
}

void SigmoidGate(ThreadPool&, const float* gate, int64_t row_stride, int64_t head_stride, int32_t rows,
                 int32_t heads, int32_t head_dim, float* out) {
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t head = 0; head < heads; ++head) {
      const float* g = gate + row * row_stride + head * head_stride;
      float* o = out + (int64_t{row} * heads + head) * head_dim;
      for (int32_t i = 0; i < head_dim; ++i) o[i] = o[i] * Sigmoid(g[i]);
    }
  }
}

void GatedNorm(ThreadPool&, const float* x, const float* z, int32_t rows, int32_t heads, int32_t dim,
               const float* w, float eps, float* out) {
  for (int64_t head = 0; head < int64_t{rows} * heads; ++head) {
    const float* from = x + head * dim;
    const float r = ReciprocalSqrt(SumOfSquares(from, dim) / static_cast<float>(dim) + eps);
    for (int32_t i = 0; i < dim; ++i) out[head * dim + i] = ((from[i] * r) * w[i]) * Silu(z[head * dim + i]);
  }
}

void Route(ThreadPool&, const float* logits, int32_t rows, int32_t experts, int32_t top_k, bool renormalise,
           int32_t* ids, float* weights) {
  CHECK_LE(top_k, experts);
  std::vector<float> p(experts);  // [experts]
  std::vector<int32_t> order(experts);
  for (int32_t row = 0; row < rows; ++row) {
    const float* l = logits + int64_t{row} * experts;
    float largest = -std::numeric_limits<float>::infinity();
    for (int32_t e = 0; e < experts; ++e) largest = std::max(largest, l[e]);
    for (int32_t e = 0; e < experts; ++e) p[e] = Exp(l[e] - largest);
    const float sum = LaneSum(experts, [&](float lane, int64_t i) { return lane + p[i]; });
    for (int32_t e = 0; e < experts; ++e) p[e] = p[e] / sum;
    std::iota(order.begin(), order.end(), 0);
    // A NaN compares as the smallest, so that the order stays an order; the row's leaves are NaN and flag it.
    const auto key = [&](int32_t e) { return std::isnan(p[e]) ? -1.0f : p[e]; };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return key(a) > key(b); });
    float total = 0;
    for (int32_t j = 0; j < top_k; ++j) total = total + p[order[j]];
    for (int32_t j = 0; j < top_k; ++j) {
      ids[int64_t{row} * top_k + j] = order[j];
      weights[int64_t{row} * top_k + j] = renormalise ? p[order[j]] / total : p[order[j]];
    }
  }
}

float LogSumExp(ThreadPool&, const float* logits, int64_t count) {
  float m = -std::numeric_limits<float>::infinity();
  float s = 0;
  for (int64_t begin = 0; begin < count; begin += kVocabBlock) {
    const int64_t n = std::min(kVocabBlock, count - begin);
    float block_m = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < n; ++i) block_m = std::max(block_m, logits[begin + i]);
    const float block_s =
        LaneSum(n, [&](float lane, int64_t i) { return lane + Exp(logits[begin + i] - block_m); });
    if (begin == 0) {
      m = block_m;
      s = block_s;
      continue;
    }
    const float merged = std::max(m, block_m);
    s = std::fma(block_s, Exp(block_m - merged), s * Exp(m - merged));
    m = merged;
  }
  return m + Log(s);
}

int64_t ArgMax(ThreadPool&, const float* logits, int64_t count) {
  int64_t best = -1;
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (std::isnan(logits[i])) return -1;
    if (logits[i] > largest) {
      largest = logits[i];
      best = i;
    }
  }
  return best;
}

}  // namespace paceline::kernels::reference
