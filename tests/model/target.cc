// The model alone, step by step.
#include "tests/model/target.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "model/placement_shape.h"

namespace paceline::testing {
namespace {

constexpr int32_t kPages = 8;

}  // namespace

const kernels::KernelTable& FastKernels() {
  const auto fast = kernels::SelectKernels("cpu", "");
  return fast.ok() ? **fast : kernels::ReferenceKernels();
}

Target::Target(const std::string& directory, const kernels::KernelTable& kernel_table) : table(kernel_table) {
  checkpoint_ = *Checkpoint::Open(directory);
  placement_ = Placement(Epoch(0), 1, PlacementShape(*checkpoint_));
  decoder_ = *Decoder::Load(*checkpoint_, table, {});
  experts_ = *ExpertStore::Load(*checkpoint_, placement_, RankId(0), table, pool, {});
  head_ = *LmHead::Load(*checkpoint_, *ResolveHeadFormat(*checkpoint_, HeadFormat::kAuto), {}, table);
  caches_ = std::make_unique<Caches>(checkpoint_->config(), kernels::KvDtype::kBF16, 1, kPages);
  states_.Add(&caches_->gdn_state());
}

void Target::Forward(std::span<const TokenId> tokens, int64_t first, States& states) {
  const ModelConfig& config = checkpoint_->config();
  int32_t pages[kPages];
  std::iota(pages, pages + kPages, 0);
  constexpr SequenceId kSequence(1);
  if (first == 0) states_.Open(kSequence, 0);
  states.normed.resize(tokens.size() * static_cast<size_t>(config.hidden));
  states.residual.resize(states.normed.size());
  for (size_t done = 0; done < tokens.size();) {
    workspace.Reset();
    Batch batch;
    batch.rows = static_cast<int32_t>(std::min<size_t>(64, tokens.size() - done));
    batch.runs = {{0, batch.rows, first + static_cast<int64_t>(done), pages}};
    batch.slots = {0};
    FillRotary(config.rope_theta, config.rotary_dims, batch);
    const StepContext context{table, pool, workspace, kernels::ActivationContract::kInt16, batch};
    std::vector<uint8_t> errors(batch.rows);
    const size_t at = done * static_cast<size_t>(config.hidden);
    states_.Extend(kSequence, batch.runs[0].first_position, batch.rows, false);
    const absl::StatusOr<const float*> residual =
        decoder_->Forward(context, tokens.subspan(done, batch.rows), *caches_, *experts_, placement_, nullptr,
                          StepId(0), false, states.normed.data() + at, errors.data());
    CHECK(residual.ok());
    std::copy_n(*residual, batch.rows * config.hidden, states.residual.data() + at);
    states_.Commit(kSequence, batch.runs[0].first_position + batch.rows);
    done += batch.rows;
  }
  workspace.Reset();
}

Target::States Target::Run(std::span<const TokenId> tokens) {
  States states;
  Forward(tokens, 0, states);
  return states;
}

std::vector<TokenId> Target::Continue(std::vector<TokenId> prompt, int32_t count) {
  const int64_t vocab = checkpoint_->config().vocab;
  States states;
  Forward(prompt, 0, states);
  std::vector<float> logits(vocab);
  const Batch none;
  const StepContext context{table, pool, workspace, kernels::ActivationContract::kInt16, none};
  for (int32_t i = 0; i < count; ++i) {
    head_->ForwardHeld(context, states.normed.data() + states.normed.size() - hidden(), 1, logits.data(),
                       vocab);
    prompt.push_back(static_cast<TokenId>(table.arg_max(pool, logits.data(), vocab)));
    Forward({&prompt.back(), 1}, static_cast<int64_t>(prompt.size()) - 1, states);
  }
  return prompt;
}

}  // namespace paceline::testing
