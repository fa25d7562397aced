#include "coordinator/output_parser.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/random.h"
#include "coordinator/tool_arguments.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";
constexpr std::string_view kCall = "<tool_call>", kEndCall = "</tool_call>";
constexpr std::string_view kFunction = "<function=", kEndFunction = "</function>";
constexpr std::string_view kParameter = "<parameter=", kEndParameter = "</parameter>";
constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kMaxName = 256;  // bytes of a function's or a parameter's name
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

size_t SpaceAtFront(std::string_view text) { return std::min(text.find_first_not_of(kSpace), text.size()); }

// Where the first of `tags` begins in `text`, and which; if none is there, where a beginning of one stands at
// the end.
struct Found {
  size_t at;             // text.size() when there is nothing
  std::string_view tag;  // empty: none, or not yet
};
Found FindTag(std::string_view text, std::span<const std::string_view> tags) {
  for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at + 1)) {
    const std::string_view rest = text.substr(at);
    for (const std::string_view tag : tags) {
      if (rest.starts_with(tag)) return {at, tag};
      if (tag.starts_with(rest)) return {at, {}};
    }
  }
  return {text.size(), {}};
}

std::string CallId(uint64_t seed, int32_t call) {
  // Any number but those other draws use: ids shall not follow from a text's noise.
  constexpr uint32_t kPurpose = 0x63616C6C;
  const std::array<uint32_t, 4> bits =
      Philox({static_cast<uint32_t>(call), kPurpose, 0, 0},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return absl::StrFormat("call_%08x%08x%08x", bits[0], bits[1], bits[2]);
}

}  // namespace

// States follow the text: what stands before the cursor decides what may come. Every step consumes input or
// waits.
class OutputParser::Machine {
 public:
  explicit Machine(OutputParserOptions options)
      : options_(std::move(options)),
        text_state_(options_.starts_in_reasoning && options_.split_reasoning ? State::kReasoning
                                                                             : State::kContent),
        state_(text_state_) {
    drop_space_ = state_ == State::kReasoning;
  }

  std::vector<OutputEvent> Feed(std::string_view text) {
    Take(text);
    while (Step()) {
    }
    return std::exchange(events_, {});
  }

  std::vector<OutputEvent> Finish() {
    if (!tail_.empty()) input_ += kReplacement;
    tail_.clear();
    final_ = true;
    while (Step() || state_ == State::kOpening) {
      if (state_ == State::kOpening && !Step()) NoCall();
    }
    // Behind the last step: what waited for more.
    if (state_ == State::kContent || state_ == State::kReasoning) {
      Text(std::exchange(space_, {}));
    } else {
      EndFunction();
      state_ = text_state_;
    }
    input_.clear();
    return std::exchange(events_, {});
  }

  int32_t calls() const { return calls_; }
  bool in_reasoning() const { return text_state_ == State::kReasoning; }
  bool in_call() const { return state_ != State::kContent && state_ != State::kReasoning; }

 private:
  enum class State {
    kContent,
    kReasoning,
    kOpening,  // behind <tool_call>: the function's name is to come
    kBody,     // between parameters
    kKey,      // behind <parameter=
    kText,     // in a value that streams
    kValue,    // in a value that is gathered
    kClosing,  // behind </function>
  };

  // Only complete code points get in.
  void Take(std::string_view text) {
    const std::string all = std::exchange(tail_, {}) + std::string(text);
    for (size_t i = 0; i < all.size();) {
      const Utf8Unit unit = ReadUtf8(std::string_view(all).substr(i));
      if (unit.kind == Utf8Kind::kUnfinished) {
        tail_ = all.substr(i);
        return;
      }
      input_ += unit.kind == Utf8Kind::kValid ? std::string_view(all).substr(i, unit.length) : kReplacement;
      i += unit.length;
    }
  }

  void Emit(OutputEvent::Kind kind, std::string_view text) {
    if (text.empty()) return;
    const int32_t call = kind == OutputEvent::Kind::kToolCallArguments ? calls_ - 1 : -1;
    if (!events_.empty() && events_.back().kind == kind && events_.back().call == call) {
      events_.back().text += text;
      return;
    }
    events_.push_back({kind, std::string(text), call});
  }
  void Text(std::string_view text) {
    Emit(text_state_ == State::kReasoning ? OutputEvent::Kind::kReasoning : OutputEvent::Kind::kContent,
         text);
  }
  void Arguments(std::string_view text) { Emit(OutputEvent::Kind::kToolCallArguments, text); }

  void Consume(size_t bytes) { input_.erase(0, bytes); }

  // False when the input is used up, or what is there may yet become something else.
  bool Step() {
    switch (state_) {
      case State::kContent:
      case State::kReasoning:
        return StepText();
      case State::kOpening:
        return StepOpening();
      case State::kBody:
        return StepBody();
      case State::kKey:
        return StepKey();
      case State::kText:
      case State::kValue:
        return StepValue();
      case State::kClosing:
        return StepClosing();
    }
    return false;
  }

