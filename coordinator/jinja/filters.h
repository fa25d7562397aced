// The two tables of filters that runtime.h's FindFilter looks through.
#pragma once

#include <string_view>

#include "coordinator/jinja/runtime.h"

namespace paceline::jinja {

// Filters of one value: texts, numbers, JSON. Null where there is none.
Filter FindValueFilter(std::string_view name);
// Filters of what can be iterated.
Filter FindSequenceFilter(std::string_view name);

}  // namespace paceline::jinja
