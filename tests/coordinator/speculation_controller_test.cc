// The controller against worlds that are known: cost curves and acceptance processes made up, the best static
// depth computed, and what the controller earns compared with it.
#include "coordinator/speculation_controller.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

struct Costs {
  const char* name;
  std::function<double(int32_t batch, int32_t rows)> run;     // seconds
  std::function<double(int32_t batch, int32_t depth)> draft;  // seconds, of all passes
};

// A network's round trip and little else.
Costs Flat() {
  return {"flat", [](int32_t, int32_t rows) { return 0.024 + 0.0002 * rows; },
          [](int32_t n, int32_t depth) { return depth * (0.0008 + 0.00001 * n); }};
}
// Every row reads experts of its own: the union of speculation.md 2.1, exponent 0.82.
Costs Steep() {
  return {"steep", [](int32_t, int32_t rows) { return 0.020 + 0.010 * std::pow(rows, 0.82); },
          [](int32_t n, int32_t depth) { return depth * (0.0014 + 0.0001 * n); }};
}
// Kernels that work in blocks of four rows.
Costs Cliffs() {
  return {"cliffs", [](int32_t, int32_t rows) { return 0.010 + 0.006 * std::ceil(rows / 4.0); },
          [](int32_t n, int32_t depth) { return depth * (0.0004 + 0.00002 * n); }};
}
// No network, little to read twice: the second row costs nearly as much as the first.
Costs Cpu() {
  return {"cpu", [](int32_t, int32_t rows) { return 0.0004 + 0.0006 * rows; },
          [](int32_t n, int32_t depth) { return depth * (0.00025 + 0.00005 * n); }};
}
// No draft can pay: a row costs a step.
Costs Hopeless() {
  return {"hopeless", [](int32_t, int32_t rows) { return 0.010 * rows; },
          [](int32_t, int32_t depth) { return depth * 0.002; }};
}

// The chance of draft `depth` (from 0) in step `step`, given that those before it were right.
using Process = std::function<double(int64_t step, int32_t depth)>;
Process Constant(double a) {
  return [a](int64_t, int32_t) { return a; };
}
Process Decaying(double first, double factor) {
  return [=](int64_t, int32_t depth) { return first * std::pow(factor, depth); };
}

struct World {
  Costs costs;
  Process process;
  int32_t batch = 1;
  bool noise = true;  // of measured times
  std::vector<DraftOffer> offers = {{DraftSource::kMtp, kMaxDraft, 0}};
};

struct Outcome {
  double seconds = 0;
  double tokens = 0;
  std::vector<int32_t> depths;  // [step] summed over the batch
  double rate() const { return tokens / seconds; }
};

class Simulation {
 public:
  explicit Simulation(World world, uint32_t seed = 1, SpeculationPolicy policy = {})
      : world_(std::move(world)),
        random_(seed),
        controller_(policy, [this](const std::string& line) { warnings.push_back(line); }) {
    // What the start-up measurement would have seen.
    for (int32_t batch = 1; batch <= 32; batch *= 2) {
      for (int32_t depth = 0; depth <= kMaxDraft; ++depth) {
        if (batch > 4 && depth != 0 && depth != 1 && depth != 2 && depth != 4 && depth != 8) continue;
        controller_.SeedCost(batch, depth, world_.costs.run(batch, batch * (1 + depth)),
                             depth > 0 ? world_.costs.draft(batch, depth) : 0.0);
      }
    }
  }

