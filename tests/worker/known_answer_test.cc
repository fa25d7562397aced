// Every backend says the same line at a join; one that computes anything else is named with its class.
#include "worker/known_answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/cpu/cpu.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(KnownAnswerRun, EveryBackendSaysTheExpectedLine) {
  std::vector<const kernels::KernelTable*> tables = kernels::cpu::Testable();
  tables.push_back(&kernels::ReferenceKernels());
  for (const kernels::KernelTable* table : tables) {
    EXPECT_EQ(RunKnownAnswers(*table), ExpectedKnownAnswers()) << table->name;
    EXPECT_TRUE(CheckKnownAnswers(*table, RunKnownAnswers(*table)).ok()) << table->name;
    if (table->native == nullptr) continue;
    EXPECT_TRUE(CheckKnownAnswers(*table->native, RunKnownAnswers(*table->native)).ok());
    EXPECT_FALSE(CheckKnownAnswers(*table->native, RunKnownAnswers(*table)).ok());
  }
}

TEST(KnownAnswerRun, AWrongBackendIsNamedWithItsClass) {
  kernels::KernelTable wrong = kernels::ReferenceKernels();
  wrong.add = [](ThreadPool&, float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  };
  const absl::Status status = CheckKnownAnswers(wrong, RunKnownAnswers(wrong));
  EXPECT_EQ(ExitStatus(status), kExitDevice);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("DEV-001"), HasSubstr("reference"),
                                                   HasSubstr("expected trunk "), Not(HasSubstr("experts"))));
}

}  // namespace
}  // namespace paceline
