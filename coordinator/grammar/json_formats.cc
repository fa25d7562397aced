#include "coordinator/grammar/json_formats.h"

namespace paceline {
namespace {

#define PACELINE_DATE                                          \
  "[12]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|" \
  "(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define PACELINE_TIME \
  "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define PACELINE_LABEL "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,14}[a-zA-Z0-9])?"
#define PACELINE_HOST PACELINE_LABEL "(?:\\." PACELINE_LABEL "){1,3}"
#define PACELINE_OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"

struct Format {
  std::string_view name;
  const char* pattern;
};
constexpr Format kFormats[] = {
    {"date", PACELINE_DATE},
    {"time", PACELINE_TIME},
    {"date-time", PACELINE_DATE "T" PACELINE_TIME},
    {"duration",
     "P(?:\\d{1,4}W|\\d{1,4}D(?:T\\d{1,4}H(?:\\d{1,4}M(?:\\d{1,4}S)?)?)?|"
     "T(?:\\d{1,4}H(?:\\d{1,4}M(?:\\d{1,4}S)?)?|\\d{1,4}M(?:\\d{1,4}S)?|\\d{1,4}S))"},
    {"uuid", "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"},
    {"email",
     "[a-zA-Z0-9_+-]+(?:\\.[a-zA-Z0-9_+-]+)*@[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*(?:\\.[a-zA-Z]{2,12}){1,3}"},
    {"hostname", PACELINE_HOST},
    {"ipv4", "(?:" PACELINE_OCTET "\\.){3}" PACELINE_OCTET},
    {"ipv6", "(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}"},
    {"uri", "https?://" PACELINE_HOST "(?::[1-9]\\d{0,3})?(?:/[a-zA-Z0-9._~-]*)*"
            "(?:\\?[a-zA-Z0-9._~=&-]*)?(?:#[a-zA-Z0-9._~-]*)?"},
};

#undef PACELINE_DATE
#undef PACELINE_TIME
#undef PACELINE_LABEL
#undef PACELINE_HOST
#undef PACELINE_OCTET

}  // namespace

const char* FormatPattern(std::string_view format) {
  for (const Format& known : kFormats) {
    if (known.name == format) return known.pattern;
  }
  return nullptr;
}

const char* KnownFormats() {
  return "date, time, date-time, duration, uuid, email, hostname, ipv4, ipv6, uri";
}

}  // namespace paceline
