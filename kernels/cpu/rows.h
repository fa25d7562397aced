// Norms, elementwise rows, the router, combine and the reductions over the vocabulary, for one instruction
// set. NUMERICS: Row sums, Norms, Router, Combine, Log-sum-exp. Included by one .cc file, inside its
// anonymous namespace.

constexpr int64_t kElementsPerPart = 8192;

// y = (x * r) * (w + plus); without `plus` the weight is taken as it is.
PACELINE_INLINE void Normalise(const float* x, int64_t count, float r, const float* w, float plus, float* y) {
  for (int64_t i = 0; i < count; i += 16) {
    const F weight = Add(LoadUpTo(w + i, count - i), Set1(plus));
    StoreUpTo(y + i, Mul(Mul(LoadUpTo(x + i, count - i), Set1(r)), weight), count - i);
  }
}
PACELINE_INLINE float NormFactor(const float* x, int64_t count, float eps) {
  return ReciprocalRoot(DotProduct(x, x, count) / static_cast<float>(count) + eps);
}

void RmsNorm(ThreadPool& pool, const float* x, int32_t rows, int64_t width, const float* w, float plus,
             float eps, float* y) {
  RunParts(pool, rows, rows * width / 16 * 8, [=](int64_t row) {
    const float* from = x + row * width;
    Normalise(from, width, NormFactor(from, width, eps), w, plus, y + row * width);
  });
}

void AddRows(ThreadPool& pool, float* h, const float* y, int64_t count) {
  pool.Run(Parts(count, kElementsPerPart), [=](int64_t part) {
    const int64_t end = Least(count, (part + 1) * kElementsPerPart);
    for (int64_t i = part * kElementsPerPart; i < end; i += 16)
      StoreUpTo(h + i, Add(LoadUpTo(h + i, end - i), LoadUpTo(y + i, end - i)), end - i);
  });
}

void AddBias(ThreadPool& pool, float* x, int32_t rows, int64_t width, const float* bias) {
  RunParts(pool, rows, rows * width / 16 * 4, [=](int64_t row) {
    float* to = x + row * width;
    for (int64_t i = 0; i < width; i += 16)
      StoreUpTo(to + i, Add(LoadUpTo(to + i, width - i), LoadUpTo(bias + i, width - i)), width - i);
  });
}

void SiluMul(ThreadPool& pool, const float* gate, const float* up, int64_t count, float* out) {
  pool.Run(Parts(count, kElementsPerPart), [=](int64_t part) {
    const int64_t end = Least(count, (part + 1) * kElementsPerPart);
    for (int64_t i = part * kElementsPerPart; i < end; i += 16)
      StoreUpTo(out + i, Mul(SiluLanes(LoadUpTo(gate + i, end - i)), LoadUpTo(up + i, end - i)), end - i);
  });
}

void HeadNormRope(ThreadPool& pool, const float* x, int64_t row_stride, int64_t head_stride, int32_t rows,
                  int32_t heads, int32_t head_dim, const float* w, float plus, float eps, const float* cos,
                  const float* sin, int32_t half, float* out) {
  const int64_t count = int64_t{rows} * heads;
  RunParts(pool, count, count * head_dim / 16 * 16, [=](int64_t item) {
    const int64_t row = item / heads, head = item % heads;
    const float* from = x + row * row_stride + head * head_stride;
    float* to = out + item * head_dim;
    Normalise(from, head_dim, NormFactor(from, head_dim, eps), w, plus, to);
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t left = half - i;
      const F c = LoadUpTo(cos + row * half + i, left), s = LoadUpTo(sin + row * half + i, left);
      const F low = LoadUpTo(to + i, left), high = LoadUpTo(to + i + half, left);
      StoreUpTo(to + i, Fma(Negate(high), s, Mul(low, c)), left);
      StoreUpTo(to + i + half, Fma(low, s, Mul(high, c)), left);
    }
  });
}

void SigmoidGate(ThreadPool& pool, const float* gate, int64_t row_stride, int64_t head_stride, int32_t rows,
                 int32_t heads, int32_t head_dim, float* out) {
  const int64_t count = int64_t{rows} * heads;
  RunParts(pool, count, count * head_dim / 16 * 40, [=](int64_t item) {
    const float* g = gate + item / heads * row_stride + item % heads * head_stride;
    float* o = out + item * head_dim;
    for (int64_t i = 0; i < head_dim; i += 16) {
      const int64_t left = head_dim - i;
      StoreUpTo(o + i, Mul(LoadUpTo(o + i, left), SigmoidLanes(LoadUpTo(g + i, left))), left);
    }
  });
}

void GatedNorm(ThreadPool& pool, const float* x, const float* z, int32_t rows, int32_t heads, int32_t dim,
               const float* w, float eps, float* out) {
  const int64_t count = int64_t{rows} * heads;
  RunParts(pool, count, count * dim / 16 * 50, [=](int64_t head) {
    const float* from = x + head * dim;
    const F r = Set1(NormFactor(from, dim, eps));
    for (int64_t i = 0; i < dim; i += 16) {
      const int64_t left = dim - i;
      const F y = Mul(Mul(LoadUpTo(from + i, left), r), LoadUpTo(w + i, left));
      StoreUpTo(out + head * dim + i, Mul(y, SiluLanes(LoadUpTo(z + head * dim + i, left))), left);
    }
  });
}

// Lane sums of exp(x - m); y, when given, takes the terms.
PACELINE_INLINE float SumOfExp(const float* x, int64_t count, float m, float* y) {
  F lanes = Zero();
  for (int64_t i = 0; i < count; i += 16) {
    const F e = ExpLanes(Sub(LoadUpTo(x + i, count - i), Set1(m)));
    if (y != nullptr) StoreUpTo(y + i, e, count - i);
    lanes = Select(FirstLanes(Least(16, count - i)), Add(lanes, e), lanes);
  }
  return Tree(lanes);
}

