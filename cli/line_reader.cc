// The one file that knows libedit. Both readers wait in slices and look at the signals between two: a signal
// may be delivered to any thread, and would then interrupt no read of this one.
#include "cli/line_reader.h"

#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "cli/console.h"
#include "coordinator/utf8.h"

namespace paceline::cli {
namespace {

constexpr int kSliceMs = 50;
constexpr int kHistoryLines = 1000;

// One read of stdin: its bytes, 0 at the end, -1 when a signal asks to stop.
ssize_t ReadInput(char* bytes, size_t size) {
  for (;;) {
    if (StopRequested()) return -1;
    pollfd wait{STDIN_FILENO, POLLIN, 0};
    if (poll(&wait, 1, kSliceMs) <= 0) continue;
    const ssize_t got = read(STDIN_FILENO, bytes, size);
    if (got >= 0) return got;
    if (errno != EINTR && errno != EAGAIN) return 0;  // a terminal that went away
  }
}

class PlainReader final : public LineReader {
 public:
  InputLine Next(const std::string&) override {
    for (;;) {
      if (const size_t end = waiting_.find('\n'); end != std::string::npos) {
        InputLine line{InputLine::Kind::kLine, waiting_.substr(0, end)};
        waiting_.erase(0, end + 1);
        return line;
      }
      char piece[4096];
      const ssize_t got = ReadInput(piece, sizeof piece);
      if (got < 0) return {InputLine::Kind::kStopped};
      if (got == 0) {
        if (waiting_.empty()) return {InputLine::Kind::kEnd};
        return {InputLine::Kind::kLine, std::exchange(waiting_, {})};
      }
      waiting_.append(piece, static_cast<size_t>(got));
    }
  }

 private:
  std::string waiting_;
};

class EditingReader final : public LineReader {
 public:
  EditingReader() : history_(history_init()), editor_(el_init("paceline", stdin, stdout, stderr)) {
    CHECK(history_ != nullptr && editor_ != nullptr);
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &Prompt);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
    el_set(editor_, EL_SIGNAL, 0);  // ours stay in place
    el_set(editor_, EL_GETCFN, &ReadCharacter);
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_source(editor_, nullptr);
  }
  ~EditingReader() override {
    el_end(editor_);
    history_end(history_);
  }

  InputLine Next(const std::string& prompt) override {
    prompt_ = prompt;
    stopped_ = false;
    el_resize(editor_);
    el_set(editor_, EL_PREP_TERM, 1);  // before the prompt: who answers it is listened to
    int count = 0;
    const char* text = el_gets(editor_, &count);
    if (stopped_) return {InputLine::Kind::kStopped};
    if (text == nullptr || count <= 0) return {InputLine::Kind::kEnd};
    InputLine line{InputLine::Kind::kLine, text};
    while (line.text.ends_with('\n') || line.text.ends_with('\r')) line.text.pop_back();
    if (!line.text.empty()) {
      HistEvent event;
      history(history_, &event, H_ENTER, line.text.c_str());
    }
    return line;
  }

 private:
  static EditingReader* Self(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<EditingReader*>(self);
  }
  static char* Prompt(EditLine* editor) { return Self(editor)->prompt_.data(); }
  // 1 with a character, 0 at the end, -1 to give up the line.
  static int ReadCharacter(EditLine* editor, wchar_t* character) {
    EditingReader& self = *Self(editor);
    for (;;) {
      if (!self.bytes_.empty()) {
        const Utf8Unit unit = ReadUtf8(self.bytes_);
        if (unit.kind != Utf8Kind::kUnfinished) {
          self.bytes_.erase(0, unit.length);
          if (unit.kind == Utf8Kind::kBroken) continue;
          *character = static_cast<wchar_t>(unit.code_point);
          return 1;
        }
      }
      char byte;
      const ssize_t got = ReadInput(&byte, 1);  // what follows the line's end is the next reader's
      if (got < 0) self.stopped_ = true;
      if (got <= 0) return static_cast<int>(got);
      self.bytes_.push_back(byte);
    }
  }

  History* const history_;
  EditLine* const editor_;
  std::string prompt_;
  std::string bytes_;  // of a code point that is not whole
  bool stopped_ = false;
};

}  // namespace

std::unique_ptr<LineReader> OpenLineReader(bool terminal) {
  if (!terminal) return std::make_unique<PlainReader>();
  // libedit turns characters into bytes by the locale, and a container has none.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  return std::make_unique<EditingReader>();
}

}  // namespace paceline::cli
