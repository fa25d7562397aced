// Leaves of the down projection by tiles of rows and panels, whose sums stay in registers over all groups.
// NUMERICS, Exact sum. Included by one .cc file, inside its anonymous namespace, behind leaves.h.

// Leaves of `task` for R of its rows, from `row` on, in P panels.
template <bool exact, bool int4, int R, int P>
__attribute__((noinline)) void LeafTile(const LeafTask& task, const Panels& at, int64_t row,
                                        const LeafSums& to) {
  const Matrix& m = *task.down;
  const int32_t* rows = task.rows + row;
  Fixed fixed[P * R];
  alignas(64) float totals[P * R * kLanes];  // of a group of several terms, or without the contract of all
  for (int i = 0; i < P * R; ++i) {
    fixed[i] = ZeroFixed();
    Store(totals + i * kLanes, Zero());
  }
  for (int64_t g = 0; g < task.groups; ++g) {
    const int64_t group = task.first_group + g;
    const int32_t begin = m.first_term[group], end = m.first_term[group + 1];
    const int64_t base = m.terms[begin].first_octet;
    const PreparedRow* codes = task.codes + g * task.count + row;
    if (exact && !task.large && end == begin + 1) {
      // The product rounds as its sum with 0 does, but for the sign of a zero, which fixed point does not
      // see. Nor does it see a leaf so small that it rounds otherwise in larger units.
      ForTerm<int4, R, P, true>(m, at, m.terms[begin], base, group, codes,
                                [&](int i, F sum, F scale)
                                    __attribute__((always_inline)) { AddUnits(fixed[i], Mul(sum, scale)); });
      continue;
    }
    for (int32_t t = begin; t < end; ++t) AddTerm<int4, R, P>(m, at, m.terms[t], base, group, codes, totals);
    if (!exact) continue;
    PACELINE_UNROLL
    for (int i = 0; i < P * R; ++i) {
      const F leaf = Load(totals + i * kLanes);
      Store(totals + i * kLanes, Zero());
      if (task.large) {
        AddChecked(leaf, to.hidden - (at.panel + i / R) * kLanes, fixed[i], to.row_errors + rows[i % R]);
      } else {
        AddFixed(fixed[i], leaf);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    const int64_t output = (at.panel + p) * kLanes, left = to.hidden - output;
    for (int r = 0; r < R; ++r) {
      const int64_t place = rows[r] * to.hidden + output;
      if (exact) {
        AddSums(fixed[p * R + r], left, to.sums + place);
      } else {
        const F sum = Load(totals + (p * R + r) * kLanes);
        StoreUpTo(to.loose + place, Add(LoadUpTo(to.loose + place, left), sum), left);
      }
    }
  }
}
template <bool exact, bool int4, int P>
PACELINE_INLINE void LeafTileOf(int64_t tile, const LeafTask& task, const Panels& at, int64_t row,
                                const LeafSums& to) {
  switch (tile) {
    case 1:
      return LeafTile<exact, int4, 1, P>(task, at, row, to);
    case 2:
      return LeafTile<exact, int4, 2, P>(task, at, row, to);
    case 3:
      return LeafTile<exact, int4, 3, P>(task, at, row, to);
    case 4:
      return LeafTile<exact, int4, 4, P>(task, at, row, to);
    case 5:
      return LeafTile<exact, int4, (kCodeRows < 5 ? 1 : 5), P>(task, at, row, to);
    default:
      return LeafTile<exact, int4, (kCodeRows < 6 ? 1 : 6), P>(task, at, row, to);
  }
}

// Hidden outputs [begin, end), multiples of 64 but for the last; `next`: what is read afterwards.
template <bool exact, bool int4>
PACELINE_INLINE void DownByTiles(const LeafTask& task, int64_t begin, int64_t end, const uint8_t* next,
                                 const LeafSums& to) {
  const Matrix& m = *task.down;
  const int64_t panels = Parts(end, kLanes);
  const bool pairs = InPairs(int4, task.count);
  const int64_t tiles = Parts(task.count, kCodeRows);
  for (int64_t panel = begin / kLanes; panel < panels;) {
    const int64_t wide = pairs && panel + 2 <= panels ? 2 : 1;
    const uint8_t* then = panel + wide < panels ? m.data + (panel + wide) * m.panel_bytes : next;
    for (int64_t row = 0, t = 0; row < task.count; ++t) {
      const int64_t tile = TileRows(task.count - row);
      const Panels at{panel, then, t, tiles};
      if (wide == 1) {
        LeafTileOf<exact, int4, 1>(tile, task, at, row, to);
      } else {
        LeafTileOf<exact, int4, kCodePanels>(tile, task, at, row, to);
      }
      row += tile;
    }
    panel += wide;
  }
}
