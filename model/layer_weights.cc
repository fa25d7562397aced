// Loading of a layer's head-side weights.
#include "model/layer_weights.h"

#include <utility>

#include "base/status.h"
#include "kernels/scalar_math.h"

namespace paceline {

absl::StatusOr<RowFormat> RowFormatOf(const Checkpoint& checkpoint, const std::string& mlp) {
  for (int32_t e = 0; e < checkpoint.config().experts; ++e) {
    for (const char* projection : {"gate_proj", "up_proj"}) {
      ASSIGN_OR_RETURN(const Checkpoint::LinearFacts facts, checkpoint.DescribeExpert(mlp, e, projection));
      if (!kernels::IsInteger(facts.format)) return RowFormat::kFloat32;
    }
  }
  return RowFormat::kInt16Group128;
}

void AddVectors(Loader& loader, std::vector<NamedVector> vectors) {
  const Checkpoint& checkpoint = loader.checkpoint();
  loader.Add(
      [&checkpoint, vectors](std::vector<FileRange>& ranges) {
        for (const NamedVector& v : vectors) {
          if (checkpoint.Has(v.name)) checkpoint.ListVector(v.name, ranges);
        }
      },
      [&checkpoint, vectors](const ReadAhead& ahead) -> absl::Status {
        for (const NamedVector& v : vectors) {
          ASSIGN_OR_RETURN(*v.to, checkpoint.ReadVector(v.name, ahead));
        }
        return absl::OkStatus();
      });
}

namespace {

class LayerJobs {
 public:
  LayerJobs(Loader& loader, const kernels::KernelTable& table, const LinearRule& rule)
      : loader_(loader), table_(table), rule_(rule) {}

  void CountInto(int64_t* bytes) { bytes_ = bytes; }
  absl::Status Linear(const std::string& name, LinearPtr& to) { return Add(name, rule_, to); }
  // Small, and much hangs on its bits: as stored, and portable under every float math.
  absl::Status Router(const std::string& name, LinearPtr& to) { return Add(name, {.portable = true}, to); }
  void Vector(const std::string& name, std::vector<float>& to) { vectors_.push_back({name, &to}); }
  absl::Status FeedForward(const std::string& prefix, FeedForwardWeights& to) {
    RETURN_IF_ERROR(Linear(prefix + ".gate_proj", to.gate));
    RETURN_IF_ERROR(Linear(prefix + ".up_proj", to.up));
    return Linear(prefix + ".down_proj", to.down);
  }
  void AddVectors() { paceline::AddVectors(loader_, std::move(vectors_)); }

 private:
  absl::Status Add(const std::string& name, const LinearRule& rule, LinearPtr& to) {
    loader_.Then([bytes = bytes_, &to] { *bytes += to->bytes; });
    return AddLinear(loader_, name, {}, table_, rule, &to);
  }

  Loader& loader_;
  const kernels::KernelTable& table_;
  const LinearRule& rule_;
  int64_t* bytes_ = nullptr;  // where what is loaded is counted
  std::vector<NamedVector> vectors_;
};

absl::Status AddDeltaNet(Loader& loader, LayerJobs& jobs, const std::string& p, DeltaNetWeights& w) {
  RETURN_IF_ERROR(jobs.Linear(p + "in_proj_qkv", w.qkv));
  RETURN_IF_ERROR(jobs.Linear(p + "in_proj_z", w.z));
  RETURN_IF_ERROR(jobs.Linear(p + "in_proj_b", w.b));
  RETURN_IF_ERROR(jobs.Linear(p + "in_proj_a", w.a));
  RETURN_IF_ERROR(jobs.Linear(p + "out_proj", w.out));
  jobs.Vector(p + "conv1d.weight", w.conv);
  jobs.Vector(p + "A_log", w.decay);
  jobs.Vector(p + "dt_bias", w.dt_bias);
  jobs.Vector(p + "norm.weight", w.norm);
  loader.Then([&w] {
    for (float& x : w.decay) x = kernels::Exp(x);
  });
  return absl::OkStatus();
}

absl::Status AddAttention(LayerJobs& jobs, const std::string& p, bool biases, AttentionWeights& w) {
  RETURN_IF_ERROR(jobs.Linear(p + "q_proj", w.q));
  RETURN_IF_ERROR(jobs.Linear(p + "k_proj", w.k));
  RETURN_IF_ERROR(jobs.Linear(p + "v_proj", w.v));
  RETURN_IF_ERROR(jobs.Linear(p + "o_proj", w.o));
  jobs.Vector(p + "q_norm.weight", w.q_norm);
  jobs.Vector(p + "k_norm.weight", w.k_norm);
  if (biases) {
    jobs.Vector(p + "q_proj.bias", w.q_bias);
    jobs.Vector(p + "k_proj.bias", w.k_bias);
    jobs.Vector(p + "v_proj.bias", w.v_bias);
    jobs.Vector(p + "o_proj.bias", w.o_bias);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddLayer(Loader& loader, const std::string& prefix, const LayerConfig& config,
                      const kernels::KernelTable& table, const LinearRule& rule, LayerWeights* to) {
  const Checkpoint& checkpoint = loader.checkpoint();
  LayerJobs jobs(loader, table, rule);
  jobs.CountInto(&to->mixer_bytes);
  jobs.Vector(prefix + ".input_layernorm.weight", to->input_norm);
  jobs.Vector(prefix + ".post_attention_layernorm.weight", to->post_norm);
  if (config.mixer == Mixer::kGatedDeltaNet) {
    to->delta_net = std::make_unique<DeltaNetWeights>();
    RETURN_IF_ERROR(AddDeltaNet(loader, jobs, prefix + ".linear_attn.", *to->delta_net));
  } else {
    to->attention = std::make_unique<AttentionWeights>();
    to->attention->gated = config.mixer == Mixer::kGatedAttention;
    RETURN_IF_ERROR(
        AddAttention(jobs, prefix + ".self_attn.", checkpoint.config().attention_bias, *to->attention));
  }

  const std::string mlp = prefix + ".mlp";
  jobs.CountInto(&to->feed_forward_bytes);
  if (config.feed_forward == FeedForward::kDense) {
    to->dense = std::make_unique<FeedForwardWeights>();
    RETURN_IF_ERROR(jobs.FeedForward(mlp, *to->dense));
  } else {
    to->moe = std::make_unique<MoeWeights>();
    RETURN_IF_ERROR(jobs.Router(mlp + ".gate", to->moe->router));
    ASSIGN_OR_RETURN(to->moe->row_format, RowFormatOf(checkpoint, mlp));
    if (checkpoint.config().shared_columns > 0) {
      RETURN_IF_ERROR(jobs.FeedForward(mlp + ".shared_expert", to->moe->shared));
      RETURN_IF_ERROR(jobs.Router(mlp + ".shared_expert_gate", to->moe->shared_gate));
    }
  }
  jobs.AddVectors();
  return absl::OkStatus();
}

absl::StatusOr<LayerWeights> LoadLayer(const Checkpoint& checkpoint, const std::string& prefix,
                                       const LayerConfig& config, const kernels::KernelTable& table) {
  LayerWeights layer;
  Loader loader(checkpoint);
  RETURN_IF_ERROR(AddLayer(loader, prefix, config, table, {}, &layer));
  ThreadPool caller(1);
  RETURN_IF_ERROR(loader.Run(caller, {}));
  return layer;
}

}  // namespace paceline
