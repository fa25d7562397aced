// Gated DeltaNet of one instruction set. NUMERICS, Gated DeltaNet. Included by one .cc file, inside its
// anonymous namespace.

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
  const bool fours = taps == 4 && left >= 16;
  if (fours) {
    F all[4];
    LoadFours(weights.conv + channel * 4, all);
    for (int j = 0; j < 4; ++j) Store(tap[j], all[j]);
  }
  for (int64_t j = 0; !fours && j < taps; ++j) {
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

// Rows of one run that stand in the same block of positions.
struct GdnSegment {
  GdnSegment(const RowRun& run, int64_t index) {
    const int64_t start = run.first_position % kGdnBlock;
    row = index == 0 ? 0 : index * kGdnBlock - start;
    at = index == 0 ? start : 0;
    rows = Least(kGdnBlock - at, run.rows - row);
  }
  static int64_t Count(const RowRun& run) {
    return run.rows == 0 ? 0 : Parts(run.first_position % kGdnBlock + run.rows, kGdnBlock);
  }
  int64_t row;   // of the run
  int64_t at;    // index of that row in its block
  int64_t rows;  // below 1: none
};

// One key head of one run.
struct GdnKeys {
  const GdnShape& shape;
  const RowRun& run;
  const GdnState& state;
  float* c;     // [rows of the step, channels] after convolution
  float* dots;  // [rows of the step, key_heads, 2, kGdnBlock]: k_i with k_j, q_i with k_j
  int64_t head;

  PACELINE_INLINE float* Query(int64_t row) const {
    return c + (run.first_row + row) * shape.channels() + head * shape.key_dim;
  }
  PACELINE_INLINE float* Key(int64_t row) const {
    return Query(row) + int64_t{shape.key_heads} * shape.key_dim;
  }
  PACELINE_INLINE float* Dots(int64_t row) const {
    return dots + ((run.first_row + row) * shape.key_heads + head) * 2 * kGdnBlock;
  }
  // The key at index j of the segment's block: of this run, or of an earlier step, and then the block is the
  // run's first.
  PACELINE_INLINE const float* BlockKey(const GdnSegment& segment, int64_t j) const {
    const int64_t other = segment.row - segment.at + j;
    return other >= 0 ? Key(other) : state.block.k + (j * shape.key_heads + head) * shape.key_dim;
  }

  // Keys and queries of R rows from `row` on with the keys of their block.
  template <int R>
  PACELINE_INLINE void Multiply(const float* const* keys, int64_t row, int64_t at) const {
    constexpr int P = kTileSums / (2 * R);
    const float* own[2 * R];
    float* to[2 * R];
    for (int r = 0; r < R; ++r) {
      own[2 * r] = Key(row + r);
      own[2 * r + 1] = Query(row + r);
      to[2 * r] = Dots(row + r);
      to[2 * r + 1] = to[2 * r] + kGdnBlock;
    }
    for (int64_t j = 0; j < at + R; j += P) {
      const uint8_t* others[P];
      for (int i = 0; i < P; ++i) others[i] = reinterpret_cast<const uint8_t*>(keys[j + i]);
      alignas(64) float products[kTileSums];
      DotTile<ElementF32, 2 * R, P>(own, others, shape.key_dim, products);
      for (int r = 0; r < 2 * R; ++r) {
        for (int i = 0; i < P; ++i) to[r][j + i] = products[r * P + i];
      }
    }
  }

  void Run(const GdnSegment& segment, float query_scale) const {
    const int64_t dk = shape.key_dim;
    const float* keys[kGdnBlock];
    for (int64_t r = 0; r < segment.rows; ++r) {
      NormaliseL2(Query(segment.row + r), dk, query_scale);
      NormaliseL2(Key(segment.row + r), dk, 1.0f);
    }
    // Behind the last row: any key, what comes of it is not read.
    const int64_t used = segment.at + segment.rows;
    for (int64_t j = 0; j < kGdnBlock; ++j) keys[j] = BlockKey(segment, Least(j, used - 1));
    int64_t r = 0;
    for (; dk % 16 == 0 && r + kTile / 2 <= segment.rows; r += kTile / 2)
      Multiply<kTile / 2>(keys, segment.row + r, segment.at + r);
    for (; dk % 16 == 0 && r < segment.rows; ++r) Multiply<1>(keys, segment.row + r, segment.at + r);
    for (; r < segment.rows; ++r) {
      float* to = Dots(segment.row + r);
      for (int64_t j = 0; j <= segment.at + r; ++j) {
        to[j] = DotProduct(Key(segment.row + r), keys[j], dk);
        to[kGdnBlock + j] = DotProduct(Query(segment.row + r), keys[j], dk);
      }
    }
  }
};

// S'k and S'q of R rows for NV vectors of value dims, whole ones where NV is above 1. Row r's key and query
// start at k + r * stride; S, sk and sq at the first of the dims.
template <int R, int NV>
PACELINE_INLINE void ReadState(const float* S, int64_t dk, int64_t dv, int64_t left, const float* k,
                               const float* q, int64_t stride, float* sk, float* sq, int64_t to_stride) {
  if (NV > 1) left = 16;
  F keys[R][NV], queries[R][NV];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < NV; ++v) keys[r][v] = queries[r][v] = Zero();
  }
  for (int64_t d = 0; d < dk; ++d) {
    F s[NV];
    for (int v = 0; v < NV; ++v) s[v] = LoadUpTo(S + d * dv + v * 16, left);
    for (int r = 0; r < R; ++r) {
      const F key = Set1(k[r * stride + d]), query = Set1(q[r * stride + d]);
      for (int v = 0; v < NV; ++v) {
        keys[r][v] = Fma(s[v], key, keys[r][v]);
        queries[r][v] = Fma(s[v], query, queries[r][v]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < NV; ++v) {
      StoreUpTo(sk + r * to_stride + v * 16, keys[r][v], left);
      StoreUpTo(sq + r * to_stride + v * 16, queries[r][v], left);
    }
  }
}
template <int R>
PACELINE_INLINE void ReadStateRows(const float* S, int64_t dk, int64_t dv, const float* k, const float* q,
                                   int64_t stride, float* sk, float* sq, int64_t to_stride) {
  constexpr int NV = kTileSums / (2 * R);
  int64_t n = 0;
  for (; n + NV * 16 <= dv; n += NV * 16)
    ReadState<R, NV>(S + n, dk, dv, 16, k, q, stride, sk + n, sq + n, to_stride);
  for (; n < dv; n += 16) ReadState<R, 1>(S + n, dk, dv, dv - n, k, q, stride, sk + n, sq + n, to_stride);
}

// What a row's u and o are made of besides vectors.
struct GdnRowWeights {
  float of_state, beta;
  float* keys;     // [kGdnBlock], -(share * dot(k_i, k_j))
  float* queries;  // [kGdnBlock], share * dot(q_i, k_j)
};
// NV vectors of value dims of the row at index `at`; u [value_dim] holds S'k, o S'q, `earlier` is u_0.
template <int NV>
PACELINE_INLINE void SolveRow(const GdnRowWeights& w, int64_t at, const float* v, const float* earlier,
                              int64_t stride, int64_t left, float* u, float* o) {
  if (NV > 1) left = 16;
  F own[NV], sum[NV];
  for (int i = 0; i < NV; ++i) {
    own[i] = Fma(Set1(-w.of_state), LoadUpTo(u + i * 16, left), LoadUpTo(v + i * 16, left));
    sum[i] = Mul(Set1(w.of_state), LoadUpTo(o + i * 16, left));
  }
  for (int64_t j = 0; j < at; ++j) {
    const F key = Set1(w.keys[j]), query = Set1(w.queries[j]);
    for (int i = 0; i < NV; ++i) {
      const F other = LoadUpTo(earlier + j * stride + i * 16, left);
      own[i] = Fma(key, other, own[i]);
      sum[i] = Fma(query, other, sum[i]);
    }
  }
  for (int i = 0; i < NV; ++i) {
    own[i] = Mul(Set1(w.beta), own[i]);
    StoreUpTo(u + i * 16, own[i], left);
    StoreUpTo(o + i * 16, Fma(Set1(w.queries[at]), own[i], sum[i]), left);
  }
}

// D rows of the state from S on, NV vectors each: S = kept * from + sum over j of w_j u_j'. w
// [kGdnBlock][16].
template <int D, int NV>
PACELINE_INLINE void FoldTile(const float* from, float* S, int64_t dv, F kept, const float* w, const float* u,
                              int64_t u_stride, int64_t left) {
  if (NV > 1) left = 16;
  F sums[D][NV];
  for (int d = 0; d < D; ++d) {
    for (int v = 0; v < NV; ++v) sums[d][v] = Mul(kept, LoadUpTo(from + d * dv + v * 16, left));
  }
  for (int64_t j = 0; j < kGdnBlock; ++j) {
    F other[NV];
    for (int v = 0; v < NV; ++v) other[v] = LoadUpTo(u + j * u_stride + v * 16, left);
    for (int d = 0; d < D; ++d) {
      const F weight = Set1(w[j * 16 + d]);
      for (int v = 0; v < NV; ++v) sums[d][v] = Fma(weight, other[v], sums[d][v]);
    }
  }
  for (int d = 0; d < D; ++d) {
    for (int v = 0; v < NV; ++v) StoreUpTo(S + d * dv + v * 16, sums[d][v], left);
  }
}
template <int D>
PACELINE_INLINE void FoldRows(const float* from, float* S, int64_t dv, F kept, const float* w, const float* u,
                              int64_t u_stride) {
  int64_t n = 0;
  for (; n + kTile * 16 <= dv; n += kTile * 16)
    FoldTile<D, kTile>(from + n, S + n, dv, kept, w, u + n, u_stride, 16);
  for (; n < dv; n += 16) FoldTile<D, 1>(from + n, S + n, dv, kept, w, u + n, u_stride, dv - n);
}

// One value head of one run.
struct GdnHead {
  const GdnShape& shape;
  const RowRun& run;
  const GdnState& state;
  GdnKeys keys;    // of the head's key head
  const float* b;  // [rows of the step, value_heads]
  const float* a;  // the same
  float decay, dt_bias;
  int64_t head;
  float* out;  // [rows of the step, value_heads, value_dim]

  PACELINE_INLINE const float* Value(int64_t row) const {
    return keys.c + (run.first_row + row) * shape.channels() + int64_t{2} * shape.key_heads * shape.key_dim +
           head * shape.value_dim;
  }
  PACELINE_INLINE float* U(const GdnBlock& block, int64_t at) const {
    return block.u + (at * shape.value_heads + head) * shape.value_dim;
  }
  PACELINE_INLINE float* C(const GdnBlock& block, int64_t at) const {
    return block.c + at * shape.value_heads + head;
  }
  PACELINE_INLINE int64_t Gate(int64_t row) const { return (run.first_row + row) * shape.value_heads + head; }

  // The rows of one segment. c [kGdnBlock] takes the cumulative decays of the block's rows so far.
  void Rows(const GdnBlock& block, const GdnSegment& segment, float* c) const {
    const int64_t dk = shape.key_dim, dv = shape.value_dim, channels = shape.channels();
    const int64_t stride = int64_t{shape.value_heads} * dv;
    const float* S = block.state + head * dk * dv;
    int64_t r = 0;
    for (; r + kTile <= segment.rows; r += kTile)
      ReadStateRows<kTile>(S, dk, dv, keys.Key(segment.row + r), keys.Query(segment.row + r), channels,
                           U(block, segment.at + r), out + Gate(segment.row + r) * dv, stride);
    if (kTile > 2 && r + 2 <= segment.rows) {
      ReadStateRows<2>(S, dk, dv, keys.Key(segment.row + r), keys.Query(segment.row + r), channels,
                       U(block, segment.at + r), out + Gate(segment.row + r) * dv, stride);
      r += 2;
    }
    if (r < segment.rows)
      ReadStateRows<1>(S, dk, dv, keys.Key(segment.row + r), keys.Query(segment.row + r), channels,
                       U(block, segment.at + r), out + Gate(segment.row + r) * dv, stride);

    alignas(64) float beta[kGdnBlock] = {}, g[kGdnBlock] = {}, of_state[kGdnBlock];
    for (r = 0; r < segment.rows; ++r) {
      beta[r] = b[Gate(segment.row + r)];
      g[r] = a[Gate(segment.row + r)];
    }
    for (int64_t j = 0; j < segment.at; ++j) c[j] = *C(block, j);
    for (int64_t i = 0; i < segment.rows; i += 16) {
      Store(beta + i, SigmoidLanes(Load(beta + i)));
      const F soft = SoftplusLanes(Add(Load(g + i), Set1(dt_bias)));
      Store(g + i, Negate(Mul(Set1(decay), soft)));
    }
    for (r = 0; r < segment.rows; ++r) {
      const int64_t at = segment.at + r;
      c[at] = at == 0 ? g[r] : c[at - 1] + g[r];
      *C(block, at) = c[at];
    }
    for (int64_t i = 0; i < kGdnBlock; i += 16) Store(of_state + i, ExpLanes(Load(c + i)));

    for (r = 0; r < segment.rows; ++r) {
      const int64_t at = segment.at + r, row = segment.row + r;
      alignas(64) float of_keys[kGdnBlock], of_queries[kGdnBlock];
      const float* dots = keys.Dots(row);
      for (int64_t j = 0; j <= at; j += 16) {
        const F share = ExpLanes(Sub(Set1(c[at]), Load(c + j)));
        Store(of_keys + j, Negate(Mul(share, Load(dots + j))));
        Store(of_queries + j, Mul(share, Load(dots + kGdnBlock + j)));
      }
      const GdnRowWeights weights{of_state[at], beta[r], of_keys, of_queries};
      const float* v = Value(row);
      float *u = U(block, at), *o = out + Gate(row) * dv;
      const float* earlier = U(block, 0);
      constexpr int NV = kTileSums / 2;
      int64_t n = 0;
      for (; n + NV * 16 <= dv; n += NV * 16)
        SolveRow<NV>(weights, at, v + n, earlier + n, stride, 16, u + n, o + n);
      for (; n < dv; n += 16) SolveRow<1>(weights, at, v + n, earlier + n, stride, dv - n, u + n, o + n);
    }
  }

  // The border: next S = e^c_n S + sum over j of e^(c_n - c_j) k_j u_j'. The segment is the block's last.
  void Fold(const GdnBlock& block, const GdnSegment& segment, const float* c) const {
    const int64_t dk = shape.key_dim, dv = shape.value_dim;
    const float* from = block.state + head * dk * dv;
    float* S = state.next.state + head * dk * dv;  // may be the same memory
    const float c_n = c[kGdnBlock - 1];
    const F kept = Set1(ExpOne(c_n));
    alignas(64) float shares[kGdnBlock];
    const float* k[kGdnBlock];
    for (int64_t j = 0; j < kGdnBlock; ++j) k[j] = keys.BlockKey(segment, j);
    for (int64_t j = 0; j < kGdnBlock; j += 16) Store(shares + j, ExpLanes(Sub(Set1(c_n), Load(c + j))));
    const int64_t stride = int64_t{shape.value_heads} * dv;
    for (int64_t d = 0; d < dk; d += 16) {
      alignas(64) float w[kGdnBlock * 16];  // [kGdnBlock][key dims of this stretch]
      const int64_t count = Least(16, dk - d);
      for (int64_t j = 0; j < kGdnBlock; ++j)
        Store(w + j * 16, Mul(Set1(shares[j]), LoadUpTo(k[j] + d, count)));
      int64_t i = 0;
      for (; i + kTile <= count; i += kTile)
        FoldRows<kTile>(from + (d + i) * dv, S + (d + i) * dv, dv, kept, w + i, U(block, 0), stride);
      for (; i < count; ++i)
        FoldRows<1>(from + (d + i) * dv, S + (d + i) * dv, dv, kept, w + i, U(block, 0), stride);
    }
  }

  void Run() const {
    const GdnBlock* block = &state.block;
    for (int64_t index = 0; index < GdnSegment::Count(run); ++index) {
      const GdnSegment segment(run, index);
      alignas(64) float c[kGdnBlock] = {};
      Rows(*block, segment, c);
      if (segment.at + segment.rows < kGdnBlock) continue;
      Fold(*block, segment, c);
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
  float* dots = workspace.Take<float>(rows * key_heads * 2 * kGdnBlock);
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
  const auto keys_of = [&](int64_t s, int64_t head) {
    return GdnKeys{shape, runs.data()[s], states.data()[s], c, dots, head};
  };
  int64_t segments = 0;  // of the longest run
  for (int64_t s = 0; s < count; ++s) {
    const int64_t own = GdnSegment::Count(runs.data()[s]);
    if (own > segments) segments = own;
  }
  // Norms, and products with the rows of a block in front.
  const int64_t key_work = rows * key_heads * Parts(dk, 16) * (24 + kGdnBlock);
  RunParts(pool, count * segments * key_heads, key_work, [&](int64_t item) {
    const int64_t s = item / key_heads / segments, index = item / key_heads % segments;
    if (index < GdnSegment::Count(runs.data()[s]))
      keys_of(s, item % key_heads).Run(GdnSegment(runs.data()[s], index), query_scale);
  });
  pool.Run(count * shape.value_heads, [&](int64_t item) {
    const int64_t s = item / shape.value_heads, head = item % shape.value_heads;
    const GdnKeys keys = keys_of(s, head / (shape.value_heads / key_heads));
    const GdnHead one{shape, runs.data()[s],      states.data()[s],      keys, b,
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
