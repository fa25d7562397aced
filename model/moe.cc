// Routing, dispatch and combination.
#include "model/moe.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/status.h"

namespace paceline {
void SplitRoutes(const Placement& placement, LayerId layer, const int32_t* ids, const float* weights,
                 int32_t rows, int32_t top_k, std::vector<Part>& parts) {
  parts.resize(placement.ranks());
  for (int32_t r = 0; r < placement.ranks(); ++r) {
    parts[r].rank = RankId(r);
    parts[r].routes.clear();
  }
  const int32_t experts = placement.layers()[layer.value()].experts;
  // Rows by expert, in expert order: a counting pass, so that a step allocates nothing after the first.
  thread_local std::vector<int32_t> first_of_expert, choice;
  first_of_expert.assign(experts + 1, 0);
  choice.resize(static_cast<size_t>(rows) * top_k);
  for (int32_t i = 0; i < rows * top_k; ++i) ++first_of_expert[ids[i] + 1];
  for (int32_t e = 0; e < experts; ++e) first_of_expert[e + 1] += first_of_expert[e];
  thread_local std::vector<int32_t> cursor;
  cursor.assign(first_of_expert.begin(), first_of_expert.end() - 1);
  for (int32_t i = 0; i < rows * top_k; ++i) choice[cursor[ids[i]]++] = i;

  thread_local std::vector<int64_t> load;  // leaves given to each rank in this step
  load.assign(placement.ranks(), 0);
  for (int32_t e = 0; e < experts; ++e) {
    if (first_of_expert[e] == first_of_expert[e + 1]) continue;
    for (const Segment& segment : placement.segments(layer, ExpertId(e))) {
      const RankId holder =
          *std::min_element(segment.holders.begin(), segment.holders.end(), [](RankId a, RankId b) {
            return load[a.value()] != load[b.value()] ? load[a.value()] < load[b.value()] : a < b;
          });
      load[holder.value()] += segment.groups;
      for (int32_t at = first_of_expert[e]; at < first_of_expert[e + 1]; ++at) {
        const int32_t i = choice[at];
        parts[holder.value()].routes.push_back(
            {i / top_k, e, segment.first_group, segment.groups, weights[i]});
      }
    }
  }
}

void RunFeedForward(const StepContext& context, const FeedForwardWeights& weights, const float* x,
                    int64_t hidden, float* out) {
  const kernels::Workspace::Scope scope(context.workspace);
  const int32_t rows = context.batch.rows;
  const int64_t columns = weights.gate->outputs;
  float* gate = context.workspace.Take<float>(rows * columns);  // [rows, columns]
  float* up = context.workspace.Take<float>(rows * columns);    // [rows, columns]
  const kernels::Activations in = Activate(context, x, rows, hidden, {weights.gate.get(), weights.up.get()});
  context.table.linear(context.pool, *weights.gate, in, gate, columns);
  context.table.linear(context.pool, *weights.up, in, up, columns);
  context.table.silu_mul(context.pool, gate, up, rows * columns, gate);
  const kernels::Activations middle = Activate(context, gate, rows, columns, {weights.down.get()});
  context.table.linear(context.pool, *weights.down, middle, out, hidden);
}

namespace {

// The remote parts of one block, with rows counted from its first. A step of one block needs no copy.
std::span<const Part> PartsOfBlock(const std::vector<Part>& parts, int32_t block, int32_t blocks) {
  const std::span<const Part> remote(parts.data() + 1, parts.size() - 1);
  if (blocks == 1) return remote;
  thread_local std::vector<Part> cut;
  cut.resize(remote.size());
  const int32_t first = block * kBlockRows;
  for (size_t i = 0; i < remote.size(); ++i) {
    cut[i].rank = remote[i].rank;
    cut[i].routes.clear();
    for (const Route& route : remote[i].routes) {
      if (route.row < first || route.row >= first + kBlockRows) continue;
      cut[i].routes.push_back(route);
      cut[i].routes.back().row -= first;
    }
  }
  return cut;
}

int32_t CountDistinct(const int32_t* ids, int64_t count, int32_t experts) {
  thread_local std::vector<bool> seen;
  seen.assign(static_cast<size_t>(experts), false);
  int32_t distinct = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (seen[ids[i]]) continue;
    seen[ids[i]] = true;
    ++distinct;
  }
  return distinct;
}

LeafLoad LoadOf(const std::vector<Part>& parts) {
  LeafLoad load;
  for (const Part& part : parts) {
    int64_t leaves = 0;
    for (const Route& route : part.routes) leaves += route.groups;
    load.busiest = std::max(load.busiest, leaves);
    load.all += leaves;
  }
  return load;
}

// Gives every worker that holds anything of this layer, and got no row, one leaf of row 0 to compute. Its
// answer is dropped by weight 0: a leaf of numbers is then exactly 0, so the sum does not change.
void AddProbes(const Placement& placement, LayerId layer, std::vector<Part>& parts) {
  const LayerShape& shape = placement.layers()[layer.value()];
  for (Part& part : parts) {
    if (part.rank.value() == 0 || !part.routes.empty()) continue;
    for (int32_t e = 0; e < shape.experts && part.routes.empty(); ++e) {
      const std::vector<Segment> held = placement.HeldBy(part.rank, layer, ExpertId(e));
      if (!held.empty()) part.routes.push_back({0, e, held.front().first_group, 1, 0.0f});
    }
  }
}

}  // namespace

