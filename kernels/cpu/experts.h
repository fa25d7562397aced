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
  // Only for an integer down projection: its codes for dot products, or those for tiles.
  PreparedRow* codes;  // [groups][rows]
  int32_t* memory;     // of codes
  int8_t* tile_codes;  // [rows] of tile_shape.row_bytes
  TileRowShape tile_shape;
  int16_t* plain_codes;  // [rows, columns]
  float* scales;         // [groups][rows]
  int32_t* large;        // not 0: a leaf may be too large, or no number
};
struct Item {
  int32_t task, chunk;
};

// Where the panel of output `output` stands.
PACELINE_INLINE const uint8_t* PanelAt(const Matrix& m, int64_t output) {
  return m.data + output / m.panel_width() * m.panel_bytes;
}

// The rows of a step, prepared for the ways that its experts take.
struct PreparedRows {
  PreparedRow* rows;   // [x.rows], or null
  int8_t* tile_codes;  // [x.rows] of tile_shape.row_bytes, or null
  TileRowShape tile_shape;
};

// y [rows][64] of 64 columns of one projection, by tiles or not.
inline void Project(const Matrix& m, int64_t column, const uint8_t* next, const Activations& x,
                    const int32_t* rows, int64_t count, [[maybe_unused]] bool tiles,
                    const PreparedRows& prepared, float* y) {
  if (!m.integer()) {
    const float* inputs[kRowChunk];
    for (int64_t r = 0; r < count; ++r) inputs[r] = x.values + rows[r] * x.width;
    FloatPanel(m, column / kFloatPanel, 0, m.inputs, inputs, count, y);
    return;
  }
  const int64_t first = column / kLanes, end = Least(m.panels(), first + kColumnChunk / kLanes);
  const auto use = [=](int64_t r, int64_t panel, F total) {
    Store(y + r * kColumnChunk + (panel - first) * kLanes, total);
  };
#ifdef PACELINE_TILES
  if (tiles) {
    const int8_t* codes[kSweepRows];
    for (int64_t r = 0; r < count; ++r)
      codes[r] = prepared.tile_codes + rows[r] * prepared.tile_shape.row_bytes;
    return TilePanelsOf(m, first, end, next, {&prepared.tile_shape, codes, count}, use);
  }
#endif
  PreparedRow own[kRowChunk];
  for (int64_t r = 0; r < count; ++r) own[r] = prepared.rows[rows[r]];
  IntegerPanels(m, first, end, next, own, count, use);
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
    if (!(std::fabs(*scale) * s.expert->down.view.reach < kSurelySmall))
      __atomic_store_n(s.large, 1, __ATOMIC_RELAXED);
    if (s.tile_codes != nullptr) {
      PrepareTileGroup(codes, count, *scale, g, s.tile_shape, s.tile_codes + r * s.tile_shape.row_bytes);
    } else {
      s.codes[at] = PrepareRow(codes, count, scale, s.memory + at * ints, contract);
    }
  }
}

