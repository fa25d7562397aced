// What only the cuda backend has: the host executor's rules, its products of bytes against the definition,
// and the digests of a join.
#include "kernels/cuda/cuda.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/experts.h"
#include "kernels/known_answers.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {
namespace {

using cuda::Grid;
using cuda::HostExecutor;

template <class K>
void Launch(const typename K::Args& args) {
  const Grid grid = K::Blocks(args);
  HostExecutor::Run(
      grid.x, grid.y, K::kThreads, grid.shared_bytes,
      [](const void* of) { K::Run(*static_cast<const typename K::Args*>(of)); }, &args);
}

// The fragments of PTX mma.m16n8k32 for signed bytes, element by element as the ISA manual numbers them:
// element i of A's 16 is row g (+ 8 if i / 4 is odd), column 4t + i % 4 (+ 16 from i = 8 on); of B's 8, row
// 4t + i % 4 (+ 16 from i = 4 on), column g; of C's 4, row g (+ 8 from i = 2 on), column 2t + i % 2.
struct Product {
  struct Args {
    const int8_t *a, *b;  // [16, 32], [32, 8]
    int32_t* c;           // [16, 8], added to
  };
  static constexpr int32_t kThreads = 32;
  static Grid Blocks(const Args&) { return {1}; }
  static void Run(const Args& args) {
    const int32_t g = cuda::ThreadIndex() / 4, t = cuda::ThreadIndex() % 4;
    uint32_t a[4] = {}, b[2] = {};
    int32_t c[4];
    for (int32_t i = 0; i < 16; ++i) {
      const int8_t x = args.a[(g + i / 4 % 2 * 8) * 32 + 4 * t + i % 4 + i / 8 * 16];
      a[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(x)) << (i % 4 * 8);
    }
    for (int32_t i = 0; i < 8; ++i) {
      const int8_t x = args.b[(4 * t + i % 4 + i / 4 * 16) * 8 + g];
      b[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(x)) << (i % 4 * 8);
    }
    for (int32_t i = 0; i < 4; ++i) c[i] = args.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    cuda::MultiplyBytes(c, a, b);
    for (int32_t i = 0; i < 4; ++i) args.c[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
  }
};

TEST(HostExecutor, MultipliesBytesAsTheIsaManualNumbersThem) {
  std::mt19937 bits(1);
  std::vector<int8_t> a(16 * 32), b(32 * 8);
  std::vector<int32_t> c(16 * 8), want(16 * 8);
  for (int8_t& x : a) x = static_cast<int8_t>(bits());
  for (int8_t& x : b) x = static_cast<int8_t>(bits());
  for (size_t i = 0; i < c.size(); ++i) want[i] = c[i] = static_cast<int32_t>(bits() % 1000);
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < 32; ++k) want[m * 8 + n] += a[m * 32 + k] * b[k * 8 + n];
    }
  }
  Launch<Product>({a.data(), b.data(), c.data()});
  EXPECT_EQ(c, want);
}

// Every thread gives its value to the next by shared memory, and by an exchange inside its warp.
struct Neighbours {
  struct Args {
    int32_t *shared, *warp;  // [blocks, kThreads]
    bool barrier;
  };
  static constexpr int32_t kThreads = 96;
  static Grid Blocks(const Args&) { return {5, 2, kThreads * 4}; }
  static void Run(const Args& a) {
    auto* values = cuda::SharedMemory<int32_t>();
    const int32_t i = cuda::ThreadIndex();
    values[i] = i;
    if (a.barrier) cuda::BlockBarrier();
    const int64_t at = (cuda::BlockY() * 5 + cuda::BlockX()) * kThreads + i;
    a.shared[at] = values[(i + 1) % kThreads];
    a.warp[at] = cuda::ShuffleFrom(i, (i + 1) % 32) + cuda::ShuffleXor(i, 16);
  }
};

TEST(HostExecutor, ThreadsMeetAtBarriersAndNowhereElse) {
  std::vector<int32_t> shared(10 * 96), warp(10 * 96);
  Launch<Neighbours>({shared.data(), warp.data(), true});
  for (int i = 0; i < 960; ++i) {
    const int t = i % 96;
    EXPECT_EQ(shared[i], (t + 1) % 96);
    EXPECT_EQ(warp[i], t / 32 * 32 + (t + 1) % 32 + (t ^ 16));
  }
  // Without the barrier some thread reads what is not there yet.
  Launch<Neighbours>({shared.data(), warp.data(), false});
  EXPECT_NE(std::count(shared.begin(), shared.end(), -1), 0);
}

