#include "transport/interfaces.h"

#include <gtest/gtest.h>

namespace paceline {
namespace {

TEST(InterfacesTest, TheLoopbackInterfaceLeadsToThisMachine) {
  EXPECT_EQ(InterfaceTowards("127.0.0.1:4711"), "lo");
  EXPECT_EQ(InterfaceTowards("127.3.4.5:4711"), "lo");
}

TEST(InterfacesTest, WhatIsNoAddressLeadsNowhere) {
  for (const char* const text : {"", ":", "box:4711", "[::zz]:1", "300.0.0.1:1"})
    EXPECT_EQ(InterfaceTowards(text), "unknown") << text;
}

}  // namespace
}  // namespace paceline
