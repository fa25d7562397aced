#!/usr/bin/env python3
"""Serving beside llama.cpp: both servers on the same shapes, under the same load, in one run.

    bench/serve_llama.py [--layers 4] [--batches 1,2,4,8,16,32] [--work DIR]       `./run bench serve` builds us first

Starts `paceline serve` and llama-server in turns, each alone on the machine, and puts `paceline bench serve` in front of them:
closed loops of as many requests as the batch is to have, prompts of token ids on /v1/completions, and then the time to the
first token with a prefix that the server knows and without. Models and llama.cpp are those of bench/llama_cpp.py.
OUT/serve_llama.json has everything, OUT/serve_llama.md the tables, OUT/serve_llama.png the plot where matplotlib is there.

Four layers want 16 GB of disk in --work and 9 GB of memory; the files are deleted in the end unless --keep is given.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import llama_cpp as peer
import serve_plot

PREFIX_REQUESTS = 4


class Ours:
    """paceline serve, plain decoding, as many slots as the largest batch."""

    def __init__(self, options, model):
        words = [options.binary, "serve", model, "--http-port", 0, "--grpc-port", 0, "--join-port", 0, "--threads", options.threads,
                 "--max-sequences", max(options.batches), "--draft", "off", *options.flags]
        self.log = open(options.out / "paceline.log", "w+")
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True)
        line = self.process.stdout.readline()
        ready = re.search(r"http=(\S+)", line)
        if not ready:
            self.__exit__()
            sys.exit(f"paceline serve did not start; see {self.log.name}")
        self.url = f"http://{ready[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Theirs(Ours):
    """llama-server with a slot per request of the largest batch."""

    def __init__(self, options, model):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        slots = max(options.batches)
        context = max(slots * (options.input_tokens + options.output_tokens + 64), options.prefix_tokens + 512)
        words = [peer.LlamaCpp.server, "-m", model, "--host", "127.0.0.1", "--port", port, "-t", options.threads, "-tb", options.threads,
                 "-np", slots, "-c", context, "-kvu", "--no-warmup", "--cache-ram", 0]
        self.log = open(options.out / "llama-server.log", "w+")
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + peer.PATIENCE
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                sys.exit(f"llama-server did not start; see {self.log.name}")
            time.sleep(0.5)

    def healthy(self):
        try:
            return urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200
        except (urllib.error.URLError, OSError):
            return False


def bench(options, server, *words):
    return json.loads(peer.call(options.binary, "bench", "serve", "--url", server.url, "--endpoint", "completions", "--json", *words))


def throughput(options, server):
    """bench serve's JSON with a result per batch, the same load for everybody."""
    runs = []
    for batch in options.batches:
        runs.append(bench(options, server, "--concurrency", batch, "--requests", max(3, options.waves * batch), "--input-tokens",
                          options.input_tokens, "--output-tokens", options.output_tokens, "--warmup", 0 if runs else 1))
        peer.say(f"  {batch} at once: {runs[-1]['results'][0]['output_tokens_per_second']:.1f} tok/s")
    return {**runs[0], "results": [result for run in runs for result in run["results"]]}


def first_tokens(options, server):
    """Time to the first token of a long prompt: nothing of it known to the server, and all but a page."""
    words = ["--concurrency", 1, "--requests", PREFIX_REQUESTS, "--input-tokens", options.prefix_tokens, "--output-tokens", 2]
    return {"miss": bench(options, server, *words, "--warmup", 0),
            "hit": bench(options, server, *words, "--shared-prefix", options.prefix_tokens - 256)}


def failures(run):
    return [f"{count} x {name}" for result in run["results"] for name, count in result["failures"].items()]


def pair(values, form="{:.1f}"):
    return peer.spread(values, form)


