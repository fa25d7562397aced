// Attention over paged KV of one instruction set: the frame, and keys and values in float dtypes. NUMERICS,
// Attention. Included by one .cc file, inside its anonymous namespace; attention_codes.h ends it.

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

inline void WriteFloats(ThreadPool& pool, const AttentionShape& shape, const KvPages& kv,
                        std::span<const RowRun> runs, const float* k, const float* v) {
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    const int64_t count = int64_t{run.rows} * shape.kv_heads;
    RunParts(pool, count, count * shape.head_dim / 16 * 16, [&](int64_t item) {
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

// Queries that share keys and values of one page: each sees its first `positions` positions.
struct BlockQuery {
  int64_t query;      // row of the step * heads + head
  float* o;           // [head_dim]
  int64_t positions;  // none: nothing is done for this query
  BlockResult result;
};

// NV vectors of head dims from `first` on of Q queries: positions ascending, lanes over head dims. p [Q]
// [kAttentionBlock].
template <class Element, int Q, int NV>
PACELINE_INLINE void WeighValues(const uint8_t* v, int64_t dim, const float* p, int64_t common, int64_t first,
                                 const BlockQuery* queries) {
  const int64_t left = NV == 1 ? dim - first : 16;
  F sums[Q][NV];
  for (int r = 0; r < Q; ++r) {
    for (int j = 0; j < NV; ++j) sums[r][j] = Zero();
  }
  const uint8_t* from = v + first * Element::kBytes;
  const int64_t step = dim * Element::kBytes;
  for (int64_t pos = 0; pos < common; ++pos) {
    F values[NV];
    for (int j = 0; j < NV; ++j)
      values[j] = ElementsUpTo<Element>(from + pos * step + j * 16 * Element::kBytes, left);
    for (int r = 0; r < Q; ++r) {
      const F weight = Set1(p[r * kAttentionBlock + pos]);
      for (int j = 0; j < NV; ++j) sums[r][j] = Fma(weight, values[j], sums[r][j]);
    }
  }
  for (int r = 0; r < Q; ++r) {
    for (int64_t pos = common; pos < queries[r].positions; ++pos) {
      const F weight = Set1(p[r * kAttentionBlock + pos]);
      for (int j = 0; j < NV; ++j)
        sums[r][j] = Fma(weight, ElementsUpTo<Element>(from + pos * step + j * 16 * Element::kBytes, left),
                         sums[r][j]);
    }
    for (int j = 0; j < NV; ++j) StoreUpTo(queries[r].o + first + j * 16, sums[r][j], left);
  }
}

// Scores become weights exp(score - largest) and their sum, for Q queries; weights [Q][kAttentionBlock] hold
// scores before. `common` positions are seen by all.
template <int Q>
PACELINE_INLINE void WeighPositions(int64_t common, float* weights, BlockQuery* queries) {
  for (int r = 0; r < Q; ++r) {
    float* own = weights + r * kAttentionBlock;
    const int64_t positions = queries[r].positions;
    queries[r].result = {Largest(own, positions), 0};
    const F largest = Set1(queries[r].result.m);
    for (int64_t i = 0; i < positions; i += 16)
      Store(own + i, ExpLanes(Sub(LoadUpTo(own + i, positions - i), largest)));
  }
  // Side by side: each of these sums waits for itself alone.
  for (int64_t pos = 0; pos < common; ++pos) {
    for (int r = 0; r < Q; ++r)
      queries[r].result.l = queries[r].result.l + weights[r * kAttentionBlock + pos];
  }
  for (int r = 0; r < Q; ++r) {
    for (int64_t pos = common; pos < queries[r].positions; ++pos)
      queries[r].result.l = queries[r].result.l + weights[r * kAttentionBlock + pos];
  }
}

// Q queries of all `q` against one page; k and v are those of its first position.
template <class Element, int Q>
void AttendTile(const uint8_t* k, const uint8_t* v, int64_t dim, float scale, const float* all_q,
                BlockQuery* queries) {
  constexpr int P = kTileSums / Q;
  static_assert(kAttentionBlock % P == 0);
  alignas(64) float p[Q * kAttentionBlock];
  int64_t common = queries[0].positions, most = common;
  const float* q[Q];
  for (int r = 0; r < Q; ++r) {
    q[r] = all_q + queries[r].query * dim;
    common = Least(common, queries[r].positions);
    if (queries[r].positions > most) most = queries[r].positions;
  }
  // Positions behind the last one are in the page too; what comes of them is never read.
  for (int64_t pos = 0; dim % 16 == 0 && pos < most; pos += P) {
    const uint8_t* keys[P];
    for (int j = 0; j < P; ++j) keys[j] = k + (pos + j) * dim * Element::kBytes;
    alignas(64) float dots[kTileSums];
    DotTile<Element, Q, P>(q, keys, dim, dots);
    for (int r = 0; r < Q; ++r) {
      for (int j = 0; j < P; ++j) p[r * kAttentionBlock + pos + j] = dots[r * P + j] * scale;
    }
  }
  for (int r = 0; dim % 16 != 0 && r < Q; ++r) {
    for (int64_t pos = 0; pos < queries[r].positions; ++pos) {
      p[r * kAttentionBlock + pos] =
          DotProductOf<Element>(q[r], k + pos * dim * Element::kBytes, dim) * scale;
    }
  }
  WeighPositions<Q>(common, p, queries);
  int64_t i = 0;
  for (; i + kTile * 16 <= dim; i += kTile * 16)
    WeighValues<Element, Q, kTile>(v, dim, p, common, i, queries);
  for (; i < dim; i += 16) WeighValues<Element, Q, 1>(v, dim, p, common, i, queries);
}

PACELINE_INLINE void DivideBy(float* o, float l, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16) StoreUpTo(o + i, Div(LoadUpTo(o + i, dim - i), Set1(l)), dim - i);
}

// Pages of float dtypes, as AttendRuns reads them.
class FloatPages {
 public:
  static constexpr int kQueries = kTile;  // that share what is read of a page
  FloatPages(const AttentionShape& shape, const KvPages& kv, const float* q)
      : shape_(shape), kv_(kv), q_(q) {}
  // Before the queries of a run are asked for.
  void Prepare(ThreadPool&, Workspace&, const RowRun&) {}
  PACELINE_INLINE void Attend(int64_t page, int64_t kv_head, int64_t count, BlockQuery* queries) const {
    if (kv_.dtype == KvDtype::kBF16) {
      AttendAs<ElementBf16>(page, kv_head, count, queries);
    } else {
      AttendAs<ElementF32>(page, kv_head, count, queries);
    }
  }
  // Makes the merged output of a query what the caller wants.
  PACELINE_INLINE void Finish(float* o, float l) const { DivideBy(o, l, shape_.head_dim); }

 private:
  template <class Element>
  PACELINE_INLINE void AttendAs(int64_t page, int64_t kv_head, int64_t count, BlockQuery* queries) const {
    const int64_t at = KvOffset(shape_, page, kv_head, 0) * Element::kBytes, dim = shape_.head_dim;
    const float scale = 1.0f / SquareRoot(static_cast<float>(dim));
    const uint8_t* k = static_cast<const uint8_t*>(kv_.k) + at;
    const uint8_t* v = static_cast<const uint8_t*>(kv_.v) + at;
    if (count == kTile) return AttendTile<Element, kTile>(k, v, dim, scale, q_, queries);
    for (; count > 0; --count) AttendTile<Element, 1>(k, v, dim, scale, q_, queries++);
  }

  const AttentionShape& shape_;
  const KvPages& kv_;
  const float* q_;  // [rows, heads, head_dim]
};

// At most Q queries of one run and KV head, by row and then head, so that positions ascend.
template <int Q>
struct QueryTile {
  QueryTile(const AttentionShape& shape, const RowRun& run, int64_t tile)
      : kv_head(tile / PerHead(shape, run)) {
    const int64_t shared = shape.heads / shape.kv_heads;
    const int64_t first = tile % PerHead(shape, run) * Q;
    count = Least(Q, run.rows * shared - first);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = (first + i) / shared;
      query[i] = row * shape.heads + kv_head * shared + (first + i) % shared;
      last[i] = run.first_position + row;
    }
  }
  static int64_t PerHead(const AttentionShape& shape, const RowRun& run) {
    return Parts(int64_t{run.rows} * (shape.heads / shape.kv_heads), Q);
  }
  static int64_t Count(const AttentionShape& shape, const RowRun& run) {
    return shape.kv_heads * PerHead(shape, run);
  }
  // Positions of the page at `begin` that query i sees; none where it is below 1.
  int64_t Seen(int64_t i, int64_t begin) const { return Least(kAttentionBlock, last[i] + 1 - begin); }

  int64_t kv_head, count;
  int64_t query[Q];  // row of the run * heads + head
  int64_t last[Q];   // last position seen
};

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
// `queries` of a tile that see positions of a page; the first ones may see none.
template <class Pages>
PACELINE_INLINE void AttendPage(const Pages& pages, int64_t page, int64_t kv_head, int64_t count,
                                BlockQuery* queries) {
  while (count > 0 && queries->positions <= 0) {
    ++queries;
    --count;
  }
  if (count > 0) pages.Attend(page, kv_head, count, queries);
}

// Few queries: every (tile, block) is a part, and a second pass merges.
template <class Pages>
inline void AttendByBlock(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                          const Pages& pages, const RowRun& run, float* out) {
  using Tile = QueryTile<Pages::kQueries>;
  const int64_t dim = shape.head_dim, tiles = Tile::Count(shape, run);
  const int64_t queries = int64_t{run.rows} * shape.heads;
  const int64_t blocks = Parts(run.first_position + run.rows, kAttentionBlock);
  BlockResult* results = workspace.Take<BlockResult>(queries * blocks);
  float* o = workspace.Take<float>(queries * blocks * dim);
  const int64_t base = int64_t{run.first_row} * shape.heads;
  pool.Run(tiles * blocks, [&](int64_t item) {
    // Tiles vary fastest: those that share keys follow each other.
    const Tile tile(shape, run, item % tiles);
    const int64_t block = item / tiles;
    BlockQuery list[Pages::kQueries];
    for (int64_t i = 0; i < tile.count; ++i)
      list[i] = {base + tile.query[i],
                 o + (tile.query[i] * blocks + block) * dim,
                 tile.Seen(i, block * kAttentionBlock),
                 {}};
    AttendPage(pages, run.pages[block], tile.kv_head, tile.count, list);
    for (int64_t i = 0; i < tile.count; ++i) results[tile.query[i] * blocks + block] = list[i].result;
  });
  pool.Run(queries, [&](int64_t query) {
    const int64_t used = (run.first_position + query / shape.heads) / kAttentionBlock + 1;
    BlockResult total = results[query * blocks];
    float* first = o + query * blocks * dim;
    for (int64_t b = 1; b < used; ++b)
      MergeBlock(total, first, results[query * blocks + b], first + b * dim, dim);
    pages.Finish(first, total.l);
    float* to = out + (base + query) * dim;
    for (int64_t i = 0; i < dim; i += 16) StoreUpTo(to + i, LoadUpTo(first + i, dim - i), dim - i);
  });
}

// Many queries, or one block: every tile is a part and merges as it goes.
template <class Pages>
inline void AttendByTile(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape,
                         const Pages& pages, const RowRun& run, float* out) {
  using Tile = QueryTile<Pages::kQueries>;
  const int64_t dim = shape.head_dim;
  const int64_t base = int64_t{run.first_row} * shape.heads;
  float* block_o = workspace.Take<float>(int64_t{run.rows} * shape.heads * dim);
  pool.Run(Tile::Count(shape, run), [&](int64_t item) {
    const Tile tile(shape, run, item);
    BlockResult totals[Pages::kQueries];
    for (int64_t begin = 0; begin <= tile.last[tile.count - 1]; begin += kAttentionBlock) {
      BlockQuery list[Pages::kQueries];
      for (int64_t i = 0; i < tile.count; ++i) {
        float* to = begin == 0 ? out + (base + tile.query[i]) * dim : block_o + tile.query[i] * dim;
        list[i] = {base + tile.query[i], to, tile.Seen(i, begin), {}};
      }
      AttendPage(pages, run.pages[begin / kAttentionBlock], tile.kv_head, tile.count, list);
      for (int64_t i = 0; i < tile.count; ++i) {
        if (begin == 0) {
          totals[i] = list[i].result;
        } else if (list[i].positions > 0) {
          MergeBlock(totals[i], out + (base + tile.query[i]) * dim, list[i].result, list[i].o, dim);
        }
      }
    }
    for (int64_t i = 0; i < tile.count; ++i) pages.Finish(out + (base + tile.query[i]) * dim, totals[i].l);
  });
}

template <class Pages>
inline void AttendRuns(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, Pages pages,
                       std::span<const RowRun> runs, float* out) {
  for (size_t s = 0; s < runs.size(); ++s) {
    const RowRun& run = runs.data()[s];
    if (run.rows == 0) continue;
    pages.Prepare(pool, workspace, run);
    const bool one_block = run.first_position + run.rows <= kAttentionBlock;
    if (!one_block && QueryTile<Pages::kQueries>::Count(shape, run) < 8 * int64_t{pool.threads()}) {
      AttendByBlock(pool, workspace, shape, pages, run, out);
    } else {
      AttendByTile(pool, workspace, shape, pages, run, out);
    }
  }
}
