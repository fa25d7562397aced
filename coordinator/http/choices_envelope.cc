#include "coordinator/http/choices_envelope.h"

#include "coordinator/http/reply_format.h"

namespace paceline {

Json ChoicesEnvelope::Begin(Json choices) const {
  Json json = head_.Members();
  json["choices"] = std::move(choices);
  return json;
}

void ChoicesEnvelope::EndFrame(bool ends_choice, Json* frame) {
  if (ends_choice) ++ended_;
  if (stream_.usage_every_chunk) {
    (*frame)["usage"] = totals_.Usage();
  } else if (stream_.include_usage) {
    (*frame)["usage"] = nullptr;
  }
  if (ends_choice && ended_ == choices_ && !stream_.include_usage) {
    (*frame)["timings"] = totals_.Timings();
    (*frame)["metrics"] = totals_.Metrics();
  }
}

void ChoicesEnvelope::AddTotals(Json* body) const {
  (*body)["usage"] = totals_.Usage();
  (*body)["timings"] = totals_.Timings();
  (*body)["metrics"] = totals_.Metrics();
}

void ChoicesEnvelope::EndStream(std::string* out) const {
  if (stream_.include_usage) {
    Json frame = Begin(Json::array());
    AddTotals(&frame);
    AppendFrame(Dump(frame), out);
  }
  AppendFrame("[DONE]", out);
}

}  // namespace paceline
