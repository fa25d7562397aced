// Routed experts of one instruction set, in three passes: gate, up and SwiGLU; the middle's codes with the
// router weight; down, whose threads split the hidden outputs. NUMERICS: Router weight, Exact sum. Included
// by one .cc file, inside its anonymous namespace.

constexpr int64_t kColumnChunk = 64;  // columns or hidden outputs of one work item

struct TaskState {
  const PackedExpert* expert;
  const ExpertTask* task;
  int64_t rows;
  int64_t first_column, columns;  // inside the expert's slice
  float* middle;                  // [rows, columns]
  PreparedRow* codes;             // [rows * groups], only for an integer down projection
  int32_t* memory;                // of codes
  int16_t* plain_codes;           // [rows, columns]
  float* scales;                  // [rows * groups]
};
struct Item {
  int32_t task, index;
};

// y [rows][64] of 64 columns of one projection.
inline void Project(const Matrix& m, int64_t column, const Activations& x, const int32_t* rows, int64_t count,
                    const PreparedRow* prepared, float* y) {
  if (!m.integer()) {
    const float* inputs[kRowChunk];
    for (int64_t r = 0; r < count; ++r) inputs[r] = x.values + rows[r] * x.width;
    FloatPanel(m, column / kFloatPanel, 0, m.inputs, inputs, count, y);
    return;
  }
  PreparedRow own[kRowChunk];
  for (int64_t r = 0; r < count; ++r) own[r] = prepared[rows[r]];
  const int32_t terms = m.first_term[ActivationGroups(m.inputs)];
  for (int64_t v = 0; v < kColumnChunk / kLanes; ++v) {
    const int64_t panel = column / kLanes + v;
    if (panel >= m.panels()) break;
    IntegerPanel(m, panel, 0, terms, own, count,
                 [=](int64_t r, F total) { Store(y + r * kColumnChunk + v * kLanes, total); });
  }
}

inline void GateUp(const TaskState& s, int64_t chunk, const Activations& x, const PreparedRow* prepared) {
  const int64_t column = s.first_column + chunk * kColumnChunk;
  const int64_t left = s.columns - chunk * kColumnChunk;
  alignas(64) float gate[kRowChunk * kColumnChunk], up[kRowChunk * kColumnChunk];
  for (int64_t first = 0; first < s.rows; first += kRowChunk) {
    const int64_t count = Least(kRowChunk, s.rows - first);
    const int32_t* rows = s.task->rows.data() + first;
    Project(s.expert->gate.view, column, x, rows, count, prepared, gate);
    Project(s.expert->up.view, column, x, rows, count, prepared, up);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t v = 0; v < kColumnChunk && v < left; v += 16) {
        const int64_t at = r * kColumnChunk + v;
        StoreUpTo(s.middle + (first + r) * s.columns + chunk * kColumnChunk + v,
                  Mul(SiluLanes(Load(gate + at)), Load(up + at)), left - v);
      }
    }
  }
}

inline void WeighRow(const TaskState& s, int64_t r, ActivationContract contract) {
  const float weight = s.task->weights.data()[r];
  float* middle = s.middle + r * s.columns;
  if (!s.expert->down.view.integer()) {
    for (int64_t i = 0; i < s.columns; i += 16)
      StoreUpTo(middle + i, Mul(LoadUpTo(middle + i, s.columns - i), Set1(weight)), s.columns - i);
    return;
  }
  const int64_t groups = ActivationGroups(s.columns);
  const int64_t ints = PreparedInts(kActivationGroup / kOctet);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * kActivationGroup;
    const int64_t count = Least(kActivationGroup, s.columns - begin);
    int16_t* codes = s.plain_codes + r * s.columns + begin;
    float* scale = s.scales + g * s.rows + r;
    QuantiseGroup(middle + begin, count, TopCode(contract), codes, scale);
    *scale = *scale * weight;
    // Group-major, so that a row tile of one group is consecutive.
    const int64_t at = g * s.rows + r;
    s.codes[at] = PrepareRow(codes, count, scale, s.memory + at * ints, contract);
  }
}

// Adds 16 leaves of a row, of which `left` exist.
PACELINE_INLINE void AddLeaves(F leaf, int64_t left, int64_t* sums, uint8_t* row_error) {
  const M good = Less(Abs(leaf), Set1(kLeafLimit));
  const uint32_t existing = left >= 16 ? 0xFFFFu : (1u << left) - 1;
  if ((Bits(good) & existing) != existing) __atomic_store_n(row_error, uint8_t{1}, __ATOMIC_RELAXED);
  leaf = Select(good, leaf, Zero());
  if (left >= 16) {
    AddFixed(sums, leaf);
    return;
  }
  alignas(64) int64_t padded[16] = {};
  AddFixed(padded, leaf);
  for (int64_t i = 0; i < left; ++i) sums[i] += padded[i];
}

