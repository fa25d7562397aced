// Routed experts of one instruction set, in two passes. Gate, up and SwiGLU by chunks of columns; whoever
// finishes the last chunk of a group makes the codes of its middle, with the router weight. Then down, whose
// threads split the hidden outputs. In both a thread walks its own stretch of every matrix, one after the
// other, and asks for the next one's first lines while it ends this one. NUMERICS: Router weight, Exact sum.
// Included by one .cc file, inside its anonymous namespace.

constexpr int64_t kColumnChunk = 64;  // columns or hidden outputs of one work item

struct TaskState {
  const PackedExpert* expert;
  const ExpertTask* task;
  int64_t rows;
  int64_t first_column, columns;  // inside the expert's slice
  float* middle;                  // [rows, columns]
  int32_t* chunks_left;           // [groups], chunks of columns that are not through yet
  PreparedRow* codes;             // [groups][rows], only for an integer down projection
  int32_t* memory;                // of codes
  int16_t* plain_codes;           // [rows, columns]
  float* scales;                  // [groups][rows]
};
struct Item {
  int32_t task, chunk;
};

// Where the panel of output `output` stands.
PACELINE_INLINE const uint8_t* PanelAt(const Matrix& m, int64_t output) {
  return m.data + output / m.panel_width() * m.panel_bytes;
}

// y [rows][64] of 64 columns of one projection.
inline void Project(const Matrix& m, int64_t column, const uint8_t* next, const Activations& x,
                    const int32_t* rows, int64_t count, const PreparedRow* prepared, float* y) {
  if (!m.integer()) {
    const float* inputs[kRowChunk];
    for (int64_t r = 0; r < count; ++r) inputs[r] = x.values + rows[r] * x.width;
    FloatPanel(m, column / kFloatPanel, 0, m.inputs, inputs, count, y);
    return;
  }
  PreparedRow own[kRowChunk];
  for (int64_t r = 0; r < count; ++r) own[r] = prepared[rows[r]];
  const int64_t first = column / kLanes, end = Least(m.panels(), first + kColumnChunk / kLanes);
  IntegerPanels(m, first, end, next, own, count, [=](int64_t r, int64_t panel, F total) {
    Store(y + r * kColumnChunk + (panel - first) * kLanes, total);
  });
}

// The codes of one group of the middle, or its products with the router weight where down is float.
inline void WeighGroup(const TaskState& s, int64_t g, ActivationContract contract) {
  const int64_t begin = g * kActivationGroup;
  const int64_t count = Least(kActivationGroup, s.columns - begin);
  const int64_t ints = PreparedInts(kActivationGroup / kOctet);
  for (int64_t r = 0; r < s.rows; ++r) {
    const float weight = s.task->weights.data()[r];
    float* middle = s.middle + r * s.columns + begin;
    if (!s.expert->down.view.integer()) {
      for (int64_t i = 0; i < count; i += 16)
        StoreUpTo(middle + i, Mul(LoadUpTo(middle + i, count - i), Set1(weight)), count - i);
      continue;
    }
    const int64_t at = g * s.rows + r;
    int16_t* codes = s.plain_codes + r * s.columns + begin;
    float* scale = s.scales + at;
    QuantiseGroup(middle, count, TopCode(contract), codes, scale);
    *scale = *scale * weight;
    s.codes[at] = PrepareRow(codes, count, scale, s.memory + at * ints);
  }
}

inline void GateUp(const TaskState& s, int64_t chunk, const uint8_t* next, const Activations& x,
                   const PreparedRow* prepared, ActivationContract contract) {
  const int64_t column = s.first_column + chunk * kColumnChunk;
  const int64_t left = s.columns - chunk * kColumnChunk;
  alignas(64) float gate[kRowChunk * kColumnChunk], up[kRowChunk * kColumnChunk];
  for (int64_t first = 0; first < s.rows; first += kRowChunk) {
    const int64_t count = Least(kRowChunk, s.rows - first);
    const int32_t* rows = s.task->rows.data() + first;
    const bool last = first + kRowChunk >= s.rows;
    const Matrix &g = s.expert->gate.view, &u = s.expert->up.view;
    Project(g, column, PanelAt(u, column), x, rows, count, prepared, gate);
    Project(u, column, last ? next : PanelAt(g, column), x, rows, count, prepared, up);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t v = 0; v < kColumnChunk && v < left; v += 16) {
        const int64_t at = r * kColumnChunk + v;
        StoreUpTo(s.middle + (first + r) * s.columns + chunk * kColumnChunk + v,
                  Mul(SiluLanes(Load(gate + at)), Load(up + at)), left - v);
      }
    }
  }
  const int64_t group = chunk * kColumnChunk / kActivationGroup;
  if (__atomic_sub_fetch(&s.chunks_left[group], 1, __ATOMIC_ACQ_REL) == 0) WeighGroup(s, group, contract);
}

