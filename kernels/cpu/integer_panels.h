// Which tiles panels of integer weights take: products of one plane where the codes have no more, else of
// two. Included by one .cc file, inside its anonymous namespace, behind integer_one_plane.h.

// `rows`: at least one.
PACELINE_INLINE bool TakesOnePlane(const Matrix& m, const PreparedRow* rows) {
  return rows->bytes != nullptr && (m.format == WeightFormat::kInt4 || kBytesOfInt8);
}

// Terms [begin, end) of one panel for rows that take one plane.
template <class Use>
PACELINE_INLINE void IntegerPanel(const Matrix& m, int64_t panel, int32_t begin, int32_t end,
                                  const PreparedRow* rows, int64_t count, const Use& use) {
  if (m.format == WeightFormat::kInt4) {
    OnePlaneRows<true>(m, panel, begin, end, rows, count, use);
  } else {
    OnePlaneRows<false>(m, panel, begin, end, rows, count, use);
  }
}

// Panels [first, end) for `count` rows of whole-width codes, one contract in all; calls `use(row, panel,
// total)` with 16 outputs of every row. `next`: the weights that are read afterwards.
template <class Use>
PACELINE_INLINE void IntegerPanels(const Matrix& m, int64_t first, int64_t end, const uint8_t* next,
                                   const PreparedRow* rows, int64_t count, const Use& use) {
  if (count == 0) return;
  if (TakesOnePlane(m, rows)) {
    const int32_t terms = m.first_term[ActivationGroups(m.inputs)];
    for (int64_t panel = first; panel < end; ++panel)
      IntegerPanel(m, panel, 0, terms, rows, count, [&](int64_t r, F total) { use(r, panel, total); });
  } else if (m.format == WeightFormat::kInt4) {
    IntegerPanelsOf<true>(m, first, end, next, rows, count, use);
  } else {
    IntegerPanelsOf<false>(m, first, end, next, rows, count, use);
  }
}
