// Panels of integer weights by tile products, on machines with AMX and on its emulator, for as many rows as
// make tiles the faster way. NUMERICS: Integer linears, Exact sum. Included by one .cc file, inside its
// anonymous namespace, behind leaves.h and tile_rows.h.
//
// A line of packed INT4 weights holds 16 outputs x 8 inputs; its low and high nibbles are two rows of a B
// tile, so that 8 lines become one tile of 64 inputs in the nearest cache. INT8 weights lie as tiles already.
// A row of activations is one tile row per plane, the planes of a row next to each other.
//
// A term, at most 128 inputs or two B tiles, of one panel and one tile of rows is a unit of work. Whatever
// goes through memory on its way to the tile unit, or back, is not there for some hundred cycles, and a core
// looks ahead over little more than a unit. So panels are swept four at a time, which share a tile of
// activations, and a unit starts its own products, makes the weights of its panel's next term, stores the
// sums of three units ago and adds up those of four ago.

constexpr int64_t kTileOctets = 8;  // octets of one B tile
constexpr int64_t kTilePanels = 4;  // swept together
constexpr int64_t kSweepRows = 64;  // rows that pass by one unpacked term
constexpr int64_t kLeafRows = 32;   // the same, where a row's sums are twice as wide
constexpr int64_t kTileAhead =
    8192;                           // bytes of a panel between a prefetch, into the second cache, and its use
constexpr int64_t kInt8Line = 128;  // bytes of an octet of INT8 weights
constexpr int64_t kInt4Line = 64;

// The B tile of fewer than 8 octets at `from`, in `memory`. Octets that the tile has and the term has not are
// zeros: whatever codes stand there, they add nothing.
template <bool int4>
__attribute__((noinline)) void PartOfTile(const uint8_t* from, int64_t octets, uint8_t* memory) {
  for (int64_t i = 0; i < kTileBytes; i += 64) ZeroLine(memory + i);
  for (int64_t o = 0; o < octets; ++o) {
    uint8_t* to = memory + o * 128;
    if (int4) {
      const I raw = LoadI(from + o * kInt4Line), low4 = SetI(0x0F0F0F0F);
      Store(reinterpret_cast<float*>(to), CastF(And(raw, low4)));
      Store(reinterpret_cast<float*>(to + 64), CastF(And(Shr<4>(raw), low4)));
    } else {
      CopyLine(to, from + o * kInt8Line);
      CopyLine(to + 64, from + o * kInt8Line + 64);
    }
  }
}
// The B tile of up to 8 octets at `from`, 64 bytes a row; asks for as much at `ahead`.
template <bool int4>
PACELINE_INLINE const uint8_t* TileOfWeights(const uint8_t* from, int64_t octets, const uint8_t* ahead,
                                             uint8_t* memory) {
  constexpr int64_t kLine = int4 ? kInt4Line : kInt8Line;
  PACELINE_UNROLL
  for (int64_t i = 0; i < kTileOctets * kLine; i += 64) PrefetchFar(ahead + i);
  if (octets < kTileOctets) {
    PartOfTile<int4>(from, octets, memory);
    return memory;
  }
  if (!int4) return from;
  const I low4 = SetI(0x0F0F0F0F);
  PACELINE_UNROLL
  for (int64_t o = 0; o < kTileOctets; ++o) {
    const I raw = LoadI(from + o * kInt4Line);
    Store(reinterpret_cast<float*>(memory + o * 128), CastF(And(raw, low4)));
    Store(reinterpret_cast<float*>(memory + o * 128 + 64), CastF(And(Shr<4>(raw), low4)));
  }
  return memory;
}

// Up to kTilePanels panels from `panel` on; `next` is where the first of those stands that are read next.
struct TilePanels {
  const Matrix* m;
  int64_t panel;
  const uint8_t* next;
};
// Rows of prepared codes, at most 64.
struct SweptRows {
  const TileRowShape* shape;
  const int8_t* const* rows;
  int64_t count;
};

