// The subcommands, one file each. Every one returns the process's exit status and has said on stderr why when
// it is not 0.
#pragma once

#include "cli/options.h"

namespace paceline::cli {

int Run(const ServeOptions& options);
int Run(const WorkerOptions& options);
int Run(const GenerateOptions& options);
int Run(const ChatOptions& options);
int Run(const ScoreOptions& options);
int Run(const VerifyOptions& options);
int Run(const BenchStepOptions& options);
int Run(const BenchDraftOptions& options);
int Run(const BenchLoadOptions& options);
int Run(const BenchLinkOptions& options);
int Run(const BenchKernelsOptions& options);
int Run(const BenchServeOptions& options);
int Run(const TokenizeOptions& options);
int Run(const StatusOptions& options);
int Run(const DoctorOptions& options);
int Run(const SynthOptions& options);

}  // namespace paceline::cli
