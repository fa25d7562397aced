// A fingerprint names arithmetic, not builds: one digest per class of the contract's revision and the options
// that change bits, never of ISA, build or threads (docs/NUMERICS.md, Known answers). Equal fingerprints
// promise equal bits.
#pragma once

#include <string>

namespace paceline {

// Grows with every change of docs/NUMERICS.md that moves a bit.
inline constexpr int kIntegerExpertsRevision = 1;
inline constexpr int kFloatExpertsRevision = 1;
inline constexpr int kTrunkRevision = 1;

// The options that change bits.
struct ContractOptions {
  std::string activations = "int16";    // "int16" (two planes) or "int8" (one)
  std::string float_math = "portable";  // or "native"
  std::string lm_head = "stored";       // or "int8"
  std::string kv_dtype = "bf16";        // or "fp32", "int8", "int4"
  friend bool operator==(const ContractOptions&, const ContractOptions&) = default;
};

// 16 hex digits each.
struct Fingerprints {
  std::string integer_experts;
  std::string float_experts;
  std::string trunk;
  friend bool operator==(const Fingerprints&, const Fingerprints&) = default;
};

Fingerprints FingerprintsOf(const ContractOptions& options);

// One for `status` and the usage record: 16 hex digits over all classes.
std::string ClusterFingerprint(const Fingerprints& fingerprints);

// What a digest stands for, in words: "integer experts revision 1, activations int16".
std::string DescribeIntegerExperts(const ContractOptions& options);
std::string DescribeFloatExperts(const ContractOptions& options);
std::string DescribeTrunk(const ContractOptions& options);

}  // namespace paceline
