"""Many clients at once, from outside: streams that are each what they would be alone, thousands that leave, memory that
stays flat, a reader that hardly reads, and far more requests than a head can do. A head and two workers with the demo model.

CROWD=full, as in `./run nightly`, takes the full counts, holds clocks to promises and prints what was measured.
CROWD_REQUESTS is the number of requests under which memory has to stay flat.
"""
import concurrent.futures
import http.client
import itertools
import json
import os
import random
import socket
import statistics
import threading
import time
import unittest

import harness
from harness import ROOT, Client, Head, api, error_details, grpc

DEMO = ROOT / "deploy/demo-model"
FULL = os.environ.get("CROWD") == "full"
CANCELLED = 10_000 if FULL else 600
REQUESTS = int(os.environ.get("CROWD_REQUESTS", 100_000 if FULL else 3_000))
# Of anonymous memory over the second half of the requests: what an allocator may still take without a leak.
FLAT_BYTES = 6 << 20


def report(line):
    if FULL:
        print(f"crowd: {line}", flush=True)


class Reply:
    """One HTTP answer, whole or as its frames."""

    def __init__(self, address, path, body, connection=None):
        self.connection = connection or http.client.HTTPConnection(address, timeout=harness.PATIENCE * 5)
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        self.response = self.connection.getresponse()
        self.status = self.response.status

    def json(self):
        answer = json.loads(self.response.read())
        self.connection.close()
        return answer

    def text(self):
        """Of a stream, put together."""
        parts = []
        for line in self.response:
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                frame = json.loads(line[6:])
                assert "error" not in frame, frame
                parts += [choice["text"] for choice in frame["choices"]]
        self.connection.close()
        return "".join(parts)


class CrowdTest(harness.TestCase):
    ARGUMENTS = []

    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, *cls.ARGUMENTS, model=DEMO).wait_ready()
        cls.addClassCleanup(cls.head.close)
        cls.client = Client(cls.head.grpc)
        cls.addClassCleanup(cls.client.close)

    def load(self):
        return self.client.control.GetLoad(harness.control_pb2.GetLoadRequest(), timeout=harness.PATIENCE)

    def metric(self, name, text=None):
        text = text or self.client.control.GetMetrics(harness.control_pb2.GetMetricsRequest(), timeout=harness.PATIENCE).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + " ", name + "{")))

    def completion(self, **body):
        return Reply(self.head.http, "/v1/completions", body)

    def assert_all_is_back(self):
        """Slots, pages and queue places: within a second where that is promised, within the harness' patience anyway."""
        begin = time.monotonic()
        self.client.wait_idle()
        seconds = time.monotonic() - begin
        if FULL:
            self.assertLess(seconds, 1.0)
        load = self.load()
        self.assertEqual((load.running, load.waiting, load.kv_pages_used), (0, 0, 0))
        return seconds


