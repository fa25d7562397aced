// The digests that a join compares: every backend of this machine returns the committed ones.
#include "kernels/known_answers.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu.h"

namespace paceline::kernels {
namespace {

TEST(KnownAnswers, EveryBackendReturnsTheCommittedDigests) {
  std::vector<const KernelTable*> tables = cpu::Testable();
  tables.push_back(&ReferenceKernels());
  for (const KernelTable* table : tables) {
    for (ArithmeticClass arithmetic : kArithmeticClasses) {
      EXPECT_EQ(KnownAnswers(*table, arithmetic), ExpectedAnswers(arithmetic))
          << table->name << ", " << ArithmeticClassName(arithmetic)
          << ": the arithmetic changed; if that is meant, docs/NUMERICS.md and these digests change with it";
      if (table->native == nullptr) continue;
      EXPECT_EQ(KnownAnswers(*table->native, arithmetic), ExpectedAnswers(arithmetic, FloatMath::kNative))
          << table->native->name << ", " << ArithmeticClassName(arithmetic);
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
  const auto amx = SelectKernels("cpu", "amx");
  if (amx.ok()) {
    EXPECT_EQ(*amx, cpu::Available().back());
  } else {
    EXPECT_NE(std::string(amx.status().message()).find("--isa amx needs AMX"), std::string::npos);
  }
  const auto emulated = SelectKernels("cpu", "amx-emulated");
  ASSERT_TRUE(emulated.ok());
  EXPECT_EQ(*emulated, cpu::Testable().back());
  EXPECT_NE(*emulated, cpu::Available().back());
  EXPECT_FALSE(SelectKernels("cpu", "sse9").ok());
  const auto widest = SelectKernels("cpu", "");
  ASSERT_TRUE(widest.ok());
  EXPECT_EQ(*widest, cpu::Available().back());
}

}  // namespace
}  // namespace paceline::kernels