  Outcome Run(int64_t steps, DraftMode mode = DraftMode::kAuto) {
    Outcome out;
    for (int64_t s = 0; s < steps; ++s, ++step_) {
      std::vector<DraftCandidate> candidates;
      for (int32_t i = 0; i < world_.batch; ++i) {
        candidates.push_back(
            {SequenceId(first_id + static_cast<uint64_t>(i)), {mode, kMaxDraft}, kMaxDraft, world_.offers});
      }
      const std::vector<DraftDecision> decisions =
          controller_.Decide(candidates, {.rows = int64_t{world_.batch} * (1 + kMaxDraft)});
      std::vector<DraftOutcome> outcomes;
      int32_t rows = world_.batch, sum = 0;
      std::array<int32_t, kMaxDraft> passes{};
      for (int32_t i = 0; i < world_.batch; ++i) {
        const DraftDecision& d = decisions[static_cast<size_t>(i)];
        int32_t accepted = 0;
        while (accepted < d.depth && Chance(world_.process(step_, accepted))) ++accepted;
        outcomes.push_back({candidates[static_cast<size_t>(i)].id, d.source, d.depth, d.depth, accepted});
        rows += d.depth;
        sum += d.depth;
        out.tokens += 1 + accepted;
        if (d.source == DraftSource::kMtp)
          for (int32_t j = 0; j < d.depth; ++j) ++passes[static_cast<size_t>(j)];
      }
      double draft = 0;
      for (int32_t j = 0; j < kMaxDraft && passes[static_cast<size_t>(j)] > 0; ++j) {
        const int32_t n = passes[static_cast<size_t>(j)];
        draft += world_.costs.draft(n, j + 1) - (j > 0 ? world_.costs.draft(n, j) : 0.0);
      }
      const double run = world_.costs.run(world_.batch, rows);
      out.seconds += run + draft;
      out.depths.push_back(sum);
      controller_.Observe({.draft_s = draft * Noise(), .run_s = run * Noise(), .outcomes = outcomes});
    }
    return out;
  }
  // Later text of the same requests is another process.
  void Turn(Process process) { world_.process = std::move(process); }

  SpeculationController& controller() { return controller_; }
  std::vector<std::string> warnings;
  uint64_t first_id = 1;

 private:
  bool Chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  // A twentieth up or down, and one step in a hundred takes five times as long.
  double Noise() {
    if (!world_.noise) return 1.0;
    if (Chance(0.01)) return 5.0;
    return std::uniform_real_distribution<>(0.95, 1.05)(random_);
  }

  World world_;
  std::mt19937 random_;
  SpeculationController controller_;
  int64_t step_ = 0;
};

double StaticRate(const World& world, int32_t depth, int64_t step = 0) {
  double tokens = 1, survival = 1;
  for (int32_t j = 0; j < depth; ++j) tokens += survival *= world.process(step, j);
  const double seconds = world.costs.run(world.batch, world.batch * (1 + depth)) +
                         (depth > 0 ? world.costs.draft(world.batch, depth) : 0.0);
  return world.batch * tokens / seconds;
}

int32_t BestStatic(const World& world, int64_t step = 0) {
  int32_t best = 0;
  for (int32_t k = 1; k <= kMaxDraft; ++k)
    if (StaticRate(world, k, step) > StaticRate(world, best, step)) best = k;
  return best;
}

TEST(SpeculationController, AStepOfPromptsAloneDecidesNothing) {
  SpeculationController controller({}, nullptr);
  const DraftOutcome plain{SequenceId(1), DraftSource::kNone, 0, 0, 0};
  controller.Observe({.prefill_rows = 0, .draft_s = 0, .run_s = 0.01, .outcomes = std::span(&plain, 1)});
  EXPECT_TRUE(controller.Decide({}, {.rows = 8, .prefill_rows = 8}).empty());
}

