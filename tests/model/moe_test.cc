// Routing to ranks, and the mixture of experts around an exchange that a test can watch: what is asked of
// whom, in which blocks, and that neither blocks, ranks, replicas nor probes move a bit.
#include "model/moe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "model/placement_shape.h"

namespace paceline {
namespace {

using ::testing::HasSubstr;

// ---------------------------------------------------------------- SplitRoutes

struct Choices {
  int32_t rows = 0, top_k = 0;
  std::vector<int32_t> ids;    // [rows, top_k]
  std::vector<float> weights;  // [rows, top_k], all different
};

Choices RandomChoices(std::mt19937& random, int32_t rows, int32_t top_k, int32_t experts) {
  Choices c{.rows = rows, .top_k = top_k, .ids = {}, .weights = {}};
  std::vector<int32_t> all(experts);
  for (int32_t e = 0; e < experts; ++e) all[e] = e;
  for (int32_t r = 0; r < rows; ++r) {
    std::shuffle(all.begin(), all.end(), random);
    c.ids.insert(c.ids.end(), all.begin(), all.begin() + top_k);
    for (int32_t k = 0; k < top_k; ++k) c.weights.push_back(static_cast<float>(r * top_k + k + 1));
  }
  return c;
}

// Cuts and replicas everywhere.
Placement RandomPlacement(std::mt19937& random, int32_t ranks, int32_t experts, int32_t groups) {
  Placement p(Epoch(0), ranks,
              {{.experts = experts, .groups = groups}, {.experts = experts, .groups = groups}});
  const auto pick = [&](int32_t below) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(below));
  };
  for (int32_t i = 0; i < 3 * experts; ++i) {
    const int32_t first = pick(groups);
    std::vector<RankId> holders;
    for (int32_t h = 0; h <= pick(3); ++h) holders.push_back(RankId(pick(ranks)));
    p.Assign(LayerId(1), ExpertId(pick(experts)), first, 1 + pick(groups - first), holders);
  }
  return p;
}

std::vector<std::vector<Route>> Split(const Placement& placement, const Choices& c) {
  std::vector<Part> parts;
  parts.resize(2);  // left from another layer
  parts[0].routes.push_back({5, 5, 5, 5, 5});
  SplitRoutes(placement, LayerId(1), c.ids.data(), c.weights.data(), c.rows, c.top_k, parts);
  std::vector<std::vector<Route>> routes;
  for (size_t r = 0; r < parts.size(); ++r) {
    EXPECT_EQ(parts[r].rank, RankId(static_cast<int32_t>(r)));
    routes.push_back(parts[r].routes);
  }
  return routes;
}

TEST(SplitRoutes, EveryChoiceVisitsEverySegmentOnceAtAHolder) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const int32_t ranks = 1 + round % 5, experts = 6, groups = 1 + round % 4, top_k = 1 + round % 3;
    const Placement placement = RandomPlacement(random, ranks, experts, groups);
    const Choices c = RandomChoices(random, 1 + round % 70, top_k, experts);
    const auto parts = Split(placement, c);
    ASSERT_EQ(parts.size(), static_cast<size_t>(ranks));

    std::map<std::tuple<int32_t, int32_t, int32_t>, float> seen;    // (row, expert, first group) -> weight
    std::map<std::pair<int32_t, int32_t>, std::set<size_t>> asked;  // (expert, first group) -> ranks
    for (size_t r = 0; r < parts.size(); ++r) {
      std::set<std::pair<int32_t, int32_t>> closed;
      std::pair<int32_t, int32_t> open{-1, -1};
      for (const Route& route : parts[r]) {
        EXPECT_TRUE(seen.insert({{route.row, route.expert, route.first_group}, route.weight}).second);
        const std::pair<int32_t, int32_t> segment{route.expert, route.first_group};
        asked[segment].insert(r);
        // Routes of one segment stand together.
        if (segment != open) {
          EXPECT_TRUE(closed.insert(segment).second);
        }
        open = segment;
        bool held = false;
        for (const Segment& s : placement.segments(LayerId(1), ExpertId(route.expert))) {
          held =
              held || (s.first_group == route.first_group && s.groups == route.groups &&
                       std::count(s.holders.begin(), s.holders.end(), RankId(static_cast<int32_t>(r))) == 1);
        }
        EXPECT_TRUE(held) << "rank " << r << " expert " << route.expert << " group " << route.first_group;
      }
    }
    // One holder of a segment per block, or its weights would be read twice.
    for (const auto& [segment, who] : asked) EXPECT_EQ(who.size(), 1u);
    size_t wanted = 0;
    for (int32_t i = 0; i < c.rows * top_k; ++i) {
      for (const Segment& s : placement.segments(LayerId(1), ExpertId(c.ids[i]))) {
        ++wanted;
        const auto found = seen.find({i / top_k, c.ids[i], s.first_group});
        ASSERT_NE(found, seen.end());
        EXPECT_EQ(found->second, c.weights[i]);
      }
    }
    EXPECT_EQ(seen.size(), wanted);
    EXPECT_EQ(Split(placement, c), parts);  // a function of its arguments
  }
}

