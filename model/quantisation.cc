// quantization_config, as GPTQ, AutoRound and FP8 exporters write it.
#include "model/quantisation.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "model/json_guard.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

using Json = nlohmann::json;

class Reader {
 public:
  Reader(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  absl::Status Refuse(const char* field, const std::string& sentence) const {
    return Error(errors::kModelUnsupported,
                 absl::StrCat(file_, ": quantization_config.", field, " ", sentence));
  }
  absl::StatusOr<std::string> Text(const char* field) const {
    const auto at = object_.find(field);
    if (at == object_.end() || at->is_null()) return std::string();
    if (!at->is_string()) return Wrong(field, "a string");
    return at->get<std::string>();
  }
  absl::StatusOr<int64_t> Int(const char* field) const {
    const auto at = object_.find(field);
    if (at == object_.end() || at->is_null()) return int64_t{0};
    if (!at->is_number_integer()) return Wrong(field, "an integer");
    return at->get<int64_t>();
  }

 private:
  absl::Status Wrong(const char* field, const char* wanted) const {
    return Error(errors::kModelConfig,
                 absl::StrCat(file_, ": quantization_config.", field, ": expected ", wanted));
  }

  const Json& object_;
  std::string file_;
};

}  // namespace

absl::StatusOr<QuantisationHints> ParseQuantisation(const std::string& config_text,
                                                    const std::string& directory) {
  const std::string file = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(const Json root, ParseJson(config_text, kMaxConfigBytes, errors::kModelConfig, file));
  QuantisationHints hints;
  if (!root.is_object()) return hints;
  auto at = root.find("quantization_config");
  if (at == root.end() && root.contains("text_config") && root["text_config"].is_object()) {
    at = root["text_config"].find("quantization_config");
    if (at == root["text_config"].end()) return hints;
  } else if (at == root.end()) {
    return hints;
  }
  if (at->is_null()) return hints;
  if (!at->is_object()) {
    return Error(errors::kModelConfig, absl::StrCat(file, ": quantization_config: expected an object"));
  }
  const Reader reader(*at, file);
  ASSIGN_OR_RETURN(const std::string method, reader.Text("quant_method"));
  ASSIGN_OR_RETURN(const std::string packing, reader.Text("packing_format"));
  ASSIGN_OR_RETURN(const std::string checkpoint_format, reader.Text("checkpoint_format"));
  if (method == "awq" || packing.find("awq") != std::string::npos) {
    return reader.Refuse(method == "awq" ? "quant_method" : "packing_format",
                         "names the AWQ layout, which is not supported; use a GPTQ or AutoRound export");
  }
  if (!packing.empty() && packing != "auto_round" && packing != "auto_round:auto_gptq" &&
      packing != "auto_round:gptqmodel") {
    return reader.Refuse("packing_format", absl::StrCat("is \"", Printable(packing),
                                                        "\"; supported: auto_round:auto_gptq, "
                                                        "auto_round, auto_round:gptqmodel"));
  }
  if (!checkpoint_format.empty() && checkpoint_format != "gptq" && checkpoint_format != "gptq_v2") {
    return reader.Refuse("checkpoint_format",
                         absl::StrCat("is \"", Printable(checkpoint_format), "\"; supported: gptq, gptq_v2"));
  }
  hints.true_zeros =
      checkpoint_format == "gptq_v2" || packing == "auto_round" || packing == "auto_round:gptqmodel";
  if (method == "fp8") {
    const auto blocks = at->find("weight_block_size");
    if (blocks != at->end() && !blocks->is_null() && *blocks != Json::array({128, 128})) {
      return reader.Refuse("weight_block_size", "is not [128, 128], the only FP8 block supported");
    }
  } else {
    ASSIGN_OR_RETURN(hints.bits, reader.Int("bits"));
    ASSIGN_OR_RETURN(hints.group_size, reader.Int("group_size"));
  }
  return hints;
}

}  // namespace paceline