TEST(SpeculationController, WithinThreePercentOfTheBestStaticDepth) {
  const std::vector<std::pair<const char*, Process>> processes = {
      {"0", Constant(0)},     {"0.2", Constant(0.2)},        {"0.4", Constant(0.4)},
      {"0.6", Constant(0.6)}, {"0.8", Constant(0.8)},        {"0.95", Constant(0.95)},
      {"1", Constant(1)},     {"chat", Decaying(0.75, 0.9)}, {"code", Decaying(0.94, 0.93)}};
  for (const Costs& costs : {Flat(), Steep(), Cliffs(), Hopeless()}) {
    for (const auto& [name, process] : processes) {
      for (const int32_t batch : {1, 2, 3, 8, 16, 32}) {
        const World world{costs, process, batch};
        Outcome got = Simulation(world).Run(std::max(1500, 24'000 / std::max(4, batch)));
        if (batch == 1) {  // one request alone has no luck but its own
          const Outcome again = Simulation(world, 2).Run(6000);
          got.tokens += again.tokens;
          got.seconds += again.seconds;
        }
        const int32_t best = BestStatic(world);
        // Of larger batches the start measures only some depths: cliffs between them are learnt by stumbling,
        // and every request's rate is an estimate of its own.
        const double share = batch <= 4 ? 0.97 : costs.name == std::string("cliffs") ? 0.93 : 0.96;
        EXPECT_GE(got.rate(), share * StaticRate(world, best))
            << costs.name << ", acceptance " << name << ", batch " << batch << ": best static depth " << best
            << ", share " << got.rate() / StaticRate(world, best);
      }
    }
  }
}

// At depth 0 before so many steps are over; what is tried again later costs next to nothing.
constexpr int64_t kSteps = 16;
bool GaveUp(const Outcome& outcome) {
  return std::any_of(outcome.depths.begin(), outcome.depths.begin() + kSteps + 1,
                     [](int32_t d) { return d == 0; });
}
// Seconds of the steps from kSteps on, over as many plain ones.
double LaterSteps(const World& world, const Outcome& outcome) {
  double seconds = 0;
  int64_t steps = 0;
  for (auto depth = outcome.depths.begin() + kSteps; depth != outcome.depths.end(); ++depth, ++steps)
    seconds += world.costs.run(1, 1 + *depth) + (*depth > 0 ? world.costs.draft(1, *depth) : 0.0);
  return seconds / (static_cast<double>(steps) * world.costs.run(1, 1));
}

TEST(SpeculationController, DepthZeroWithinSixteenStepsWhereDraftsLose) {
  int drafting = 0, late = 0;
  for (const Costs& costs : {Flat(), Steep(), Cliffs()}) {
    for (uint32_t seed = 1; seed <= 20; ++seed) {
      const World world{costs, Constant(0)};
      Simulation simulation(world, seed);
      const Outcome got = simulation.Run(kSteps + 100);
      EXPECT_TRUE(GaveUp(got)) << costs.name << " from the first token on, seed " << seed;
      EXPECT_LE(LaterSteps(world, got), 1.02) << costs.name << " from the first token on, seed " << seed;
      Simulation turning({costs, Constant(0.9)}, seed);
      turning.Run(500);
      turning.Turn(Constant(0));
      const Outcome after = turning.Run(kSteps + 100);
      if (after.depths[0] == 0) continue;  // it rested by bad luck, and will try again in between
      ++drafting;
      if (!GaveUp(after) || LaterSteps(world, after) > 1.02) ++late;
    }
  }
  EXPECT_GE(drafting, 55) << "of 60, while it paid";
  EXPECT_LE(late, 4) << "of 60, once the text had turned";
}

TEST(SpeculationController, DepthZeroWithinSixteenStepsWhereDraftsAreRarelyRight) {
  for (const double acceptance : {0.05, 0.1, 0.15, 0.2}) {
    for (const int32_t batch : {1, 4}) {
      const World world{Steep(), Constant(acceptance), batch};
      ASSERT_EQ(BestStatic(world), 0);
      int in_time = 0;
      for (uint32_t seed = 1; seed <= 50; ++seed) {
        in_time += GaveUp(Simulation(world, seed).Run(kSteps + 84));
      }
      // The closer to where they begin to pay, the longer chance may speak for them.
      EXPECT_GE(in_time, acceptance <= 0.1 ? 43 : 28) << "of 50, " << acceptance << ", batch " << batch;
    }
  }
}

// The acceptance at which the best depth above 0 brings `gain` times what plain steps bring; below 0 where
// none does.
double AcceptanceFor(const Costs& costs, int32_t batch, double gain) {
  const auto best = [&](double acceptance) {
    const World world{costs, Constant(acceptance), batch};
    double most = 0;
    for (int32_t k = 1; k <= kMaxDraft; ++k) most = std::max(most, StaticRate(world, k));
    return most / StaticRate(world, 0);
  };
  if (best(0) > gain || best(1) < gain) return -1;
  double low = 0, high = 1;
  for (int i = 0; i < 40; ++i) (best((low + high) / 2) < gain ? low : high) = (low + high) / 2;
  return low;
}

// Drafting that loses by a few percent: 16 steps say little about so small a difference, so it may go on for
// some more of them; what that costs stays below what can be measured.
TEST(SpeculationController, NearBreakEvenTheExitTakesLongerAndCostsNothing) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs(), Cpu()}) {
    for (const int32_t batch : {1, 4}) {
      for (const double loss : {0.03, 0.05, 0.1, 0.2}) {
        const double acceptance = AcceptanceFor(costs, batch, 1 - loss);
        if (acceptance < 0) continue;
        SCOPED_TRACE(::testing::Message() << costs.name << ", batch " << batch << ", loses " << loss);
        const World world{costs, Constant(acceptance), batch};
        constexpr int kSeeds = 20;
        int soon = 0, later = 0;
        double tokens = 0, seconds = 0;
        for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
          const Outcome got = Simulation(world, seed).Run(1000);
          const auto drafts =
              std::find_if(got.depths.begin(), got.depths.end(), [](int32_t d) { return d > 0; });
          const auto rests = std::find(drafts, got.depths.end(), 0);
          soon += rests - drafts <= 16;
          later += rests - drafts <= 64;
          tokens += got.tokens;
          seconds += got.seconds;
        }
        EXPECT_GE(tokens / seconds, 0.98 * StaticRate(world, 0));
        EXPECT_GE(later, loss >= 0.1 ? 19 : 16) << "of " << kSeeds << " within 64 steps";
        EXPECT_GE(soon, loss >= 0.2 ? 19 : loss >= 0.1 ? 15 : 8) << "of " << kSeeds << " within 16 steps";
      }
    }
  }
}

