// Attention over keys and values in codes, and the entry points of attention, of one instruction set. Scores
// are integer dot products of a query's codes with keys, outputs of the weights' codes with values: both read
// panels as integer linears do (kernels/kv_codes.h). NUMERICS, Attention over codes. Included by one .cc
// file, inside its anonymous namespace, behind attention.h.

// kKvLevels as bytes are stored.
alignas(16) constexpr uint8_t kStoredLevels[16] = {
    kKvZero + kKvLevels[0],  kKvZero + kKvLevels[1],  kKvZero + kKvLevels[2],  kKvZero + kKvLevels[3],
    kKvZero + kKvLevels[4],  kKvZero + kKvLevels[5],  kKvZero + kKvLevels[6],  kKvZero + kKvLevels[7],
    kKvZero + kKvLevels[8],  kKvZero + kKvLevels[9],  kKvZero + kKvLevels[10], kKvZero + kKvLevels[11],
    kKvZero + kKvLevels[12], kKvZero + kKvLevels[13], kKvZero + kKvLevels[14], kKvZero + kKvLevels[15]};

// Codes of one vector as dot products read them, [octets][4]; octets beyond `count` elements are filled up
// with zeros. Returns what a sum starts with: stored bytes are kKvZero too large.
PACELINE_INLINE int32_t PrepareVector(int16_t* codes, int64_t count, int32_t* to) {
  const int64_t octets = Parts(count, kOctet);
  for (int64_t i = count; i < octets * kOctet; ++i) codes[i] = 0;
  __m128i sums = _mm_setzero_si128();
  for (int64_t o = 0; o < octets; ++o) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + o * kOctet));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 4 * o), PrepareCodes(eight));
    sums = _mm_add_epi32(sums, _mm_madd_epi16(eight, _mm_set1_epi16(1)));
  }
  const __m128i two = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4E));
  const __m128i one = _mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1));
  return _mm_cvtsi128_si32(one) * -kKvZero;
}

// Integer sums of the sixteen outputs of one panel for R prepared vectors.
template <bool int4, int R>
PACELINE_INLINE void SumPanel(const uint8_t* panel, int64_t octets, const int32_t* const* codes,
                              const int32_t* starts, I* exact) {
  Dot dots[R];
  PACELINE_UNROLL
  for (int r = 0; r < R; ++r) dots[r] = StartDot(SetI(starts[r]));
  for (int64_t o = 0; o < octets; ++o) {
    Operand first, second;
    if (int4) {
      const I raw = Once(LoadI(panel + o * kKvLine));
      const I nibbles = SetI(0x0F0F0F0F);
      first = Whole8(LookUpBytes(kStoredLevels, And(raw, nibbles)));
      second = Whole8(LookUpBytes(kStoredLevels, And(Shr<4>(raw), nibbles)));
    } else {
      first = Whole8(LoadI(panel + 2 * o * kKvLine));
      second = Whole8(LoadI(panel + (2 * o + 1) * kKvLine));
    }
    PACELINE_UNROLL
    for (int r = 0; r < R; ++r) {
      AccumulateAt(dots[r], first, codes[r] + 4 * o);
      AccumulateAt(dots[r], second, codes[r] + 4 * o + 2);
    }
  }
  PACELINE_UNROLL
  for (int r = 0; r < R; ++r) exact[r] = Finish(dots[r]);
}

