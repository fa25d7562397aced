// Gated DeltaNet of one instruction set. NUMERICS, Gated DeltaNet. Included by one .cc file, inside its
// anonymous namespace.

constexpr int kGdnRows = 4;  // rows that share one read of the state

// silu of the convolution for 16 channels of all rows of a run; their inputs go to the window. c [rows of the
// step, channels].
inline void ConvolveChannels(const GdnShape& shape, const GdnWeights& weights, const float* qkv,
                             const RowRun& run, const GdnState& state, int64_t channel, float* c) {
  const int64_t channels = shape.channels(), left = channels - channel, taps = shape.conv_taps;
  const auto kept = [&](int64_t at) __attribute__((always_inline)) {  // relative to the run's first row
    const uint64_t position = static_cast<uint64_t>(run.first_position + at + kGdnWindow);
    return state.window + static_cast<int64_t>(position % kGdnWindow) * channels + channel;
  };
  const auto input = [&](int64_t at) __attribute__((always_inline)) {
    return at < 0 ? LoadUpTo(kept(at), left)
                  : LoadUpTo(qkv + (run.first_row + at) * channels + channel, left);
  };
  alignas(64) float tap[kGdnMaxTaps][16] = {};  // of these channels, side by side
  for (int64_t j = 0; j < taps; ++j) {
    const float* w = weights.conv + channel * taps + j;
    if (left >= 16) {
      Store(tap[j], Gather(w, static_cast<int32_t>(taps)));
    } else {
      for (int64_t i = 0; i < left; ++i) tap[j][i] = w[i * taps];
    }
  }
  for (int64_t row = 0; row < run.rows; ++row) {
    F sum = Zero();
    for (int64_t j = 0; j < taps; ++j) sum = Fma(Load(tap[j]), input(row - (taps - 1) + j), sum);
    StoreUpTo(c + (run.first_row + row) * channels + channel, SiluLanes(sum), left);
  }
  // Only now: every input of an earlier step has been read.
  for (int64_t row = run.rows > kGdnWindow ? run.rows - kGdnWindow : 0; row < run.rows; ++row)
    StoreUpTo(kept(row), input(row), left);
}

PACELINE_INLINE void NormaliseL2(float* x, int64_t dim, float scale) {
  const F r = Set1(ReciprocalRoot(DotProduct(x, x, dim) + 1e-6f));
  for (int64_t i = 0; i < dim; i += 16)
    StoreUpTo(x + i, Mul(Mul(LoadUpTo(x + i, dim - i), r), Set1(scale)), dim - i);
}

// S'k and S'q of R rows for 16 value dims; row r's key and query start at k + r * stride.
template <int R>
PACELINE_INLINE void ReadState(const float* S, int64_t dk, int64_t dv, int64_t n, const float* k,
                               const float* q, int64_t stride, float* sk, int64_t sk_stride, float* sq,
                               int64_t sq_stride) {
  F keys[R], queries[R];
  for (int r = 0; r < R; ++r) keys[r] = queries[r] = Zero();
  for (int64_t d = 0; d < dk; ++d) {
    const F s = LoadUpTo(S + d * dv + n, dv - n);
    for (int r = 0; r < R; ++r) {
      keys[r] = Fma(s, Set1(k[r * stride + d]), keys[r]);
      queries[r] = Fma(s, Set1(q[r * stride + d]), queries[r]);
    }
  }
  for (int r = 0; r < R; ++r) {
    StoreUpTo(sk + r * sk_stride + n, keys[r], dv - n);
    StoreUpTo(sq + r * sq_stride + n, queries[r], dv - n);
  }
}

// y += w * x, w negated when `minus`.
PACELINE_INLINE void Accumulate(float* y, float w, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 16)
    StoreUpTo(y + i, Fma(Set1(w), LoadUpTo(x + i, count - i), LoadUpTo(y + i, count - i)), count - i);
}

// One value head of one run.
struct GdnHead {
  const GdnShape& shape;
  const RowRun& run;
  const GdnState& state;
  const float* c;  // [rows of the step, channels] after convolution and norms
  const float* b;  // [rows of the step, value_heads]
  const float* a;  // the same
  float decay, dt_bias;
  int64_t head;
  float* out;  // [rows of the step, value_heads, value_dim]