TEST(SpeculationController, ADrafterThatBringsNothingIsNotAskedForLong) {
  std::vector<std::string> warnings;
  SpeculationController controller({}, [&](const std::string& line) { warnings.push_back(line); });
  const std::vector<DraftOffer> offers = {{DraftSource::kMtp, kMaxDraft, 0}};
  for (uint64_t request = 1; request <= 100; ++request) {
    int asked = 0, retried = 0;
    for (int step = 0; step < 100; ++step) {
      const std::vector<DraftCandidate> candidate = {
          {SequenceId(request), {DraftMode::kAuto, kMaxDraft}, kMaxDraft, offers}};
      const DraftDecision d = controller.Decide(candidate, {.rows = 9})[0];
      if (d.depth > 0) {
        ++asked;
        retried += step >= 16;
      }
      const DraftOutcome outcome{SequenceId(request), d.source, d.depth, 0, 0};
      controller.Observe({.draft_s = 0.002 * d.depth, .run_s = 0.01, .outcomes = std::span(&outcome, 1)});
    }
    EXPECT_GT(asked, 0) << "what one request met is no rule for the next: " << request;
    EXPECT_LE(retried, 9) << "of 84 steps, request " << request;
  }
  EXPECT_TRUE(warnings.empty());
}

TEST(SpeculationController, AdversarialTextCostsAtMostThreePercent) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs(), Hopeless()}) {
    for (const int32_t batch : {1, 4, 32}) {
      const World world{costs, Constant(0), batch};
      const Outcome got = Simulation(world).Run(4096);
      EXPECT_GE(got.rate(), 0.97 * StaticRate(world, 0)) << costs.name << ", batch " << batch;
    }
  }
}

