// The checking trunk.
#include "tests/coordinator/fake_trunk.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_format.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

uint64_t Mix(uint64_t hash, TokenId token) {
  hash = (hash ^ (static_cast<uint64_t>(token) + 1)) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

}  // namespace

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

void FakeTrunk::Suspend(const StepPlan& plan) {
  for (const SequenceId id : plan.suspended) {
    EXPECT_FALSE(released_.contains(id)) << "a released sequence is suspended";
    const auto found = states_.find(id);
    if (found == states_.end()) continue;  // it had not run yet
    State& state = found->second;
    State rest;
    rest.before = state.fed.size() > state.before.size() ? std::move(state.fed) : std::move(state.before);
    rest.hashed = state.hashed;
    state = std::move(rest);
  }
}

// Pages of two sequences of a step may be the same where both have run past them.
void FakeTrunk::CheckSharing(const StepPlan& plan) {
  std::map<int32_t, size_t> places;  // page -> which of a sequence's pages it is
  std::map<int32_t, bool> read_only;
  for (const SequenceRows& rows : plan.sequences) {
    std::set<int32_t> own;
    for (size_t i = 0; i < rows.pages.size(); ++i) {
      const int32_t page = rows.pages[i];
      EXPECT_GE(page, 0);
      EXPECT_LT(page, info_.pages);
      EXPECT_TRUE(own.insert(page).second) << "a page twice in a sequence";
      const bool full = static_cast<int64_t>(i + 1) * kPagePositions <= rows.first_position;
      const auto [place, fresh] = places.try_emplace(page, i);
      if (!fresh) {
        EXPECT_EQ(place->second, i) << "a page is shared at two places";
        EXPECT_TRUE(full && read_only[page]) << "a page that is written is shared";
      }
      read_only[page] = full;
    }
  }
}

void FakeTrunk::CheckKeep(const StepPlan& plan, const SequenceRows& rows) {
  if (rows.keep < 0) return;
  const int64_t end = rows.first_position + static_cast<int64_t>(rows.tokens.size());
  EXPECT_LT(rows.keep, info_.snapshots);
  EXPECT_EQ(rows.keep_position % kPagePositions, 0);
  EXPECT_GT(rows.keep_position, rows.first_position);
  if (rows.tokens.size() == 1) {
    EXPECT_LE(rows.keep_position, end + rows.draft_depth);
  } else {
    EXPECT_EQ(rows.keep_position, end);
  }
  for (const SequenceRows& other : plan.sequences) {
    EXPECT_NE(other.restore, rows.keep) << "a snapshot is read and written in one step";
    EXPECT_TRUE(&other == &rows || other.keep != rows.keep) << "a snapshot is written twice";
  }
}

