// Attention over paged KV of one instruction set. NUMERICS, Attention. Included by one .cc file, inside its
// anonymous namespace.

// Element index of (page, head, position in page, 0).
PACELINE_INLINE int64_t KvOffset(const AttentionShape& shape, int64_t page, int64_t head, int64_t position) {
  return ((page * shape.kv_heads + head) * kAttentionBlock + position % kAttentionBlock) * shape.head_dim;
}

PACELINE_INLINE void StoreKv(KvDtype dtype, void* pages, int64_t at, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    const F v = LoadUpTo(x + i, left);
    if (dtype == KvDtype::kF32) {
      StoreUpTo(static_cast<float*>(pages) + at + i, v, left);
      continue;
    }
    uint16_t* to = static_cast<uint16_t*>(pages) + at + i;
    if (left >= 16) {
      StoreLow16(to, ToBf16Lanes(v));
    } else {
      uint16_t last[16];
      StoreLow16(last, ToBf16Lanes(v));
      for (int64_t j = 0; j < left; ++j) to[j] = last[j];
    }
  }
}

void WriteKv(ThreadPool& pool, const AttentionShape& shape, const KvPages& kv, std::span<const RowRun> runs,
             const float* k, const float* v) {
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    pool.Run(int64_t{run.rows} * shape.kv_heads, [&](int64_t item) {
      const int64_t position = run.first_position + item / shape.kv_heads;
      const int64_t to =
          KvOffset(shape, run.pages[position / kAttentionBlock], item % shape.kv_heads, position);
      const int64_t from = (int64_t{run.first_row} * shape.kv_heads + item) * shape.head_dim;
      StoreKv(kv.dtype, kv.k, to, k + from, shape.head_dim);
      StoreKv(kv.dtype, kv.v, to, v + from, shape.head_dim);
    });
  }
}

struct BlockResult {
  float m, l;
};

// o [count][NV * 16 or fewer] of one stretch of head dims: positions ascending, lanes over head dims.
template <int NV>
PACELINE_INLINE void WeighValues(KvDtype dtype, const void* v, int64_t at, int64_t dim, const float* p,
                                 int64_t positions, int64_t first, float* o) {
  F sums[NV];
  for (int j = 0; j < NV; ++j) sums[j] = Zero();
  for (int64_t pos = 0; pos < positions; ++pos) {
    const F weight = Set1(p[pos]);
    for (int j = 0; j < NV; ++j) {
      const int64_t i = first + j * 16, from = at + pos * dim + i;
      const F value = dtype == KvDtype::kBF16 ? LoadBf16UpTo(static_cast<const uint16_t*>(v) + from, dim - i)
                                              : LoadUpTo(static_cast<const float*>(v) + from, dim - i);
      sums[j] = Fma(weight, value, sums[j]);
    }
  }
  for (int j = 0; j < NV; ++j) StoreUpTo(o + first + j * 16, sums[j], dim - first - j * 16);
}

// One query against positions [0, positions) of one page. o [head_dim].
inline BlockResult AttendBlock(const AttentionShape& shape, const KvPages& kv, int64_t page, int64_t kv_head,
                               int64_t positions, float scale, const float* q, float* o) {
  const int64_t dim = shape.head_dim;
  const int64_t at = KvOffset(shape, page, kv_head, 0);
  alignas(64) float p[kAttentionBlock];  // [positions]
  int64_t pos = 0;
  for (; dim % 16 == 0 && pos + 4 <= positions; pos += 4) {
    const int64_t from = at + pos * dim;
    if (kv.dtype == KvDtype::kBF16) {
      FourDotProducts<ElementBf16>(q, static_cast<const uint8_t*>(kv.k) + from * 2, dim, p + pos);
    } else {
      FourDotProducts<ElementF32>(q, static_cast<const uint8_t*>(kv.k) + from * 4, dim, p + pos);
    }
    for (int j = 0; j < 4; ++j) p[pos + j] = p[pos + j] * scale;
  }
  for (; pos < positions; ++pos) {
    const int64_t from = at + pos * dim;
    const float dot = kv.dtype == KvDtype::kBF16
                          ? DotProductBf16(q, static_cast<const uint16_t*>(kv.k) + from, dim)
                          : DotProduct(q, static_cast<const float*>(kv.k) + from, dim);
    p[pos] = dot * scale;
  }
  BlockResult result;
  result.m = Largest(p, positions);
  for (int64_t i = 0; i < positions; i += 16)
    StoreUpTo(p + i, ExpLanes(Sub(LoadUpTo(p + i, positions - i), Set1(result.m))), positions - i);
  result.l = 0;
  for (pos = 0; pos < positions; ++pos) result.l = result.l + p[pos];
  int64_t i = 0;
  for (; i + 64 <= dim; i += 64) WeighValues<4>(kv.dtype, kv.v, at, dim, p, positions, i, o);
  for (; i < dim; i += 16) WeighValues<1>(kv.dtype, kv.v, at, dim, p, positions, i, o);
  return result;
}