// Whoever serves text that nobody can guess pays for finding out once, not with every request.
TEST(SpeculationController, WhatFailedManyRequestsIsAskedOnceByTheNext) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs(), Cpu()}) {
    World world{costs, Constant(0)};
    // Two sources, each with trials of its own.
    world.offers = {{DraftSource::kMtp, kMaxDraft, 0}, {DraftSource::kSuffix, kMaxDraft, 4}};
    Simulation simulation(world);
    for (simulation.first_id = 1; simulation.first_id <= 30; ++simulation.first_id) simulation.Run(100);
    double seconds = 0, tokens = 0;
    int drafts = 0;
    for (; simulation.first_id <= 40; ++simulation.first_id) {
      const Outcome got = simulation.Run(384);
      seconds += got.seconds;
      tokens += got.tokens;
      drafts = std::accumulate(got.depths.begin(), got.depths.end(), drafts);
    }
    EXPECT_GT(drafts, 0) << costs.name << ": no request may be given up unseen";
    EXPECT_GE(tokens / seconds, 0.985 * StaticRate(world, 0)) << costs.name;
    // And a text that can be guessed is found out all the same.
    world.process = Constant(0.85);
    simulation.Turn(world.process);
    const Outcome found = simulation.Run(384);
    EXPECT_GE(found.rate(), 0.93 * StaticRate(world, BestStatic(world))) << costs.name;
  }
}

TEST(SpeculationController, RecoversWhenTheTextTurns) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs()}) {
    World world{costs, Constant(0)};
    Simulation simulation(world);
    simulation.Run(3000);
    world.process = Constant(0.85);
    simulation.Turn(world.process);
    simulation.Run(256 + 64);  // the longest rest, and a little time to see
    const Outcome got = simulation.Run(4000);
    EXPECT_GE(got.rate(), 0.97 * StaticRate(world, BestStatic(world))) << costs.name;
  }
}

TEST(SpeculationController, FollowsTextThatTurnsBackAndForth) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs()}) {
    World world{costs, Constant(0.9)};
    Simulation simulation(world);
    double seconds = 0, tokens = 0;
    std::array<double, kMaxDraft + 1> static_seconds{};
    std::array<double, kMaxDraft + 1> static_tokens{};
    for (int turn = 0; turn < 10; ++turn) {
      world.process = turn % 2 == 0 ? Decaying(0.95, 0.98) : Decaying(0.5, 0.8);
      simulation.Turn(world.process);
      const Outcome got = simulation.Run(1000);
      seconds += got.seconds;
      tokens += got.tokens;
      // As many tokens of either kind, for a static depth.
      for (int32_t k = 0; k <= kMaxDraft; ++k) {
        static_tokens[static_cast<size_t>(k)] += got.tokens;
        static_seconds[static_cast<size_t>(k)] += got.tokens / StaticRate(world, k);
      }
    }
    for (int32_t k = 0; k <= kMaxDraft; ++k) {
      EXPECT_GE(tokens / seconds,
                0.97 * static_tokens[static_cast<size_t>(k)] / static_seconds[static_cast<size_t>(k)])
          << costs.name << " against depth " << k;
    }
  }
}

// A line that nobody could guess in a text that is easy to guess.
TEST(SpeculationController, ShortBadStretchesDoNotEndAGoodText) {
  const Process bursts = [](int64_t step, int32_t) { return step % 120 < 100 ? 0.95 : 0.0; };
  for (const Costs& costs : {Flat(), Steep(), Cliffs()}) {
    const World world{costs, bursts};
    Simulation simulation(world);
    simulation.Run(240);
    const Outcome got = simulation.Run(120 * 40);
    double best = 0;
    for (int32_t k = 0; k <= kMaxDraft; ++k) {
      // Steps of one depth take equally long, so the rates of good and bad steps average by their number.
      best = std::max(best, (100 * StaticRate(world, k, 0) + 20 * StaticRate(world, k, 100)) / 120);
    }
    EXPECT_GE(got.rate(), 0.94 * best) << costs.name;
  }
}