// A term and a tile of rows, as the sums that come back need them.
struct TileStep {
  const Term* term;
  int64_t group;       // of the sweep
  int64_t octet_sum;   // index of the sum of codes in front of the term
  int64_t first, end;  // rows of the sweep
  int64_t skipped;     // rows by which the tile starts earlier
};

// Adds up a panel's `sums` [tile rows][16] of a step: `add(row, panel, term, sum, weights' scale, row's
// scale)`.
template <int planes, class Add>
PACELINE_INLINE void AddSumsOf(const TilePanels& at, const SweptRows& of, const TileStep& step, int64_t panel,
                               const int32_t* sums, const Add& add) {
  const Matrix& m = *at.m;
  const int64_t scale_at = ((at.panel + panel) * m.groups + step.term->group) * kLanes;
  const F scale = add.Scale(ScalesAt(m, scale_at));
  const bool zeros = m.zeros != nullptr;
  const I zero = zeros ? LoadU8(m.zeros + scale_at) : ZeroI();
  const uint32_t one_zero = static_cast<uint32_t>(m.zero);
  const int8_t* const* rows = of.rows;
  const int64_t before = of.shape->sums_at + step.octet_sum * 4, behind = before + step.term->octets * 4;
  const int64_t row_scale = of.shape->scales_at + step.group * 4;
  const int32_t* own = sums + step.skipped * planes * kLanes;
  for (int64_t r = step.first; r < step.end; ++r, own += planes * kLanes) {
    const int8_t* row = rows[r];
    const auto sum_at = [=](int64_t at_byte) __attribute__((always_inline)) {
      uint32_t sum;
      __builtin_memcpy(&sum, row + at_byte, 4);
      return sum;
    };
    const uint32_t sum = sum_at(behind) - sum_at(before);
    I exact = LoadI(own);
    if (planes == 2) exact = AddI(Shl<8>(exact), LoadI(own + kLanes));
    if (zeros) {
      exact = SubI(exact, MulI(zero, SetI(static_cast<int32_t>(sum))));
    } else {
      exact = SubI(exact, SetI(static_cast<int32_t>(one_zero * sum)));
    }
    add(r, panel, *step.term, ToFloat(exact), scale, Set1(*reinterpret_cast<const float*>(row + row_scale)));
  }
}

template <int n>
struct Index {
  static constexpr int value = n;
};
// body(Index<0>) to body(Index<P - 1>).
template <int P, int p = 0, class Body>
PACELINE_INLINE void ForPanels(const Body& body) {
  body(Index<p>{});
  if constexpr (p + 1 < P) ForPanels<P, p + 1>(body);
}

// Bytes between the rows of a tile when `rows` lie evenly, or 0.
PACELINE_INLINE int64_t RowPitch(const int8_t* const* rows, int64_t count, const TileRowShape& shape) {
  if (count == 1) return shape.plane_bytes;
  const int64_t distance = shape.planes == 2 ? shape.row_bytes : rows[1] - rows[0];
  for (int64_t i = 0; i + 1 < count; ++i) {
    if (rows[i + 1] - rows[i] != distance) return 0;
  }
  return distance / shape.planes;
}

