// Routed experts in two launches. The first makes the middle, silu(gate) * up: a thread block per task and 16
// columns; whichever block ends a group of 128 columns makes the group's codes, with the router weight. The
// second makes leaves, a warp per group of columns, and adds them as integers: sums have no order. NUMERICS:
// Router weight, Exact sum.
#pragma once

#include "kernels/cuda/linear.h"

namespace paceline::kernels::cuda {

struct ExpertMatrices {
  Matrix gate, up, down;
};

// One expert's rows. A route is one row at one expert: a task has routes [first_route, first_route + routes).
struct Task {
  const ExpertMatrices* expert;
  int64_t first_column, columns;  // inside the expert's slice
  int64_t first_route, routes;
};

struct ExpertStep {
  const Task* tasks;  // [task_count]
  int32_t task_count;
  int64_t most_columns;        // of a task
  const int32_t* route_rows;   // [routes], into x and into sums
  const float* route_weights;  // [routes]
  Inputs x;
  float top;
  int64_t middle_stride;  // columns, whole groups
  float* middle;          // [routes, middle_stride]
  Codes middle_codes;     // of the routes, where a down projection is integer
  int32_t* ready;         // [tasks][middle_stride / 128], column tiles that are through; 0 before and after
  int64_t hidden;
  int64_t* sums;        // [rows, hidden]
  uint8_t* row_errors;  // [rows]
};

// Tasks from the router's choice, on the device: one per expert that a row chose, experts ascending, each
// with its rows ascending; tasks behind them have no routes. One thread block.
struct GatherTasks {
  struct Args {
    const int32_t* ids;              // [rows, top_k]
    const float* weights;            // [rows, top_k]
    const ExpertMatrices* matrices;  // [experts]
    int64_t rows;
    int32_t top_k, experts;
    int64_t columns;     // of every expert
    Task* tasks;         // [task_count]
    int32_t task_count;  // at least min(experts, rows * top_k)
    int32_t unused;
    int32_t* route_rows;  // [rows * top_k]
    float* route_weights;
  };
  static constexpr int32_t kThreads = 256;
  static Grid Blocks(const Args& a) { return {1, 1, (2 * a.experts + 2) * 4}; }
  static PACELINE_DEVICE void Run(const Args& a) {
    const int32_t routes = static_cast<int32_t>(a.rows * a.top_k);
    int32_t* first_route = SharedMemory<int32_t>();  // [experts + 1], of expert e at e
    int32_t* first_task = first_route + a.experts + 1;
    // A thread owns experts; every row names an expert once at most.
    for (int32_t e = ThreadIndex(); e < a.experts; e += kThreads) {
      int32_t count = 0;
      for (int32_t i = 0; i < routes; ++i) count += a.ids[i] == e ? 1 : 0;
      first_route[e + 1] = count;
      first_task[e + 1] = count > 0 ? 1 : 0;
    }
    BlockBarrier();
    if (ThreadIndex() == 0) {
      first_route[0] = first_task[0] = 0;
      for (int32_t e = 0; e < a.experts; ++e) {
        first_route[e + 1] += first_route[e];
        first_task[e + 1] += first_task[e];
      }
    }
    BlockBarrier();
    for (int32_t e = ThreadIndex(); e < a.experts; e += kThreads) {
      int32_t to = first_route[e];
      if (to == first_route[e + 1]) continue;
      a.tasks[first_task[e]] = {a.matrices + e, 0, a.columns, to, first_route[e + 1] - to};
      for (int32_t i = 0; i < routes; ++i) {
        if (a.ids[i] != e) continue;
        a.route_rows[to] = i / a.top_k;
        a.route_weights[to] = a.weights[i];
        ++to;
      }
    }
    for (int32_t t = first_task[a.experts] + ThreadIndex(); t < a.task_count; t += kThreads)
      a.tasks[t] = {a.matrices, 0, 0, 0, 0};
  }
};

template <Kind kKind, int32_t kPlanes, int32_t kRows>
struct ExpertMiddle {
  using Args = ExpertStep;
  static constexpr int32_t kThreads = kTileThreads;
  static Grid Blocks(const Args& a) {
    return {Parts(a.most_columns, kTile), a.task_count, LinkBytes(2, kRows)};
  }
  static PACELINE_DEVICE void Run(const Args& a) {
    const Task task = a.tasks[BlockY()];
    const int64_t column = BlockX() * kTile;  // of the task
    if (column >= task.columns) return;
    Link* links = SharedMemory<Link>();
    // Where the links were, once they are read.
    float* pair = reinterpret_cast<float*>(links);  // [2][kRows][16]
    int32_t* last = reinterpret_cast<int32_t*>(pair + 2 * kRows * kTile);
    const Matrix m[2] = {task.expert->gate, task.expert->up};
    const int64_t tile = (task.first_column + column) / kTile;
    for (int64_t first = 0; first < task.routes; first += kRows) {
      const float total = TileSums<kKind, kPlanes, kRows, 2>(m, tile, a.x, a.route_rows + task.first_route,
                                                             first, task.routes, links);
      if (ThreadIndex() < 2 * kRows * kTile) pair[ThreadIndex()] = total;
      BlockBarrier();
      const int64_t route = first + ThreadIndex() / kTile, own = column + ThreadIndex() % kTile;
      if (ThreadIndex() < kRows * kTile && route < task.routes && own < task.columns)
        a.middle[(task.first_route + route) * a.middle_stride + own] =
            Silu(pair[ThreadIndex()]) * pair[kRows * kTile + ThreadIndex()];
      BlockBarrier();
    }
    // Who adds the last of a group's tiles sees what all of them wrote.
    const int64_t group = column / kActivationGroup;
    const int64_t left = task.columns - group * kActivationGroup;
    Publish();
    BlockBarrier();
    if (ThreadIndex() == 0) {
      int32_t* ready = a.ready + BlockY() * (a.middle_stride / kActivationGroup) + group;
      *last = AddOne(ready) == Parts(Least(left, kActivationGroup), kTile) - 1 ? 1 : 0;
      if (*last != 0) *ready = 0;  // for the next launch
    }
    BlockBarrier();
    if (*last != 0) Weigh(a, task, group);
  }

