// Words become options; what the model lacks is said before anything is loaded.
#include "cli/drafting.h"

#include "absl/strings/str_cat.h"
#include "base/error.h"
#include "base/status.h"
#include "cli/draft_vocabulary.h"

namespace paceline::cli {

SpeculationOptions SpeculationOf(const std::string& draft) {
  SpeculationOptions options;
  if (draft == "auto") {
    options.mode = DraftMode::kAuto;
    return options;
  }
  const int64_t depth = draft == "off" ? 0 : DecimalNumber(draft).value_or(0);  // checked by the parser
  options.mode = depth == 0 ? DraftMode::kOff : DraftMode::kFixed;
  if (depth > 0) options.max_draft_tokens = depth;
  return options;
}

absl::StatusOr<Drafting> ResolveDrafting(const DraftingFlags& flags, const Checkpoint& checkpoint,
                                         const Tokenizer* tokenizer) {
  Drafting drafting;
  const SpeculationOptions asked = SpeculationOf(flags.draft);
  drafting.policy.mode = *asked.mode;
  if (asked.max_draft_tokens) drafting.policy.depth = static_cast<int32_t>(*asked.max_draft_tokens);
  if (flags.drafter == "mtp") drafting.policy.drafter = DrafterPreference::kMtp;
  if (flags.drafter == "suffix") drafting.policy.drafter = DrafterPreference::kSuffix;
  if (drafting.policy.mode == DraftMode::kOff) return drafting;

  const bool ordered = drafting.policy.mode == DraftMode::kFixed;
  const bool wants_mtp = flags.drafter != "suffix";
  const bool has_layer = checkpoint.config().mtp_layers > 0;
  const std::string& missing = checkpoint.missing_mtp();
  if (wants_mtp && !missing.empty()) {
    const absl::Status why =
        Error(errors::kModelTensor,
              absl::StrCat(missing,
                           " is missing, so the MTP layer cannot draft; complete the checkpoint, or "
                           "run with --draft off or --drafter suffix"));
    if (ordered) return why;
    drafting.refusal = std::string(why.message());
  } else if (wants_mtp && !has_layer && (ordered && flags.drafter == "mtp")) {
    return Error(errors::kModelUnsupported,
                 "--drafter mtp: this model has no MTP layer; run with --draft off or --drafter suffix");
  }
  drafting.trunk.mtp = wants_mtp && has_layer && missing.empty();
  drafting.trunk.required = ordered && drafting.trunk.mtp;
  // Without the MTP layer drafting is off by default; the suffix drafter alone runs when it is asked for.
  drafting.trunk.suffix =
      flags.drafter == "suffix" || (flags.drafter == "auto" && (drafting.trunk.mtp || ordered));
  if (!drafting.trunk.mtp && !drafting.trunk.suffix) {
    drafting.policy.mode = DraftMode::kOff;
    return drafting;
  }
  drafting.trunk.format = flags.mtp_format == "stored" ? MtpFormat::kStored : MtpFormat::kInt4;
  drafting.trunk.tap = flags.mtp_tap == "pre-norm" ? HiddenTap::kPreNorm : HiddenTap::kPostNorm;
  drafting.trunk.assume_acceptance = flags.assume_acceptance;
  if (drafting.trunk.mtp) {
    ASSIGN_OR_RETURN(drafting.trunk.vocabulary,
                     BuildDraftVocabulary(flags.draft_vocab, tokenizer, checkpoint.config().vocab));
  }
  return drafting;
}

}  // namespace paceline::cli