TEST(SplitRoutes, ReplicasShareTheLeaves) {
  Placement p(Epoch(0), 3, {{.experts = 4, .groups = 2}, {.experts = 4, .groups = 2}});
  for (int32_t e = 0; e < 4; ++e) p.Assign(LayerId(1), ExpertId(e), 0, 2, {RankId(1), RankId(2)});
  const Choices c{.rows = 2, .top_k = 2, .ids = {0, 1, 2, 3}, .weights = {1, 2, 3, 4}};
  const auto parts = Split(p, c);
  // Least leaves so far, ties to the lower rank: experts 0 and 2 at rank 1, 1 and 3 at rank 2.
  EXPECT_TRUE(parts[0].empty());
  EXPECT_EQ(parts[1], (std::vector<Route>{{0, 0, 0, 2, 1}, {1, 2, 0, 2, 3}}));
  EXPECT_EQ(parts[2], (std::vector<Route>{{0, 1, 0, 2, 2}, {1, 3, 0, 2, 4}}));
}

// ---------------------------------------------------------------- RunMoe

// Answers with a second ExpertStore per rank, and notes what was asked.
class WatchedExchange final : public Exchange {
 public:
  struct Asked {
    uint64_t step;
    int32_t layer, block, rows;
    std::vector<Part> parts;
  };

  WatchedExchange(const Checkpoint& checkpoint, const Placement& placement, const kernels::KernelTable& table)
      : pool_(1) {
    for (int32_t rank = 1; rank < placement.ranks(); ++rank)
      stores_.push_back(*ExpertStore::Load(checkpoint, placement, RankId(rank), table, pool_, {}));
  }

  absl::Status SendExperts(StepId step, LayerId layer, int32_t block, const RowBlock& rows,
                           std::span<const Part> parts) override {
    if (fail_send_block == block) return Error(errors::kNodeLost, "the send failed");
    asked.push_back({step.value(), layer.value(), block, rows.rows, {parts.begin(), parts.end()}});
    Pending p{.block = block,
              .sums = std::vector<int64_t>(rows.rows * rows.hidden),
              .errors = std::vector<uint8_t>(rows.rows)};
    const kernels::Activations x{.rows = rows.rows,
                                 .width = rows.hidden,
                                 .values = rows.values,
                                 .codes = rows.codes,
                                 .scales = rows.scales};
    for (const Part& part : parts) {
      for (const Route& route : part.routes) {
        EXPECT_GE(route.row, 0);
        EXPECT_LT(route.row, rows.rows);
      }
      kernels::Workspace workspace;
      RETURN_IF_ERROR(stores_.at(part.rank.value() - 1)
                          ->Compute(layer, x, part.routes, kernels::ActivationContract::kInt16, pool_,
                                    workspace, p.sums.data(), p.errors.data()));
    }
    pending_.push_back(std::move(p));
    return absl::OkStatus();
  }
  absl::Status ReceiveExperts(StepId, LayerId, int32_t block, ExpertSums into) override {
    if (fail_receive_block == block) return Error(errors::kNodeLost, "the answer failed");
    EXPECT_FALSE(pending_.empty());
    const Pending p = std::move(pending_.front());
    pending_.erase(pending_.begin());
    EXPECT_EQ(p.block, block);  // in the order they were sent
    for (size_t i = 0; i < p.sums.size(); ++i) into.sums[i] += p.sums[i];
    for (size_t i = 0; i < p.errors.size(); ++i) into.row_errors[i] |= p.errors[i];
    if (flag_row_of_last_block >= 0 && pending_.empty()) into.row_errors[flag_row_of_last_block] = 1;
    return absl::OkStatus();
  }
  absl::Status SendMatmul(StepId, int32_t, const float*, int32_t, int32_t,
                          std::span<const MatmulPart>) override {
    return absl::UnimplementedError("not a head");
  }
  absl::Status ReceiveMatmul(StepId, int32_t, float*, int64_t) override {
    return absl::UnimplementedError("not a head");
  }
  void SetPeers(Epoch, std::vector<Peer>) override {}
  absl::Status MeasureLinks(bool) override { return absl::OkStatus(); }
  int64_t bytes() const override { return 0; }
  double wait_seconds() const override { return 0; }