struct HalfABarrier {
  struct Args {};
  static constexpr int32_t kThreads = 64;
  static Grid Blocks(const Args&) { return {1}; }
  static void Run(const Args&) {
    if (cuda::ThreadIndex() < 40) cuda::BlockBarrier();
  }
};
struct SplitWarp {
  struct Args {};
  static constexpr int32_t kThreads = 32;
  static Grid Blocks(const Args&) { return {1}; }
  static void Run(const Args&) {
    if (cuda::ThreadIndex() % 2 == 0) {
      cuda::WarpBarrier();
    } else {
      cuda::ShuffleXor(1, 1);
    }
  }
};

TEST(HostExecutorDeathTest, NamesWhoWaitsForEver) {
  EXPECT_DEATH(Launch<HalfABarrier>({}), "thread 0 waits for the block; thread 40 is done");
  EXPECT_DEATH(Launch<SplitWarp>({}), "thread 0 waits for the warp; thread 1 shuffles");
}

// Tasks of any choice of experts: every route once, with its row and weight, by expert and then by row.
TEST(Cuda, GathersTasksFromTheRoutersChoice) {
  std::mt19937 bits(5);
  for (const int32_t experts : {1, 7, 256, 300}) {
    for (const int32_t rows : {1, 2, 5, 33}) {
      const int32_t top_k = std::min(experts, 8), count = std::min(experts, rows * top_k) + 3;
      std::vector<int32_t> ids;
      std::vector<float> weights;
      for (int32_t r = 0; r < rows; ++r) {
        std::vector<int32_t> all(static_cast<size_t>(experts));
        std::iota(all.begin(), all.end(), 0);
        std::shuffle(all.begin(), all.end(), bits);
        ids.insert(ids.end(), all.begin(), all.begin() + top_k);
        for (int32_t k = 0; k < top_k; ++k) weights.push_back(static_cast<float>(r * 100 + k));
      }
      std::vector<cuda::Task> tasks(static_cast<size_t>(count), cuda::Task{nullptr, 9, 9, 9, 9});
      std::vector<int32_t> route_rows(ids.size(), -1);
      std::vector<float> route_weights(ids.size(), -1);
      const std::vector<cuda::ExpertMatrices> matrices(static_cast<size_t>(experts));
      Launch<cuda::GatherTasks>({ids.data(), weights.data(), matrices.data(), rows, top_k, experts, 640,
                                 tasks.data(), count, 0, route_rows.data(), route_weights.data()});
      size_t task = 0;
      int64_t route = 0;
      for (int32_t e = 0; e < experts; ++e) {
        const int64_t first = route;
        for (size_t i = 0; i < ids.size(); ++i) {
          if (ids[i] != e) continue;
          EXPECT_EQ(route_rows[static_cast<size_t>(route)], static_cast<int32_t>(i) / top_k);
          EXPECT_EQ(route_weights[static_cast<size_t>(route)], weights[i]);
          ++route;
        }
        if (route == first) continue;
        EXPECT_EQ(tasks[task].expert, matrices.data() + e);
        EXPECT_EQ(tasks[task].first_column, 0);
        EXPECT_EQ(tasks[task].columns, 640);
        EXPECT_EQ(tasks[task].first_route, first);
        EXPECT_EQ(tasks[task].routes, route - first);
        ++task;
      }
      for (; task < tasks.size(); ++task) EXPECT_EQ(tasks[task].routes + tasks[task].columns, 0);
    }
  }
}

TEST(Cuda, ReturnsTheDigestsOfAJoin) {
  for (const KernelTable* table : TestableTables()) {
    for (ArithmeticClass arithmetic : kArithmeticClasses)
      EXPECT_EQ(KnownAnswers(*table, arithmetic), ExpectedAnswers(arithmetic))
          << table->name << ", " << ArithmeticClassName(arithmetic);
  }
}

TEST(Cuda, SaysWhatIsMissing) {
  const auto table = SelectKernels("cuda", "");
  const cuda::Facts facts = cuda::Inspect();
  EXPECT_EQ(table.ok(), facts.problem.empty());
  if (table.ok()) return;
  EXPECT_NE(std::string(table.status().message()).find("use --backend cpu"), std::string::npos);
  EXPECT_TRUE(facts.devices.empty());
}

}  // namespace
}  // namespace paceline::kernels