def report(results):
    lines = ["### Serving beside llama.cpp", "",
             f"{results['threads']} threads, {peer.SHAPE} shapes, {results['layers']} layers; prompts of {results['input_tokens']} tokens, "
             f"answers of {results['output_tokens']}, {results['waves']} requests per place in the batch, {len(results['rounds'])} round(s).", "",
             "| batch | ours, tok/s | llama.cpp, tok/s | ours over theirs | ours: first token, ms | theirs | ours: per token, ms | theirs |",
             "|---|---|---|---|---|---|---|---|"]
    rounds = [r["throughput"] for r in results["rounds"] if "throughput" in r]
    for i, batch in enumerate(results["batches"]):
        def values(side, value):
            return [value(r[side]["results"][i]) for r in rounds]
        rate = [values(side, lambda r: r["output_tokens_per_second"]) for side in ("ours", "theirs")]
        first = [values(side, lambda r: r["ttft_ms"]["p50"]) for side in ("ours", "theirs")]
        each = [values(side, lambda r: r["tpot_ms"]["p50"]) for side in ("ours", "theirs")]
        ratio = statistics.median(a / b for a, b in zip(*rate))
        lines.append(f"| {batch} | {pair(rate[0])} | {pair(rate[1])} | **{ratio:.2f}x** | {pair(first[0], '{:.0f}')} | "
                     f"{pair(first[1], '{:.0f}')} | {pair(each[0])} | {pair(each[1])} |")
    prefixes = [r["prefix"] for r in results["rounds"] if "prefix" in r]
    if prefixes:
        lines += ["", f"Time to the first token of {results['prefix_tokens']} tokens, one request at a time, p50:", "",
                  "| | nothing known | all but 256 known | found in the cache |", "|---|---|---|---|"]
        for side in ("ours", "theirs"):
            cells = [pair([p[side][kind]["results"][0]["ttft_ms"]["p50"] for p in prefixes], "{:.0f} ms") for kind in ("miss", "hit")]
            found = [p[side]["hit"]["results"][0] for p in prefixes]
            share = [100 * r["cached_tokens"] / max(1, r["prompt_tokens"]) for r in found]
            lines.append(f"| {side.replace('theirs', 'llama.cpp')} | {' | '.join(cells)} | {pair(share, '{:.0f} %')} of the prompt |")
    wrong = [f"{side}: {text}" for r in rounds for side, run in r.items() for text in failures(run)]
    if wrong:
        lines += ["", "Failed: " + "; ".join(wrong) + "."]
    return "\n".join(lines) + "\n"


def measure(options, models):
    results = {"layers": options.layers, "threads": options.threads, "batches": options.batches, "input_tokens": options.input_tokens,
               "output_tokens": options.output_tokens, "waves": options.waves, "prefix_tokens": options.prefix_tokens, "rounds": []}
    kinds = {"throughput": throughput, "prefix": first_tokens}
    for i in range(options.rounds):
        results["rounds"].append({})
        for side, server_kind in (("ours", Ours), ("theirs", Theirs)):
            peer.say(f"round {i + 1} of {options.rounds}: {side}")
            with server_kind(options, models[side]) as server:
                for kind in options.measure:
                    results["rounds"][-1].setdefault(kind, {})[side] = kinds[kind](options, server)
                    (options.out / "serve_llama.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", default=str(peer.ROOT / "build/release/bin/paceline"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="of llama.cpp's build")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batches", default="1,2,4,8,16,32", help="comma separated")
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--prefix-tokens", type=int, default=1280, help="of the prompts whose prefix is known")
    parser.add_argument("--waves", type=int, default=2, help="requests per place in the batch")
    parser.add_argument("--measure", default="throughput,prefix", help="comma separated")
    parser.add_argument("--rounds", type=int, default=1, help="pairs")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/paceline-llama"), help="where the models go")
    parser.add_argument("--keep", action="store_true", help="leave the models there")
    parser.add_argument("--prepare", action="store_true", help="build and write what is needed, measure nothing")
    parser.add_argument("--out", type=pathlib.Path, default=peer.ROOT / "build/serve_llama")
    parser.add_argument("flags", nargs="*", help="behind --: further flags of our server, as --activations int8")
    options = parser.parse_args()
    options.batches = [int(word) for word in options.batches.split(",")]
    options.measure = options.measure.split(",")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # a server that was started is ended
    engine = peer.LlamaCpp().prepare(options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    models = {"ours": options.work / f"serve-{options.layers}", "theirs": options.work / f"serve-{options.layers}.gguf"}
    peer.say(f"writing {models['ours']} and {models['theirs']}")
    # Ours keeps the tokenizer of `synth`: the HTTP API speaks text.
    peer.call(options.binary, "synth", models["ours"], "--like", peer.SHAPE, "--layers", options.layers, stderr=subprocess.DEVNULL)
    engine.write_model(models["theirs"], options.layers, False)
    if options.prepare:
        return
    try:
        results = measure(options, models)
    finally:
        if not options.keep:
            shutil.rmtree(models["ours"])
            models["theirs"].unlink()
    text = report(results)
    (options.out / "serve_llama.md").write_text(text)
    print(text)
    if "throughput" in results["rounds"][0]:
        try:
            serve_plot.plot({"paceline" if side == "ours" else "llama.cpp": run
                             for side, run in results["rounds"][0]["throughput"].items()}, options.out / "serve_llama.png")
        except ImportError:
            peer.say("no plot: matplotlib is not installed")


if __name__ == "__main__":
    main()
