// `chat`: a conversation in the terminal. Answers go to stdout as they come; thinking is dimmed there, and
// goes to stderr where stdout is no terminal, as does everything that is not the model's.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "cli/chat_model.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/line_reader.h"

namespace paceline::cli {
namespace {

constexpr char kDim[] = "\033[2m";
constexpr char kPlain[] = "\033[22m";

// A model must not be able to drive the terminal: control characters of text, C1 among them, are left away.
std::string Harmless(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) continue;
    if (c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) {
      ++i;
      continue;
    }
    out.push_back(text[i]);
  }
  return out;
}

void Write(FILE* out, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), out);
  std::fflush(out);
}

// Where answers appear.
class Screen {
 public:
  Screen()
      : terminal_(isatty(STDOUT_FILENO) == 1), colour_(terminal_ && std::getenv("NO_COLOR") == nullptr) {}

  bool terminal() const { return terminal_; }
  void Text(bool reasoning, std::string_view text) {
    if (text.empty()) return;
    FILE* const out = reasoning && !terminal_ ? stderr : stdout;
    std::string shown = terminal_ ? Harmless(text) : std::string(text);
    if (terminal_ && reasoning != thinking_) {
      // Thinking and the answer stand apart.
      shown = absl::StrCat(Mode(reasoning), begun_ ? "\n\n" : "", shown);
    } else if (thinking_ && !reasoning) {
      std::fputs("\n", stderr);
    }
    thinking_ = reasoning;
    begun_ = true;
    Write(out, shown);
  }
  void EndAnswer() {
    if (begun_) {
      if (terminal_ && thinking_) Write(stdout, Mode(false));
      Write(thinking_ && !terminal_ ? stderr : stdout, "\n");
    }
    thinking_ = begun_ = false;
  }
  // What is not the model's.
  void Note(const std::string& text) const {
    if (text.empty()) return;
    const bool dim = colour_ && isatty(STDERR_FILENO) == 1;
    StdErr().Line(dim ? absl::StrCat(kDim, text, kPlain) : text);
  }

 private:
  const char* Mode(bool reasoning) const { return !colour_ ? "" : reasoning ? kDim : kPlain; }

  const bool terminal_;
  const bool colour_;
  bool thinking_ = false;
  bool begun_ = false;
};

// A line, and those that its last backslash asks for.
InputLine NextInput(LineReader& reader) {
  InputLine line = reader.Next("> ");
  while (line.kind == InputLine::Kind::kLine && line.text.ends_with('\\')) {
    InputLine more = reader.Next("| ");
    if (more.kind == InputLine::Kind::kStopped) return more;
    line.text.back() = '\n';
    if (more.kind == InputLine::Kind::kEnd) break;
    line.text += more.text;
  }
  return line;
}

// False when the session is over: a SIGTERM came, or nobody reads any more.
bool Answer(ChatModel& model, ChatSession& session, Screen& screen) {
  const absl::StatusOr<ChatAnswer> answer = model.Ask(
      session.Question(), [&screen](bool reasoning, std::string_view text) { screen.Text(reasoning, text); });
  screen.EndAnswer();
  const bool interrupted = TakeInterrupt();
  if (answer.ok()) {
    screen.Note(AnswerLine(*answer));
    if (!session.Answered(*answer)) screen.Note("nothing had been said yet: the question is taken back");
  } else {
    session.TakeBack();
    if (!interrupted) screen.Note(absl::StrCat("error: ", std::string(answer.status().message())));
  }
  return !StopRequested() && std::ferror(stdout) == 0;
}

// The exit status.
int Converse(ChatModel& model, ChatSession& session, const ChatOptions& options) {
  Screen screen;
  const bool edit = screen.terminal() && isatty(STDIN_FILENO) == 1;
  if (edit)
    screen.Note(
        absl::StrCat(model.name(), " (", options.head.model, "). /help lists commands, Ctrl-D leaves."));
  const std::unique_ptr<LineReader> reader = OpenLineReader(edit);
  for (;;) {
    const InputLine line = NextInput(*reader);
    if (line.kind != InputLine::Kind::kLine) {
      if (edit) Write(stdout, "\n");
      return line.kind == InputLine::Kind::kStopped ? SignalStatus() : 0;
    }
    const ChatSession::Outcome outcome = session.Take(line.text);
    if (outcome.step == ChatSession::Step::kLeave) return 0;
    if (outcome.step != ChatSession::Step::kAsk) {
      screen.Note(outcome.text);
    } else if (!Answer(model, session, screen)) {
      return SignalStatus();
    }
  }
}

}  // namespace

int Run(const ChatOptions& options) {
  absl::StatusOr<std::unique_ptr<ChatModel>> model = OpenChatModel(options);
  if (!model.ok()) return StopRequested() ? SignalStatus() : StdErr().Fail(model.status());
  ChatSettings settings{.system = options.system,
                        .temperature = options.temperature,
                        .seed = options.seed,
                        .max_tokens = options.max_tokens};
  if (options.think != "auto") settings.think = options.think == "on";
  ChatSession session(std::move(settings));
  return Converse(**model, session, options);
}

}  // namespace paceline::cli
