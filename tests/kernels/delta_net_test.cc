// Gated DeltaNet: every instruction set of this machine against the reference, bit for bit, however positions
// are split over steps, folded in place or into a second block, and with rows taken back.
#include <gtest/gtest.h>

#include <array>

#include "tests/kernels/reference_bits.h"

namespace paceline::kernels {
namespace {

// Memory of one sequence's state; the blocks take turns.
struct GdnMemory {
  GdnMemory() = default;
  explicit GdnMemory(const GdnShape& shape) : shape(shape) {
    const int64_t sizes[4] = {int64_t{shape.value_heads} * shape.key_dim * shape.value_dim,
                              int64_t{kGdnBlock} * shape.key_heads * shape.key_dim,
                              int64_t{kGdnBlock} * shape.value_heads * shape.value_dim,
                              int64_t{kGdnBlock} * shape.value_heads};
    for (auto& block : parts) {
      for (int i = 0; i < 4; ++i) block[i].assign(sizes[i] + 1, 0.0f);
    }
    window.assign(kGdnWindow * shape.channels() + 1, 0.0f);
  }
  GdnBlock Block(int which) {
    auto& p = parts[which];
    return {p[0].data(), p[1].data(), p[2].data(), p[3].data()};
  }
  GdnState InPlace() { return {Block(now), Block(now), window.data()}; }
  GdnState Apart() { return {Block(now), Block(1 - now), window.data()}; }
  // All memory of the current block and the window.
  void AppendTo(Result& out) const {
    for (const auto& part : parts[now]) out.insert(out.end(), part.begin(), part.end());
    out.insert(out.end(), window.begin(), window.end());
  }
  // What positions in front of `position` have left: state, rows since the border, inputs still needed.
  Result Below(int64_t position) const {
    const auto& p = parts[now];
    const int64_t at = position % kGdnBlock, channels = shape.channels();
    Result out = p[0];
    for (int i = 1; i < 4; ++i) {
      const int64_t width = static_cast<int64_t>(p[i].size()) / kGdnBlock;
      out.insert(out.end(), p[i].begin(), p[i].begin() + at * width);
    }
    for (int64_t j = 1; j < shape.conv_taps; ++j) {
      const float* input = window.data() + (position + kGdnWindow - j) % kGdnWindow * channels;
      out.insert(out.end(), input, input + channels);
    }
    return out;
  }

