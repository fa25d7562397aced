// Opening a checkpoint: configuration, files, census, digest, in this order; then reads by logical name.
#include "model/checkpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "model/census.h"
#include "model/json_guard.h"
#include "model/linear_source.h"
#include "model/quantisation.h"
#include "model/tensor_store.h"

namespace paceline {
namespace {

using kernels::PlainExpert;
using kernels::PlainLinear;

class DirectoryCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory) {
    auto out = std::make_unique<DirectoryCheckpoint>();
    out->directory_ = directory;
    ASSIGN_OR_RETURN(out->config_, ReadModelConfig(directory));
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(absl::StrCat(directory, "/config.json"),
                                                          kMaxConfigBytes, errors::kModelConfig));
    ASSIGN_OR_RETURN(const QuantisationHints hints, ParseQuantisation(text, directory));
    ASSIGN_OR_RETURN(out->store_, TensorStore::Open(directory));
    ASSIGN_OR_RETURN(out->census_, TakeCensus(out->config_, hints, out->store_));
    if (!out->census_.mtp) out->config_.mtp_layers = 0;
    ASSIGN_OR_RETURN(out->digest_, out->store_.Digest(text));
    return out;
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& directory() const override { return directory_; }
  const std::string& digest() const override { return digest_; }
  const std::string& missing_mtp() const override { return census_.missing_mtp; }
  const std::vector<std::string>& warnings() const override { return census_.warnings; }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const override { return store_.files(); }

  absl::StatusOr<LinearFacts> DescribeLinear(const std::string& name) const override {
    ASSIGN_OR_RETURN(const LinearSource* const source, FindLinear(name));
    return Facts(*source);
  }
  absl::StatusOr<PlainLinear> ReadLinear(const std::string& name, Span64 outputs, Span64 inputs,
                                         const ReadAhead& ahead) const override {
    ASSIGN_OR_RETURN(const LinearSource* const source, FindLinear(name));
    return ReadLinearSource(*source, outputs, inputs, ahead);
  }
  void ListLinear(const std::string& name, Span64 outputs, Span64 inputs,
                  std::vector<FileRange>& ranges) const override {
    const absl::StatusOr<const LinearSource*> source = FindLinear(name);
    CHECK(source.ok());
    ListLinearSource(**source, outputs, inputs, ranges);
  }

  absl::StatusOr<LinearFacts> DescribeExpert(const std::string& mlp, int32_t expert,
                                             std::string_view projection) const override {
    ASSIGN_OR_RETURN(const ExpertSource* const source, FindExpert(mlp, expert));
    if (projection == "gate_proj") return Facts(source->gate);
    if (projection == "up_proj") return Facts(source->up);
    CHECK(projection == "down_proj");
    return Facts(source->down);
  }
  absl::StatusOr<PlainExpert> ReadExpert(const std::string& mlp, int32_t expert, Span64 columns,
                                         const ReadAhead& ahead) const override {
    ASSIGN_OR_RETURN(const ExpertSource* const source, FindExpert(mlp, expert));
    PlainExpert out;
    ASSIGN_OR_RETURN(out.gate, ReadLinearSource(source->gate, columns, {}, ahead));
    ASSIGN_OR_RETURN(out.up, ReadLinearSource(source->up, columns, {}, ahead));
    ASSIGN_OR_RETURN(out.down, ReadLinearSource(source->down, {}, columns, ahead));
    return out;
  }
  void ListExpert(const std::string& mlp, int32_t expert, Span64 columns,
                  std::vector<FileRange>& ranges) const override {
    const absl::StatusOr<const ExpertSource*> source = FindExpert(mlp, expert);
    CHECK(source.ok());
    ListLinearSource((*source)->gate, columns, {}, ranges);
    ListLinearSource((*source)->up, columns, {}, ranges);
    ListLinearSource((*source)->down, {}, columns, ranges);
  }

  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name,
                                                const ReadAhead& ahead) const override {
    const auto at = census_.vectors.find(name);
    if (at == census_.vectors.end()) return Absent(name);
    return ReadFloats(at->second, ahead);
  }
  void ListVector(const std::string& name, std::vector<FileRange>& ranges) const override {
    const auto at = census_.vectors.find(name);
    CHECK(at != census_.vectors.end());
    ranges.push_back(at->second.RangeOf(0, at->second.entry->bytes()));
  }
  bool Has(const std::string& name) const override {
    return census_.vectors.contains(name) || census_.linears.contains(name);
  }

 private:
  absl::Status Absent(const std::string& name) const {
    return Error(errors::kModelTensor,
                 absl::StrCat(name, ": the checkpoint in ", directory_, " has no such layer"));
  }
  absl::StatusOr<const LinearSource*> FindLinear(const std::string& name) const {
    const auto at = census_.linears.find(name);
    if (at == census_.linears.end()) return Absent(name);
    return &at->second;
  }
  absl::StatusOr<const ExpertSource*> FindExpert(const std::string& mlp, int32_t expert) const {
    const auto at = census_.experts.find(mlp);
    if (at == census_.experts.end()) return Absent(mlp + ".experts");
    if (expert < 0 || static_cast<size_t>(expert) >= at->second.size())
      return Absent(absl::StrCat(mlp, ".experts.", expert));
    const ExpertSource& source = at->second[static_cast<size_t>(expert)];
    if (!source.gate.present() || !source.up.present() || !source.down.present()) {
      return Absent(absl::StrCat(mlp, ".experts.", expert));
    }
    return &source;
  }
  static LinearFacts Facts(const LinearSource& source) {
    return {source.format,         source.outputs, source.inputs,
            source.stored_bytes(), source.group,   source.zeros.present()};
  }

  std::string directory_;
  ModelConfig config_;
  TensorStore store_;
  Census census_;
  std::string digest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  return DirectoryCheckpoint::Open(directory);
}

}  // namespace paceline
