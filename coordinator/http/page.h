// The page at /: coordinator/http/page.html, put into the binary by CMake.
#pragma once

#include <string_view>

namespace paceline {

extern const std::string_view kPage;

}  // namespace paceline
