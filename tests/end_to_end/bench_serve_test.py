"""`paceline bench serve` against a head with two workers, and against a stand-in for servers of others. What is counted must
add up; no figure of speed is judged here."""
import http.server
import json
import pathlib
import tempfile
import threading

import harness
from harness import ROOT, Head, paceline

DEMO = ROOT / "deploy/demo-model"


def bench(url, *words):
    """The JSON of a run that must succeed."""
    status, out, err = paceline("bench", "serve", "--url", url, "--json", *words)
    assert status == 0, f"{words}: exit status {status}\n{err}"
    return json.loads(out)


class OurHead(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, model=DEMO).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.url = f"http://{cls.head.http}"

    def check(self, result, requests, tokens):
        self.assertEqual((result["requests"], result["completed"], result["failures"]), (requests, requests, {}))
        self.assertEqual((result["output_tokens"], result["tokens_from"]), (requests * tokens, "usage"))
        # Tokens, steps and chunks are different things.
        self.assertLessEqual(result["chunks"], result["output_tokens"])
        self.assertLessEqual(result["bursts"], result["chunks"])
        self.assertEqual(result["steps"], result["output_tokens"] - result["accepted"])
        self.assertLessEqual(result["accepted"], result["drafted"])
        self.assertEqual(result["ttft_ms"]["count"], requests)
        self.assertEqual(result["itl_ms"]["count"], result["chunks"] - requests)
        self.assertEqual(result["burst_gap_ms"]["count"] if result["burst_gap_ms"] else 0, result["bursts"] - requests)
        self.assertEqual(result["tpot_ms"]["count"], requests)
        for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
            spread = result[name]
            order = [spread[p] for p in ("p50", "p90", "p95", "p99", "max")]
            self.assertEqual(order, sorted(order))
            self.assertLessEqual(spread["mean"], spread["max"])
        self.assertLess(result["ttft_ms"]["max"], result["e2e_ms"]["max"])
        self.assertAlmostEqual(result["output_tokens_per_second"] * result["seconds"], result["output_tokens"], delta=1e-6 * requests * tokens)

    def test_closed_loops(self):
        for endpoint in ("chat", "completions"):
            out = bench(self.url, "--endpoint", endpoint, "--concurrency", "1,4", "--requests", 6, "--output-tokens", 16,
                        "--input-tokens", 300)
            self.assertEqual((out["model"], out["endpoint"]), ("demo-model", endpoint))
            self.assertEqual([(r["mode"], r["concurrency"], r["rate"]) for r in out["results"]], [("closed", 1, None), ("closed", 4, None)])
            for result in out["results"]:
                self.check(result, 6, 16)
                self.assertEqual(result["cached_tokens"], 0, "no prompt comes twice")
                if endpoint == "completions":
                    self.assertEqual(result["prompt_tokens"], 6 * 300)
                else:  # about that, and the template
                    self.assertAlmostEqual(result["prompt_tokens"], 6 * 310, delta=6 * 60)

    def test_an_open_loop_and_its_goals(self):
        words = ["--rate", 40, "--requests", 20, "--output-tokens", 8, "--natural-end"]
        out = bench(self.url, *words, "--slo-ttft-ms", 1e6, "--slo-itl-ms", 1e6)["results"][0]
        self.assertEqual((out["mode"], out["rate"], out["concurrency"], out["requests"], out["good"]), ("open", 40, None, 20, 20))
        self.assertAlmostEqual(out["goodput_per_second"], out["requests_per_second"])
        for goal in ("--slo-ttft-ms", "--slo-itl-ms"):
            self.assertEqual(bench(self.url, *words, goal, 1e-3)["results"][0]["good"], 0)
        self.assertIsNone(bench(self.url, *words)["results"][0]["good"])

    def test_a_duration_ends_a_load(self):
        out = bench(self.url, "--concurrency", 2, "--duration", 0.5, "--output-tokens", 4)["results"][0]
        self.assertGreater(out["completed"], 0)
        self.assertEqual(out["failures"], {})

    def test_a_shared_prefix_is_found_and_nothing_else(self):
        words = ["--endpoint", "completions", "--requests", 5, "--output-tokens", 4, "--input-tokens", 700]
        self.assertEqual(bench(self.url, *words)["results"][0]["cached_tokens"], 0)
        out = bench(self.url, *words, "--shared-prefix", 600)
        self.assertEqual(out["results"][0]["cached_tokens"], 5 * 512, "the whole pages of 600 tokens")
        # The same salt and seed give the same prompts: all but the last token may be known now.
        again = bench(self.url, *words, "--shared-prefix", 600, "--salt", out["salt"])
        self.assertEqual((again["salt"], again["results"][0]["cached_tokens"]), (out["salt"], 5 * 512))

    def test_prompts_of_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "prompts")
            file.write_text('Once upon a time\n\n"\\u0041 story"\n{"prompt": "The end"}\n'
                            '{"messages": [{"role": "user", "content": "How many days are in May?"}]}\n')
            out = bench(self.url, "--prompts", file, "--requests", 5, "--output-tokens", 4)["results"][0]
            self.assertEqual((out["completed"], out["output_tokens"]), (5, 20))
            refused = (["--endpoint", "completions", "--prompts", file], ["--prompts", folder], ["--prompts", file, "--input-tokens", 3])
            for words in refused:
                status, _, err = paceline("bench", "serve", "--url", self.url, *words)
                self.assertEqual(status, 2, err)
            file.write_text('{"text": "none"}\n')
            status, _, err = paceline("bench", "serve", "--url", self.url, "--prompts", file)
            self.assertEqual(status, 2)
            self.assertIn("line 1", err)

    def test_tables(self):
        words = ["bench", "serve", "--url", self.url, "--concurrency", "1,2", "--requests", 3, "--output-tokens", 4]
        status, out, err = paceline(*words)
        self.assertEqual(status, 0, err)
        for said in (r"(?m)^load +requests +done", r"(?m)^2 at once +3 +3 +0 ", r"first chunk \(TTFT\)", r"accepted"):
            self.assertRegex(out, said)
        self.assertRegex(paceline(*words, "--markdown")[1], r"(?m)^\| 2 at once \| 3 \| 3 \| 0 \|")

    def test_overload_is_told_by_code(self):
        small = self.start(Head, "--max-sequences", 1, "--max-waiting", 0, "--simulate-link", "rtt=5ms", "--local-workers", 1,
                           model=DEMO).wait_ready()
        out = bench(f"http://{small.http}", "--concurrency", 3, "--requests", 9, "--output-tokens", 8)["results"][0]
        self.assertEqual(out["completed"] + sum(out["failures"].values()), 9)
        self.assertEqual(list(out["failures"]), ["429 rate_limit_exceeded"])
        self.assertGreater(out["completed"], 0)
        self.assertEqual(out["refusal_ms"]["count"], out["failures"]["429 rate_limit_exceeded"])

    def test_what_cannot_be_measured(self):
        for url, status, said in ((f"http://127.0.0.1:{harness.free_port()}", 5, "NET-002"), ("https://example.com", 2, "https is not spoken"),
                                  ("localhost:8000", 2, "CFG-002"), (f"{self.url}/nowhere", 1, "answered 404")):
            done = paceline("bench", "serve", "--url", url)
            self.assertEqual((done[0], done[1]), (status, ""), done[2])
            self.assertIn(said, done[2])
        done = paceline("bench", "serve", "--url", self.url, "--model", "gpt-9")
        self.assertEqual(done[0], 1)
        self.assertIn("this head serves demo-model", done[2])
        for words in (["--rate", 1, "--concurrency", 1], ["--rate", 0], ["--shared-prefix", 256], ["--json", "--markdown"]):
            self.assertEqual(paceline("bench", "serve", *words)[0], 2, words)

    def test_a_signal_ends_a_run_and_its_requests(self):
        run = self.start(harness.Process, "bench", "serve", "--url", self.url, "--output-tokens", 30000, "--concurrency", 2, "--warmup", 0)
        client = self.client(self.head)
        while client.control.GetLoad(harness.control_pb2.GetLoadRequest(), timeout=harness.PATIENCE).running < 2:
            self.assertIsNone(run.process.poll(), run.stderr)
        run.process.send_signal(harness.signal.SIGINT)
        self.assertEqual(run.wait(), 130)
        client.wait_idle()


