#!/usr/bin/env python3
"""llama.cpp beside us: the same shapes, the same machine, one run, pairs of processes that take turns.

    bench/llama_cpp.py [--build-only] [--rounds 3] [--work DIR]       `./run bench llama` builds us first

Builds llama.cpp from PyPI's llama-cpp-python source distribution with native flags into build/venv-llama (ten minutes and more
of both cores, once), writes a GGUF of Qwen3.5-122B-A10B shapes and ours of the same with `paceline synth`, and compares
decoding, steps of 4 and 8 rows, a prompt of 512 tokens, the time from nothing in memory to the first token, and what a drafted
step costs when no draft is right. Ratios are medians over pairs. OUT/llama_cpp.json has everything, OUT/llama_cpp.md the tables.

About 25 GB of disk in --work at a time and 16 GB of memory; the files are deleted in the end unless --keep is given.
"""
import argparse
import contextlib
import json
import mmap
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
VENV = ROOT / "build/venv-llama"
VERSION = "0.3.36"  # of llama-cpp-python
SHAPE = "Qwen3.5-122B-A10B"
ROWS = [1, 4, 8]
DEPTHS = [1, 2, 3, 4]
DRAFTED_TOKENS = 64
PATIENCE = 600  # seconds for a server to load


def say(text):
    print(text, file=sys.stderr, flush=True)


def call(*words, **kwargs):
    """stdout of a command that must succeed."""
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **kwargs)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} exited with {done.returncode}")
    return done.stdout


# ---------------------------------------------------------------- what is compared


class LlamaCpp:
    """The sources, the build and the bindings, all in build/venv-llama."""
    python = VENV / "bin/python3"
    source = VENV / f"llama_cpp_python-{VERSION}"
    build = VENV / "llama.cpp"
    server = build / "bin/llama-server"
    stamp = VENV / ".built"

    def prepare(self, jobs):
        want = f"{VERSION}\n{(BENCH / 'llama_requirements.txt').read_text()}"
        if self.stamp.exists() and self.stamp.read_text() == want:
            return self
        VENV.parent.mkdir(exist_ok=True)
        if not self.python.exists():
            call(sys.executable, "-m", "venv", VENV)
        pip = [self.python, "-m", "pip"]
        say("llama.cpp: packages and sources")
        call(*pip, "install", "-q", "--disable-pip-version-check", "-r", BENCH / "llama_requirements.txt")
        call(*pip, "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "-d", VENV,
             f"llama-cpp-python=={VERSION}")
        call("tar", "-xzf", VENV / f"llama_cpp_python-{VERSION}.tar.gz", "-C", VENV)
        say("llama.cpp: building with native flags")
        call("cmake", "-S", self.source / "vendor/llama.cpp", "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
             "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
             "-DLLAMA_BUILD_EXAMPLES=OFF", stderr=subprocess.STDOUT)
        call("cmake", "--build", self.build, "-j", jobs, "--target", "llama", "llama-server", stderr=subprocess.STDOUT)
        self.stamp.write_text(want)
        return self

    def peer(self, *words):
        env = {**os.environ, "PYTHONPATH": str(self.source), "LLAMA_CPP_LIB_PATH": str(self.build / "bin")}
        return json.loads(call(self.python, "-P", BENCH / "llama_peer.py", *words, env=env, stderr=subprocess.DEVNULL))

    def write_model(self, path, layers, mtp):
        if not path.exists():
            part = path.with_suffix(".part")
            call(self.python, BENCH / "llama_gguf.py", part, "--layers", layers, *(["--mtp"] if mtp else []))
            part.rename(path)


class Paceline:
    def __init__(self, binary):
        self.binary = binary

    def write_model(self, path, layers, mtp):
        call(self.binary, "synth", path, "--like", SHAPE, "--layers", layers, *(["--mtp"] if mtp else []), stderr=subprocess.DEVNULL)
        # Without one every id may be drawn, as in the GGUF: the tokenizer that synth writes knows 269.
        (path / "tokenizer.json").unlink(missing_ok=True)


# ---------------------------------------------------------------- measuring


def drop(path):
    """Takes a file or a folder out of the page cache."""
    os.sync()
    for file in [path] if path.is_file() else [f for f in path.iterdir() if f.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def size(path):
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.glob("*.safetensors"))


def direct_rate(path, most=4 << 30):
    """GB/s of one reader with O_DIRECT, 16 MiB at a time; None where the file system refuses."""
    buffer = mmap.mmap(-1, 16 << 20)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    done, begin = 0, time.perf_counter()
    with contextlib.suppress(OSError):
        while done < most and (count := os.readv(descriptor, [buffer])) > 0:
            done += count
    os.close(descriptor)
    return done / (time.perf_counter() - begin) / 1e9 if done else None


