// Rows that were never text leave nothing behind: real models run steps of up to 9 rows with wrong tokens at
// their ends, some rows are committed and the rest taken back, and everything a sequence keeps has the bits
// of a twin that ran the same text row by row.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "base/sha256.h"
#include "coordinator/planner.h"
#include "kernels/cpu/cpu.h"
#include "model/caches.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/head.h"
#include "model/placement_shape.h"
#include "model/sampler_states.h"
#include "model/sequence_state.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/kv_bytes.h"

namespace paceline {
namespace {

constexpr int64_t kText = 400;      // positions; the last ones run behind all rollbacks
constexpr int32_t kPagesEach = 2;   // of a sequence
constexpr int32_t kTwinSlot = 0;    // and its pages are the first
constexpr int32_t kSequences = 10;  // slots beside the twin's

struct Piece {
  int32_t slot = 0;
  int32_t rows = 1;
  int32_t right = 1;  // rows with the text's tokens; the others' are wrong
  bool speculative = false;
};

// A model, its caches, and the twin.
class Rig {
 public:
  Rig(const std::string& name, const kernels::KernelTable& table, kernels::KvDtype kv_dtype)
      : table_(table), pool_(2) {
    for (const testing::GoldenCase& c : testing::GoldenCases()) {
      if (c.name == name) checkpoint_ = *Checkpoint::Open(c.directory);
    }
    config_ = checkpoint_->config();
    placement_ = *PlanPlacement("contiguous", PlacementShape(*checkpoint_), 1);
    decoder_ = *Decoder::Load(*checkpoint_, table_, {});
    experts_ = *ExpertStore::Load(*checkpoint_, placement_, RankId(0), table_, pool_, {});
    head_ = *LmHead::Load(*checkpoint_, HeadFormat::kStored, {}, table_);
    caches_ = std::make_unique<Caches>(config_, kv_dtype, kSequences + 1, (kSequences + 1) * kPagesEach);
    for (StateKind* kind : std::initializer_list<StateKind*>{&gdn(), &samplers_}) states_.Add(kind);
    for (int32_t slot = 0; slot <= kSequences; ++slot) {
      pages_.push_back({slot * kPagesEach, slot * kPagesEach + 1});
      ids_.push_back(SequenceId(100 + static_cast<uint64_t>(slot)));
    }
    std::mt19937 bits(5);
    for (int64_t i = 0; i <= kText; ++i)
      text_.push_back(static_cast<TokenId>(bits() % static_cast<uint32_t>(config_.vocab)));
    Open(kTwinSlot);
    twin_state_.push_back(State(kTwinSlot, 0));
    for (int64_t p = 0; p < kText; ++p) {
      const std::vector<float> hidden = Forward({{.slot = kTwinSlot}});
      twin_hidden_.insert(twin_hidden_.end(), hidden.begin(), hidden.end());
      samplers_.at(id(kTwinSlot)).Append({&text_[p + 1], 1});
      states_.Commit(id(kTwinSlot), p + 1);
      twin_state_.push_back(State(kTwinSlot, p + 1));
    }
  }

  SequenceId id(int32_t slot) const { return ids_[slot]; }
  void NewId(int32_t slot) { ids_[slot] = SequenceId(ids_[slot].value() + 1000); }
  StateRegistry& states() { return states_; }
  GdnCache& gdn() { return caches_->gdn_state(); }
  int64_t done(int32_t slot) const { return states_.committed(ids_[slot]); }

  void Open(int32_t slot) {
    states_.Open(id(slot), slot);
    samplers_.at(id(slot)).Reset(3);
    samplers_.at(id(slot)).Append({text_.data(), 1});
  }

