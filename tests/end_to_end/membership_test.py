"""Workers that come, fail, die and come back: what clients, health and `status` see of it."""
import json
import shutil
import pathlib
import tempfile
import threading
import time

import harness
from harness import (MODEL, NOT_SERVING, OTHER_MODEL, SERVING, Client, Head, Worker, error_details, free_port, grpc, paceline,
                     request, stream_ids)


class Coming(harness.TestCase):
    def test_not_serving_until_a_worker_has_proved_itself(self):
        head = self.start(Head, "--nodes", 2, grpc_port=free_port(), join_port=free_port())
        client = self.client(head)
        self.assertEqual(client.check(), NOT_SERVING)
        self.assertEqual(head.status()["state"], "loading")
        error = self.refused(lambda: client.generate(request()))
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE, error.details())
        self.assertTrue(head.lines.empty(), "a ready line before the worker joined")
        self.start(Worker, head.join)
        self.assertEqual(client.wait_health(SERVING)[0], NOT_SERVING)
        head.wait_ready()
        self.assertEqual(head.nodes, 2)
        status = head.status()
        self.assertEqual(status["state"], "ready")
        self.assertEqual(status["nodes"][1]["name"], "alpha")

    def test_a_worker_with_another_model_is_refused_by_name(self):
        head = self.start(Head, "--nodes", 2, grpc_port=free_port(), join_port=free_port())
        self.assertEqual(self.client(head).check(), NOT_SERVING)
        stranger = self.start(Worker, head.join, model=OTHER_MODEL, name="stranger")
        self.assertEqual(stranger.wait(), 7, stranger.stderr)
        self.assertIn("NET-006", stranger.stderr)
        # The place is still free.
        self.start(Worker, head.join, name="alpha")
        head.wait_ready()

    def test_a_worker_that_cannot_compute_the_contract_is_refused_by_name(self):
        head = self.start(Head, "--nodes", 2, "--isa", "amx-emulated", "--float-math", "native",
                          grpc_port=free_port(), join_port=free_port())
        stranger = self.start(Worker, head.join, "--isa", "avx2", name="stranger")
        self.assertEqual(stranger.wait(), 7, stranger.stderr)
        for words in ("NET-006", "known-answer run", "--float-math native needs the matrix units of AMX"):
            self.assertIn(words, stranger.stderr)
        self.start(Worker, head.join, "--isa", "amx-emulated", name="alpha")
        head.wait_ready()

    def test_one_too_many_is_refused(self):
        head = self.start(Head, "--local-workers", 1).wait_ready()
        late = self.start(Worker, head.join, name="late")
        self.assertNotEqual(late.wait(), 0)
        self.assertIn("NET-006", late.stderr)
        self.assertEqual(head.status()["state"], "ready")

    def test_a_worker_that_cannot_load_is_heard_on_the_head(self):
        with tempfile.TemporaryDirectory() as folder:
            # The scales of the last expert are no numbers: only the worker, which holds it, comes to read them.
            broken = pathlib.Path(folder, "model")
            shutil.copytree(MODEL, broken)
            file = broken / "model.safetensors"
            data = bytearray(file.read_bytes())
            length = int.from_bytes(data[:8], "little")
            for name, entry in json.loads(data[8 : 8 + length]).items():
                if ".experts.3." in name and name.endswith(".scales"):
                    begin, end = (8 + length + offset for offset in entry["data_offsets"])
                    data[begin:end] = b"\xff" * (end - begin)
            file.write_bytes(data)
            head = self.start(Head, "--nodes", 2, model=broken, grpc_port=free_port(), join_port=free_port())
            self.assertEqual(self.client(head).check(), NOT_SERVING)
            worker = self.start(Worker, head.join, model=broken)
            self.assertEqual(worker.wait(), 8, worker.stderr)
            self.assertIn("LOAD-005", worker.stderr)
            head.wait_stderr(r"alpha.*LOAD-005.*\.scales")

    def test_nobody_to_join(self):
        status, _, err = paceline("worker", "--join", f"127.0.0.1:{free_port()}", "--model", MODEL, "--dial-timeout", "1")
        self.assertEqual(status, 5, err)

    def test_a_taken_port(self):
        head = self.start(Head, "--local-workers", 1).wait_ready()
        port = int(head.grpc.rsplit(":", 1)[1])
        second = self.start(Head, grpc_port=port)
        self.assertNotEqual(second.wait(), 0)
        self.assertIn(str(port), second.stderr)


class Losing(harness.TestCase):
    def cluster(self, *args):
        head = self.start(Head, "--nodes", 3, *args, grpc_port=free_port(), join_port=free_port())
        self.assertEqual(self.client(head).check(), NOT_SERVING)  # it listens
        workers = {name: self.start(Worker, head.join, name=name) for name in ("alpha", "beta")}
        head.wait_ready()
        return head, workers

    def test_killed_in_the_middle_of_a_stream_and_back_again(self):
        head, workers = self.cluster(*harness.SLOW_LINK)
        client = self.client(head)
        before = [t.id for t in client.generate(request()).outputs[0].tokens]

        stream = client.stream(request(max_tokens=4000))
        seen = 0
        while seen < 3:
            seen += len(stream_ids([next(stream)]))
        killed = time.monotonic()
        workers["beta"].kill()
        error = self.refused(lambda: list(stream))
        seconds = time.monotonic() - killed
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("beta", error.details())
        self.assertNotIn("alpha", error.details())
        self.assertEqual(error_details(error)[0].reason, "NODE_LOST")
        self.assertLess(seconds, 1.0, "the promise: within a second of the death")

        # New requests are refused the same way, and everyone who asks is told.
        error = self.refused(lambda: client.generate(request()))
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("beta", error.details())
        self.assertEqual(error_details(error)[0].reason, "NODE_LOST")
        client.wait_health(NOT_SERVING)
        status = head.status()
        self.assertEqual(status["state"], "degraded")
        self.assertEqual({n["name"]: n["state"] for n in status["nodes"][1:]}, {"alpha": "ready", "beta": "lost"})

        # Back without a restart of the head, under a name of its own.
        self.start(Worker, head.join, name="gamma")
        client.wait_health(SERVING)
        after = head.status()
        self.assertEqual(after["state"], "ready")
        self.assertEqual({n["name"] for n in after["nodes"][1:]}, {"alpha", "gamma"})
        self.assertGreater(after["epoch"], status["epoch"])
        self.assertEqual(after["nodes"][0]["pid"], head.pid)
        self.assertEqual([t.id for t in client.generate(request()).outputs[0].tokens], before)

    def test_killed_while_nobody_asks(self):
        head, workers = self.cluster()
        client = self.client(head)
        workers["alpha"].kill()
        client.wait_health(NOT_SERVING)
        error = self.refused(lambda: client.generate(request()))
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("alpha", error.details())

    def test_a_stopped_worker_is_lost_too(self):
        # SIGSTOP leaves every connection open: only the missing heartbeat tells.
        import signal
        head, workers = self.cluster(*harness.SLOW_LINK)
        client = self.client(head)
        stream = client.stream(request(max_tokens=4000))
        while not stream_ids([next(stream)]):
            pass
        workers["alpha"].process.send_signal(signal.SIGSTOP)
        error = self.refused(lambda: list(stream))
        self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertIn("alpha", error.details())

    def test_a_head_that_ends_sends_its_workers_home(self):
        head, workers = self.cluster()
        self.assertIn(head.terminate(), (0, 143))
        for worker in workers.values():
            worker.process.send_signal(15)
            worker.wait()


if __name__ == "__main__":
    harness.main()
