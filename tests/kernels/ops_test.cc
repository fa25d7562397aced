// Ops on rows, attention and the vocabulary: every instruction set of this machine against the reference, bit
// for bit; one op, one list of shapes.
#include <gtest/gtest.h>

#include "tests/kernels/reference_bits.h"

namespace paceline::kernels {
namespace {

void Append(Result& to, const auto& values) {
  for (const auto& v : values) to.push_back(std::bit_cast<float>(static_cast<int32_t>(v)));
}

TEST(Ops, Elementwise) {
  for (int64_t width : {1, 15, 16, 40, 272, 3072}) {
    for (Values kind : kBoth) {
      const int32_t rows = 11;
      const auto x = RandomValues(rows * width, 1, kind), y = RandomValues(rows * width, 2, kind),
                 w = RandomValues(width, 3);
      const std::string what = "width " + std::to_string(width);
      ExpectReferenceBits("rms_norm " + what, [&](const KernelTable& t, ThreadPool& pool) {
        Result out(x.size());
        t.rms_norm(pool, x.data(), rows, width, w.data(), 1.0f, 1e-6f, out.data());
        return out;
      });
      ExpectReferenceBits("add " + what, [&](const KernelTable& t, ThreadPool& pool) {
        Result out = x;
        t.add(pool, out.data(), y.data(), rows * width);
        t.add_bias(pool, out.data(), rows, width, w.data());
        return out;
      });
      ExpectReferenceBits("silu_mul " + what, [&](const KernelTable& t, ThreadPool& pool) {
        Result out(x.size());
        t.silu_mul(pool, x.data(), y.data(), rows * width, out.data());
        return out;
      });
    }
  }
}

TEST(Ops, Heads) {
  for (int32_t dim : {8, 16, 24, 64, 72, 256}) {
    for (Values kind : kBoth) {
      const int32_t rows = 5, heads = 3, half = dim / 4;
      const int64_t head_stride = 2 * dim, row_stride = heads * head_stride + 5;
      const auto x = RandomValues(rows * row_stride, 1, kind), z = RandomValues(rows * row_stride, 2, kind);
      const auto w = RandomValues(dim, 3), cos = RandomValues(rows * half, 4),
                 sin = RandomValues(rows * half, 5);
      ExpectReferenceBits("heads of " + std::to_string(dim), [&](const KernelTable& t, ThreadPool& pool) {
        Result out(rows * heads * dim), normed(rows * heads * dim);
        t.head_norm_rope(pool, x.data(), row_stride, head_stride, rows, heads, dim, w.data(), 1.0f, 1e-6f,
                         cos.data(), sin.data(), half, out.data());
        t.sigmoid_gate(pool, z.data(), row_stride, head_stride, rows, heads, dim, out.data());
        t.gated_norm(pool, x.data(), z.data(), rows, heads, dim, w.data(), 1e-6f, normed.data());
        out.insert(out.end(), normed.begin(), normed.end());
        return out;
      });
    }
  }
}

TEST(Ops, Attention) {
  struct Case {
    int32_t heads, kv_heads, dim;
    KvDtype dtype;
    Values kind;
  };
  const Case cases[] = {{4, 2, 64, KvDtype::kBF16, Values::kOrdinary},
                        {6, 1, 24, KvDtype::kF32, Values::kOrdinary},
                        {2, 2, 128, KvDtype::kBF16, Values::kHard},
                        {3, 3, 72, KvDtype::kBF16, Values::kOrdinary},
                        {8, 2, 256, KvDtype::kF32, Values::kOrdinary}};
  for (const Case& c : cases) {
    const AttentionShape shape{c.heads, c.kv_heads, c.dim};
    const int64_t page = int64_t{c.kv_heads} * kAttentionBlock * c.dim;
    const auto fill = RandomValues(2 * 4 * page, 8);  // [k and v, pages, ..]
    const int32_t pages[] = {2, 0, 3, 1};
    const std::vector<RowRun> runs = {{0, 1, 700, pages}, {1, 9, 250, pages}, {10, 1, 0, pages + 3}};
    const auto k = RandomValues(11 * c.kv_heads * c.dim, 1, c.kind), v = RandomValues(k.size(), 2, c.kind),
               q = RandomValues(11 * c.heads * c.dim, 3);
    ExpectReferenceBits("attention " + std::to_string(c.dim), [&](const KernelTable& t, ThreadPool& pool) {
      std::vector<uint8_t> memory(2 * 4 * page * KvDtypeBytes(c.dtype));
      for (size_t i = 0; i < fill.size(); ++i) {
        const uint16_t half = ToBf16(fill[i]);
        if (c.dtype == KvDtype::kBF16) std::memcpy(memory.data() + 2 * i, &half, 2);
        if (c.dtype == KvDtype::kF32) std::memcpy(memory.data() + 4 * i, &fill[i], 4);
      }
      const KvPages kv{c.dtype, memory.data(), memory.data() + memory.size() / 2};
      t.write_kv(pool, shape, kv, runs, k.data(), v.data());
      Workspace workspace;
      Result out(q.size());
      t.attention(pool, workspace, shape, kv, runs, q.data(), out.data());
      Append(out, memory);
      return out;
    });
  }
}

TEST(Ops, Route) {
  for (int32_t experts : {1, 5, 16, 60, 128, 513}) {
    for (Values kind : kBoth) {
      for (bool renormalise : {false, true}) {
        const int32_t rows = 6, top_k = std::min(experts, 9);
        auto logits = RandomValues(rows * experts, 4, kind);
        for (float& x : logits) x = std::nearbyint(x * 4) / 2;  // ties
        ExpectReferenceBits("route " + std::to_string(experts), [&](const KernelTable& t, ThreadPool& pool) {
          std::vector<int32_t> ids(rows * top_k);
          Result out(rows * top_k);
          t.route(pool, logits.data(), rows, experts, top_k, renormalise, ids.data(), out.data());
          Append(out, ids);
          return out;
        });
      }
    }
  }
}

TEST(Ops, Combine) {
  std::mt19937_64 bits(3);
  for (int64_t hidden : {1, 17, 272, 3072}) {
    const int32_t rows = 7;
    std::vector<int64_t> sums(rows * hidden);
    for (int64_t& s : sums) {
      s = static_cast<int64_t>(bits()) >> (bits() % 63);
      // Ties of the one rounding, and their neighbours.
      if (bits() % 2 == 0) s = (s | int64_t{1} << (bits() % 62)) & ~((int64_t{1} << (bits() % 60)) - 1);
      if (bits() % 3 == 0) s += static_cast<int64_t>(bits() % 3) - 1;
    }
    sums[0] = INT64_MIN;
    const auto h = RandomValues(rows * hidden, 1), shared = RandomValues(rows * hidden, 2),
               gate = RandomValues(rows, 3);
    for (int form : {0, 1, 2}) {
      ExpectReferenceBits("combine", [&](const KernelTable& t, ThreadPool& pool) {
        Result out(form == 0 ? std::vector<float>(h.size()) : h);
        t.combine(pool, sums.data(), form == 0 ? nullptr : shared.data(), form == 2 ? gate.data() : nullptr,
                  rows, hidden, out.data());
        return out;
      });
    }
  }
}

TEST(Ops, Vocabulary) {
  for (int64_t count : {1, 15, 1024, 1025, 8192, 8193, 40000}) {
    for (int form = 0; form < 4; ++form) {
      auto logits = RandomValues(count, static_cast<uint32_t>(form) + 1);
      if (form == 1) logits[count / 2] = __builtin_nanf("");
      if (form == 2) std::fill(logits.begin(), logits.end(), -__builtin_inff());
      if (form == 3) {
        for (float& x : logits) x = std::nearbyint(x);
      }
      ExpectReferenceBits("vocabulary of " + std::to_string(count),
                          [&](const KernelTable& t, ThreadPool& pool) {
                            Result out = {t.log_sum_exp(pool, logits.data(), count)};
                            Append(out, std::vector<int64_t>{t.arg_max(pool, logits.data(), count)});
                            return out;
                          });
    }
  }
}

// The vector functions through the ops that use them, on all exponents: silu (exp), softplus by way of the
// gates is covered above; log by log_sum_exp of one block.
TEST(Ops, FunctionsOnAMillionPatterns) {
  std::vector<float> x, ones;
  for (uint32_t i = 0; i < (1u << 20); ++i)
    x.push_back(std::bit_cast<float>(i << 12 | (i * 2654435761u) >> 20));
  ones.assign(x.size(), 1.0f);
  ExpectReferenceBits("silu", [&](const KernelTable& t, ThreadPool& pool) {
    Result out(x.size());
    t.silu_mul(pool, x.data(), ones.data(), static_cast<int64_t>(x.size()), out.data());
    return out;
  });
  ExpectReferenceBits("sigmoid", [&](const KernelTable& t, ThreadPool& pool) {
    Result out = ones;
    t.sigmoid_gate(pool, x.data(), 1024, 1024, 1024, 1, 1024, out.data());
    return out;
  });
}

}  // namespace
}  // namespace paceline::kernels