// R queries against the codes of one page and head.
struct CodePage {
  const uint8_t* k;       // panels of positions
  const uint8_t* v;       // panels of head dims
  const float* k_scales;  // [kAttentionBlock]
  const float* v_scales;  // [kAttentionBlock]
};
struct PreparedQueries {
  int32_t* codes;   // [queries of the run][head_dim / 2]
  int32_t* starts;  // [queries of the run]
  float* factors;   // [queries of the run], scale of the codes / sqrt(head_dim)
  int64_t first;    // the run's first query
};
template <bool int4, int R>
__attribute__((noinline)) void AttendCodes(const CodePage& page, const PreparedQueries& prepared, int64_t dim,
                                           BlockQuery* queries) {
  constexpr int64_t kInputBytes = int4 ? 8 : 16;  // of a panel, by input
  alignas(64) float p[R * kAttentionBlock];
  const int32_t* codes[R];
  int32_t starts[R];
  float factors[R];
  int64_t common = queries[0].positions, most = common;
  for (int r = 0; r < R; ++r) {
    const int64_t query = queries[r].query - prepared.first;
    codes[r] = prepared.codes + query * (dim / 2);
    starts[r] = prepared.starts[query];
    factors[r] = prepared.factors[query];
    common = Least(common, queries[r].positions);
    if (queries[r].positions > most) most = queries[r].positions;
  }
  // Positions behind the last one are in the page too; what comes of them is never read.
  for (int64_t pos = 0; pos < most; pos += 16) {
    I exact[R];
    SumPanel<int4, R>(page.k + pos / 16 * dim * kInputBytes, dim / kOctet, codes, starts, exact);
    const F scales = Load(page.k_scales + pos);
    for (int r = 0; r < R; ++r)
      Store(p + r * kAttentionBlock + pos, Mul(ToFloat(exact[r]), Mul(scales, Set1(factors[r]))));
  }
  WeighPositions<R>(common, p, queries);
  alignas(64) int32_t weights[R][kAttentionBlock / 2];
  float scales[R];
  for (int r = 0; r < R; ++r) {
    float* own = p + r * kAttentionBlock;
    const int64_t positions = queries[r].positions;
    for (int64_t i = 0; i < positions; i += 16) {
      const int64_t left = positions - i;
      StoreUpTo(own + i, Mul(LoadUpTo(own + i, left), LoadUpTo(page.v_scales + i, left)), left);
    }
    alignas(64) int16_t own_codes[kAttentionBlock];
    QuantiseGroup(own, positions, TopCode(ActivationContract::kInt16), own_codes, &scales[r]);
    for (int64_t i = positions; i < most; ++i) own_codes[i] = 0;
    starts[r] = PrepareVector(own_codes, most, weights[r]);
    codes[r] = weights[r];
  }
  for (int64_t d = 0; d < dim; d += 16) {
    I exact[R];
    SumPanel<int4, R>(page.v + d / 16 * kAttentionBlock * kInputBytes, Parts(most, kOctet), codes, starts,
                      exact);
    for (int r = 0; r < R; ++r) Store(queries[r].o + d, Mul(ToFloat(exact[r]), Set1(scales[r])));
  }
}

// Pages of codes, as AttendRuns reads them.
class CodePages {
 public:
  static constexpr int kQueries = kCodeQueries;
  CodePages(const AttentionShape& shape, const KvPages& kv, const float* q) : shape_(shape), kv_(kv), q_(q) {}

