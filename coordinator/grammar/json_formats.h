// Formats of strings in JSON schemas, as regular expressions.
#pragma once

#include <string_view>

namespace paceline {

// What a text of `format` matches from end to end; null when the format is not of the subset. Each is a part
// of what the format's standard allows: no leap seconds and no 29th of February, years from 1000 to 2999.
const char* FormatPattern(std::string_view format);

// "date, date-time, ..": for errors.
const char* KnownFormats();

}  // namespace paceline