// Where leaves go. `loose` in place of sums: fp32, added without the contract's order and exactness, for the
// bench that asks what the contract costs.
struct LeafSums {
  int64_t hidden;
  int64_t* sums;        // [rows, hidden]
  uint8_t* row_errors;  // [rows]
  float* loose;         // [rows, hidden]
};

// Adds 16 leaves of a row, of which `left` exist.
PACELINE_INLINE void AddSums(const Fixed& fixed, int64_t left, int64_t* sums) {
  if (left >= 16) {
    AddTo(sums, fixed);
    return;
  }
  alignas(64) int64_t padded[16] = {};
  AddTo(padded, fixed);
  for (int64_t i = 0; i < left; ++i) sums[i] += padded[i];
}
// Adds the leaves that are small enough; one that is not, among the `left` that exist, is an error.
PACELINE_INLINE void AddChecked(F leaf, int64_t left, Fixed& fixed, uint8_t* row_error) {
  const M good = Less(Abs(leaf), Set1(kLeafLimit));
  const uint32_t existing = left >= 16 ? 0xFFFFu : (1u << left) - 1;
  if ((Bits(good) & existing) != existing) __atomic_store_n(row_error, uint8_t{1}, __ATOMIC_RELAXED);
  AddFixed(fixed, Select(good, leaf, Zero()));
}

// Leaves of groups [first_group, first_group + groups) of P panels for R rows; codes [groups][stride].
template <bool exact, bool int4, int R, int P>
__attribute__((noinline)) void LeafTile(const Matrix& m, const Panels& at, int64_t first_group,
                                        int64_t groups, const PreparedRow* codes, int64_t stride,
                                        const int32_t* rows, const LeafSums& to) {
  Fixed fixed[P * R];
  alignas(64) float totals[P * R * kLanes];  // of a group of several terms, or without the contract of all
  for (int i = 0; i < P * R; ++i) {
    fixed[i] = ZeroFixed();
    Store(totals + i * kLanes, Zero());
  }
  for (int64_t g = 0; g < groups; ++g) {
    const int32_t begin = m.first_term[first_group + g], end = m.first_term[first_group + g + 1];
    const int64_t base = m.terms[begin].first_octet;
    const PreparedRow* own = codes + g * stride;
    F leaves[P * R];
    if (exact && end == begin + 1) {
      // The product rounds as its sum with 0 does, but for the sign of a zero, which fixed point does not
      // see.
      ForTerm<int4, R, P>(m, at, m.terms[begin], base, first_group + g, own,
                          [&](int i, F sum, F scale)
                              __attribute__((always_inline)) { leaves[i] = Mul(sum, scale); });
    } else {
      for (int32_t t = begin; t < end; ++t)
        AddTerm<int4, R, P>(m, at, m.terms[t], base, first_group + g, own, totals);
      if (!exact) continue;
      PACELINE_UNROLL
      for (int i = 0; i < P * R; ++i) {
        leaves[i] = Load(totals + i * kLanes);
        Store(totals + i * kLanes, Zero());
      }
    }
    // Magnitudes order as their bits do, infinities and NaN above all numbers.
    I largest = ZeroI();
    PACELINE_UNROLL
    for (int i = 0; i < P * R; ++i) largest = MaxUnsigned(largest, CastI(Abs(leaves[i])));
    if (__builtin_expect(Bits(LessI(largest, CastI(Set1(kLeafLimit)))) == 0xFFFF, 1)) {
      PACELINE_UNROLL
      for (int i = 0; i < P * R; ++i) AddFixed(fixed[i], leaves[i]);
      continue;
    }
    PACELINE_UNROLL
    for (int i = 0; i < P * R; ++i)
      AddChecked(leaves[i], to.hidden - (at.panel + i / R) * kLanes, fixed[i], to.row_errors + rows[i % R]);
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
PACELINE_INLINE void LeafTileOf(int64_t tile, const Matrix& m, const Panels& at, int64_t first_group,
                                int64_t groups, const PreparedRow* codes, int64_t stride, const int32_t* rows,
                                const LeafSums& to) {
  switch (tile) {
    case 1:
      return LeafTile<exact, int4, 1, P>(m, at, first_group, groups, codes, stride, rows, to);
    case 2:
      return LeafTile<exact, int4, 2, P>(m, at, first_group, groups, codes, stride, rows, to);
    case 3:
      return LeafTile<exact, int4, 3, P>(m, at, first_group, groups, codes, stride, rows, to);
    case 4:
      return LeafTile<exact, int4, 4, P>(m, at, first_group, groups, codes, stride, rows, to);
    case 5:
      return LeafTile < exact, int4,
             kCodeRows<5 ? 1 : 5, P>(m, at, first_group, groups, codes, stride, rows, to);
    default:
      return LeafTile < exact, int4,
             kCodeRows<6 ? 1 : 6, P>(m, at, first_group, groups, codes, stride, rows, to);
  }
}

// Hidden outputs [begin, end), multiples of 64 but for the last; `next`: what is read afterwards.
template <bool exact, bool int4>
PACELINE_INLINE void DownCodes(const TaskState& s, int64_t begin, int64_t end, const uint8_t* next,
                               const LeafSums& to) {
  const Matrix& m = s.expert->down.view;
  const int64_t groups = ActivationGroups(s.columns), first_group = s.first_column / kActivationGroup;
  const int64_t panels = Parts(end, kLanes);
  const bool pairs = InPairs(int4, s.rows);
  const int64_t tiles = Parts(s.rows, kCodeRows);
  for (int64_t panel = begin / kLanes; panel < panels;) {
    const int64_t wide = pairs && panel + 2 <= panels ? 2 : 1;
    const uint8_t* then = panel + wide < panels ? m.data + (panel + wide) * m.panel_bytes : next;
    for (int64_t row = 0, t = 0; row < s.rows; ++t) {
      const int64_t tile = TileRows(s.rows - row);
      const int32_t* rows = s.task->rows.data() + row;
      const Panels at{panel, then, t, tiles};
      if (wide == 1) {
        LeafTileOf<exact, int4, 1>(tile, m, at, first_group, groups, s.codes + row, s.rows, rows, to);
      } else {
        LeafTileOf<exact, int4, kCodePanels>(tile, m, at, first_group, groups, s.codes + row, s.rows, rows,
                                             to);
      }
      row += tile;
    }
    panel += wide;
  }
}

inline void DownFloats(const TaskState& s, int64_t output, const LeafSums& to) {
  const Matrix& m = s.expert->down.view;
  const int32_t* rows = s.task->rows.data();
  alignas(64) float leaves[kRowChunk * kFloatPanel];
  for (int64_t g = 0; g < ActivationGroups(s.columns); ++g) {
    const int64_t begin = g * kActivationGroup;
    const int64_t end = Least(begin + kActivationGroup, s.columns);
    for (int64_t first = 0; first < s.rows; first += kRowChunk) {
      const int64_t count = Least(kRowChunk, s.rows - first);
      const float* inputs[kRowChunk];
      for (int64_t r = 0; r < count; ++r) inputs[r] = s.middle + (first + r) * s.columns + begin;
      FloatPanel(m, output / kFloatPanel, s.first_column + begin, s.first_column + end, inputs, count,
                 leaves);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t n = output; n < Least(to.hidden, output + kFloatPanel); n += kLanes) {
          const int32_t row = rows[first + r];
          Fixed fixed = ZeroFixed();
          AddChecked(Load(leaves + r * kFloatPanel + n - output), to.hidden - n, fixed, to.row_errors + row);
          AddSums(fixed, to.hidden - n, to.sums + row * to.hidden + n);
        }
      }
    }
  }
}

