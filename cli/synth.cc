// `synth`: a random checkpoint with a real model's shapes.
#include "model/synth.h"

#include "cli/commands.h"
#include "cli/console.h"

namespace paceline::cli {

int Run(const SynthOptions& options) {
  paceline::SynthOptions synth;
  synth.directory = options.out;
  synth.like = options.like;
  synth.layers = options.layers;
  synth.format = options.format;
  synth.mtp = options.mtp;
  synth.seed = options.seed;
  synth.progress = [](int64_t done, int64_t total) { StdErr().Progress("synth", done, total); };
  const absl::Status written = WriteSynthetic(synth);
  StdErr().EndProgress();
  return written.ok() ? 0 : StdErr().Fail(written);
}

}  // namespace paceline::cli
