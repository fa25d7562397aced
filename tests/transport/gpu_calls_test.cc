// Opening NCCL and the driver: what is said where one of them is missing.
#include "transport/gpu_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/transport/gpu_stand_in.h"
#include "transport/link.h"

namespace paceline {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kNccl[] = PACELINE_STAND_IN "/libnccl.so.2";
constexpr char kDriver[] = PACELINE_STAND_IN "/libcuda.so.1";
constexpr char kNobody[] = "libpaceline-of-nobody.so.9";

std::string Refusal(const char* nccl, const char* driver) {
  const absl::Status status = OpenGpuCalls(nccl, driver).status();
  EXPECT_TRUE(status.ok() || absl::IsUnimplemented(status)) << status;
  return std::string(status.message());
}

TEST(GpuCallsTest, BothLibrariesAreFoundByTheirNames) {
  const absl::StatusOr<GpuCalls> calls = OpenGpuCalls(kNccl, kDriver);
  ASSERT_TRUE(calls.ok()) << calls.status();
  EXPECT_EQ(CheckNcclVersion(*calls).value_or(0), 23000);
}

TEST(GpuCallsTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(Refusal(kNobody, kDriver),
              AllOf(StartsWith("NET-007: --link nccl is not to be had on this machine"), HasSubstr(kNobody),
                    HasSubstr("install NCCL")));
  EXPECT_THAT(Refusal(kNccl, kNobody), AllOf(StartsWith("NET-007"), HasSubstr(kNobody), HasSubstr("driver")));
  EXPECT_THAT(Refusal("libm.so.6", kDriver),
              AllOf(HasSubstr("libm.so.6 has no ncclGetVersion"), HasSubstr("2.18.0")));
}

TEST(GpuCallsTest, AnEnvironmentThatFixesTheIdIsRefused) {
  setenv("NCCL_COMM_ID", "127.0.0.1:9999", 1);
  EXPECT_THAT(Refusal(kNccl, kDriver),
              AllOf(StartsWith("NET-007"), HasSubstr("NCCL_COMM_ID"), HasSubstr("unset it")));
  unsetenv("NCCL_COMM_ID");
}

TEST(GpuCallsTest, AnOldNcclIsRefusedWithBothVersions) {
  stand_in::Set({.version = 21403});
  EXPECT_THAT(
      std::string(CheckNcclVersion(stand_in::Calls()).status().message()),
      AllOf(StartsWith("NET-007"), HasSubstr("NCCL 2.14.3 is installed, and 2.18.0 or newer is needed")));
  stand_in::Set({});
}

TEST(GpuCallsTest, DoctorAndTheLinkSayTheSameOfThisMachine) {
  const NcclFacts facts = InspectNccl();
  EXPECT_EQ(facts.problem, std::string(CheckLink("nccl").message()));
  if (facts.version.empty()) {
    EXPECT_THAT(facts.problem, HasSubstr("libnccl.so.2"));
  }
}

}  // namespace
}  // namespace paceline