inline void GateUp(const TaskState& s, int64_t chunk, const uint8_t* next, const Activations& x,
                   const PreparedRows& prepared, ActivationContract contract) {
  const int64_t column = s.first_column + chunk * kColumnChunk;
  const int64_t left = s.columns - chunk * kColumnChunk;
  alignas(64) float gate[kRowChunk * kColumnChunk], up[kRowChunk * kColumnChunk];
  for (int64_t first = 0; first < s.rows; first += kRowChunk) {
    const int64_t count = Least(kRowChunk, s.rows - first);
    const int32_t* rows = s.task->rows.data() + first;
    const bool last = first + kRowChunk >= s.rows;
    const Matrix &g = s.expert->gate.view, &u = s.expert->up.view;
    Project(g, column, PanelAt(u, column), x, rows, count, TakesTiles(g, contract, s.rows), prepared, gate);
    Project(u, column, last ? next : PanelAt(g, column), x, rows, count, TakesTiles(u, contract, s.rows),
            prepared, up);
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
PACELINE_INLINE void Down(const TaskState& s, int64_t begin, int64_t end,
                          [[maybe_unused]] const uint8_t* next, const LeafSums& to) {
  const Matrix& m = s.expert->down.view;
  if (!m.integer()) {
    Require(exact, "experts: only integer weights have a variant without the contract");
    for (int64_t output = begin; output < end; output += kFloatPanel) DownFloats(s, output, to);
    return;
  }
  const int64_t first_group = s.first_column / kActivationGroup, groups = ActivationGroups(s.columns);
#ifdef PACELINE_TILES
  if (s.tile_codes != nullptr) {
    return DownByTileProducts<exact>(
        {&m, first_group, groups, s.tile_shape, s.tile_codes, s.task->rows.data(), s.rows, *s.large != 0},
        begin, end, next, to);
  }
#endif
  const LeafTask task{&m, first_group, groups, s.codes, s.task->rows.data(), s.rows, *s.large != 0};
  if (TakesOnePlane(m, s.codes)) return DownByPanels<exact>(task, begin, end, to);
  if (m.format == WeightFormat::kInt4) return DownByTiles<exact, true>(task, begin, end, next, to);
  DownByTiles<exact, false>(task, begin, end, next, to);
}

template <bool exact>
PACELINE_INLINE void ExpertsTo(ThreadPool& pool, Workspace& workspace, const Activations& x,
                               std::span<const ExpertTask> tasks, ActivationContract contract,
                               const LeafSums& to) {
  const int64_t hidden = x.width, count = static_cast<int64_t>(tasks.size());
  TaskState* states = workspace.Take<TaskState>(count);
  int64_t chunks = 0, active = 0, up_work = 0, down_work = 0;
  bool dot_inputs = false, tile_inputs = false;
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
      s.tile_codes = nullptr;
      if (TakesTiles(expert->down.view, contract, s.rows)) {
        s.tile_shape = ShapeOfRows(s.columns, contract);
        s.tile_codes = workspace.Take<int8_t>(s.rows * s.tile_shape.row_bytes);
      } else {
        s.codes = workspace.Take<PreparedRow>(leaves);
        s.memory = workspace.Take<int32_t>(leaves * PreparedInts(kActivationGroup / kOctet));
      }
      s.plain_codes = workspace.Take<int16_t>(s.rows * s.columns);
      s.scales = workspace.Take<float>(leaves);
      s.large = workspace.Take<int32_t>(1);
      *s.large = 0;
    }
    for (const Matrix* m : {&expert->gate.view, &expert->up.view}) {
      if (!m->integer()) continue;
      (TakesTiles(*m, contract, s.rows) ? tile_inputs : dot_inputs) = true;
    }
    chunks += Parts(s.columns, kColumnChunk);
    const int64_t lines = Parts(s.columns, kLanes) * Parts(hidden, kOctet);
    up_work += 2 * lines * (5 * s.rows + 6);
    down_work += lines * (5 * s.rows + 6);
  }
  PreparedRows prepared = {};
  if (dot_inputs || tile_inputs) {
    const int64_t groups = ActivationGroups(hidden), octets = Parts(hidden, kOctet),
                  ints = PreparedInts(octets);
    const int16_t* codes = x.codes;
    const float* scales = x.scales;
    if (codes == nullptr) {
      int16_t* own = workspace.Take<int16_t>(x.rows * hidden);
      float* own_scales = workspace.Take<float>(x.rows * groups);
      Quantise(pool, x.values, x.rows, hidden, contract, own, own_scales);
      codes = own;
      scales = own_scales;
    }
    int32_t* memory = nullptr;
    if (dot_inputs) {
      prepared.rows = workspace.Take<PreparedRow>(x.rows);
      memory = workspace.Take<int32_t>(x.rows * ints);
    }
    if (tile_inputs) {
      prepared.tile_shape = ShapeOfRows(hidden, contract);
      prepared.tile_codes = workspace.Take<int8_t>(x.rows * prepared.tile_shape.row_bytes);
    }
    RunParts(pool, x.rows, x.rows * octets * 14, [=](int64_t r) {
      const int16_t* row = codes + r * hidden;
      const float* row_scales = scales + r * groups;
      if (dot_inputs) prepared.rows[r] = PrepareRow(row, hidden, row_scales, memory + r * ints, contract);
      if (tile_inputs)
        PrepareTileRow(row, hidden, row_scales, prepared.tile_shape,
                       prepared.tile_codes + r * prepared.tile_shape.row_bytes);
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
