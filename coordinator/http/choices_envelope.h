// What stands around the choices in frames and bodies of OpenAI's two endpoints that have them: the answer's
// head, and what it cost.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "coordinator/http/answer_head.h"
#include "coordinator/http/knobs.h"
#include "coordinator/http/usage.h"

namespace paceline {

class ChoicesEnvelope {
 public:
  ChoicesEnvelope(AnswerHead head, const StreamOptions& stream, size_t choices)
      : head_(std::move(head)), stream_(stream), choices_(choices) {}

  Totals& totals() { return totals_; }

  // A frame or a body, as far as its choices.
  Json Begin(Json choices) const;
  // The rest of a frame. `ends_choice`: it is a choice's last one; the last of all may say the totals.
  void EndFrame(bool ends_choice, Json* frame);
  // The rest of a body.
  void AddTotals(Json* body) const;
  // The frames by which a stream closes.
  void EndStream(std::string* out) const;

 private:
  const AnswerHead head_;
  const StreamOptions stream_;
  const size_t choices_;
  size_t ended_ = 0;
  Totals totals_;
};

}  // namespace paceline