TEST(SpeculationController, LearnsCostsThatTheStartDidNotShow) {
  // Measured on a quiet network, run on one whose round trip is all there is, and the other way about.
  for (const bool slower : {true, false}) {
    const World world{slower ? Steep() : Flat(), Constant(0.8)};
    const Costs real = slower ? Flat() : Steep();
    SpeculationController controller({}, nullptr);
    for (int32_t depth = 0; depth <= kMaxDraft; ++depth)
      controller.SeedCost(1, depth, world.costs.run(1, 1 + depth),
                          depth > 0 ? world.costs.draft(1, depth) : 0);
    std::mt19937 random(3);
    const World truth{real, Constant(0.8)};
    double tokens = 0, seconds = 0;
    const std::vector<DraftOffer> offers = {{DraftSource::kMtp, kMaxDraft, 0}};
    for (int step = 0; step < 6000; ++step) {
      const std::vector<DraftCandidate> candidate = {
          {SequenceId(1), {DraftMode::kAuto, kMaxDraft}, kMaxDraft, offers}};
      const int32_t depth = controller.Decide(candidate, {.rows = 9})[0].depth;
      int32_t accepted = 0;
      while (accepted < depth && std::uniform_real_distribution<>(0, 1)(random) < 0.8) ++accepted;
      const double run = real.run(1, 1 + depth), draft = depth > 0 ? real.draft(1, depth) : 0;
      const std::vector<DraftOutcome> outcome = {
          {SequenceId(1), depth > 0 ? DraftSource::kMtp : DraftSource::kNone, depth, depth, accepted}};
      controller.Observe({.draft_s = draft, .run_s = run, .outcomes = outcome});
      if (step < 1000) continue;
      tokens += 1 + accepted;
      seconds += run + draft;
    }
    EXPECT_GE(tokens / seconds, 0.95 * StaticRate(truth, BestStatic(truth)))
        << slower << ": " << tokens / seconds / StaticRate(truth, BestStatic(truth));
  }
}

// A machine that other programs use too: for some hundred steps all is up to half as slow again, then not;
// and the start-up measurement met such spells depth by depth.
TEST(SpeculationController, WeatherThatMovesAllDepthsAlikeMisleadsNobody) {
  for (const Costs& costs : {Flat(), Steep(), Cliffs(), Cpu(), Hopeless()}) {
    for (const double acceptance : {0.2, 0.6, 0.8}) {
      const World world{costs, Constant(acceptance)};
      double tokens = 0, seconds = 0;
      for (uint32_t seed = 1; seed <= 10; ++seed) {
        std::mt19937 random(seed);
        const auto pick = [&](double low, double high) {
          return std::uniform_real_distribution<>(low, high)(random);
        };
        SpeculationController controller({}, nullptr);
        for (int32_t depth = 0; depth <= kMaxDraft; ++depth) {
          const double slow = pick(1.0, depth == 0 ? 1.6 : 1.3);
          controller.SeedCost(1, depth, slow * costs.run(1, 1 + depth),
                              depth > 0 ? slow * costs.draft(1, depth) : 0);
        }
        const std::vector<DraftOffer> offers = {{DraftSource::kMtp, kMaxDraft, 0}};
        double weather = 1.0;
        int64_t turn = 0;
        for (int64_t step = 0; step < 1500; ++step) {
          if (step == turn) {
            weather = pick(1.0, 1.5);
            turn += static_cast<int64_t>(pick(20, 300));
          }
          const std::vector<DraftCandidate> candidate = {
              {SequenceId(1), {DraftMode::kAuto, kMaxDraft}, kMaxDraft, offers}};
          const DraftDecision d = controller.Decide(candidate, {.rows = 9})[0];
          int32_t accepted = 0;
          while (accepted < d.depth && pick(0, 1) < acceptance) ++accepted;
          const double run = costs.run(1, 1 + d.depth), draft = d.depth > 0 ? costs.draft(1, d.depth) : 0;
          const std::vector<DraftOutcome> outcome = {{SequenceId(1), d.source, d.depth, d.depth, accepted}};
          controller.Observe({.draft_s = draft * weather * pick(0.9, 1.1),
                              .run_s = run * weather * pick(0.9, 1.1),
                              .outcomes = outcome});
          // Of good weather: nobody is to gain by drafting only while it rains.
          tokens += 1 + accepted;
          seconds += run + draft;
        }
      }
      const int32_t best = BestStatic(world);
      EXPECT_GE(tokens / seconds, 0.97 * StaticRate(world, best))
          << costs.name << ", acceptance " << acceptance << ": best static depth " << best << ", share "
          << tokens / seconds / StaticRate(world, best);
    }
  }
}

