"""What the end-to-end tests share: the binary as child processes, the API as a client from PyPI sees it.

Stubs are generated from proto/ when a test starts, so a test fails when the proto and the binary part ways. Every
wait has a deadline and a subject; nothing sleeps to let something happen.
"""
import json
import os
import pathlib
import queue
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV_PYTHON = ROOT / "build/venv/bin/python3"
try:
    import grpc
except ImportError:
    if not VENV_PYTHON.exists() or pathlib.Path(sys.prefix) == VENV_PYTHON.parents[1]:
        sys.exit("the package grpcio is missing: `./run test` makes build/venv from tests/requirements.txt")
    os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])
from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_tools import protoc  # noqa: E402

BINARY = os.environ.get("PACELINE", str(ROOT / "build/release/bin/paceline"))
MODEL = ROOT / "tests/goldens/cases/int4-wide-experts"  # 4 layers of 4 experts with 2 groups each, 4,096 positions
OTHER_MODEL = ROOT / "tests/goldens/cases/int4-asym-v1-g64"
PATIENCE = 60.0  # seconds; no correct run comes near it
# Makes a step take some 10 ms, so that a generation of thousands of tokens is surely under way when a test acts.
SLOW_LINK = ["--simulate-link", "rtt=2ms"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _generate_stubs():
    out = tempfile.mkdtemp(prefix="paceline-stubs-")
    import atexit
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    proto = ROOT / "proto"
    well_known = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    files = ["paceline/inference/v1/inference.proto", "paceline/control/v1/control.proto", "google/rpc/error_details.proto"]
    status = protoc.main(["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    if status:
        sys.exit(f"protoc of grpcio-tools refused proto/ with status {status}")
    sys.path.insert(0, out)


_generate_stubs()
from google.rpc import error_details_pb2  # noqa: E402
from paceline.control.v1 import control_pb2, control_pb2_grpc  # noqa: E402
from paceline.inference.v1 import inference_pb2 as api  # noqa: E402
from paceline.inference.v1 import inference_pb2_grpc  # noqa: E402


def free_port():
    """A port nobody listens on now; for the few tests that must know it before the head says it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def prompt(count=20, seed=7):
    """Token ids that every model of the goldens has."""
    return [(seed * 31 + 17 * i * i + 5 * i) % 300 for i in range(count)]


class Process:
    """A paceline process. Its stderr is kept and shown when a wait on it fails."""

    def __init__(self, *args, netns=None, env=None):
        # Children inherit the environment, so the mark finds every process that this one left behind.
        self.mark = f"PACELINE_END_TO_END={uuid.uuid4()}"
        key, value = self.mark.split("=")
        command = [BINARY, *map(str, args)]
        if netns:
            command = ["ip", "netns", "exec", netns, *command]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True, errors="replace", env={**os.environ, **(env or {}), key: value})
        self.lines, self._errors = queue.Queue(), []
        self._changed = threading.Condition()
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_err)]
        for reader in self._readers:
            reader.start()

    def _read_out(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _read_err(self):
        while True:
            # Progress bars end in \r, not in \n: take what is there.
            chunk = os.read(self.process.stderr.fileno(), 65536)
            with self._changed:
                self._errors.append(chunk.decode("utf-8", "replace"))
                self._changed.notify_all()
            if not chunk:
                return

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        with self._changed:
            return "".join(self._errors)

    def wait_stderr(self, pattern):
        """The match of `pattern` in what stderr has said, as soon as it has."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not (found := re.search(pattern, "".join(self._errors))):
                if self._errors and not self._errors[-1] or not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"stderr never said {pattern!r}; it said:\n{''.join(self._errors)}")
            return found

    def line(self):
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            line = None
        if line is None:
            raise AssertionError(f"no further line on stdout; stderr:\n{self.stderr}")
        return line

    def wait(self):
        """Exit status, after all of stderr was read."""
        try:
            status = self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {PATIENCE} s; stderr:\n{self.stderr}") from None
        for reader in self._readers:
            reader.join(timeout=PATIENCE)
        return status

    def kill(self):
        self.process.send_signal(signal.SIGKILL)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def family(self):
        """Processes alive that carry this one's mark, itself among them."""
        alive = []
        for folder in pathlib.Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if self.mark in (folder / "environ").read_text(errors="replace").split("\0"):
                        alive.append(int(folder.name))
                except OSError:
                    pass
        return alive

    def close(self):
        if self.process.poll() is None:
            self.kill()
            self.wait()
        for reader in self._readers:
            reader.join(timeout=PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()


class Head(Process):
    """paceline serve."""

    def __init__(self, *args, model=MODEL, http_port=0, grpc_port=0, join_port=0, **kwargs):
        super().__init__("serve", model, "--http-port", http_port, "--grpc-port", grpc_port, "--join-port", join_port,
                         "--threads", 1, *args, **kwargs)
        self.grpc = f"127.0.0.1:{grpc_port}" if grpc_port else None
        self.join = f"127.0.0.1:{join_port}" if join_port else None
        self.nodes = None

    def wait_ready(self):
        line = self.line()
        found = re.fullmatch(r"ready http=(\S+) grpc=(\S+) join=(\S+) nodes=(\d+)", line)
        assert found, f"not a ready line: {line!r}"
        self.http, self.grpc, self.join, self.nodes = found[1], found[2], found[3], int(found[4])
        return self

    def status(self):
        return paceline_json("status", f"grpc://{self.grpc}", "--json")


class Worker(Process):
    def __init__(self, join, *args, model=MODEL, name="alpha", **kwargs):
        super().__init__("worker", "--join", join, "--model", model, "--name", name, "--threads", 1, *args, **kwargs)


class Client:
    """The API of one head, as any gRPC client sees it."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.control = control_pb2_grpc.ControlServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def close(self):
        self.channel.close()

    def generate(self, request, **kwargs):
        return self.inference.Generate(request, timeout=PATIENCE, **kwargs)

    def stream(self, request, timeout=PATIENCE):
        return self.inference.GenerateStream(api.GenerateStreamRequest(request=request), timeout=timeout)

    def check(self, service=""):
        request = health_pb2.HealthCheckRequest(service=service)
        return self.health.Check(request, timeout=PATIENCE, wait_for_ready=True).status

    def wait_health(self, wanted):
        """Until the health service says `wanted`, by watching it; returns everything it said on the way."""
        seen = []
        watch = self.health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
        for update in watch:
            seen.append(update.status)
            if update.status == wanted:
                watch.cancel()
                return seen
        raise AssertionError(f"health watch ended before status {wanted}; seen {seen}")

    def wait_idle(self):
        """Until no request runs or waits, which must be well before a request of thousands of tokens could end by itself."""
        deadline = time.monotonic() + 10
        while True:
            load = self.control.GetLoad(control_pb2.GetLoadRequest(), timeout=PATIENCE)
            if load.running == 0 and load.waiting == 0:
                return
            assert time.monotonic() < deadline, f"the request still runs after 10 s: {load}"


def request(ids=None, text=None, max_tokens=32, temperature=0.0, ignore_eos=True, **sampling):
    made = api.GenerateRequest()
    if text is not None:
        made.text = text
    else:
        made.token_ids.ids.extend(prompt() if ids is None else ids)
    if temperature is not None:
        made.sampling.temperature = temperature
    for name, value in sampling.items():
        setattr(made.sampling, name, value)
    if max_tokens is not None:
        made.stopping.max_tokens = max_tokens
    made.stopping.ignore_eos = ignore_eos
    return made


def stream_ids(events):
    return [token.id for event in events if event.WhichOneof("event") == "tokens" for token in event.tokens.tokens]


def error_details(error):
    """(ErrorInfo or None, {field: description}) of a gRPC error."""
    info, fields = None, {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = error_details_pb2.Status.FromString(value)
            for detail in status.details:
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    info = error_details_pb2.ErrorInfo()
                    detail.Unpack(info)
                elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                    bad = error_details_pb2.BadRequest()
                    detail.Unpack(bad)
                    fields.update({v.field: v.description for v in bad.field_violations})
    return info, fields


def paceline(*args, netns=None, env=None):
    """Runs a subcommand to its end: (exit status, stdout, stderr)."""
    command = (["ip", "netns", "exec", netns] if netns else []) + [BINARY, *map(str, args)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          timeout=PATIENCE, env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def paceline_json(*args, **kwargs):
    status, out, err = paceline(*args, **kwargs)
    assert status == 0, f"paceline {' '.join(map(str, args))} exited with {status}:\n{err}"
    return json.loads(out)


def cli_generate(ids=None, *args, target=MODEL, **kwargs):
    """`paceline generate --json` of token ids; greedy unless the arguments say otherwise."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(prompt() if ids is None else ids, file)
        file.flush()
        return paceline_json("generate", target, "--prompt-tokens-json", file.name, "--ignore-eos", "--json", *args, **kwargs)


def wait_gone(pids):
    """Until none of the processes is alive any more (a zombie is not)."""
    deadline = time.monotonic() + PATIENCE
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            readable, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"process {pid} is still alive"
        finally:
            os.close(fd)


class TestCase(unittest.TestCase):
    """Processes and clients started through it end with the test."""

    def start(self, kind, *args, **kwargs):
        process = kind(*args, **kwargs)
        self.addCleanup(process.close)
        return process

    def client(self, head):
        client = Client(head.grpc)
        self.addCleanup(client.close)
        return client

    def refused(self, call):
        """The gRPC error that `call` ends with."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return caught.exception


def main():
    unittest.main(verbosity=2)
