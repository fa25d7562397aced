// Which network interface of this machine leads to an address: the label of a link's measurements.
#pragma once

#include <string>
#include <string_view>

namespace paceline {

// "eth0" for "192.168.7.2:4711" or "[fe80::1]:4711"; "unknown" where the address is no numeric one or leads
// nowhere. Sends nothing. Thread-safe.
std::string InterfaceTowards(std::string_view address);

}  // namespace paceline