// Merges a later block into (total, o).
PACELINE_INLINE void MergeBlock(BlockResult& total, float* o, BlockResult block, const float* block_o,
                                int64_t dim) {
  const float merged = Larger(total.m, block.m);
  const float old_share = ExpOne(total.m - merged), new_share = ExpOne(block.m - merged);
  total.l = __builtin_fmaf(block.l, new_share, total.l * old_share);
  for (int64_t i = 0; i < dim; i += 16) {
    const F old = Mul(LoadUpTo(o + i, dim - i), Set1(old_share));
    StoreUpTo(o + i, Fma(LoadUpTo(block_o + i, dim - i), Set1(new_share), old), dim - i);
  }
  total.m = merged;
}
PACELINE_INLINE void DivideBy(float* o, float l, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16) StoreUpTo(o + i, Div(LoadUpTo(o + i, dim - i), Set1(l)), dim - i);
}

// Few queries: every (row, head, block) is a part, and a second pass merges.
inline void AttendByBlock(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                          const KvPages& kv, const RowRun& run, float scale, const float* q, float* out) {
  const int64_t dim = shape.head_dim, shared = shape.heads / shape.kv_heads;
  const int64_t queries = int64_t{run.rows} * shape.heads;
  const int64_t blocks = Parts(run.first_position + run.rows, kAttentionBlock);
  BlockResult* results = workspace.Take<BlockResult>(queries * blocks);
  float* o = workspace.Take<float>(queries * blocks * dim);
  const int64_t base = int64_t{run.first_row} * shape.heads;
  pool.Run(queries * blocks, [&](int64_t item) {
    // Queries vary fastest: heads that share keys follow each other.
    const int64_t query = item % queries, block = item / queries;
    const int64_t last = run.first_position + query / shape.heads;
    if (block * kAttentionBlock > last) return;
    const int64_t at = query * blocks + block;
    results[at] = AttendBlock(shape, kv, run.pages[block], query % shape.heads / shared,
                              Least(kAttentionBlock, last + 1 - block * kAttentionBlock), scale,
                              q + (base + query) * dim, o + at * dim);
  });
  pool.Run(queries, [&](int64_t query) {
    const int64_t used = (run.first_position + query / shape.heads) / kAttentionBlock + 1;
    BlockResult total = results[query * blocks];
    float* first = o + query * blocks * dim;
    for (int64_t b = 1; b < used; ++b)
      MergeBlock(total, first, results[query * blocks + b], first + b * dim, dim);
    DivideBy(first, total.l, dim);
    float* to = out + (base + query) * dim;
    for (int64_t i = 0; i < dim; i += 16) StoreUpTo(to + i, LoadUpTo(first + i, dim - i), dim - i);
  });
}

// Many queries: every (row, head) is a part and merges as it goes.
inline void AttendByQuery(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                          const KvPages& kv, const RowRun& run, float scale, const float* q, float* out) {
  const int64_t dim = shape.head_dim, shared = shape.heads / shape.kv_heads;
  const int64_t base = int64_t{run.first_row} * shape.heads;
  const int64_t queries = int64_t{run.rows} * shape.heads;
  float* block_o = workspace.Take<float>(queries * dim);
  pool.Run(queries, [&](int64_t item) {
    // Rows vary fastest: they read the same keys.
    const int64_t row = item % run.rows, head = item / run.rows, query = row * shape.heads + head;
    const int64_t last = run.first_position + row;
    float* to = out + (base + query) * dim;
    float* own = block_o + query * dim;
    BlockResult total = {0, 0};
    for (int64_t begin = 0; begin <= last; begin += kAttentionBlock) {
      const BlockResult block = AttendBlock(shape, kv, run.pages[begin / kAttentionBlock], head / shared,
                                            Least(kAttentionBlock, last + 1 - begin), scale,
                                            q + (base + query) * dim, begin == 0 ? to : own);
      if (begin == 0) {
        total = block;
      } else {
        MergeBlock(total, to, block, own, dim);
      }
    }
    DivideBy(to, total.l, dim);
  });
}

void Attention(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, const KvPages& kv,
               std::span<const RowRun> runs, const float* q, float* out) {
  const float scale = 1.0f / SquareRoot(static_cast<float>(shape.head_dim));
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    if (run.rows == 0) continue;
    if (int64_t{run.rows} * shape.heads < 8 * int64_t{pool.threads()}) {
      AttendByBlock(pool, workspace, shape, kv, run, scale, q, out);
    } else {
      AttendByQuery(pool, workspace, shape, kv, run, scale, q, out);
    }
  }
}