TEST(SpeculationController, TheArbiterTakesTheSourceThatPays) {
  World world{Steep(), Constant(0.9)};
  world.offers = {{DraftSource::kMtp, 4, 0}, {DraftSource::kSuffix, kMaxDraft, 20}};
  for (const bool suffix_is_right : {true, false}) {
    SpeculationController controller({}, nullptr);
    std::mt19937 random(5);
    std::array<int64_t, kDraftSources> drafted{};
    for (int step = 0; step < 2000; ++step) {
      const std::vector<DraftCandidate> candidate = {
          {SequenceId(1), {DraftMode::kAuto, kMaxDraft}, kMaxDraft, world.offers}};
      const DraftDecision d = controller.Decide(candidate, {.rows = 9})[0];
      const double a = (d.source == DraftSource::kSuffix) == suffix_is_right ? 0.95 : 0.05;
      int32_t accepted = 0;
      while (accepted < d.depth && std::uniform_real_distribution<>(0, 1)(random) < a) ++accepted;
      const std::vector<DraftOutcome> outcome = {{SequenceId(1), d.source, d.depth, d.depth, accepted}};
      controller.Observe({.draft_s = d.source == DraftSource::kMtp ? world.costs.draft(1, d.depth) : 0,
                          .run_s = world.costs.run(1, 1 + d.depth),
                          .outcomes = outcome});
      drafted[IndexOf(d.source)] += d.depth;
    }
    const DraftSource right = suffix_is_right ? DraftSource::kSuffix : DraftSource::kMtp;
    const DraftSource wrong = suffix_is_right ? DraftSource::kMtp : DraftSource::kSuffix;
    EXPECT_GT(drafted[IndexOf(right)], 20 * drafted[IndexOf(wrong)]) << suffix_is_right;
  }
}