  bool StepText() {
    if (input_.empty()) return false;
    if (!said_) {
      if (const size_t space = SpaceAtFront(input_); space > 0) {
        TextPiece(std::string_view(input_).substr(0, space));
        Consume(space);
        return true;
      }
      // Only here does <think> open a block; in reasoning it is one that the prompt has opened already.
      if (options_.split_reasoning && kThink.starts_with(std::string_view(input_).substr(0, kThink.size()))) {
        if (input_.size() < kThink.size() && !final_) return false;
        if (input_.size() >= kThink.size()) return Tag(kThink);
      }
    }
    std::vector<std::string_view> tags;
    if (options_.parse_tools) tags.push_back(kCall);
    if (options_.split_reasoning && text_state_ == State::kReasoning) tags.push_back(kEndThink);
    const Found found = FindTag(input_, tags);
    const size_t until = final_ && found.tag.empty() ? input_.size() : found.at;
    TextPiece(std::string_view(input_).substr(0, until));
    Consume(until);
    return !found.tag.empty() && Tag(found.tag);
  }

  // A tag at the front of the input, between two pieces of text.
  bool Tag(std::string_view tag) {
    Consume(tag.size());
    before_call_ = std::exchange(space_, {});
    drop_space_ = true;
    said_ = false;
    if (tag == kCall) {
      state_ = State::kOpening;
    } else {
      text_state_ = state_ = tag == kThink ? State::kReasoning : State::kContent;
    }
    return true;
  }

  // Text without tags. White space at its end waits: a tag behind it drops it.
  void TextPiece(std::string_view text) {
    if (drop_space_) text.remove_prefix(SpaceAtFront(text));
    if (text.empty()) return;
    const size_t last = text.find_last_not_of(kSpace);
    if (last == std::string_view::npos) {
      space_ += text;
      return;
    }
    drop_space_ = false;
    said_ = true;
    Text(std::exchange(space_, {}));
    Text(text.substr(0, last + 1));
    space_ = text.substr(last + 1);
  }

  // <function=NAME>, or it is no call after all.
  bool StepOpening() {
    const std::string_view input = input_;
    const size_t space = SpaceAtFront(input);
    const std::string_view rest = input.substr(space);
    if (rest.size() < kFunction.size() && kFunction.starts_with(rest)) return false;
    if (!rest.starts_with(kFunction)) {
      NoCall();
      return true;
    }
    const std::string_view name = rest.substr(kFunction.size());
    const size_t end = name.find_first_of("<>\n");
    if (end == std::string_view::npos && name.size() <= kMaxName) return false;
    if (end == std::string_view::npos || name[end] != '>' || end == 0 || end > kMaxName) {
      NoCall();
      return true;
    }
    OutputEvent start{OutputEvent::Kind::kToolCallStart};
    start.call = calls_++;
    start.id = CallId(options_.id_seed, start.call);
    start.name = std::string(name.substr(0, end));
    tool_ = nullptr;
    for (const ToolDefinition& tool : options_.tools) {
      if (tool.name == start.name) tool_ = &tool;
    }
    events_.push_back(std::move(start));
    parameters_ = 0;
    Consume(space + kFunction.size() + end + 1);
    state_ = State::kBody;
    return true;
  }

  // <tool_call> was text. What stands behind it is read again, as text.
  void NoCall() {
    state_ = text_state_;
    drop_space_ = false;
    said_ = true;
    Text(before_call_);
    Text(kCall);
  }

  // <parameter=, </function>, </tool_call> or the next <tool_call>; anything else has no place here and is
  // dropped.
  bool StepBody() {
    const Found found = FindTag(input_, std::array{kParameter, kEndFunction, kEndCall, kCall});
    Consume(found.at);
    if (found.tag.empty()) return false;
    Consume(found.tag.size());
    if (found.tag == kParameter) {
      state_ = State::kKey;
      return true;
    }
    EndFunction();
    before_call_.clear();
    state_ = found.tag == kEndCall ? text_state_ : found.tag == kCall ? State::kOpening : State::kClosing;
    return true;
  }

  bool StepKey() {
    const size_t end = input_.find('>');
    if (end == std::string::npos && input_.size() <= kMaxName) return false;
    if (end == std::string::npos || end > kMaxName) {
      state_ = State::kBody;  // no name: what follows has no place
      return true;
    }
    const std::string key = input_.substr(0, end);
    Arguments(absl::StrCat(parameters_++ == 0 ? "{" : ", ", "\"", JsonEscaped(key), "\": "));
    kind_ = tool_ == nullptr ? ArgumentKind::kText : KindOfArgument(*tool_, key);
    state_ = kind_ == ArgumentKind::kText ? State::kText : State::kValue;
    if (state_ == State::kText) Arguments("\"");
    value_.clear();
    value_begun_ = false;
    Consume(end + 1);
    return true;
  }

