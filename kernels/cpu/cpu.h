// The CPU backend: one source of vector code over 16 logical lanes, compiled once per instruction set, chosen
// by CPUID.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"

namespace paceline::kernels::cpu {

// "" takes the widest this machine has. DEV-001 names what the machine lacks, CFG-002 an unknown name.
absl::StatusOr<const KernelTable*> Select(std::string_view isa);
// Every table that runs on this machine: tests and benches walk it.
std::vector<const KernelTable*> Available();
// "AMX", "AVX-512 VNNI", "AVX-512", "AVX2": the class a figure names.
std::string_view CpuClass();

// As KernelTable::experts for INT4 weights, into fp32 sums [x.rows, hidden]: without exact sums over leaves,
// their limit and their fixed order. `bench kernels` asks by it what the contract costs; nothing else may.
using ExpertsWithoutContractFunction = void (*)(ThreadPool& pool, Workspace& workspace, const Activations& x,
                                                std::span<const ExpertTask> tasks,
                                                ActivationContract contract, float* sums);
// Of a table that Select or Available gave.
ExpertsWithoutContractFunction ExpertsWithoutContract(const KernelTable& table);

}  // namespace paceline::kernels::cpu