// First index of `value`; it is there.
PACELINE_INLINE int64_t IndexOf(const float* x, int64_t count, float value) {
  for (int64_t i = 0; i < count; i += 16) {
    const uint32_t existing = Bits(FirstLanes(Least(16, count - i)));
    const uint32_t hits = Bits(Equal(LoadUpTo(x + i, count - i), Set1(value))) & existing;
    if (hits != 0) return i + __builtin_ctz(hits);
  }
  Broken("a maximum that no element has");
}

void Route(ThreadPool& pool, const float* logits, int32_t rows, int32_t experts, int32_t top_k,
           bool renormalise, int32_t* ids, float* weights) {
  Require(top_k <= experts, "route: top_k above the number of experts");
  // Per row: probabilities, and keys, where a NaN counts as -1 and a chosen expert as -2.
  float* scratch = static_cast<float*>(Scratch(int64_t{rows} * experts * 2 * 4));
  RunParts(pool, rows, rows * Parts(experts, 16) * (60 + 6 * top_k), [=](int64_t row) {
    const float* l = logits + row * experts;
    float* p = scratch + row * experts * 2;
    float* keys = p + experts;
    const F sum = Set1(SumOfExp(l, experts, Largest(l, experts), p));
    for (int64_t i = 0; i < experts; i += 16) {
      const int64_t left = experts - i;
      const F share = Div(LoadUpTo(p + i, left), sum);
      StoreUpTo(p + i, share, left);
      StoreUpTo(keys + i, Select(Equal(share, share), share, Set1(-1.0f)), left);
    }
    int32_t* to_ids = ids + row * top_k;
    float* to_weights = weights + row * top_k;
    float total = 0;
    for (int32_t j = 0; j < top_k; ++j) {
      const int64_t best = IndexOf(keys, experts, Largest(keys, experts));
      keys[best] = -2.0f;
      to_ids[j] = static_cast<int32_t>(best);
      to_weights[j] = p[best];
      total = total + p[best];
    }
    if (!renormalise) return;
    for (int32_t j = 0; j < top_k; ++j) to_weights[j] = to_weights[j] / total;
  });
}

void Combine(ThreadPool& pool, const int64_t* sums, const float* shared, const float* gate, int32_t rows,
             int64_t hidden, float* h) {
  const int64_t per_row = Parts(hidden, 1024);
  RunParts(pool, rows * per_row, rows * hidden / 16 * 12, [=](int64_t part) {
    const int64_t row = part / per_row, base = row * hidden;
    const int64_t end = Least(hidden, (part % per_row + 1) * 1024);
    const F share = gate == nullptr ? Zero() : Set1(SigmoidOne(gate[row]));
    for (int64_t n = part % per_row * 1024; n < end; n += 16) {
      const int64_t left = end - n;
      F add;
      if (left >= 16) {
        add = FromFixed(sums + base + n);
      } else {
        int64_t padded[16] = {};
        for (int64_t i = 0; i < left; ++i) padded[i] = sums[base + n + i];
        add = FromFixed(padded);
      }
      add = Mul(add, Set1(0x1p-32f));
      if (shared != nullptr) {
        const F own = LoadUpTo(shared + base + n, left);
        add = Add(add, gate == nullptr ? own : Mul(own, share));
      }
      StoreUpTo(h + base + n, Add(LoadUpTo(h + base + n, left), add), left);
    }
  });
}

float LogSumExp(ThreadPool& pool, const float* logits, int64_t count) {
  const int64_t blocks = Parts(count, kVocabBlock);
  float* partial = static_cast<float*>(Scratch(blocks * 2 * 4));  // [blocks][maximum, sum]
  pool.Run(blocks, [=](int64_t b) {
    const int64_t n = Least(kVocabBlock, count - b * kVocabBlock);
    partial[2 * b] = Largest(logits + b * kVocabBlock, n);
    partial[2 * b + 1] = SumOfExp(logits + b * kVocabBlock, n, partial[2 * b], nullptr);
  });
  float m = -__builtin_inff(), s = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float block_m = partial[2 * b], block_s = partial[2 * b + 1];
    if (b == 0) {
      m = block_m;
      s = block_s;
      continue;
    }
    const float merged = Larger(m, block_m);
    s = __builtin_fmaf(block_s, ExpOne(block_m - merged), s * ExpOne(m - merged));
    m = merged;
  }
  return m + LogOne(s);
}

int64_t ArgMax(ThreadPool& pool, const float* logits, int64_t count) {
  const int64_t blocks = Parts(count, kElementsPerPart);
  float* largest = static_cast<float*>(Scratch(blocks * 4));  // NaN where the block has one
  pool.Run(blocks, [=](int64_t b) {
    const float* x = logits + b * kElementsPerPart;
    const int64_t n = Least(kElementsPerPart, count - b * kElementsPerPart);
    uint32_t ordered = 0xFFFF;
    for (int64_t i = 0; i < n; i += 16) {
      const F v = LoadUpTo(x + i, n - i);
      ordered &= Bits(Equal(v, v));
    }
    largest[b] = ordered == 0xFFFF ? Largest(x, n) : __builtin_nanf("");
  });
  int64_t best = -1;
  float value = -__builtin_inff();
  for (int64_t b = 0; b < blocks; ++b) {
    if (largest[b] != largest[b]) return -1;
    if (largest[b] > value) {
      value = largest[b];
      best = b;
    }
  }
  if (best < 0) return -1;
  const int64_t begin = best * kElementsPerPart;
  return begin + IndexOf(logits + begin, Least(kElementsPerPart, count - begin), value);
}