// Terms [begin, end) of P panels. The prepared rows start at the first octet and activation group of the
// first term.
template <bool int4, int planes, int P, class Add>
inline void TileSweep(const TilePanels& at, int32_t begin, int32_t end, const SweptRows& of, const Add& add) {
  constexpr int64_t kRows = kTileRows / planes;  // of activations in a full tile
  constexpr int64_t kLine = int4 ? kInt4Line : kInt8Line;
  static_assert(P == 1 || P % 2 == 0, "registers go by turns");
  const Matrix& m = *at.m;
  alignas(64) uint8_t lines[2][P][2][kTileBytes];  // of two terms by turns
  const uint8_t* weights[2][P][2];                 // where the B tiles of two terms stand
  alignas(64) int8_t gathered[kTileRows * 128];
  alignas(64) int32_t sums[P][kTileRows * kLanes];
  const int64_t tiles = Parts(of.count, kRows), height = Parts(of.count, tiles);
  // The last tile starts early enough to be full; rows that it shares are added once.
  const auto first_row = [&](int64_t tile) __attribute__((always_inline)) {
    return Least(tile * height, of.count - height);
  };
  int64_t pitches[kSweepRows / kRows];
  for (int64_t tile = 0; tile < tiles; ++tile)
    pitches[tile] = RowPitch(of.rows + first_row(tile), height, *of.shape);

  const uint8_t* data = m.data + at.panel * m.panel_bytes;
  const int64_t read_begin = m.terms[begin].first_octet * kLine;
  const int64_t read_end = (m.terms[end - 1].first_octet + m.terms[end - 1].octets) * kLine;
  const int64_t scale_bytes = m.scale_format == ScaleFormat::kF32 ? 4 : 2;
  const auto unpack = [&](int32_t t, int p) __attribute__((always_inline)) {
    const Term& term = m.terms[t];
    const int64_t from = term.first_octet * kLine, ahead = from + kTileAhead;
    const uint8_t* panel = data + p * m.panel_bytes;
    const uint8_t* then =
        ahead < read_end ? panel + ahead : at.next + p * m.panel_bytes + read_begin + (ahead - read_end);
    weights[t % 2][p][0] =
        TileOfWeights<int4>(panel + from, Least(term.octets, kTileOctets), then, lines[t % 2][p][0]);
    if (term.octets > kTileOctets) {
      weights[t % 2][p][1] =
          TileOfWeights<int4>(panel + from + kTileOctets * kLine, term.octets - kTileOctets,
                              then + kTileOctets * kLine, lines[t % 2][p][1]);
    }
    // The same term's of the panels that come next.
    PrefetchFar(static_cast<const uint8_t*>(m.scales) +
                ((at.panel + P + p) * m.groups + term.group) * kLanes * scale_bytes);
  };

  const int64_t base = m.terms[begin].first_octet, base_group = m.terms[begin].activation_group;
  TileStep before = {m.terms + begin, 0, 0, 0, 0, 0};
  ShapeTilesForIntegers(height * planes);
  ZeroTile<kC0>();
  ZeroTile<kC0 + 1>();
  for (int p = 0; p < P; ++p) unpack(begin, p);
  for (int32_t t = begin; t < end; ++t) {
    const Term* term = m.terms + t;
    const bool second = term->octets > kTileOctets;
    const int64_t octet = term->first_octet - base, group = term->activation_group - base_group;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t first = first_row(tile);
      const int8_t* codes = of.rows[first] + octet * kOctet;
      int64_t pitch = pitches[tile];
      if (pitch == 0) {
        pitch = 128;
        codes = gathered;
        for (int64_t i = 0; i < height * planes; ++i) {
          const int8_t* row =
              of.rows[first + i / planes] + i % planes * of.shape->plane_bytes + octet * kOctet;
          CopyLine(gathered + i * 128, row);
          if (second) CopyLine(gathered + i * 128 + 64, row + 64);
        }
      }
      LoadTile<kA0>(codes, pitch);
      if (second) LoadTile<kA1>(codes + 64, pitch);
      const bool ahead = tile == 0 && t + 1 < end;
      const TileStep now = {term,
                            group,
                            octet + group,
                            tile * height,
                            Least(of.count, (tile + 1) * height),
                            tile * height - first};
      ForPanels<P>([&](auto which) __attribute__((always_inline)) {
        constexpr int p = which.value, turn = p % 2;
        constexpr int c = kC0 + turn, b = kB0 + 2 * turn;
        LoadTile<b>(weights[t % 2][p][0], 64);
        if (second) LoadTile<b + 1>(weights[t % 2][p][1], 64);
        if (P > 1) StoreTile<kC0 + 1 - turn>(sums[(p + P - 1) % P], 64);
        ZeroTile<c>();
        DotSignedUnsigned<c, kA0, b>();
        if (second) DotSignedUnsigned<c, kA1, b + 1>();
        if (ahead) unpack(t + 1, p);
        if (P == 1) {
          AddSumsOf<planes>(at, of, before, 0, sums[0], add);
          StoreTile<c>(sums[0], 64);
        } else {
          constexpr int oldest = (p + P - 2) % P;
          AddSumsOf<planes>(at, of, p < 2 ? before : now, oldest, sums[oldest], add);
        }
      });
      before = now;
    }
  }
  if (P == 1) return AddSumsOf<planes>(at, of, before, 0, sums[0], add);
  StoreTile<kC0 + 1>(sums[P - 1], 64);
  AddSumsOf<planes>(at, of, before, P - 2, sums[P - 2], add);
  AddSumsOf<planes>(at, of, before, P - 1, sums[P - 1], add);
}