 private:
  // The codes of a group of the middle, or its products with the router weight where down is float.
  static PACELINE_DEVICE void Weigh(const Args& a, const Task& task, int64_t group) {
    Publish();
    const bool integer = task.expert->down.integer();
    const int64_t first = group * kActivationGroup + ThreadIndex() % kWarp * 4;
    for (int64_t r = ThreadIndex() / kWarp; r < task.routes; r += kWarps) {
      const int64_t route = task.first_route + r;
      const float weight = a.route_weights[route];
      float* middle = a.middle + route * a.middle_stride + first;
      float x[4];
      PACELINE_UNROLL
      for (int32_t i = 0; i < 4; ++i) x[i] = first + i < task.columns ? LoadFresh(middle + i) : 0.0f;
      if (!integer) {
        PACELINE_UNROLL
        for (int32_t i = 0; i < 4; ++i) middle[i] = x[i] * weight;
        continue;
      }
      int32_t code[4];
      const float scale = QuantiseGroup(x, a.top, code);
      StoreCodes(a.middle_codes, route, group, code);
      if (ThreadIndex() % kWarp == 0)
        a.middle_codes.scales[route * (a.middle_codes.chunks / 4) + group] = scale * weight;
    }
  }
};

// A leaf as it is added: false where it is too large.
PACELINE_DEVICE bool AddLeaf(float leaf, int64_t& sum) {
  if (!(Magnitude(leaf) < kLeafLimit)) return false;
  sum += RoundToLong(leaf * 0x1p32f);  // the product is exact
  return true;
}

template <Kind kKind, int32_t kPlanes, int32_t kRows>
struct ExpertDown {
  using Args = ExpertStep;
  static constexpr int32_t kThreads = kTileThreads;
  static constexpr int32_t kTiles = 2;  // of hidden outputs per thread block: enough loads on their way
  static Grid Blocks(const Args& a) {
    return {Parts(a.hidden, kTile * kTiles), a.task_count,
            kWarps * kTiles * kRows * kTile * static_cast<int32_t>(sizeof(int64_t))};
  }
  static PACELINE_DEVICE void Run(const Args& a) {
    const Task task = a.tasks[BlockY()];
    const Matrix m = task.expert->down;
    const int32_t* rows = a.route_rows + task.first_route;
    for (int64_t first = 0; first < task.routes; first += kRows) {
      if constexpr (kKind == Kind::kAny) {
        Plainly(a, task, m, rows, first);
      } else {
        ByProducts(a, task, m, rows, first);
      }
    }
  }

