// small_synth OUT FORMAT [mtp]: a synthetic checkpoint of kSmallShape, for end-to-end tests of benches.
#include <cstdio>
#include <string>

#include "tests/model/small_shape.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: small_synth OUT hybrid|int4|bf16 [mtp]\n");
    return 2;
  }
  const absl::Status written = paceline::synth::WriteShape(
      paceline::testing::kSmallShape, {.directory = argv[1],
                                       .like = "small",
                                       .format = argv[2],
                                       .mtp = argc > 3 && std::string(argv[3]) == "mtp"});
  if (!written.ok()) std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
  return written.ok() ? 0 : 1;
}