TEST(SpeculationController, ModesCapsAndBudgetsBind) {
  SpeculationController controller({}, nullptr);
  const std::vector<DraftOffer> both = {{DraftSource::kSuffix, 8, 9}, {DraftSource::kMtp, 5, 0}};
  const std::vector<DraftOffer> suffix = {{DraftSource::kSuffix, 3, 9}};
  const std::vector<DraftCandidate> candidates = {{SequenceId(1), {DraftMode::kFixed, 4}, kMaxDraft, both},
                                                  {SequenceId(2), {DraftMode::kFixed, 4}, kMaxDraft, suffix},
                                                  {SequenceId(3), {DraftMode::kFixed, 4}, 2, both},
                                                  {SequenceId(4), {DraftMode::kOff, 0}, kMaxDraft, both},
                                                  {SequenceId(5), {DraftMode::kFixed, 4}, 0, both},
                                                  {SequenceId(6), {DraftMode::kFixed, 4}, kMaxDraft, {}},
                                                  {SequenceId(7), {DraftMode::kFixed, 8}, kMaxDraft, both}};
  const auto decided = controller.Decide(candidates, {.rows = 100});
  const std::vector<int32_t> depths = {4, 3, 2, 0, 0, 0, 5};
  for (size_t i = 0; i < depths.size(); ++i) EXPECT_EQ(decided[i].depth, depths[i]) << i;
  EXPECT_EQ(decided[0].source, DraftSource::kMtp);
  EXPECT_EQ(decided[1].source, DraftSource::kSuffix);
  EXPECT_EQ(decided[3].source, DraftSource::kNone);
  const auto tight = controller.Decide(candidates, {.rows = 7 + 5});
  EXPECT_EQ(tight[0].depth, 4);
  EXPECT_EQ(tight[1].depth, 1);
  EXPECT_EQ(tight[2].depth, 0);

  SpeculationPolicy only_suffix;
  only_suffix.drafter = DrafterPreference::kSuffix;
  SpeculationController other(only_suffix, nullptr);
  EXPECT_EQ(other.Decide(candidates, {.rows = 100})[0].source, DraftSource::kSuffix);

  // Auto: a cap of the request and the rows of the step.
  Simulation rich({Flat(), Constant(1)});
  rich.Run(100);
  const std::vector<DraftOffer> mtp = {{DraftSource::kMtp, 8, 0}};
  const auto depth = [&](int32_t cap, int32_t max_depth, int64_t rows) {
    const std::vector<DraftCandidate> one = {{SequenceId(1), {DraftMode::kAuto, cap}, max_depth, mtp}};
    return rich.controller().Decide(one, {.rows = rows})[0].depth;
  };
  EXPECT_EQ(depth(8, 8, 9), 8);
  EXPECT_EQ(depth(3, 8, 9), 3);
  EXPECT_EQ(depth(8, 2, 9), 2);
  EXPECT_EQ(depth(8, 8, 5), 4);
  EXPECT_EQ(depth(8, 8, 1), 0);
}

TEST(SpeculationController, WarnsOnceOfAnMtpLayerThatIsNeverRight) {
  Simulation wrong({Flat(), Constant(0)});
  for (int request = 0; request < 100; ++request) {
    wrong.first_id = static_cast<uint64_t>(request + 1);
    wrong.Run(20);
  }
  ASSERT_EQ(wrong.warnings.size(), 1u);
  EXPECT_THAT(wrong.warnings[0], ::testing::HasSubstr("MTP"));
  Simulation poor({Flat(), Constant(0.1)});
  for (int request = 0; request < 100; ++request) {
    poor.first_id = static_cast<uint64_t>(request + 1);
    poor.Run(20);
  }
  EXPECT_TRUE(poor.warnings.empty());
}

TEST(CostTable, InterpolatesFollowsAndIgnoresOutliers) {
  CostTable table(CostTable::Kind::kRows);
  EXPECT_GT(table.Estimate(1, 2), table.Estimate(1, 1));
  table.Seed(1, 1, 1.0);
  table.Seed(1, 3, 2.0);
  table.Seed(4, 4, 3.0);
  table.Seed(4, 12, 6.0);
  EXPECT_DOUBLE_EQ(table.Estimate(1, 1), 1.0);
  EXPECT_DOUBLE_EQ(table.Estimate(1, 2), 1.5);
  EXPECT_DOUBLE_EQ(table.Estimate(1, 5), 3.0);
  EXPECT_DOUBLE_EQ(table.Estimate(2, 2), 1.0 + (3.0 - 1.0) / 3) << "between batches";
  EXPECT_GT(table.Estimate(8, 8), 3.0);
  for (int i = 0; i < 50; ++i) table.Observe(1, 2, i % 10 == 5 ? 100.0 : 1.5);
  EXPECT_NEAR(table.Estimate(1, 2), 1.5, 0.01) << "an outlier every ten steps";
  for (int i = 0; i < 60; ++i) table.Observe(1, 2, 3.0);
  EXPECT_NEAR(table.Estimate(1, 2), 3.0, 0.05) << "a new level";
}

}  // namespace
}  // namespace paceline
