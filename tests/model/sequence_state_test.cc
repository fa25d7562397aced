// The order that sequence state insists on, and which record of a block a slot uses when.
#include "model/sequence_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/step.h"
#include "model/gdn_cache.h"
#include "model/sampler_states.h"

namespace paceline {
namespace {

constexpr SequenceId kOne{1}, kTwo{2};

class SequenceState : public ::testing::Test {
 protected:
  SequenceState() : gdn_({1, 2, 8, 8, 4}, {true, false, true}, 3) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    states_.Add(&gdn_);
    states_.Add(&samplers_);
  }
  // The records of a slot's two blocks, by where they lie; equal when borders are folded in place.
  std::pair<const float*, const float*> Blocks(int32_t slot) const {
    const kernels::GdnState s = gdn_.layer(2).at(slot);
    return {s.block.state, s.next.state};
  }
  bool InPlace(int32_t slot) const { return Blocks(slot).first == Blocks(slot).second; }

  GdnCache gdn_;
  SamplerStates samplers_;
  StateRegistry states_;
};
using SequenceStateDeathTest = SequenceState;

TEST_F(SequenceState, ASpareIsTakenOnlyForDraftsOverABorder) {
  states_.Open(kOne, 0);
  states_.Extend(kOne, 0, 100, false);
  EXPECT_TRUE(InPlace(0));
  states_.Commit(kOne, 100);
  states_.Extend(kOne, 100, 9, true);
  EXPECT_TRUE(InPlace(0));
  states_.Commit(kOne, 123 - 18);
  states_.Extend(kOne, 105, 9, true);
  states_.Commit(kOne, 114);
  states_.Extend(kOne, 114, 9, true);
  states_.Commit(kOne, 119);
  // 119..127: the last row ends its block, which is folded.
  const float* block = Blocks(0).first;
  states_.Extend(kOne, 119, 9, true);
  EXPECT_FALSE(InPlace(0));
  EXPECT_EQ(Blocks(0).first, block);
  const float* next = Blocks(0).second;
  EXPECT_EQ(gdn_.free_spares(), 2);
  states_.Commit(kOne, 127);  // the border was not reached
  EXPECT_EQ(Blocks(0), std::make_pair(block, block));
  EXPECT_EQ(gdn_.free_spares(), 3);
  states_.Extend(kOne, 127, 1, true);
  EXPECT_EQ(Blocks(0), std::make_pair(block, next)) << "last in, first out";
  states_.Commit(kOne, 128);
  EXPECT_EQ(Blocks(0), std::make_pair(next, next));
  states_.Extend(kOne, 128, 9, true);
  EXPECT_TRUE(InPlace(0));
  EXPECT_EQ(gdn_.free_spares(), 3);
}

TEST_F(SequenceState, EverySlotMayCrossAtOnce) {
  for (int32_t slot = 0; slot < 3; ++slot) {
    states_.Open(SequenceId(10 + static_cast<uint64_t>(slot)), slot);
    states_.Extend(SequenceId(10 + static_cast<uint64_t>(slot)), 0, 30, false);
    states_.Commit(SequenceId(10 + static_cast<uint64_t>(slot)), 30);
  }
  for (uint64_t s = 10; s < 13; ++s) states_.Extend(SequenceId(s), 30, 5, true);
  EXPECT_EQ(gdn_.free_spares(), 0);
  states_.Rollback(SequenceId(10));
  EXPECT_EQ(states_.committed(SequenceId(10)), 30);
  states_.Close(SequenceId(11));
  EXPECT_FALSE(states_.open(SequenceId(11)));
  states_.Open(kTwo, 2);  // takes the slot from one that was left open
  EXPECT_EQ(gdn_.free_spares(), 3);
  states_.Close(SequenceId(12));  // which no longer owns it
  states_.Extend(kTwo, 0, 1, false);
}

TEST_F(SequenceState, OpeningClearsTheRecordInUse) {
  states_.Open(kOne, 1);
  states_.Extend(kOne, 0, 30, false);
  states_.Commit(kOne, 30);
  states_.Extend(kOne, 30, 2, true);
  gdn_.layer(0).at(1).next.state[3] = 1;
  gdn_.layer(2).at(1).window[5] = 1;
  states_.Commit(kOne, 32);
  EXPECT_EQ(gdn_.layer(0).at(1).block.state[3], 1);
  states_.Open(kOne, 1);
  EXPECT_EQ(gdn_.layer(0).at(1).block.state[3], 0);
  EXPECT_EQ(gdn_.layer(2).at(1).window[5], 0);
  states_.Open(kOne, 2);  // the same sequence elsewhere
  EXPECT_EQ(states_.slot(kOne), 2);
  states_.Close(kOne);
  states_.Close(kOne);
}

TEST_F(SequenceState, ASamplerKeepsTheTokenDrawnBehindTheLastRow) {
  states_.Open(kOne, 0);
  SamplerState& sampler = samplers_.at(kOne);
  sampler.Reset(2);
  const TokenId prompt[] = {7, 8, 9}, drawn[] = {4, 8, 4};
  states_.Extend(kOne, 0, 2, false);
  sampler.Append(prompt);
  states_.Commit(kOne, 2);
  EXPECT_THAT(sampler.tokens(), ::testing::ElementsAre(7, 8, 9));
  states_.Extend(kOne, 2, 3, true);
  sampler.Append(drawn);
  states_.Commit(kOne, 4);
  EXPECT_THAT(sampler.tokens(), ::testing::ElementsAre(7, 8, 9, 4, 8));
  EXPECT_EQ(sampler.counts().at(8).prompt, 1);
  EXPECT_EQ(sampler.counts().at(8).generated, 1);
  EXPECT_EQ(sampler.counts().at(4).generated, 1);
  states_.Extend(kOne, 4, 2, true);
  sampler.Append(drawn);
  states_.Rollback(kOne);
  EXPECT_THAT(sampler.tokens(), ::testing::ElementsAre(7, 8, 9, 4, 8));
  states_.Rollback(kOne);  // nothing is open
}

TEST_F(SequenceStateDeathTest, OrderOfCalls) {
  states_.Open(kOne, 0);
  states_.Extend(kOne, 0, 20, false);
  EXPECT_DEATH(states_.Extend(kOne, 0, 1, false), "extended == cursor.committed");
  EXPECT_DEATH(states_.Commit(kOne, 21), "position <= cursor.extended");
  EXPECT_DEATH(states_.Commit(kOne, 19), "position >=");
  EXPECT_DEATH(states_.Rollback(kOne), "position >=");
  states_.Commit(kOne, 20);
  EXPECT_DEATH(states_.Extend(kOne, 19, 1, true), "first == cursor.committed");
  EXPECT_DEATH(states_.Extend(kOne, 21, 1, true), "first == cursor.committed");
  EXPECT_DEATH(states_.Extend(kOne, 20, 0, true), "rows > 0");
  EXPECT_DEATH(states_.Extend(kOne, 20, kMaxDraft + 2, true), "rows <= kMaxDraft");
  states_.Extend(kOne, 20, 5, true);
  EXPECT_DEATH(states_.Commit(kOne, 19), "position >=");
  EXPECT_DEATH(states_.Extend(kTwo, 0, 1, false), "check failed");
  EXPECT_DEATH(states_.Commit(kTwo, 0), "check failed");
  EXPECT_DEATH((void)states_.committed(kTwo), "check failed");
}

TEST_F(SequenceStateDeathTest, KindsByThemselves) {
  EXPECT_DEATH(gdn_.Open(kOne, 3), "slot <");
  EXPECT_DEATH(gdn_.Open(kOne, -1), "slot >= 0");
  EXPECT_DEATH(gdn_.Extend(kOne, 0, 1, false), "check failed");
  gdn_.Open(kOne, 0);
  EXPECT_DEATH(gdn_.Extend(kOne, 0, kMaxDraft + 2, true), "rows <= kMaxDraft");
  gdn_.Extend(kOne, 30, 9, true);
  EXPECT_DEATH(gdn_.Extend(kOne, 30, 9, true), "block == ");
  gdn_.Open(kTwo, 0);
  EXPECT_DEATH(gdn_.Extend(kOne, 30, 1, false), "owners_") << "its slot is another's";

  EXPECT_DEATH((void)samplers_.at(kTwo), "check failed");
}

// Every float of what rows behind a border read.
std::vector<float> ReadBehind(const GdnLayer& layer, int32_t slot, int64_t border) {
  const kernels::GdnState s = layer.at(slot);
  std::vector<float> all(s.block.state, s.block.state + 2 * 8 * 8);
  for (int64_t p = border - 3; p < border; ++p) {
    const float* input = s.window + p % kernels::kGdnWindow * 32;
    all.insert(all.end(), input, input + 32);
  }
  return all;
}

TEST(GdnSnapshots, AStateGoesOnInAnotherSlot) {
  GdnCache gdn({1, 2, 8, 8, 4}, {true, false, true}, 3, 2);
  ThreadPool pool(2);
  float value = 0;
  std::vector<float> want[3];
  gdn.Open(kOne, 1);
  for (const size_t layer : {0, 2}) {
    const kernels::GdnState s = gdn.layer(layer).at(1);
    for (int i = 0; i < 2 * 8 * 8; ++i) s.block.state[i] = ++value;
    for (int i = 0; i < kernels::kGdnWindow * 32; ++i) s.window[i] = ++value;
    want[layer] = ReadBehind(gdn.layer(layer), 1, 256);
  }
  gdn.Extend(kOne, 0, 260, false);
  gdn.Commit(kOne, 260);
  gdn.Keep(kOne, 256, 1, pool);
  gdn.Close(kOne);
  gdn.Open(kOne, 1);
  gdn.Open(kTwo, 2);
  gdn.Restore(kTwo, 256, 1, pool);
  for (const size_t layer : {0, 2}) EXPECT_EQ(ReadBehind(gdn.layer(layer), 2, 256), want[layer]);
  EXPECT_NE(ReadBehind(gdn.layer(0), 1, 256), want[0]) << "the slot it was kept from is another's";
}

TEST(GdnSnapshotsDeathTest, OnlyTheBorderJustPassedCanBeKept) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  GdnCache gdn({1, 2, 8, 8, 4}, {true}, 1, 1);
  ThreadPool pool(1);
  gdn.Open(kOne, 0);
  gdn.Extend(kOne, 0, 290, false);
  gdn.Commit(kOne, 290);
  EXPECT_DEATH(gdn.Keep(kOne, 256, 0, pool), "");
  gdn.Open(kOne, 0);
  gdn.Extend(kOne, 0, 256 + 14, false);
  gdn.Commit(kOne, 256 + 14);
  EXPECT_DEATH(gdn.Keep(kOne, 256, 0, pool), "") << "its inputs have left the window";
  EXPECT_DEATH(gdn.Keep(kOne, 250, 0, pool), "");
  EXPECT_DEATH(gdn.Keep(kOne, 256, 1, pool), "");
}

}  // namespace
}  // namespace paceline