class Stranger(http.server.BaseHTTPRequestHandler):
    """What other servers do and ours does not: no /tokenize, CRLF, a stream without usage, one that breaks off, an error in it."""
    protocol_version = "HTTP/1.1"
    answers = ["whole", "error", "short", "plain 500", "cut"]
    served = 0

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, json.dumps({"data": [{"id": "stranger"}]}).encode())

    def frame(self, *pieces):
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()

    def text(self, text):
        return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": None}]}).encode() + b"\r\n\r\n"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/tokenize":
            return self.reply(404, b'{"detail": "Not Found"}')
        answer = Stranger.answers[Stranger.served % len(Stranger.answers)]
        Stranger.served += 1
        if answer == "plain 500":
            return self.reply(500, b"it broke")
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        whole = self.text("two")
        self.frame(b": a comment\r\n\r\n", self.text("one"), whole[:7], whole[7:])
        if answer == "whole":
            self.frame(self.text("three") + self.text("four"), b"data: [DONE]\r\n\r\n")
        if answer == "error":
            self.frame(b'data: {"error": {"message": "out of memory", "code": "oom"}}\r\n\r\n')
        if answer != "cut":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


class OtherServers(harness.TestCase):
    def test_every_end_of_an_answer_is_counted_as_what_it_is(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        Stranger.served = 0
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        out = bench(url, "--endpoint", "completions", "--requests", 10, "--warmup", 0)["results"][0]
        self.assertEqual(out["completed"], 2)
        self.assertEqual(out["failures"], {"500": 2, "NET-002": 4, "stream oom": 2})
        self.assertEqual(out["first_failure"], "out of memory")
        self.assertEqual((out["tokens_from"], out["output_tokens"], out["chunks"]), ("chunks", 8, 8))
        self.assertLessEqual(out["bursts"], 6, "three and four came together")
        self.assertEqual((out["steps"], out["drafted"], out["cached_tokens"]), (None, None, 0))


if __name__ == "__main__":
    harness.main()