  int32_t fail_send_block = -1, fail_receive_block = -1, flag_row_of_last_block = -1;
  std::vector<Asked> asked;

 private:
  struct Pending {
    int32_t block;
    std::vector<int64_t> sums;
    std::vector<uint8_t> errors;
  };
  ThreadPool pool_;
  std::vector<std::unique_ptr<ExpertStore>> stores_;  // of ranks 1..
  std::vector<Pending> pending_;
};

class RunMoeTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    checkpoint_ = *Checkpoint::Open(absl::StrCat(PACELINE_SOURCE_DIR, "/tests/goldens/cases/", GetParam()));
    layer_ = *LoadLayer(*checkpoint_, "layers.1", checkpoint_->config().layers[1], table_);
    ASSERT_NE(layer_.moe, nullptr);
  }

  // Group by group over the ranks 0 .. ranks - 1, the odd experts whole on the last one.
  Placement Spread(int32_t ranks) const {
    Placement p(Epoch(0), ranks, PlacementShape(*checkpoint_));
    for (int32_t layer = 0; layer < static_cast<int32_t>(p.layers().size()); ++layer) {
      const LayerShape& shape = p.layers()[layer];
      for (int32_t e = 0; e < shape.experts; ++e) {
        for (int32_t g = 0; g < shape.groups; ++g)
          p.Assign(LayerId(layer), ExpertId(e), g, 1, {RankId(e % 2 == 1 ? ranks - 1 : (e / 2 + g) % ranks)});
      }
    }
    return p;
  }

  struct Outcome {
    absl::Status status;
    std::vector<float> h;         // [rows, hidden]
    std::vector<uint8_t> errors;  // [rows]
  };
  Outcome Run(int32_t rows, const Placement& placement, WatchedExchange* exchange, bool probe = false) {
    const ModelConfig& config = checkpoint_->config();
    ThreadPool pool(1);
    kernels::Workspace workspace;
    Batch batch;
    batch.rows = rows;
    const StepContext context{table_, pool, workspace, kernels::ActivationContract::kInt16, batch};
    const auto local = *ExpertStore::Load(*checkpoint_, placement, RankId(0), table_, pool, {});
    std::mt19937 random(11);
    std::vector<float> x(static_cast<size_t>(rows * config.hidden));
    for (float& v : x) v = static_cast<float>(static_cast<int32_t>(random() % 4001) - 2000) / 1000.0f;
    Outcome out{absl::OkStatus(), std::vector<float>(x.size(), 0.25f), std::vector<uint8_t>(rows, 0)};
    std::vector<Part> parts;
    const ExpertHome home{*local, placement, LayerId(1), exchange, StepId(9), probe};
    out.status = RunMoe(context, *layer_.moe, config, home, x.data(), out.h.data(), out.errors.data(), parts);
    return out;
  }

  const kernels::KernelTable& table_ = kernels::ReferenceKernels();
  std::unique_ptr<Checkpoint> checkpoint_;
  LayerWeights layer_;
};

TEST_P(RunMoeTest, RanksAndBlocksMoveNoBit) {
  for (const int32_t rows : {1, 64, 65, 150}) {
    const Outcome alone = Run(rows, Spread(1), nullptr);
    ASSERT_TRUE(alone.status.ok()) << alone.status;
    for (const int32_t ranks : {2, 3}) {
      const Placement placement = Spread(ranks);
      WatchedExchange exchange(*checkpoint_, placement, table_);
      const Outcome out = Run(rows, placement, &exchange);
      ASSERT_TRUE(out.status.ok()) << out.status;
      EXPECT_EQ(out.h, alone.h) << rows << " rows on " << ranks << " ranks";
      ASSERT_EQ(exchange.asked.size(), static_cast<size_t>((rows + 63) / 64));
      for (size_t block = 0; block < exchange.asked.size(); ++block) {
        const WatchedExchange::Asked& asked = exchange.asked[block];
        EXPECT_EQ(asked.step, 9u);
        EXPECT_EQ(asked.layer, 1);
        EXPECT_EQ(asked.block, static_cast<int32_t>(block));
        EXPECT_EQ(asked.rows, std::min(64, rows - static_cast<int32_t>(block) * 64));
        ASSERT_EQ(asked.parts.size(), static_cast<size_t>(ranks - 1));
      }
    }
  }
}