  PACELINE_INLINE const float* Query(int64_t row) const {
    const int64_t key_head = head / (shape.value_heads / shape.key_heads);
    return c + (run.first_row + row) * shape.channels() + key_head * shape.key_dim;
  }
  PACELINE_INLINE const float* Key(int64_t row) const {
    return Query(row) + int64_t{shape.key_heads} * shape.key_dim;
  }
  PACELINE_INLINE const float* Value(int64_t row) const {
    return c + (run.first_row + row) * shape.channels() + int64_t{2} * shape.key_heads * shape.key_dim +
           head * shape.value_dim;
  }
  PACELINE_INLINE float* U(const GdnBlock& block, int64_t at) const {
    return block.u + (at * shape.value_heads + head) * shape.value_dim;
  }
  PACELINE_INLINE float* C(const GdnBlock& block, int64_t at) const {
    return block.c + at * shape.value_heads + head;
  }
  // The key at index `at` of the block that holds `row`: of this run, or of an earlier step, and then the
  // block is the run's first.
  PACELINE_INLINE const float* BlockKey(int64_t row, int64_t row_at, int64_t at) const {
    const int64_t other = row - (row_at - at);
    const int64_t key_head = head / (shape.value_heads / shape.key_heads);
    return other >= 0 ? Key(other) : state.block.k + (at * shape.key_heads + key_head) * shape.key_dim;
  }

  void Row(const GdnBlock& block, int64_t row, int64_t at) const {
    const int64_t dk = shape.key_dim, dv = shape.value_dim;
    const int64_t gate = (run.first_row + row) * shape.value_heads + head;
    const float beta = SigmoidOne(b[gate]);
    const float g = -(decay * SoftplusOne(a[gate] + dt_bias));
    const float c_i = at == 0 ? g : *C(block, at - 1) + g;
    *C(block, at) = c_i;
    const float share_of_state = ExpOne(c_i);
    float* u = U(block, at);      // [value_dim], S'k on entry
    float* o = out + gate * dv;   // [value_dim], S'q on entry
    const float* v = Value(row);  // [value_dim]
    for (int64_t n = 0; n < dv; n += 16) {
      const F sk = LoadUpTo(u + n, dv - n), sq = LoadUpTo(o + n, dv - n);
      StoreUpTo(u + n, Fma(Set1(-share_of_state), sk, LoadUpTo(v + n, dv - n)), dv - n);
      StoreUpTo(o + n, Mul(Set1(share_of_state), sq), dv - n);
    }
    alignas(64) float shares[kGdnBlock];  // e^(c_i - c_j)
    for (int64_t j = 0; j < kGdnBlock; ++j) shares[j] = j <= at ? c_i - *C(block, j) : 0.0f;
    for (int64_t j = 0; j < kGdnBlock; j += 16) Store(shares + j, ExpLanes(Load(shares + j)));
    for (int64_t j = 0; j <= at; ++j) {
      const float* kj = BlockKey(row, at, j);
      if (j < at) {
        Accumulate(u, -(shares[j] * DotProduct(Key(row), kj, dk)), U(block, j), dv);
      } else {
        for (int64_t n = 0; n < dv; n += 16)
          StoreUpTo(u + n, Mul(Set1(beta), LoadUpTo(u + n, dv - n)), dv - n);
      }
      Accumulate(o, shares[j] * DotProduct(Query(row), kj, dk), U(block, j), dv);
    }
  }

  // The border: next S = e^c_n S + sum over j of e^(c_n - c_j) k_j u_j'. `row` is the block's last.
  void Fold(const GdnBlock& block, int64_t row) const {
    const int64_t dk = shape.key_dim, dv = shape.value_dim;
    const float* from = block.state + head * dk * dv;
    float* S = state.next.state + head * dk * dv;  // may be the same memory
    const float c_n = *C(block, kGdnBlock - 1);
    const F kept = Set1(ExpOne(c_n));
    alignas(64) float shares[kGdnBlock];
    const float* keys[kGdnBlock];
    for (int64_t j = 0; j < kGdnBlock; ++j) {
      shares[j] = c_n - *C(block, j);
      keys[j] = BlockKey(row, kGdnBlock - 1, j);
    }
    for (int64_t j = 0; j < kGdnBlock; j += 16) Store(shares + j, ExpLanes(Load(shares + j)));
    const int64_t stride = int64_t{shape.value_heads} * dv;
    for (int64_t d = 0; d < dk; ++d) {
      alignas(64) float w[kGdnBlock];
      for (int64_t j = 0; j < kGdnBlock; ++j) w[j] = shares[j] * keys[j][d];
      for (int64_t n = 0; n < dv; n += 32) {
        const bool two = dv - n > 16;
        F first = Mul(kept, LoadUpTo(from + d * dv + n, dv - n));
        F second = two ? Mul(kept, LoadUpTo(from + d * dv + n + 16, dv - n - 16)) : Zero();
        const float* u = U(block, 0) + n;
        for (int64_t j = 0; j < kGdnBlock; ++j) {
          const F weight = Set1(w[j]);
          first = Fma(weight, LoadUpTo(u + j * stride, dv - n), first);
          if (two) second = Fma(weight, LoadUpTo(u + j * stride + 16, dv - n - 16), second);
        }
        StoreUpTo(S + d * dv + n, first, dv - n);
        if (two) StoreUpTo(S + d * dv + n + 16, second, dv - n - 16);
      }
    }
  }

