// One op on every instruction set of this machine against the reference, bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "tests/kernels/kernel_cases.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {

using Result = std::vector<float>;  // whatever an op writes, as floats

// `run` must be a function of the table alone.
inline void ExpectReferenceBits(const std::string& what,
                                const std::function<Result(const KernelTable&, ThreadPool&)>& run) {
  ThreadPool one(1);
  const Result expected = run(ReferenceKernels(), one);
  ASSERT_FALSE(AvailableTables().empty());
  for (const KernelTable* table : AvailableTables()) {
    for (int threads : ThreadCounts()) {
      ThreadPool pool(threads);
      std::string where;
      ASSERT_TRUE(SameBits(expected, run(*table, pool), &where))
          << table->name << ", " << threads << " threads, " << what << ": " << where;
    }
  }
}

inline constexpr Values kBoth[] = {Values::kOrdinary, Values::kHard};

}  // namespace paceline::kernels