  // One step of all pieces, not committed. Hidden states of right rows must be the twin's.
  void Extend(const std::vector<Piece>& pieces) {
    const int32_t free = gdn().free_spares();
    int32_t crossing = 0;
    for (const Piece& piece : pieces) {
      const int64_t first = done(piece.slot), end = first + piece.rows;
      crossing += piece.speculative && first / kernels::kGdnBlock != end / kernels::kGdnBlock ? 1 : 0;
    }
    const std::vector<float> hidden = Forward(pieces);
    EXPECT_EQ(free - gdn().free_spares(), crossing);
    const float* row = hidden.data();
    for (const Piece& piece : pieces) {
      const int64_t first = done(piece.slot);
      EXPECT_EQ(std::memcmp(row, twin_hidden_.data() + first * config_.hidden,
                            static_cast<size_t>(piece.right * config_.hidden) * sizeof(float)),
                0)
          << "hidden states of rows " << first << ".." << first + piece.right;
      row += piece.rows * config_.hidden;
      // What the sampler drew behind every row, as if all had been accepted.
      for (int32_t i = 1; i <= piece.rows; ++i) {
        const TokenId drawn = i <= piece.right ? text_[first + i] : Wrong(first + i);
        samplers_.at(id(piece.slot)).Append({&drawn, 1});
      }
    }
  }

  // Commits the right rows of a step; then nothing may tell the sequence from the twin.
  void Commit(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) {
      const int64_t position = done(piece.slot) + piece.right;
      states_.Commit(id(piece.slot), position);
      ExpectTwin(piece.slot);
    }
    EXPECT_EQ(gdn().free_spares(), gdn().spares());
  }

  void ExpectTwin(int32_t slot) {
    const int64_t position = done(slot);
    EXPECT_TRUE(State(slot, position) == twin_state_[position]) << "recurrent state at " << position;
    EXPECT_TRUE(Kv(slot, position) == Kv(kTwinSlot, position)) << "KV below " << position;
    SamplerState want;
    want.Reset(3);
    want.Append({text_.data(), static_cast<size_t>(position) + 1});
    const SamplerState& have = samplers_.at(id(slot));
    EXPECT_TRUE(
        std::equal(have.tokens().begin(), have.tokens().end(), want.tokens().begin(), want.tokens().end()));
    EXPECT_EQ(have.counts().size(), want.counts().size());
    for (const auto& [token, count] : want.counts()) {
      ASSERT_TRUE(have.counts().contains(token));
      EXPECT_EQ(have.counts().at(token).prompt, count.prompt);
      EXPECT_EQ(have.counts().at(token).generated, count.generated);
    }
  }

  // The rest of the text in plain steps; the hash of its logits against the twin's.
  void ExpectTwinToTheEnd(int32_t slot, int32_t chunk) {
    const int64_t from = done(slot);
    std::vector<float> hidden;  // [rows, hidden]
    while (done(slot) < kText) {
      const int32_t rows = static_cast<int32_t>(std::min<int64_t>(chunk, kText - done(slot)));
      const std::vector<float> more = Forward({{.slot = slot, .rows = rows, .right = rows}});
      hidden.insert(hidden.end(), more.begin(), more.end());
      states_.Commit(id(slot), done(slot) + rows);
    }
    EXPECT_EQ(LogitsHash(hidden),
              LogitsHash({twin_hidden_.begin() + from * config_.hidden, twin_hidden_.end()}));
  }

 private:
  TokenId Wrong(int64_t position) const {
    return static_cast<TokenId>((text_[position] + 1 + position % 7) % config_.vocab);
  }

  std::vector<float> Forward(const std::vector<Piece>& pieces) {  // [rows, hidden]
    workspace_.Reset();
    Batch batch;
    std::vector<TokenId> tokens;
    for (const Piece& piece : pieces) {
      const int64_t first = done(piece.slot);
      batch.runs.push_back({batch.rows, piece.rows, first, pages_[piece.slot].data()});
      batch.slots.push_back(piece.slot);
      batch.rows += piece.rows;
      for (int32_t i = 0; i < piece.rows; ++i)
        tokens.push_back(i < piece.right ? text_[first + i] : Wrong(first + i));
      states_.Extend(id(piece.slot), first, piece.rows, piece.speculative);
    }
    FillRotary(config_.rope_theta, config_.rotary_dims, batch);
    const StepContext context{table_, pool_, workspace_, kernels::ActivationContract::kInt16, batch};
    std::vector<float> hidden(batch.rows * config_.hidden);
    std::vector<uint8_t> row_errors(batch.rows);
    const absl::StatusOr<const float*> residual =
        decoder_->Forward(context, tokens, *caches_, *experts_, placement_, nullptr, StepId(1), false,
                          hidden.data(), row_errors.data());
    EXPECT_TRUE(residual.ok()) << residual.status();
    return hidden;
  }