  void Prepare(ThreadPool& pool, Workspace& workspace, const RowRun& run) {
    const int64_t dim = shape_.head_dim, queries = int64_t{run.rows} * shape_.heads;
    prepared_.codes = workspace.Take<int32_t>(queries * (dim / 2));
    prepared_.starts = workspace.Take<int32_t>(queries);
    prepared_.factors = workspace.Take<float>(queries);
    prepared_.first = int64_t{run.first_row} * shape_.heads;
    const float root = 1.0f / SquareRoot(static_cast<float>(dim));
    RunParts(pool, queries, queries * dim / 16 * 20, [&](int64_t query) {
      alignas(64) float rotated[kKvLargestHead];
      alignas(64) int16_t codes[kKvLargestHead];
      const float* own = q_ + (prepared_.first + query) * dim;
      if (kv_.dtype == KvDtype::kInt4) {
        for (int64_t i = 0; i < dim; i += 16) Store(rotated + i, Load(own + i));
        RotateHead(rotated, dim);
        own = rotated;
      }
      float scale;
      QuantiseGroup(own, dim, TopCode(ActivationContract::kInt16), codes, &scale);
      prepared_.starts[query] = PrepareVector(codes, dim, prepared_.codes + query * (dim / 2));
      prepared_.factors[query] = scale * root;
    });
  }
  PACELINE_INLINE void Attend(int64_t page, int64_t kv_head, int64_t count, BlockQuery* queries) const {
    const int64_t vectors = (page * shape_.kv_heads + kv_head) * kAttentionBlock;
    const int64_t at = vectors * shape_.head_dim / (kv_.dtype == KvDtype::kInt4 ? 2 : 1);
    const CodePage of{static_cast<const uint8_t*>(kv_.k) + at, static_cast<const uint8_t*>(kv_.v) + at,
                      kv_.k_scales + vectors, kv_.v_scales + vectors};
    if (kv_.dtype == KvDtype::kInt4) {
      AttendAs<true>(of, count, queries);
    } else {
      AttendAs<false>(of, count, queries);
    }
  }
  PACELINE_INLINE void Finish(float* o, float l) const {
    DivideBy(o, l, shape_.head_dim);
    if (kv_.dtype == KvDtype::kInt4) RotateHead(o, shape_.head_dim);
  }

 private:
  template <bool int4>
  PACELINE_INLINE void AttendAs(const CodePage& page, int64_t count, BlockQuery* queries) const {
    for (; count >= kQueries; count -= kQueries, queries += kQueries)
      AttendCodes<int4, kQueries>(page, prepared_, shape_.head_dim, queries);
    for (; kQueries > 4 && count >= 4; count -= 4, queries += 4)
      AttendCodes<int4, 4>(page, prepared_, shape_.head_dim, queries);
    for (; count >= 2; count -= 2, queries += 2)
      AttendCodes<int4, 2>(page, prepared_, shape_.head_dim, queries);
    for (; count > 0; --count) AttendCodes<int4, 1>(page, prepared_, shape_.head_dim, queries++);
  }

  const AttentionShape& shape_;
  const KvPages& kv_;
  const float* q_;  // [rows, heads, head_dim]
  PreparedQueries prepared_ = {};
};

