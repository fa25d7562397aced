// Python's numbers: how they print, how they are read, and arithmetic whose integers stay within 64 bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/jinja/runtime.h"

namespace paceline::jinja {

// repr() of a float: the shortest digits that read back the same.
std::string FloatRepr(double value);

// int(text, base) and float(text); nullopt where Python raises. White space around and single underscores
// between digits are allowed. An integer beyond 64 bits is nullopt.
std::optional<int64_t> ParseInt(std::string_view text, int base);
std::optional<double> ParseFloat(std::string_view text);

enum class Operator { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
const char* OperatorSign(Operator op);
// `a op b` for all types that have it: numbers, +, * and % of texts, + and * of lists.
Value Apply(Runtime& runtime, Operator op, const Value& a, const Value& b);
Value Negate(Runtime& runtime, const Value& value);
Value Plus(Runtime& runtime, const Value& value);

// "format" % values, with the conversions s, r, d, i, u, x, X, o, e, f, g, c, % and their flags, width and
// precision.
std::string FormatPercent(Runtime& runtime, std::string_view format, const Value& values);
// "{} {0} {name.attribute[0]!r}".format(..); a format after a colon is not covered.
std::string FormatBraces(Runtime& runtime, std::string_view format, const Arguments& arguments);

}  // namespace paceline::jinja