 private:
  static constexpr int32_t kProducts = kKind == Kind::kAny ? 1 : kRows / kColumnRows<kPlanes>;

  static PACELINE_DEVICE void ByProducts(const Args& a, const Task& task, const Matrix& m,
                                         const int32_t* rows, int64_t first) {
    constexpr int32_t kOwned = LaneRows<kPlanes>::kOwned;
    const int32_t warp = ThreadIndex() / kWarp, lane = ThreadIndex() % kWarp;
    const int32_t groups = static_cast<int32_t>(ActivationGroups(task.columns));
    const int32_t first_group = static_cast<int32_t>(task.first_column / kActivationGroup);
    LaneRows<kPlanes> own[kProducts];  // routes of the task
    PACELINE_UNROLL
    for (int32_t p = 0; p < kProducts; ++p)
      own[p] = RowsOfLane<kPlanes>(nullptr, first + p * kColumnRows<kPlanes>, task.routes);
    int64_t sums[kTiles][kProducts][2][kOwned] = {};
    for (int32_t g = warp; g < groups; g += kWarps) {
      const int32_t begin = m.regular ? first_group + g : m.first_term[first_group + g];
      const int32_t end = m.regular ? begin + 1 : m.first_term[first_group + g + 1];
      float leaves[kTiles][kProducts][2][kOwned] = {};
      for (int32_t t = begin; t < end; ++t) {
        const Term term = TermAt(m, t);
        Vec4 w[kTiles][kTermVectors<kKind>] = {};
        PACELINE_UNROLL
        for (int32_t i = 0; i < kTiles; ++i) {
          const int64_t tile = BlockX() * kTiles + i;
          if (tile < m.tiles()) LoadTerm<kKind>(m, tile, term, w[i]);
        }
        PACELINE_UNROLL
        for (int32_t i = 0; i < kTiles; ++i) {
          const int64_t tile = BlockX() * kTiles + i;
          if (tile >= m.tiles()) continue;
          const int64_t scale_at = (tile * m.groups + term.group) * kTile + lane / 4;
          const float scales[2] = {ScaleAt(m, scale_at), ScaleAt(m, scale_at + 8)};
          PACELINE_UNROLL
          for (int32_t p = 0; p < kProducts; ++p) {
            LaneRows<kPlanes> routes = own[p];
            routes.operand += task.first_route;
            PACELINE_UNROLL
            for (int32_t o = 0; o < kOwned; ++o) routes.owned[o] += task.first_route;
            int32_t products[2][kOwned];
            MultiplyTerm<kKind, kPlanes>(m, tile, term, w[i], a.middle_codes,
                                         -int64_t{first_group} * (kActivationGroup / kChunk), routes,
                                         products);
            PACELINE_UNROLL
            for (int32_t o = 0; o < kOwned; ++o) {
              if (!routes.owned_there[o]) continue;
              const float scale = a.middle_codes.scales[routes.owned[o] * (a.middle_codes.chunks / 4) + g];
              PACELINE_UNROLL
              for (int32_t half = 0; half < 2; ++half)
                leaves[i][p][half][o] = std::fma(static_cast<float>(products[half][o]), scales[half] * scale,
                                                 leaves[i][p][half][o]);
            }
          }
        }
      }
      PACELINE_UNROLL
      for (int32_t i = 0; i < kTiles; ++i) {
        PACELINE_UNROLL
        for (int32_t p = 0; p < kProducts; ++p) {
          PACELINE_UNROLL
          for (int32_t half = 0; half < 2; ++half) {
            PACELINE_UNROLL
            for (int32_t o = 0; o < kOwned; ++o) {
              const int64_t output = (BlockX() * kTiles + i) * kTile + lane / 4 + 8 * half;
              if (!own[p].owned_there[o] || output >= a.hidden) continue;
              if (!AddLeaf(leaves[i][p][half][o], sums[i][p][half][o]))
                a.row_errors[rows[own[p].owned[o]]] = 1;
            }
          }
        }
      }
    }
    // [warps][tiles][rows][16], then one addition per output and row.
    int64_t* shared = SharedMemory<int64_t>();
    PACELINE_UNROLL
    for (int32_t i = 0; i < kTiles; ++i) {
      PACELINE_UNROLL
      for (int32_t p = 0; p < kProducts; ++p) {
        PACELINE_UNROLL
        for (int32_t o = 0; o < kOwned; ++o) {
          const int32_t row = p * kColumnRows<kPlanes> + lane % 4 * kOwned + o;
          int64_t* to = shared + ((warp * kTiles + i) * kRows + row) * kTile + lane / 4;
          to[0] = sums[i][p][0][o];
          to[8] = sums[i][p][1][o];
        }
      }
    }
    BlockBarrier();
    for (int32_t i = ThreadIndex(); i < kTiles * kRows * kTile; i += kThreads) {
      const int64_t route = first + i / kTile % kRows;
      const int64_t output = (BlockX() * kTiles + i / (kRows * kTile)) * kTile + i % kTile;
      if (route >= task.routes || output >= a.hidden) continue;
      int64_t sum = 0;
      PACELINE_UNROLL
      for (int32_t w = 0; w < kWarps; ++w) sum += shared[w * kTiles * kRows * kTile + i];
      AddExact(a.sums + rows[route] * a.hidden + output, sum);
    }
    BlockBarrier();
  }

