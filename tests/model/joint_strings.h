// Which strings a decoding gives how often, against what they should be: probabilities computed a second time
// from NUMERICS, and Pearson's statistic over single positions, pairs and triples.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/model/verifier_world.h"

namespace paceline::testing {

// Probabilities of the token behind `text`. A second writing of NUMERICS, Sampling, in fp64 and without care
// for speed.
std::vector<double> ExpectedDraw(const World& world, const Text& text, const Sampling& sampling);  // [vocab]

// Counts, or probabilities, of the strings of `tokens` tokens that follow the prompt.
class JointStrings {
 public:
  JointStrings(const World& world, int32_t tokens);
  void Add(const TokenId* string, double weight);

  // Of every string, each by its probability.
  static JointStrings Expected(const World& world, int32_t tokens, const Sampling& sampling);
  // Of `requests` requests with the seeds first_seed, first_seed + 1, ..
  static JointStrings Observed(const World& world, int32_t tokens, Sampling sampling,
                               const WorldDrafter& drafter, int32_t depth, int64_t requests,
                               uint64_t first_seed, Bug bug = Bug::kNone);

 private:
  // Positions [first, first + count) of a string, one cell for each of their vocab^count values.
  struct Group {
    int32_t first, count;
    std::vector<double> cells;
  };
  void AddEvery(const World& world, const Sampling& sampling, int32_t left, Text& text, double probability);
  friend double Worst(const JointStrings& expected, const JointStrings& seen, double requests);

  int32_t vocab_;
  // Each position by itself, each two neighbours, the first three and the last three.
  std::vector<Group> groups_;
};

// The worst group's statistic over its critical value at significance 1e-6.
double Worst(const JointStrings& expected, const JointStrings& seen, double requests);

}  // namespace paceline::testing