class Streams(CrowdTest):
    """Promise: alone or in a crowd, the same tokens."""

    def kinds(self):
        """Forty requests, no two alike: short and long prompts, greedy and seeded, drafted and not, scored and cut."""
        words = ["Once", "The capital of Oman is", "Nora took a wrong turn and", "[1, 2,", "How many days are in May?"]
        for number in range(40):
            made = harness.request(text=words[number % 5] * (1 + 37 * (number % 3)), max_tokens=6 + number % 17,
                                   temperature=0.0 if number % 2 else 0.9)
            made.sampling.seed = number
            made.speculation.mode = (api.SpeculationOptions.MODE_AUTO, api.SpeculationOptions.MODE_OFF)[number % 4 == 0]
            if number % 7 == 0:
                made.sampling.repetition_penalty = 1.1
            if number % 8 == 0:
                made.response.output_logprobs = 2
            if number % 10 == 0:
                made.response.prompt_logprobs = 1
            yield made

    def over_http(self, made):
        body = {"prompt": made.text, "max_tokens": made.stopping.max_tokens, "temperature": made.sampling.temperature,
                "seed": made.sampling.seed, "ignore_eos": True, "stream": True}
        if made.sampling.HasField("repetition_penalty"):
            body["repetition_penalty"] = made.sampling.repetition_penalty
        return self.completion(**body).text()

    def over_grpc(self, made):
        said = []
        for event in self.client.stream(made, timeout=5 * harness.PATIENCE):
            kind = event.WhichOneof("event")
            if kind == "tokens":
                said += [token.SerializeToString() for token in map(plain, event.tokens.tokens)]
            elif kind == "prompt":
                said += [token.SerializeToString() for token in event.prompt.tokens]
        return said

    def test_two_hundred_streams_are_each_their_own(self):
        kinds = list(self.kinds())
        alone = [(self.over_grpc(made), self.over_http(made)) for made in kinds]
        crowd = [(number % 40, way) for number in range(100) for way in (0, 1)]
        random.Random(1).shuffle(crowd)
        with concurrent.futures.ThreadPoolExecutor(len(crowd)) as pool:
            said = list(pool.map(lambda one: (self.over_grpc, self.over_http)[one[1]](kinds[one[0]]), crowd))
        for (kind, way), text in zip(crowd, said):
            self.assertEqual(text, alone[kind][way], f"kind {kind} over {('gRPC', 'HTTP')[way]}")
        self.assert_all_is_back()


def plain(token):
    """A token but for who guessed it, which depends on who ran beside it."""
    copy = api.Token()
    copy.CopyFrom(token)
    copy.drafted = False
    return copy


