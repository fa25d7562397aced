// The digests that a join compares: every backend of this machine returns the committed ones.
#include "kernels/known_answers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu.h"

namespace paceline::kernels {
namespace {

TEST(KnownAnswers, EveryBackendReturnsTheCommittedDigests) {
  std::vector<const KernelTable*> tables = cpu::Available();
  tables.push_back(&ReferenceKernels());
  for (const KernelTable* table : tables) {
    for (ArithmeticClass arithmetic : kArithmeticClasses) {
      EXPECT_EQ(KnownAnswers(*table, arithmetic), ExpectedAnswers(arithmetic))
          << table->name << ", " << ArithmeticClassName(arithmetic)
          << ": the arithmetic changed; if that is meant, docs/NUMERICS.md and these digests change with it";
    }
  }
}

TEST(KnownAnswers, AnotherArithmeticHasAnotherDigest) {
  KernelTable unfused = ReferenceKernels();
  unfused.silu_mul = [](ThreadPool&, const float* gate, const float* up, int64_t count, float* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = gate[i] * (up[i] / (1.0f + std::exp(-gate[i])));
  };
  EXPECT_NE(KnownAnswers(unfused, ArithmeticClass::kTrunk), ExpectedAnswers(ArithmeticClass::kTrunk));
}

TEST(Select, NamesWhatIsAbsentOrUnknown) {
  for (const char* isa : {"amx", "amx-emulated"}) {
    const auto table = SelectKernels("cpu", isa);
    EXPECT_FALSE(table.ok());
    EXPECT_NE(std::string(table.status().message()).find("not in this build yet"), std::string::npos);
  }
  EXPECT_FALSE(SelectKernels("cpu", "sse9").ok());
  const auto widest = SelectKernels("cpu", "");
  ASSERT_TRUE(widest.ok());
  EXPECT_EQ(*widest, cpu::Available().back());
}

}  // namespace
}  // namespace paceline::kernels
