// Codes survive as the front of a message, and only there.
#include "base/error.h"

#include <gtest/gtest.h>

namespace paceline {
namespace {

TEST(Error, TheCodeStandsInFront) {
  const absl::Status status = Error(errors::kNodeLost, "worker-1 is lost");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::string(status.message()), "NET-001: worker-1 is lost");
  EXPECT_EQ(CodeOf("NET-001: worker-1 is lost"), "NET-001");
}

TEST(Error, EveryCodeIsFoundAgain) {
  using namespace errors;
  for (const ErrorCode& code :
       {kModelMissing,     kModelConfig, kModelFile,    kModelTensor,   kModelValues, kTokenizer,
        kModelUnsupported, kOutOfMemory, kRequestField, kContextLength, kNonFinite,   kQueueFull,
        kNodeLost,         kUnreachable, kInsecureLink, kFrame,         kTimeout,     kJoinRefused,
        kLinkAbsent,       kPlacement,   kOption,       kDevice}) {
    const absl::Status status = Error(code, "why");
    EXPECT_EQ(status.code(), code.status) << code.id;
    EXPECT_EQ(CodeOf(std::string(status.message())), code.id);
    EXPECT_EQ(ExitStatus(status), code.exit_status) << code.id;
  }
}

TEST(Error, OnlyAWholeCodeAtTheFrontCounts) {
  for (const char* message : {"", "NET-001", "NET-0011: x", "NET-999: x", " NET-001: x", "worker: NET-001: x",
                              "net-001: x", "NET-001 x"}) {
    EXPECT_EQ(CodeOf(message), "") << message;
    EXPECT_EQ(ExitStatus(absl::UnavailableError(message)), 1) << message;
  }
  EXPECT_EQ(ExitStatus(absl::OkStatus()), 0);
}

}  // namespace
}  // namespace paceline