  std::string LogitsHash(const std::vector<float>& hidden) {
    Sha256 hash;
    std::vector<float> logits(config_.vocab);
    const Batch batch;
    const StepContext context{table_, pool_, workspace_, kernels::ActivationContract::kInt16, batch};
    for (size_t at = 0; at < hidden.size(); at += config_.hidden) {
      head_->ForwardHeld(context, hidden.data() + at, 1, logits.data(), config_.vocab);
      hash.Add(logits.data(), logits.size() * sizeof(float));
    }
    return hash.Hex();
  }

  // Recurrent state of all layers: the stored one, the rows since the border, the inputs of the window that
  // later rows read.
  std::string State(int32_t slot, int64_t position) const {
    const kernels::GdnShape shape = GdnShapeOf(config_);
    const int64_t at = position % kernels::kGdnBlock;
    std::string out;
    const auto add = [&](const float* from, int64_t count) {
      out.append(reinterpret_cast<const char*>(from), static_cast<size_t>(count) * sizeof(float));
    };
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      if (config_.layers[i].mixer != Mixer::kGatedDeltaNet) continue;
      const kernels::GdnState s = caches_->gdn(i).at(slot);
      add(s.block.state, int64_t{shape.value_heads} * shape.key_dim * shape.value_dim);
      add(s.block.k, at * shape.key_heads * shape.key_dim);
      add(s.block.u, at * shape.value_heads * shape.value_dim);
      add(s.block.c, at * shape.value_heads);
      for (int64_t j = 1; j < shape.conv_taps; ++j)
        add(s.window + (position + kernels::kGdnWindow - j) % kernels::kGdnWindow * shape.channels(),
            shape.channels());
    }
    return out;
  }

  std::string Kv(int32_t slot, int64_t position) const {
    std::string out;
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      if (config_.layers[i].mixer == Mixer::kGatedDeltaNet) continue;
      const kernels::KvPages kv = caches_->kv(i).view();
      for (int64_t p = 0; p < position; ++p)
        out += testing::KvBytes(AttentionShapeOf(config_), kv, pages_[slot][p / kernels::kAttentionBlock],
                                p % kernels::kAttentionBlock);
    }
    return out;
  }

  const kernels::KernelTable& table_;
  ThreadPool pool_;
  kernels::Workspace workspace_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  Placement placement_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<LmHead> head_;
  std::unique_ptr<Caches> caches_;
  SamplerStates samplers_;
  StateRegistry states_;
  std::vector<std::vector<int32_t>> pages_;  // [slots]
  std::vector<SequenceId> ids_;              // [slots]
  std::vector<TokenId> text_;                // [kText + 1]
  std::vector<std::string> twin_state_;      // [kText + 1]
  std::vector<float> twin_hidden_;           // [kText, hidden]
};

struct Case {
  const char* model;
  bool oldest;  // instruction set of this machine, else the newest
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model; }

class Rollback : public ::testing::TestWithParam<Case> {
 protected:
  Rollback()
      : rig_(GetParam().model,
             GetParam().oldest ? *kernels::cpu::Available().front() : *kernels::cpu::Available().back(),
             GetParam().kv_dtype) {}
  Rig rig_;
};