class Storm(CrowdTest):
    """Clients that leave at every point of a request's life leave nothing behind."""
    ARGUMENTS = ["--kv-pages", 128, "--max-waiting", 4096]

    def leave_grpc(self, number):
        made = harness.request(text="Once upon a time " * (1 + number % 60), max_tokens=3000)
        made.response.prompt_logprobs = 1
        if number % 3:
            made.response.ClearField("prompt_logprobs")
        call = self.client.stream(made)
        wanted = number % 5  # events it has seen when it goes
        try:
            for event in itertools.islice(call, wanted):
                if event.WhichOneof("event") == "completed":
                    return
        except grpc.RpcError as error:
            raise AssertionError(f"request {number} ended by itself: {error.details()}; the head:\n{self.head.stderr[-2000:]}") from error
        call.cancel()

    def leave_http(self, number):
        body = json.dumps({"prompt": "Once " * (1 + number % 90), "max_tokens": 3000, "ignore_eos": True, "stream": number % 2 == 0})
        request = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        host, port = self.head.http.split(":")
        with socket.create_connection((host, int(port)), timeout=harness.PATIENCE) as connection:
            connection.sendall(request[:len(request) - number % 2 * (number % 11 == 0)])  # some in the middle of the body
            if number % 4 == 0 and number % 11:
                connection.recv(1 + number % 300)

    def test_thousands_leave_and_all_is_back(self):
        once = harness.request(text="Once", max_tokens=4)
        first = [token.id for token in self.client.generate(once).outputs[0].tokens]
        files, threads = self.metric("process_open_fds"), self.metric("paceline_process_threads")
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(48) as pool:
            list(pool.map(lambda n: (self.leave_grpc if n % 2 else self.leave_http)(n // 2), range(CANCELLED)))
        storm = time.monotonic() - begin
        back = self.assert_all_is_back()
        report(f"{CANCELLED} clients left within {storm:.1f} s; slots and pages were back {back * 1000:.0f} ms after the last")
        aborted = self.metric('vllm:request_success_total{engine="0",finished_reason="abort",model_name="demo-model"}')
        self.assertGreater(aborted, CANCELLED / 4)
        # The next one finds the head as it was.
        self.assertEqual([token.id for token in self.client.generate(once).outputs[0].tokens], first)
        deadline = time.monotonic() + harness.PATIENCE
        while self.metric("process_open_fds") > files + 8:
            self.assertLess(time.monotonic(), deadline, "connections of clients that left are still open")
        self.assertLessEqual(self.metric("paceline_process_threads"), threads + 16)


class Memory(CrowdTest):
    # Caches so small that they are full long before anything is measured.
    ARGUMENTS = ["--kv-pages", 64, "--prefix-cache", "8M"]

    def run_requests(self, count, seed):
        """Of all kinds that leave something behind if anything does: streams, whole answers, wrong ones, constrained ones."""
        def worker(index):
            rng, connection = random.Random(seed * 1000 + index), http.client.HTTPConnection(self.head.http, timeout=300)
            for number in range(count // 16):
                text = " ".join(rng.choice(["Nora", "rode", "north", "past", "the", "mill"]) for _ in range(rng.randint(1, 12)))
                body = {"prompt": text, "max_tokens": rng.randint(1, 3), "seed": rng.randrange(2**31)}
                if number % 50 == 0:
                    body |= {"structured_outputs": {"regex": f"[a-z]{{1,{rng.randint(2, 9)}}} [0-9]{{{rng.randint(1, 9)}}}"}, "max_tokens": 30}
                if number % 23 == 0:
                    body["temperature"] = -1
                if number % 10 == 0:
                    made = harness.request(text=text, max_tokens=body["max_tokens"])
                    made.request_id = f"{seed}-{index}-{number}"
                    list(self.client.stream(made))
                else:
                    reply = Reply(None, "/v1/completions", body | {"stream": number % 3 == 0}, connection)
                    reply.response.read()
                    self.assertEqual(reply.status, 400 if number % 23 == 0 else 200)
            connection.close()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(worker, range(16)))

    def memory(self):
        return self.metric("paceline_process_anonymous_memory_bytes")

    def test_memory_is_flat(self):
        parts, begin = 10 if FULL else 3, time.monotonic()
        seen = []
        for part in range(parts):
            self.run_requests(REQUESTS // parts, part)
            seen.append(self.memory())
            self.assert_all_is_back()
        report(f"{REQUESTS} requests in {time.monotonic() - begin:.0f} s; anonymous memory after each of {parts} parts, MiB: "
               + ", ".join(f"{bytes_ / 2**20:.1f}" for bytes_ in seen))
        half = seen[(parts - 1) // 2]
        self.assertLess(seen[-1] - half, FLAT_BYTES)
        self.assertLess(self.metric("process_open_fds"), 100)


class SlowReader(CrowdTest):
    def others(self, count):
        """Seconds that others take, and what they say."""
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda n: self.completion(prompt="Once", max_tokens=40, temperature=0, ignore_eos=True).json()["choices"][0]["text"],
                                  range(count)))
        return time.monotonic() - begin, texts

    def test_a_kilobyte_a_second_costs_others_nothing(self):
        count = 200 if FULL else 24
        self.others(8)
        without, texts = self.others(count)
        host, port = self.head.http.split(":")
        slow = socket.socket()
        self.addCleanup(slow.close)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        body = json.dumps({"prompt": "Once", "max_tokens": 7000, "ignore_eos": True, "stream": True})
        slow.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        self.assertTrue(slow.recv(1024).startswith(b"HTTP/1.1 200"))
        stop, read = threading.Event(), [0]

        def sip():
            while not stop.wait(1.0):
                read[0] += len(slow.recv(1024))
        reader = threading.Thread(target=sip)
        reader.start()
        memory = self.metric("paceline_process_anonymous_memory_bytes")
        beside, same = self.others(count)
        grown = self.metric("paceline_process_anonymous_memory_bytes") - memory
        stop.set()
        reader.join()
        self.assertEqual(same, texts)
        # What the slow one has not read waits in a buffer that has a bound.
        self.assertLess(grown, 32 << 20)
        report(f"{count} answers of 40 tokens, four at a time: {without:.2f} s without and {beside:.2f} s beside a reader of 1 KB/s "
               f"(ratio {without / beside:.2f}), which had read {read[0]} bytes of its own stream")
        slow.close()
        self.assert_all_is_back()


class Overload(CrowdTest):
    """More than fits is refused at once, by the right name, and what was taken is served as before."""
    ARGUMENTS = ["--max-sequences", 4, "--max-waiting", 4, *([] if FULL else harness.SLOW_LINK)]

    def test_what_does_not_fit_is_refused_by_name(self):
        if FULL:
            self.skipTest("the short run has it")
        # Eight in the house that cannot end while the others knock.
        inside = [self.client.stream(harness.request(text="Once", max_tokens=7000)) for _ in range(8)]
        while (load := self.load()).running + load.waiting < 8:
            pass
        def knock(number):
            if number % 2:
                error = self.refused(lambda: self.client.generate(harness.request(text="Once", max_tokens=2)))
                info, _ = error_details(error)
                return error.code(), info.reason, any(key == "grpc-status-details-bin" and b"RetryInfo" in value
                                                      for key, value in error.trailing_metadata())
            reply = self.completion(prompt="Once", max_tokens=2, stream=number % 4 == 0)
            return reply.status, reply.json()["error"]["code"], bool(reply.response.getheader("retry-after"))
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(knock, range(200)))
        for number, answer in enumerate(answers):
            wanted = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", True) if number % 2 else (429, "rate_limit_exceeded", True)
            self.assertEqual(answer, wanted)
        self.assertEqual(self.load().running, 4)
        for call in inside:
            call.cancel()
        self.assert_all_is_back()
        self.assertTrue(self.completion(prompt="Once", max_tokens=2).json()["choices"])

    @unittest.skipUnless(FULL, "a measurement, for nights")
    def test_goodput_at_ten_times_the_peak(self):
        body = {"prompt": "Once upon a time", "max_tokens": 32, "temperature": 0, "ignore_eos": True}

        def ask(connections):
            try:
                connection = connections.pop()
            except IndexError:
                connection = http.client.HTTPConnection(self.head.http, timeout=60)
            begin = time.monotonic()
            reply = Reply(None, "/v1/completions", body, connection)
            reply.response.read()
            connections.append(connection)
            return reply.status, time.monotonic() - begin

        def closed_loop(seconds):
            """Answers per second with as many clients as the head takes."""
            stop, done = time.monotonic() + seconds, []

            def client(_):
                connections = []
                while time.monotonic() < stop:
                    done.append(ask(connections)[0])
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(client, range(8)))
            self.assertEqual(set(done), {200})
            return len(done) / seconds
        closed_loop(2)
        peak = closed_loop(15)
        rng, connections, results, begin = random.Random(5), [], [], time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            due, seconds = begin, 15
            while due < begin + seconds:
                due += rng.expovariate(10 * peak)
                time.sleep(max(0.0, due - time.monotonic()))  # an open loop: arrivals wait for nobody
                results.append(pool.submit(ask, connections))
            elapsed = time.monotonic() - begin
        answers = [result.result() for result in results]
        served = [took for status, took in answers if status == 200]
        refused = sorted(took for status, took in answers if status == 429)
        self.assertEqual(len(served) + len(refused), len(answers))
        goodput = len(served) / elapsed
        report(f"peak {peak:.1f} answers/s; offered {len(answers) / elapsed:.0f}/s: {goodput:.1f}/s served "
               f"({100 * goodput / peak:.0f} %), {len(refused)} refused, median {1000 * statistics.median(refused):.1f} ms, "
               f"p99 {1000 * refused[len(refused) * 99 // 100]:.1f} ms")
        self.assertGreater(goodput, 0.9 * peak)
        self.assert_all_is_back()


if __name__ == "__main__":
    harness.main()