  // 16 threads per group of columns, one per output; every sum goes to memory by itself.
  static PACELINE_DEVICE void Plainly(const Args& a, const Task& task, const Matrix& m, const int32_t* rows,
                                      int64_t first) {
    const int32_t output = ThreadIndex() % kTile;
    const int32_t there = static_cast<int32_t>(Least(kRows, task.routes - first));
    const int32_t groups = static_cast<int32_t>(ActivationGroups(task.columns));
    const int32_t first_group = static_cast<int32_t>(task.first_column / kActivationGroup);
    for (int32_t i = 0; i < kTiles; ++i) {
      const int64_t tile = BlockX() * kTiles + i;
      if (tile * kTile + output >= a.hidden) continue;
      int64_t sums[kRows] = {};
      for (int32_t g = ThreadIndex() / kTile; g < groups; g += kThreads / kTile) {
        float leaves[kRows] = {};
        if (m.integer()) {
          for (int32_t t = m.first_term[first_group + g]; t < m.first_term[first_group + g + 1]; ++t) {
            const Term term = TermAt(m, t);
            const float scale = ScaleAt(m, (tile * m.groups + term.group) * kTile + output);
            for (int32_t r = 0; r < there; ++r) {
              const int64_t route = task.first_route + first + r;
              const int32_t sum = PlainTerm(m, tile, output, term, a.middle_codes, route, -task.first_column);
              leaves[r] =
                  std::fma(static_cast<float>(sum),
                           scale * a.middle_codes.scales[route * (a.middle_codes.chunks / 4) + g], leaves[r]);
            }
          }
        } else {
          const float* x[kRows];
          for (int32_t r = 0; r < kRows; ++r)
            x[r] = a.middle + (task.first_route + first + (r < there ? r : there - 1)) * a.middle_stride -
                   task.first_column;
          FloatBlock<kRows>(m, tile, output, task.first_column + g * kActivationGroup, x, leaves);
          const float scale = BlockScaleOf(m, tile, first_group + g);
          for (int32_t r = 0; r < kRows; ++r) leaves[r] = std::fma(leaves[r], scale, 0.0f);
        }
        for (int32_t r = 0; r < there; ++r) {
          if (!AddLeaf(leaves[r], sums[r])) a.row_errors[rows[first + r]] = 1;
        }
      }
      for (int32_t r = 0; r < there; ++r)
        AddExact(a.sums + rows[first + r] * a.hidden + tile * kTile + output, sums[r]);
    }
  }
};

}  // namespace paceline::kernels::cuda