// One sequence for every number of rows that stay, all in one batch. Their positions meet every offset from a
// border; each step is first taken back whole.
TEST_P(Rollback, EveryNumberOfRowsAtEveryOffset) {
  for (int32_t rows = 1; rows <= kMaxDraft + 1; ++rows) {
    for (int32_t right = 1; right <= rows; ++right) rig_.Open(right);
    for (int32_t round = 0; round < kernels::kGdnBlock + 1; ++round) {
      std::vector<Piece> none, some, plain;
      for (int32_t right = 1; right <= rows; ++right) {
        none.push_back({right, rows, 0, true});
        some.push_back({right, rows, right, true});
        // An odd stride meets every offset.
        if (right % 2 == 0) plain.push_back({right});
      }
      SCOPED_TRACE(::testing::Message() << rows << " rows, round " << round);
      for (const auto& pieces : {none, some, plain}) {
        if (pieces.empty()) continue;
        rig_.Extend(pieces);
        rig_.Commit(pieces);
      }
      if (HasFailure()) return;
    }
    for (int32_t right = 1; right <= rows; ++right) {
      rig_.ExpectTwinToTheEnd(right, right % 2 == 0 ? 1 : 37);
      rig_.states().Close(rig_.id(right));
    }
  }
}

// Prompt chunks, plain and drafted rows of many sequences in one step; sequences that end or begin again in
// the middle of a step, and slots that change hands.
TEST_P(Rollback, SequencesComeAndGo) {
  std::mt19937 bits(11);
  const auto below = [&](uint32_t n) { return static_cast<int32_t>(bits() % n); };
  for (int32_t slot = 1; slot <= kSequences; ++slot) rig_.Open(slot);
  for (int step = 0; step < 250; ++step) {
    SCOPED_TRACE(::testing::Message() << "step " << step);
    std::vector<Piece> pieces;
    for (int32_t slot = 1; slot <= kSequences; ++slot) {
      if (below(4) == 0) continue;
      Piece piece{.slot = slot, .rows = 1 + below(kMaxDraft + 1), .speculative = true};
      if (below(8) == 0) piece = {.slot = slot, .rows = 1 + below(70), .speculative = false};
      piece.right = piece.speculative ? below(piece.rows + 1) : piece.rows;
      // All of them at the end of a block from time to time, so that many cross in one step.
      const int32_t left = kernels::kGdnBlock - static_cast<int32_t>(rig_.done(slot) % kernels::kGdnBlock);
      if (step % 8 == 6) piece = {.slot = slot, .rows = left - left / 2, .right = left - left / 2};
      if (rig_.done(slot) + piece.rows + 1 > kText) {
        rig_.Open(slot);
        continue;
      }
      pieces.push_back(piece);
    }
    if (pieces.empty()) continue;
    rig_.Extend(pieces);
    std::vector<Piece> rest;
    for (Piece& piece : pieces) {
      switch (piece.speculative ? below(12) : -1) {
        case 0:
          rig_.states().Rollback(rig_.id(piece.slot));
          rig_.ExpectTwin(piece.slot);
          break;
        case 1:
          rig_.states().Close(rig_.id(piece.slot));
          rig_.Open(piece.slot);
          break;
        case 2:  // not closed: another sequence takes its slot
          rig_.NewId(piece.slot);
          rig_.Open(piece.slot);
          break;
        default:
          rest.push_back(piece);
      }
    }
    rig_.Commit(rest);
    EXPECT_EQ(rig_.gdn().free_spares(), rig_.gdn().spares());
    if (HasFailure()) return;
  }
  for (int32_t slot = 1; slot <= kSequences; ++slot) rig_.ExpectTwinToTheEnd(slot, 50);
}

INSTANTIATE_TEST_SUITE_P(Models, Rollback,
                         ::testing::Values(Case{"int4-wide-experts", false}, Case{"mtp-equals-target", false},
                                           Case{"int4-gptq-v2-g32", true},
                                           Case{"int4-wide-experts", true, kernels::KvDtype::kInt8},
                                           Case{"mtp-equals-target", false, kernels::KvDtype::kInt4}),
                         [](const auto& info) {
                           std::string name = info.param.model;
                           std::replace(name.begin(), name.end(), '-', '_');
                           if (info.param.kv_dtype == kernels::KvDtype::kInt8) name += "_int8_kv";
                           if (info.param.kv_dtype == kernels::KvDtype::kInt4) name += "_int4_kv";
                           return name;
                         });

}  // namespace
}  // namespace paceline
