// The rules of joining, without connections: fingerprints, shares, places, what is said of a loss.
#include "worker/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "transport/link.h"
#include "worker/wire.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// Two layers; expert 1 of layer 1 has a second holder for its first group.
Placement Table() {
  Placement placement(Epoch(1), 3, {{2, 3, 10}, {3, 2, 10}});
  placement.Assign(LayerId(0), ExpertId(1), 0, 2, {RankId(1)});
  placement.Assign(LayerId(0), ExpertId(1), 2, 1, {RankId(2)});
  placement.Assign(LayerId(1), ExpertId(1), 0, 1, {RankId(1), RankId(2)});
  placement.Assign(LayerId(1), ExpertId(2), 0, 2, {RankId(2)});
  return placement;
}

JoinHello Hello(const std::string& name, uint64_t session) {
  JoinHello hello;
  hello.facts.name = name;
  hello.facts.session = session;
  hello.facts.model_digest = "d";
  hello.fingerprints = FingerprintsOf({});
  return hello;
}

Membership Make() {
  Standard standard;
  standard.model_digest = "d";
  standard.fingerprints = FingerprintsOf({});
  return Membership(standard, Table());
}

void MakeReady(Membership& membership, RankId rank, const JoinHello& hello) {
  Place& place = membership.Take(rank, hello, "token", nullptr);
  place.is_loaded = true;
  place.link = LoopbackPair().first;
  EXPECT_TRUE(membership.Settle(rank));
}

TEST(Fingerprint, ChangesWithTheOptionsThatChangeBitsOnly) {
  const Fingerprints plain = FingerprintsOf({});
  ContractOptions options;
  options.activations = "int8";
  EXPECT_NE(FingerprintsOf(options).integer_experts, plain.integer_experts);
  EXPECT_EQ(FingerprintsOf(options).float_experts, plain.float_experts);
  options = {};
  options.kv_dtype = "fp32";
  EXPECT_EQ(FingerprintsOf(options).integer_experts, plain.integer_experts);
  EXPECT_NE(FingerprintsOf(options).trunk, plain.trunk);
  EXPECT_NE(ClusterFingerprint(FingerprintsOf(options)), ClusterFingerprint(plain));
}

TEST(Membership, NamesEveryDifference) {
  Standard standard;
  standard.model_digest = "d";
  standard.fingerprints = FingerprintsOf({});
  JoinHello hello = Hello("w", 1);
  EXPECT_TRUE(Compare(standard, hello).ok());
  hello.fingerprints.float_experts = "other";
  hello.facts.model_digest = "e";
  EXPECT_THAT(
      Message(Compare(standard, hello)),
      AllOf(StartsWith("NET-006"), HasSubstr("model digest: the head has d, the worker e"),
            HasSubstr("float experts revision 1, float math portable"), HasSubstr("the worker other")));
  hello = Hello("w", 1);
  hello.protocol = 99;
  EXPECT_THAT(Message(Compare(standard, hello)),
              HasSubstr("protocol revision: the head has 2, the worker 99"));
}

TEST(Membership, SameProcessSupersedesItselfAndSameNameDoesNot) {
  Membership membership = Make();
  MakeReady(membership, RankId(1), Hello("a", 7));
  const auto again = membership.Decide(Hello("a", 7));
  EXPECT_TRUE(again.status.ok());
  EXPECT_EQ(again.rank, RankId(1));
  EXPECT_NE(again.supersedes, 0u);
  const auto twin = membership.Decide(Hello("a", 8));
  EXPECT_THAT(Message(twin.status), HasSubstr("already called a"));
  EXPECT_TRUE(twin.transient);
}

TEST(Membership, AReturnOpensANewEpochThatEveryoneMustAcknowledge) {
  Membership membership = Make();
  MakeReady(membership, RankId(1), Hello("a", 1));
  MakeReady(membership, RankId(2), Hello("b", 2));
  EXPECT_TRUE(membership.AllReady() && membership.AllAcknowledged());
  EXPECT_EQ(membership.epoch(), Epoch(1));
  EXPECT_THAT(Message(membership.Lose(RankId(2), "it broke")),
              "NET-001: worker b (rank 2) was lost: it broke");
  EXPECT_THAT(membership.Degraded(), AllOf(HasSubstr("worker b"), HasSubstr("expert 1 of layer 0")));
  EXPECT_EQ(membership.Decide(Hello("c", 3)).rank, RankId(2));
  MakeReady(membership, RankId(2), Hello("c", 3));
  EXPECT_EQ(membership.epoch(), Epoch(2));
  EXPECT_FALSE(membership.AllAcknowledged());
  membership.place(RankId(1)).acknowledged = Epoch(2);
  membership.place(RankId(2)).acknowledged = Epoch(2);
  EXPECT_TRUE(membership.AllAcknowledged());
  EXPECT_EQ(membership.Degraded(), "");
  EXPECT_EQ(membership.Decide(Hello("d", 4)).rank, RankId(0));
}

TEST(Share, TravelsAndComesBackAsTheTableItCameFrom) {
  Placement table = Table();
  table.set_head_rows({{0, 64}, {64, 64}, {128, 32}});
  Assignment sent;
  sent.share = ShareOf(table, RankId(2), {});
  sent.epoch = Epoch(3);
  sent.heartbeat_interval = std::chrono::milliseconds(100);
  node::v1::Welcome wire;
  ToWire(sent, &wire);
  const auto came = FromWire(wire);
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(came->share, sent.share);
  EXPECT_EQ(came->share.head_rows, (RowRange{128, 32}));
  const auto back = PlacementOf(came->share, table.layers());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->LeavesOf(RankId(2)), table.LeavesOf(RankId(2)));
  EXPECT_EQ(back->HeldBy(RankId(2), LayerId(1), ExpertId(2)),
            table.HeldBy(RankId(2), LayerId(1), ExpertId(2)));
}

TEST(Share, NumbersOutOfRangeAreRefusedByName) {
  Assignment sent;
  sent.share = ShareOf(Table(), RankId(1), {});
  sent.heartbeat_interval = std::chrono::milliseconds(100);
  node::v1::Welcome good;
  ToWire(sent, &good);
  ASSERT_TRUE(FromWire(good).ok());
  node::v1::Welcome bad = good;
  bad.mutable_held(0)->set_experts(2000000000);
  EXPECT_THAT(Message(FromWire(bad).status()), AllOf(StartsWith("NET-004"), HasSubstr("held.experts")));
  bad = good;
  bad.mutable_held(0)->set_first_group(-1);
  EXPECT_THAT(Message(FromWire(bad).status()), HasSubstr("held.first_group"));
  bad = good;
  bad.set_rank(0);
  EXPECT_THAT(Message(FromWire(bad).status()), HasSubstr("rank 0"));
  Share share = sent.share;
  share.held[0].expert = ExpertId(5);
  EXPECT_THAT(Message(PlacementOf(share, Table().layers()).status()), HasSubstr("expert 5 of layer 0"));
  node::v1::Hello hello;
  hello.set_name("two words");
  EXPECT_THAT(Message(FromWire(hello).status()), HasSubstr("--name"));
}

}  // namespace
}  // namespace paceline