template <bool exact>
PACELINE_INLINE void Down(const TaskState& s, int64_t begin, int64_t end, const uint8_t* next,
                          const LeafSums& to) {
  const Matrix& m = s.expert->down.view;
  if (m.format == WeightFormat::kInt4) return DownCodes<exact, true>(s, begin, end, next, to);
  Require(exact, "experts: only INT4 has a variant without the contract");
  if (m.integer()) return DownCodes<true, false>(s, begin, end, next, to);
  for (int64_t output = begin; output < end; output += kFloatPanel) DownFloats(s, output, to);
}

template <bool exact>
PACELINE_INLINE void ExpertsTo(ThreadPool& pool, Workspace& workspace, const Activations& x,
                               std::span<const ExpertTask> tasks, ActivationContract contract,
                               const LeafSums& to) {
  const int64_t hidden = x.width, count = static_cast<int64_t>(tasks.size());
  TaskState* states = workspace.Take<TaskState>(count);
  int64_t chunks = 0, active = 0, up_work = 0, down_work = 0;
  bool integer_inputs = false;
  for (int64_t t = 0; t < count; ++t) {
    const ExpertTask& task = tasks.data()[t];
    const PackedExpert* expert = static_cast<const PackedExpert*>(task.expert);
    Require(expert->hidden == hidden, "experts: the rows' width is not the expert's");
    Require(task.first_group >= expert->first_group &&
                task.first_group + task.groups <= expert->first_group + expert->groups,
            "experts: groups outside the expert");
    Require(task.rows.size() == task.weights.size(), "experts: one router weight per row");
    if (task.rows.empty() || task.groups == 0) continue;
    TaskState& s = states[active++];
    s.expert = expert;
    s.task = &task;
    s.rows = static_cast<int64_t>(task.rows.size());
    s.first_column = int64_t{task.first_group - expert->first_group} * kActivationGroup;
    s.columns = Least(task.groups * kActivationGroup, expert->columns - s.first_column);
    const int64_t groups = ActivationGroups(s.columns), leaves = s.rows * groups;
    s.middle = workspace.Take<float>(s.rows * s.columns);
    s.chunks_left = workspace.Take<int32_t>(groups);
    for (int64_t g = 0; g < groups; ++g)
      s.chunks_left[g] = static_cast<int32_t>(
          Parts(Least(kActivationGroup, s.columns - g * kActivationGroup), kColumnChunk));
    if (expert->down.view.integer()) {
      s.codes = workspace.Take<PreparedRow>(leaves);
      s.memory = workspace.Take<int32_t>(leaves * PreparedInts(kActivationGroup / kOctet));
      s.plain_codes = workspace.Take<int16_t>(s.rows * s.columns);
      s.scales = workspace.Take<float>(leaves);
    }
    integer_inputs = integer_inputs || expert->gate.view.integer() || expert->up.view.integer();
    chunks += Parts(s.columns, kColumnChunk);
    const int64_t lines = Parts(s.columns, kLanes) * Parts(hidden, kOctet);
    up_work += 2 * lines * (5 * s.rows + 6);
    down_work += lines * (5 * s.rows + 6);
  }
  PreparedRow* prepared = nullptr;  // [x.rows]
  if (integer_inputs) {
    const int64_t groups = ActivationGroups(hidden), ints = PreparedInts(Parts(hidden, kOctet));
    const int16_t* codes = x.codes;
    const float* scales = x.scales;
    if (codes == nullptr) {
      int16_t* own = workspace.Take<int16_t>(x.rows * hidden);
      float* own_scales = workspace.Take<float>(x.rows * groups);
      Quantise(pool, x.values, x.rows, hidden, contract, own, own_scales);
      codes = own;
      scales = own_scales;
    }
    prepared = workspace.Take<PreparedRow>(x.rows);
    int32_t* memory = workspace.Take<int32_t>(x.rows * ints);
    RunParts(pool, x.rows, x.rows * Parts(hidden, kOctet) * 14, [=](int64_t r) {
      prepared[r] = PrepareRow(codes + r * hidden, hidden, scales + r * groups, memory + r * ints);
    });
  }
  Item* items = workspace.Take<Item>(chunks);
  int64_t c = 0;
  for (int32_t t = 0; t < active; ++t) {
    for (int32_t i = 0; i < Parts(states[t].columns, kColumnChunk); ++i) items[c++] = {t, i};
  }
  RunParts(pool, chunks, up_work, [=, &x](int64_t i) {
    const TaskState& s = states[items[i].task];
    const Item then = items[i + 1 < chunks ? i + 1 : i];
    const TaskState& after = states[then.task];
    GateUp(s, items[i].chunk,
           PanelAt(after.expert->gate.view, after.first_column + then.chunk * kColumnChunk), x, prepared,
           contract);
  });
  // One row adds little to the sums: longer stretches of weights. Many rows' sums should stay in a cache.
  const int64_t stretches = Parts(hidden, kColumnChunk);
  const int64_t most = x.rows > 8 ? 1 : stretches / (8 * pool.threads());
  const int64_t stretch = kColumnChunk * (most < 1 ? 1 : most);
  RunParts(pool, Parts(hidden, stretch), down_work, [=, &to](int64_t part) {
    const int64_t begin = part * stretch, end = Least(hidden, begin + stretch);
    for (int64_t t = 0; t < active; ++t) {
      const bool last = t + 1 == active;
      const Matrix& then = states[last ? 0 : t + 1].expert->down.view;
      Down<exact>(states[t], begin, end, PanelAt(then, last && end < hidden ? end : begin), to);
    }
  });
}

void Experts(ThreadPool& pool, Workspace& workspace, const Activations& x, std::span<const ExpertTask> tasks,
             ActivationContract contract, int64_t* sums, uint8_t* row_errors) {
  ExpertsTo<true>(pool, workspace, x, tasks, contract, {x.width, sums, row_errors, nullptr});
}
// Into fp32 sums, for the bench.
void ExpertsLoose(ThreadPool& pool, Workspace& workspace, const Activations& x,
                  std::span<const ExpertTask> tasks, ActivationContract contract, float* sums) {
  ExpertsTo<false>(pool, workspace, x, tasks, contract, {x.width, nullptr, nullptr, sums});
}