template <int P, class Add>
PACELINE_INLINE void Sweep(const TilePanels& at, int32_t begin, int32_t end, const SweptRows& of,
                           const Add& add) {
  const bool two = of.shape->planes == 2;
  if (at.m->format == WeightFormat::kInt4) {
    if (two) return TileSweep<true, 2, P>(at, begin, end, of, add);
    return TileSweep<true, 1, P>(at, begin, end, of, add);
  }
  if (two) return TileSweep<false, 2, P>(at, begin, end, of, add);
  TileSweep<false, 1, P>(at, begin, end, of, add);
}

// Sums over all inputs.
struct AddToTotals {
  float* totals;  // [panels][kSweepRows][16]
  static PACELINE_INLINE F Scale(F scale) { return scale; }
  PACELINE_INLINE void operator()(int64_t row, int64_t panel, const Term&, F sum, F scale,
                                  F row_scale) const {
    float* to = totals + (panel * kSweepRows + row) * kLanes;
    Store(to, Fma(sum, Mul(scale, row_scale), Load(to)));
  }
};

// Panels [first, end) for at most kSweepRows rows of whole-width codes; calls `use(row, panel, total)` with
// 16 outputs of every row. `next`: the weights that are read afterwards.
template <class Use>
PACELINE_INLINE void TilePanelsOf(const Matrix& m, int64_t first, int64_t end, const uint8_t* next,
                                  const SweptRows& of, const Use& use) {
  alignas(64) float totals[kTilePanels * kSweepRows * kLanes];
  const int32_t terms = m.first_term[ActivationGroups(m.inputs)];
  for (int64_t panel = first; panel < end;) {
    const int64_t wide = panel + kTilePanels <= end ? kTilePanels : 1;
    const TilePanels at{&m, panel, panel + wide < end ? m.data + (panel + wide) * m.panel_bytes : next};
    for (int64_t p = 0; p < wide; ++p) {
      for (int64_t r = 0; r < of.count; ++r) Store(totals + (p * kSweepRows + r) * kLanes, Zero());
    }
    if (wide == 1) {
      Sweep<1>(at, 0, terms, of, AddToTotals{totals});
    } else {
      Sweep<kTilePanels>(at, 0, terms, of, AddToTotals{totals});
    }
    for (int64_t p = 0; p < wide; ++p) {
      for (int64_t r = 0; r < of.count; ++r) use(r, panel + p, Load(totals + (p * kSweepRows + r) * kLanes));
    }
    panel += wide;
  }
}

// Leaves of the down projection, each of one term and small enough, into fixed point.
struct AddToFixed {
  Fixed* fixed;  // [panels][kLeafRows]
  // The product rounds as its sum with 0 does, but for the sign of a zero, which fixed point does not see.
  // Nor does it see a leaf so small that it rounds otherwise in larger units.
  static PACELINE_INLINE F Scale(F scale) {
    return kFixedUnits == 1.0f ? scale : Mul(scale, Set1(kFixedUnits));
  }
  PACELINE_INLINE void operator()(int64_t row, int64_t panel, const Term&, F sum, F scale,
                                  F row_scale) const {
    AddUnits(fixed[panel * kLeafRows + row], Mul(sum, Mul(scale, row_scale)));
  }
};
// Leaves of several terms, or such as may be too large, or sums without the contract.
struct AddToLeaves {
  Fixed* fixed;   // [panels][kLeafRows]
  float* totals;  // [panels][kLeafRows][16], of the leaf or without the contract of all
  bool exact;
  const Matrix* m;
  const LeafSums* to;
  const int32_t* rows;  // of the sums
  int64_t output;       // the first panel's
  static PACELINE_INLINE F Scale(F scale) { return scale; }
  PACELINE_INLINE void operator()(int64_t row, int64_t panel, const Term& term, F sum, F scale,
                                  F row_scale) const {
    const int64_t at = panel * kLeafRows + row;
    float* total = totals + at * kLanes;
    const F leaf = Fma(sum, Mul(scale, row_scale), Load(total));
    const int64_t end = term.first_octet + term.octets;
    if (!exact || (end % kGroupOctets != 0 && end < m->octets())) return Store(total, leaf);
    Store(total, Zero());
    AddChecked(leaf, to->hidden - output - panel * kLanes, fixed[at], to->row_errors + rows[row]);
  }
};