void FakeTrunk::Check(const StepPlan& plan) {
  std::set<SequenceId> seen;
  int64_t prompt_rows = 0;
  bool in_prompts = false;
  EXPECT_LE(plan.sequences.size(), static_cast<size_t>(info_.slots));
  CheckSharing(plan);
  for (const SequenceRows& rows : plan.sequences) {
    EXPECT_TRUE(seen.insert(rows.sequence).second) << "sequence twice in a step";
    EXPECT_FALSE(released_.contains(rows.sequence)) << "a released sequence runs";
    ASSERT_FALSE(rows.tokens.empty());
    EXPECT_LE(rows.sampled_rows, static_cast<int32_t>(rows.tokens.size()));
    CheckKeep(plan, rows);
    State& state = states_[rows.sequence];
    const bool decode = rows.tokens.size() == 1 && rows.sampled_rows == 1 && rows.first_position > 0;
    if (!decode) {
      prompt_rows += static_cast<int64_t>(rows.tokens.size());
      in_prompts = true;
    } else if (!state.prefilling) {
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
    if (state.slot < 0) {
      state.slot = rows.slot;
      if (rows.restore >= 0) Restore(rows, state);
    } else {
      EXPECT_EQ(rows.restore, -1) << "a sequence that runs is restored";
    }
    EXPECT_EQ(rows.slot, state.slot) << "a slot changed";
    EXPECT_EQ(rows.first_position, static_cast<int64_t>(state.fed.size())) << "positions are not contiguous";
    CheckMemory(rows, state);
  }
  EXPECT_LE(prompt_rows, prefill_chunk_);
  std::set<int32_t> slots;
  for (const auto& [id, state] : states_) {
    if (state.slot >= 0) {
      EXPECT_TRUE(slots.insert(state.slot).second) << "a slot is shared";
    }
  }
}

void FakeTrunk::Restore(const SequenceRows& rows, State& state) {
  EXPECT_LT(rows.restore, info_.snapshots);
  EXPECT_EQ(rows.prefix, snapshots_[rows.restore]) << "a snapshot of another text";
  EXPECT_EQ(rows.first_position % kPagePositions, 0);
  ASSERT_EQ(rows.first_position, static_cast<int64_t>(rows.prefix.size()));
  restored_ += rows.first_position;
  uint64_t hash = 0;
  for (const TokenId token : rows.prefix) {
    hash = Mix(hash, token);
    state.hashes.push_back(hash);
  }
  state.fed = rows.prefix;
  slots_[rows.slot] = hash;
}

// Attention reads every position in front of a row, the recurrent layers the state.
void FakeTrunk::CheckMemory(const SequenceRows& rows, const State& state) {
  if (rows.first_position == 0) return;
  EXPECT_EQ(slots_[rows.slot], state.hashes.back()) << "the state is another text's";
  int64_t wrong = 0;
  for (int64_t p = 0; p < rows.first_position; ++p) {
    const auto page = pages_.find(rows.pages[static_cast<size_t>(p / kPagePositions)]);
    wrong += page == pages_.end() ||
             page->second[static_cast<size_t>(p % kPagePositions)] != state.hashes[static_cast<size_t>(p)];
  }
  EXPECT_EQ(wrong, 0) << "positions in pages that hold another text";
}

void FakeTrunk::Feed(const SequenceRows& rows, State& state, TokenId token) {
  const size_t at = state.fed.size();
  if (at < state.before.size()) {
    EXPECT_EQ(token, state.before[at]) << "it came back with another text";
  }
  state.fed.push_back(token);
  state.hashes.push_back(Mix(state.hashes.empty() ? 0 : state.hashes.back(), token));
  pages_[rows.pages[at / kPagePositions]][at % kPagePositions] = state.hashes.back();
  slots_[rows.slot] = state.hashes.back();
  if (rows.keep >= 0 && static_cast<int64_t>(state.fed.size()) == rows.keep_position)
    snapshots_[rows.keep] = state.fed;
}

absl::StatusOr<StepResult> FakeTrunk::Run(const StepPlan& plan) {
  {
    std::lock_guard lock(mutex_);
    Suspend(plan);
  }
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
    for (const TokenId token : rows.tokens) Feed(rows, state, token);
    SequenceResult out;
    out.sequence = rows.sequence;
    if (row_error) out.status = row_error(rows, state.fed);
    if (out.status.ok() && !rows.targets.empty()) {
      // What a row would say of a target: a number of the two tokens, so that a wrong place shows.
      EXPECT_EQ(rows.targets.size(), rows.tokens.size());
      EXPECT_EQ(rows.sampled_rows, 0) << "a row that is scored draws nothing";
      for (size_t i = 0; i < rows.targets.size(); ++i) {
        RowResult row;
        row.token = rows.targets[i];
        row.logprob = ScoreOf(rows.tokens[i], rows.targets[i]);
        row.rank = 1 + rows.targets[i];
        for (int32_t k = 0; k < rows.top; ++k) row.top.push_back({k, -1.0f - static_cast<float>(k)});
        out.rows.push_back(row);
      }
    }
    if (out.status.ok() && rows.sampled_rows == 1) {
      state.prefilling = false;
      out.drafted = right_drafts ? rows.draft_depth : 0;
      drafted_ += out.drafted;
      const int32_t right = out.drafted > 0 ? right_drafts(rows, state.fed) : 0;
      for (int32_t r = 0; r <= right; ++r) {
        if (r > 0) Feed(rows, state, out.rows.back().token);  // the draft that was right has been run
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
    out.kept =
        rows.keep >= 0 && out.status.ok() && static_cast<int64_t>(state.fed.size()) >= rows.keep_position;
    // Rows that were taken back have been written too.
    for (size_t at = state.fed.size(); at < rows.pages.size() * kPagePositions &&
                                       at < static_cast<size_t>(rows.first_position) + 1 + out.drafted;
         ++at) {
      pages_[rows.pages[at / kPagePositions]][at % kPagePositions] = 0;
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

absl::Status FakeTrunk::MeasureLinks(bool bandwidth) {
  const std::lock_guard lock(mutex_);
  ++(bandwidth ? links_measured_.first : links_measured_.second);
  return absl::OkStatus();
}

std::pair<int64_t, int64_t> FakeTrunk::links_measured() const {
  const std::lock_guard lock(mutex_);
  return links_measured_;
}

int64_t FakeTrunk::steps() const {
  std::lock_guard lock(mutex_);
  return steps_;
}

int64_t FakeTrunk::drafted() const {
  std::lock_guard lock(mutex_);
  return drafted_;
}

int64_t FakeTrunk::restored() const {
  std::lock_guard lock(mutex_);
  return restored_;
}

int64_t FakeTrunk::probes() const {
  std::lock_guard lock(mutex_);
  return probes_;
}

}  // namespace paceline
