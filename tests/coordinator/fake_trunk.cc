// The checking trunk.
#include "tests/coordinator/fake_trunk.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace paceline {

FakeTrunk::FakeTrunk(TrunkInfo info, int32_t prefill_chunk, Model model)
    : info_(std::move(info)), prefill_chunk_(prefill_chunk), model_(std::move(model)) {}

TrunkInfo FakeTrunk::SmallInfo() {
  TrunkInfo info;
  info.model = "fake";
  info.fingerprint = "f00d";
  info.vocab = 100;
  info.context = 1024;
  info.slots = 4;
  info.pages = 16;
  info.lm_head = "stored";
  return info;
}

FakeTrunk::Model FakeTrunk::Hash(int64_t vocab) {
  return [vocab](const std::vector<TokenId>& prefix) {
    uint64_t hash = 1469598103934665603u;
    for (const TokenId token : prefix) hash = (hash ^ static_cast<uint64_t>(token)) * 1099511628211u;
    return static_cast<TokenId>((hash >> 20) % static_cast<uint64_t>(vocab));
  };
}

void FakeTrunk::Check(const StepPlan& plan) {
  std::set<SequenceId> seen;
  int64_t prompt_rows = 0;
  bool in_prompts = false;
  EXPECT_LE(plan.sequences.size(), static_cast<size_t>(info_.slots));
  for (const SequenceRows& rows : plan.sequences) {
    EXPECT_TRUE(seen.insert(rows.sequence).second) << "sequence twice in a step";
    EXPECT_FALSE(released_.contains(rows.sequence)) << "a released sequence runs";
    ASSERT_FALSE(rows.tokens.empty());
    EXPECT_LE(rows.sampled_rows, static_cast<int32_t>(rows.tokens.size()));
    const bool decode = rows.tokens.size() == 1 && rows.sampled_rows == 1 && rows.first_position > 0;
    if (!decode) {
      prompt_rows += static_cast<int64_t>(rows.tokens.size());
      in_prompts = true;
    } else if (states_.contains(rows.sequence) && states_[rows.sequence].hashed > 0) {
      EXPECT_FALSE(in_prompts) << "a decode row behind a prompt";
    }
    EXPECT_GE(rows.slot, 0);
    EXPECT_LT(rows.slot, info_.slots);
    const int64_t end = rows.first_position + static_cast<int64_t>(rows.tokens.size());
    if (rows.drafter != DraftSource::kNone || rows.draft_depth != 0) {
      EXPECT_EQ(rows.tokens.size(), 1u);
      EXPECT_EQ(rows.sampled_rows, 1);
      EXPECT_GE(rows.first_position, rows.prompt_tokens) << "a prompt is not drafted for";
      EXPECT_NE(rows.drafter, DraftSource::kNone);
      EXPECT_GE(rows.draft_depth, 1);
      EXPECT_LE(rows.draft_depth, kMaxDraft);
      EXPECT_EQ(std::count(info_.drafters.begin(), info_.drafters.end(), rows.drafter), 1);
    }
    EXPECT_LE(end + rows.draft_depth, info_.context);
    EXPECT_GE(static_cast<int64_t>(rows.pages.size()) * kPagePositions, end + rows.draft_depth);
    EXPECT_GE(rows.prompt_tokens, 1);
    for (const TokenId token : rows.tokens) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, info_.vocab);
    }
    const auto [state, fresh] = states_.try_emplace(rows.sequence);
    if (fresh) {
      state->second.slot = rows.slot;
      state->second.pages = rows.pages;
    }
    EXPECT_EQ(rows.first_position, static_cast<int64_t>(state->second.fed.size()))
        << "positions are not contiguous";
    EXPECT_EQ(rows.slot, state->second.slot) << "a slot changed";
    EXPECT_EQ(rows.pages, state->second.pages) << "pages changed";
  }
  EXPECT_LE(prompt_rows, prefill_chunk_);
  EXPECT_LE(states_.size(), static_cast<size_t>(info_.slots)) << "more live sequences than slots";
  std::set<int32_t> slots;
  std::set<int32_t> pages;
  for (const auto& [id, state] : states_) {
    EXPECT_TRUE(slots.insert(state.slot).second) << "a slot is shared";
    for (const int32_t page : state.pages) {
      EXPECT_GE(page, 0);
      EXPECT_LT(page, info_.pages);
      EXPECT_TRUE(pages.insert(page).second) << "a page is shared";
    }
  }
}

absl::StatusOr<StepResult> FakeTrunk::Run(const StepPlan& plan) {
  if (before_step) {
    if (absl::Status status = before_step(plan); !status.ok()) return status;
  }
  std::lock_guard lock(mutex_);
  Check(plan);
  ++steps_;
  probes_ += plan.probe_workers ? 1 : 0;
  StepResult result;
  for (const SequenceRows& rows : plan.sequences) {
    State& state = states_[rows.sequence];
    state.fed.insert(state.fed.end(), rows.tokens.begin(), rows.tokens.end());
    SequenceResult out;
    out.sequence = rows.sequence;
    if (row_error) out.status = row_error(rows, state.fed);
    if (out.status.ok() && rows.sampled_rows == 1) {
      out.drafted = right_drafts ? rows.draft_depth : 0;
      drafted_ += out.drafted;
      const int32_t right = out.drafted > 0 ? right_drafts(rows, state.fed) : 0;
      for (int32_t r = 0; r <= right; ++r) {
        if (r > 0) state.fed.push_back(out.rows.back().token);  // the draft that was right has been run
        RowResult row;
        row.token = model_(state.fed);
        ++state.hashed;
        if (rows.logprobs) row.logprob = -0.5f;
        for (int32_t i = 0; i < rows.top; ++i) row.top.push_back({i, -1.0f - static_cast<float>(i)});
        if (rows.hash_logits && out.drafted > 0) row.logits_hash = absl::StrFormat("%016x", state.hashed);
        out.rows.push_back(row);
      }
      if (rows.hash_logits) out.logits_hash = absl::StrFormat("%016x", state.hashed);
      if (offers) {
        out.offers = offers(state.fed);
      } else if (!info_.drafters.empty()) {
        out.offers = {{DraftSource::kMtp, kMaxDraft, 0}};
      }
    }
    result.sequences.push_back(std::move(out));
  }
  if (seconds) std::tie(result.run_s, result.draft_s) = seconds(plan);
  result.distinct_experts = distinct_experts;
  return result;
}

void FakeTrunk::Release(SequenceId sequence) {
  std::lock_guard lock(mutex_);
  EXPECT_TRUE(released_.insert(sequence).second) << "released twice";
  states_.erase(sequence);
}

int FakeTrunk::live() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(states_.size());
}

int64_t FakeTrunk::steps() const {
  std::lock_guard lock(mutex_);
  return steps_;
}

int64_t FakeTrunk::drafted() const {
  std::lock_guard lock(mutex_);
  return drafted_;
}

int64_t FakeTrunk::probes() const {
  std::lock_guard lock(mutex_);
  return probes_;
}

}  // namespace paceline