// The part of an expert's down projection that one task asks for, of rows prepared for tiles.
struct TileLeafTask {
  const Matrix* down;
  int64_t first_group, groups;
  TileRowShape shape;
  const int8_t* codes;  // [count] of shape.row_bytes
  const int32_t* rows;  // [count], of the sums
  int64_t count;
  bool large;  // a leaf may be too large, or no number
};

template <bool exact, int P>
PACELINE_INLINE void LeafSweep(const TileLeafTask& task, const TilePanels& at, int64_t row,
                               const LeafSums& to) {
  const Matrix& m = *task.down;
  Fixed fixed[P * kLeafRows];
  const int8_t* codes[kLeafRows];
  const int64_t count = Least(kLeafRows, task.count - row), output = at.panel * kLanes;
  for (int64_t r = 0; r < count; ++r) codes[r] = task.codes + (row + r) * task.shape.row_bytes;
  for (int64_t i = 0; i < P * kLeafRows; ++i) fixed[i] = ZeroFixed();
  const int32_t begin = m.first_term[task.first_group], end = m.first_term[task.first_group + task.groups];
  const SweptRows of{&task.shape, codes, count};
  if (P > 1 && exact && !task.large && end - begin == task.groups) {
    if constexpr (P > 1) Sweep<P>(at, begin, end, of, AddToFixed{fixed});  // what nearly all panels take
  } else {
    alignas(64) float totals[P * kLeafRows * kLanes];
    for (int64_t i = 0; i < P * kLeafRows; ++i) Store(totals + i * kLanes, Zero());
    Sweep<P>(at, begin, end, of, AddToLeaves{fixed, totals, exact, &m, &to, task.rows + row, output});
    for (int64_t i = 0; !exact && i < P * count; ++i) {
      const int64_t left = to.hidden - output - i / count * kLanes;
      float* sum = to.loose + task.rows[row + i % count] * to.hidden + output + i / count * kLanes;
      const F total = Load(totals + (i / count * kLeafRows + i % count) * kLanes);
      StoreUpTo(sum, Add(LoadUpTo(sum, left), total), left);
    }
  }
  for (int64_t p = 0; exact && p < P; ++p) {
    for (int64_t r = 0; r < count; ++r)
      AddSums(fixed[p * kLeafRows + r], to.hidden - output - p * kLanes,
              to.sums + task.rows[row + r] * to.hidden + output + p * kLanes);
  }
}

// Hidden outputs [begin, end), multiples of 64 but for the last; `next`: what is read afterwards.
template <bool exact>
inline void DownByTileProducts(const TileLeafTask& task, int64_t begin, int64_t end, const uint8_t* next,
                               const LeafSums& to) {
  const Matrix& m = *task.down;
  const int64_t panels = Parts(end, kLanes);
  for (int64_t panel = begin / kLanes; panel < panels;) {
    const int64_t wide = panel + kTilePanels <= panels ? kTilePanels : 1;
    const TilePanels at{&m, panel, panel + wide < panels ? m.data + (panel + wide) * m.panel_bytes : next};
    for (int64_t row = 0; row < task.count; row += kLeafRows) {
      if (wide == 1) {
        LeafSweep<exact, 1>(task, at, row, to);
      } else {
        LeafSweep<exact, kTilePanels>(task, at, row, to);
      }
    }
    panel += wide;
  }
}
