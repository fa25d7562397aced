#!/usr/bin/env python3
"""Draws what `paceline bench serve --json` wrote: throughput and latency over the load, one line per file.

    build/release/bin/paceline bench serve --url http://127.0.0.1:8000 --concurrency 1,2,4,8,16,32 --json > ours.json
    build/venv/bin/python3 bench/serve_plot.py serve.png ours=ours.json theirs=theirs.json

A file without a name before the = takes its own. matplotlib: build/venv/bin/python3 -m pip install -r bench/requirements.txt
"""
import argparse
import json
import pathlib
import sys

# (title, unit, of one result); a value of None leaves a point out.
PANELS = [
    ("throughput", "output tokens per second", lambda r: r["output_tokens_per_second"]),
    ("time to first chunk, p50 and p99", "ms", lambda r: percentiles(r["ttft_ms"])),
    ("time per output token, p50 and p99", "ms", lambda r: percentiles(r["tpot_ms"])),
]


def percentiles(spread):
    return (spread["p50"], spread["p99"]) if spread else None


def load_of(result):
    return result["concurrency"] if result["mode"] == "closed" else result["rate"]


def plot(runs, file):
    """`runs`: name -> what bench serve wrote."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(5.2 * len(PANELS), 4))
    modes = {result["mode"] for run in runs.values() for result in run["results"]}
    for axis, (title, unit, value) in zip(axes, PANELS):
        for i, (name, run) in enumerate(runs.items()):
            points = [(load_of(r), value(r)) for r in run["results"] if value(r) is not None]
            x = [load for load, _ in points]
            if points and isinstance(points[0][1], tuple):
                axis.plot(x, [y for _, (y, _) in points], marker="o", markersize=3, color=f"C{i}", label=name)
                axis.plot(x, [y for _, (_, y) in points], "--", color=f"C{i}", linewidth=1)
            else:
                axis.plot(x, [y for _, y in points], marker="o", markersize=3, color=f"C{i}", label=name)
        loads = sorted({load_of(r) for run in runs.values() for r in run["results"]})
        if len(loads) > 1:
            axis.set_xscale("log", base=2)
        axis.set_xticks(loads, [f"{load:g}" for load in loads])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_title(title)
        axis.set_xlabel("requests at once" if modes == {"closed"} else "arrivals per second" if modes == {"open"} else "load")
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=pathlib.Path, help="PNG to write")
    parser.add_argument("runs", nargs="+", metavar="[NAME=]FILE")
    options = parser.parse_args()
    runs = {}
    for word in options.runs:
        name, _, file = word.rpartition("=")
        runs[name or pathlib.Path(file).stem] = json.loads(pathlib.Path(file).read_text())
    try:
        plot(runs, options.out)
    except ImportError:
        sys.exit("matplotlib is missing: build/venv/bin/python3 -m pip install -r bench/requirements.txt, and run this with "
                 "build/venv/bin/python3")


if __name__ == "__main__":
    main()