  GdnShape shape;
  std::array<std::vector<float>, 4> parts[2];  // [block]: state, k, u, c
  std::vector<float> window;
  int now = 0;  // the block in use
};

TEST(DeltaNet, IsTheReference) {
  const GdnShape shapes[] = {{2, 4, 24, 16, 4},   {1, 3, 48, 24, 4}, {2, 2, 16, 48, 2},
                             {1, 2, 128, 128, 4}, {2, 4, 32, 32, 1}, {1, 1, 20, 17, 3}};
  for (const GdnShape& shape : shapes) {
    for (Values kind : kBoth) {
      const int64_t channels = shape.channels(), hv = shape.value_heads;
      // Lengths of the steps of two sequences: borders inside, at the end, far beyond one block.
      const std::vector<std::array<int32_t, 2>> steps = {{5, 1}, {1, 31}, {40, 1}, {18, 70}, {1, 4}};
      int32_t total = 0;
      for (const auto& s : steps) total += s[0] + s[1];
      const auto qkv = RandomValues(total * channels, 1, kind), b = RandomValues(total * hv, 2),
                 a = RandomValues(total * hv, 3), conv = RandomValues(channels * shape.conv_taps, 4),
                 dt = RandomValues(hv, 6);
      const std::vector<float> decay(hv, 0.7f);
      const GdnWeights weights{conv.data(), decay.data(), dt.data()};
      const auto run = [&](const KernelTable& t, ThreadPool& pool, bool one_by_one) {
        GdnMemory memory[2];
        GdnState states[2];
        for (int s = 0; s < 2; ++s) {
          memory[s] = GdnMemory(shape);
          states[s] = memory[s].InPlace();
        }
        Result out(total * hv * shape.value_dim);
        Workspace workspace;
        int32_t row = 0;
        int64_t positions[2] = {0, 0};
        for (const auto& lengths : steps) {
          std::vector<RowRun> runs;
          std::vector<GdnState> of;
          for (int s = 0; s < 2; ++s) {
            for (int32_t done = 0; done < lengths[s];) {
              const int32_t n = one_by_one ? 1 : lengths[s];
              runs.push_back({row, n, positions[s], nullptr});
              of.push_back(states[s]);
              row += n;
              positions[s] += n;
              done += n;
              if (one_by_one) {
                t.gated_delta_net(pool, workspace, shape, weights, qkv.data(), b.data(), a.data(), runs, of,
                                  out.data());
                runs.clear();
                of.clear();
              }
            }
          }
          if (!runs.empty())
            t.gated_delta_net(pool, workspace, shape, weights, qkv.data(), b.data(), a.data(), runs, of,
                              out.data());
          workspace.Reset();
        }
        for (const GdnMemory& sequence : memory) sequence.AppendTo(out);
        return out;
      };
      const std::string what =
          "gated_delta_net " + std::to_string(shape.key_dim) + "x" + std::to_string(shape.value_dim);
      ExpectReferenceBits(what, [&](const KernelTable& t, ThreadPool& pool) { return run(t, pool, false); });
      // A position never knows how it was computed.
      ThreadPool pool(2);
      std::string where;
      for (const KernelTable* table : AvailableTables())
        EXPECT_TRUE(SameBits(run(*table, pool, false), run(*table, pool, true), &where))
            << what << " " << where;
    }
  }
}

// Runs of up to 9 rows from every index of a block, whose rows in front of a border and behind it go to two
// blocks, then every number of them taken back: always the bits of a run that had only the rows that stayed.
TEST(DeltaNet, TakesRowsBack) {
  constexpr int32_t kRows = 9, kTail = 40;
  const GdnShape shapes[] = {{2, 4, 24, 16, 4}, {1, 2, 20, 33, 8}, {1, 1, 16, 16, 1}};
  for (const GdnShape& shape : shapes) {
    const int64_t channels = shape.channels(), hv = shape.value_heads, width = hv * shape.value_dim;
    const int64_t total = 2 * kGdnBlock + kRows + kTail;
    const auto qkv = RandomValues(total * channels, 1), b = RandomValues(total * hv, 2),
               a = RandomValues(total * hv, 3), conv = RandomValues(channels * shape.conv_taps, 4),
               dt = RandomValues(hv, 6), wrong = RandomValues(total * channels, 7),
               wrong_b = RandomValues(total * hv, 8), wrong_a = RandomValues(total * hv, 9);
    const std::vector<float> decay(hv, 0.7f);
    const GdnWeights weights{conv.data(), decay.data(), dt.data()};
    const auto step = [&](const KernelTable& t, const GdnState& state, int64_t first, int32_t rows,
                          int32_t right, Result& out) {
      // [rows, ..], those from `right` on are not the text's.
      std::vector<float> x(rows * channels), xb(rows * hv), xa(rows * hv);
      for (int32_t r = 0; r < rows; ++r) {
        std::copy_n((r < right ? qkv : wrong).data() + (first + r) * channels, channels,
                    x.data() + r * channels);
        std::copy_n((r < right ? b : wrong_b).data() + (first + r) * hv, hv, xb.data() + r * hv);
        std::copy_n((r < right ? a : wrong_a).data() + (first + r) * hv, hv, xa.data() + r * hv);
      }
      Workspace workspace;
      ThreadPool pool(1);
      out.assign(rows * width, 0.0f);
      t.gated_delta_net(pool, workspace, shape, weights, x.data(), xb.data(), xa.data(),
                        std::vector<RowRun>{{0, rows, first, nullptr}}, std::vector<GdnState>{state},
                        out.data());
    };
    // The twin that never speculated, by the reference, row by row.
    std::vector<GdnMemory> twin = {GdnMemory(shape)};  // [positions + 1]
    Result plain, one;                                 // [positions, width]
    for (int64_t p = 0; p < total; ++p) {
      twin.push_back(twin.back());
      step(ReferenceKernels(), twin.back().InPlace(), p, 1, 1, one);
      plain.insert(plain.end(), one.begin(), one.end());
    }
    std::vector<const KernelTable*> tables;
    for (const KernelTable* table : AvailableTables()) tables.push_back(table);
    tables.push_back(&ReferenceKernels());
    int number = 0;
    for (const KernelTable* table : tables) {
      // The second round starts one block later, on the block that the first one's borders left.
      for (int64_t first = kGdnBlock - kRows - 1; first <= 2 * kGdnBlock; ++first) {
        for (int32_t rows = 1; rows <= kRows; ++rows) {
          for (int32_t right = 0; right <= rows; ++right) {
            if (++number % CaseStride() != 0) continue;
            SCOPED_TRACE(std::string(table->name) + ": " + std::to_string(rows) + " rows at " +
                         std::to_string(first) + ", " + std::to_string(right) + " stay");
            GdnMemory memory = twin[first];
            const int64_t border = (first / kGdnBlock + 1) * kGdnBlock;
            const GdnMemory before = memory;
            Result out;
            step(*table, memory.Apart(), first, rows, right, out);
            std::string where;
            ASSERT_TRUE(
                SameBits(Result(plain.begin() + first * width, plain.begin() + (first + right) * width),
                         Result(out.begin(), out.begin() + right * width), &where))
                << where;
            ASSERT_TRUE(SameBits(before.parts[memory.now][0], memory.parts[memory.now][0], &where)) << where;
            if (first + right >= border) memory.now = 1 - memory.now;
            ASSERT_TRUE(
                SameBits(twin[first + right].Below(first + right), memory.Below(first + right), &where))
                << where;
            if (rows < kRows - 1 || right % 4 != 1) continue;
            // The text goes on, in place, over two borders.
            step(*table, memory.InPlace(), first + right, kTail, kTail, out);
            const auto from = plain.begin() + (first + right) * width;
            ASSERT_TRUE(SameBits(Result(from, from + kTail * width), out, &where)) << where;
          }
        }
      }
    }
  }
}

// The two blocks of a run and one block folded in place: the same state behind borders, however many.
TEST(DeltaNet, FoldsIntoTheNextBlock) {
  const GdnShape shape{2, 4, 24, 40, 4};
  const int64_t channels = shape.channels(), hv = shape.value_heads, width = hv * shape.value_dim;
  constexpr int32_t kFirst = 20, kTotal = kFirst + 150;
  const auto qkv = RandomValues(kTotal * channels, 1), b = RandomValues(kTotal * hv, 2),
             a = RandomValues(kTotal * hv, 3), conv = RandomValues(channels * shape.conv_taps, 4),
             dt = RandomValues(hv, 6);
  const std::vector<float> decay(hv, 0.7f);
  const GdnWeights weights{conv.data(), decay.data(), dt.data()};
  for (int32_t rows : {1, 11, 12, 13, 44, 45, 75, 76, 77, 108, 150}) {
    const auto run = [&](const KernelTable& t, ThreadPool& pool, bool apart) {
      GdnMemory memory(shape);
      Workspace workspace;
      Result out(kTotal * width);
      t.gated_delta_net(pool, workspace, shape, weights, qkv.data(), b.data(), a.data(),
                        std::vector<RowRun>{{0, kFirst, 0, nullptr}}, std::vector<GdnState>{memory.InPlace()},
                        out.data());
      t.gated_delta_net(pool, workspace, shape, weights, qkv.data(), b.data(), a.data(),
                        std::vector<RowRun>{{kFirst, rows, kFirst, nullptr}},
                        std::vector<GdnState>{apart ? memory.Apart() : memory.InPlace()}, out.data());
      if (apart && kFirst + rows >= kGdnBlock) memory.now = 1;
      const Result kept = memory.Below(kFirst + rows);
      out.insert(out.end(), kept.begin(), kept.end());
      return out;
    };
    const std::string what = "gated_delta_net of " + std::to_string(rows) + " rows";
    ExpectReferenceBits(what + " in place",
                        [&](const KernelTable& t, ThreadPool& pool) { return run(t, pool, false); });
    ExpectReferenceBits(what + " apart",
                        [&](const KernelTable& t, ThreadPool& pool) { return run(t, pool, true); });
    ThreadPool pool(1);
    std::string where;
    EXPECT_TRUE(SameBits(run(ReferenceKernels(), pool, false), run(ReferenceKernels(), pool, true), &where))
        << what << " " << where;
  }
}

}  // namespace
}  // namespace paceline::kernels