  // A value ends at its own tag, or at one that can only come behind it and begins a line.
  bool StepValue() {
    if (!value_begun_) {
      if (input_.empty()) return false;
      if (input_[0] == '\n') Consume(1);
      value_begun_ = true;
      line_start_ = true;
    }
    size_t at = 0;
    Found found{input_.size(), {}};
    while (true) {
      const std::string_view rest = std::string_view(input_).substr(at);
      found = FindTag(rest, std::array{kEndParameter, kParameter, kEndFunction, kEndCall});
      found.at += at;
      const bool begins_line = found.at == 0 ? line_start_ : input_[found.at - 1] == '\n';
      const bool ends = found.tag.empty() || found.tag == kEndParameter || begins_line;
      // A beginning of one of the others in mid-line is text, unless it may be </parameter>.
      const bool waits = !found.tag.empty() || begins_line || found.at == input_.size() ||
                         kEndParameter.starts_with(std::string_view(input_).substr(found.at));
      if (ends && waits) break;
      at = found.at + 1;
      if (at >= input_.size()) {
        found = {input_.size(), {}};
        break;
      }
    }
    size_t until = found.at;
    // Cut at a limit: a tag that had begun is none of the value; a single "<" may be.
    const bool cut = final_ && found.tag.empty() && input_.size() - until >= 2;
    if (found.tag.empty() && !final_) {
      // The newline in front of a tag belongs to the tag.
      if (until > 0 && input_[until - 1] == '\n') --until;
    } else if (found.tag.empty() && !cut) {
      until = input_.size();
    }
    std::string_view piece = std::string_view(input_).substr(0, until);
    if ((!found.tag.empty() || cut) && piece.ends_with('\n')) piece.remove_suffix(1);
    ValuePiece(piece);
    if (until > 0) line_start_ = input_[until - 1] == '\n';
    Consume(until);
    if (found.tag.empty()) return false;
    EndValue();
    state_ = State::kBody;
    if (found.tag == kEndParameter) Consume(found.tag.size());
    return true;
  }

  void ValuePiece(std::string_view text) {
    if (state_ == State::kText) {
      Arguments(JsonEscaped(text));
    } else {
      value_ += text;
    }
  }

  void EndValue() {
    if (state_ == State::kText) {
      Arguments("\"");
    } else {
      Arguments(ArgumentAsJson(value_, kind_));
    }
  }

  void EndFunction() {
    if (state_ == State::kClosing) return;
    if (state_ == State::kText || state_ == State::kValue) EndValue();
    Arguments(parameters_ == 0 ? "{}" : "}");
    OutputEvent end{OutputEvent::Kind::kToolCallEnd};
    end.call = calls_ - 1;
    events_.push_back(std::move(end));
    drop_space_ = true;
  }

  // </tool_call>, which some outputs leave out.
  bool StepClosing() {
    Consume(SpaceAtFront(input_));
    if (kEndCall.starts_with(input_) && input_.size() < kEndCall.size()) return false;
    if (input_.starts_with(kEndCall)) Consume(kEndCall.size());
    state_ = text_state_;
    return true;
  }

  const OutputParserOptions options_;
  State text_state_;  // kContent or kReasoning: where a call returns to
  State state_;
  std::string tail_;   // an unfinished code point
  std::string input_;  // not yet decided
  bool final_ = false;
  std::vector<OutputEvent> events_;
  // Text.
  std::string space_;        // white space that waits for what follows
  bool drop_space_ = false;  // white space comes from the form
  bool said_ = false;        // something other than white space, since the last tag
  std::string before_call_;  // white space in front of <tool_call>
  // The call.
  int32_t calls_ = 0;
  const ToolDefinition* tool_ = nullptr;  // of options_.tools; null: a function nobody declared
  int32_t parameters_ = 0;
  ArgumentKind kind_ = ArgumentKind::kText;
  std::string value_;
  bool value_begun_ = false;
  bool line_start_ = false;  // the input begins a line of the value
};

OutputParser::OutputParser(OutputParserOptions options)
    : machine_(std::make_unique<Machine>(std::move(options))) {}
OutputParser::~OutputParser() = default;
std::vector<OutputEvent> OutputParser::Feed(std::string_view text) { return machine_->Feed(text); }
std::vector<OutputEvent> OutputParser::Finish() { return machine_->Finish(); }
int32_t OutputParser::calls() const { return machine_->calls(); }
bool OutputParser::in_reasoning() const { return machine_->in_reasoning(); }
bool OutputParser::in_call() const { return machine_->in_call(); }

}  // namespace paceline