TEST_P(RunMoeTest, RowsOfAStepDoNotKnowEachOther) {
  const int64_t hidden = checkpoint_->config().hidden;
  const Outcome many = Run(70, Spread(1), nullptr), few = Run(3, Spread(1), nullptr);
  EXPECT_TRUE(std::equal(few.h.begin(), few.h.begin() + 3 * hidden, many.h.begin()));
}

TEST_P(RunMoeTest, AProbeAsksEveryIdleHolderForOneLeafAndMovesNoBit) {
  const int32_t ranks = 4, experts = checkpoint_->config().experts;
  // Each worker has one expert, the head the others; rank 3 holds nothing in this layer.
  Placement placement(Epoch(0), ranks, PlacementShape(*checkpoint_));
  const int32_t groups = placement.layers()[1].groups;
  placement.Assign(LayerId(1), ExpertId(experts - 1), 0, groups, {RankId(1)});
  placement.Assign(LayerId(1), ExpertId(experts - 2), groups - 1, 1, {RankId(2)});
  placement.Assign(LayerId(0), ExpertId(0), 0, groups, {RankId(3)});
  const Outcome alone = Run(1, Spread(1), nullptr);
  WatchedExchange plain(*checkpoint_, placement, table_), probed(*checkpoint_, placement, table_);
  EXPECT_EQ(Run(1, placement, &plain).h, alone.h);
  EXPECT_EQ(Run(1, placement, &probed, /*probe=*/true).h, alone.h);
  for (size_t i = 0; i < 3; ++i) {
    const std::vector<Route>& without = plain.asked.at(0).parts.at(i).routes;
    const std::vector<Route>& with = probed.asked.at(0).parts.at(i).routes;
    if (i == 2) {
      EXPECT_TRUE(with.empty());  // nothing of this layer to ask for
    } else if (!without.empty()) {
      EXPECT_EQ(with, without);
    } else {
      const Route want = i == 0 ? Route{0, experts - 1, 0, 1, 0} : Route{0, experts - 2, groups - 1, 1, 0};
      EXPECT_EQ(with, std::vector<Route>{want});
    }
  }
}

TEST_P(RunMoeTest, AFailingExchangeEndsTheStepWithItsStatus) {
  const Placement placement = Spread(2);
  for (const int32_t block : {0, 1}) {
    WatchedExchange send(*checkpoint_, placement, table_);
    send.fail_send_block = block;
    EXPECT_THAT(std::string(Run(100, placement, &send).status.message()),
                HasSubstr("NET-001: the send failed"));
    WatchedExchange receive(*checkpoint_, placement, table_);
    receive.fail_receive_block = block;
    EXPECT_THAT(std::string(Run(100, placement, &receive).status.message()),
                HasSubstr("NET-001: the answer failed"));
  }
}

TEST_P(RunMoeTest, AWorkersRowErrorLandsOnTheRowOfItsBlock) {
  const Placement placement = Spread(2);
  WatchedExchange exchange(*checkpoint_, placement, table_);
  exchange.flag_row_of_last_block = 5;
  const Outcome out = Run(100, placement, &exchange);
  ASSERT_TRUE(out.status.ok());
  for (int32_t row = 0; row < 100; ++row) EXPECT_EQ(out.errors[row], row == 64 + 5 ? 1 : 0) << row;
}

// Integer experts, wide ones, and float experts: both row formats.
INSTANTIATE_TEST_SUITE_P(Cases, RunMoeTest,
                         ::testing::Values("int4-wide-experts", "int4-asym-v1-g64", "mtp-equals-target"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& ch : name) ch = ch == '-' ? '_' : ch;
                           return name;
                         });

}  // namespace
}  // namespace paceline
