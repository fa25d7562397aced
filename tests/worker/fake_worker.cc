// A worker process around FakeHandler, for tests that kill and stop processes: fake_worker worker --join H:P
// --model M
// --name N --rank R [--fail], as worker/local_workers.h calls it.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/worker/fake_handler.h"
#include "worker/node_client.h"

int main(int argc, char** argv) {
  using namespace paceline;
  WorkerConfig config;
  std::string name;
  int rank = 0;
  bool fail = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--join") == 0) config.join = argv[i + 1];
    if (std::strcmp(argv[i], "--name") == 0) name = argv[i + 1];
    if (std::strcmp(argv[i], "--rank") == 0) rank = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--fail") == 0) fail = true;
  }
  config.facts = FakeFacts(name, getpid());
  config.facts.wanted_rank = rank;
  config.factory = [fail](const Share& share, const std::function<void(LoadProgress)>& progress) {
    if (!fail) return LoadFake(share, progress);
    return absl::StatusOr<LoadedHandler>(
        Error(errors::kModelTensor,
              "layers.3.mlp.experts.1.up_proj in model.safetensors: expected [128, 64], found [64, 64]"));
  };
  const absl::Status ended = RunWorker(std::move(config));
  if (!ended.ok()) std::fprintf(stderr, "%s: %s\n", name.c_str(), std::string(ended.message()).c_str());
  return ExitStatus(ended);
}