  void Run() const {
    const int64_t dk = shape.key_dim, dv = shape.value_dim, channels = shape.channels();
    const GdnBlock* block = &state.block;
    for (int64_t row = 0; row < run.rows;) {
      const float* S = block->state + head * dk * dv;
      const int64_t at = (run.first_position + row) % kGdnBlock;
      const int64_t count = Least(kGdnBlock - at, run.rows - row);  // rows left in this block
      const int64_t u_stride = int64_t{shape.value_heads} * dv;
      float* o = out + ((run.first_row + row) * shape.value_heads + head) * dv;
      for (int64_t n = 0; n < dv; n += 16) {
        int64_t r = 0;
        for (; r + kGdnRows <= count; r += kGdnRows)
          ReadState<kGdnRows>(S, dk, dv, n, Key(row + r), Query(row + r), channels, U(*block, at + r),
                              u_stride, o + r * u_stride, u_stride);
        for (; r < count; ++r)
          ReadState<1>(S, dk, dv, n, Key(row + r), Query(row + r), channels, U(*block, at + r), u_stride,
                       o + r * u_stride, u_stride);
      }
      for (int64_t r = 0; r < count; ++r) Row(*block, row + r, at + r);
      row += count;
      if (at + count < kGdnBlock) continue;
      Fold(*block, row - 1);
      block = &state.next;
    }
  }
};

void GatedDeltaNet(ThreadPool& pool, Workspace& workspace, const GdnShape& shape, const GdnWeights& weights,
                   const float* qkv, const float* b, const float* a, std::span<const RowRun> runs,
                   std::span<const GdnState> states, float* out) {
  Require(runs.size() == states.size(), "gated_delta_net: one state per run");
  Require(shape.conv_taps <= kGdnMaxTaps, "gated_delta_net: too many taps");
  const int64_t channels = shape.channels(), dk = shape.key_dim, key_heads = shape.key_heads;
  int64_t rows = 0;
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    if (run.first_row + run.rows > rows) rows = run.first_row + run.rows;
  }
  float* c = workspace.Take<float>(rows * channels);  // [rows, channels]: q, k, v
  const float query_scale = 1.0f / SquareRoot(static_cast<float>(dk));
  const int64_t stretch = 256;  // channels of a part
  const int64_t stretches = Parts(channels, stretch);
  const int64_t count = static_cast<int64_t>(runs.size());
  pool.Run(count * stretches, [&](int64_t part) {
    const int64_t s = part / stretches, begin = part % stretches * stretch;
    if (runs.data()[s].rows == 0) return;
    for (int64_t ch = begin; ch < Least(channels, begin + stretch); ch += 16)
      ConvolveChannels(shape, weights, qkv, runs.data()[s], states.data()[s], ch, c);
  });
  for (int64_t s = 0; s < count; ++s) {
    const RowRun& run = runs.data()[s];
    pool.Run(run.rows * key_heads, [&](int64_t item) {
      float* q = c + (run.first_row + item / key_heads) * channels + item % key_heads * dk;
      NormaliseL2(q, dk, query_scale);
      NormaliseL2(q + key_heads * dk, dk, 1.0f);
    });
  }
  pool.Run(count * shape.value_heads, [&](int64_t item) {
    const int64_t s = item / shape.value_heads, head = item % shape.value_heads;
    const GdnHead one{shape, runs.data()[s],      states.data()[s],      c,    b,
                      a,     weights.decay[head], weights.dt_bias[head], head, out};
    one.Run();
  });
  // Only now: until here the stored keys were those of earlier steps.
  for (int64_t s = 0; s < count; ++s) {
    const RowRun& run = runs.data()[s];
    const int64_t border = kGdnBlock - run.first_position % kGdnBlock;  // rows in front of the first one
    for (int64_t row = 0; row < run.rows; ++row) {
      // Behind the border only the last of each index stays.
      if (row == border && run.rows - row > kGdnBlock) row = run.rows - kGdnBlock;
      const int64_t at = (run.first_position + row) % kGdnBlock, width = key_heads * dk;
      const float* k = c + (run.first_row + row) * channels + width;
      float* to = (row < border ? states.data()[s].block : states.data()[s].next).k + at * width;
      for (int64_t i = 0; i < width; i += 16) StoreUpTo(to + i, LoadUpTo(k + i, width - i), width - i);
    }
  }
}