absl::Status RunMoe(const StepContext& context, const MoeWeights& weights, const ModelConfig& config,
                    const ExpertHome& home, const float* x, float* h, uint8_t* row_errors,
                    std::vector<Part>& parts) {
  const kernels::Workspace::Scope scope(context.workspace);
  const kernels::KernelTable& table = context.table;
  const int32_t rows = context.batch.rows;
  const int64_t hidden = config.hidden;

  StageLap lap(context.meter);
  // Choose.
  float* logits = context.workspace.Take<float>(int64_t{rows} * config.experts);  // [rows, experts]
  int32_t* ids = context.workspace.Take<int32_t>(int64_t{rows} * config.top_k);   // [rows, top_k]
  float* router = context.workspace.Take<float>(int64_t{rows} * config.top_k);    // [rows, top_k]
  const bool integer_rows = weights.row_format == RowFormat::kInt16Group128;
  kernels::Activations in = Activate(
      context, x, rows, hidden,
      {weights.router.get(), weights.shared.gate.get(), weights.shared.up.get(), weights.shared_gate.get()});
  if (integer_rows && in.codes == nullptr) {
    int16_t* codes = context.workspace.Take<int16_t>(rows * hidden);  // [rows, hidden]
    float* scales = context.workspace.Take<float>(rows * kernels::ActivationGroups(hidden));
    table.quantise(context.pool, x, rows, hidden, context.contract, codes, scales);
    in.codes = codes;
    in.scales = scales;
  }
  table.linear(context.pool, *weights.router, in, logits, config.experts);
  table.route(context.pool, logits, rows, config.experts, config.top_k, config.renormalise, ids, router);
  if (context.distinct_experts != nullptr) {
    context.distinct_experts->push_back(CountDistinct(ids, int64_t{rows} * config.top_k, config.experts));
  }

  int64_t* sums = context.workspace.Take<int64_t>(rows * hidden);  // [rows, hidden], multiples of 2^-32
  std::memset(sums, 0, static_cast<size_t>(rows * hidden) * sizeof(int64_t));
  SplitRoutes(home.placement, home.layer, ids, router, rows, config.top_k, parts);
  if (context.leaf_loads != nullptr) context.leaf_loads->push_back(LoadOf(parts));
  if (home.probe) AddProbes(home.placement, home.layer, parts);
  lap.Lap(Stage::kRouter, weights.router->bytes);

  // Send every block, then compute the shared expert and the local leaves while the workers work. Experts see
  // the rows in their layer's row format only, wherever they run.
  const bool remote = home.exchange != nullptr && home.placement.ranks() > 1;
  const int32_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (int32_t block = 0; remote && block < blocks; ++block) {
    const int64_t first = int64_t{block} * kBlockRows;
    RowBlock out{.format = WireFormat(weights.row_format, context.contract),
                 .rows = std::min(kBlockRows, rows - block * kBlockRows),
                 .hidden = static_cast<int32_t>(hidden)};
    if (integer_rows) {
      out.codes = in.codes + first * hidden;
      out.scales = in.scales + first * kernels::ActivationGroups(hidden);
    } else {
      out.values = x + first * hidden;
    }
    RETURN_IF_ERROR(
        home.exchange->SendExperts(home.step, home.layer, block, out, PartsOfBlock(parts, block, blocks)));
  }
  if (remote) lap.Lap(Stage::kExchangeSend, 0);

  float* shared = nullptr;       // [rows, hidden]
  float* shared_gate = nullptr;  // [rows]
  if (weights.shared.gate != nullptr) {
    shared = context.workspace.Take<float>(rows * hidden);
    shared_gate = context.workspace.Take<float>(rows);
    RunFeedForward(context, weights.shared, x, hidden, shared);
    table.linear(context.pool, *weights.shared_gate, in, shared_gate, 1);
    lap.Lap(Stage::kSharedExpert, weights.shared.gate->bytes + weights.shared.up->bytes +
                                      weights.shared.down->bytes + weights.shared_gate->bytes);
  }
  kernels::Activations local{.rows = rows, .width = hidden, .contract = context.contract};
  if (integer_rows) {
    local.codes = in.codes;
    local.scales = in.scales;
  } else {
    local.values = x;
  }
  int64_t touched = 0;
  RETURN_IF_ERROR(home.local.Compute(home.layer, local, parts[0].routes, context.contract, context.pool,
                                     context.workspace, sums, row_errors, &touched));
  lap.Lap(Stage::kExperts, touched);
  for (int32_t block = 0; remote && block < blocks; ++block) {
    const int64_t first = int64_t{block} * kBlockRows;
    RETURN_IF_ERROR(home.exchange->ReceiveExperts(home.step, home.layer, block,
                                                  {sums + first * hidden, row_errors + first}));
  }
  if (remote) lap.Lap(Stage::kExchangeWait, 0);
  table.combine(context.pool, sums, shared, shared_gate, rows, hidden, h);
  lap.Lap(Stage::kNorms, 0);
  return absl::OkStatus();
}

}  // namespace paceline
