"""`paceline chat` as people use it: in a terminal (a real pty), in a pipe, over gRPC, over HTTP and on a directory."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
import urllib.request

import harness
from harness import BINARY, ROOT, Head

DEMO = ROOT / "deploy/demo-model"
FACT = "What is the symbol for beryllium?"
SUM = "Sofia has 524 pumps and buys 861 more. How many pumps does she have now?"
STORY = "Please write a story about Nora and a wrong turn."
PROMPT = "> "
# Over HTTP a short answer may come with one read, which has no rate.
STATISTICS = r"\d+ tokens?(?: at [\d.]+ tok/s)?, the first after [\d.]+ s"


def in_pipe(target, lines, *args):
    """(exit status, stdout, stderr) of a session whose lines come through a pipe."""
    done = subprocess.run([BINARY, "chat", str(target), *map(str, args)], input="\n".join(lines) + "\n", capture_output=True, text=True,
                          timeout=harness.PATIENCE)
    return done.returncode, done.stdout, done.stderr


class Terminal:
    """A session in a terminal of its own."""

    def __init__(self, *args, env=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execve(BINARY, [BINARY, *map(str, args)], {**os.environ, "TERM": "xterm", "LC_ALL": "C", **(env or {})})
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.seen = ""  # since the last match
        self.all = ""

    def expect(self, pattern):
        """Waits until what the session shows has the pattern; returns what came before and with it."""
        deadline = time.monotonic() + harness.PATIENCE
        while not (found := re.search(pattern, self.seen, re.S)):
            readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            try:
                piece = os.read(self.fd, 65536) if readable else b""
            except OSError:
                piece = b""
            if not piece:
                raise AssertionError(f"the session never showed {pattern!r}; since the last match:\n{self.seen!r}\nall:\n{self.all}")
            self.seen += piece.decode("utf-8", "replace")
            self.all += piece.decode("utf-8", "replace")
        matched, self.seen = self.seen[:found.end()], self.seen[found.end():]
        return matched

    def send(self, text):
        os.write(self.fd, text.encode())

    def status(self):
        """Exit status, after everything it still says was read."""
        deadline = time.monotonic() + harness.PATIENCE
        while select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # Linux's end of a terminal
                piece = b""
            if not piece:
                break
            self.all += piece.decode("utf-8", "replace")
        else:
            raise AssertionError(f"the session does not end:\n{self.all}")
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


class ChatTest(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, model=DEMO).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.grpc = f"grpc://{cls.head.grpc}"
        cls.http = f"http://{cls.head.http}"

    def terminal(self, *args, **kwargs):
        session = Terminal(*args, **kwargs)
        self.addCleanup(session.close)
        return session

    def ask_api(self, messages, **body):
        request = urllib.request.Request(f"{self.http}/v1/chat/completions",
                                         json.dumps({"messages": messages, "temperature": 0, **body}).encode(),
                                         {"content-type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=harness.PATIENCE))["choices"][0]["message"]


class Pipe(ChatTest):
    def test_two_turns_are_those_of_the_api_wherever_the_model_is(self):
        first = self.ask_api([{"role": "user", "content": SUM}])
        messages = [{"role": "user", "content": SUM},
                    {"role": "assistant", "content": first["content"], "reasoning_content": first["reasoning_content"]},
                    {"role": "user", "content": FACT}]
        second = self.ask_api(messages)
        for target in (self.grpc, self.http, DEMO):
            with self.subTest(target=target):
                status, out, err = in_pipe(target, [SUM, FACT, "/exit", "never read"], "--temperature", 0)
                self.assertEqual(status, 0, err)
                self.assertEqual(out, f'{first["content"]}\n{second["content"]}\n')
                self.assertNotIn("\033", out + err)
                self.assertIn(first["reasoning_content"].strip(), err)
                self.assertEqual(len(re.findall(STATISTICS, err)), 2, err)

    def test_the_end_of_the_input_ends_the_session_and_settings_reach_the_model(self):
        plain = self.ask_api([{"role": "user", "content": FACT}], chat_template_kwargs={"enable_thinking": False})
        status, out, err = in_pipe(self.grpc, ["/think off", "/temp 0", FACT])
        self.assertEqual((status, out), (0, plain["content"] + "\n"), err)
        self.assertEqual(in_pipe(self.grpc, [FACT], "--think", "off", "--temperature", 0)[1], out)
        # A limit, a seed, a system message.
        status, out, err = in_pipe(self.grpc, ["/think off", "/max 4", "/seed 7", "/temp 1.5", STORY, "/reset", STORY])
        first, second = out.splitlines()
        self.assertEqual(first, second, "a seed decides the text")
        self.assertIn("4 tokens", err)
        self.assertIn("ended by the limit", err)
        told = [{"role": "system", "content": "Answer with the value only."}, {"role": "user", "content": FACT}]
        told = self.ask_api(told, chat_template_kwargs={"enable_thinking": False})["content"]
        self.assertEqual(in_pipe(self.grpc, ["/system Answer with the value only.", FACT], "--think", "off", "--temperature", 0)[1],
                         told + "\n")

    def test_a_line_that_goes_on_and_a_text_with_a_slash(self):
        thinking = {"chat_template_kwargs": {"enable_thinking": False}}
        wanted = [self.ask_api([{"role": "user", "content": text}], **thinking)["content"] for text in ("What is\nthe time?", "/usr/bin")]
        status, out, err = in_pipe(self.grpc, ["What is\\", "the time?", "/reset", "//usr/bin"], "--think", "off", "--temperature", 0)
        self.assertEqual((status, out), (0, "".join(text + "\n" for text in wanted)), err)

    def test_a_conversation_is_saved_and_gone_on_with(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "talk.json")
            commands = ["/temp 0", "/system Be brief.", SUM, f"/save {file}", FACT]
            status, out, err = in_pipe(self.grpc, commands)
            self.assertEqual(status, 0, err)
            messages = json.loads(file.read_text())["messages"]
            self.assertEqual([m["role"] for m in messages], ["system", "user", "assistant"])
            self.assertIn("1385", messages[2]["content"])
            self.assertTrue(messages[2]["reasoning_content"])
            again = in_pipe(self.grpc, ["/temp 0", f"/load {file}", FACT])
            self.assertEqual(again[1], out.splitlines()[-1] + "\n", again[2])
            status, _, err = in_pipe(self.grpc, [f"/load {folder}/nothing", "/load", "/temp x", "/nonsense", "/stats", "/help"])
            self.assertEqual(status, 0)
            for said in ("cannot read", "wants the name", "/temp takes", "no command /nonsense", "no answers yet", "/reset"):
                self.assertIn(said, err)

    def test_an_error_ends_a_turn_and_not_the_session(self):
        status, out, err = in_pipe(self.grpc, ["/max 99999999", FACT, "/max", FACT], "--temperature", 0, "--think", "off")
        self.assertEqual(status, 0, err)
        self.assertIn("REQ-002", err)
        self.assertEqual(out, self.ask_api([{"role": "user", "content": FACT}], chat_template_kwargs={"enable_thinking": False})["content"] + "\n")

    def test_what_cannot_be_talked_to(self):
        port = harness.free_port()
        for target, status, said in ((f"grpc://127.0.0.1:{port}", 5, "NET-002"), (f"http://127.0.0.1:{port}", 5, "NET-002"),
                                     ("https://example.com", 2, "https is not spoken"), ("http://", 2, "CFG-002"),
                                     ("/no/such/model", 8, "LOAD-001")):
            with self.subTest(target=target):
                done = in_pipe(target, ["hi"])
                self.assertEqual((done[0], done[1]), (status, ""), done[2])
                self.assertIn(said, done[2])
        self.assertEqual(in_pipe(self.grpc, ["hi"], "--local-workers", 2)[0], 2)


class InTerminal(ChatTest):
    def test_thinking_is_dimmed_and_lines_can_be_edited(self):
        session = self.terminal("chat", self.grpc, "--temperature", 0)
        session.expect(r"demo-model .*Ctrl-D leaves")
        session.expect(PROMPT)
        # A typing error taken back: C-u empties the line, and the left arrow moves within it.
        session.send("nonsense\x15" + SUM[:-2] + "?" + "\033[D" + SUM[-2] + "\r")
        shown = session.expect(STATISTICS)
        self.assertIn("1385", shown)
        dim, plain = shown.index("\033[2m"), shown.index("\033[22m")
        self.assertLess(dim, plain)
        self.assertTrue(shown[dim + 4:plain].strip(), "nothing stands between the codes")
        self.assertIn("1385", shown[plain:])
        session.expect(PROMPT)
        session.send("\033[A\r")  # the line before, from the history
        session.expect(r"1385.*" + STATISTICS)
        session.expect(PROMPT)
        session.send("\x04")
        self.assertEqual(session.status(), 0)

    def test_a_text_of_other_scripts_is_typed_as_it_is(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "talk.json")
            session = self.terminal("chat", self.grpc, "--think", "off", "--max-tokens", 4)
            session.expect(PROMPT)
            session.send("Grüße, 東京 🚲?\r")
            session.expect(STATISTICS + ".*" + PROMPT)
            session.send(f"/save {file}\r")
            session.expect("2 messages written.*" + PROMPT)
            self.assertEqual(json.loads(file.read_text())["messages"][0]["content"], "Grüße, 東京 🚲?")

    def test_no_colour_where_none_is_wanted(self):
        session = self.terminal("chat", self.http, "--temperature", 0, env={"NO_COLOR": "1"})
        session.expect(PROMPT)
        session.send(SUM + "\r")
        self.assertNotIn("\033[2m", session.expect(STATISTICS))

    def test_ctrl_c_at_the_prompt_leaves(self):
        session = self.terminal("chat", self.grpc)
        session.expect(PROMPT)
        session.send("half a line\x03")
        self.assertEqual(session.status(), 130)

    def test_ctrl_c_stops_an_answer_and_not_the_session(self):
        # A token takes a tenth of a second here, so the story is surely under way.
        slow = self.start(Head, "--local-workers", 2, "--simulate-link", "rtt=15ms", "--draft", "off", model=DEMO).wait_ready()
        watcher = self.client(slow)
        here = ["--local-workers", 1, "--simulate-link", "rtt=15ms", "--draft", "off"]
        for target, *args in ([f"grpc://{slow.grpc}"], [f"http://{slow.http}"], [DEMO, *here]):
            with self.subTest(target=target):
                session = self.terminal("chat", target, "--think", "off", "--temperature", 0, *args)
                session.expect(PROMPT)
                session.send(STORY + "\r")
                session.expect(r"\nNora, \w+")
                session.send("\x03")
                session.expect(r"tokens.*stopped.*" + PROMPT)
                watcher.wait_idle()
                session.send("/max 2\r")
                session.expect("at most 2.*" + PROMPT)
                session.send(FACT + "\r")
                session.expect("2 tokens.*" + PROMPT)  # the session goes on
                session.send("/max\r")
                session.expect("no limit.*" + PROMPT)
                session.send(STORY + "\r")
                session.expect(r"\nNora, \w+")
                session.send("\x03")
                session.expect("stopped")
                session.send("\x03")
                self.assertEqual(session.status(), 130)


if __name__ == "__main__":
    harness.main()
