// Attention over paged KV and Gated DeltaNet. NUMERICS: Attention, Gated DeltaNet.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/kv_codes.h"
#include "kernels/reference/reference.h"
#include "kernels/scalar_math.h"

namespace paceline::kernels::reference {
namespace {

// Element index of (page, head, position in page, 0).
int64_t KvOffset(const AttentionShape& shape, int32_t page, int32_t head, int64_t position) {
  return ((int64_t{page} * shape.kv_heads + head) * kAttentionBlock + position % kAttentionBlock) *
         shape.head_dim;
}

void StoreKv(KvDtype dtype, void* pages, int64_t at, float x) {
  if (dtype == KvDtype::kBF16) {
    static_cast<uint16_t*>(pages)[at] = ToBf16(x);
  } else {
    static_cast<float*>(pages)[at] = x;
  }
}

float LoadKv(KvDtype dtype, const void* pages, int64_t at) {
  return dtype == KvDtype::kBF16 ? FromBf16(static_cast<const uint16_t*>(pages)[at])
                                 : static_cast<const float*>(pages)[at];
}

}  // namespace

void WriteKv(ThreadPool&, const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
             const float* k, const float* v) {
  if (KvInCodes(kv.dtype)) return WriteKvCodes(shape, kv, runs, k, v);
  for (const RowRun& run : runs) {
    for (int32_t i = 0; i < run.rows; ++i) {
      const int64_t position = run.first_position + i;
      for (int32_t head = 0; head < shape.kv_heads; ++head) {
        const int64_t to = KvOffset(shape, run.pages[position / kAttentionBlock], head, position);
        const int64_t from = (int64_t{run.first_row + i} * shape.kv_heads + head) * shape.head_dim;
        for (int32_t d = 0; d < shape.head_dim; ++d) {
          StoreKv(kv.dtype, kv.k, to + d, k[from + d]);
          StoreKv(kv.dtype, kv.v, to + d, v[from + d]);
        }
      }
    }
  }
}

void Attention(ThreadPool&, Workspace&, const AttentionShape& shape, const KvPages& kv,
               std::span<const RowRun> runs, const float* q, float* out) {
  if (KvInCodes(kv.dtype)) return AttentionOverCodes(shape, kv, runs, q, out);
  const int32_t dim = shape.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  std::vector<float> key(dim), o(dim), block_o(dim);  // [head_dim]
  std::vector<float> p(kAttentionBlock);              // [positions of a block]
  for (const RowRun& run : runs) {
    for (int32_t i = 0; i < run.rows; ++i) {
      const int64_t last = run.first_position + i;
      for (int32_t head = 0; head < shape.heads; ++head) {
        const int32_t kv_head = head / (shape.heads / shape.kv_heads);
        const float* query = q + (int64_t{run.first_row + i} * shape.heads + head) * dim;
        float m = 0, l = 0;
        for (int64_t begin = 0; begin <= last; begin += kAttentionBlock) {
          const int64_t end = std::min(begin + kAttentionBlock, last + 1);
          const int32_t page = run.pages[begin / kAttentionBlock];
          float block_m = -std::numeric_limits<float>::infinity();
          for (int64_t pos = begin; pos < end; ++pos) {
            const int64_t at = KvOffset(shape, page, kv_head, pos);
            for (int32_t d = 0; d < dim; ++d) key[d] = LoadKv(kv.dtype, kv.k, at + d);
            p[pos - begin] = Dot(query, key.data(), dim) * scale;
            block_m = std::max(block_m, p[pos - begin]);
          }
          float block_l = 0;
          std::fill(block_o.begin(), block_o.end(), 0.0f);
          for (int64_t pos = begin; pos < end; ++pos) {
            const float weight = Exp(p[pos - begin] - block_m);
            block_l = block_l + weight;
            const int64_t at = KvOffset(shape, page, kv_head, pos);
            for (int32_t d = 0; d < dim; ++d)
              block_o[d] = std::fma(weight, LoadKv(kv.dtype, kv.v, at + d), block_o[d]);
          }
          if (begin == 0) {
            m = block_m;
            l = block_l;
            o = block_o;
            continue;
          }
          const float merged = std::max(m, block_m);
          const float old_share = Exp(m - merged), new_share = Exp(block_m - merged);
          l = std::fma(block_l, new_share, l * old_share);
          for (int32_t d = 0; d < dim; ++d) o[d] = std::fma(block_o[d], new_share, o[d] * old_share);
          m = merged;
        }
        float* to = out + (int64_t{run.first_row + i} * shape.heads + head) * dim;
        for (int32_t d = 0; d < dim; ++d) to[d] = o[d] / l;
      }
    }
  }
}

namespace {

// c = silu(sum over taps of w x), oldest tap first; the last tap is this row, which the window keeps.
void Convolve(const GdnShape& shape, const GdnWeights& weights, const float* row, int64_t position,
              float* window, float* c) {
  const int64_t channels = shape.channels();
  const int32_t taps = shape.conv_taps;
  for (int64_t ch = 0; ch < channels; ++ch) {
    float sum = 0;
    for (int32_t j = 0; j < taps - 1; ++j) {
      const int64_t kept = (position + kGdnWindow - (taps - 1) + j) % kGdnWindow;
      sum = std::fma(weights.conv[ch * taps + j], window[kept * channels + ch], sum);
    }
    sum = std::fma(weights.conv[ch * taps + taps - 1], row[ch], sum);
    c[ch] = Silu(sum);
  }
  std::copy_n(row, channels, window + position % kGdnWindow * channels);
}

void NormaliseL2(float* x, int32_t dim, float scale) {
  const float r = ReciprocalSqrt(SumOfSquares(x, dim) + 1e-6f);
  for (int32_t i = 0; i < dim; ++i) x[i] = (x[i] * r) * scale;
}

}  // namespace

void GatedDeltaNet(ThreadPool&, Workspace&, const GdnShape& shape, const GdnWeights& weights,
                   const float* qkv, const float* b, const float* a, std::span<const RowRun> runs,
                   std::span<const GdnState> states, float* out) {
  CHECK_EQ(runs.size(), states.size());
  CHECK_LE(shape.conv_taps, kGdnMaxTaps);
  const int32_t dk = shape.key_dim, dv = shape.value_dim, hk = shape.key_heads, hv = shape.value_heads;
  const int64_t channels = shape.channels();
  std::vector<float> c(channels);  // [channels] after the convolution: q, k, v
  std::vector<float> sk(dv), sq(dv);
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs[s];
    const GdnBlock* block = &states[s].block;
    for (int32_t i = 0; i < run.rows; ++i) {
      const int64_t row = run.first_row + i, position = run.first_position + i;
      const int32_t at = static_cast<int32_t>(position % kGdnBlock);  // index in the block
      Convolve(shape, weights, qkv + row * channels, position, states[s].window, c.data());
      float* q = c.data();           // [key_heads, key_dim]
      float* k = q + hk * dk;        // [key_heads, key_dim]
      const float* v = k + hk * dk;  // [value_heads, value_dim]
      for (int32_t h = 0; h < hk; ++h) {
        NormaliseL2(q + h * dk, dk, 1.0f / std::sqrt(static_cast<float>(dk)));
        NormaliseL2(k + h * dk, dk, 1.0f);
      }
      std::copy_n(k, hk * dk, block->k + int64_t{at} * hk * dk);
      for (int32_t h = 0; h < hv; ++h) {
        const int32_t key_head = h / (hv / hk);
        const float* qh = q + key_head * dk;
        const float* kh = k + key_head * dk;
        const float* S = block->state + int64_t{h} * dk * dv;  // [key_dim, value_dim]
        const float beta = Sigmoid(b[row * hv + h]);
        const float g = -(weights.decay[h] * Softplus(a[row * hv + h] + weights.dt_bias[h]));
        const float c_i = at == 0 ? g : block->c[(at - 1) * hv + h] + g;
        block->c[at * hv + h] = c_i;
        std::fill(sk.begin(), sk.end(), 0.0f);
        std::fill(sq.begin(), sq.end(), 0.0f);
        for (int32_t d = 0; d < dk; ++d) {
          for (int32_t n = 0; n < dv; ++n) {
            sk[n] = std::fma(S[int64_t{d} * dv + n], kh[d], sk[n]);
            sq[n] = std::fma(S[int64_t{d} * dv + n], qh[d], sq[n]);
          }
        }
        const float decay = Exp(c_i);
        float* u = block->u + (int64_t{at} * hv + h) * dv;  // [value_dim]
        float* o = out + (row * hv + h) * dv;               // [value_dim]
        for (int32_t n = 0; n < dv; ++n) {
          u[n] = std::fma(-decay, sk[n], v[h * dv + n]);
          o[n] = decay * sq[n];
        }
        for (int32_t j = 0; j <= at; ++j) {
          const float* kj = block->k + (int64_t{j} * hk + key_head) * dk;
          const float* uj = block->u + (int64_t{j} * hv + h) * dv;
          const float share = Exp(c_i - block->c[j * hv + h]);
          if (j < at) {
            const float kk = share * Dot(kh, kj, dk);
            for (int32_t n = 0; n < dv; ++n) u[n] = std::fma(-kk, uj[n], u[n]);
          } else {
            for (int32_t n = 0; n < dv; ++n) u[n] = beta * u[n];
          }
          const float qk = share * Dot(qh, kj, dk);
          for (int32_t n = 0; n < dv; ++n) o[n] = std::fma(qk, uj[n], o[n]);
        }
      }
      if (at != kGdnBlock - 1) continue;
      // The border: fold the block's rows into the next block's state.
      const GdnBlock& next = states[s].next;
      for (int32_t h = 0; h < hv; ++h) {
        const int32_t key_head = h / (hv / hk);
        const float* from = block->state + int64_t{h} * dk * dv;
        float* S = next.state + int64_t{h} * dk * dv;
        const float c_n = block->c[at * hv + h];
        const float decay = Exp(c_n);
        for (int64_t e = 0; e < int64_t{dk} * dv; ++e) S[e] = decay * from[e];
        for (int32_t j = 0; j < kGdnBlock; ++j) {
          const float share = Exp(c_n - block->c[j * hv + h]);
          for (int32_t d = 0; d < dk; ++d) {
            const float w = share * block->k[(int64_t{j} * hk + key_head) * dk + d];
            for (int32_t n = 0; n < dv; ++n)
              S[int64_t{d} * dv + n] =
                  std::fma(w, block->u[(int64_t{j} * hv + h) * dv + n], S[int64_t{d} * dv + n]);
          }
        }
      }
      block = &next;
    }
  }
}

}  // namespace paceline::kernels::reference
