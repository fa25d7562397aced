// Digests of sentences: what a class's bits depend on is written out, then hashed.
#include "worker/fingerprint.h"

#include "absl/strings/str_cat.h"
#include "base/sha256.h"

namespace paceline {
namespace {

constexpr size_t kDigits = 16;

std::string Digest(const std::string& text) {
  Sha256 sha;
  sha.Add(text);
  return sha.Hex().substr(0, kDigits);
}

}  // namespace

std::string DescribeIntegerExperts(const ContractOptions& options) {
  return absl::StrCat("integer experts revision ", kIntegerExpertsRevision, ", activations ",
                      options.activations);
}

std::string DescribeFloatExperts(const ContractOptions& options) {
  return absl::StrCat("float experts revision ", kFloatExpertsRevision, ", float math ", options.float_math);
}

std::string DescribeTrunk(const ContractOptions& options) {
  return absl::StrCat("trunk revision ", kTrunkRevision, ", activations ", options.activations,
                      ", float math ", options.float_math, ", LM head ", options.lm_head, ", KV ",
                      options.kv_dtype);
}

Fingerprints FingerprintsOf(const ContractOptions& options) {
  return {Digest(DescribeIntegerExperts(options)), Digest(DescribeFloatExperts(options)),
          Digest(DescribeTrunk(options))};
}

std::string ClusterFingerprint(const Fingerprints& fingerprints) {
  return Digest(
      absl::StrCat(fingerprints.integer_experts, " ", fingerprints.float_experts, " ", fingerprints.trunk));
}

}  // namespace paceline
