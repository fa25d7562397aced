// One digest per class of arithmetic, of ops on fixed pseudo-random inputs: what a node computes when it
// joins, and what notices a change of arithmetic (design: a fingerprint names arithmetic, not builds).
#pragma once

#include <string>
#include <string_view>

#include "kernels/kernels.h"

namespace paceline::kernels {

enum class ArithmeticClass : uint8_t { kIntegerExperts, kFloatExperts, kTrunk };
inline constexpr ArithmeticClass kArithmeticClasses[] = {
    ArithmeticClass::kIntegerExperts, ArithmeticClass::kFloatExperts, ArithmeticClass::kTrunk};

// "integer experts", "float experts", "trunk".
std::string_view ArithmeticClassName(ArithmeticClass arithmetic);
// SHA-256, hex, of what `table` computes; some milliseconds, and no thread but the caller's.
std::string KnownAnswers(const KernelTable& table, ArithmeticClass arithmetic);
// What docs/NUMERICS.md gives under `math`. A backend that returns anything else computes another contract.
std::string_view ExpectedAnswers(ArithmeticClass arithmetic, FloatMath math = FloatMath::kPortable);

}  // namespace paceline::kernels