def seconds_of(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure_steps(options, ours, theirs, our_model, their_model):
    """[round] {ours: bench step's JSON, theirs: llama_peer.py's}, taking turns."""
    rows = ",".join(map(str, ROWS))
    rounds = []
    for i in range(options.rounds):
        say(f"steps, round {i + 1} of {options.rounds}")
        mine = json.loads(call(ours.binary, "bench", "step", our_model, "--rows", rows, "--prefill", 512, "--prefill-chunk", 512,
                               "--threads", options.threads, "--json", *options.flags))
        other = theirs.peer(their_model, "--rows", rows, "--prefill", 512, "--threads", options.threads)
        rounds.append({"ours": mine, "theirs": other})
    return rounds


def measure_loads(options, ours, theirs, our_model, their_model):
    """[round] seconds from a cold page cache to the first token, process start included."""
    prompt = options.work / "prompt.json"
    prompt.write_text("[1]")
    rounds = []
    for i in range(options.rounds):
        say(f"cold loads, round {i + 1} of {options.rounds}")
        drop(our_model)
        mine = seconds_of(lambda: call(ours.binary, "generate", our_model, "--prompt-tokens-json", prompt, "--max-tokens", 1, "--draft",
                                       "off", "--threads", options.threads, "--json", *options.flags, stderr=subprocess.DEVNULL))
        drop(their_model)
        other = seconds_of(lambda: theirs.peer(their_model, "--first-token", "--threads", options.threads))
        rounds.append({"ours": mine, "theirs": other})
    drop(their_model)
    return {"rounds": rounds, "our_bytes": size(our_model), "their_bytes": size(their_model), "direct_gbps": direct_rate(their_model)}


class Server:
    """llama-server with the MTP drafter at one depth; 0: none."""

    def __init__(self, options, theirs, model, depth):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = [theirs.server, "-m", model, "--host", "127.0.0.1", "--port", self.port, "-t", options.threads, "-tb", options.threads,
                 "-c", 2048, "-np", 1, "--no-warmup"]
        if depth:
            words += ["--spec-type", "draft-mtp", "--spec-draft-n-max", depth, "--spec-draft-n-min", 0, "--spec-draft-p-min", 0]
        self.log = open(options.out / f"llama-server-{depth}.log", "w+")
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"llama-server at depth {depth} did not start; see {self.log.name}")
            time.sleep(0.5)

    def healthy(self):
        with contextlib.suppress(urllib.error.URLError, OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200
        return False

    def complete(self, tokens):
        """Timings of one completion."""
        body = {"prompt": [(17 * i * i + 5 * i) % 50000 for i in range(64)], "n_predict": tokens, "temperature": 0, "ignore_eos": True,
                "cache_prompt": False}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/completion", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=PATIENCE))["timings"]

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def their_drafted_steps(options, theirs, model):
    """{depth: seconds per step}. A step brings its accepted drafts and one token; the first token came with the prompt."""
    steps = {}
    for depth in [0, *DEPTHS]:
        say(f"llama.cpp drafting {depth}")
        with Server(options, theirs, model, depth) as server:
            server.complete(8)
            seconds = []
            for _ in range(options.rounds):
                timings = server.complete(DRAFTED_TOKENS)
                accepted = timings.get("draft_n_accepted", 0)
                if depth and not timings.get("draft_n"):
                    raise RuntimeError(f"llama-server drafted nothing at depth {depth}; see {server.log.name}")
                seconds.append(timings["predicted_ms"] / 1e3 / (timings["predicted_n"] - 1 - accepted))
            steps[depth] = statistics.median(seconds)
    return steps


def measure_drafts(options, ours, theirs, our_model, their_model):
    depths = ",".join(map(str, [0, *DEPTHS]))
    say("our drafting")
    mine = json.loads(call(ours.binary, "bench", "draft", our_model, "--depths", depths, "--assume-acceptance", 0, "--tokens",
                           DRAFTED_TOKENS, "--rounds", options.rounds, "--threads", options.threads, "--json", *options.flags))
    try:
        other = their_drafted_steps(options, theirs, their_model)
    except RuntimeError as error:
        say(str(error))
        other = {"error": str(error)}
    return {"ours": mine, "theirs": other}


# ---------------------------------------------------------------- the report


def step(run, rows, kind):
    return next(r for r in run["results"] if r["rows"] == rows and r["kind"] == kind)


def spread(values, form):
    low, high = min(values), max(values)
    return form.format(low) if form.format(low) == form.format(high) else f"{form.format(low)} to {form.format(high)}"


def steps_table(rounds):
    lines = ["| | ours | llama.cpp | ours over theirs, median of pairs |", "|---|---|---|---|"]

    def row(name, value, form, aim_high=True):
        mine, other = [value(r["ours"]) for r in rounds], [value(r["theirs"]) for r in rounds]
        ratios = [a / b for a, b in zip(mine, other)]
        lines.append(f"| {name} | {spread(mine, form)} | {spread(other, form)} | {statistics.median(ratios):.2f}x"
                     f"{'' if aim_high else ' (less is better)'} |")

    row("decode, tok/s", lambda run: step(run, 1, "decode")["tokens_per_second"], "{:.1f}")
    for rows in ROWS[1:]:
        row(f"step of {rows} rows over one of 1", lambda run: step(run, rows, "verify")["step_s"] / step(run, 1, "decode")["step_s"],
            "{:.2f}", aim_high=False)
        row(f"verify of {rows} rows, rows/s", lambda run: step(run, rows, "verify")["tokens_per_second"], "{:.1f}")
    row("prompt of 512, tok/s", lambda run: step(run, 512, "prefill")["tokens_per_second"], "{:.0f}")
    mine = [r["ours"] for r in rounds]
    lines += ["", f"R = {spread([run['read_bandwidth_gbps'] for run in mine], '{:.1f}')} GB/s; our decode at "
              f"{spread([100 * step(run, 1, 'decode')['share_of_read_bandwidth'] for run in mine], '{:.0f}')} % of it"]
    for rows in ROWS[1:]:
        shares = [step(run, rows, "verify").get("step_over_decode_by_bytes") for run in mine]
        if all(shares):
            lines[-1] += f"; our step of {rows} rows over decode, divided by its byte ratio: {spread(shares, '{:.2f}')}"
    lines[-1] += "."
    return lines


def loads_table(loads):
    mine, other = [r["ours"] for r in loads["rounds"]], [r["theirs"] for r in loads["rounds"]]
    direct = f"{loads['direct_gbps']:.2f} GB/s" if loads["direct_gbps"] else "not to be had"
    return ["| | ours | llama.cpp |", "|---|---|---|",
            f"| files | {loads['our_bytes'] / 1e9:.2f} GB | {loads['their_bytes'] / 1e9:.2f} GB |",
            f"| cold start to the first token | {spread(mine, '{:.1f}')} s | {spread(other, '{:.1f}')} s |", "",
            f"One reader with O_DIRECT: {direct}."]


def drafts_table(drafts):
    mine = {r["depth"]: r for r in drafts["ours"]["results"]}
    other = drafts["theirs"]
    lines = ["| K | ours, step over plain | llama.cpp draft-mtp, step over plain |", "|---|---|---|"]
    for depth in DEPTHS:
        theirs = f"{other[depth] / other[0]:.2f}" if 0 in other else "-"
        lines.append(f"| {depth} | {mine[depth]['step_ratio']:.2f} | {theirs} |")
    if 0 in other:
        lines += ["", f"Plain steps: ours {mine[0]['step_s'] * 1e3:.1f} ms, llama.cpp's {other[0] * 1e3:.1f} ms."]
    else:
        lines += ["", f"llama.cpp could not be measured: {other['error']}."]
    return lines


def report(results):
    first = results["steps"][0]["ours"]
    lines = [f"### Beside llama.cpp (llama-cpp-python {VERSION})", "",
             f"{first['cpu']}, {first['threads']} threads, {SHAPE} shapes, {results['layers']} layers, {len(results['steps'])} pairs; ours "
             "hybrid (experts INT4 g128, projections FP8, head INT8), theirs Q4_0 experts and Q8_0; logits for every row of a step "
             "but the prompt's.", "", *steps_table(results["steps"]), ""]
    if "loads" in results:
        lines += [*loads_table(results["loads"]), ""]
    if "drafts" in results:
        lines += ["With MTP layer, nothing accepted:", "", *drafts_table(results["drafts"]), ""]
    return "\n".join(lines)


def run(options, ours, theirs):
    results = {"layers": options.layers}

    def keep():
        (options.out / "llama_cpp.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.out / "llama_cpp.md").write_text(report(results))

    for mtp in (False, True):
        our_model = options.work / f"ours{'-mtp' if mtp else ''}"
        their_model = options.work / f"theirs{'-mtp' if mtp else ''}.gguf"
        say(f"writing {our_model} and {their_model}")
        ours.write_model(our_model, options.layers, mtp)
        theirs.write_model(their_model, options.layers, mtp)
        if mtp:
            results["drafts"] = measure_drafts(options, ours, theirs, our_model, their_model)
        else:
            results["steps"] = measure_steps(options, ours, theirs, our_model, their_model)
            keep()
            results["loads"] = measure_loads(options, ours, theirs, our_model, their_model)
        keep()
        if not options.keep:
            shutil.rmtree(our_model)
            their_model.unlink()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", default=str(ROOT / "build/release/bin/paceline"))
    parser.add_argument("--build-only", action="store_true", help="build llama.cpp, measure nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="of llama.cpp's build")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="pairs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/paceline-llama"), help="where the models go")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/llama_cpp")
    parser.add_argument("flags", nargs="*", help="behind --: further flags of ours, as --activations int8")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # a server that was started is ended
    theirs = LlamaCpp().prepare(options.jobs)
    if options.build_only:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    print(report(run(options, Paceline(options.binary), theirs)))


if __name__ == "__main__":
    main()