// Indices into kKvLevels of one head vector; returns what the levels are multiples of.
inline float QuantiseRotated(const float* x, int64_t dim, int16_t* codes) {
  alignas(64) float y[kKvLargestHead], levels[kKvLargestHead];
  for (int64_t i = 0; i < dim; i += 16) Store(y + i, Load(x + i));
  RotateHead(y, dim);
  const float sum = DotProduct(y, y, dim);
  const bool finite = sum < __builtin_inff();
  if (!finite || sum < kSmallestMax) {
    for (int64_t i = 0; i < dim; ++i) codes[i] = 0;
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float step = SquareRoot(sum / static_cast<float>(dim)) * (1.0f / kKvSigma);
  for (int64_t i = 0; i < dim; i += 16) {
    const F z = Div(Load(y + i), Set1(step));
    const F magnitude = Abs(z);
    I index = ZeroI();
    for (const float middle : kKvMiddles)
      index = SelectI(Less(Set1(middle), magnitude), AddI(index, SetI(1)), index);
    StoreLow16(codes + i, SelectI(Less(z, Zero()), SubI(SetI(7), index), AddI(SetI(8), index)));
    for (int64_t j = i; j < i + 16; ++j) levels[j] = kKvLevels[codes[j]];
  }
  return sum / DotProduct(y, levels, dim);
}

// Codes of one key into the panels of its page and head: its dims are inputs.
PACELINE_INLINE void PutKey(bool int4, const int16_t* codes, int64_t dim, int64_t position, uint8_t* panels) {
  if (int4) {
    uint8_t* to = panels + position / 16 * dim * 8 + position % 16 * 4;
    for (int64_t d = 0; d < dim; d += 8, to += kKvLine) {
      for (int64_t j = 0; j < 4; ++j) to[j] = static_cast<uint8_t>(codes[d + j] | codes[d + 4 + j] << 4);
    }
    return;
  }
  uint8_t* to = panels + position / 16 * dim * 16 + position % 16 * 4;
  for (int64_t d = 0; d < dim; d += 4, to += kKvLine) {
    for (int64_t j = 0; j < 4; ++j) to[j] = static_cast<uint8_t>(codes[d + j] + kKvZero);
  }
}
// Of one value: its dims are outputs, and the neighbours of a nibble stay.
PACELINE_INLINE void PutValue(bool int4, const int16_t* codes, int64_t dim, int64_t position,
                              uint8_t* panels) {
  const int64_t lines = kAttentionBlock / (int4 ? 8 : 4);
  uint8_t* to = panels + position / (int4 ? 8 : 4) * kKvLine + position % 4;
  const int shift = position % 8 >= 4 ? 4 : 0;
  for (int64_t d = 0; d < dim; ++d) {
    uint8_t* byte = to + d / 16 * lines * kKvLine + d % 16 * 4;
    *byte = int4 ? static_cast<uint8_t>((*byte & (0xF0 >> shift)) | codes[d] << shift)
                 : static_cast<uint8_t>(codes[d] + kKvZero);
  }
}

inline void WriteCodes(ThreadPool& pool, const AttentionShape& shape, const KvPages& kv,
                       std::span<const RowRun> runs, const float* k, const float* v) {
  const int64_t dim = shape.head_dim;
  const bool int4 = kv.dtype == KvDtype::kInt4;
  Require(dim % kKvSmallestRotation == 0 && dim <= kKvLargestHead, "a head_dim that has no codes");
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    if (run.rows == 0) continue;
    // Positions of one octet share bytes, so they have one writer.
    const int64_t first = run.first_position / kOctet, end_position = run.first_position + run.rows;
    const int64_t octets = Parts(end_position, kOctet) - first;
    RunParts(pool, octets * shape.kv_heads, int64_t{run.rows} * shape.kv_heads * dim * 4, [&](int64_t item) {
      const int64_t head = item % shape.kv_heads, octet = first + item / shape.kv_heads;
      const int64_t begin = octet * kOctet < run.first_position ? run.first_position : octet * kOctet;
      const int64_t end = Least((octet + 1) * kOctet, end_position);
      alignas(64) int16_t codes[kKvLargestHead];
      for (int64_t position = begin; position < end; ++position) {
        const int64_t row = run.first_row + position - run.first_position;
        const int64_t from = (row * shape.kv_heads + head) * dim, in_page = position % kAttentionBlock;
        const int64_t vectors =
            (int64_t{run.pages[position / kAttentionBlock]} * shape.kv_heads + head) * kAttentionBlock;
        const int64_t at = vectors * dim / (int4 ? 2 : 1);
        const auto encode = [&](const float* x) __attribute__((always_inline)) {
          if (int4) return QuantiseRotated(x, dim, codes);
          float scale;
          QuantiseGroup(x, dim, TopCode(ActivationContract::kInt8), codes, &scale);
          return scale;
        };
        kv.k_scales[vectors + in_page] = encode(k + from);
        PutKey(int4, codes, dim, in_page, static_cast<uint8_t*>(kv.k) + at);
        kv.v_scales[vectors + in_page] = encode(v + from);
        PutValue(int4, codes, dim, in_page, static_cast<uint8_t*>(kv.v) + at);
      }
    });
  }
}

void WriteKv(ThreadPool& pool, const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
             const float* k, const float* v) {
  if (KvInCodes(kv.dtype)) return WriteCodes(pool, shape, kv, runs, k, v);
  WriteFloats(pool, shape, kv, runs, k, v);
}

void Attention(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, const KvPages& kv,
               std::span<const RowRun> runs, const float* q, float* out) {
  if (KvInCodes(kv.dtype)) return AttendRuns(pool, workspace, shape, CodePages(shape, kv, q), runs, out);
  AttendRuns(pool, workspace, shape, FloatPages(shape, kv, q), runs, out);
}