inline void Down(const TaskState& s, int64_t chunk, int64_t hidden, int64_t* sums, uint8_t* row_errors) {
  const Matrix& m = s.expert->down.view;
  const int32_t* rows = s.task->rows.data();
  const int64_t groups = ActivationGroups(s.columns);
  const int64_t first_group = s.first_column / kActivationGroup;
  const int64_t output = chunk * kColumnChunk;
  if (m.integer()) {
    for (int64_t n = output; n < Least(hidden, output + kColumnChunk); n += kLanes) {
      for (int64_t g = 0; g < groups; ++g) {
        IntegerPanel(m, n / kLanes, m.first_term[first_group + g], m.first_term[first_group + g + 1],
                     s.codes + g * s.rows, s.rows, [=](int64_t r, F leaf) {
                       AddLeaves(leaf, hidden - n, sums + rows[r] * hidden + n, row_errors + rows[r]);
                     });
      }
    }
    return;
  }
  alignas(64) float leaves[kRowChunk * kFloatPanel];
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * kActivationGroup;
    const int64_t end = Least(begin + kActivationGroup, s.columns);
    for (int64_t first = 0; first < s.rows; first += kRowChunk) {
      const int64_t count = Least(kRowChunk, s.rows - first);
      const float* inputs[kRowChunk];
      for (int64_t r = 0; r < count; ++r) inputs[r] = s.middle + (first + r) * s.columns + begin;
      FloatPanel(m, chunk, s.first_column + begin, s.first_column + end, inputs, count, leaves);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t n = output; n < Least(hidden, output + kFloatPanel); n += kLanes) {
          const int32_t row = rows[first + r];
          AddLeaves(Load(leaves + r * kFloatPanel + n - output), hidden - n, sums + row * hidden + n,
                    row_errors + row);
        }
      }
    }
  }
}

void Experts(ThreadPool& pool, Workspace& workspace, const Activations& x, std::span<const ExpertTask> tasks,
             ActivationContract contract, int64_t* sums, uint8_t* row_errors) {
  const int64_t hidden = x.width, count = static_cast<int64_t>(tasks.size());
  TaskState* states = workspace.Take<TaskState>(count);
  int64_t chunks = 0, row_items = 0;
  bool integer_inputs = false;
  for (int64_t t = 0; t < count; ++t) {
    const ExpertTask& task = tasks.data()[t];
    TaskState& s = states[t];
    s.expert = static_cast<const PackedExpert*>(task.expert);
    Require(s.expert->hidden == hidden, "experts: the rows' width is not the expert's");
    Require(task.first_group >= s.expert->first_group &&
                task.first_group + task.groups <= s.expert->first_group + s.expert->groups,
            "experts: groups outside the expert");
    Require(task.rows.size() == task.weights.size(), "experts: one router weight per row");
    s.task = &task;
    s.rows = static_cast<int64_t>(task.rows.size());
    s.first_column = int64_t{task.first_group - s.expert->first_group} * kActivationGroup;
    s.columns = Least(task.groups * kActivationGroup, s.expert->columns - s.first_column);
    if (s.rows == 0 || task.groups == 0) s.rows = s.columns = 0;
    const int64_t leaves = s.rows * ActivationGroups(s.columns);
    s.middle = workspace.Take<float>(s.rows * s.columns);
    if (s.expert->down.view.integer()) {
      s.codes = workspace.Take<PreparedRow>(leaves);
      s.memory = workspace.Take<int32_t>(leaves * PreparedInts(kActivationGroup / kOctet));
      s.plain_codes = workspace.Take<int16_t>(s.rows * s.columns);
      s.scales = workspace.Take<float>(leaves);
    }
    integer_inputs = integer_inputs || s.expert->gate.view.integer() || s.expert->up.view.integer();
    chunks += Parts(s.columns, kColumnChunk);
    row_items += s.rows;
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
      prepared[r] = PrepareRow(codes + r * hidden, hidden, scales + r * groups, memory + r * ints, contract);
    });
  }
  Item* column_items = workspace.Take<Item>(chunks);
  Item* weigh_items = workspace.Take<Item>(row_items);
  int64_t c = 0, w = 0, weigh_work = 0;
  for (int32_t t = 0; t < count; ++t) {
    weigh_work += int64_t{states[t].rows} * Parts(states[t].columns, 16) * 40;
    for (int32_t i = 0; i < Parts(states[t].columns, kColumnChunk); ++i) column_items[c++] = {t, i};
    for (int32_t i = 0; i < states[t].rows; ++i) weigh_items[w++] = {t, i};
  }
  pool.Run(chunks, [&x, states, column_items, prepared](int64_t i) {
    GateUp(states[column_items[i].task], column_items[i].index, x, prepared);
  });
  RunParts(pool, row_items, weigh_work,
           [=](int64_t i) { WeighRow(states[weigh_items[i].task], weigh_items[i].index, contract); });
  pool.Run(Parts(hidden, kColumnChunk), [=](int64_t chunk) {
    for (int64_t t = 0; t < count; ++t) {
      if (states[t].rows > 0) Down(states[t], chunk, hidden, sums, row_errors);
    }
  });
}
