// Leaves of the down projection: where they go, and the way over whole panels. NUMERICS, Exact sum. Included
// by one .cc file, inside its anonymous namespace.

// Where leaves go. `loose` in place of sums: fp32, added without the contract's order and exactness, for the
// bench that asks what the contract costs.
struct LeafSums {
  int64_t hidden;
  int64_t* sums;        // [rows, hidden]
  uint8_t* row_errors;  // [rows]
  float* loose;         // [rows, hidden]
};

// A bound on leaves below this is one on what fp32 makes of them, whatever its roundings.
constexpr float kSurelySmall = kLeafLimit / 2;

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

// The part of an expert's down projection that one task asks for.
struct LeafTask {
  const Matrix* down;
  int64_t first_group, groups;
  const PreparedRow* codes;  // [groups][count]
  const int32_t* rows;       // [count], of the sums
  int64_t count;
  bool large;  // a leaf may be too large, or no number
};

// Hidden outputs [begin, end), a panel at a time, every leaf on its way to the sums at once.
template <bool exact>
PACELINE_INLINE void DownByPanels(const LeafTask& task, int64_t begin, int64_t end, const LeafSums& to) {
  const Matrix& m = *task.down;
  for (int64_t panel = begin / kLanes; panel < Parts(end, kLanes); ++panel) {
    const int64_t output = panel * kLanes, left = to.hidden - output;
    for (int64_t g = 0; g < task.groups; ++g) {
      const int32_t* terms = m.first_term + task.first_group + g;
      IntegerPanel(m, panel, terms[0], terms[1], task.codes + g * task.count, task.count,
                   [&](int64_t r, F leaf) {
                     const int64_t place = task.rows[r] * to.hidden + output;
                     if (!exact) {
                       float* sum = to.loose + place;
                       return StoreUpTo(sum, Add(LoadUpTo(sum, left), leaf), left);
                     }
                     Fixed fixed = ZeroFixed();
                     AddChecked(leaf, left, fixed, to.row_errors + task.rows[r]);
                     AddSums(fixed, left, to.sums + place);
                   });
    }
  }
}
