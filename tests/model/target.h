// The target model alone, all of it on this rank: what drafters are fed with. No trunk, no exchange.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/placement.h"
#include "model/caches.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/head.h"

namespace paceline::testing {

class Target {
 public:
  // Aborts on a checkpoint that cannot be loaded.
  Target(const std::string& directory, const kernels::KernelTable& table);

  struct States {
    std::vector<float> normed;    // [tokens, hidden], after the final norm
    std::vector<float> residual;  // [tokens, hidden], before it
  };
  States Run(std::span<const TokenId> tokens);
  // `prompt` and `count` greedy tokens.
  std::vector<TokenId> Continue(std::vector<TokenId> prompt, int32_t count);

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const Embedding& embedding() const { return decoder_->embedding(); }
  const LmHead& head() const { return *head_; }
  int64_t hidden() const { return checkpoint_->config().hidden; }

  const kernels::KernelTable& table;
  ThreadPool pool{1};
  kernels::Workspace workspace;

 private:
  void Forward(std::span<const TokenId> tokens, int64_t first, States& states);

  std::unique_ptr<Checkpoint> checkpoint_;
  Placement placement_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<LmHead> head_;
  std::unique_ptr<Caches> caches_;
  StateRegistry states_;  // of caches_
};

// The vector backend where this machine has it: the bits are those of the reference.
const kernels::KernelTable& FastKernels();

}  // namespace paceline::testing
